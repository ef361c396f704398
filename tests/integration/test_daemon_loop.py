"""The daemon around a real reconciler: what it counts, what it logs, how it fails, rereads and ends."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.daemon import Manager, Metrics, NotTakenOver, Turn, Wishes, run, run_once, set_up_logs
from capsule.documents.codec import load_as
from capsule.documents.paths import AUDIT
from capsule.documents.types import AgentAddress, ServiceStatus
from capsule.reconciler import Reconciler
from capsule.store.api import RemoteUnreachable, Store, StoreError
from capsule.testing.memory_store import MemoryStore
from capsule.transport.api import CallName
from capsule.trust.objects import file_bytes, read_commit
from tests.agent_fixtures import key
from tests.town import TestClock, Town


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, services=("openai-chat", "mistral"))
    yield made
    made.close()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    set_up_logs(stream, "json")
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def watched(town: Town, metrics: Metrics, transport: Any = None, store: Store | None = None) -> Reconciler:
    reconciler = Reconciler(
        store or town.store,
        transport or town.transport,
        key("reconciler-1"),
        name="reconciler-1",
        root=town.root,
        clock=town.clock,
        watcher=metrics,
    )
    metrics.count_with(reconciler.standing)
    return reconciler


class Held:
    """The town's agents behind a gate that holds orders back."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self.gate = threading.Event()
        self.ordered = threading.Event()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        if name == "order":
            self.ordered.set()
            assert self.gate.wait(20)
        return self._town.transport.call(address, name, body, timeout=timeout)

    def close(self) -> None:
        """Nothing is kept."""


def claimed(town: Town) -> list[str]:
    return [subject for subject in town.audit_subjects() if subject.endswith(": claimed")]


# ---- what it counts -----------------------------------------------------------------------------


def test_metrics_tell_what_is_on_record(town: Town) -> None:
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    reconciler = watched(town, metrics)
    assert value("capsule_services", {"status": "HEALTHY"}) == 0
    town.request()
    town.request("rotate-2", targets=("mistral",), approved_by=())
    town.settle(reconciler)
    reconciler.close()
    assert value("capsule_services", {"status": "HEALTHY"}) == 2
    assert value("capsule_requests", {"phase": "Succeeded"}) == 1
    assert value("capsule_requests", {"phase": "Proposed"}) == 1
    assert value("capsule_operations_total", {"action": "rotateKey", "outcome": "succeeded"}) == 1
    assert value("capsule_audit_commits_total") == len(town.audit_subjects())
    probes = value("capsule_probes_total", {"outcome": "answered"})
    assert probes
    assert probes >= 2
    assert value("capsule_probe_lateness_seconds_count") == probes
    beat = value("capsule_heartbeat_timestamp_seconds")
    assert beat
    assert 0 <= town.clock.now().timestamp() - beat < 60


def test_a_service_that_leaves_is_counted_no_longer(town: Town) -> None:
    metrics = Metrics()
    reconciler = watched(town, metrics)
    town.settle(reconciler)
    town.commit({"services/mistral.yaml": None}, "Retire mistral")
    town.settle(reconciler)
    reconciler.close()
    assert metrics.registry.get_sample_value("capsule_services", {"status": "HEALTHY"}) == 1


def test_an_approved_request_that_waits_is_counted_as_held(town: Town) -> None:
    metrics = Metrics()
    reconciler = watched(town, metrics)
    town.request(notBefore="2026-11-24T00:00:00Z")
    town.settle(reconciler)
    reconciler.close()
    assert metrics.registry.get_sample_value("capsule_requests", {"phase": "Held"}) == 1


# ---- the loop -----------------------------------------------------------------------------------


class Running:
    """The loop in a thread of its own, with every turn it took."""

    def __init__(
        self, reconciler: Reconciler, then: Callable[[Turn], None] | None = None, **options: Any
    ) -> None:
        self.wishes = Wishes()
        self.turns: list[Turn] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(
            target=run,
            args=(reconciler, self.wishes),
            kwargs={"poll": 0.01, "turned": (self._turned, *([then] if then else [])), **options},
        )
        self._thread.start()

    def _turned(self, turn: Turn) -> None:
        with self._news:
            self.turns.append(turn)
            self._news.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, 20), [turn.result for turn in self.turns]

    def end(self) -> None:
        self.wishes.stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


