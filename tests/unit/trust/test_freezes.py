"""Freezes in local time: where clocks change, on leap days, and against a count of minutes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.documents.types import Freeze, Policy
from capsule.trust.freezes import freeze_in_force, frozen_until
from capsule.trust.policy_checks import load_policy
from tests.trust_history import policy_text

PROD = {"env": "prod"}
MINUTE = timedelta(minutes=1)


def freeze(start: str, end: str, *, zone: str = "Europe/Berlin") -> str:
    return (
        f'  freezes:\n    - {{selector: {{env: prod}}, from: "{start}", to: "{end}", timezone: {zone}, '
        f"except: [owners]}}\n"
    )


def load(freezes: str) -> Policy:
    return load_policy(policy_text(freezes=freezes), "policy.yaml")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_freezes_hold_whom_they_name() -> None:
    policy = load(freeze("2026-12-20T00:00", "2027-01-02T00:00"))
    inside = at("2026-12-24T12:00")
    assert frozen_until(policy, PROD, "alice", inside) == at("2027-01-01T23:00")
    assert frozen_until(policy, PROD, "bob", inside) is None
    assert frozen_until(policy, {"env": "test"}, "alice", inside) is None
    assert frozen_until(policy, PROD, "alice", at("2026-12-19T22:59")) is None
    assert frozen_until(policy, PROD, "alice", at("2026-12-19T23:00")) is not None
    assert frozen_until(policy, PROD, "alice", at("2027-01-01T23:00")) is None
    found = freeze_in_force(policy, PROD, "alice", inside)
    assert found is not None
    assert found[1].timezone == "Europe/Berlin"


def test_the_longest_of_several_freezes_is_told() -> None:
    later = (
        freeze("2026-12-20T00:00", "2027-01-02T00:00") + freeze("2026-12-22T00:00", "2027-01-09T00:00")[11:]
    )
    policy = load(later)
    assert frozen_until(policy, PROD, "alice", at("2026-12-24T12:00")) == at("2027-01-08T23:00")


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        # clocks go forward on 2026-03-29 at 02:00: 02:30 does not exist, the longer reading holds
        ("2026-03-29T02:30", "2026-03-29T02:31", "2026-03-29T00:30", "2026-03-29T01:31"),
        # clocks go back on 2026-10-25 at 03:00: 02:30 comes twice
        ("2026-10-25T02:30", "2026-10-25T02:31", "2026-10-25T00:30", "2026-10-25T01:31"),
        ("2026-03-28T12:00", "2026-03-30T12:00", "2026-03-28T11:00", "2026-03-30T10:00"),
    ],
)
def test_freezes_where_the_clocks_change(start: str, end: str, first: str, last: str) -> None:
    policy = load(freeze(start, end))
    assert frozen_until(policy, PROD, "alice", at(first)) == at(last)
    assert frozen_until(policy, PROD, "alice", at(last)) is None


# Each window in UTC, worked out by hand: a local time that comes twice is its earlier reading where a freeze
# begins and its later one where it ends; one that is skipped is read with the offset that makes it longer.
CHANGES = [
    # Berlin: 02:00 → 03:00 on 29 March (01:00 UTC), 03:00 → 02:00 on 25 October (01:00 UTC)
    ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T03:00", "2026-03-29T00:00", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-03-29T01:59", "2026-03-29T03:01", "2026-03-29T00:59", "2026-03-29T01:01"),
    ("Europe/Berlin", "2026-03-29T00:00", "2026-03-30T00:00", "2026-03-28T23:00", "2026-03-29T22:00"),
    ("Europe/Berlin", "2026-10-25T02:00", "2026-10-25T03:00", "2026-10-25T00:00", "2026-10-25T02:00"),
    ("Europe/Berlin", "2026-10-25T01:59", "2026-10-25T02:00", "2026-10-24T23:59", "2026-10-25T01:00"),
    ("Europe/Berlin", "2026-10-25T00:00", "2026-10-26T00:00", "2026-10-24T22:00", "2026-10-25T23:00"),
    # New York: 02:00 → 03:00 on 8 March (07:00 UTC), 02:00 → 01:00 on 1 November (06:00 UTC)
    ("America/New_York", "2026-03-08T02:30", "2026-03-08T04:00", "2026-03-08T06:30", "2026-03-08T08:00"),
    ("America/New_York", "2026-11-01T01:30", "2026-11-01T01:45", "2026-11-01T05:30", "2026-11-01T06:45"),
    # Lord Howe changes by half an hour: 02:00 → 01:30 on 5 April, 02:00 → 02:30 on 4 October (15:30 UTC)
    (
        "Australia/Lord_Howe",
        "2026-04-05T01:30",
        "2026-04-05T02:00",
        "2026-04-04T14:30",
        "2026-04-04T15:30",
    ),
    (
        "Australia/Lord_Howe",
        "2026-10-04T02:15",
        "2026-10-04T02:20",
        "2026-10-03T15:15",
        "2026-10-03T15:50",
    ),
    # Apia had no 30 December 2011: the clock went from UTC-10 to UTC+14 at midnight
    ("Pacific/Apia", "2011-12-29T00:00", "2011-12-31T00:00", "2011-12-29T10:00", "2011-12-30T10:00"),
    ("Pacific/Apia", "2011-12-30T08:00", "2011-12-30T09:00", "2011-12-29T18:00", "2011-12-30T19:00"),
    # No change at all: a half-hour zone, and UTC
    ("Asia/Kolkata", "2026-03-29T02:30", "2026-03-29T02:31", "2026-03-28T21:00", "2026-03-28T21:01"),
    ("UTC", "2026-03-29T02:30", "2026-03-29T02:31", "2026-03-29T02:30", "2026-03-29T02:31"),
    # Leap days: 2028 and 2000 have one, and a freeze over the end of February counts it
    ("Europe/Berlin", "2028-02-29T00:00", "2028-03-01T00:00", "2028-02-28T23:00", "2028-02-29T23:00"),
    ("America/New_York", "2028-02-28T12:00", "2028-03-01T12:00", "2028-02-28T17:00", "2028-03-01T17:00"),
    ("UTC", "2000-02-29T23:59", "2000-03-01T00:00", "2000-02-29T23:59", "2000-03-01T00:00"),
    ("UTC", "2027-02-28T23:59", "2027-03-01T00:00", "2027-02-28T23:59", "2027-03-01T00:00"),
]


@pytest.mark.parametrize(("zone", "start", "end", "first", "last"), CHANGES)
def test_windows_where_clocks_and_calendars_are_odd(
    zone: str, start: str, end: str, first: str, last: str
) -> None:
    policy = load(freeze(start, end, zone=zone))
    assert frozen_until(policy, PROD, "alice", at(first) - timedelta(microseconds=1)) is None
    assert frozen_until(policy, PROD, "alice", at(first)) == at(last)
    assert frozen_until(policy, PROD, "alice", at(last) - timedelta(microseconds=1)) == at(last)
    assert frozen_until(policy, PROD, "alice", at(last)) is None


# ---- against a count of minutes -----------------------------------------------------------------

ODD = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Africa/Casablanca", "2026-03-22T02:00"),
    ("UTC", "2028-02-29T12:00"),
]
BASE = load(freeze("2026-01-01T00:00", "2026-01-02T00:00"))


@cache
def clock(zone: str, middle: datetime) -> dict[datetime, datetime]:
    """What a clock on the wall shows at every minute of two days around `middle`, by the minute in UTC."""
    here = ZoneInfo(zone)
    minutes = (middle + MINUTE * at for at in range(-2880, 2881))
    return {utc: utc.astimezone(here).replace(tzinfo=None) for utc in minutes}


def readings(shown: dict[datetime, datetime], local: datetime) -> Iterator[datetime]:
    """Every instant that may be meant by `local`: when the clock shows it, else as it would have gone on
    before the change that skips it, and as it would have come had that change been made before."""
    times = [utc for utc, wall in shown.items() if wall == local]
    if times:
        yield from times
        return
    after = next(utc for utc, wall in shown.items() if wall > local)
    before = after - MINUTE
    yield before + (local - shown[before])
    yield after - (shown[after] - local)


@settings(max_examples=150, deadline=None)
@given(
    odd=st.sampled_from(ODD),
    start=st.integers(-200, 200),
    length=st.integers(1, 2000),
    probe=st.integers(-2500, 2500),
)
def test_a_freeze_is_what_counting_minutes_gives(
    odd: tuple[str, str], start: int, length: int, probe: int
) -> None:
    zone, change = odd
    middle = at(change)
    shown = clock(zone, middle)
    begins = shown[middle + MINUTE * start] if start % 3 else shown[middle - MINUTE] + MINUTE * start
    ends = begins + MINUTE * length
    window = Freeze(start=begins, end=ends, timezone=zone)
    policy = BASE.model_copy(update={"spec": BASE.spec.model_copy(update={"freezes": (window,)})})
    now = middle + MINUTE * probe
    last = max(readings(shown, ends))
    expected = last if min(readings(shown, begins)) <= now < last else None
    assert frozen_until(policy, PROD, "alice", now) == expected
