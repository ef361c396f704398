"""Uptime, incidents and days: what is told of a history of moments, whatever it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.view.model import HeartbeatRow, Snapshot
from capsule.view.uptime import (
    LONGEST,
    WINDOWS,
    HistoryRow,
    Moment,
    history,
    incidents,
    last_sign,
    percent,
    thin_record,
    timeline,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def moment(hours_ago: float, status: str | None, reason: str = "Why", message: str = "") -> Moment:
    return Moment(NOW - hours_ago * HOUR, status, reason, message)  # type: ignore[arg-type]  # one of the words


def told(*moments: Moment, until: datetime | None = None) -> HistoryRow:
    return history("a", moments, NOW, until)


def window(row: HistoryRow, name: str) -> tuple[float | None, int, timedelta]:
    found = next(each for each in row.windows if each.window == name)
    return found.uptime, found.incidents, found.longest


def test_a_service_that_was_down_for_an_hour() -> None:
    row = told(moment(2400, "HEALTHY"), moment(10, "OFFLINE", "AgentUnreachable"), moment(9, "HEALTHY"))
    assert window(row, "24h") == (23 / 24, 1, HOUR)
    assert window(row, "90d")[1:] == (1, HOUR)
    (incident,) = row.incidents
    assert (incident.start, incident.end) == (NOW - 10 * HOUR, NOW - 9 * HOUR)
    assert (incident.duration, incident.status, incident.reason) == (HOUR, "OFFLINE", "AgentUnreachable")
    assert row.known_since == NOW - LONGEST


def test_nothing_is_known_before_it_was_first_seen() -> None:
    row = told(
        moment(6, "UNKNOWN", "NeverSeen"), moment(5, "HEALTHY"), moment(4, "UNHEALTHY"), moment(3, "HEALTHY")
    )
    day = row.windows[0]
    assert (day.up, day.down, day.unknown) == (4 * HOUR, HOUR, 19 * HOUR)
    assert day.uptime == 0.8
    assert row.known_since == NOW - 5 * HOUR


def test_what_is_switched_off_is_left_out() -> None:
    row = told(moment(30, "HEALTHY"), moment(12, "DISABLING"), moment(11, "DISABLED"), moment(1, "HEALTHY"))
    day = row.windows[0]
    assert (day.uptime, day.excluded, day.incidents) == (1.0, 11 * HOUR, 0)


def test_a_service_nobody_knows_has_no_uptime() -> None:
    row = told()
    assert {each.uptime for each in row.windows} == {None}
    assert {each.kind for each in row.days} == {"unknown"}
    assert (row.incidents, row.known_since) == ((), None)


def test_an_incident_that_lasts_has_no_end() -> None:
    (incident,) = told(moment(40, "HEALTHY"), moment(3, "UNHEALTHY")).incidents
    assert (incident.end, incident.duration) == (None, 3 * HOUR)


def test_an_incident_is_one_as_long_as_it_is_not_up_and_tells_the_worst() -> None:
    row = told(
        moment(40, "HEALTHY"),
        moment(9, "UNHEALTHY", "HealthDegraded"),
        moment(8, "UNKNOWN"),
        moment(7, "OFFLINE", "AgentTimeout", "no answer"),
        moment(6, "UNKNOWN"),
        moment(5, "HEALTHY"),
        moment(4, "UNHEALTHY"),
        moment(3, "DISABLED"),
        moment(2, "OFFLINE"),
        moment(1, "HEALTHY"),
    )
    found = [(each.start, each.duration / HOUR, each.status, each.reason) for each in row.incidents]
    assert found == [
        (NOW - 2 * HOUR, 1, "OFFLINE", "Why"),
        (NOW - 4 * HOUR, 1, "UNHEALTHY", "Why"),
        (NOW - 9 * HOUR, 3, "OFFLINE", "AgentTimeout"),
    ]


def test_an_incident_that_began_before_the_window_is_whole_and_the_uptime_is_not() -> None:
    row = told(moment(100, "HEALTHY"), moment(30, "OFFLINE"), moment(12, "HEALTHY"))
    assert window(row, "24h") == (0.5, 1, 18 * HOUR)
    (only,) = incidents([moment(100, "OFFLINE"), moment(90, "HEALTHY")], NOW - 95 * HOUR, NOW, NOW)
    assert only.duration == 10 * HOUR
    assert incidents([moment(100, "OFFLINE"), moment(90, "HEALTHY")], NOW - 90 * HOUR, NOW, NOW) == ()


def test_nothing_is_known_since_the_last_reconciler_died() -> None:
    row = told(moment(30, "HEALTHY"), moment(1, "OFFLINE"), until=NOW - 4 * HOUR)
    assert row.windows[0].unknown == 4 * HOUR
    assert window(row, "24h") == (1.0, 0, timedelta(0))
    assert told(moment(30, "HEALTHY"), until=NOW + HOUR) == told(moment(30, "HEALTHY"))


def test_what_is_known_ends_with_the_last_sign_of_life_only_when_nobody_lives() -> None:
    def seen(*beats: HeartbeatRow) -> Snapshot:
        return Snapshot("f" * 40, "", None, None, NOW, (), (), beats, ())

    dead = HeartbeatRow("reconciler-1", NOW - HOUR, False, None)
    alive = HeartbeatRow("reconciler-2", NOW, True, None)
    assert last_sign(seen(dead, alive)) is None
    assert last_sign(seen(dead, replace(dead, at=NOW - 2 * HOUR))) == NOW - HOUR
    assert last_sign(seen()) is None


def test_days_are_days_of_utc_and_today_is_as_long_as_it_has_been() -> None:
    row = told(
        moment(24 * 4, "HEALTHY"), moment(36, "UNHEALTHY"), moment(35.5, "HEALTHY"), moment(20, "DISABLED")
    )
    assert [(each.day, each.kind, each.down) for each in row.days[-5:]] == [
        ("2026-11-19", "up", timedelta(0)),
        ("2026-11-20", "up", timedelta(0)),
        ("2026-11-21", "up", timedelta(0)),
        ("2026-11-22", "down", HOUR / 2),
        ("2026-11-23", "excluded", timedelta(0)),
    ]
    assert row.days[0].day == "2026-08-26"
    assert len(row.days) == 90


def test_a_leap_day_is_a_day() -> None:
    now = datetime(2028, 3, 1, 6, 0, tzinfo=UTC)
    row = history("a", [Moment(now - 2 * LONGEST, "OFFLINE", "Why", "")], now)
    assert [(each.day, each.down) for each in row.days[-3:]] == [
        ("2028-02-28", 24 * HOUR),
        ("2028-02-29", 24 * HOUR),
        ("2028-03-01", 6 * HOUR),
    ]


@pytest.mark.parametrize("changing", ["2026-03-29", "2026-10-25"])
def test_no_day_is_shorter_or_longer_when_clocks_change(changing: str) -> None:
    now = datetime.fromisoformat(changing).replace(tzinfo=UTC) + timedelta(days=3)
    row = history("a", [Moment(now - 2 * LONGEST, "OFFLINE", "Why", "")], now)
    assert {each.down for each in row.days[:-1]} == {24 * HOUR}


def test_only_what_was_always_up_is_shown_as_100_percent() -> None:
    shown = [percent(value) for value in (1.0, 0.999999, 0.9995, 0.0, None)]
    assert shown == ["100 %", "99.99 %", "99.95 %", "0.00 %", "–"]


def test_a_window_of_which_little_is_on_record_says_how_much() -> None:
    shown = told(moment(48, "HEALTHY"))
    assert [thin_record(each) for each in shown.windows] == [None, 48 * HOUR, 48 * HOUR, 48 * HOUR]
    assert [thin_record(each) for each in told().windows] == [None] * 4
    disabled = told(moment(48, "HEALTHY"), moment(40, "DISABLED"))
    assert thin_record(disabled.windows[0]) is None
    assert thin_record(disabled.windows[1]) == 48 * HOUR


# ---- whatever the history ------------------------------------------------------------------------

STATUSES = st.sampled_from(
    ["HEALTHY", "UNHEALTHY", "OFFLINE", "DISABLED", "DISABLING", "UNKNOWN", "STALE", None]
)
SECONDS = st.integers(0, 200 * 86400)
HISTORIES = st.lists(st.tuples(SECONDS, STATUSES), max_size=30).map(
    lambda pairs: [
        Moment(NOW - timedelta(seconds=ago), status, "Why", "")  # type: ignore[arg-type]  # one of the words
        for ago, status in sorted(pairs, key=lambda pair: -pair[0])
    ]
)
INSTANTS = st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(HISTORIES, INSTANTS, st.timedeltas(timedelta(0), timedelta(days=400)), INSTANTS)
def test_intervals_partition_the_window(
    moments: list[Moment], start: datetime, length: timedelta, until: datetime
) -> None:
    found = timeline(moments, start, start + length, until)
    assert sum((each.length for each in found), timedelta(0)) == length
    assert all(each.start < each.end for each in found)
    edges = [start, *(each.end for each in found)]
    assert [each.start for each in found] == edges[:-1]
    assert edges[-1] == start + length


@given(HISTORIES, st.none() | INSTANTS)
def test_uptime_is_a_share_and_times_add_up(moments: list[Moment], until: datetime | None) -> None:
    row = history("a", moments, NOW, until)
    for each in row.windows:
        assert each.uptime is None or 0 <= each.uptime <= 1
        assert each.up + each.down + each.excluded + each.unknown == WINDOWS[each.window]
        assert (each.incidents > 0) == (each.down > timedelta(0))
    assert sum((each.down for each in row.days), timedelta(0)) <= row.windows[-1].down + 24 * HOUR


@given(HISTORIES)
def test_incidents_are_apart_and_newest_first(moments: list[Moment]) -> None:
    found = history("a", moments, NOW).incidents
    for newer, older in pairwise(found):
        assert older.end is not None
        assert older.end <= newer.start
    assert all(each.duration > timedelta(0) for each in found)
