"""What everybody should know of the branches themselves: a tip that nobody vouches for, changes that wait.

Rules kept: pure. Called by tips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from capsule.trust.state import Finding, MainState
from capsule.view.model import ConditionRow


def unproved(doubt: Finding | None) -> ConditionRow | None:
    """A condition when the tip of audit is not believed."""
    if doubt is None:
        return None
    return ConditionRow("AuditNotProved", doubt.reason, f"{doubt.message}. Prove it: capsule audit verify")


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
