"""Which agents are asked for a report now, and what was last seen of each.

Rules kept: a probe is a flight of its own, so that a dead agent delays no other; each service has its own
interval, spread so that not all fall due at once; a service an approved request waits for is due at once.
Called by the reconciler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

from capsule.documents.types import Service
from capsule.lifecycle import Observation
from capsule.reconciler.clock import Clock
from capsule.reconciler.flights import Flights
from capsule.reconciler.orders import Courier
from capsule.trust.state import InForce, MainState

LONGEST_BACKOFF = 8
SETTLING = 1.2
"""Seconds after a result, which is recorded to the second, until a probe certainly comes later."""


@dataclass
class _Schedule:
    due: float
    failures: int = 0
    asked_for: str = ""


class Probing:
    """The schedule of probes and the observations they brought."""

    def __init__(self, courier: Courier, flights: Flights[str, Observation], clock: Clock) -> None:
        self._courier = courier
        self._flights = flights
        self._clock = clock
        self._schedule: dict[str, _Schedule] = {}
        self.observations: dict[str, Observation] = {}

    def start_due(self, state: MainState, wanted: Iterable[str]) -> None:
        """Send off every probe that is due; `wanted` services are due whatever their interval says."""
        now = self._clock.monotonic()
        self._forget(state.services)
        urgent = set(wanted)
        for name, service in state.services.items():
            plan = self._schedule.setdefault(name, _Schedule(now))
            changed = plan.asked_for != service.digest
            if now >= plan.due or changed or name in urgent:
                plan.asked_for = service.digest
                self._start(name, service, state)

    def land(self, state: MainState) -> None:
        """Take in the probes that came back, and set when each is due again."""
        now = self._clock.monotonic()
        for name, future in self._flights.take_landed():
            if name not in self._schedule:
                continue
            seen = self.observations[name] = future.result()
            plan = self._schedule[name]
            plan.failures = 0 if seen.ok else min(plan.failures + 1, LONGEST_BACKOFF)
            plan.due = now + self._pause(name, state, plan.failures)

    def look_soon(self, services: Iterable[str]) -> None:
        """Probe these again shortly: an operation on them just ended."""
        due = self._clock.monotonic() + SETTLING
        for name in services:
            if name in self._schedule:
                self._schedule[name].due = min(self._schedule[name].due, due)

    def next_due(self) -> float | None:
        """When the next probe is due, by the monotonic clock; None when nothing is scheduled."""
        waiting = [plan.due for name, plan in self._schedule.items() if name not in self._flights]
        return min(waiting, default=None)

    def _start(self, name: str, service: InForce[Service], state: MainState) -> None:
        limit = service.document.spec.health.timeout or state.settings.document.spec.probe.timeout
        before = self.observations.get(name)
        self._flights.start(name, lambda: self._courier.probe(service, limit.total_seconds(), before))

    def _pause(self, name: str, state: MainState, failures: int) -> float:
        service = state.services.get(name)
        own = service.document.spec.health.interval if service else None
        seconds = (own or state.settings.document.spec.probe.interval).total_seconds()
        # An unreachable agent is asked again sooner, then ever more rarely, at most at four intervals.
        factor = 1.0 if failures == 0 else min(0.25 * 2.0**failures, 4.0)
        spread = 0.9 + 0.2 * (crc32(f"{name}{failures}".encode()) % 1000) / 1000
        return max(seconds * factor * spread, 0.2)

    def _forget(self, services: Mapping[str, object]) -> None:
        for name in [name for name in self._schedule if name not in services]:
            del self._schedule[name]
            self.observations.pop(name, None)
