"""What a person or a service manager wishes of the daemon: to stop, to read its files again.

Rules kept: a handler only sets an event, so that nothing under way is torn; the handlers before are put back
at the end. Called by the command line, from the main thread.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

log = logging.getLogger("capsule.daemon")


@dataclass(frozen=True)
class Wishes:
    """`stop`: finish what is under way, then end. `reread`: read the files that settings name again."""

    stop: threading.Event = field(default_factory=threading.Event)
    reread: threading.Event = field(default_factory=threading.Event)

    @property
    def any(self) -> bool:
        """Whether the loop should look up from its rest."""
        return self.stop.is_set() or self.reread.is_set()


@contextmanager
def follow_signals(wishes: Wishes, *, rereads: bool) -> Iterator[None]:
    """SIGTERM and SIGINT wish to stop. So does SIGHUP, which a terminal sends when it is closed, unless this
    process `rereads` files at it."""
    stop = (wishes.stop, "finishing what is under way")
    wanted = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: (wishes.reread, "reading keys and certificates again") if rereads else stop,
    }
    before = {number: signal.signal(number, _setter(event, why)) for number, (event, why) in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _setter(event: threading.Event, why: str) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        log.info("%s: %s", signal.Signals(number).name, why)
        event.set()

    return handle
