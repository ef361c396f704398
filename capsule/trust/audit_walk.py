"""The proof of audit on its way, one commit after another: who signed, what is taken in, what is added.

Rules kept: main is judged up to each revision that audit takes in, and by what was recorded of reviews so
far; what a commit records is judged by the state it was made under; only the machine's folders change, and
records are only ever added. A commit tells the time for main only if a machine of the policy before it signed
it, and never one before the latest that was told. What is kept between two proofs is this. Called by audit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from capsule.documents.paths import MACHINE_FOLDERS, RECORDS, SERVICES, STATUS, service_name
from capsule.documents.types import Policy
from capsule.trust import objects
from capsule.trust.audit_chain import Chain
from capsule.trust.hearing import hear
from capsule.trust.key_validity import committed_at, policy_at
from capsule.trust.mainline import advance
from capsule.trust.objects import CommitInfo, ObjectReader, TreeEntry
from capsule.trust.policy import holder_of, is_machine, signer_of
from capsule.trust.records import Batch, RecordJudge
from capsule.trust.state import MainState
from capsule.trust.told_changes import Told
from capsule_agent.protocol import sshsig


class BadStep(Exception):
    """A commit of audit that does not hold. `reason` is one of those of audit."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SeenOnWay:
    """When audit took in the steps of main, as the verification comes by; now is the time of the commit that
    is looked at, and None as long as nobody may tell it."""

    def __init__(self, positions: Mapping[bytes, int]) -> None:
        self.now: datetime | None = None
        self.told: Told | None = None
        self._positions = positions
        self._points: list[int] = []
        self._times: list[datetime | None] = []

    def go_on_along(self, positions: Mapping[bytes, int]) -> None:
        """Main has grown since: steps behind the last point have their places as well."""
        self._positions = positions

    def take_in(self, position: int) -> None:
        """Note that main up to there is taken in now."""
        self._points.append(position)
        self._times.append(self.now)

    def tell(self, now: datetime) -> None:
        """It is so late, as is certain now: so it was for what was taken in while nobody told the time."""
        self.now = now
        if self._times and self._times[-1] is None:
            self._times[-1] = now

    def of(self, step: str) -> datetime | None:
        at = bisect_left(self._points, self._positions.get(bytes.fromhex(step), 0))
        return self._times[at] if at < len(self._times) else None


class _Named(NamedTuple):
    """Whose signature one is under a policy; nobody's has no name, and says why."""

    policy: Policy
    name: str
    error: str = ""


