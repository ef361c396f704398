"""How available a service was: uptime, incidents and days, from the moments at which its status changed.

Rules kept: pure; every instant is UTC, so no summer time and no leap day changes a length; HEALTHY is up,
UNHEALTHY and OFFLINE are down, DISABLING and DISABLED are left out, everything else is not known; uptime is
the share of up in up and down together, and nothing where neither is known. Called by commands and web.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Literal

from capsule.documents.types import EffectiveStatus
from capsule.view.model import Snapshot

Kind = Literal["up", "down", "excluded", "unknown"]
KINDS: tuple[Kind, ...] = ("up", "down", "excluded", "unknown")
WINDOWS: dict[str, timedelta] = {
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
LONGEST = WINDOWS["90d"]
DAYS = 90
_ENOUGH = 0.9

_KIND_OF: dict[str | None, Kind] = {
    "HEALTHY": "up",
    "UNHEALTHY": "down",
    "OFFLINE": "down",
    "DISABLING": "excluded",
    "DISABLED": "excluded",
}
_WORST = ("OFFLINE", "UNHEALTHY")
_WORST_FIRST: tuple[Kind, ...] = ("down", "up", "excluded")

REASONS: dict[str, str] = {
    "NotOnRecord": "The history of a service: its status was taken off the record, so it is not known.",
    "NotRead": "The history of a service: nothing is on record for that time.",
    "NoSignOfLife": "The history of a service: no reconciler has given a sign of life since.",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """From `start` on the status was so; None when none was on record."""

    start: datetime
    status: EffectiveStatus | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time in which nothing changed."""

    start: datetime
    end: datetime
    status: EffectiveStatus | None
    reason: str
    message: str

    @property
    def kind(self) -> Kind:
        """Whether the service was up then, as far as is known."""
        return _KIND_OF.get(self.status, "unknown")

    @property
    def length(self) -> timedelta:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """A stretch in which the service was not up: from the first moment it was down to the last.

    `status` is the worst there was, with the `reason` and `message` it had first. `end` is None while it
    lasts; `duration` then counts until now. The time may lie partly before the window.
    """

    start: datetime
    end: datetime | None
    duration: timedelta
    status: EffectiveStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window: `uptime` is a share from 0 to 1, None where neither up nor down is known."""

    window: str
    uptime: float | None
    up: timedelta
    down: timedelta
    excluded: timedelta
    unknown: timedelta
    incidents: int
    longest: timedelta


@dataclass(frozen=True, slots=True)
class DayRow:
    """One day (UTC): `kind` is the worst word for it: down, else up, else excluded, else unknown."""

    day: str
    kind: Kind
    uptime: float | None
    down: timedelta


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """The history of one service: its windows, its incidents in the longest of them, newest first, its days.

    `known_since` is the first moment on record within the longest window.
    """

    service: str
    windows: tuple[WindowRow, ...]
    incidents: tuple[IncidentRow, ...]
    days: tuple[DayRow, ...]
    known_since: datetime | None


def history(
    service: str, moments: Sequence[Moment], now: datetime, known_until: datetime | None = None
) -> HistoryRow:
    """Everything that is told of the history of `service` at `now`.

    `known_until` is the last sign of life of a reconciler when none lives: nothing is known after it.
    """
    last = min(known_until or now, now)
    windows = tuple(_window(name, moments, now, last) for name in WINDOWS)
    begun = now - LONGEST
    known = [each for each in timeline(moments, begun, now, last) if each.kind != "unknown"]
    return HistoryRow(
        service=service,
        windows=windows,
        incidents=tuple(reversed(incidents(moments, begun, now, last))),
        days=tuple(_days(moments, now, last)),
        known_since=known[0].start if known else None,
    )


def last_sign(seen: Snapshot) -> datetime | None:
    """The last sign of life of a reconciler when none lives; None while one does, and nothing is missing."""
    if any(beat.alive for beat in seen.heartbeats):
        return None
    return max((beat.at for beat in seen.heartbeats), default=None)


def timeline(
    moments: Sequence[Moment], start: datetime, end: datetime, known_until: datetime
) -> tuple[Interval, ...]:
    """Intervals that follow each other without gap or overlap from `start` to `end`; none when it is empty.

    `moments` are in order of time.
    """
    points = [Moment(datetime.min.replace(tzinfo=UTC), None, "NotRead", ""), *moments]
    if known_until < end:
        points = [each for each in points if each.start < known_until]
        points.append(Moment(known_until, None, "NoSignOfLife", ""))
    ends = [after.start for _, after in pairwise(points)] + [end]
    found = []
    for point, until in zip(points, ends, strict=True):
        first, last = max(point.start, start), min(until, end)
        if first < last:
            found.append(Interval(first, last, point.status, point.reason, point.message))
    return tuple(found)


def incidents(
    moments: Sequence[Moment], start: datetime, end: datetime, known_until: datetime
) -> tuple[IncidentRow, ...]:
    """The incidents that end after `start`, oldest first; one that began before is whole."""
    first = min([start, *(each.start for each in moments)])
    found = []
    for run in _runs(timeline(moments, first, end, known_until)):
        if run[-1].end > start:
            worst = next(each for word in _WORST for each in run if each.status == word)
            assert worst.status is not None  # it is one of two words
            lasts = run[-1].end == end
            found.append(
                IncidentRow(
                    run[0].start,
                    None if lasts else run[-1].end,
                    run[-1].end - run[0].start,
                    worst.status,
                    worst.reason,
                    worst.message,
                )
            )
    return tuple(found)


def _runs(intervals: Sequence[Interval]) -> Iterator[list[Interval]]:
    """Stretches without up or excluded, trimmed to begin and end with down."""
    run: list[Interval] = []
    for each in intervals:
        if each.kind == "down" or (each.kind == "unknown" and run):
            run.append(each)
        elif run:
            yield _trimmed(run)
            run = []
    if run:
        yield _trimmed(run)


def _trimmed(run: list[Interval]) -> list[Interval]:
    last = max(at for at, each in enumerate(run) if each.kind == "down")
    return run[: last + 1]


def _window(name: str, moments: Sequence[Moment], now: datetime, last: datetime) -> WindowRow:
    start = now - WINDOWS[name]
    spent = _spent(timeline(moments, start, now, last))
    seen = incidents(moments, start, now, last)
    return WindowRow(
        window=name,
        uptime=_share(spent),
        up=spent["up"],
        down=spent["down"],
        excluded=spent["excluded"],
        unknown=spent["unknown"],
        incidents=len(seen),
        longest=max((each.duration for each in seen), default=timedelta(0)),
    )


def _days(moments: Sequence[Moment], now: datetime, last: datetime) -> Iterator[DayRow]:
    """The last days, oldest first; today as far as it has gone."""
    today = now.astimezone(UTC).date()
    whole = timeline(moments, _midnight(today - timedelta(days=DAYS - 1)), now, last)
    at = 0
    for back in reversed(range(DAYS)):
        day = today - timedelta(days=back)
        start, end = _midnight(day), _midnight(day + timedelta(days=1))
        while at < len(whole) and whole[at].end <= start:
            at += 1
        parts = []
        following = at
        while following < len(whole) and whole[following].start < end:
            parts.append(whole[following])
            following += 1
        spent = _spent(parts, start, end)
        worst: Kind = next((word for word in _WORST_FIRST if spent[word]), "unknown")
        yield DayRow(day.isoformat(), worst, _share(spent), spent["down"])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _spent(
    intervals: Sequence[Interval], start: datetime | None = None, end: datetime | None = None
) -> dict[Kind, timedelta]:
    """How long each kind took, within `start` and `end` when given."""
    spent = dict.fromkeys(KINDS, timedelta(0))
    for each in intervals:
        first = max(each.start, start) if start else each.start
        last = min(each.end, end) if end else each.end
        spent[each.kind] += last - first
    return spent


def _share(spent: dict[Kind, timedelta]) -> float | None:
    known = spent["up"] + spent["down"]
    return spent["up"] / known if known else None


def thin_record(window: WindowRow) -> timedelta | None:
    """How much of the window is on record, where that is too little to speak for the whole of it."""
    known = window.up + window.down + window.excluded
    return known if known < _ENOUGH * (known + window.unknown) and window.uptime is not None else None


def percent(uptime: float | None) -> str:
    """A share for people, in percent, rounded down: only what was always up is 100 %."""
    if uptime is None:
        return "–"
    hundredths = int(uptime * 10_000)
    return f"{hundredths // 100}.{hundredths % 100:02} %" if uptime < 1 else "100 %"
