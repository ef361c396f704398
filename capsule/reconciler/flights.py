"""Calls under way: what was sent and has not landed yet, so that one slow agent delays no other.

Rules kept: one flight per key; a flight's exception is its result; landing wakes whoever waits; what landed
is handed out without looking at what has not. Called by the reconciler, for orders, and by probing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Bell(Protocol):
    """What wakes whoever waits, such as a threading.Event."""

    def set(self) -> object:
        """Wake it."""
        ...


class Flights(Generic[K, R]):
    """At most `workers` calls at once, each under a key of its own. One thread at a time starts and lands;
    `landed` is rung by each call that ended."""

    def __init__(self, workers: int, name: str, landed: Bell) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._landed = landed
        self._open: dict[K, Future[R]] = {}
        self._done: deque[K] = deque()

    def __contains__(self, key: K) -> bool:
        return key in self._open

    def __len__(self) -> int:
        return len(self._open)

    def start(self, key: K, call: Callable[[], R]) -> None:
        """Send a call off; nothing when one with this key is under way."""
        if key not in self._open:
            # The call takes its context along: logs say what it is about.
            future = self._pool.submit(copy_context().run, self._fly, key, call)
            self._open[key] = future
            future.add_done_callback(lambda _: self._landed.set())

    def take_landed(self) -> list[tuple[K, Future[R]]]:
        """Every call that is done (or will be in a moment), each handed out once."""
        done = []
        while self._done:
            key = self._done.popleft()
            done.append((key, self._open.pop(key)))
        return done

    def under_way(self, keys: Iterable[K] | None = None) -> list[Future[R]]:
        """The calls that have not landed: of these keys, or all."""
        if keys is None:
            return list(self._open.values())
        return [self._open[key] for key in keys if key in self._open]

    def wait(self, seconds: float) -> None:
        """Wait at most so long for all that is under way."""
        wait(self.under_way(), timeout=seconds)

    def close(self) -> None:
        """Take no more; what has not begun is dropped, what has begun ends by its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fly(self, key: K, call: Callable[[], R]) -> R:
        try:
            return call()
        finally:
            self._done.append(key)  # before the future is done: whoever waited for it finds it landed
