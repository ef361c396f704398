"""Notifications to a real HTTP receiver on loopback: told once, retried, in nobody's way, in silence."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.types import NotifyRoute
from capsule.notify.mailbox import Pauses
from capsule.notify.notifier import Notifier
from capsule.view.build import snapshot
from capsule.view.model import Drift, ServiceRow, Snapshot
from tests.web.integration_services import NOW, integration_services

SECRET = "s3cr3t-t0k3n"
QUICK = Pauses(gather=0.02, first_retry=0.02, longest_retry=0.1)
DEADLINE = 5.0
HOUR = timedelta(hours=1)


def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds`."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.01)


@dataclass
class Receiver:
    """An HTTP server that takes apprise's JSON, or answers `status`."""

    port: int
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0

    def address(self, path: str = "") -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/{SECRET}{path}"

    def titles(self) -> list[str]:
        return [message["title"] for message in self.got]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if receiver.status == 200:
                receiver.got.append(body)
            else:
                receiver.refused += 1
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def quiet() -> Snapshot:
    """A repository with one service, about which there is nothing to tell."""
    story = integration_services()
    seen = snapshot(story.store, story.store.refs(), story.root, NOW)
    row = next(row for row in seen.services if row.name == "openai-chat")
    calm = replace(row, status="HEALTHY", drift=(), conditions=())
    return replace(
        seen, title="Town", services=(calm,), requests=(), heartbeats=(), conditions=(), suspended=""
    )


def at(quiet: Snapshot, hours: float = 0.0, **changes: Any) -> Snapshot:
    """The repository after so many hours, with the service as `changes` say."""
    row = replace(quiet.services[0], **changes)
    return replace(quiet, services=(row,), now=NOW + hours * HOUR)


def drifting(quiet: Snapshot, hours: float = 0.0, observed: str = "gpt-5.2") -> Snapshot:
    return at(quiet, hours, drift=(Drift("model", "gpt-5.1", observed, NOW),))


def route(to: str = "oncall", **spec: Any) -> NotifyRoute:
    return NotifyRoute.model_validate({"to": to, "every": "0s", **spec}, by_alias=True, by_name=False)


class Desk:
    """The folders of one test, and notifiers that come and go."""

    def __init__(self, folder: Path) -> None:
        self.receivers = folder / "receivers"
        self.receivers.mkdir()
        self.memory = folder / "git" / "capsule" / "notify.json"
        self.open: list[Notifier] = []

    def write(self, name: str, *addresses: str) -> None:
        file = self.receivers / name
        file.touch(0o600)
        file.write_text("\n".join(addresses))

    def start(self, pauses: Pauses = QUICK) -> Notifier:
        self.open.append(Notifier(self.receivers, self.memory, pauses=pauses))
        return self.open[-1]

    def stop(self) -> None:
        while self.open:
            self.open.pop().close(DEADLINE)

    def is_told(self, box: str, count: int = 1) -> bool:
        if not self.memory.exists():
            return False
        return len(json.loads(self.memory.read_bytes())["told"].get(box, {})) == count


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.stop()


def test_a_fact_is_told_once_for_as_long_as_it_lasts(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address())
    notifier = desk.start()
    notifier.consider(drifting(quiet), [route()])
    until(lambda: desk.is_told("oncall/1"))
    assert receiver.got[0]["title"] == "Capsule Town: openai-chat: drift of model"
    assert "model is gpt-5.2, desired gpt-5.1" in receiver.got[0]["message"]
    assert receiver.got[0]["type"] == "warning"
    for hours in (1, 2, 1000):
        notifier.consider(drifting(quiet, hours), [route()])
    desk.stop()
    assert len(receiver.got) == 1


def test_a_restart_repeats_nothing(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address())
    desk.start().consider(drifting(quiet), [route()])
    desk.stop()
    assert len(receiver.got) == 1
    desk.start().consider(drifting(quiet, 1), [route()])
    desk.stop()
    assert len(receiver.got) == 1
    desk.start().consider(drifting(quiet, 2, "gpt-5.3"), [route()])
    desk.stop()
    assert len(receiver.got) == 2


