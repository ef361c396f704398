"""The audit branch proved from its bytes: every step, every signature, every record, offline.

Rules kept: nothing is believed that the reconciler says of itself; main is judged again up to each revision
that audit took in, so that every operation is judged by the policy of its day; records are only ever
added; the first commit that does not hold is named, and why. Iterative, and memory grows only with the
number of commits (20 bytes each), of requests and services (their names) and of unfinished operations.
Called by `capsule audit verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from capsule.trust.audit_chain import Chain
from capsule.trust.audit_walk import BadStep, Proved, Walk
from capsule.trust.checkpoints import REASONS as _CHECKPOINT_REASONS
from capsule.trust.checkpoints import BadCheckpoint, Checkpoint, Statement
from capsule.trust.listings import Listings
from capsule.trust.mainline import BadRoot, advance, begin
from capsule.trust.objects import BadObject, NotDescended, ObjectReader
from capsule.trust.policy import keys_of
from capsule.trust.published import CHECKPOINT
from capsule.trust.records import REASONS as _RECORD_REASONS
from capsule.trust.records import BadRecord
from capsule.trust.state import Finding, MainState
from capsule.trust.story import BadStory
from capsule_agent.protocol import sshsig

__all__ = ["REASONS", "Announced", "AuditVerdict", "BadCommit", "Proved", "verify_audit"]

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
    on main at its tip (changes not taken over are exceptions, not lies). `state` is main as judged where the
    last proved commit had taken it in; None where nothing could be judged. `origin_proved` is False when
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
    state: MainState | None = field(default=None, compare=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether no commit is bad."""
        return self.first_bad is None


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
        chain = Chain.of(reader, audit_tip, root)
    except (NotDescended, BadObject) as error:
        return _failed(blank, audit_tip or root, "AuditRewritten", str(error))
    try:
        if ahead:
            ahead.line(main_tip, root)
        main = Chain.of(reader, main_tip, root)
    except (NotDescended, BadObject) as error:
        return _failed(blank, main_tip, "MainRewritten", str(error))
    try:
        walk = Walk(reader, begin(reader, root), main, signed_with)
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
        ahead.steps(bytes.fromhex(chain.at(start) or root) + chain.packed_from(start))
    done = start
    for commit in chain.oldest_first(start):
        try:
            walk.step(commit)
            if checkpoint and not checkpoint_key and commit == checkpoint.statement.commit:
                _check_seal(checkpoint, keys_of(walk.policy))
        except BadCheckpoint as error:
            return _failed(blank, commit, error.reason, str(error))
        except (BadStep, BadRecord, BadStory, BadObject) as error:
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
        state=walk.state,
    )


def _failed(blank: AuditVerdict, commit: str, reason: str, message: str) -> AuditVerdict:
    return AuditVerdict(
        blank.root,
        blank.main_tip,
        blank.audit_tip,
        blank.origin_proved,
        first_bad=BadCommit(commit, reason, message),
    )


def _check_places(statement: Statement, root: str, chain: Chain, walk: Walk) -> None:
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
