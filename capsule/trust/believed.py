"""How much of an audit that nobody proved here is believed: all of it, when a reconciler signed its tip.

Rules kept: who is a reconciler is never taken from what is to be believed: it follows from main, judged by
the time of now and beside that part of audit alone which was believed or proved before. An audit that turned
away from that part is not believed. Called by view.mainline, for those who look; who acts, proves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from capsule.trust.key_validity import SeenOnAudit, policy_at
from capsule.trust.mainline import judge
from capsule.trust.objects import (
    BadObject,
    MissingObject,
    NotDescended,
    ObjectReader,
    first_parents,
    read_commit,
)
from capsule.trust.policy import is_machine, signer_of
from capsule.trust.state import Finding, MainState
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "AuditSignature": "The tip of audit is not signed by a reconciler of the policy, so the times and "
    "reviews that it tells do not count. `capsule audit verify` proves what is here; where a reconciler was "
    "just replaced, the new one's first commit mends it.",
    "AuditSigner": "The tip of audit is signed by a person. Reconcilers alone write it: `capsule audit "
    "verify` names the commit.",
    "AuditTurned": "Audit no longer goes on from what was believed or proved here before: it was rewound or "
    "replaced. Push the old tip back, or ask whoever runs the git server.",
}


@dataclass(frozen=True, slots=True)
class Belief:
    """How far audit is believed, and main as it is judged beside that much."""

    commit: str | None
    """The last commit of audit that is believed; None when nothing of it is."""
    state: MainState
    doubt: Finding | None = None
    """Why it is not the tip."""
    leans: bool = False
    """Whether main, judged without what is told here for the first time, could be another."""


def believed(
    reader: ObjectReader,
    root: str,
    main: str,
    audit: str | None,
    now: datetime | None,
    *,
    earlier: str | None = None,
    proved: Callable[[], str | None] = lambda: None,
    known: MainState | None = None,
) -> Belief:
    """How far the audit with the tip `audit` is believed beside the main with the tip `main`.

    `earlier` is a commit of audit that was believed before, and `known` main as it was judged then; `proved`
    gives one that was proved here, and is asked where nothing was believed before and it matters. `now` is
    the time for what audit has not taken in. Raises BadRoot, MissingObject and BadObject.
    """
    if earlier and _is_here(reader, earlier):
        return _beside(reader, root, main, audit, now, earlier, known)
    found = _beside(reader, root, main, audit, now, None, None if earlier else known)
    if found.leans or found.doubt:
        earlier = proved()
        if earlier and _is_here(reader, earlier):
            return _beside(reader, root, main, audit, now, earlier, None)
    return found


def _beside(
    reader: ObjectReader,
    root: str,
    main: str,
    audit: str | None,
    now: datetime | None,
    earlier: str | None,
    known: MainState | None,
) -> Belief:
    if audit in (None, root, earlier):
        return Belief(audit, judge(reader, root, main, known, SeenOnAudit(reader, root, main, audit, now)))
    start = judge(reader, root, main, known, SeenOnAudit(reader, root, main, earlier, now))
    beside = SeenOnAudit(reader, root, main, audit, now)
    leans = start.fleeting or start.told != (beside.told.tree if beside.told else None)
    doubt = _doubt(reader, start, audit, earlier, now)
    if doubt:
        return Belief(earlier, start, doubt, leans)
    return Belief(audit, judge(reader, root, main, start, beside), None, leans)


def _is_here(reader: ObjectReader, commit: str) -> bool:
    """Whether the commit is still here: one that audit turned away from is deleted some day."""
    try:
        reader.read(commit)
    except MissingObject:
        return False
    return True


def _doubt(
    reader: ObjectReader, state: MainState, audit: str, earlier: str | None, now: datetime | None
) -> Finding | None:
    """Why the audit with this tip is not believed by the policy of `state`; None when it is."""
    info = read_commit(reader, audit)
    policy = policy_at(state.policy.document, now)
    try:
        signer = signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
    except sshsig.BadSignature as error:
        message = f"the tip of audit is not signed by a reconciler: {error}"
        return Finding("AuditSignature", message, commit=audit)
    if not is_machine(policy, signer):
        return Finding("AuditSigner", f"the tip of audit is signed by {signer}, a person", commit=audit)
    if earlier and not goes_on(reader, audit, earlier):
        message = f"audit no longer goes on from {earlier}, which was believed or proved here before"
        return Finding("AuditTurned", message, commit=audit)
    return None


def goes_on(reader: ObjectReader, tip: str, earlier: str) -> bool:
    """Whether `tip` goes on from `earlier` along first parents. Raises MissingObject."""
    try:
        return all(True for _ in first_parents(reader, tip, earlier))
    except (NotDescended, BadObject):
        return False
