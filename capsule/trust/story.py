"""What a commit of audit tells people: its message and its authors, compared with the records it adds.

Rules kept: a message is one subject and one block of known trailers, so that every tool reads it alike; the
subject tells of a record of this very commit; the author is the machine that signed. Called by records.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from capsule.documents.paths import service_name
from capsule.documents.types import (
    Attestation,
    ChangeAttestation,
    Claim,
    Refusal,
    Result,
    StateOrder,
    StateResult,
)
from capsule.trust.objects import CommitInfo

REASONS: dict[str, str] = {
    "TrailerMismatch": "The trailers of a commit say something else than its records.",
    "SubjectMismatch": "The subject of a commit says something else than its records.",
    "AuthorMismatch": "A commit on audit names another author than the machine that signed it.",
    "TimeMismatch": "A record names another day than the commit that brought it.",
}

MAX_CLOCK_SECONDS = 24 * 3600
TRAILERS = frozenset(
    {
        "Capsule-Request",
        "Capsule-Service",
        "Capsule-Action",
        "Capsule-Outcome",
        "Capsule-Reason",
        "Capsule-Evidence",
        "Requested-by",
        "Approved-by",
        "Capsule-Revision",
    }
)

_LINE = re.compile(r"([A-Z][A-Za-z-]*): ([!-~]+)")
_MORE = re.compile(r"(.*) \(\+[1-9][0-9]{0,5} more\)")
_STATUS = re.compile(r"(?:status|drift|health) ([a-z0-9-]+): .*")
_STATUSES = re.compile(r"status of ([0-9]+) services: .*")
_COUNT = re.compile(r"([1-9][0-9]{0,8}) ([A-Za-z0-9]+)")
_Words = tuple[str, str, str]


class BadStory(ValueError):
    """A commit that tells something else than it holds. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Said:
    """What the records of one commit say, for its message to be compared with."""

    requests: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    actions: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    evidence: set[str] = field(default_factory=set)
    requesters: set[str] = field(default_factory=set)
    approvers: set[str] = field(default_factory=set)
    claimed: list[_Words] = field(default_factory=list)
    ended: list[_Words] = field(default_factory=list)
    ordered: list[_Words] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    """Services of desired-state orders and their results: no request names these, so each is named itself."""
    refused: set[str] = field(default_factory=set)
    attested: set[str] = field(default_factory=set)

    def claim(self, claim: Claim) -> None:
        """A claim of this commit."""
        self.claimed.append((claim.spec.action, claim.spec.service, "claimed"))
        self._operation(claim)

    def result(self, claim: Claim, result: Result) -> None:
        """A result of this commit, and the claim it ends."""
        spec = result.spec
        self.ended.append((spec.action, spec.service, spec.outcome))
        self.outcomes.add(spec.outcome)
        self.reasons.add(spec.reason)
        self._operation(claim)

    def refusal(self, refusal: Refusal) -> None:
        """A refusal of this commit."""
        spec = refusal.spec
        self.requests.add(spec.request)
        self.outcomes.add(spec.phase)
        self.reasons.add(spec.reason)
        self.refused.add(f"{spec.request}: {spec.phase} ({spec.reason})")

    def attestation(self, told: Attestation) -> None:
        """An attestation of this commit."""
        spec = told.spec
        self.requests.add(spec.request)
        self.evidence.add("forge")
        self.attested.add(f"{spec.request}: reviews of {spec.forge} pull request {spec.number} recorded")

    def change_attestation(self, told: ChangeAttestation) -> None:
        """An attestation of changes of this commit."""
        spec = told.spec
        self.services.update(filter(None, map(service_name, spec.paths)))
        self.evidence.add("forge")
        self.attested.add(f"change by {spec.forge} pull request {spec.number}: reviews recorded")

    def state_order(self, order: StateOrder) -> None:
        """A desired-state order of this commit."""
        spec = order.spec
        self.ordered.append((spec.action, spec.service, "ordered"))
        self._told(spec.service, spec.action)

    def state_result(self, result: StateResult) -> None:
        """A result of a desired-state order of this commit."""
        spec = result.spec
        self.ended.append((spec.action, spec.service, spec.outcome))
        self.outcomes.add(spec.outcome)
        self.reasons.add(spec.reason)
        self._told(spec.service, spec.action)

    @property
    def nothing(self) -> bool:
        """Whether the commit holds no record."""
        return not (self.requests or self.told or self.attested)

    def _told(self, service: str, action: str) -> None:
        self.told.add(service)
        self.services.add(service)
        self.actions.add(action)

    def _operation(self, claim: Claim) -> None:
        spec = claim.spec
        self.requests.add(spec.request)
        self.services.add(spec.service)
        self.actions.add(spec.action)
        self.evidence.add(spec.evidence)
        self.requesters.add(spec.requested_by)
        self.approvers.update(spec.approved_by)


