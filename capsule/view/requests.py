"""Requests as people see them: what was asked, its derived phase, who approved, what is missing.

Rules kept: `request_row` depends on the repository alone and may be kept; `phase_at` adds what the clock
decides (expiry, freezes) for those that have neither begun nor ended; `with_waits` adds what heartbeats tell
of those under way. Called by view.build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from capsule.documents.types import RequestSpec
from capsule.lifecycle import PhaseNow, RequestRecords, request_phase
from capsule.trust.freezes import freeze_in_force
from capsule.trust.state import JudgedRequest, MainState, SeenApproval
from capsule.view.model import ApprovalRow, MissingRow, OperationRow, RequestRow
from capsule.view.operations import operation_rows

_HOLD = re.compile(r"([A-Z][A-Za-z0-9]{0,62}): (.{0,500})", re.DOTALL)
"""How a heartbeat says why: the reason code, and a message."""
_TURNS = {"Proposed": 0, "Approved": 1, "Held": 1, "Running": 1}


def request_row(judged: JudgedRequest | None, records: RequestRecords | None) -> RequestRow:
    """The row of one request, of which at least one of `judged` and `records` exists."""
    operations = operation_rows(judged, records)
    now = request_phase(judged, records)
    if judged is None:
        assert records is not None  # the caller has one of the two
        return _recorded(records, operations, now)
    spec = judged.document.spec if judged.document else None
    row = RequestRow(
        name=judged.name,
        path=judged.path,
        digest=judged.digest,
        source=judged.source,
        action=spec.action if spec else "",
        targets=spec.targets if spec else (),
        params=spec.params if spec else {},
        requested_by=spec.requested_by if spec else "",
        why=spec.reason if spec else "",
        expires=spec.expires if spec else None,
        phase=now.phase,
        reason=now.reason,
        message=now.message,
        approvals=tuple(_approval(seen) for seen in judged.approvals),
        missing=tuple(MissingRow(item.team, item.count, item.candidates) for item in judged.missing),
        evidence=_evidence(judged, operations),
        operations=operations,
    )
    row = replace(row, ended_at=_ended_at(records)) if now.final else row
    return _with_rollout(row, spec) if spec else row


def is_open(judged: JudgedRequest | None, records: RequestRecords | None) -> bool:
    """Whether the clock may still change the phase: nothing was claimed, nothing was recorded."""
    return judged is not None and not (records and (records.operations or records.refusal))


def phase_at(row: RequestRow, judged: JudgedRequest, state: MainState, now: datetime) -> RequestRow:
    """The row of an open request at `now`."""
    spec = judged.document.spec if judged.document else None
    if spec and judged.verdict in ("proposed", "approved") and spec.expires <= now:
        found = PhaseNow("Expired", "Expired", f"expired {spec.expires:%Y-%m-%d %H:%M} UTC")
    elif spec and judged.verdict == "approved":
        found = request_phase(judged, None, held_back(spec, state, now))
        if found.phase == "Approved" and row.phase == "Held":
            return row  # the repository knows of no reason, and the reconciler said one
    else:
        return row
    return replace(row, phase=found.phase, reason=found.reason, message=found.message)


def with_waits(row: RequestRow, waits: Mapping[str, str]) -> RequestRow:
    """The row with what keeps it from being begun, its operations from ending, or its evidence from coming;
    `waits` are by `request/` where that holds it, by `request/service`, or by `request`."""
    hold = _HOLD.match(waits.get(f"{row.name}/", ""))
    if hold and row.phase == "Approved":
        return replace(row, phase="Held", reason=hold[1], message=hold[2])
    why = waits.get(row.name)
    if why and row.phase in ("Proposed", "Held"):
        return replace(row, message=f"{row.message}; reviews: {why}")
    told = {
        item.service: waits[f"{row.name}/{item.service}"]
        for item in row.operations
        if item.outcome == "running" and f"{row.name}/{item.service}" in waits
    }
    if not told:
        return row
    operations = tuple(
        replace(item, message=told[item.service]) if item.service in told else item for item in row.operations
    )
    service, why = next(iter(told.items()))
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return replace(row, operations=operations, message=f"{row.message}; {service}: {why}{more}")


def last_recorded(row: RequestRow) -> datetime | None:
    """The last moment at which anything of the request was recorded."""
    moments = [item.recorded_at or item.claimed_at for item in row.operations]
    return max([*moments, *([row.ended_at] if row.ended_at else [])], default=None)


def day_of_name(name: str) -> datetime:
    """The day with which the name of a request begins; the beginning of time where it begins otherwise."""
    try:
        return datetime(int(name[:4]), int(name[4:6]), int(name[6:8]), tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def in_order(rows: Iterable[RequestRow]) -> tuple[RequestRow, ...]:
    """What waits for approval first, then what is under way, then what has ended; else as `rows` were."""
    return tuple(sorted(rows, key=lambda row: _TURNS.get(row.phase, len(_TURNS))))


def held_back(spec: RequestSpec, state: MainState, now: datetime) -> PhaseNow | None:
    """What keeps an approved request from being begun, as far as the repository tells."""
    if state.suspended:
        return PhaseNow("Held", "Suspended", state.suspended.message)
    if spec.not_before and spec.not_before > now:
        return PhaseNow("Held", "NotBefore", f"not before {spec.not_before:%Y-%m-%d %H:%M} UTC")
    policy = state.policy.document
    for target in spec.targets:
        service = state.services.get(target)
        labels = service.document.metadata.labels if service else {}
        frozen = freeze_in_force(policy, labels, spec.requested_by, now)
        if frozen:
            until, freeze = frozen
            why = f": {freeze.reason}" if freeze.reason else ""
            return PhaseNow("Held", "Frozen", f"{target} is frozen until {until:%Y-%m-%d %H:%M} UTC{why}")
    return None


def _ended_at(records: RequestRecords | None) -> datetime | None:
    """When the last thing was recorded of a request."""
    if records is None:
        return None
    results = [item.result.spec.recorded_at for item in records.operations.values() if item.result]
    return max([*results, *([records.refusal.spec.recorded_at] if records.refusal else [])], default=None)


def _with_rollout(row: RequestRow, spec: RequestSpec) -> RequestRow:
    rollout = spec.rollout
    return replace(row, not_before=spec.not_before, parallel=rollout.parallel, on_failure=rollout.on_failure)


def _approval(seen: SeenApproval) -> ApprovalRow:
    return ApprovalRow(seen.principal, seen.decision, seen.counts, seen.evidence, seen.reason, seen.message)


def _evidence(judged: JudgedRequest, operations: tuple[OperationRow, ...]) -> str:
    """The evidence that was acted on, or that its approval rests on, or the weakest that there is so far."""
    acted = [row.evidence for row in operations if row.evidence]
    broken = judged.evidence == "break-glass"
    rests_on = [judged.evidence] if judged.verdict == "approved" and (judged.approved_by or broken) else []
    kinds = acted or rests_on or [seen.evidence for seen in judged.approvals if seen.counts]
    return next((kind for kind in ("break-glass", "merge", "forge", "signature") if kind in kinds), "")


def _recorded(records: RequestRecords, operations: tuple[OperationRow, ...], now: PhaseNow) -> RequestRow:
    """The row of a request that is gone, from its records alone."""
    claims = [item.claim.spec for item in records.operations.values() if item.claim]
    refusal = records.refusal.spec.request_digest if records.refusal else ""
    return RequestRow(
        name=records.name,
        path=records.folder.request,
        digest=claims[0].request_digest if claims else refusal,
        source="branch",
        action=claims[0].action if claims else "",
        targets=tuple(row.service for row in operations),
        params={},
        requested_by=claims[0].requested_by if claims else "",
        why="",
        expires=None,
        phase=now.phase,
        reason=now.reason,
        message=now.message,
        approvals=(),
        missing=(),
        evidence=next((row.evidence for row in operations if row.evidence), ""),
        operations=operations,
        ended_at=_ended_at(records),
    )