class Failing(MemoryStore):
    """A store whose `refresh` fails as long as there are `errors`."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def refresh(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        super().refresh()


def test_a_pass_that_fails_or_crashes_is_told_and_tried_again(tmp_path: Path, log: io.StringIO) -> None:
    store = Failing()
    town = Town(tmp_path, store)
    store.errors = [StoreError("the disk is full"), KeyError("defect"), RemoteUnreachable("no route")]
    metrics = Metrics()
    running = Running(watched(town, metrics))
    running.until(lambda: len(running.turns) >= 4)
    running.end()
    town.close()
    results = [turn.result for turn in running.turns]
    assert results[:4] == ["failed", "crashed", "stalled", "done"]
    assert running.turns[0].problem == "the disk is full"
    assert running.turns[2].problem == "no route"
    messages = [json.loads(line)["message"] for line in log.getvalue().splitlines()]
    assert "the pass failed: the disk is full" in messages
    assert "nothing is acted on: no route" in messages
    assert "acting again" in messages
    assert metrics.registry.get_sample_value("capsule_store_errors_total") == 1  # the loop's own is not here


def test_a_listener_that_fails_stops_no_pass(town: Town, log: io.StringIO) -> None:
    def fail(turn: Turn) -> None:
        raise KeyError(turn.result)

    running = Running(watched(town, Metrics()), fail)
    running.until(lambda: len(running.turns) > 2)
    running.end()
    assert "telling of a pass failed" in log.getvalue()


def test_what_keeps_it_from_acting_is_logged_once(tmp_path: Path, log: io.StringIO) -> None:
    store = Failing()
    town = Town(tmp_path, store)
    store.errors = [RemoteUnreachable("no route") for _ in range(5)]
    running = Running(watched(town, Metrics()))
    running.until(lambda: [turn.result for turn in running.turns].count("stalled") == 5)
    running.until(lambda: running.turns[-1].result == "done")
    running.end()
    town.close()
    assert log.getvalue().count("nothing is acted on") == 1


def test_every_line_says_which_request_service_and_revision_it_is_about(town: Town, log: io.StringIO) -> None:
    town.request()
    running = Running(watched(town, Metrics()))
    running.until(lambda: "rotateKey openai-chat: succeeded" in town.audit_subjects())
    running.end()
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    told = {entry["message"].partition(": ")[2]: entry for entry in entries if "audit " in entry["message"]}
    claim, result = told["rotateKey openai-chat: claimed"], told["rotateKey openai-chat: succeeded"]
    for entry in (claim, result):
        assert (entry["request"], entry["service"]) == ("rotate-1", "openai-chat")
        assert entry["revision"] == town.tip()
    of_passes = [entry for entry in entries if entry["logger"] in ("capsule.reconciler", "capsule.daemon")]
    assert len(of_passes) > 3
    assert all(entry.get("revision") == town.tip() for entry in of_passes)
    assert "PRIVATE KEY" not in log.getvalue()


# ---- files that are read again ------------------------------------------------------------------


def test_files_are_read_between_passes_and_nothing_under_way_is_lost(town: Town, tmp_path: Path) -> None:
    held, read = Held(town), threading.Event()
    town.request()

    def reread() -> str:
        assert threading.current_thread().name == "loop"
        read.set()
        return "taken over"

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(10)
        manager = Manager(str(tmp_path / "notify"))
        running = Running(watched(town, Metrics(), held), reread=reread, manager=manager)
        running._thread.name = "loop"
        assert held.ordered.wait(10)
        running.wishes.reread.set()
        assert read.wait(10)
        held.gate.set()
        running.until(lambda: "rotateKey openai-chat: succeeded" in town.audit_subjects())
        running.end()
        manager.close()
        heard: list[str] = []
        while not heard or not heard[-1].startswith("STOPPING=1"):
            heard.append(server.recv(4096).decode())
    assert town.keys["openai-chat"].created == 1
    reloading = next(index for index, each in enumerate(heard) if each.startswith("RELOADING=1\n"))
    assert heard[0].startswith("READY=1\nWATCHDOG=1")
    assert heard[reloading + 1] == "READY=1\nSTATUS=taken over"


@pytest.mark.parametrize(
    "error", [NotTakenOver("UnknownMachine: not listed"), OSError("gone"), ValueError("x")]
)
def test_what_cannot_be_taken_over_stops_nothing(town: Town, log: io.StringIO, error: Exception) -> None:
    def reread() -> str:
        raise error

    running = Running(watched(town, Metrics()), reread=reread)
    running.wishes.reread.set()
    running.until(lambda: not running.wishes.reread.is_set())
    seen = len(running.turns)
    running.until(lambda: len(running.turns) > seen)
    running.end()
    assert "what was in force stays" in log.getvalue()


# ---- the end ------------------------------------------------------------------------------------


def test_what_is_under_way_is_finished_and_nothing_new_is_begun(town: Town) -> None:
    held = Held(town)
    town.request()
    running = Running(watched(town, Metrics(), held))
    assert held.ordered.wait(10)
    running.wishes.stop.set()
    town.request("rotate-2", targets=("mistral",))
    held.gate.set()
    running.end()
    assert "rotateKey openai-chat: succeeded" in town.audit_subjects()
    assert claimed(town) == ["rotateKey openai-chat: claimed"]


def test_an_end_that_cannot_be_recorded_is_asked_about_by_the_next_start(
    tmp_path: Path, log: io.StringIO
) -> None:
    store = Failing()
    town = Town(tmp_path, store)
    held = Held(town)
    town.request()

    def fill_the_disk(turn: Turn) -> None:
        if turn.report and turn.report.began:
            store.errors = [StoreError("the disk is full")]
            running.wishes.stop.set()
            held.gate.set()

    running = Running(watched(town, Metrics(), held), fill_the_disk)
    running.until(lambda: any(turn.report and turn.report.began for turn in running.turns))
    running.end()
    assert "the next start asks the agents" in log.getvalue()
    assert claimed(town) == ["rotateKey openai-chat: claimed"]
    assert town.tip(AUDIT) is not None
    store.errors = []
    again, ended = town.reconciler(), "rotateKey openai-chat: succeeded"
    deadline = time.monotonic() + 30
    while ended not in town.audit_subjects() and time.monotonic() < deadline:
        again.one_pass(patience=0.5)  # the agent may still be at it, and says so
        town.clock.advance(seconds=1)
    again.close()
    town.close()
    assert ended in town.audit_subjects()
    assert town.keys["openai-chat"].created == 1


class Ticking(TestClock):
    """A wall clock that moves when told, and monotonic seconds that pass."""

    def monotonic(self) -> float:
        return time.monotonic()


def test_what_does_not_end_in_time_is_left_to_the_journal(town: Town) -> None:
    held = Held(town)
    town.request()
    town.clock = Ticking()
    running = Running(watched(town, Metrics(), held), finish=0.2)
    assert held.ordered.wait(10)
    running.end()
    assert [subject for subject in town.audit_subjects() if subject.startswith("rotateKey")] == [
        "rotateKey openai-chat: claimed"
    ]
    assert town.keys["openai-chat"].created == 0
    held.gate.set()
    town.settle(again := town.reconciler())
    again.close()
    assert "rotateKey openai-chat: succeeded" in town.audit_subjects()
    assert town.keys["openai-chat"].created == 1


class GoingClock:
    """The town's clock, that goes on by itself."""

    def __init__(self, town: Town) -> None:
        self._clock = town.clock
        self._began = time.monotonic()

    def now(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return time.monotonic() - self._began

    def nonce(self) -> str:
        return self._clock.nonce()


def test_once_ends_when_the_status_tells_of_what_it_did(town: Town) -> None:
    clock = GoingClock(town)
    transport, signer = town.transport, key("reconciler-1")
    first = Reconciler(town.store, transport, signer, name="reconciler-1", root=town.root, clock=clock)
    assert run_once(first, seconds=30.0).quiet
    town.request("disable-1", action="disable", params={"reason": "leaked"})
    second = Reconciler(town.store, transport, signer, name="reconciler-1", root=town.root, clock=clock)
    assert run_once(second, seconds=30.0).quiet
    tip = town.tip(AUDIT)
    assert tip is not None
    path = "status/openai-chat.yaml"
    data = file_bytes(town.store, read_commit(town.store, tip).tree, path)
    status = load_as(ServiceStatus, data or b"", path).spec
    assert (status.enabled, status.reason) == (False, "DisabledByRequest")
