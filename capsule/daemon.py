"""The loop around passes: when the next one is due, what a signal means, what a failed pass costs.

Rules kept: a pass that fails is logged and tried again with growing pauses; SIGTERM and SIGINT finish what
is under way within a bound; one daemon owns a repository. Called by `capsule reconcile` and `capsule up`.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from capsule.reconciler import PassReport, Reconciler
from capsule.store.api import StoreError

log = logging.getLogger("capsule.daemon")
POLL_LOCAL = 0.5
POLL_REMOTE = 5.0
LONGEST_PAUSE = 60.0
FINISH_SECONDS = 20.0
ONCE_SECONDS = 180.0


def run(reconciler: Reconciler, stop: threading.Event, *, poll: float = POLL_LOCAL) -> None:
    """Pass after pass until `stop` is set; then finish what is under way. `poll` is in seconds."""
    failures = 0
    while not stop.is_set():
        try:
            report = reconciler.one_pass()
            failures = 0
            _tell(report)
        except (StoreError, OSError) as error:
            failures += 1
            log.error("the pass failed: %s", error)
        except Exception:
            failures += 1
            log.exception("the pass crashed; it will be tried again")
        _rest(reconciler, stop, _pause(reconciler, poll, failures))
    reconciler.finish(FINISH_SECONDS)
    reconciler.close()


def run_once(reconciler: Reconciler, *, seconds: float = ONCE_SECONDS) -> PassReport:
    """Pass after pass until nothing changes and nothing is under way, at most so many seconds.

    Raises StoreError when the repository cannot be read.
    """
    deadline = time.monotonic() + seconds
    try:
        while True:
            report = reconciler.one_pass(patience=1.0)
            _tell(report)
            if report.quiet or report.stalled or time.monotonic() > deadline:
                return report
            if report.under_way:
                reconciler.landed.wait(1.0)
    finally:
        reconciler.close()


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT; the handlers before are put back at the end."""

    def handle(number: int, _frame: FrameType | None) -> None:
        log.info("%s: finishing", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(report: PassReport) -> None:
    if report.commits or report.began or report.ended:
        log.info("pass: audit %s, %d begun, %d ended", (report.audit or "")[:12], report.began, report.ended)
    if report.stalled:
        log.warning("nothing is acted on: %s", report.stalled)


def _pause(reconciler: Reconciler, poll: float, failures: int) -> float:
    if failures:
        return min(poll * 2.0**failures, LONGEST_PAUSE) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter, no secret)
    due = reconciler.next_due()
    return poll if due is None else max(0.0, min(poll, due - time.monotonic()))


def _rest(reconciler: Reconciler, stop: threading.Event, seconds: float) -> None:
    """Sleep until the pause is over, an answer lands, or `stop` is set."""
    deadline = time.monotonic() + seconds
    while not stop.is_set() and not reconciler.landed.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        reconciler.landed.wait(min(left, 0.2))
