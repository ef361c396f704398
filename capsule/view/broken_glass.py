"""The glass that was broken and not yet acknowledged: a condition of the whole repository.

Rules kept: it follows from records alone, so nobody can take it back; it ends when an `acknowledge` that
names the request has succeeded, which trust lets only other reviewers do. Called by view.build.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from capsule.view.model import ConditionRow, OperationRow, RequestRow

BREAK_GLASS = "BreakGlass"
_ACKNOWLEDGE = "acknowledge"


def broken_glass(rows: Iterable[RequestRow]) -> Iterator[ConditionRow]:
    """A condition for each request that was begun without approvals, and that nobody acknowledged."""
    broken: dict[str, RequestRow] = {}
    acknowledged: set[object] = set()
    for row in rows:
        for operation in row.operations:
            if operation.evidence == "break-glass":
                broken[row.name] = row
            if operation.action == _ACKNOWLEDGE and operation.outcome == "succeeded":
                acknowledged.add(operation.outputs.get("request"))
    for name in sorted(broken.keys() - acknowledged):
        row = broken[name]
        first = min(row.operations, key=lambda item: item.claimed_at)
        yield ConditionRow(BREAK_GLASS, "NotAcknowledged", _message(row, first), first.claimed_at)


def _message(row: RequestRow, first: OperationRow) -> str:
    few = [item.service for item in row.operations[:5]]
    rest = len(row.operations) - len(few)
    services = ", ".join(few) + (f" and {rest} more" if rest else "")
    why = f": {row.why}" if row.why else ""
    return (
        f"{first.requested_by} acted without approvals, {first.action} {services} in {row.name}{why}; "
        f"a reviewer says they know: capsule acknowledge --request {row.name}"
    )
