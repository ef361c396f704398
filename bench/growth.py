"""How much a day of ordinary changes adds to a repository: python -m bench.growth.

Assumed: each service has one incident a day (it becomes unreachable, and comes back), and every tenth drifts
once (found, and gone again); each is a commit of its own. What is committed is made by the same code as in a
reconciler. The heartbeats of that day are written too, as often as the reconciler would: they leave nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from bench.probe_agents import SAMPLE, sample_report, service_name
from bench.probes import found_repository, stored
from capsule.decide import SetStatus, status_change
from capsule.documents.codec import emit
from capsule.documents.types import Service, ServiceStatus
from capsule.lifecycle import Observation
from capsule.reconciler.heartbeat import Pulse, beat_seconds
from capsule.reconciler.recording import AuditBranch, Tips, status_facts
from capsule.store import git
from capsule.store.git_store import GitStore
from capsule.trust.mainline import judge
from capsule.trust.state import MainState
from capsule_agent.protocol import messages
from tests.agent_fixtures import key
from tests.town import TestClock, plain

SIZES = (50, 10_000)
PER_FOLDER = 100
PER_COMMIT = 500
MOST_COMMITS = 600
"""A day of 10,000 services is more: so many are measured, and the rest is reckoned."""
CHANGES_A_DAY = 2.2
RECONCILER = "reconciler-1"


@dataclass
class Day:
    """A repository whose services change."""

    store: GitStore
    state: MainState
    clock: TestClock
    tips: Tips
    known: dict[str, ServiceStatus]

    def __post_init__(self) -> None:
        self._audit = AuditBranch(self.store, key(RECONCILER), RECONCILER, self.state.root)
        self._report = messages.decode(messages.Report, sample_report().encode())

    def observation(self, name: str, *, offline: bool, drifted: bool) -> Observation:
        now = self.clock.now()
        model = "m2" if drifted else "m1"
        report = replace(self._report, service=name, config={**self._report.config, "model": model})
        if offline:
            since = now - timedelta(minutes=2)
            return Observation(name, now, False, report, "AgentTimeout", "no answer", 0, since)
        return Observation(name, now, True, report, latency_ms=23)

    def change(self, name: str, *, offline: bool = False, drifted: bool = False) -> SetStatus:
        self.clock.advance(minutes=20)  # slowly: nothing flaps
        seen = self.observation(name, offline=offline, drifted=drifted)
        found = status_change(
            self.state, self.state.services[name], seen, self.known.get(name), self.clock.now()
        )
        assert found, name
        self.known[name] = found.status
        return found

    def record(self, changes: list[SetStatus]) -> None:
        facts = status_facts([(item.service.path, item.status, item.subject) for item in changes])
        self.tips = self._audit.record(self.tips, facts, self.state.tip, self.clock.now())


def begin(folder: Path, count: int) -> Day:
    """A repository of `count` services, all of them seen."""
    store = git.init(folder / "state", bare=True)
    spec = {"agent": {"endpoint": "http://127.0.0.1:1", "key": key("x").public.text}, "pins": {"model": "m1"}}
    text = emit(plain(Service, SAMPLE, spec, {"env": "prod"})).decode()
    documents = {
        f"services/group-{at // PER_FOLDER:03}/{service_name(at)}.yaml": text.replace(
            SAMPLE, service_name(at)
        ).encode()
        for at in range(count)
    }
    root = found_repository(store, documents, 30)
    day = Day(store, judge(store, root, root, None), TestClock(), Tips(None, root), {})
    names = sorted(day.state.services)
    for first in range(0, count, PER_COMMIT):
        day.record([day.change(name) for name in names[first : first + PER_COMMIT]])
    store.maintenance()
    return day


def live_a_day(day: Day, commits: int) -> None:
    """So many changes, each a commit."""
    names = sorted(day.state.services)
    step = max(len(names) // commits, 1)
    at = done = 0
    while done < commits:
        name = names[(at * step * 7) % len(names)]
        drifts = at % 10 == 0
        for change in ({"offline": True}, {}, *(({"drifted": True}, {}) if drifts else ())):
            day.record([day.change(name, **change)])
            done += 1
        at += 1


def beat_a_day(day: Day, beats: int) -> None:
    """Heartbeats with a fresh probe of every service in each."""
    pulse = Pulse(day.store, key(RECONCILER), RECONCILER, day.clock)
    for _ in range(beats):
        day.clock.advance(seconds=300)  # each is due to be shared, too
        seen = {name: day.observation(name, offline=False, drifted=False) for name in day.state.services}
        assert pulse.beat(day.state, seen)


def measure(count: int, most: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        day = begin(folder, count)
        begun = stored(folder)
        daily = round(count * CHANGES_A_DAY)
        commits = min(daily, most)
        live_a_day(day, commits)
        loose = stored(folder) - begun
        day.store.maintenance()
        packed = stored(folder) - begun
        beat_a_day(day, 4)
        before = stored(folder)
        beat_a_day(day, 6)
        beats = stored(folder) - before
        scale = daily / commits
        print(
            f"{count} services: {begun / 2**20:.2f} MiB with all seen; a day of {daily} changes "
            f"({commits} measured): {loose * scale / 2**20:.1f} MiB as written, "
            f"{packed * scale / 2**20:.2f} MiB after maintenance "
            f"({loose / commits / 1024:.1f} and {packed / commits / 1024:.2f} KiB a change); "
            f"six more beats (one every {beat_seconds(count)} s): {beats / 1024:+.1f} KiB",
            flush=True,
        )
        day.store.close()


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description="How much a day of ordinary changes adds to a repository")
    parser.add_argument("--services", type=int, nargs="*", default=SIZES)
    parser.add_argument("--most", type=int, default=MOST_COMMITS, help="commits measured at most")
    args = parser.parse_args()
    for count in args.services:
        measure(count, args.most)


if __name__ == "__main__":
    main()
