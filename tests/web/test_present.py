"""How values look: relative times, harmless text, safe addresses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from markupsafe import Markup

from capsule.view.build import snapshot
from capsule.view.model import ConditionRow, ServiceRow
from capsule.web import present
from tests.web.integration_services import integration_services

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def row() -> ServiceRow:
    story = integration_services()
    seen = snapshot(story.store, story.store.refs(), story.root, story.now)
    return next(row for row in seen.services if row.name == "openai-chat")


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (timedelta(seconds=-59), "just now"),
        (timedelta(minutes=-1), "1 minute ago"),
        (timedelta(minutes=-59), "59 minutes ago"),
        (timedelta(hours=-1), "1 hour ago"),
        (timedelta(days=-29), "29 days ago"),
        (timedelta(days=-61), "61 days ago"),
        (timedelta(days=-120), "4 months ago"),
        (timedelta(days=-500), "16 months ago"),
        (timedelta(hours=-26), "26 hours ago"),
        (timedelta(days=7, seconds=-20), "in 7 days"),
        (timedelta(days=90, seconds=-20), "in 90 days"),
        (timedelta(hours=48, seconds=-1), "in 2 days"),
        (timedelta(minutes=60, seconds=-1), "in 1 hour"),
        (timedelta(seconds=-45), "just now"),
        (timedelta(days=-800), "2 years ago"),
        (timedelta(days=12), "in 12 days"),
        (timedelta(seconds=30), "just now"),
    ],
)
def test_relative_times(distance: timedelta, text: str) -> None:
    assert present.relative(NOW + distance, NOW) == text


def test_exact_times_are_utc_to_the_second() -> None:
    assert present.exact(NOW) == "2026-11-23 14:30:00 UTC"
    assert present.machine_time(NOW) == "2026-11-23T14:30:00Z"
    assert present.day(NOW) == "Monday, 23 November 2026"
    assert present.minute(NOW.replace(second=59, microsecond=7)) == NOW


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\u{1b}[2Jgone"),
        ("abc\u202egpj.exe", "abc\\u{202e}gpj.exe"),
        ("a\u2028b\u0085c\ufeff", "a\\u{2028}b\\u{85}c\\u{feff}"),
        ("plain text, ümläut, 日本", "plain text, ümläut, 日本"),
    ],
)
def test_characters_that_act_are_shown_as_their_code(text: str, shown: str) -> None:
    assert present.printable(text) == shown


def test_what_is_no_text_is_left_alone() -> None:
    assert present.printable(Markup("<b>\u202e</b>")) == Markup("<b>\u202e</b>")
    assert present.printable(7) == 7
    assert present.printable(None) == ""


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "https:", "data:text/html,x", "//x", "https://a\u202eb", "http://[::1"]
)
def test_addresses_that_do_something_are_not_followed(text: str) -> None:
    assert present.web_address(text) is None


def test_addresses_of_pages_are_followed() -> None:
    assert present.web_address("https://wiki.example.com/x") == "https://wiki.example.com/x"


def test_scalars_read_as_in_a_document() -> None:
    assert [present.plain(value) for value in (None, True, False, 7, "x")] == [
        "not reported",
        "true",
        "false",
        "7",
        "x",
    ]
    assert present.bare("https://api.example.com") == "api.example.com"
    assert present.bare("http://api.example.com") == "http://api.example.com"


def test_every_state_has_a_tone_and_an_icon_and_an_unknown_one_is_quiet() -> None:
    assert present.tone("HEALTHY") == "good"
    assert present.icon("OFFLINE") == "cross"
    assert (present.tone("<script>"), present.icon("<script>")) == ("quiet", "dot")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("200 messages left today", "200 messages left today."), ("Fine. ", "Fine."), ("", "")],
)
def test_another_sentence_can_follow(text: str, shown: str) -> None:
    assert present.sentence(text) == shown


def test_what_a_condition_says_is_said_once(row: ServiceRow) -> None:
    down, key = ConditionRow("A", "A", "the vendor is down"), ConditionRow("KeyOverdue", "KeyOverdue", "")
    disabled = replace(row, status="DISABLED", message="the vendor is down", conditions=(down, key, key))
    assert present.condition_texts(disabled) == ["KeyOverdue"]
    # A message of a healthy service is not shown in its row.
    assert present.condition_texts(replace(disabled, status="HEALTHY")) == [
        "the vendor is down",
        "KeyOverdue",
    ]
