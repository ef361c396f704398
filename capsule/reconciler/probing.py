"""Asks agents for their reports when they are due, and keeps what was last seen of each.

Rules kept: a probe is a flight of its own, at most `workers` at once, of which services that fail get an
eighth, so that dead agents delay no other; when who is due is schedule's. After `run_beside` a thread of its
own sends probes off and takes them in, so that neither a long pass nor a remote that is away makes them
late; without it, passes do. What passes see (`observations`) changes in `land` alone, in the pass's own
thread. Called by the reconciler.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from capsule.documents.types import Service
from capsule.lifecycle import Observation
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.flights import Flights
from capsule.reconciler.orders import Courier
from capsule.reconciler.schedule import Schedule, Wish
from capsule.reconciler.watcher import Unwatched, Watcher
from capsule.trust.state import InForce, MainState

log = logging.getLogger("capsule.reconciler")
REASONS: dict[str, str] = {
    "ProbeCrashed": "A defect of Capsule's own kept a probe from its end; the reconciler's log says more.",
}
SETTLING = 1.2
"""Seconds after a result, which is recorded to the second, until a probe certainly comes later."""
MOST_WORKERS = 128
FAILING_SHARE = 8
EAGER = 16
"""Probes younger than `YOUNG` seconds that are under way at once: those compute, older ones wait for agents.
More of them would only take the processor from each other, and from passes. Both allow 500 a second."""
YOUNG = 0.03
IDLE = 1.0


@dataclass(frozen=True, slots=True)
class Failing:
    """A row of failures, as a heartbeat remembers it: since when, how many, when the agent is asked next."""

    since: datetime
    failures: int
    due: datetime


class Probing:
    """The probes of one reconciler. `landed` is set when an answer came that a pass should look at."""

    def __init__(
        self,
        courier: Courier,
        clock: Clock,
        landed: threading.Event,
        watcher: Watcher | None = None,
        *,
        workers: int = MOST_WORKERS,
    ) -> None:
        self._watcher = watcher or Unwatched()
        self._courier = courier
        self._clock = clock
        self._told = landed
        self._stir = threading.Event()
        self._workers = workers
        self._failing_workers = max(workers // FAILING_SHARE, 1)
        self._lock = threading.Lock()
        self._schedule = Schedule(spread=False)
        self._services: Mapping[str, InForce[Service]] = {}
        self._settings = ""
        self._limits: dict[str, float] = {}
        self._late: dict[str, float] = {}
        self._failing_now: set[str] = set()
        self._young: dict[str, float] = {}
        self._latest: dict[str, Observation] = {}
        self._remembered: dict[str, Failing] = {}
        self._arrived: dict[str, tuple[Observation, float]] = {}
        self._awaited: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._flights: Flights[str, Observation] = Flights(workers, "probe", self)
        self._closed = False
        self.observations: dict[str, Observation] = {}

    def __len__(self) -> int:
        """How many probes are under way, or were never sent and wait for a free thread."""
        with self._lock:
            waiting = 0 if self._schedule.spread else self._schedule.unasked()
            return len(self._flights) + waiting

    # ---- for passes -----------------------------------------------------------------------------

    def run_beside(self) -> None:
        """From now on probe in a thread of its own, and spread new services over their interval."""
        with self._lock:
            if self._thread is not None or self._closed:
                return
            self._schedule.spread = True
            self._thread = threading.Thread(target=self._run, name="probing", daemon=True)
            self._thread.start()

    def recall(self, rows: Mapping[str, Failing]) -> None:
        """Rows of failures from before a restart, for services that are probed for the first time."""
        self._remembered = dict(rows)

    def start_due(self, state: MainState, wanted: Iterable[str]) -> None:
        """Take over the services of `state` and send off every probe that is due; `wanted` ones go first."""
        with self._lock:
            self._follow(state)
            self._awaited = frozenset(wanted)
            self._schedule.want(self._awaited, self._clock.monotonic())
            self._send_due()
        self._stir.set()

    def land(self) -> None:
        """Let passes see what came back since."""
        with self._lock:
            self._take_in()
            arrived, self._arrived = self._arrived, {}
        for seen, late in arrived.values():
            if seen.service in self._services:
                self.observations[seen.service] = seen
                self._watcher.probed(seen, late)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for the probes under way that somebody waits for; without any, for all."""
        with self._lock:
            futures = self._flights.under_way(self._awaited or None)
        wait(futures, timeout=seconds)

    def look_soon(self, services: Iterable[str]) -> None:
        """Probe these again shortly: an operation on them just ended."""
        with self._lock:
            self._schedule.look_soon(services, self._clock.monotonic() + SETTLING)
        self._stir.set()

    def next_due(self) -> float | None:
        """When a pass should send probes, by the monotonic clock; None when none is due by a pass."""
        if self._thread is not None:
            return None
        with self._lock:
            return self._earliest()

    def failing(self) -> dict[str, Failing]:
        """The rows of failures that are to be remembered."""
        now, ticks = self._clock.now(), self._clock.monotonic()
        found = {}
        with self._lock:
            for name, seen in self.observations.items():
                if seen.failing_since and name in self._schedule and self._schedule.failures(name):
                    due = now + timedelta(seconds=max(round(self._schedule.due(name) - ticks), 0))
                    found[name] = Failing(seen.failing_since, self._schedule.failures(name), due)
            unasked = {name: row for name, row in self._remembered.items() if name in self._services}
        return {**unasked, **found}

    def close(self) -> None:
        """End the threads; what is under way ends by its own timeout."""
        self._closed = True
        self._stir.set()
        self._flights.close()
        if self._thread is not None:
            self._thread.join(IDLE)

    # ---- beside them ----------------------------------------------------------------------------

    def set(self) -> None:
        """A probe came back (the Bell of its flights): our own thread looks, or else a pass must."""
        (self._stir if self._thread is not None else self._told).set()

    def _run(self) -> None:
        while not self._closed:
            self._stir.clear()
            try:
                with self._lock:
                    self._take_in()
                    self._send_due()
                    due = self._earliest()
            except Exception:
                if not self._closed:
                    log.exception("sending probes failed; it is tried again")
                due = self._clock.monotonic() + IDLE
            pause = IDLE if due is None else min(max(due - self._clock.monotonic(), 0.0), IDLE)
            self._stir.wait(pause)

    def _follow(self, state: MainState) -> None:
        settings = state.settings.digest
        if state.services is self._services and settings == self._settings:
            return
        self._services, self._settings = state.services, settings
        probe = state.settings.document.spec.probe
        wishes = {}
        for name, service in state.services.items():
            health = service.document.spec.health
            wishes[name] = Wish((health.interval or probe.interval).total_seconds(), service.digest)
            self._limits[name] = (health.timeout or probe.timeout).total_seconds()
        self._schedule.follow(wishes, self._clock.monotonic())
        for gone in self._limits.keys() - wishes.keys():
            del self._limits[gone]
            self._latest.pop(gone, None)
            self.observations.pop(gone, None)
        self._go_on()

    def _go_on(self) -> None:
        now = self._clock.now()
        for name, row in self._remembered.items():
            self._schedule_row(name, row, now)

    def _schedule_row(self, name: str, row: Failing, now: datetime) -> None:
        if name in self._schedule and name not in self._latest:
            self._schedule.recall(name, row.failures, (row.due - now).total_seconds())
            # A wall clock that was set back must not make a failure begin in the future.
            self._latest[name] = Observation(name, now, False, failing_since=min(row.since, now))

    def _send_due(self) -> None:
        if self._closed:
            return
        now = self._clock.monotonic()
        self._young = {name: since for name, since in self._young.items() if now - since < YOUNG}
        self._send(now, failing=True, room=self._failing_workers - len(self._failing_now))
        self._send(now, failing=False, room=self._workers)

    def _send(self, now: float, *, failing: bool, room: int) -> None:
        while room > 0 and len(self._flights) < self._workers and len(self._young) < EAGER:
            turn = self._schedule.take(now, failing=failing)
            if turn is None:
                return
            room -= 1
            self._late[turn.name] = turn.late
            self._young[turn.name] = now
            if failing:
                self._failing_now.add(turn.name)
            self._start(turn.name)

    def _start(self, name: str) -> None:
        service, limit, before = self._services[name], self._limits[name], self._latest.get(name)
        with about(service=name):
            self._flights.start(name, lambda: self._courier.probe(service, limit, before))

    def _take_in(self) -> None:
        now = self._clock.monotonic()
        for name, future in self._flights.take_landed():
            self._failing_now.discard(name)
            self._young.pop(name, None)
            late = self._late.pop(name, 0.0)
            if name not in self._schedule or future.cancelled():
                continue
            seen = self._seen(name, future)
            self._schedule.landed(name, ok=seen.ok, now=now)
            before = self._latest.get(name)
            self._latest[name] = seen
            self._remembered.pop(name, None)
            self._arrived[name] = seen, late
            if name in self._awaited or self._is_news(seen, before):
                self._told.set()

    def _is_news(self, seen: Observation, before: Observation | None) -> bool:
        """Whether a pass should look at once: first answers of many are left to come together."""
        if before is None:
            return not self._schedule.unasked()
        return not says_the_same(seen, before)

    def _seen(self, name: str, future: Future[Observation]) -> Observation:
        error = future.exception()
        if error is None:
            return future.result()
        # A defect of ours: it must not end the probing of everybody else.
        with about(service=name):
            log.error("service %s: the probe crashed", name, exc_info=error)
        before, now = self._latest.get(name), self._clock.now()
        since = before.failing_since if before and before.failing_since else now
        report = before.report if before else None
        return Observation(
            name, now, False, report, "ProbeCrashed", type(error).__name__, failing_since=since
        )

    def _earliest(self) -> float | None:
        if len(self._flights) >= self._workers:
            return None
        found = [self._schedule.next_due(failing=False)]
        if len(self._failing_now) < self._failing_workers:
            found.append(self._schedule.next_due(failing=True))
        due = min((due for due in found if due is not None), default=None)
        if due is None or len(self._young) < EAGER:
            return due
        return max(due, min(self._young.values()) + YOUNG)


def says_the_same(seen: Observation, before: Observation) -> bool:
    """Whether an answer says what the one before said, times and latency aside."""
    if seen.ok != before.ok or seen.reason != before.reason:
        return False
    old, new = before.report, seen.report
    if old is None or new is None or old is new:
        return old is new
    health = replace(new.health, checked_at=old.health.checked_at)
    return replace(new, nonce=old.nonce, at=old.at, health=health) == old