class Walk:
    """The verification on its way: main as judged so far, and the tree of audit so far."""

    def __init__(
        self,
        reader: ObjectReader,
        state: MainState,
        main: Chain,
        signed_with: Callable[[str], sshsig.PublicKey | None] | None,
    ) -> None:
        self._reader = reader
        self._signed_with = signed_with or (lambda _: None)
        self._positions = main.positions()
        self._at = 0
        self._seen = SeenOnWay(self._positions)
        self._latest = datetime.fromtimestamp(0, UTC)
        self._machine: dict[str, TreeEntry] = {}
        self._top: tuple[str, dict[str, TreeEntry]] = ("", {})
        self.state = replace(state, seen=self._seen)
        self.records = RecordJudge(reader, state.root)

    @property
    def policy(self) -> Policy:
        """The policy in force, with the keys that speak at the latest time that audit tells so far."""
        return policy_at(self.state.policy.document, self._latest)

    def resumed(self, anew: Walk) -> Walk:
        """This walk, to go on along the main branch of `anew`."""
        self._positions, self._signed_with = anew._positions, anew._signed_with
        self._seen.go_on_along(self._positions)
        return self

    def __getstate__(self) -> dict[str, object]:
        """All but what is made anew each time."""
        return {**self.__dict__, "_positions": {}, "_signed_with": None}

    def is_on_main(self, commit: str) -> bool:
        """Whether the commit is the root or one of main's first parents."""
        return commit == self.state.root or bytes.fromhex(commit) in self._positions

    def step(self, commit: str) -> None:
        """Prove one commit. Raises BadStep, BadRecord, BadObject."""
        info = objects.read_commit(self._reader, commit)
        before = self.state
        told = max(self._latest, committed_at(info))
        known = self._named(commit, info, before, told)
        # Who is a machine only by what this very commit takes in tells no time for that: dated keys let in
        # nothing by the word of whom they let in.
        self._seen.now = told if is_machine(known.policy, known.name) else None
        branches = self._take_in_main(info)
        signer = self._signer(commit, info, known, before, told)
        self._latest = told
        self._seen.tell(told)
        entries = self._entries(info)
        status, added = self._changed(entries)
        if not status and not added and len(info.parents) == 1:
            raise BadStep("EmptyCommit", "neither status, nor records, nor main changed")
        batch = Batch(
            state=self.state,
            revision=self.state.tip,
            signer=signer,
            branches=branches,
            before=_oid(self._machine.get(RECORDS)),
            added=added,
            services=status,
            info=info,
        )
        for attested in self.records.judge(batch):
            self.state = hear(self._reader, self.state, attested)
        self._machine = {name: entries[name] for name in MACHINE_FOLDERS if name in entries}

    def _take_in_main(self, info: CommitInfo) -> tuple[str, ...]:
        """Judge main up to the point that this commit takes in; the other parents are request branches."""
        points = [each for each in info.parents[1:] if bytes.fromhex(each) in self._positions]
        branches = tuple(each for each in info.parents[1:] if each not in points)
        if self.state.root in branches or len(points) > 1:
            raise BadStep("MainPointNotRising", "takes in several points of main, or its first commit again")
        if points:
            at = self._positions[bytes.fromhex(points[0])]
            if at <= self._at:
                raise BadStep("MainPointNotRising", f"takes in {points[0]} again")
            self._at = at
            self._seen.take_in(at)
            self.state = advance(self._reader, self.state, points[0])
            if self.state.tip != points[0]:
                reason = self.state.suspended.message if self.state.suspended else ""
                raise BadStep("MainNotTakenOver", f"takes in {points[0]}: {reason}")
        return branches

    def _signer(self, commit: str, info: CommitInfo, known: _Named, before: MainState, told: datetime) -> str:
        """The machine that signed: `known`, of the policy before, or one of the policy that this very commit
        takes in.

        A key that ended speaks for no commit behind one of a later time, whatever time that commit says.
        """
        changed = self.state.policy is not before.policy
        for named in (self._named(commit, info, self.state, told) if changed else known, known):
            if named.name:
                if not is_machine(named.policy, named.name):
                    raise BadStep("AuditByPerson", f"signed by {named.name}")
                return named.name
        raise BadStep("AuditBadSignature", known.error)

    def _named(self, commit: str, info: CommitInfo, state: MainState, told: datetime) -> _Named:
        """Whose signature it is under the policy of `state`, as it was at that time. Raises BadStep."""
        if info.signature is None:
            raise BadStep("AuditUnsigned", "the commit carries no signature")
        policy, key = policy_at(state.policy.document, told), self._signed_with(commit)
        try:
            name = holder_of(policy, key) if key else None
            name = name or signer_of(policy, info.signed_payload, info.signature, sshsig.COMMIT)
            return _Named(policy, name)
        except sshsig.BadSignature as error:
            return _Named(policy, "", str(error))

    def _entries(self, info: CommitInfo) -> dict[str, TreeEntry]:
        """The top of the tree, which but for the machine's folders must be that of main."""
        found = {entry.name: entry for entry in objects.entries(self._reader, info.tree)}
        expected = self._main_entries()
        people = {name: entry for name, entry in found.items() if name not in MACHINE_FOLDERS}
        if people != expected:
            names = sorted(
                name for name in people.keys() | expected.keys() if people.get(name) != expected.get(name)
            )
            strangers = [each for each in info.parents[1:] if bytes.fromhex(each) not in self._positions]
            if strangers:
                raise BadStep("MainPointUnknown", f"its tree is of {strangers[0]}, which is not on main")
            raise BadStep("ForeignTree", f"{', '.join(names[:5])} differ from main at {self.state.tip}")
        return found

    def _main_entries(self) -> dict[str, TreeEntry]:
        """The top of main's tree at the revision observed, read once for each."""
        if self._top[0] != self.state.tip:
            tree = objects.tree_of(objects.raw_commit(self._reader, self.state.tip))
            self._top = self.state.tip, {each.name: each for each in objects.entries(self._reader, tree)}
        return self._top[1]

    def _changed(self, entries: dict[str, TreeEntry]) -> tuple[set[str], dict[str, str]]:
        """Names of services whose status changed, and the records that were added (path to blob id)."""
        status: set[str] = set()
        for change in self._differing(entries, STATUS):
            name = service_name(SERVICES + change.path.removeprefix(STATUS))
            if name is None:
                raise BadStep("StatusMisplaced", f"{change.path} is no status")
            status.add(name)
        added: dict[str, str] = {}
        for change in self._differing(entries, RECORDS):
            if change.new is None:
                raise BadStep("RecordDeleted", f"{change.path} is gone")
            if change.old is not None:
                raise BadStep("RecordChanged", f"{change.path} was rewritten")
            added[change.path] = change.new.oid
        return status, added

    def _differing(self, entries: dict[str, TreeEntry], name: str) -> Iterator[objects.Change]:
        old, new = self._machine.get(name), entries.get(name)
        if new is not None and not new.is_folder:
            raise BadStep("ForeignTree", f"{name} is not a folder")
        return objects.changes(self._reader, _oid(old), _oid(new), name)


def _oid(entry: TreeEntry | None) -> str | None:
    return entry.oid if entry else None


@dataclass(frozen=True, slots=True)
class Proved:
    """A proof up to `commit`, the commit number `count` of audit, to go on from. `walk` is nobody else's."""

    root: str
    commit: str
    count: int
    walk: Walk
    reader: ObjectReader

    def is_of(self, root: str, chain: Chain, anew: Walk) -> bool:
        """Whether audit still holds the commit at its place, and main what was observed there."""
        held = chain.at(self.count) == self.commit and anew.is_on_main(self.walk.state.tip)
        return self.root == root and held
