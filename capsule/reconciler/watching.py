"""What an observer must remember: how long others' claims have been silent, and where audit was.

Rules kept: leases run by the observer's own monotonic clock since it last saw a claim, never by dates in
documents; an audit branch that does not contain what was seen before, or holds what no reconciler signed,
stops all acting. So does one on which somebody else records reviews of changes, or that takes in another
policy, unless all of it proves: they bear on what is in force, and a signature alone does not say that they
were recorded when they could be, or by whom they could. Called by the reconciler.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import timedelta
from typing import NamedTuple

from capsule.lifecycle import Records
from capsule.reconciler.clock import Clock
from capsule.reconciler.recording import OBSERVED
from capsule.store.api import LOCAL_PREFIX, RefUpdate, Store
from capsule.trust.audit import Proved, verify_audit
from capsule.trust.key_validity import committed_at, is_timed, policy_at
from capsule.trust.objects import (
    BadObject,
    CommitInfo,
    MissingObject,
    NotDescended,
    first_parents,
    read_commit,
)
from capsule.trust.policy import is_machine, signer_of
from capsule.trust.state import MainState
from capsule.trust.told_changes import ToldOnAudit
from capsule_agent.protocol.sshsig import COMMIT, BadSignature

SEEN = LOCAL_PREFIX + "reconciler/audit"
"""Where audit was when it was last found sound: it must never go back behind there."""
PROVED = LOCAL_PREFIX + "reconciler/proved"
"""Up to where what audit tells of reviews is proved, or was written by this reconciler on what is."""

REASONS: dict[str, str] = {
    "AuditRewritten": "The audit branch no longer contains a commit this reconciler has seen on it.",
    "AuditUntrusted": "The audit branch holds a commit that does not prove, or that no reconciler signed.",
    "AuditAhead": "The audit branch holds a commit dated more than a day ahead of this reconciler's clock. "
    "Built upon, it would end keys with dates too early, for good.",
    "ReconcilerTooNew": "Keys with dates let in changes on main, and this reconciler is none of the policy "
    "that audit has taken in: the time that it tells does not count. One of that policy must take them in.",
}


MOST_AHEAD = timedelta(days=1)
"""How far the clocks of reconcilers may be apart."""


class AuditUnsound(Exception):
    """The audit branch is not what this reconciler saw, or not by reconcilers alone: a person must act."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Leases:
    """Since when each claim of another reconciler has been seen unchanged."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[tuple[str, str, int], float] = {}

    def lost(self, records: Records, reconciler: str, lease: float) -> frozenset[tuple[str, str]]:
        """Claims of others (request, service) that were silent for more than `lease` seconds."""
        now = self._clock.monotonic()
        seen: dict[tuple[str, str, int], float] = {}
        for request, operation in records.running():
            spec = operation.claims[-1].spec
            if spec.reconciler != reconciler:
                key = (request.name, operation.service, spec.attempt)
                seen[key] = self._since.get(key, now)
        self._since = seen
        return frozenset((key[0], key[1]) for key, since in seen.items() if now - since > lease)


class AuditWatch:
    """Where audit was last seen, and up to where it is proved; `own` are those commits that this process
    wrote on it to take main in or to record reviews of changes."""

    def __init__(self, store: Store, own: Container[str] = ()) -> None:
        self._store = store
        self._own = own
        self._last: Proved | None = None

    @property
    def proved(self) -> str | None:
        """The commit up to which the reviews that audit tells of may be believed."""
        return self._store.refs(PROVED).get(PROVED)

    @property
    def has_begun(self) -> bool:
        """Whether it is known where audit was last found sound; it is not after a person's inquiry."""
        return SEEN in self._store.refs(SEEN)

    def check(self, state: MainState, audit: str | None) -> None:
        """Compare audit with where it was last seen, prove what is new on it, and remember where it is.

        Raises AuditUnsound.
        """
        before, proved = self._store.refs(SEEN).get(SEEN), self.proved
        if before == proved == audit:
            return
        new = _new_commits(self._store, state.root, audit, before) if before else None
        _check_not_ahead(state, new or ())
        if audit and (new is None or proved != before or not self._is_plain(state, before, new)):
            self._prove_whole(state, audit)
        self._store.publish([RefUpdate(SEEN, before, audit), RefUpdate(PROVED, proved, audit)])

    def _is_plain(self, state: MainState, before: str | None, new: Sequence[_Commit]) -> bool:
        """Whether signatures say enough of these commits, behind `before`. What no present machine signed may
        stem from an earlier policy, and who takes in another policy may be none of that before it: the whole
        proof knows each day's. What others tell of reviews may be invented."""
        if not all(_by_present_machine(state, commit.info) for commit in new):
            return False
        of_others = [commit for commit in new if commit.oid not in self._own]
        if any(len(commit.info.parents) > 1 for commit in of_others) and self._is_policy_new(state, before):
            return False
        return not any(self._tells_of_changes(commit) for commit in of_others)

    def _is_policy_new(self, state: MainState, audit: str | None) -> bool:
        """Whether the policy came into force behind what audit had taken in at that commit."""
        named = read_commit(self._store, audit).trailers.get(OBSERVED, ()) if audit else ()
        try:
            return state.policy.since in first_parents(self._store, state.tip, (named or (state.root,))[-1])
        except (NotDescended, BadObject, MissingObject):
            return True

    def _tells_of_changes(self, commit: _Commit) -> bool:
        """Whether it makes audit tell something else of reviews of changes than the commit before it."""
        return (
            ToldOnAudit(self._store, commit.oid).tree != ToldOnAudit(self._store, commit.info.parents[0]).tree
        )

    def _prove_whole(self, state: MainState, audit: str) -> None:
        # A proof that is gone on from belongs to the one that does: it is kept again where all holds.
        before, self._last = self._last, None
        verdict = verify_audit(
            self._store, state.root, state.tip, audit, resume=lambda _: before, keep=self._keep
        )
        bad = verdict.first_bad
        if bad:
            raise AuditUnsound("AuditUntrusted", f"commit {bad.commit}: {bad.reason}: {bad.message}")

    def _keep(self, proved: Proved) -> None:
        self._last = proved