def test_what_comes_back_is_told_again_but_not_too_often(
    desk: Desk, receiver: Receiver, quiet: Snapshot
) -> None:
    desk.write("oncall", receiver.address())
    for hours, seen, told in [
        (0, drifting, 1),
        (0.2, at, 1),
        (0.4, drifting, 1),
        (0.6, drifting, 1),
        (1.1, drifting, 2),
        (1.2, at, 2),
        (3.0, at, 2),
        (3.1, drifting, 3),
    ]:
        desk.start().consider(seen(quiet, hours), [route(repeatAfter="1h")])
        desk.stop()
        assert len(receiver.got) == told, hours


def test_what_lasts_is_reminded_of(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address())
    for hours, told in [(0, 1), (5, 1), (6, 2), (11, 2), (12.5, 3)]:
        desk.start().consider(drifting(quiet, hours), [route(remindAfter="6h")])
        desk.stop()
        assert len(receiver.got) == told, hours


def test_many_events_at_once_are_one_message(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address())

    def offline(row: ServiceRow, number: int) -> ServiceRow:
        return replace(row, name=f"s{number}", status="OFFLINE", reason="ConnectTimeout", message="")

    many = tuple(offline(quiet.services[0], number) for number in range(300))
    notifier = desk.start(replace(QUICK, gather=0.5))
    notifier.consider(replace(quiet, services=many[:100]), [route()])
    notifier.consider(replace(quiet, services=many), [route()])
    until(lambda: desk.is_told("oncall/1", 300))
    assert receiver.titles() == ["Capsule Town: 300 events"]
    assert receiver.got[0]["message"].startswith("300 ServiceOffline\n")


def test_a_receiver_is_written_to_no_more_often_than_its_route_says(
    desk: Desk, receiver: Receiver, quiet: Snapshot
) -> None:
    desk.write("oncall", receiver.address())
    desk.write("other", receiver.address("/other"))
    notifier = desk.start()
    routes = [route(every="1h"), route("other")]
    for model in ("a", "b"):
        notifier.consider(drifting(quiet, 0, model), routes)
        until(lambda: desk.is_told("other/1", 1 if model == "a" else 2))  # noqa: B023 (used at once)
    assert len(receiver.got) == 3  # to other twice, to oncall once
    assert desk.is_told("oncall/1", 1)
    desk.stop()  # the end of the process waits for nothing
    assert len(receiver.got) == 4


