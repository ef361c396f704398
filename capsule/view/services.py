"""Services as people see them: desired beside observed, the freshest probe, what deserves attention.

Rules kept: what the audit branch recorded is the status; a heartbeat makes the times fresher and adds
STALE, and never turns a recorded status into a better one. Called by view.build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from capsule.documents.types import Service, ServiceStatus, StatusSpec
from capsule.lifecycle import StatusNow, effective_status
from capsule.lifecycle.status import LEAST_PATIENCE, STALE_INTERVALS
from capsule.lifecycle.status import REASONS as STATUS_REASONS
from capsule.trust.state import InForce, PendingChange
from capsule.view.beats import FreshProbe
from capsule.view.model import ConditionRow, Drift, OperationRow, ServiceRow
from capsule.view.operations import last_rotation


@dataclass(frozen=True)
class Recorded:
    """What the audit branch says of a service: its status, or why that cannot be read."""

    blob: str
    status: ServiceStatus | None
    problem: str = ""


def service_row(
    service: InForce[Service],
    recorded: Recorded | None,
    operations: Sequence[OperationRow],
    pending: PendingChange | None,
) -> ServiceRow:
    """The row of one service, without what probes and the clock add."""
    document = service.document
    spec = document.spec
    status = recorded.status if recorded else None
    seen = status.spec if status else None
    now = _status(document, status)
    rotated = last_rotation(operations)
    values = seen.values if seen else {}
    return ServiceRow(
        name=document.metadata.name,
        path=service.path,
        labels=document.metadata.labels,
        endpoint=spec.agent.endpoint,
        owner=spec.owner,
        runbook=spec.runbook,
        status=now.status,
        reason=now.reason,
        message=now.message,
        since=seen.since if seen and seen.effective_status == now.status else None,
        enabled_desired=spec.enabled,
        enabled_observed=seen.enabled if seen else None,
        pins=spec.pins,
        values=values,
        model=_text(values.get("model", spec.pins.get("model"))),
        version=(seen.version if seen else None) or _text(values.get("version", spec.pins.get("version"))),
        upstream=_text(values.get("upstream", spec.pins.get("upstream"))),
        drift=_drift(seen),
        conditions=_conditions(seen, recorded, pending),
        health=seen.health.status if seen and seen.health else None,
        health_detail=seen.health.detail if seen and seen.health else "",
        checked_at=None,
        latency_ms=None,
        key_created_at=seen.key_created_at if seen else None,
        rotation_due=_due(document, seen, rotated),
        last_rotation=rotated,
        operations=tuple(operations),
        observed_revision=seen.observed_revision if seen else None,
        actions=tuple(seen.actions) if seen and spec.agent.key else (),
    )


def with_probe(row: ServiceRow, fresh: FreshProbe, interval: timedelta) -> ServiceRow:
    """The row with its latest probe; STALE when its reconciler lives and has not probed it in time."""
    probe = fresh.probe
    held_up = probe.ok and fresh.beat - fresh.at > max(STALE_INTERVALS * interval, LEAST_PATIENCE)
    row = replace(
        row,
        checked_at=fresh.at,
        latency_ms=probe.latency_ms,
        probe_reason="" if probe.ok else probe.reason or "NoAnswer",
        health=probe.status or row.health,
        # A detail belongs to the health it was said with.
        health_detail=row.health_detail if probe.status in (None, row.health) else "",
        enabled_observed=row.enabled_observed if probe.enabled is None else probe.enabled,
    )
    return _stale(row, "AnswerOld") if held_up else row


def without_pulse(row: ServiceRow, since: datetime | None) -> ServiceRow:
    """The row when no reconciler lives any more; `since` is the last sign of life."""
    return replace(_stale(row, "HeartbeatDead"), since=since)


def without_heartbeat(row: ServiceRow) -> ServiceRow:
    """The row where no heartbeat is known at all: what was recorded may be of any age."""
    return replace(_stale(row, "HeartbeatUnknown"), status="UNKNOWN")


def _stale(row: ServiceRow, reason: str) -> ServiceRow:
    return replace(row, status="STALE", reason=reason, message=_lower(STATUS_REASONS[reason]), since=None)


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:].rstrip(".")


def _status(document: Service, status: ServiceStatus | None) -> StatusNow:
    """The recorded word, unless the document has been switched off since."""
    recorded = (
        StatusNow(status.spec.effective_status, status.spec.reason, status.spec.message) if status else None
    )
    if recorded and recorded.status in ("DISABLING", "DISABLED"):
        return recorded
    switched = effective_status(
        enabled=document.spec.enabled, observation=None, grace=timedelta(0), before=status
    )
    return switched or recorded or StatusNow("UNKNOWN", "NeverSeen", "the agent has not answered yet")


def _drift(seen: StatusSpec | None) -> tuple[Drift, ...]:
    items = seen.drift if seen else ()
    return tuple(Drift(item.pin, item.desired, item.observed, item.since) for item in items)


def _conditions(
    seen: StatusSpec | None, recorded: Recorded | None, pending: PendingChange | None
) -> tuple[ConditionRow, ...]:
    rows = (
        [ConditionRow(item.type, item.reason, item.message, item.since) for item in seen.conditions]
        if seen
        else []
    )
    if recorded and recorded.problem:
        rows.append(ConditionRow("StatusUnreadable", "StatusUnreadable", recorded.problem))
    if pending:
        rows.append(ConditionRow("ChangePending", pending.reason, pending.message))
    return tuple(rows)


def _due(document: Service, seen: StatusSpec | None, rotated: OperationRow | None) -> datetime | None:
    if document.spec.rotation is None:
        return None
    created = seen.key_created_at if seen else None
    begun = created or (rotated.recorded_at if rotated else None)
    return begun + document.spec.rotation.every if begun else None


def _text(value: str | int | bool | None) -> str | None:
    return None if value is None else str(value)
