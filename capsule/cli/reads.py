"""The verbs that look: services, show, requests, plan, log."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Column, Screen
from capsule.cli.shared import (
    ago,
    complete_either,
    complete_services,
    duration,
    json_option,
    now,
    opened,
    pair,
    tell_fetched,
)
from capsule.cli.ssh_options import ssh_access, ssh_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from capsule.plan import Plan
    from capsule.view.model import OperationRow, RequestRow, ServiceRow, Snapshot, TrailRow

STATUSES = ("STALE", "DISABLING", "DISABLED", "OFFLINE", "UNHEALTHY", "UNKNOWN", "HEALTHY")
PHASES = (
    "Proposed", "Approved", "Held", "Running", "Succeeded", "Failed", "Stopped", "Rejected", "Expired",
    "Cancelled", "Unknown",
)  # fmt: skip


@click.command()
@click.option(
    "--selector", "-l", type=pair, metavar="KEY=VALUE", multiple=True, help="Only services with this label."
)
@click.option("--status", "-s", type=click.Choice(STATUSES, case_sensitive=False), help="Only this status.")
@json_option
@click.pass_obj
def services(
    options: Globals, selector: tuple[tuple[str, str], ...], status: str | None, as_json: bool
) -> None:
    """All services: effectiveStatus, what each is pinned to, drift, health, last rotation."""
    from capsule.commands.reads import look
    from capsule.commands.reads import services as choose
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        rows = choose(seen, dict(selector), status)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    screen = Screen()
    if not rows:
        screen.line("No services." if not seen.services else "No service fits.")
    else:
        screen.table(
            [
                Column("SERVICE"), Column("STATUS"), Column("MODEL"), Column("VERSION"),
                Column("UPSTREAM", whole=False), Column("DRIFT", whole=False), Column("HEALTH"),
                Column("KEY ROTATED"), Column("LOOK AT", whole=False),
            ],
            [_service_cells(row, seen.now) for row in rows],
        )  # fmt: skip
    _conditions(seen)


@click.command()
@click.option("--phase", type=click.Choice(PHASES, case_sensitive=False), help="Only this phase.")
@json_option
@click.pass_obj
def requests(options: Globals, phase: str | None, as_json: bool) -> None:
    """All requests, newest first, with phase and evidence."""
    from capsule.commands.reads import look
    from capsule.commands.reads import requests as choose
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        rows = choose(seen, phase)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    screen = Screen()
    if not rows:
        screen.line("No requests." if phase is None else f"No request is {phase}.")
        return
    screen.table(
        [
            Column("REQUEST"), Column("PHASE"), Column("ACTION"), Column("TARGETS", whole=False),
            Column("BY"), Column("APPROVED BY"), Column("EVIDENCE"), Column("WHY", whole=False),
        ],
        [
            (
                row.name, row.phase, row.action, _some(row.targets), row.requested_by,
                ", ".join(_approvers(row)), row.evidence, row.message or row.why,
            )
            for row in rows
        ],
    )  # fmt: skip


@click.command()
@click.argument("name", metavar="SERVICE|REQUEST", shell_complete=complete_either)
@json_option
@click.pass_obj
def show(options: Globals, name: str, as_json: bool) -> None:
    """One service or one request, with everything known about it."""
    from capsule.commands.reads import look, one
    from capsule.view.model import RequestRow
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        row = one(seen, name)
    if as_json:
        Screen().json(value_of(row))
    elif isinstance(row, RequestRow):
        _show_request(row)
    else:
        _show_service(row, seen.now)


@click.command()
@click.option("--offline", is_flag=True, help="Ask no agent; what is approved then shows as held.")
@ssh_options
@json_option
@click.pass_obj
def plan(
    options: Globals,
    offline: bool,
    ssh_keys: tuple[Path, ...],
    ssh_config: Path | None,
    known_hosts: tuple[Path, ...],
    as_json: bool,
) -> None:
    """What the next pass would do with each request, and why. Changes nothing.

    Agents that an approved request waits for are asked for a report, as the reconciler would.
    """
    from capsule.commands.plan import next_pass
    from capsule.commands.reconcile import make_transport
    from capsule.reconciler.clock import SystemClock
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        access = ssh_access(ssh_keys, ssh_config, known_hosts)
        transport = None if offline else make_transport(ssh=access)
        try:
            found = next_pass(repository, transport, SystemClock())
            tell_fetched(repository, to_people=not as_json)
        finally:
            if transport:
                transport.close()
    if as_json:
        Screen().json(value_of(found))
    else:
        _show_plan(found)


@click.command()
@click.argument("service", required=False, default="", shell_complete=complete_services)
@click.option("--action", default="", help="Only this action.")
@click.option("--since", type=duration, metavar="DURATION", help="Not older than this, such as 30d.")
@click.option(
    "--limit", "-n", type=click.IntRange(1), default=100, show_default=True, help="At most so many."
)
@json_option
@click.pass_obj
def log(
    options: Globals, service: str, action: str, since: timedelta | None, limit: int, as_json: bool
) -> None:
    """Who asked, who approved, what happened, when: the story of `audit`, newest first."""
    from capsule.commands.reads import log as read
    from capsule.commands.reads import require_known
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        start = now() - since if since else None
        rows = read(repository, service, action, start, limit)
        if not rows and service:
            require_known(repository, service, now())
        tell_fetched(repository, to_people=not as_json)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    screen = Screen()
    if not rows:
        screen.line("Nothing is on record" + (" that fits." if service or action or since else " yet."))
        return
    screen.table(
        [
            Column("WHEN"), Column("COMMIT"), Column("WHAT", whole=False), Column("ASKED BY"),
            Column("APPROVED BY"), Column("EVIDENCE"), Column("REASON"),
        ],
        [_log_cells(row) for row in rows],
    )  # fmt: skip


# ---- cells --------------------------------------------------------------------------------------


def _service_cells(row: ServiceRow, at: datetime) -> tuple[object, ...]:
    attention = [f"{item.type}: {item.message or item.reason}" for item in row.conditions]
    return (
        row.name,
        row.status,
        row.model or "",
        row.version or "",
        row.upstream or "",
        ", ".join(f"{item.pin} {text(item.observed)} ≠ {text(item.desired)}" for item in row.drift),
        f"{row.health or ''}{f' {ago(row.checked_at, at)}' if row.checked_at else ''}".strip(),
        _rotated(row.last_rotation, at),
        "; ".join(attention) or (row.reason if row.status not in ("HEALTHY", "DISABLED") else ""),
    )


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
        row.subject,
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


# ---- pages --------------------------------------------------------------------------------------


def _conditions(seen: Snapshot) -> None:
    screen = Screen(err=True)
    if seen.suspended:
        screen.line(f"Suspended, nothing is acted on: {seen.suspended}. See `capsule doctor`.", style="red")
    if seen.services and not any(beat.alive for beat in seen.heartbeats):
        last = max((beat.at for beat in seen.heartbeats), default=None)
        since = f"since {ago(last, seen.now)}" if last else "so far"
        screen.line(f"No reconciler gave a sign of life ({since}): what is shown may be old.", style="yellow")
    for condition in seen.conditions:
        loud = condition.type == "BreakGlass"
        mark = "BREAK-GLASS: " if loud else ""
        screen.line(f"{mark}{condition.message} [{condition.reason}]", style="red" if loud else "yellow")


def _show_service(row: ServiceRow, at: datetime) -> None:
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


def _show_request(row: RequestRow) -> None:
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
            Column("SERVICE" if with_service else "REQUEST"), Column("ACTION"), Column("OUTCOME"),
            Column("REASON"), Column("WHEN"), Column("BY"), Column("APPROVED BY"), Column("EVIDENCE"),
            Column("OUTPUTS", whole=False),
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


def _show_plan(found: Plan) -> None:
    screen = Screen()
    if found.suspended:
        screen.line(f"Suspended, nothing would be acted on: {found.suspended}", style="red")
    if not found.rows:
        screen.line("The next pass would do nothing.")
        return
    screen.table(
        [
            Column("REQUEST"), Column("SERVICE"), Column("ACTION"), Column("STEP"), Column("REASON"),
            Column("WHY", whole=False), Column("UNTIL"),
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


COMMANDS = {"services": services, "requests": requests, "show": show, "plan": plan, "log": log}
