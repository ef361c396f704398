"""Operations as people see them: claim, result, who asked, who approved, by which evidence.

Rules kept: what the claim says wins over what the request says now, for it was written when it was acted
on. Called by view.requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from capsule.lifecycle import OperationRecord, RequestRecords
from capsule.trust.state import JudgedRequest
from capsule.view.model import OperationRow

ROTATE = "rotateKey"


def operation_rows(judged: JudgedRequest | None, records: RequestRecords | None) -> tuple[OperationRow, ...]:
    """The operations of one request, in the order of its targets."""
    if records is None:
        return ()
    targets = judged.document.spec.targets if judged and judged.document else ()
    place = {name: at for at, name in enumerate(targets)}
    ordered = sorted(
        records.operations.values(), key=lambda item: (place.get(item.service, len(place)), item.service)
    )
    rows = (_row(judged, records.name, operation) for operation in ordered)
    return tuple(row for row in rows if row)


def newest_first(rows: Iterable[OperationRow]) -> tuple[OperationRow, ...]:
    """Operations of one service, the last claimed first."""
    return tuple(sorted(rows, key=lambda row: (row.claimed_at, row.request), reverse=True))


def last_rotation(rows: Iterable[OperationRow]) -> OperationRow | None:
    """The newest rotation that succeeded; `rows` are newest first."""
    return next((row for row in rows if row.action == ROTATE and row.outcome == "succeeded"), None)


def _row(judged: JudgedRequest | None, request: str, operation: OperationRecord) -> OperationRow | None:
    """None for a result without its claim: `capsule audit verify` names that damage."""
    if operation.claim is None:
        return None
    claim = operation.claim.spec
    result = operation.result.spec if operation.result else None
    asked = judged.document.spec if judged and judged.document else None
    return OperationRow(
        request=request,
        service=operation.service,
        action=claim.action,
        params=asked.params if asked else {},
        outcome=result.outcome if result else "running",
        reason=result.reason if result else "Running",
        message=result.message if result else "",
        requested_by=claim.requested_by,
        approved_by=claim.approved_by,
        evidence=claim.evidence if claim.approved_by or claim.evidence == "break-glass" else "",
        why=asked.reason if asked else "",
        reconciler=claim.reconciler,
        attempt=result.attempt if result else claim.attempt,
        claimed_at=claim.claimed_at,
        recorded_at=result.recorded_at if result else None,
        outputs=result.outputs if result else {},
        op_id=claim.op_id,
        receipt_digest=result.receipt_digest if result else None,
    )