def test_a_receiver_that_is_down_is_told_when_it_is_back(
    desk: Desk, receiver: Receiver, quiet: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with receiving() as gone:
        port = gone.port
    desk.write("oncall", f"json://user:{SECRET}@127.0.0.1:{port}/{SECRET}", receiver.address())
    notifier = desk.start()
    notifier.consider(drifting(quiet), [route()])
    until(lambda: caplog.text.count("notifications to oncall/1 do not arrive") >= 3)
    assert desk.is_told("oncall/2")  # the other address of the same receiver waits for nobody
    with receiving(port) as back:
        until(lambda: desk.is_told("oncall/1"))
        assert len(back.got) == 1
    until(lambda: "notifications to oncall/1 arrive again" in caplog.text)
    assert len(receiver.got) == 1


def test_a_receiver_that_refuses_is_tried_again_while_the_fact_holds(
    desk: Desk, receiver: Receiver, quiet: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    desk.write("oncall", receiver.address())
    receiver.status = 503
    notifier = desk.start()
    notifier.consider(drifting(quiet), [route()])
    until(lambda: receiver.refused >= 2)
    assert "the receiver answered with HTTP status 503 [ReceiverFailed]" in caplog.text
    notifier.consider(at(quiet), [route()])
    receiver.status = 200
    notifier.consider(at(quiet, status="OFFLINE", reason="Gone", message=""), [route()])
    until(lambda: desk.is_told("oncall/1"))
    assert receiver.titles() == ["Capsule Town: openai-chat: OFFLINE"]


def test_a_receiver_that_hangs_delays_nobody(
    desk: Desk,
    receiver: Receiver,
    quiet: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("capsule.notify.mailbox.SUSPICIOUS_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        desk.write("stuck", f"json://127.0.0.1:{hanging.getsockname()[1]}/?rto=1")
        desk.write("oncall", receiver.address())
        notifier = desk.start()
        routes = [route("stuck"), route()]
        began = time.monotonic()
        notifier.consider(drifting(quiet), routes)
        assert time.monotonic() - began < 0.5
        until(lambda: desk.is_told("oncall/1"))
        hanging.settimeout(DEADLINE)
        connection, _ = hanging.accept()
        with connection:
            began = time.monotonic()
            notifier.consider(drifting(quiet, 0, "gpt-6"), routes)
            notifier.close(0.05)
            assert time.monotonic() - began < 0.5
            until(lambda: desk.is_told("oncall/1", 2))
        assert "a message to stuck/1 is still on its way" in caplog.text
        assert not desk.is_told("stuck/1")


def test_a_redirect_is_not_followed(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address())
    receiver.status = 307
    desk.start().consider(drifting(quiet), [route()])
    until(lambda: receiver.refused >= 2)
    assert not desk.is_told("oncall/1")


def test_a_receiver_without_a_readable_file_is_named_once(
    desk: Desk, receiver: Receiver, quiet: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    desk.write("oncall", receiver.address())
    notifier = desk.start()
    routes = [route(), route("missing")]
    notifier.consider(drifting(quiet), routes)
    until(lambda: desk.is_told("oncall/1"))
    (desk.receivers / "oncall").chmod(0o644)
    for hours in (1, 2):
        notifier.consider(drifting(quiet, hours), routes)
    assert caplog.text.count("[ReceiverMissing]") == 1
    assert caplog.text.count("[ReceiverOpen]") == 1
    (desk.receivers / "oncall").chmod(0o600)
    notifier.consider(drifting(quiet, 3), routes)
    desk.stop()
    assert len(receiver.got) == 1  # what was told meanwhile was not forgotten


def test_an_address_that_was_taken_away_is_forgotten(desk: Desk, receiver: Receiver, quiet: Snapshot) -> None:
    desk.write("oncall", receiver.address(), receiver.address("/second"))
    notifier = desk.start()
    notifier.consider(drifting(quiet), [route()])
    until(lambda: desk.is_told("oncall/1") and desk.is_told("oncall/2"))
    desk.write("oncall", receiver.address())
    notifier.consider(drifting(quiet), [route()])
    assert desk.is_told("oncall/2", 0)
    notifier.consider(drifting(quiet), [])
    assert desk.is_told("oncall/1", 0)


def test_secrets_are_in_no_log(
    desk: Desk, receiver: Receiver, quiet: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as gone:
        port = gone.port
    desk.write("down", f"json://user:{SECRET}@127.0.0.1:{port}/{SECRET}?+X-Token={SECRET}")
    desk.write("refusing", receiver.address(f"?+X-Token={SECRET}"))
    desk.write("odd", f"slack://{SECRET}")
    desk.write("forbidden", f"windows://{SECRET}")
    receiver.status = 403
    names = ("down", "refusing", "odd", "forbidden")
    desk.start().consider(drifting(quiet), [route(name) for name in names])
    until(lambda: all(f"{name}" in caplog.text for name in names) and receiver.refused >= 2)
    desk.stop()
    assert caplog.text.count("[ReceiverRefused]") >= 2
    assert SECRET not in caplog.text
    assert SECRET not in desk.memory.read_text()


def test_a_look_that_fails_stops_nobody(
    desk: Desk, receiver: Receiver, quiet: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    desk.write("oncall", receiver.address())
    notifier = desk.start()
    broken: Any = replace(quiet, services=None)
    notifier.consider(broken, [route()])
    assert "this look failed" in caplog.text
    notifier.consider(drifting(quiet), [route()])
    until(lambda: desk.is_told("oncall/1"))
