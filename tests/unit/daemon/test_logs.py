"""Log lines: what they say of request, service and revision, and what they never say."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from capsule.daemon.logs import QUIET, set_up_logs
from capsule.reconciler.context import about, known, note
from capsule.reconciler.flights import Flights

TIP = "0123456789abcdef0123456789abcdef01234567"
log = logging.getLogger("capsule.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET}
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)


def test_a_line_for_people_says_what_it_is_about(stream: io.StringIO) -> None:
    set_up_logs(stream, "human")
    with about(request="rotate-1", service="openai-chat", revision=TIP):
        log.info("sent")
    log.info("idle")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("info    sent (request rotate-1, service openai-chat, revision 0123456789ab)")
    assert second.endswith("info    idle")
    assert first[:4].isdigit()
    assert first.split()[0].endswith("Z")


def test_a_line_for_programs_is_one_json_object(stream: io.StringIO) -> None:
    set_up_logs(stream, "json")
    with about(request="rotate-1", service="", revision=TIP):
        log.warning("sent %d", 2)
    entry = json.loads(stream.getvalue())
    assert entry.pop("at").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "capsule.test",
        "message": "sent 2",
        "request": "rotate-1",
        "revision": TIP,
    }


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_peer_can_neither_begin_a_line_nor_paint_the_terminal(stream: io.StringIO, form: str) -> None:
    set_up_logs(stream, form)
    hostile = "away\n2026-11-23T12:00:00.000Z info    rotateKey succeeded\x1b[2J\x9b\u2028\u202e\r"
    log.error("the peer says: %s", hostile)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert not {"\x1b", "\x9b", "\u2028", "\u202e", "\r"} & set(text)


def test_what_an_exception_says_stays_behind_its_bars(stream: io.StringIO) -> None:
    set_up_logs(stream, "human")
    try:
        raise ValueError("one\n2026-11-23T12:00:00.000Z info    all is well\x1b[2J")
    except ValueError:
        log.exception("crashed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("error   crashed")
    assert rest
    assert all(line.startswith("  | ") for line in rest)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("cannot fetch https://alice:ghp_secret@git.example/state", "ghp_secret"),
        ("sent Authorization: Basic c2VjcmV0", "c2VjcmV0"),
        ("refused: bearer eyJhbGciOi.secret", "eyJhbGciOi"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----", "b3Blbn"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==", "b3Blbn"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(
    stream: io.StringIO, form: str, said: str, secret: str
) -> None:
    set_up_logs(stream, form)
    try:
        raise RuntimeError(said)
    except RuntimeError:
        log.exception("failed: %s", said)
    assert secret not in stream.getvalue()
    assert "[hidden]" in stream.getvalue()


def test_levels_hold_and_libraries_are_quiet(stream: io.StringIO) -> None:
    set_up_logs(stream, "human", "warning")
    log.info("not said")
    log.warning("said")
    set_up_logs(stream, "human", "debug")
    log.debug("now too")
    logging.getLogger("urllib3").info("not said")
    logging.getLogger("urllib3").warning("of the library")
    words = [line.split(maxsplit=2)[2] for line in stream.getvalue().splitlines()]
    assert words == ["said", "now too", "of the library"]


def test_what_is_noted_outside_of_anything_is_forgotten() -> None:
    note(revision=TIP)
    assert known() == {}


def test_what_a_line_is_about_follows_a_call_into_its_thread_and_ends_with_it() -> None:
    flights: Flights[str, dict[str, str]] = Flights(1, "test", threading.Event())
    with about(revision=TIP):
        with about(request="rotate-1"):
            flights.start("one", lambda: dict(known()))
        flights.start("two", lambda: dict(known()))
        note(revision="other")
        assert known() == {"revision": "other"}
    assert known() == {}
    flights.wait(5)
    landed = {key: future.result() for key, future in flights.take_landed()}
    flights.close()
    assert landed == {"one": {"revision": TIP, "request": "rotate-1"}, "two": {"revision": TIP}}


def test_the_command_line_offers_every_format_and_level() -> None:
    from capsule.cli import daemon_options
    from capsule.daemon import FORMATS, LEVELS

    assert (daemon_options.FORMATS, daemon_options.LEVELS) == (FORMATS, LEVELS)
