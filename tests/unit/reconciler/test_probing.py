"""Probes with real signatures and threads: shares, what passes see, and what a restart remembers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from capsule.documents.paths import HEARTBEATS, LOCAL_HEARTBEATS
from capsule.lifecycle import Observation
from capsule.reconciler import Reconciler
from capsule.reconciler.clock import SystemClock
from capsule.reconciler.heartbeat import BEAT_SECONDS, Pulse, beat_seconds
from capsule.reconciler.orders import Courier
from capsule.reconciler.probing import Failing, Probing, says_the_same
from capsule.store import git
from capsule.store.api import Store
from capsule.transport.api import CallName, TransportError
from capsule.trust.mainline import judge
from capsule.trust.objects import file_bytes, read_commit
from capsule.trust.state import MainState
from capsule.view.heartbeat import HEARTBEAT_FILE, Heartbeat, decode_heartbeat
from tests.agent_fixtures import key
from tests.town import Town

RECONCILER = "reconciler-1"
LOCAL = LOCAL_HEARTBEATS + RECONCILER


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something came true in time."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not true():
        if time.monotonic() > deadline:
            return False
        tick.wait(0.005)
    return True


def main_of(town: Town) -> MainState:
    tip = town.tip()
    assert tip is not None
    return judge(town.store, town.root, tip, None)


@contextmanager
def probing_of(
    town: Town, *, workers: int = 8, real_time: bool = False
) -> Iterator[tuple[Probing, threading.Event]]:
    landed = threading.Event()
    clock = SystemClock() if real_time else town.clock
    courier = Courier(town.transport, key(RECONCILER), RECONCILER, town.root, clock)
    probing = Probing(courier, clock, landed, workers=workers)
    try:
        yield probing, landed
    finally:
        probing.close()
        town.close()


def go_down(town: Town, name: str) -> None:
    def refuse(_call: CallName, _body: bytes) -> bytes:
        raise TransportError("AgentUnreachable", "nobody is there", sent=False)

    town.transport.connect(f"http://{name}.invalid", refuse)


def test_silent_agents_hold_a_small_share_of_the_threads(tmp_path: Path) -> None:
    dead = [f"dead-{at}" for at in range(20)]
    live = [f"live-{at}" for at in range(6)]
    town = Town(tmp_path, services=[*dead, *live])
    main, release = main_of(town), threading.Event()
    waiting: list[str] = []
    for name in dead:
        go_down(town, name)
    with probing_of(town, workers=8) as (probing, _):
        while len(probing.observations) < len(dead) + len(live):
            probing.start_due(main, ())
            probing.wait(5)
            probing.land()
        for name in dead:

            def silent(_call: CallName, _body: bytes, name: str = name) -> bytes:
                waiting.append(name)
                release.wait(10)
                raise TransportError("AgentTimeout", "no answer")

            town.transport.connect(f"http://{name}.invalid", silent)
        before = dict(probing.observations)
        town.clock.advance(seconds=40)

        def all_live_answered() -> bool:
            probing.start_due(main, ())
            probing.land()
            return all(probing.observations[name] is not before[name] for name in live)

        assert eventually(all_live_answered)
        assert eventually(lambda: len(waiting) == 1)
        assert all(probing.observations[name] is before[name] for name in dead)
        release.set()


def test_beside_passes_probes_go_on_without_them(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.commit(
        {"services/openai-chat.yaml": town.service_text("openai-chat", health={"interval": "1s"})}, "Hurry"
    )
    asked: list[float] = []
    answer = town._answer

    def note(call: CallName, body: bytes) -> bytes:
        asked.append(time.monotonic())
        return answer("openai-chat", call, body)

    town.transport.connect("http://openai-chat.invalid", note)
    with probing_of(town, real_time=True) as (probing, landed):
        probing.run_beside()
        probing.start_due(main_of(town), ())
        assert probing.next_due() is None
        assert landed.wait(5)  # the first answer is news
        landed.clear()
        assert eventually(lambda: len(asked) >= 2)
        assert not landed.is_set()  # it said nothing new: no pass need look
        assert 0.85 <= asked[1] - asked[0] < 3
        probing.land()
        assert probing.observations["openai-chat"].ok
        go_down(town, "openai-chat")
        assert eventually(landed.is_set)


def test_whoever_leaves_is_forgotten_and_its_late_answer_ignored(tmp_path: Path) -> None:
    town = Town(tmp_path, services=["a", "b"])
    both = main_of(town)
    with probing_of(town) as (probing, _):
        probing.start_due(both, ())
        probing.start_due(replace(both, services={"a": both.services["a"]}), ())
        probing.wait(5)
        probing.land()
        assert list(probing.observations) == ["a"]


def test_a_probe_that_crashes_is_a_failure_of_its_own_service(tmp_path: Path) -> None:
    town = Town(tmp_path, services=["a", "b"])

    def defect(_call: CallName, _body: bytes) -> bytes:
        raise KeyError("defect")

    town.transport.connect("http://a.invalid", defect)
    with probing_of(town) as (probing, _):
        probing.start_due(main_of(town), ())
        probing.wait(5)
        probing.land()
        assert probing.observations["a"].reason == "ProbeCrashed"
        assert probing.observations["a"].failing_since == town.clock.now()
        assert probing.observations["b"].ok


def test_what_says_the_same_says_the_same(tmp_path: Path) -> None:
    town = Town(tmp_path)
    with probing_of(town) as (probing, _):
        main = main_of(town)

        def probe() -> Observation:
            town.clock.advance(seconds=60)
            probing.start_due(main, ())
            probing.wait(5)
            probing.land()
            return probing.observations["openai-chat"]

        first, second = probe(), probe()
        assert first.at != second.at
        assert says_the_same(second, first)
        town.models["openai-chat"] = "m2"
        third = probe()
        assert not says_the_same(third, second)
        go_down(town, "openai-chat")
        fourth, fifth = probe(), probe()
        assert not says_the_same(fourth, third)
        assert says_the_same(fifth, fourth)
        assert not says_the_same(replace(fifth, reason="AgentTimeout"), fifth)


def test_a_restart_loses_neither_backoff_nor_grace(tmp_path: Path) -> None:
    town = Town(tmp_path)
    go_down(town, "openai-chat")
    first = town.reconciler()
    began = town.clock.now()
    for pause in (20, 11):  # asked again after 13.5 to 16.5 seconds, then after 27 to 33
        first.one_pass(patience=5.0)
        assert first.landed.wait(5.0)
        first.one_pass(patience=5.0)
        town.clock.advance(seconds=pause)
    first.one_pass(patience=5.0)
    first.close()
    row = Pulse(town.store, key(RECONCILER), RECONCILER, town.clock).recall(main_of(town))["openai-chat"]
    assert row.since == began
    assert row.failures == 2
    asked: list[CallName] = []

    def refuse(call: CallName, _body: bytes) -> bytes:
        asked.append(call)
        raise TransportError("AgentUnreachable", "nobody is there", sent=False)

    town.transport.connect("http://openai-chat.invalid", refuse)
    second = town.reconciler()
    second.one_pass(patience=5.0)
    assert not asked  # its backoff is not over
    second.close()
    third = town.reconciler()
    third.one_pass(patience=5.0)  # a second restart in the same pause forgets nothing either
    town.clock.advance(seconds=(row.due - town.clock.now()).total_seconds() + 1)
    third.one_pass(patience=5.0)
    third.one_pass(patience=5.0)
    assert asked
    assert seen_by(third).failing_since == began
    third.close()
    town.close()


def seen_by(reconciler: Reconciler) -> Observation:
    return reconciler._probing.observations["openai-chat"]


def beat_at(store: Store, ref: str) -> Heartbeat:
    commit = store.refs(ref)[ref]
    data = file_bytes(store, read_commit(store, commit).tree, HEARTBEAT_FILE)
    assert data is not None
    return decode_heartbeat(data)


def test_a_beat_tells_rows_of_failures_here_and_not_to_others(tmp_path: Path) -> None:
    town = Town(tmp_path)
    pulse = Pulse(town.store, key(RECONCILER), RECONCILER, town.clock)
    now = town.clock.now()
    seen = Observation("openai-chat", now, False, reason="AgentTimeout", failing_since=now)
    row = Failing(now, 3, now + timedelta(seconds=60))
    assert pulse.beat(main_of(town), {"openai-chat": seen}, {}, lambda: {"openai-chat": row, "new": row})
    local = beat_at(town.store, LOCAL)
    assert local.probes["openai-chat"].failures == 3
    assert local.probes["openai-chat"].due == "2026-11-23T12:01:00Z"
    assert set(local.probes) == {"openai-chat", "new"}
    shared = beat_at(town.store, HEARTBEATS + RECONCILER)
    assert shared.probes["openai-chat"].failures == 0
    assert set(shared.probes) == {"openai-chat"}
    town.close()


def test_many_beats_leave_no_more_objects_than_three(tmp_path: Path) -> None:
    store = git.init(tmp_path / "state", bare=True)
    town = Town(tmp_path, store)
    pulse = Pulse(store, key(RECONCILER), RECONCILER, town.clock)
    main = main_of(town)

    def objects_after(beats: int) -> int:
        for _ in range(beats):
            town.clock.advance(minutes=5)  # each is due here, and to be shared
            seen = Observation("openai-chat", town.clock.now(), False, reason="AgentTimeout")
            assert pulse.beat(main, {"openai-chat": seen})
        return sum(1 for path in (tmp_path / "state" / "objects").rglob("*") if path.is_file())

    few = objects_after(3)
    assert objects_after(5) == few
    town.close()
    store.close()


def test_many_services_make_beats_rarer() -> None:
    assert beat_seconds(1) == beat_seconds(4000) == BEAT_SECONDS
    assert beat_seconds(10_000) == 25
