"""A pass in which nothing changed, at several sizes: python -m bench.passes [--requests 10000 100000].

Floor: the smallest size. With --requests also beside so many requests that have come to their end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bench.histories import write_requests
from bench.timing import Sheet, best_of, duration
from capsule.commands.reconciler_memory import Memory
from capsule.reconciler import Reconciler, Remembered
from capsule.reconciler.watching import SEEN
from capsule.store import git
from capsule.store.api import RefUpdate, Store
from capsule.testing.memory_transport import MemoryTransport
from tests.town import Town
from tests.trust_history import key

SIZES = (1, 10, 100, 300)
FEWEST = 100
"""Requests beside which others are measured."""


def main() -> None:
    """Measure by services, and by requests where that is asked for."""
    parser = argparse.ArgumentParser(description="a pass in which nothing changed")
    parser.add_argument("--requests", type=int, nargs="*", default=[], help="such as 10000 100000 (minutes)")
    args = parser.parse_args()
    sheet = Sheet("a quiet pass (no answer due, nothing new)", f"{SIZES[0]} service")
    floor = 0.0
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            seconds = _beside_services(Path(name), size)
        floor = floor or seconds
        sheet.row(f"{size} services", seconds, floor)
    sheet.show()
    if args.requests:
        _by_requests(args.requests)


def _by_requests(sizes: list[int]) -> None:
    sheet = Sheet("a quiet pass of 40 services, beside requests at their end", f"{FEWEST} requests")
    floor = 0.0
    for size in (FEWEST, *sizes):
        with tempfile.TemporaryDirectory() as name:
            first, again, seconds = _beside_requests(Path(name) / "state", size)
        floor = floor or seconds
        beside = f"the first pass: {duration(first)}, after a restart: {duration(again)}"
        sheet.row(f"{size:,} requests ({beside})", seconds, floor)
    sheet.show()


def _beside_services(folder: Path, size: int) -> float:
    store = git.init(folder / "state", bare=True)
    town = Town(folder, store, [f"service-{number}" for number in range(size)])
    reconciler = town.reconciler()
    try:
        town.settle(reconciler, most=60)
        return best_of(20, lambda: reconciler.one_pass(patience=0.0))
    finally:
        reconciler.close()
        town.close()


def _beside_requests(folder: Path, size: int) -> tuple[float, float, float]:
    """The seconds of the first pass, of the first one after a restart, and of a quiet one. No agent can be
    reached."""
    written = write_requests(folder, size)
    with closing(git.open_store(folder)) as store:
        store.publish([RefUpdate(SEEN, None, written.audit)])
        first, quiet, verified = _passes(store, written.root, None)
        Memory(folder, written.root, store).keep(verified)
    del verified
    with closing(git.open_store(folder)) as store:
        began = time.perf_counter()
        before = Memory(folder, written.root, store).recall()
        recalled = time.perf_counter() - began
        again, _, _ = _passes(store, written.root, before)
    return first, recalled + again, quiet


def _passes(store: Store, root: str, before: Remembered | None) -> tuple[float, float, Remembered]:
    """The seconds of the first pass and of a quiet one, and what was verified."""
    reconciler = Reconciler(
        store, MemoryTransport(), key("reconciler-1"), name="reconciler-1", root=root, before=before
    )
    try:
        began = time.perf_counter()
        reconciler.one_pass(patience=5.0)
        first = time.perf_counter() - began
        for _ in range(5):
            reconciler.one_pass(patience=1.0)
        return first, best_of(10, lambda: reconciler.one_pass(patience=0.0)), reconciler.remembered
    finally:
        reconciler.close()


if __name__ == "__main__":
    main()
