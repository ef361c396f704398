"""The verbs that look: services, show, requests, plan, log."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.read_pages import (
    show_log,
    show_plan,
    show_request,
    show_requests,
    show_service,
    show_services,
)
from capsule.cli.screen import Screen
from capsule.cli.shared import (
    complete_either,
    complete_services,
    duration,
    json_option,
    now,
    offline_option,
    opened,
    pair,
    tell_fetched,
)
from capsule.cli.ssh_options import ssh_access, ssh_options

if TYPE_CHECKING:
    from pathlib import Path


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
@offline_option
@json_option
@click.pass_obj
def services(
    options: Globals, selector: tuple[tuple[str, str], ...], status: str | None, offline: bool, as_json: bool
) -> None:
    """All services: effectiveStatus, what each is pinned to, drift, health, last rotation."""
    from capsule.commands.reads import look
    from capsule.commands.reads import services as choose
    from capsule.view.model import as_json as value_of

    with opened(options, offline=offline) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        rows = choose(seen, dict(selector), status)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    show_services(rows, seen)


@click.command()
@click.option("--phase", type=click.Choice(PHASES, case_sensitive=False), help="Only this phase.")
@offline_option
@json_option
@click.pass_obj
def requests(options: Globals, phase: str | None, offline: bool, as_json: bool) -> None:
    """All requests, with phase and evidence: what waits for approval, what is under way, then the newest."""
    from capsule.commands.reads import look
    from capsule.commands.reads import requests as choose
    from capsule.view.model import as_json as value_of

    with opened(options, offline=offline) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        rows = choose(seen, phase)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    show_requests(rows, phase)


@click.command()
@click.argument("name", metavar="SERVICE|REQUEST", shell_complete=complete_either)
@offline_option
@json_option
@click.pass_obj
def show(options: Globals, name: str, offline: bool, as_json: bool) -> None:
    """One service or one request, with everything known about it."""
    from capsule.commands.reads import in_own_words, look, one
    from capsule.view.model import RequestRow
    from capsule.view.model import as_json as value_of

    with opened(options, offline=offline) as repository:
        seen = look(repository, now())
        row = one(seen, name)
        if isinstance(row, RequestRow):
            row = in_own_words(repository, row)
        tell_fetched(repository, to_people=not as_json)
    if as_json:
        Screen().json(value_of(row))
    elif isinstance(row, RequestRow):
        show_request(row)
    else:
        show_service(row, seen.now)


@click.command()
@click.option(
    "--offline", is_flag=True, help="Ask no agent and fetch nothing; what is approved then shows as held."
)
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

    with opened(options, offline=offline) as repository:
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
        show_plan(found)


@click.command()
@click.argument("service", required=False, default="", shell_complete=complete_services)
@click.option("--action", default="", help="Only this action.")
@click.option("--since", type=duration, metavar="DURATION", help="Not older than this, such as 30d.")
@click.option(
    "--limit", "-n", type=click.IntRange(1), default=100, show_default=True, help="At most so many."
)
@offline_option
@json_option
@click.pass_obj
def log(
    options: Globals,
    service: str,
    action: str,
    since: timedelta | None,
    limit: int,
    offline: bool,
    as_json: bool,
) -> None:
    """Who asked, who approved, what happened, when: the story of `audit`, newest first."""
    from capsule.commands.reads import log as read
    from capsule.commands.reads import require_known
    from capsule.view.model import as_json as value_of

    with opened(options, offline=offline) as repository:
        start = now() - since if since else None
        rows = read(repository, service, action, start, limit)
        if not rows and service:
            require_known(repository, service, now())
        tell_fetched(repository, to_people=not as_json)
    if as_json:
        Screen().json([value_of(row) for row in rows])
        return
    show_log(rows, chosen=bool(service or action or since))


COMMANDS = {"services": services, "requests": requests, "show": show, "plan": plan, "log": log}
