"""A pass in which nothing changed, at several sizes: python -m bench.passes. Floor: the smallest size."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.timing import Sheet, best_of
from capsule.store import git
from tests.town import Town

SIZES = (1, 10, 100, 300)


def main() -> None:
    sheet = Sheet("a quiet pass (no answer due, nothing new)", f"{SIZES[0]} service")
    floor = 0.0
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            seconds = _quiet_pass(Path(name), size)
        floor = floor or seconds
        sheet.row(f"{size} services", seconds, floor)
    sheet.show()


def _quiet_pass(folder: Path, size: int) -> float:
    store = git.init(folder / "state", bare=True)
    town = Town(folder, store, [f"service-{number}" for number in range(size)])
    reconciler = town.reconciler()
    try:
        town.settle(reconciler, most=60)
        return best_of(20, lambda: reconciler.one_pass(patience=0.0))
    finally:
        reconciler.close()
        town.close()


if __name__ == "__main__":
    main()
