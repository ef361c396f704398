"""Notifications: `capsule notify list` and `test`, and what the daemon does after its passes.

Rules kept: the repository is looked at in a thread of its own, with a store of its own, so that no pass
waits; only when a tip moved or the clock may have decided something. Addresses are read from files, never
shown.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from capsule.commands.errors import CommandError, SetUpProblem
from capsule.commands.reads import look
from capsule.commands.repository import Repository
from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES
from capsule.documents.types import NotifyRoute
from capsule.notify.delivery import Message, deliver
from capsule.notify.notifier import Notifier
from capsule.notify.reasons import Undeliverable
from capsule.notify.receivers import addresses
from capsule.notify.routing import fits
from capsule.store.api import StoreError
from capsule.view.build import SnapshotCache
from capsule.view.events import Event, events_of

log = logging.getLogger("capsule.notify")
MEMORY = Path("capsule") / "notify.json"
CLOSING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event that is true now, and the receivers that the routes name for it."""

    event: Event
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a test message to one address; `reason` is empty when it was taken."""

    number: int
    reason: str = ""
    message: str = ""


def listed(repository: Repository, now: datetime) -> tuple[EventRow, ...]:
    """What is true now, and where it would go under the settings in force."""
    cache = SnapshotCache()
    seen = look(repository, now, cache)
    routes = routes_of(cache)
    return tuple(
        EventRow(event, tuple(dict.fromkeys(route.to for route in routes if fits(event, route))))
        for event in events_of(seen)
    )


_RECEIVER = (
    "A receiver is a file of its name in that folder, mode 0600, with one apprise address a line, such as\n"
    "  slack://TokenA/TokenB/TokenC/#oncall"
)


def send_test(folder: Path, name: str, title: str) -> tuple[Sent, ...]:
    """A test message to every address of the receiver `name`. Raises SetUpProblem."""
    message = Message(f"Capsule {title}: test", "A test message. Nothing happened.", urgent=False)
    try:
        found = addresses(folder, name)
    except Undeliverable as error:
        raise SetUpProblem(error.reason, str(error), _RECEIVER) from None
    return tuple(_tried(number, address, message) for number, address in enumerate(found, 1))


def _tried(number: int, address: str, message: Message) -> Sent:
    try:
        deliver(address, message)
    except Undeliverable as error:
        return Sent(number, error.reason, str(error))
    return Sent(number)


def routes_of(cache: SnapshotCache) -> Sequence[NotifyRoute]:
    """The routes of the settings that were in force at the last look with `cache`."""
    return cache.state.settings.document.spec.notify if cache.state else ()


# ---- after passes -------------------------------------------------------------------------------


@contextmanager
def telling(repository: Repository, folder: Path | None) -> Iterator[Callable[[object], None]]:
    """What to call after each pass so that people are told; without a `folder` of receivers, nothing is."""
    if folder is None:
        yield lambda _turn: None
        return
    if not folder.is_dir():
        raise SetUpProblem(
            "ReceiverMissing",
            f"there is no folder {folder} of receivers",
            "Name the folder that holds a file for each receiver with --notify-dir DIR.",
        )
    lookout = Lookout(repository, Notifier(folder, repository.location.git_dir / MEMORY))
    lookout.start()
    try:
        yield lookout.turned
    finally:
        lookout.close()


class Lookout:
    """Looks at the repository after passes, and has the notifier tell what it sees.

    `least` seconds lie between two looks at the tips, and at most `most` before the clock's part is looked at
    again.
    """

    def __init__(
        self, repository: Repository, notifier: Notifier, *, least: float = 2.0, most: float = 60.0
    ) -> None:
        self._repository = repository
        self._notifier = notifier
        self._least = least
        self._most = most
        self._cache = SnapshotCache()
        self._tips: Mapping[str, str] = {}
        self._looked = float("-inf")
        self._turned = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Begin to look. Raises StoreError."""
        from capsule.store.git import open_store

        own = open_store(self._repository.directory, settings=self._repository.remote_settings)
        self._repository = replace(self._repository, store=own)
        self._thread.start()

    def turned(self, _turn: object = None) -> None:
        """A pass ended; returns at once."""
        self._turned.set()

    def close(self) -> None:
        """Look a last time, tell what is left, and end within CLOSING_SECONDS or so."""
        self._closing.set()
        self._turned.set()
        began = time.monotonic()
        self._thread.join(CLOSING_SECONDS)
        self._notifier.close(CLOSING_SECONDS - (time.monotonic() - began))

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._turned.wait(self._most)
                self._turned.clear()
                self._look()
                self._closing.wait(self._least)
            self._look()
        finally:
            self._repository.close()

    def _look(self) -> None:
        try:
            tips = _tips(self._repository)
            now = time.monotonic()
            if tips == self._tips and now - self._looked < self._most:
                return
            seen = look(self._repository, _now(), self._cache)
            self._tips, self._looked = tips, now
        except (CommandError, StoreError, OSError) as error:
            log.warning("notifications: the repository cannot be looked at: %s", error)
        except Exception:
            log.exception("notifications: looking at the repository failed; it will be tried again")
        else:
            self._notifier.consider(seen, routes_of(self._cache))


def _tips(repository: Repository) -> Mapping[str, str]:
    """The refs whose moving may make an event; heartbeats move all the time and make none."""
    wanted = (MAIN, AUDIT)
    return {
        name: oid
        for name, oid in repository.refs.items()
        if name in wanted or name.startswith(REQUEST_BRANCHES)
    }


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
