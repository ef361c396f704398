"""Under which keys the signatures of one request are judged: those that spoke when each signature arrived.

Rules kept: a signature on main arrived with the step that brought the bytes of its own file; one on a branch,
or that audit has not taken in yet, is seen now. Called by one_request.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.types import Policy
from capsule.trust.approvals import ApprovalFiles, ApprovalSubject
from capsule.trust.arrivals import Arrivals
from capsule.trust.key_validity import Seen, is_timed, policy_at


@dataclass(slots=True)
class ArrivedKeys:
    """The policy in force, with the keys that spoke when something arrived.

    `arrivals` is None for a request on a branch. `fleeting` says afterwards whether the time of now was used,
    `asked` of which files, by path and blob id, the arrival was.
    """

    policy: Policy
    seen: Seen | None
    arrivals: Arrivals | None
    revision: str
    fleeting: bool = False
    asked: dict[tuple[str, str], None] = field(default_factory=dict)

    def of_file(self, path: str, blob: str) -> Policy:
        """When the bytes `blob` came to `path` on main. Raises MissingObject."""
        if not is_timed(self.policy):
            return self.policy
        return self._at(self._arrival(path, blob))

    def of_step(self, step: str | None) -> Policy:
        """When the step came to main; None for a step that nobody knows."""
        if not is_timed(self.policy):
            return self.policy
        return self._at(self.seen.of(step) if self.seen and step else None)

    def subject(self, subject: ApprovalSubject, folder: str, files: ApprovalFiles) -> ApprovalSubject:
        """What an approval must be about, under the keys of its time."""
        path = f"{folder}/approvals/{files.principal}.json.sig"
        return replace(subject, policy=self.of_file(path, files.seal))

    def _arrival(self, path: str, blob: str) -> datetime | None:
        step = self.step_of(path, blob) if self.seen else None
        return self.seen.of(step) if self.seen and step else None

    def step_of(self, path: str, blob: str) -> str | None:
        """The step that brought the bytes `blob` to `path` on main. Raises MissingObject."""
        if self.arrivals is None:
            return None
        self.asked[path, blob] = None
        return self.arrivals.of(self.revision, path, blob)

    def _at(self, at: datetime | None) -> Policy:
        if at is None and self.seen:
            self.fleeting, at = True, self.seen.now
        return policy_at(self.policy, at)