class _Commit(NamedTuple):
    oid: str
    info: CommitInfo


def _new_commits(store: Store, root: str, audit: str | None, before: str) -> list[_Commit]:
    """The commits on audit since `before`. Raises AuditUnsound when it does not descend from there."""
    found: list[_Commit] = []
    at = audit
    while at != before:
        try:
            commit = read_commit(store, at) if at else None
        except (MissingObject, BadObject):
            commit = None
        if at is None or commit is None or at == root or not commit.parents:
            raise AuditUnsound(
                "AuditRewritten",
                f"audit is at {audit or 'nothing'} and does not contain {before}, which was seen on it; "
                f"push it back (git push origin {before}:refs/heads/audit), or after an inquiry run: "
                f"git update-ref -d {SEEN}",
            )
        found.append(_Commit(at, commit))
        at = commit.parents[0]
    return found


def _by_present_machine(state: MainState, commit: CommitInfo) -> bool:
    """Whether it is signed by who is a machine now, and was at the time that the commit tells."""
    now = state.seen.now if state.seen else None
    for at in (now, committed_at(commit)):
        policy = policy_at(state.policy.document, at)
        try:
            name = signer_of(policy, commit.signed_payload, commit.signature or "", COMMIT)
        except BadSignature:
            return False
        if not is_machine(policy, name):
            return False
    return True


def _check_not_ahead(state: MainState, new: Sequence[_Commit]) -> None:
    """No commit tells a time far ahead, where keys with dates are judged by it. Raises AuditUnsound."""
    now = state.seen.now if state.seen else None
    if now is None or not is_timed(state.policy.document):
        return
    for commit in new:
        told = committed_at(commit.info)
        if told - now > MOST_AHEAD:
            raise AuditUnsound(
                "AuditAhead",
                f"commit {commit.oid} on audit is dated {told:%Y-%m-%dT%H:%M:%SZ}, and it is "
                f"{now:%Y-%m-%dT%H:%M:%SZ} here: set the clock that is wrong right; if it is that of the "
                f"commit, push audit back to {commit.info.parents[0]}",
            )
