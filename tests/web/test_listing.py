"""Filters and paging: bounded, checked, named when wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.datastructures import MultiDict

from capsule.web.listing import BadQuery, RequestQuery, ServiceQuery, TrailQuery, page_of

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def args(**values: str) -> MultiDict[str, str]:
    return MultiDict(values)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (args(status="HAPPY"), "attention, STALE"),
        (args(q="x" * 201), "at most 200"),
        (args(label="team"), "name=value"),
        (args(label="team=<script>"), "name=value"),
        (MultiDict([("label", "a=b")] * 9), "at most 8"),
    ],
)
def test_a_query_for_services_that_nobody_can_answer_says_what_was_expected(
    query: MultiDict[str, str], expected: str
) -> None:
    with pytest.raises(BadQuery, match=expected):
        ServiceQuery.of(query)


def test_a_phase_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(BadQuery, match="open, Proposed"):
        RequestQuery.of(args(phase="Done"))


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("30d", NOW - timedelta(days=30)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00:00Z", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("", None),
    ],
)
def test_since_is_a_day_an_instant_or_an_age(text: str, since: datetime | None) -> None:
    assert TrailQuery.of(args(since=text), NOW).since == since


@pytest.mark.parametrize(
    "query",
    [
        args(since="soon"),
        args(since="2026-13-01"),
        args(since="999999999d"),
        args(before="HEAD"),
        args(service="x" * 201),
    ],
)
def test_a_query_for_the_trail_that_nobody_can_answer(query: MultiDict[str, str]) -> None:
    with pytest.raises(BadQuery):
        TrailQuery.of(query, NOW)


def test_pages_count_from_one_and_end_at_the_last() -> None:
    rows = list(range(450))
    first, last, beyond = (page_of(rows, args(page=text)) for text in ("1", "3", "999999"))
    assert (first.items[0], first.first, first.pages, first.total) == (0, 1, 3, 450)
    assert list(last.items) == list(range(400, 450)) == list(beyond.items)
    assert page_of([], args()).first == 0


@pytest.mark.parametrize("text", ["0", "-1", "one", "01", "1" * 7, "٣", ""])
def test_a_page_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(BadQuery, match="page"):
        page_of([1], args(page=text))
