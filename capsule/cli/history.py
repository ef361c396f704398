"""`capsule history`: how available services were."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Column, Screen
from capsule.cli.shared import complete_services, json_option, now, offline_option, opened, tell_fetched

if TYPE_CHECKING:
    from datetime import datetime

    from capsule.view.uptime import DayRow, HistoryRow, WindowRow

_WINDOWS = ("24h", "7d", "30d", "90d")
_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "12345678"
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@click.command()
@click.argument("service", required=False, default="", shell_complete=complete_services)
@click.option(
    "--window",
    type=click.Choice(_WINDOWS),
    default="90d",
    show_default=True,
    help="Incidents of how long are told.",
)
@offline_option
@json_option
@click.pass_obj
def history(options: Globals, service: str, window: str, offline: bool, as_json: bool) -> None:
    """How available services were: uptime over 24 h, 7, 30 and 90 days, and incidents.

    Computed from what reconcilers recorded on `audit`. Uptime is the share of HEALTHY in the time that a
    service was up or down (UNHEALTHY, OFFLINE): what is disabled or not known counts neither way.
    """
    from capsule.commands.history import histories
    from capsule.commands.reads import look
    from capsule.view.model import as_json as value_of

    with opened(options, offline=offline) as repository:
        seen = look(repository, now())
        tell_fetched(repository, to_people=not as_json)
        found = histories(repository, seen, service)
    if found.cut:
        Screen(err=True).line(
            "This clone does not reach back to the beginning of the longest window [HistoryMissing]; "
            "`git fetch --unshallow` gets the rest.",
            style="yellow",
        )
    rows = [_within(row, window, seen.now) for row in found.rows]
    if as_json:
        Screen().json(value_of(rows[0] if service else rows))
    elif service:
        _show_one(rows[0], window)
    elif rows:
        _show_all(rows, window)
    else:
        Screen().line("No services.")


def _within(row: HistoryRow, window: str, at: datetime) -> HistoryRow:
    """The row with the incidents of the window alone."""
    from dataclasses import replace

    from capsule.view.uptime import WINDOWS

    begun = at - WINDOWS[window]
    kept = tuple(each for each in row.incidents if each.end is None or each.end > begun)
    return replace(row, incidents=kept)


def share(window: WindowRow) -> str:
    """The uptime of a window; where little of it is on record, of how much: "100 % of 3m"."""
    from capsule.view.uptime import percent, thin_record

    known = thin_record(window)
    return percent(window.uptime) + ("" if known is None else f" of {lasted(known)}")


def _show_all(rows: list[HistoryRow], window: str) -> None:
    Screen().table(
        [Column("SERVICE"), *(Column(name) for name in _WINDOWS), Column("INCIDENTS"), Column("LONGEST")],
        [
            (
                row.service,
                *(share(each) for each in row.windows),
                _of(row, window).incidents,
                lasted(_of(row, window).longest) if _of(row, window).incidents else "",
            )
            for row in rows
        ],
    )


def _of(row: HistoryRow, window: str) -> WindowRow:
    return next(each for each in row.windows if each.window == window)


def _show_one(row: HistoryRow, window: str) -> None:
    screen = Screen()
    screen.line(row.service, bold=True)
    screen.facts((each.window, f"{share(each)}{_more(each)}") for each in row.windows)
    screen.line()
    _show_days(screen, row.days[-max(7, int(_days(window))) :])
    screen.line()
    if not row.incidents:
        screen.line(f"No incident in the last {window}.")
        return
    screen.table(
        [
            Column("BEGAN"), Column("ENDED"), Column("LASTED"), Column("STATUS"), Column("REASON"),
            Column("MESSAGE", whole=False),
        ],
        [
            (
                _moment(each.start), _moment(each.end) if each.end else "lasts", lasted(each.duration),
                each.status, each.reason, each.message,
            )
            for each in row.incidents
        ],
    )  # fmt: skip


def _more(window: WindowRow) -> str:
    parts = []
    if window.incidents:
        many = "incident" if window.incidents == 1 else "incidents"
        parts.append(f"{window.incidents} {many}, longest {lasted(window.longest)}")
    if window.excluded:
        parts.append(f"disabled for {lasted(window.excluded)}")
    if window.unknown:
        parts.append(f"not known for {lasted(window.unknown)}")
    return f"  ({'; '.join(parts)})" if parts else ""


def _days(window: str) -> float:
    from capsule.view.uptime import WINDOWS

    return WINDOWS[window] / timedelta(days=1)


def _show_days(screen: Screen, days: tuple[DayRow, ...]) -> None:
    """One character a day, oldest first: how much of it was up. In rows where the terminal is narrow."""
    levels = _LEVELS if screen.unicode else _PLAIN_LEVELS
    bar = "".join(_day(each, levels) for each in days)
    in_a_line = next((fits for fits in (len(bar), 45, 30) if fits + 2 <= screen.width), 15)
    for at in range(0, len(bar), in_a_line):
        screen.line(f"  {bar[at : at + in_a_line]}")
    screen.line(
        f"  {days[0].day} to {days[-1].day}: {levels[-1]} up, {levels[0]} down, - disabled, . not known",
        dim=True,
    )


def _day(day: DayRow, levels: str) -> str:
    if day.uptime is None:
        return "-" if day.kind == "excluded" else "."
    # The highest level is for days without any trouble.
    return levels[-1] if day.kind == "up" else levels[min(int(day.uptime * len(levels)), len(levels) - 2)]


def lasted(length: timedelta) -> str:
    """A length of time in its two largest units, such as "2h 5m"."""
    seconds = int(length.total_seconds())
    parts = []
    for size, unit in _UNITS:
        if seconds >= size:
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return " ".join(parts[:2]) or "0s"


def _moment(then: datetime) -> str:
    return f"{then:%Y-%m-%d %H:%M:%S}Z"


COMMANDS = {"history": history}
