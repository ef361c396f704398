"""The lock of who executes on a journal, among threads and processes alike.

Rules kept: the operating system lets go of it when its holder dies. Called by journal alone.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable

_POLL_SECONDS = 0.02


def lock_within(handle: int, wait: Callable[[], float]) -> bool:
    """Lock the open file `handle`; False when it is not to be had within `wait()` seconds.

    `wait` is asked only when somebody else holds the lock.
    """
    deadline: float | None = None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if deadline is None:
                deadline = time.monotonic() + wait()
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
