"""Probing thousands of services with a daemon that really runs: python -m bench.probes.

Agents answer over loopback HTTP from a process of their own (bench.probe_agents), some are dead: half of
those refuse, half accept and never answer. Everything else is the real thing: a git repository, HTTP
transport, signatures, the loop. Floor: the same number of bare GETs with http.client. See bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.probe_agents import SAMPLE, service_name
from capsule.daemon import Turn, Wishes, run
from capsule.documents.codec import emit
from capsule.documents.paths import MAIN
from capsule.documents.types import Capsule, Policy, Service
from capsule.lifecycle import Observation
from capsule.reconciler import PassReport, Reconciler
from capsule.reconciler.watcher import Unwatched
from capsule.store import git
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git_store import GitStore
from capsule.transport.http import HttpTransport
from capsule_agent.protocol import sshsig
from tests.agent_fixtures import key
from tests.town import POLICY, START, plain

PER_FOLDER = 100
WARM_UP_INTERVALS = 2.5
"""Everybody is seen after one interval; then the dead are found out and the first commits made."""


@dataclass
class Seen:
    """What was measured of a running daemon, since `begin`."""

    late: list[float] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    passes: list[float] = field(default_factory=list)
    pass_cpu: list[float] = field(default_factory=list)
    commits: int = 0
    commits_before: int = 0
    began: float = 0.0
    last_commit: float = 0.0
    measuring: bool = False


class Counting(Unwatched):
    """A watcher that notes each probe."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def probed(self, seen: Observation, late: float) -> None:
        if self._seen.measuring and seen.ok:
            self._seen.answered += 1
            self._seen.late.append(late)
        elif self._seen.measuring:
            self._seen.failed += 1


class Measured(Reconciler):
    """A reconciler whose passes are timed: by the clock, and by what their own thread computed."""

    seen: Seen

    def one_pass(self, *, patience: float = 0.5) -> PassReport:
        cpu, began = time.thread_time(), time.perf_counter()
        report = super().one_pass(patience=patience)
        if self.seen.measuring:
            self.seen.passes.append(time.perf_counter() - began)
            self.seen.pass_cpu.append(time.thread_time() - cpu)
        return report

    def note(self, turn: Turn) -> None:
        commits = turn.report.commits if turn.report else 0
        if self.seen.measuring:
            self.seen.commits += commits
            if commits:
                self.seen.last_commit = time.monotonic() - self.seen.began
        else:
            self.seen.commits_before += commits


@dataclass
class Fleet:
    """The agents' process, and where its agents are."""

    process: subprocess.Popen[str]
    answering: int
    silent: int
    refusing: int

    def endpoint(self, number: int, dead: int) -> str:
        """Where a service's agent is; the first `dead` are dead, every other one of them silent."""
        port = self.answering
        if number < dead:
            port = self.silent if number % 2 else self.refusing
        return f"http://127.0.0.1:{port}/{service_name(number)}"

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def gaps(self) -> dict[str, float]:
        """The longest time each agent went unasked, as the agents saw it."""
        self.tell("gaps")
        assert self.process.stdout
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


