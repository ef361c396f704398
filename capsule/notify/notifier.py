"""Tells people what is true now and was not told yet, each receiver in a thread of its own.

Rules kept: `consider` neither waits for a receiver nor raises; a fact is told once to each address for as
long as it lasts, also across restarts, and counts as told only when the receiver took it, so that a crash
can repeat a message and never lose one. Called after passes, by commands.notify.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from capsule.documents.types import NotifyRoute
from capsule.notify.delivery import Message, deliver
from capsule.notify.mailbox import Due, Mailbox, Pauses
from capsule.notify.memory import MOST_FACTS, MOST_RECEIVERS, Memory, mark
from capsule.notify.reasons import Undeliverable
from capsule.notify.receivers import addresses
from capsule.notify.routing import Delivery, Told, after_look, is_due, routed
from capsule.view.events import events_of
from capsule.view.model import Snapshot

log = logging.getLogger("capsule.notify")


class Notifier:
    """One for a repository. `folder` holds the files of receivers, `memory` is where what was told is kept.

    `pauses` are for tests, which have no time.
    """

    def __init__(self, folder: Path, memory: Path, *, pauses: Pauses | None = None) -> None:
        self._folder = folder
        self._pauses = pauses or Pauses()
        self._memory = Memory(memory)
        self._lock = threading.RLock()
        self._mailboxes: dict[str, Mailbox] = {}
        self._now = datetime.now(UTC)
        self._complained: dict[str, str] = {}

    def consider(self, seen: Snapshot, routes: Sequence[NotifyRoute]) -> None:
        """Have everybody told of what holds in `seen`, as `routes` say; returns at once, and never raises."""
        try:
            found = routed(events_of(seen), routes)
            with self._lock:
                self._now = seen.now
                self._consider(seen, found)
                self._memory.save()
        except Exception:
            log.exception("notifications: this look failed; the next one tries again")

    def close(self, seconds: float) -> None:
        """Try once what is still due, at most so long, then stop; what did not arrive is told after the
        next start."""
        with self._lock:
            for mailbox in self._mailboxes.values():
                mailbox.close()
        deadline = time.monotonic() + seconds
        for mailbox in self._mailboxes.values():
            mailbox.join(deadline - time.monotonic())

    def _consider(self, seen: Snapshot, found: Mapping[str, Delivery]) -> None:
        boxes = {name: self._boxes_of(name) for name in found}
        known = {box: found[name] for name, listed in boxes.items() for box in listed or ()}
        for box in self._mailboxes.keys() - known.keys():
            self._mailboxes[box].offer(Due({}))
        told = self._memory.told
        for box in told.keys() - known.keys():
            if boxes.get(box.rpartition("/")[0], []) is not None:
                del told[box]
        for box, delivery in list(known.items())[:MOST_RECEIVERS]:
            wanted = {mark(key): each for key, each in list(delivery.wanted.items())[:MOST_FACTS]}
            facts = told[box] = after_look(told.get(box, {}), wanted, delivery.repeat_after, self._now)
            due = {key: each.event for key, each in wanted.items() if is_due(each, facts.get(key), self._now)}
            self._mailbox(box).offer(Due(due, seen.title, delivery.every.total_seconds()))

    def _boxes_of(self, name: str) -> list[str] | None:
        """One for each address of the receiver; None, having said so once, when they cannot be read."""
        try:
            count = len(addresses(self._folder, name))
        except Undeliverable as error:
            if self._complained.get(name) != str(error):
                log.error("nobody is told by way of %s: %s [%s]", name, error, error.reason)
            self._complained[name] = str(error)
            return None
        self._complained.pop(name, None)
        return [f"{name}/{number}" for number in range(1, count + 1)]

    def _mailbox(self, box: str) -> Mailbox:
        if box not in self._mailboxes:
            self._mailboxes[box] = Mailbox(
                box, self._lock, partial(self._send, box), partial(self._told, box), self._pauses
            )
        return self._mailboxes[box]

    def _send(self, box: str, message: Message) -> None:
        name, _, number = box.rpartition("/")
        lines = addresses(self._folder, name)[int(number) - 1 :]
        if not lines:
            raise Undeliverable("ReceiverMissing", f"receiver {name} has no address {number} any more")
        deliver(lines[0], message)

    def _told(self, box: str, marks: frozenset[str]) -> None:
        facts = self._memory.told.setdefault(box, {})
        for each in marks:
            facts[each] = Told(self._now)
        self._memory.save()
