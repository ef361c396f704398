"""What an observer must remember: how long others' claims have been silent, and where audit was.

Rules kept: leases run by the observer's own monotonic clock since it last saw a claim, never by dates in
documents; an audit branch that does not contain what was seen before, or holds what no reconciler signed,
stops all acting. So does one on which somebody else records reviews of changes, unless all of it proves: they
bear on what is in force, and a signature alone does not say that they were recorded when they could be.
Called by the reconciler.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from capsule.lifecycle import Records
from capsule.reconciler.clock import Clock
from capsule.store.api import LOCAL_PREFIX, RefUpdate, Store
from capsule.trust.audit import Proved, verify_audit
from capsule.trust.key_validity import policy_at
from capsule.trust.objects import BadObject, CommitInfo, MissingObject, read_commit
from capsule.trust.policy import signer_of
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
}


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
    wrote on it to record reviews of changes."""

    def __init__(self, store: Store, own: Container[str] = ()) -> None:
        self._store = store
        self._own = own
        self._last: Proved | None = None

    @property
    def proved(self) -> str | None:
        """The commit up to which the reviews that audit tells of may be believed."""
        return self._store.refs(PROVED).get(PROVED)

    def check(self, state: MainState, audit: str | None) -> None:
        """Compare audit with where it was last seen, prove what is new on it, and remember where it is.

        Raises AuditUnsound.
        """
        before, proved = self._store.refs(SEEN).get(SEEN), self.proved
        if before == proved == audit:
            return
        new = _new_commits(self._store, state.root, audit, before) if before else None
        if audit and (new is None or proved != before or not self._is_plain(state, new)):
            self._prove_whole(state, audit)
        self._store.publish([RefUpdate(SEEN, before, audit), RefUpdate(PROVED, proved, audit)])

    def _is_plain(self, state: MainState, new: Sequence[_Commit]) -> bool:
        """Whether signatures say enough of these commits. What no present machine signed may stem from an
        earlier policy: the whole proof knows each day's. What others tell of reviews may be invented."""
        return all(_by_present_machine(state, commit.info) for commit in new) and not any(
            self._tells_of_changes(commit) for commit in new if commit.oid not in self._own
        )

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
                f"push it back, or after an inquiry run: git update-ref -d {SEEN}",
            )
        found.append(_Commit(at, commit))
        at = commit.parents[0]
    return found


def _by_present_machine(state: MainState, commit: CommitInfo) -> bool:
    policy = policy_at(state.policy.document, state.seen.now if state.seen else None)
    try:
        name = signer_of(policy, commit.signed_payload, commit.signature or "", COMMIT)
    except BadSignature:
        return False
    return policy.spec.principals[name].machine
