"""The repository packed and swept from time to time, beside the passes: a commit is a handful of loose files.

Rules kept: in a thread of its own, so that no pass waits for it; git itself says whether there is enough to
pack, and its work is bounded; what fails is logged and tried again; an end does not wait. Called by cli.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from capsule.store.api import StoreError

log = logging.getLogger("capsule.daemon")
FIRST = 600.0
"""Seconds until it is looked at first: a process that starts has better things to do."""
EVERY = 3600.0


@contextmanager
def upkeep(
    tidy: Callable[[threading.Event], None], *, first: float = FIRST, every: float = EVERY
) -> Iterator[None]:
    """Call `tidy` after `first` seconds and then every so often; its event is set when this ends."""
    ending = threading.Event()
    thread = threading.Thread(target=_keep, args=(tidy, ending, first, every), name="upkeep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _keep(
    tidy: Callable[[threading.Event], None], ending: threading.Event, first: float, every: float
) -> None:
    pause = first
    while not ending.wait(pause):
        pause = every
        try:
            tidy(ending)
        except (StoreError, OSError) as error:
            log.warning("the repository was not packed and swept: %s", error)
        except Exception:
            log.exception("packing and sweeping the repository failed; it will be tried again")
