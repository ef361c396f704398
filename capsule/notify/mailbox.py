"""What one receiver still has to be told, and the thread that tells it.

Rules kept: a receiver that hangs or is down delays nobody else; what is due is replaced, never queued, so it
is bounded; many events go out as one message; a failure is tried again with growing pauses for as long as the
facts hold. Called by notify.notifier.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from capsule.notify.delivery import Message
from capsule.notify.message import message_of
from capsule.notify.reasons import Undeliverable
from capsule.view.events import Event

log = logging.getLogger("capsule.notify")
SUSPICIOUS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """In seconds: how long news gather before a message leaves, and between tries of one that failed."""

    gather: float = 2.0
    first_retry: float = 5.0
    longest_retry: float = 900.0

    def after(self, failures: int) -> float:
        """The pause after so many failures in a row: doubling, with jitter."""
        doubled = self.first_retry * 2.0 ** min(failures - 1, 20)
        return min(doubled, self.longest_retry) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter, no secret)


@dataclass(frozen=True, slots=True)
class Due:
    """What one receiver is to be told: events by mark, the repository's title, and the shortest time in
    seconds between two messages."""

    events: Mapping[str, Event]
    title: str = ""
    every: float = 0.0


class Mailbox:
    """One address of one receiver. `lock` is shared with whoever decides what is due."""

    def __init__(
        self,
        name: str,
        lock: threading.RLock,
        send: Callable[[Message], None],
        told: Callable[[frozenset[str]], None],
        pauses: Pauses,
    ) -> None:
        """`send` delivers or raises Undeliverable; `told` is called, under `lock`, with the marks of what a
        receiver took."""
        self._name = name
        self._changed = threading.Condition(lock)
        self._send = send
        self._told = told
        self._pauses = pauses
        self._due = Due({})
        self._not_before = 0.0
        self._failures = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._sending: float | None = None

    def offer(self, due: Due) -> None:
        """Replace what is to be told. The caller holds the lock."""
        if due.events and not self._due.events and not self._failures:
            self._not_before = max(self._not_before, time.monotonic() + self._pauses.gather)
        self._due = due
        if self._sending is not None and time.monotonic() - self._sending > SUSPICIOUS_SECONDS:
            log.warning("a message to %s is still on its way; nothing else is sent there", self._name)
        if due.events and self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"notify {self._name}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def close(self) -> None:
        """Try once, now, what is due and was not tried, then end. The caller holds the lock."""
        self._closing = True
        self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end, at most so long. The caller does not hold the lock."""
        if self._thread:
            self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        while (due := self._next()) is not None:
            try:
                self._send(message_of(due.title, list(due.events.values())))
            except Undeliverable as error:
                self._failed(error)
            else:
                self._succeeded(due)

    def _next(self) -> Due | None:
        """What to tell now, as soon as it may be; None at the end."""
        with self._changed:
            while True:
                if not self._due.events or (self._closing and self._failures):
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                wait = self._not_before - time.monotonic()
                if wait <= 0 or self._closing:
                    self._sending = time.monotonic()
                    return self._due
                self._changed.wait(wait)

    def _succeeded(self, due: Due) -> None:
        with self._changed:
            self._sending = None
            if self._failures:
                log.info("notifications to %s arrive again", self._name)
            self._failures = 0
            self._not_before = time.monotonic() + due.every
            self._told(frozenset(due.events))
            left = {key: event for key, event in self._due.events.items() if key not in due.events}
            self._due = replace(self._due, events=left)

    def _failed(self, error: Undeliverable) -> None:
        with self._changed:
            self._sending = None
            self._failures += 1
            pause = self._pauses.after(self._failures)
            self._not_before = time.monotonic() + pause
        log.warning(
            "notifications to %s do not arrive: %s [%s]; next try in %.0f s",
            self._name, error, error.reason, pause,
        )  # fmt: skip
