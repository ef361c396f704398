"""The audit branch proved from its bytes: every step, every signature, every record, offline.

Rules kept: nothing is believed that the reconciler says of itself; main is judged again up to each revision
that audit took in, so that every operation is judged by the policy of its day; records are only ever
added; the first commit that does not hold is named, and why. Iterative, and memory grows only with the
number of commits (20 bytes each), of requests and services (their names) and of unfinished operations.
Called by `capsule audit verify`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from capsule.documents.paths import MACHINE_FOLDERS, RECORDS, SERVICES, STATUS, service_name
from capsule.documents.types import Policy
from capsule.trust import objects
from capsule.trust.checkpoints import REASONS as _CHECKPOINT_REASONS
from capsule.trust.checkpoints import BadCheckpoint, Checkpoint, Statement
from capsule.trust.key_validity import committed_at, policy_at
from capsule.trust.listings import Listings
from capsule.trust.mainline import BadRoot, advance, begin
from capsule.trust.objects import BadObject, CommitInfo, NotDescended, ObjectReader, TreeEntry
from capsule.trust.policy import CHECKPOINT, holder_of, is_machine, keys_of, signer_of
from capsule.trust.records import REASONS as _RECORD_REASONS
from capsule.trust.records import BadRecord, Batch, RecordJudge
from capsule.trust.state import Finding, MainState
from capsule.trust.story import BadStory
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    **_RECORD_REASONS,
    **_CHECKPOINT_REASONS,
    "AuditRewritten": "The audit branch does not descend from the root: it was replaced or cut.",
    "MainRewritten": "Main does not descend from the root along first parents: it was rewound or replaced.",
    "AuditUnsigned": "A commit on audit carries no signature.",
    "AuditBadSignature": "A commit on audit was not signed, as a commit, by a key of the policy of its day.",
    "AuditByPerson": "A commit on audit was signed by a person. Reconcilers alone write it.",
    "MainPointNotRising": "A commit on audit takes in main at a point that is not behind the one before.",
    "MainNotTakenOver": "A commit on audit takes in a step of main that must never be taken over.",
    "ForeignTree": "Outside of status/ and records/ the tree of a commit on audit is not that of main.",
    "RecordChanged": "A record was rewritten. Records are created once.",
    "RecordDeleted": "A record was deleted. Records stay.",
    "StatusMisplaced": "A file under status/ that is no service's status.",
    "EmptyCommit": "A commit on audit that says nothing new.",
}

PROGRESS_STEP = 256


class Announced(ObjectReader, Protocol):
    """A reader that is told what will be read next, so that it may read ahead. It owes nothing for that."""

    def line(self, tip: str, until: str) -> None:
        """The commits from `tip` back to `until` along first parents, newest first."""
        ...

    def steps(self, chain: bytes) -> None:
        """These commits (20 bytes each) in order, each but the first with all that it changes."""
        ...


@dataclass(frozen=True, slots=True)
class BadCommit:
    """The first commit that does not hold, oldest first."""

    commit: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What a verification proved.

    `commits` counts audit commits proved, `main_steps` those of main, `operations` results proved with
    claim, approvals and receipt; `state_orders` those of desired-state orders proved with document and
    receipt; `unfinished` claims without a result yet. `findings` are what is wrong
    on main at its tip (changes not taken over are exceptions, not lies). `origin_proved` is False when
    nobody pinned the root: then all of it is consistent, but could be another repository's story.
    """

    root: str
    main_tip: str
    audit_tip: str | None
    origin_proved: bool
    commits: int = 0
    main_steps: int = 0
    operations: int = 0
    state_orders: int = 0
    unfinished: int = 0
    first_bad: BadCommit | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no commit is bad."""
        return self.first_bad is None


class _Bad(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def verify_audit(
    reader: ObjectReader,
    root: str,
    main_tip: str,
    audit_tip: str | None,
    *,
    pinned: bool = True,
    progress: Callable[[int, int], None] | None = None,
    ahead: Announced | None = None,
    signed_with: Callable[[str], sshsig.PublicKey | None] | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_key: sshsig.PublicKey | None = None,
    resume: Callable[[ObjectReader], Proved | None] | None = None,
    keep: Callable[[Proved], None] | None = None,
) -> AuditVerdict:
    """Prove both branches from `root` to their tips.

    `pinned` says whether the root's id was obtained elsewhere than from this clone. `progress` is called
    with commits done and commits in all. `ahead` is told what will be read, and is read in place of
    `reader`; `signed_with` names the key that a commit's signature verifies with, where that was found
    already (None where not: then it is looked at here). `checkpoint` must be borne out on the way; then
    origin counts as proved. `checkpoint_key` is who must have signed it, where not a principal of the policy
    in force there. `resume` gives what the caller proved before and kept (with `keep`, called when all
    holds): where audit and main still hold it, what is new is proved alone. Never raises for what the
    commits hold; raises MissingObject.
    """
    blank = AuditVerdict(root, main_tip, audit_tip, pinned or checkpoint is not None)
    reader = Listings(ahead or reader)
    try:
        if ahead and audit_tip:
            ahead.line(audit_tip, root)
        chain = _Chain.of(reader, audit_tip, root)
    except (NotDescended, BadObject) as error:
        return _failed(blank, audit_tip or root, "AuditRewritten", str(error))
    try:
        if ahead:
            ahead.line(main_tip, root)
        main = _Chain.of(reader, main_tip, root)
    except (NotDescended, BadObject) as error:
        return _failed(blank, main_tip, "MainRewritten", str(error))
    try:
        walk = _Walk(reader, begin(reader, root), main, signed_with)
    except BadRoot as error:
        return _failed(blank, root, error.reason, str(error))
    bad = None
    start = 0
    before = resume(reader) if resume else None
    if before and before.is_of(root, chain, walk) and not _lies_before(checkpoint, checkpoint_key, before):
        walk, start = before.walk.resumed(walk), before.count
    if checkpoint:
        try:
            _check_places(checkpoint.statement, root, chain, walk)
            if checkpoint_key:
                _check_seal(checkpoint, (checkpoint_key,))
        except BadCheckpoint as error:
            return _failed(blank, checkpoint.statement.commit, error.reason, str(error))
    if ahead:
        ahead.steps(bytes.fromhex(root if start == 0 else chain.at(start) or root) + chain.packed_from(start))
    done = start
    for commit in chain.oldest_first(start):
        try:
            walk.step(commit)
            if checkpoint and not checkpoint_key and commit == checkpoint.statement.commit:
                _check_seal(checkpoint, keys_of(walk.policy))
        except BadCheckpoint as error:
            return _failed(blank, commit, error.reason, str(error))
        except (_Bad, BadRecord, BadStory, BadObject) as error:
            bad = BadCommit(commit, error.reason, str(error))
            break
        done += 1
        if progress and (done % PROGRESS_STEP == 0 or done == len(chain)):
            progress(done, len(chain))
    if keep and bad is None and done and audit_tip:
        keep(Proved(root, audit_tip, done, walk, reader))
    state = advance(reader, walk.state, main_tip)
    return AuditVerdict(
        root,
        main_tip,
        audit_tip,
        blank.origin_proved,
        commits=done,
        main_steps=len(main),
        operations=walk.records.proved,
        state_orders=walk.records.state_orders,
        unfinished=walk.records.unfinished,
        first_bad=bad,
        findings=state.findings,
    )


def _failed(blank: AuditVerdict, commit: str, reason: str, message: str) -> AuditVerdict:
    return AuditVerdict(
        blank.root,
        blank.main_tip,
        blank.audit_tip,
        blank.origin_proved,
        first_bad=BadCommit(commit, reason, message),
    )


def _check_places(statement: Statement, root: str, chain: _Chain, walk: _Walk) -> None:
    """What a checkpoint names is where it says. Raises BadCheckpoint."""
    if statement.repository != root:
        raise BadCheckpoint("CheckpointOfAnother", f"it is of the repository {statement.repository}")
    found = chain.at(statement.count)
    if found != statement.commit:
        there = (
            f"commit {statement.count} of audit is {found}" if found else f"audit has {len(chain)} commits"
        )
        message = f"expected {statement.commit} at {statement.count}, as on {statement.at:%Y-%m-%d}; {there}"
        raise BadCheckpoint("CheckpointNotOnAudit", message)
    if not walk.is_on_main(statement.main):
        message = f"main had {statement.main} on {statement.at:%Y-%m-%d}, and has it no more"
        raise BadCheckpoint("CheckpointMainRewritten", message)


def _lies_before(checkpoint: Checkpoint | None, key: sshsig.PublicKey | None, proved: Proved) -> bool:
    """Whether the policy that must bear out a checkpoint is one from before what was proved."""
    return checkpoint is not None and key is None and checkpoint.statement.count <= proved.count


def _check_seal(checkpoint: Checkpoint, keys: Collection[sshsig.PublicKey]) -> None:
    try:
        sshsig.verify(checkpoint.signed, checkpoint.signature, CHECKPOINT, keys)
    except sshsig.BadSignature as error:
        raise BadCheckpoint("CheckpointBadSignature", str(error)) from None


class _Chain:
    """First parents from a tip back to the root, 20 bytes a commit."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    @classmethod
    def of(cls, reader: ObjectReader, tip: str | None, root: str) -> _Chain:
        packed = bytearray()
        for oid in objects.first_parents(reader, tip, root) if tip else ():
            packed += bytes.fromhex(oid)
        return cls(bytes(packed))

    def __len__(self) -> int:
        return len(self._packed) // 20

    def oldest_first(self, start: int = 0) -> Iterator[str]:
        """The commits behind the first `start` ones."""
        for at in range(len(self._packed) - 20 * (start + 1), -1, -20):
            yield self._packed[at : at + 20].hex()

    def at(self, number: int) -> str | None:
        """The commit of that number, counted from 1 behind the root; None when there are fewer."""
        end = len(self._packed) - 20 * (number - 1)
        return self._packed[end - 20 : end].hex() if 0 < number <= len(self) else None

    def packed_from(self, start: int) -> bytes:
        """The ids behind the first `start` ones, 20 bytes each."""
        return b"".join(map(bytes.fromhex, self.oldest_first(start)))

    def positions(self) -> dict[bytes, int]:
        """Every commit with its place, counted from the root."""
        return {bytes.fromhex(oid): at for at, oid in enumerate(self.oldest_first(), 1)}


