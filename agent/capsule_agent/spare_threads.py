"""Threads that are kept a while for the next piece of work: starting one costs as much as a small call.

Rules kept: work never waits for other work; nobody waits for these threads when the process ends; a forked
process starts its own. Imports the standard library alone. Called by stdio and declare.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

_KEPT_SECONDS = 30.0

Inbox = queue.SimpleQueue[Callable[[], None]]
_idle: list[Inbox] = []
os.register_at_fork(after_in_child=_idle.clear)


def run(work: Callable[[], None]) -> None:
    """Run `work`, which raises nothing, in a thread that is free, or else in a new one."""
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="capsule-spare", daemon=True).start()
    inbox.put(work)


def _serve(inbox: Inbox) -> None:
    while True:
        try:
            work = inbox.get(timeout=_KEPT_SECONDS)
        except queue.Empty:
            try:
                _idle.remove(inbox)
            except ValueError:
                continue  # taken a moment ago: its work is about to come
            return
        work()
        del work
        _idle.append(inbox)
