"""What an observer must remember: how long others' claims have been silent, and where audit was.

Rules kept: leases run by the observer's own monotonic clock since it last saw a claim, never by dates in
documents; an audit branch that does not contain what was seen before, or holds what no reconciler signed,
stops all acting. Called by the reconciler.
"""

from __future__ import annotations

from capsule.lifecycle import Records
from capsule.reconciler.clock import Clock
from capsule.store.api import LOCAL_PREFIX, RefUpdate, Store
from capsule.trust.audit import verify_audit
from capsule.trust.objects import BadObject, CommitInfo, MissingObject, read_commit
from capsule.trust.policy import signer_of
from capsule.trust.state import MainState
from capsule_agent.protocol.sshsig import COMMIT, BadSignature

SEEN = LOCAL_PREFIX + "reconciler/audit"

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


def check_audit(store: Store, state: MainState, audit: str | None) -> None:
    """Compare audit with where it was last seen, prove what is new on it, and remember where it is.

    Raises AuditUnsound.
    """
    before = store.refs(SEEN).get(SEEN)
    if before == audit:
        return
    if before is None and audit is not None:
        _prove_whole(store, state, audit)
    else:
        _prove_new(store, state, audit, before)
    store.publish([RefUpdate(SEEN, before, audit)])


def _prove_whole(store: Store, state: MainState, audit: str) -> None:
    verdict = verify_audit(store, state.root, state.tip, audit)
    bad = verdict.first_bad
    if bad:
        raise AuditUnsound("AuditUntrusted", f"commit {bad.commit}: {bad.reason}: {bad.message}")


def _prove_new(store: Store, state: MainState, audit: str | None, before: str | None) -> None:
    at = audit
    while at != before:
        try:
            commit = read_commit(store, at) if at else None
        except (MissingObject, BadObject):
            commit = None
        if commit is None or at == state.root or not commit.parents:
            raise AuditUnsound(
                "AuditRewritten",
                f"audit is at {audit or 'nothing'} and does not contain {before}, which was seen on it; "
                f"push it back, or after an inquiry run: git update-ref -d {SEEN}",
            )
        _check_signer(state, commit, at or "")
        at = commit.parents[0]


def _check_signer(state: MainState, commit: CommitInfo, oid: str) -> None:
    policy = state.policy.document
    if commit.signature is None:
        raise AuditUnsound("AuditUntrusted", f"commit {oid} on audit is not signed")
    try:
        name = signer_of(policy, commit.signed_payload, commit.signature, COMMIT)
    except BadSignature as error:
        raise AuditUnsound("AuditUntrusted", f"commit {oid} on audit: {error}") from None
    if not policy.spec.principals[name].machine:
        raise AuditUnsound("AuditUntrusted", f"commit {oid} on audit is by {name}, who is no reconciler")
