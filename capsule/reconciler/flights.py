"""Calls under way: what was sent and has not landed yet, so that one slow agent delays no other.

Rules kept: one flight per key; a flight's exception is its result; landing wakes whoever waits. Called by
the reconciler, for probes and for orders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Flights(Generic[K, R]):
    """At most `workers` calls at once, each under a key of its own."""

    def __init__(self, workers: int, name: str, landed: threading.Event) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._landed = landed
        self._open: dict[K, Future[R]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._open

    def __len__(self) -> int:
        return len(self._open)

    def start(self, key: K, call: Callable[[], R]) -> None:
        """Send a call off; nothing when one with this key is under way."""
        if key not in self._open:
            future = self._pool.submit(call)
            self._open[key] = future
            future.add_done_callback(lambda _: self._landed.set())

    def take_landed(self) -> list[tuple[K, Future[R]]]:
        """Every call that is done, each handed out once."""
        done = [(key, future) for key, future in self._open.items() if future.done()]
        for key, _ in done:
            del self._open[key]
        return done

    def wait(self, seconds: float) -> None:
        """Wait at most so long for all that is under way."""
        wait(list(self._open.values()), timeout=seconds)

    def close(self) -> None:
        """Take no more; what has not begun is dropped, what has begun ends by its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
