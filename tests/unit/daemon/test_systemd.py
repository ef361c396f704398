"""What a service manager hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsule.daemon.systemd import Manager
from capsule.daemon.vitals import LONGEST_PAUSE, Turn
from capsule.reconciler import PassReport

TIP = "a" * 40
QUIET = Turn.of(PassReport(TIP, 0, 0, 0, 0), 0.1)
FAILED = Turn("failed", 0.1, problem="the disk is full\nREADY=1")


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = tmp_path / "notify" if request.param == "path" else f"\0capsule-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(5)
        yield str(path).replace("\0", "@"), server


def heard(server: socket.socket) -> list[str]:
    return server.recv(4096).decode().splitlines()


def test_ready_comes_with_the_first_pass_that_read_the_repository(
    listening: tuple[str, socket.socket],
) -> None:
    address, server = listening
    with Manager(address) as manager:
        manager.turned(FAILED)
        manager.turned(QUIET)
        manager.turned(QUIET)
        assert heard(server) == ["WATCHDOG=1", "STATUS=The last pass failed: the disk is full\\u000aREADY=1"]
        assert heard(server) == ["READY=1", "WATCHDOG=1", f"STATUS=audit {TIP[:12]}"]
        assert heard(server) == ["WATCHDOG=1"]


def test_a_reload_is_bracketed_and_dated(listening: tuple[str, socket.socket]) -> None:
    address, server = listening
    with Manager(address) as manager:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.rereading()
        manager.reread("read again")
        word, dated = heard(server)
        assert word == "RELOADING=1"
        name, _, value = dated.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert heard(server) == ["READY=1", "STATUS=read again"]


def test_stopping_and_what_is_in_the_way_are_said(listening: tuple[str, socket.socket]) -> None:
    address, server = listening
    with Manager(address) as manager:
        manager.turned(Turn.of(PassReport(TIP, 0, 0, 0, 0, "the remote is away " + "x" * 900), 0.1))
        manager.stopping()
        ready, watchdog, status = heard(server)
        assert (ready, watchdog) == ("READY=1", "WATCHDOG=1")
        assert status.startswith("STATUS=Nothing is acted on: the remote is away")
        assert len(status) < 220
        assert heard(server) == ["STOPPING=1", "STATUS=Finishing what is under way"]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here"])
def test_a_manager_that_does_not_listen_is_no_reason_to_fail(address: str | None) -> None:
    with Manager(address) as manager:
        manager.turned(QUIET)
        manager.stopping()
    manager.turned(QUIET)


def test_a_manager_that_listens_and_never_reads_holds_nothing_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        with Manager(str(tmp_path / "notify")) as manager:
            for _ in range(2000):
                manager.turned(QUIET)


def test_pauses_never_starve_a_watchdog() -> None:
    assert Manager(None).longest_pause == LONGEST_PAUSE
    assert Manager(None, watchdog=30.0).longest_pause == 10.0
    assert Manager(None, watchdog=3600.0).longest_pause == LONGEST_PAUSE
