"""How a bench measures and prints: the best of several runs, beside its floor. Called by every bench."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table


def best_of(runs: int, work: Callable[[], object]) -> float:
    """The shortest of `runs` runs, in seconds: the one least disturbed by the machine."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


class Sheet:
    """A table of measurements; each row names its floor and the ratio to it."""

    def __init__(self, title: str, floor: str) -> None:
        self._table = Table(title=title, title_justify="left")
        for name in ("what", "each", "floor", "ratio"):
            self._table.add_column(name, justify="left" if name in ("what", "floor") else "right")
        self._floor = floor

    def row(self, what: str, seconds: float, floor_seconds: float) -> None:
        """Add one measurement in seconds per item beside its floor in seconds per item."""
        ratio = seconds / floor_seconds
        self._table.add_row(
            what, duration(seconds), f"{self._floor}: {duration(floor_seconds)}", f"{ratio:.2f}"
        )

    def show(self) -> None:
        """Print the table."""
        Console(width=110).print(self._table)


def duration(seconds: float) -> str:
    """Such as "205 µs" or "1.35 s"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
