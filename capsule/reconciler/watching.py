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
from capsule.trust.key_validity import policy_at
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
    new = _new_commits(store, state.root, audit, before) if before else None
    # What no present machine signed may stem from an earlier policy: the whole proof knows each day's.
    if audit and not (new is not None and all(_by_present_machine(state, commit) for commit in new)):
        _prove_whole(store, state, audit)
    store.publish([RefUpdate(SEEN, before, audit)])


def _prove_whole(store: Store, state: MainState, audit: str) -> None:
    verdict = verify_audit(store, state.root, state.tip, audit)
    bad = verdict.first_bad
    if bad:
        raise AuditUnsound("AuditUntrusted", f"commit {bad.commit}: {bad.reason}: {bad.message}")


def _new_commits(store: Store, root: str, audit: str | None, before: str) -> list[CommitInfo]:
    """The commits on audit since `before`. Raises AuditUnsound when it does not descend from there."""
    found: list[CommitInfo] = []
    at = audit
    while at != before:
        try:
            commit = read_commit(store, at) if at else None
        except (MissingObject, BadObject):
            commit = None
        if commit is None or at == root or not commit.parents:
            raise AuditUnsound(
                "AuditRewritten",
                f"audit is at {audit or 'nothing'} and does not contain {before}, which was seen on it; "
                f"push it back, or after an inquiry run: git update-ref -d {SEEN}",
            )
        found.append(commit)
        at = commit.parents[0]
    return found


def _by_present_machine(state: MainState, commit: CommitInfo) -> bool:
    policy = policy_at(state.policy.document, state.seen.now if state.seen else None)
    try:
        name = signer_of(policy, commit.signed_payload, commit.signature or "", COMMIT)
    except BadSignature:
        return False
    return policy.spec.principals[name].machine
