"""What people see when they look: services, requests, one of them whole, the plan, the log. Called by cli."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capsule.cli.screen import Column, Screen
from capsule.cli.shared import ago, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from capsule.plan import Plan
    from capsule.view.model import OperationRow, RequestRow, ServiceRow, Snapshot, TrailRow


def show_services(rows: Sequence[ServiceRow], seen: Snapshot) -> None:
    screen = Screen()
    if not rows:
        screen.line("No services." if not seen.services else "No service fits.")
    else:
        screen.table(
            [
                Column("SERVICE"), Column("STATUS"), Column("MODEL", spare=3), Column("VERSION", spare=2),
                Column("UPSTREAM", whole=False, spare=1), Column("DRIFT", whole=False),
                Column("HEALTH", spare=5), Column("KEY ROTATED", spare=4), Column("LOOK AT", whole=False),
            ],
            [_service_cells(row, seen.now) for row in rows],
        )  # fmt: skip
    show_conditions(seen)


def show_requests(rows: Sequence[RequestRow], phase: str | None) -> None:
    screen = Screen()
    if not rows:
        screen.line("No requests." if phase is None else f"No request is {phase}.")
        return
    screen.table(
        [
            Column("REQUEST"), Column("PHASE"), Column("ACTION", spare=5),
            Column("TARGETS", whole=False, spare=3),
            Column("BY", spare=4), Column("APPROVED BY", spare=2), Column("EVIDENCE", spare=1),
            Column("WHY", whole=False),
        ],
        [
            (
                row.name, row.phase, row.action, _some(row.targets), row.requested_by,
                ", ".join(_approvers(row)), row.evidence, row.message or row.why,
            )
            for row in rows
        ],
    )  # fmt: skip


def show_log(rows: Sequence[TrailRow], *, chosen: bool) -> None:
    screen = Screen()
    if not rows:
        screen.line("Nothing is on record" + (" that fits." if chosen else " yet."))
        return
    screen.table(
        [
            Column("WHEN"), Column("COMMIT", spare=4), Column("WHAT", whole=False),
            Column("ASKED BY", spare=3), Column("APPROVED BY", spare=3), Column("EVIDENCE", spare=1),
            Column("REASON", spare=2),
        ],
        [_log_cells(row) for row in rows],
    )  # fmt: skip


def show_conditions(seen: Snapshot) -> None:
    screen = Screen(err=True)
    if seen.suspended:
        screen.line(f"Suspended, nothing is acted on: {seen.suspended}. See `capsule doctor`.", style="red")
    if seen.services and not any(beat.alive for beat in seen.heartbeats):
        last = max((beat.at for beat in seen.heartbeats), default=None)
        since = f"since {ago(last, seen.now)}" if last else "so far"
        screen.line(f"No reconciler gave a sign of life ({since}): what is shown may be old.", style="yellow")
    for freeze in seen.freezes:
        screen.line(f"{freeze.message} [{freeze.reason}]", style="cyan")
    for condition in seen.conditions:
        loud = condition.type == "BreakGlass"
        mark = "BREAK-GLASS: " if loud else ""
        screen.line(f"{mark}{condition.message} [{condition.reason}]", style="red" if loud else "yellow")


def show_service(row: ServiceRow, at: datetime) -> None:
    screen = Screen()
    screen.line(row.name, bold=True)
    screen.facts(
        [
            ("status", row.status),
            ("", f"{row.reason}{f': {row.message}' if row.message else ''}"),
            ("since", _when(row.since, at)),
            ("labels", ", ".join(f"{key}={value}" for key, value in row.labels.items())),
            ("enabled", text(row.enabled_desired)),
            ("agent", row.endpoint),
            ("pins", "\n".join(f"{key} = {text(value)}" for key, value in row.pins.items())),
            ("observed", "\n".join(f"{key} = {text(value)}" for key, value in row.values.items())),
            ("health", f"{row.health} {row.health_detail}".strip() if row.health else ""),
            ("checked", _when(row.checked_at, at)),
            ("latency", f"{row.latency_ms} ms" if row.latency_ms is not None else ""),
            ("key since", _when(row.key_created_at, at)),
            ("key due", _moment(row.rotation_due)),
            ("owner", row.owner),
            ("runbook", row.runbook),
            ("document", row.path),
        ]
    )
    for item in row.drift:
        since = _when(item.since, at)
        screen.line(
            f"  drift: {item.pin} is {text(item.observed)}, should be {text(item.desired)}, since {since}",
            style="yellow",
        )
    for condition in row.conditions:
        screen.line(f"  {condition.type}: {condition.message} [{condition.reason}]", style="yellow")
    _show_operations(screen, row.operations, at, with_service=False)


def show_request(row: RequestRow) -> None:
    screen = Screen()
    at = now()
    screen.line(row.name, bold=True)
    screen.facts(
        [
            ("phase", row.phase),
            ("", f"{row.message}{f' [{row.reason}]' if row.reason else ''}".strip()),
            ("action", row.action),
            ("with", ", ".join(f"{key}={text(value)}" for key, value in row.params.items())),
            ("targets", "\n".join(row.targets)),
            ("asked by", row.requested_by),
            ("reason", row.why),
            ("expires", _moment(row.expires)),
            ("evidence", row.evidence),
            ("lies on", row.source if row.source == "main" else f"branch request/{row.name}"),
            ("document", row.path),
            ("digest", row.digest),
        ]
    )
    if row.evidence == "break-glass":
        screen.line(f"  BREAK-GLASS: {row.requested_by} acted without approvals.", style="red")
    for each in row.approvals:
        note = "" if each.counts else f", does not count: {each.message} [{each.reason}]"
        screen.line(
            f"  {each.principal}: {each.decision} ({each.evidence}){note}",
            style=None if each.counts else "yellow",
        )
    for missing in row.missing:
        who = ", ".join(missing.candidates) or "nobody can"
        screen.line(f"  missing: {missing.count} of {missing.team} ({who})", style="yellow")
    _show_operations(screen, row.operations, at, with_service=True)


def _show_operations(
    screen: Screen, operations: Sequence[OperationRow], at: datetime, *, with_service: bool
) -> None:
    if not operations:
        return
    screen.line()
    screen.table(
        [
            Column("SERVICE" if with_service else "REQUEST"), Column("ACTION", spare=6), Column("OUTCOME"),
            Column("REASON", spare=2), Column("WHEN"), Column("BY", spare=5), Column("APPROVED BY", spare=4),
            Column("EVIDENCE", spare=1), Column("OUTPUTS", whole=False, spare=3),
        ],
        [
            (
                item.service if with_service else item.request, item.action, item.outcome, item.reason,
                ago(item.recorded_at or item.claimed_at, at), item.requested_by, ", ".join(item.approved_by),
                item.evidence, ", ".join(f"{key}={text(value)}" for key, value in item.outputs.items()),
            )
            for item in operations
        ],
    )  # fmt: skip


def show_plan(found: Plan) -> None:
    screen = Screen()
    if found.suspended:
        screen.line(f"Suspended, nothing would be acted on: {found.suspended}", style="red")
    if not found.rows:
        screen.line("The next pass would do nothing.")
        return
    screen.table(
        [
            Column("REQUEST"), Column("SERVICE", spare=3), Column("ACTION", spare=2), Column("STEP"),
            Column("REASON", spare=1), Column("WHY", whole=False), Column("UNTIL"),
        ],
        [
            (row.request, row.service, row.action, row.step, row.reason, row.message, _moment(row.until))
            for row in found.rows
        ],
    )  # fmt: skip


def _when(then: datetime | None, at: datetime) -> str:
    return f"{_moment(then)} ({ago(then, at)})" if then else ""


def _moment(then: datetime | None) -> str:
    return f"{then:%Y-%m-%d %H:%M:%S}Z" if then else ""


# ---- cells --------------------------------------------------------------------------------------


def _service_cells(row: ServiceRow, at: datetime) -> tuple[object, ...]:
    attention = [f"{item.type}: {item.message or item.reason}" for item in row.conditions]
    return (
        row.name,
        row.status,
        row.model or "",
        row.version or "",
        row.upstream or "",
        ", ".join(f"{pin} {text(observed)} ≠ {text(desired)}" for pin, observed, desired in _differing(row)),
        f"{_health(row)}{f' {ago(row.checked_at, at)}' if row.checked_at else ''}".strip(),
        _rotated(row.last_rotation, at),
        "; ".join(attention) or (row.reason if row.status not in ("HEALTHY", "DISABLED") else ""),
    )


def _health(row: ServiceRow) -> str:
    return row.health or ("no answer" if row.probe_reason else "")


def _differing(row: ServiceRow) -> list[tuple[str, object, object]]:
    """What is observed and should be otherwise, `enabled` first."""
    from capsule.view.model import switched_otherwise

    switched = [("enabled", row.enabled_observed, row.enabled_desired)] if switched_otherwise(row) else []
    return [*switched, *((item.pin, item.observed, item.desired) for item in row.drift)]


def _rotated(operation: OperationRow | None, at: datetime) -> str:
    if operation is None or operation.recorded_at is None:
        return ""
    return f"{ago(operation.recorded_at, at)} by {operation.requested_by}"


def _log_cells(row: TrailRow) -> tuple[object, ...]:
    def trailer(name: str) -> str:
        return ", ".join(row.trailers.get(name, ()))

    return (
        f"{row.at:%Y-%m-%d %H:%M:%S}Z",
        row.commit[:12],
        f"{row.subject}: {row.about}" if row.about else row.subject,
        trailer("Requested-by"),
        trailer("Approved-by"),
        trailer("Capsule-Evidence"),
        trailer("Capsule-Reason"),
    )


def _approvers(row: RequestRow) -> list[str]:
    return [each.principal for each in row.approvals if each.counts and each.decision == "approve"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def text(value: object) -> str:
    """A value of a document as people write it."""
    return (
        {True: "true", False: "false", None: "nothing"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )
