"""Which events go to which receiver, and when a fact that was told is told again. Pure.

Called by notify.notifier, and by commands for `notify list`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from capsule.documents.types import NotifyRoute
from capsule.view.events import Event


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event that a receiver is to be told, and when it may be told again."""

    event: Event
    repeat_after: timedelta
    remind_after: timedelta | None


@dataclass(slots=True)
class Delivery:
    """What one receiver is to know: its events by key, and how often it may be written to."""

    every: timedelta = timedelta(0)
    repeat_after: timedelta = timedelta(0)
    wanted: dict[str, Wanted] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """When a receiver was told of a fact, and when the fact ended since; None while it lasts."""

    at: datetime
    ended: datetime | None = None


def fits(event: Event, route: NotifyRoute) -> bool:
    """Whether `route` is about `event`."""
    if route.events and event.kind not in route.events:
        return False
    if route.teams and event.teams and not set(route.teams) & set(event.teams):
        return False
    wanted = route.selector.items()
    return not wanted or any(wanted <= labels.items() for labels in event.labels)


def routed(events: Iterable[Event], routes: Sequence[NotifyRoute]) -> dict[str, Delivery]:
    """What each receiver is to know. An event that fits several routes to one receiver is told once, as often
    as the calmest of them says; but reminded of as the keenest says."""
    found: dict[str, Delivery] = {}
    for route in routes:
        each = found.setdefault(route.to, Delivery())
        each.every = max(each.every, route.every)
        each.repeat_after = max(each.repeat_after, route.repeat_after)
    for event in events:
        for route in routes:
            if fits(event, route):
                _want(found[route.to].wanted, event, route)
    return found


def _want(wanted: dict[str, Wanted], event: Event, route: NotifyRoute) -> None:
    known = wanted.get(event.key)
    repeat, remind = route.repeat_after, route.remind_after
    if known:
        repeat = max(repeat, known.repeat_after)
        both = [each for each in (remind, known.remind_after) if each is not None]
        remind = min(both, default=None)
    wanted[event.key] = Wanted(event, repeat, remind)


def is_due(wanted: Wanted, told: Told | None, now: datetime) -> bool:
    """Whether a receiver is to be told now: of news, of what came back, or as a reminder."""
    if told is None:
        return True
    passed = now - told.at
    if told.ended is not None:
        return passed >= wanted.repeat_after
    return wanted.remind_after is not None and passed >= wanted.remind_after


def after_look(
    told: Mapping[str, Told], present: Iterable[str], repeat_after: timedelta, now: datetime
) -> dict[str, Told]:
    """`told` when the facts of `present` (the same keys) hold now: the others ended, and are forgotten when
    even their return would be told at once."""
    kept: dict[str, Told] = {}
    holding = set(present)
    for key, entry in told.items():
        known = Told(min(entry.at, now), entry.ended)  # a clock that was set back must not silence anybody
        if key in holding:
            kept[key] = known
        elif now - known.at < repeat_after:
            kept[key] = Told(known.at, known.ended or now)
    return kept