def check_author(info: CommitInfo, signer: str) -> None:
    """Author and committer are the machine that signed. Raises BadStory."""
    for who in (info.author, info.committer):
        if (who.name, who.email) != (signer, f"{signer}@reconciler.invalid"):
            raise BadStory("AuthorMismatch", f"names {who.name[:80]!r}, was signed by {signer}")


def check_time(what: str, at: datetime, info: CommitInfo) -> None:
    """A record was made about when its commit was. Raises BadStory."""
    if abs(at.timestamp() - info.committer.at) > MAX_CLOCK_SECONDS:
        raise BadStory("TimeMismatch", f"{what} is {at.isoformat()}, more than a day from the commit's time")


def check_not_later(what: str, at: datetime, info: CommitInfo) -> None:
    """A record was made before its commit: facts wait in a spool while there is no repository. Raises
    BadStory."""
    if at.timestamp() - info.committer.at > MAX_CLOCK_SECONDS:
        raise BadStory("TimeMismatch", f"{what} is {at.isoformat()}, more than a day after the commit's time")


def check_story(info: CommitInfo, said: Said, statuses: Collection[str], revision: str) -> None:
    """The message tells what the commit holds: all its requests, all services of its desired-state orders,
    and nothing else. Raises BadStory."""
    subject, named = _read(info.message)
    if named.get("Capsule-Request", set()) != said.requests:
        raise BadStory("TrailerMismatch", f"Capsule-Request names {sorted(named.get('Capsule-Request', ()))}")
    silent = said.told - named.get("Capsule-Service", set())
    if silent:
        raise BadStory("TrailerMismatch", f"Capsule-Service does not name {min(silent)}")
    for name, allowed in (
        ("Capsule-Service", said.services | set(statuses)),
        ("Capsule-Action", said.actions),
        ("Capsule-Outcome", said.outcomes),
        ("Capsule-Reason", said.reasons),
        ("Capsule-Evidence", said.evidence),
        ("Requested-by", said.requesters),
        ("Approved-by", said.approvers),
        ("Capsule-Revision", {revision}),
    ):
        wrong = named.get(name, set()) - allowed
        if wrong:
            raise BadStory("TrailerMismatch", f"{name} says {min(wrong)!r}, the records do not")
    if not _tells(subject, said, statuses, revision):
        raise BadStory("SubjectMismatch", f"{subject[:120]!r} is not what the commit holds")


def _read(message: str) -> tuple[str, dict[str, set[str]]]:
    """Subject and trailers of a message of exactly that form."""
    subject, _, block = message.partition("\n\n")
    if "\n" in subject or not block.endswith("\n"):
        raise BadStory("TrailerMismatch", "expected one line, an empty one, and trailers")
    named: dict[str, set[str]] = {}
    for line in block[:-1].split("\n"):
        match = _LINE.fullmatch(line)
        if not match or match[1] not in TRAILERS:
            raise BadStory("TrailerMismatch", f"{line[:80]!r} is no trailer that a reconciler writes")
        named.setdefault(match[1], set()).add(match[2])
    return subject, named


def _tells(subject: str, said: Said, statuses: Collection[str], revision: str) -> bool:
    """Whether the subject is one that a record of the commit gives."""
    if said.nothing:
        return _tells_status(subject, statuses) if statuses else subject == f"take in main {revision[:12]}"
    more = _MORE.fullmatch(subject)
    text = more[1] if more else subject
    if said.refused:
        return text in said.refused
    if text in said.attested:
        alone = len(said.attested) == 1 and not (said.claimed or said.ended or said.ordered)
        return alone or more is not None
    return any(
        _tells_words(text, words, whole=not more) for words in (said.claimed, said.ended, said.ordered)
    )


def _tells_status(subject: str, statuses: Collection[str]) -> bool:
    one, many = _STATUS.fullmatch(subject), _STATUSES.fullmatch(subject)
    if many:
        return int(many[1]) == len(statuses) > 1
    return one is not None and set(statuses) == {one[1]}


def _tells_words(text: str, words: list[_Words], *, whole: bool) -> bool:
    """Whether `text` counts these words, or (unless `whole`) some of them."""
    if any(text == f"{action} {service}: {outcome}" for action, service, outcome in words):
        return not whole or len(words) == 1
    held = Counter((action, outcome) for action, _, outcome in words)
    told: Counter[tuple[str, str]] = Counter()
    for part in text.split("; "):
        action, _, counts = part.partition(": ")
        for each in counts.split(", "):
            match = _COUNT.fullmatch(each)
            if not match:
                return False
            told[action, match[2]] += int(match[1])
    return told == held if whole else told <= held