@contextlib.contextmanager
def fleet(count: int) -> Iterator[Fleet]:
    """The agents, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refusing = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.probe_agents", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        ports = json.loads(process.stdout.readline())
        yield Fleet(process, ports["answering"], ports["silent"], refusing)
    finally:
        process.stdin.close() if process.stdin else None
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def services(agents: Fleet, count: int, dead: int) -> dict[str, bytes]:
    """The documents, a hundred in a folder."""
    spec = {
        "agent": {"endpoint": agents.endpoint(dead, dead), "key": "KEY"},
        "pins": {"version": "1.8.2", "model": "m1"},
    }
    spec["agent"] = {"endpoint": "http://127.0.0.1:1/x", "key": key("x").public.text}
    text = emit(plain(Service, SAMPLE, spec, {"env": "prod"})).decode()
    found = {}
    for number in range(count):
        name = service_name(number)
        own = text.replace(SAMPLE, name).replace("http://127.0.0.1:1/x", agents.endpoint(number, dead))
        own = own.replace(key("x").public.text, key(f"agent {name}").public.text)
        found[f"services/group-{number // PER_FOLDER:03}/{name}.yaml"] = own.encode()
    return found


def found_repository(store: GitStore, documents: dict[str, bytes], interval: int) -> str:
    """A state repository with these services; its root."""
    settings = {"title": "Bench", "probe": {"interval": f"{interval}s"}, "limits": {"maxShare": 100}}
    files: dict[str, bytes | None] = {
        "capsule.yaml": emit(plain(Capsule, "capsule", settings)),
        "policy.yaml": emit(plain(Policy, "policy", POLICY)),
        **documents,
    }
    carol = Person("carol", "carol@example.com")
    draft = Draft(
        None, files, (), "Begin\n", carol, START, sign=lambda data: key("carol").sign(data, sshsig.COMMIT)
    )
    root = store.write(draft)
    store.publish([RefUpdate(MAIN, None, root)])
    return root


def bare_requests(agents: Fleet, count: int) -> float:
    """CPU seconds of one GET with http.client on a kept connection, of `count`, eight at once."""

    def ask(requests: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", agents.answering)
        for _ in range(requests):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()

    began = time.process_time()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, [count // 8] * 8))
    return (time.process_time() - began) / (count // 8 * 8)


def percentiles(values: Sequence[float], unit: float = 1e3) -> list[str]:
    """p50, p95, p99 and the largest."""
    ordered = sorted(values) or [0.0]
    places = (0.5, 0.95, 0.99, 1.0)
    return [f"{ordered[min(int(len(ordered) * at), len(ordered) - 1)] * unit:.1f}" for at in places]


def resident() -> float:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def stored(folder: Path) -> int:
    """Bytes of all files of the repository."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, agents: Fleet, args: argparse.Namespace) -> None:
    """Run the daemon for the warm-up and the time that was asked for, and print what was seen."""
    store = git.init(folder / "state", bare=True)
    began = time.monotonic()
    root = found_repository(store, services(agents, args.services, args.dead), args.interval)
    print(f"{args.services} services committed in {time.monotonic() - began:.1f} s", flush=True)
    seen, wishes = Seen(), Wishes()
    transport = HttpTransport(max_connections=args.connections)
    reconciler = Measured(
        store, transport, key("reconciler-1"), name="reconciler-1", root=root, watcher=Counting(seen)
    )
    reconciler.seen = seen
    marks: dict[str, float] = {}

    def direct() -> None:
        wishes.stop.wait(args.warm_up or args.interval * WARM_UP_INTERVALS)
        agents.tell("forget")
        marks.update(cpu=time.process_time(), at=time.monotonic(), size=stored(folder), rss=resident())
        seen.began, seen.measuring = time.monotonic(), True
        print(f"{datetime.now():%H:%M:%S} measuring; load {os.getloadavg()[0]:.1f}", flush=True)
        wishes.stop.wait(args.minutes * 60)
        seen.measuring = False
        marks["share"] = (time.process_time() - marks["cpu"]) / (time.monotonic() - marks["at"])
        gaps.update(agents.gaps())
        marks["grown"] = stored(folder) - marks["size"]
        wishes.stop.set()

    gaps: dict[str, float] = {}
    director = threading.Thread(target=direct, daemon=True)
    director.start()
    run(reconciler, wishes, turned=[reconciler.note])
    director.join(60)
    transport.close()
    store.close()
    floor = bare_requests(agents, min(max(seen.answered, 800), 20_000))
    _print(args, seen, marks, gaps, floor)


def _print(
    args: argparse.Namespace, seen: Seen, marks: dict[str, float], gaps: dict[str, float], floor: float
) -> None:
    live = args.services - args.dead
    table = Table(
        title=f"{args.services} services every {args.interval} s, {args.dead} dead, {args.minutes} minutes; "
        f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}",
        title_justify="left",
    )
    for name in ("what", "p50", "p95", "p99", "most"):
        table.add_column(name, justify="left" if name == "what" else "right")
    table.add_row("lateness of live services, ms", *percentiles(seen.late))
    table.add_row("longest time unasked, as the agents saw it, s", *percentiles(list(gaps.values()), 1.0))
    table.add_row("pass, ms", *percentiles(seen.passes))
    table.add_row("pass, computing in its own thread, ms", *percentiles(seen.pass_cpu))
    Console(width=110).print(table)
    probes = seen.answered + seen.failed
    late_ones = sum(gap > args.interval * 1.1 + 1.0 for gap in gaps.values())
    seconds = args.minutes * 60
    for line in (
        f"live services asked in time (within 1.1 intervals and a second): {len(gaps) - late_ones} of {live}",
        f"probes: {seen.answered} answered, {seen.failed} failed ({probes / seconds:.0f} a second)",
        f"passes: {len(seen.passes)}, {sum(seen.pass_cpu) / seconds:.1%} of a processor",
        f"processor share of the whole reconciler: {marks['share']:.1%} of one; "
        f"{marks['share'] * seconds / max(probes, 1) * 1e6:.0f} µs a probe, all included",
        f"floor, a bare GET with http.client: {floor * 1e6:.0f} µs of processor each",
        f"memory: {marks['rss']:.0f} MiB at the begin of the time measured, {resident():.0f} MiB at its end",
        f"commits on audit: {seen.commits_before} while everybody was seen first, {seen.commits} since"
        + (f" (the last after {seen.last_commit:.0f} s)" if seen.commits else ""),
        f"growth of the repository in that time: {marks['grown'] / 1024:.0f} KiB",
    ):
        print(line)


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--dead", type=int, default=100)
    parser.add_argument("--interval", type=int, default=30, help="seconds")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=0.0, help="seconds before the measuring begins")
    parser.add_argument("--connections", type=int, help="most connections kept; else as usual")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, fleet(args.services) as agents:
        measure(Path(name), agents, args)


if __name__ == "__main__":
    main()
