"""What everybody should know of the branches themselves: a tip that nobody vouches for, changes that wait.

Rules kept: pure. Called by tips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from capsule.trust.key_validity import committed_at, policy_at
from capsule.trust.objects import ObjectReader, read_commit
from capsule.trust.policy import signer_of
from capsule.trust.state import Finding, MainState
from capsule.view.model import ConditionRow
from capsule_agent.protocol import sshsig


def unproved(reader: ObjectReader, state: MainState, audit: str | None) -> ConditionRow | None:
    """A condition when the tip of audit was not signed by a machine of the policy in force."""
    if audit is None or audit == state.root:
        return None
    info = read_commit(reader, audit)
    policy = policy_at(state.policy.document, committed_at(info))
    try:
        signer = signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
    except sshsig.BadSignature as error:
        return ConditionRow(
            "AuditNotProved", "AuditSignature", f"the tip of audit is not signed by a reconciler: {error}"
        )
    if policy.spec.principals[signer].machine:
        return None
    return ConditionRow("AuditNotProved", "AuditSigner", f"the tip of audit is signed by {signer}, a person")


def waiting_for_reviews(state: MainState, waits: Mapping[str, str]) -> Iterator[ConditionRow]:
    """Why reviews of changes did not come yet; `waits` are by path, as reconcilers told last."""
    for change in state.pending:
        if change.takes_reviews and change.path in waits:
            yield ConditionRow("ReviewsAwaited", change.reason, f"{change.path}: {waits[change.path]}")


def conditions_of_main(state: MainState, findings: tuple[Finding, ...]) -> Iterator[ConditionRow]:
    """Changes of documents that wait, and what was found on main and (`findings`) in requests."""
    in_force = {service.path for service in state.services.values()}
    for change in state.pending:
        if change.path not in in_force:
            yield ConditionRow("ChangePending", change.reason, f"{change.path}: {change.message}")
    pending = {change.path for change in state.pending}
    for finding in (*state.findings, *findings):
        if finding.path not in pending and finding != state.suspended:
            where = f"{finding.path}: " if finding.path else ""
            yield ConditionRow("Finding", finding.reason, where + finding.message)
