"""Idle connections, kept for the next call: bounded in number and age, the least recently used go first.

Rules kept: a connection is in one thread's hands or here, never both; one that is readable while idle (closed
by the peer, or speaking unasked) is thrown away. Called by transport.http.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What is kept."""

    @property
    def is_connected(self) -> bool: ...

    def close(self) -> None: ...


K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Closable)


class KeptConnections(Generic[K, C]):
    """At most `most` idle connections, none idle longer than `max_idle` seconds. Safe for many threads."""

    def __init__(self, most: int, *, max_idle: float = 120.0) -> None:
        self._most = most
        self._max_idle = max_idle
        self._idle: dict[K, deque[tuple[float, C]]] = {}
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def take(self, key: K) -> C | None:
        """A live connection for `key` that is the caller's from now on; None when there is none."""
        while (found := self._pop(key)) is not None:
            since, connection = found
            if time.monotonic() - since <= self._max_idle and connection.is_connected:
                return connection
            connection.close()
        return None

    def give(self, key: K, connection: C) -> None:
        """Keep a connection that is ready for another call."""
        surplus: C | None = None
        with self._lock:
            if self._closed or self._most == 0:
                surplus = connection
            else:
                # Newest last: `take` uses the newest, the oldest are at hand for eviction. Re-inserting the
                # key keeps the endpoint used longest ago first.
                waiting = self._idle.pop(key, None) or deque()
                waiting.append((time.monotonic(), connection))
                self._idle[key] = waiting
                self._count += 1
                if self._count > self._most:
                    surplus = self._drop_oldest()
        if surplus is not None:
            surplus.close()

    def close(self) -> None:
        """Close all that is idle; what is given later is closed at once."""
        with self._lock:
            self._closed = True
            idle = [connection for waiting in self._idle.values() for _, connection in waiting]
            self._idle.clear()
            self._count = 0
        for connection in idle:
            connection.close()

    def _pop(self, key: K) -> tuple[float, C] | None:
        with self._lock:
            waiting = self._idle.get(key)
            if not waiting:
                return None
            found = waiting.pop()
            self._count -= 1
            if not waiting:
                del self._idle[key]
            return found

    def _drop_oldest(self) -> C:
        key = next(iter(self._idle))
        _, connection = self._idle[key].popleft()
        self._count -= 1
        if not self._idle[key]:
            del self._idle[key]
        return connection
