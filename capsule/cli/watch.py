"""`capsule watch`: what happens, while it happens.

Rules kept: on a terminal one page that is drawn anew; elsewhere, and with --json, one line for each change,
at once; ended by Ctrl-C alone, which is exit code 130.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen, clean
from capsule.cli.shared import ago, opened

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from capsule.commands.watch import Look
    from capsule.view.differences import Difference
    from capsule.view.model import Snapshot

_PAUSE = 1.0
_OPEN = ("Proposed", "Approved", "Held", "Running")
_FEWEST_ROWS = 3


@click.command()
@click.option(
    "--fetch",
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    help="Fetch from the remote so often; without it only what others fetch or write here is seen.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each change.")
@click.pass_obj
def watch(options: Globals, fetch: int | None, as_json: bool) -> None:
    """Follow live what happens: transitions, drift, requests, operations. Stop it with Ctrl-C.

    On a terminal: services that need attention, operations under way, open requests, the last lines of
    `audit` and how old heartbeats are. Elsewhere one line for each change.
    """
    from capsule.commands.watch import watch as follow

    live = sys.stdout.isatty() and not as_json
    every = timedelta(seconds=fetch) if fetch else None
    bell = threading.Event()  # never rung: waiting for it is a pause that Ctrl-C ends at once
    with opened(options) as repository:
        if fetch and not repository.store.has_remote():
            Screen(err=True).line("There is no remote to fetch from: changes here are seen as they come.")
        looks = follow(repository, lambda: datetime.now(UTC), lambda: bell.wait(_PAUSE), every)
        if live:
            _draw(looks)
        else:
            _print(looks, as_json)


def _print(looks: Iterator[Look], as_json: bool) -> None:
    away = ""
    for at, look in enumerate(looks):
        if at == 0:
            count = len(look.seen.services)
            Screen(err=True).line(f"Watching {count} service{'' if count == 1 else 's'}.")
        if look.away != away:
            away = look.away
            Screen(err=True).line(f"Cannot fetch: {away}" if away else "Fetching again.", style="yellow")
        for change in look.changed:
            click.echo(_json_line(change) if as_json else _line(change))
        sys.stdout.flush()


def _json_line(change: Difference) -> str:
    from capsule.view.model import as_json

    return json.dumps(as_json(change), ensure_ascii=True)


def _line(change: Difference) -> str:
    """Such as "2026-11-23T03:00:00Z status openai-chat: HEALTHY → OFFLINE [AgentTimeout] no answer"."""
    about = " ".join(part for part in (change.request, change.service) if part)
    what = "" if change.kind == "status" else f"{change.what} "
    arrow = f"{change.before or 'nothing'} -> {change.after or 'nothing'}"
    head = f"{change.at:%Y-%m-%dT%H:%M:%SZ} {change.kind}"
    reason = f" [{change.reason}]" if change.reason else ""
    return clean(f"{head} {f'{about}: ' if about else ''}{what}{arrow}{reason} {change.message}".rstrip())


# ---- on a terminal ------------------------------------------------------------------------------


def _draw(looks: Iterator[Look]) -> None:
    from rich.console import Console
    from rich.live import Live

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves the page as Ctrl-C does
    console = Console(highlight=False, markup=False, emoji=False, no_color=not Screen().colour)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(page(look, console.height), refresh=True)


def page(look: Look, height: int) -> RenderableType:
    """Everything that fits on a terminal of so many lines."""
    from rich.console import Group
    from rich.text import Text

    seen = look.seen
    room = max(height - 10, 4 * _FEWEST_ROWS)
    parts: list[RenderableType] = [Text(clean(seen.title or "Capsule"), style="bold"), Text(_pulse(seen))]
    if seen.suspended:
        parts.append(Text(clean(f"Suspended, nothing is acted on: {seen.suspended}"), style="red"))
    if look.away:
        parts.append(Text(clean(f"Cannot fetch: {look.away}"), style="yellow"))
    for title, table, rows in (_attention(seen), _under_way(seen), _open(seen)):
        shown = max(_FEWEST_ROWS, room // 4)
        parts += [Text(""), Text(f"{title} ({len(rows)})", style="bold")]
        parts.append(_filled(table, rows[:shown]) if rows else Text("none", style="dim"))
        if len(rows) > shown:
            parts.append(Text(f"and {len(rows) - shown} more", style="dim"))
    parts += [Text(""), Text("Audit", style="bold")]
    parts += [
        Text(clean(f"{row.at:%m-%d %H:%M:%S}Z  {row.subject}"), no_wrap=True, overflow="ellipsis")
        for row in look.trail[: max(_FEWEST_ROWS, room // 4)]
    ]
    return Group(*parts)


def _pulse(seen: Snapshot) -> str:
    counts: dict[str, int] = {}
    for row in seen.services:
        counts[row.status] = counts.get(row.status, 0) + 1
    services = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no services"
    beats = ", ".join(
        f"{beat.reconciler} {'' if beat.alive else 'silent, '}{ago(beat.at, seen.now)}"
        for beat in seen.heartbeats
    )
    return clean(f"{seen.now:%Y-%m-%d %H:%M:%S}Z  {services}  heartbeats: {beats or 'none'}")


Rows = list[tuple[object, ...]]


def _attention(seen: Snapshot) -> tuple[str, Table, Rows]:
    from capsule.view.model import needs_attention

    rows: Rows = [
        (
            row.name,
            row.status,
            ago(row.since, seen.now).removesuffix(" ago") if row.since else "",
            "; ".join([row.message or row.reason, *(f"drift of {item.pin}" for item in row.drift)]),
        )
        for row in seen.services
        if needs_attention(row)
    ]
    return "Needs attention", _table("SERVICE", "STATUS", "FOR", "WHY"), rows


def _under_way(seen: Snapshot) -> tuple[str, Table, Rows]:
    rows: Rows = [
        (item.service, item.action, item.request, ago(item.claimed_at, seen.now), item.message)
        for row in seen.requests
        for item in row.operations
        if item.outcome == "running"
    ]
    return "Under way", _table("SERVICE", "ACTION", "REQUEST", "BEGUN", "WHY"), rows


def _open(seen: Snapshot) -> tuple[str, Table, Rows]:
    rows: Rows = [
        (row.name, row.phase, row.requested_by, row.message or row.why)
        for row in seen.requests
        if row.phase in _OPEN
    ]
    return "Open requests", _table("REQUEST", "PHASE", "BY", "WHY"), rows


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for title in titles:
        last = title == titles[-1]  # takes what the others leave, and is cut
        table.add_column(
            title, no_wrap=True, overflow="ellipsis" if last else "ignore", ratio=1 if last else None
        )
    return table


def _filled(table: Table, rows: Rows) -> Table:
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(clean(cell), style=Screen.style_of(str(cell))) for cell in row))
    return table


COMMANDS = {"watch": watch}