class _SeenOnWay:
    """When audit took in the steps of main, as the verification comes by; now is the time of the commit that
    is looked at."""

    def __init__(self, positions: Mapping[bytes, int]) -> None:
        self.now: datetime | None = None
        self._positions = positions
        self._points: list[int] = []
        self._times: list[datetime | None] = []

    def take_in(self, position: int) -> None:
        """Note that main up to there is taken in now."""
        self._points.append(position)
        self._times.append(self.now)

    def of(self, step: str) -> datetime | None:
        at = bisect_left(self._points, self._positions.get(bytes.fromhex(step), 0))
        return self._times[at] if at < len(self._times) else None


class _Walk:
    """The verification on its way: main as judged so far, and the tree of audit so far."""

    def __init__(
        self,
        reader: ObjectReader,
        state: MainState,
        main: _Chain,
        signed_with: Callable[[str], sshsig.PublicKey | None] | None,
    ) -> None:
        self._reader = reader
        self._signed_with = signed_with or (lambda _: None)
        self._positions = main.positions()
        self._at = 0
        self._seen = _SeenOnWay(self._positions)
        self._latest = datetime.fromtimestamp(0, UTC)
        self._machine: dict[str, TreeEntry] = {}
        self._top: tuple[str, dict[str, TreeEntry]] = ("", {})
        self.state = replace(state, seen=self._seen)
        self.records = RecordJudge(reader, state.root)

    @property
    def policy(self) -> Policy:
        """The policy in force, with the keys that speak at the latest time that audit tells so far."""
        return policy_at(self.state.policy.document, self._latest)

    def resumed(self, anew: _Walk) -> _Walk:
        """This walk, to go on along the main branch of `anew`."""
        self._positions, self._signed_with = anew._positions, anew._signed_with
        return self

    def __getstate__(self) -> dict[str, object]:
        """All but what is made anew each time."""
        return {**self.__dict__, "_positions": {}, "_signed_with": None}

    def is_on_main(self, commit: str) -> bool:
        """Whether the commit is the root or one of main's first parents."""
        return commit == self.state.root or bytes.fromhex(commit) in self._positions

    def step(self, commit: str) -> None:
        """Prove one commit. Raises _Bad, BadRecord, BadObject."""
        info = objects.read_commit(self._reader, commit)
        before = self.state
        self._seen.now = committed_at(info)
        self._latest = max(self._latest, self._seen.now)
        branches = self._take_in_main(info)
        signer = self._signer(commit, info, before)
        entries = self._entries(info)
        status, added = self._changed(entries)
        if not status and not added and len(info.parents) == 1:
            raise _Bad("EmptyCommit", "neither status, nor records, nor main changed")
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
        self.records.judge(batch)
        self._machine = {name: entries[name] for name in MACHINE_FOLDERS if name in entries}

    def _take_in_main(self, info: CommitInfo) -> tuple[str, ...]:
        """Judge main up to the point that this commit takes in; the other parents are request branches."""
        points = [each for each in info.parents[1:] if bytes.fromhex(each) in self._positions]
        branches = tuple(each for each in info.parents[1:] if each not in points)
        if self.state.root in branches or len(points) > 1:
            raise _Bad("MainPointNotRising", "takes in several points of main, or its first commit again")
        if points:
            at = self._positions[bytes.fromhex(points[0])]
            if at <= self._at:
                raise _Bad("MainPointNotRising", f"takes in {points[0]} again")
            self._at = at
            self._seen.take_in(at)
            self.state = advance(self._reader, self.state, points[0])
            if self.state.tip != points[0]:
                reason = self.state.suspended.message if self.state.suspended else ""
                raise _Bad("MainNotTakenOver", f"takes in {points[0]}: {reason}")
        return branches

    def _signer(self, commit: str, info: CommitInfo, before: MainState) -> str:
        """The machine that signed: of the policy before, or of the one that this very commit takes in.

        A key that ended speaks for no commit behind one of a later time, whatever time that commit says.
        """
        if info.signature is None:
            raise _Bad("AuditUnsigned", "the commit carries no signature")
        found_key = self._signed_with(commit)
        error: sshsig.BadSignature | None = None
        for state in (self.state, before):
            policy = policy_at(state.policy.document, self._latest)
            try:
                signer = holder_of(policy, found_key) if found_key else ""
                signer = signer or signer_of(policy, info.signed_payload, info.signature, sshsig.COMMIT)
            except sshsig.BadSignature as found:
                error = error or found
                continue
            if not is_machine(policy, signer):
                raise _Bad("AuditByPerson", f"signed by {signer}")
            return signer
        raise _Bad("AuditBadSignature", str(error))

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
                raise _Bad("MainPointUnknown", f"its tree is of {strangers[0]}, which is not on main")
            raise _Bad("ForeignTree", f"{', '.join(names[:5])} differ from main at {self.state.tip}")
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
                raise _Bad("StatusMisplaced", f"{change.path} is no status")
            status.add(name)
        added: dict[str, str] = {}
        for change in self._differing(entries, RECORDS):
            if change.new is None:
                raise _Bad("RecordDeleted", f"{change.path} is gone")
            if change.old is not None:
                raise _Bad("RecordChanged", f"{change.path} was rewritten")
            added[change.path] = change.new.oid
        return status, added

    def _differing(self, entries: dict[str, TreeEntry], name: str) -> Iterator[objects.Change]:
        old, new = self._machine.get(name), entries.get(name)
        if new is not None and not new.is_folder:
            raise _Bad("ForeignTree", f"{name} is not a folder")
        return objects.changes(self._reader, _oid(old), _oid(new), name)


def _oid(entry: TreeEntry | None) -> str | None:
    return entry.oid if entry else None


@dataclass(frozen=True, slots=True)
class Proved:
    """A proof up to `commit`, the commit number `count` of audit, to go on from. `walk` is nobody else's."""

    root: str
    commit: str
    count: int
    walk: _Walk
    reader: ObjectReader

    def is_of(self, root: str, chain: _Chain, anew: _Walk) -> bool:
        """Whether audit still holds the commit at its place, and main what was observed there."""
        held = chain.at(self.count) == self.commit and anew.is_on_main(self.walk.state.tip)
        return self.root == root and held
