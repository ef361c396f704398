"""Background work of one process: ends what was interrupted, and revokes old keys when their grace is over.

Rules kept: works only while nobody executes; a failure is logged and tried again; lives in every worker
process, also after a fork, and does no harm twice. Called by Agent.start.
"""

from __future__ import annotations

import os
import threading
import weakref

from capsule_agent.execute import Executor
from capsule_agent.sensitive import log

_LONGEST_WAIT = 30.0
_LOCKED_WAIT = 0.5


class Resumer:
    """One daemon thread per process, started at most once."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._pid = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._asked_key_age = False

    def start(self) -> None:
        """Begin in this process, unless it has begun."""
        if self._executor is None or self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._stop = threading.Event()
                threading.Thread(
                    target=_work, args=(weakref.ref(self), self._stop), name="capsule-resume", daemon=True
                ).start()

    def close(self) -> None:
        """End the thread at its next waking."""
        self._stop.set()

    def step(self) -> float:
        """Do what is to be done now; seconds until the next look."""
        run = self._executor
        if run is None:
            return _LONGEST_WAIT
        with run.journal.running() as held:
            if not held:
                return _LOCKED_WAIT
            run.settle_held()
            self._learn_key_age(run)
            due = run.rotator.revoke_due() if run.rotator else None
        return _LONGEST_WAIT if due is None else min(due, _LONGEST_WAIT)

    def _learn_key_age(self, run: Executor) -> None:
        if run.rotator is not None and not self._asked_key_age:
            self._asked_key_age = True
            try:
                run.rotator.note_creation()
            except Exception as error:
                log.warning("the key store did not tell the age of the key: %s", type(error).__name__)


def _work(which: weakref.ref[Resumer], stop: threading.Event) -> None:
    wait = 0.0
    while not stop.wait(wait):
        resumer = which()
        if resumer is None:
            return
        try:
            wait = resumer.step()
        except Exception as error:
            log.error("background work failed: %s", type(error).__name__)
            wait = _LONGEST_WAIT
        del resumer
