"""New commits of audit, judged on their own before a server takes them: who wrote them, and what they touch.

Rules kept: the cost follows what is pushed, not the whole of audit; every new commit is signed by a machine
of the policy it was made under that is one of the policy in force too, comes from the tip before along first
parents, names the revision of main that it took in and no other, holds main's own tree beside status/ and
records/, and rewrites no record. That each record is true is proved by `capsule audit verify`, from the root.
Called by pushes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capsule.documents.paths import MACHINE_FOLDERS, RECORDS, SERVICES, STATUS, service_name
from capsule.documents.types import Policy
from capsule.trust import objects
from capsule.trust.key_validity import Seen, committed_at, policy_at
from capsule.trust.mainline import advance, judge
from capsule.trust.objects import CommitInfo, ObjectReader, TreeEntry
from capsule.trust.policy import is_machine, signer_of
from capsule.trust.state import MainState
from capsule.trust.story import check_author
from capsule_agent.protocol import sshsig

_OBSERVED = "Capsule-Revision"


class Untaken(ValueError):
    """A commit that audit must not get. `reason` is one of those of audit and story."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Mainline:
    """Main as audit may take it in: its place of every commit along first parents (the root has 0), and the
    policy in force at its tip, now. `seen` tells when steps were taken in, those of this push as well."""

    root: str
    positions: Mapping[str, int]
    policy: Policy
    seen: Seen | None = None


def check_new_commits(reader: ObjectReader, main: Mainline, before: str | None, steps: Sequence[str]) -> None:
    """Check `steps` (oldest first), the first parents on top of `before`; None begins audit at the root.

    Raises Untaken, BadStory, BadObject, MissingObject.
    """
    base = before or main.root
    walk = _Walk(reader, main, judge(reader, main.root, _observed(reader, main, base), seen=main.seen))
    walk.begin_at(base)
    for commit in steps:
        walk.step(commit)


def _observed(reader: ObjectReader, main: Mainline, tip: str) -> str:
    """The revision of main that audit had taken in at `tip`: as its trailer says, else as its parents do."""
    info = objects.read_commit(reader, tip)
    named = info.trailers.get(_OBSERVED, ())
    if len(named) == 1 and named[0] in main.positions:
        return named[0]
    while tip != main.root:
        parents = objects.parents_of(objects.raw_commit(reader, tip))
        points = [each for each in parents[1:] if each in main.positions]
        if points or not parents:
            return points[0] if points else main.root
        tip = parents[0]
    return main.root


class _Walk:
    """The check on its way: main as taken in so far, and the machine's folders so far."""

    def __init__(self, reader: ObjectReader, main: Mainline, state: MainState) -> None:
        self._reader = reader
        self._main = main
        self._state = state
        self._machine: dict[str, TreeEntry] = {}

    def begin_at(self, tip: str) -> None:
        """Take the machine's folders as they are at `tip`."""
        self._machine = self._machine_of(self._top(tip))

    def step(self, commit: str) -> None:
        """Check one commit on top of the one before."""
        info = objects.read_commit(self._reader, commit)
        before = self._state.policy.document
        taken_in = self._take_in_main(info)
        check_author(info, self._signer(info, before))
        self._check_observed(info)
        entries = {each.name: each for each in objects.entries(self._reader, info.tree)}
        self._check_people(entries)
        if not self._check_machine(entries) and not taken_in:
            raise Untaken("EmptyCommit", "neither status, nor records, nor main changed")
        self._machine = self._machine_of(entries)

    def _take_in_main(self, info: CommitInfo) -> bool:
        """Judge main up to the point that this commit takes in; whether it takes in anything at all."""
        points = [each for each in info.parents[1:] if each in self._main.positions]
        if not points:
            return len(info.parents) > 1
        at = self._main.positions[self._state.tip]
        if len(points) > 1 or self._main.positions[points[0]] <= at:
            raise Untaken("MainPointNotRising", f"takes in {points[0]}, which is not ahead")
        self._state = advance(self._reader, self._state, points[0])
        if self._state.tip != points[0]:
            raise Untaken("MainNotTakenOver", f"takes in {points[0]}, which main must mend first")
        return True

    def _check_observed(self, info: CommitInfo) -> None:
        """The revision that the commit names is the one it stands on: the next push begins there."""
        wrong = set(info.trailers.get(_OBSERVED, ())) - {self._state.tip}
        if wrong:
            raise Untaken("TrailerMismatch", f"{_OBSERVED} says {min(wrong)[:80]}, main is {self._state.tip}")

    def _signer(self, info: CommitInfo, before: Policy) -> str:
        """The machine that signed, then and now: one that was removed since writes no more."""
        if info.signature is None:
            raise Untaken("AuditUnsigned", "the commit carries no signature")
        at = committed_at(info)
        known = policy_at(self._state.policy.document, at), policy_at(before, at)
        then = self._named(info, info.signature, known)
        now = self._named(info, info.signature, (self._main.policy,))
        if then != now:
            raise Untaken("AuditBadSignature", f"signed by the key of {then}, which is that of {now} now")
        return now

    def _named(self, info: CommitInfo, signature: str, policies: Sequence[Policy]) -> str:
        error = ""
        for policy in policies:
            try:
                signer = signer_of(policy, info.signed_payload, signature, sshsig.COMMIT)
            except sshsig.BadSignature as found:
                error = str(found)
                continue
            if not is_machine(policy, signer):
                raise Untaken("AuditByPerson", f"signed by {signer}, who is a person")
            return signer
        raise Untaken("AuditBadSignature", f"no machine of the policy signed it: {error}")

    def _check_people(self, entries: Mapping[str, TreeEntry]) -> None:
        expected = self._top(self._state.tip)
        people = {name: entry for name, entry in entries.items() if name not in MACHINE_FOLDERS}
        differing = sorted(
            name for name in people.keys() | expected.keys() if people.get(name) != expected.get(name)
        )
        if differing:
            names = ", ".join(differing[:5])
            raise Untaken("ForeignTree", f"{names} differ from main at {self._state.tip}")

    def _check_machine(self, entries: Mapping[str, TreeEntry]) -> bool:
        """Whether status or records changed, as a machine may change them."""
        changed = False
        for change in self._differing(entries, STATUS):
            if service_name(SERVICES + change.path.removeprefix(STATUS)) is None:
                raise Untaken("StatusMisplaced", f"{change.path} is no status")
            changed = True
        for change in self._differing(entries, RECORDS):
            if change.old is not None:
                reason = "RecordChanged" if change.new else "RecordDeleted"
                raise Untaken(reason, f"{change.path} is on record already, and records stay as they are")
            changed = True
        return changed

    def _differing(self, entries: Mapping[str, TreeEntry], name: str) -> Iterator[objects.Change]:
        old, new = self._machine.get(name), entries.get(name)
        if new is not None and not new.is_folder:
            raise Untaken("ForeignTree", f"{name} is not a folder")
        return objects.changes(self._reader, old.oid if old else None, new.oid if new else None, name)

    def _top(self, commit: str) -> dict[str, TreeEntry]:
        tree = objects.tree_of(objects.raw_commit(self._reader, commit))
        return {each.name: each for each in objects.entries(self._reader, tree)}

    def _machine_of(self, entries: Mapping[str, TreeEntry]) -> dict[str, TreeEntry]:
        return {name: entries[name] for name in MACHINE_FOLDERS if name in entries}
