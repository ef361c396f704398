"""The loop around passes: when the next one is due, and what a failed pass costs.

Rules kept: a pass that fails is logged and tried again with growing pauses; a wish to stop finishes what is
under way within a bound, and leaves the rest to the agents' journals, to be asked about by the next start; a
wish to read files again waits for the end of the pass. Called by `capsule reconcile` and `capsule up`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from capsule.daemon.signals import Wishes
from capsule.daemon.systemd import Manager
from capsule.daemon.vitals import Turn
from capsule.reconciler import PassReport, Reconciler
from capsule.reconciler.context import about
from capsule.reconciler.probing import SETTLING
from capsule.store.api import StoreError

log = logging.getLogger("capsule.daemon")
POLL_LOCAL = 0.5
POLL_REMOTE = 5.0
FINISH_SECONDS = 20.0
ONCE_SECONDS = 180.0


class NotTakenOver(Exception):
    """What was read again cannot be used, as the text says: what was in force before stays."""


def run(
    reconciler: Reconciler,
    wishes: Wishes,
    *,
    poll: float = POLL_LOCAL,
    manager: Manager | None = None,
    turned: Sequence[Callable[[Turn], None]] = (),
    reread: Callable[[], str] | None = None,
    finish: float = FINISH_SECONDS,
) -> None:
    """Pass after pass until a wish to stop; then finish what is under way.

    `poll` is in seconds. `turned` are told of every pass that ended. `reread` takes files over anew and says
    what it took, or raises NotTakenOver; it is called between two passes. `finish`: seconds that what is
    under way is given at the end.
    """
    manager = manager or Manager(None)
    reconciler.probe_beside()
    failures = 0
    told = ""
    while not wishes.stop.is_set():
        if wishes.reread.is_set():
            wishes.reread.clear()
            _reread(reread, manager)
        with about():  # what a pass notes for its log lines ends with it
            turn = _one_turn(reconciler)
            told = _tell(turn, told)
            _spread(turn, turned)
        failures = 0 if turn.read else failures + 1
        manager.turned(turn)  # last: whoever is told that it is ready may ask at once
        _rest(reconciler, wishes, _pause(reconciler, poll, failures, manager.longest_pause))
    manager.stopping()
    _finish(reconciler, finish)


def run_once(reconciler: Reconciler, *, seconds: float = ONCE_SECONDS) -> PassReport:
    """Pass after pass until nothing changes and nothing is under way, at most so many seconds: what it
    changed is probed again before it ends, so that the status tells of it.

    Raises StoreError when the repository cannot be read.
    """
    deadline = time.monotonic() + seconds
    told, look_at = "", 0.0
    try:
        while True:
            with about():
                report = reconciler.one_pass(patience=1.0)
                told = _tell(Turn.of(report, 0.0), told)
            now = time.monotonic()
            if report.ended:
                look_at = now + SETTLING
            if report.stalled or now > deadline or (report.quiet and now > look_at):
                return report
            if report.quiet:
                time.sleep(look_at - now)
            elif report.under_way:
                reconciler.landed.wait(1.0)
    finally:
        reconciler.close()


def _one_turn(reconciler: Reconciler) -> Turn:
    began = time.monotonic()
    try:
        report = reconciler.one_pass()
        return Turn.of(report, time.monotonic() - began)
    except (StoreError, OSError) as error:
        log.error("the pass failed: %s", error)
        return Turn("failed", time.monotonic() - began, problem=str(error))
    except Exception as error:
        log.exception("the pass crashed; it will be tried again")
        return Turn("crashed", time.monotonic() - began, problem=type(error).__name__)


def _spread(turn: Turn, listeners: Sequence[Callable[[Turn], None]]) -> None:
    for listener in listeners:
        try:
            listener(turn)
        except Exception:
            log.exception("telling of a pass failed; passes go on")


def _finish(reconciler: Reconciler, seconds: float) -> None:
    try:
        with about():
            reconciler.finish(seconds)
    except (StoreError, OSError) as error:
        log.warning("not everything was recorded before the end; the next start asks the agents: %s", error)
    finally:
        reconciler.close()


def _reread(reread: Callable[[], str] | None, manager: Manager) -> None:
    manager.rereading()
    status = "No file is read again here"
    try:
        if reread:
            status = reread()
        log.info("%s", status)
    except (NotTakenOver, StoreError, OSError) as error:
        status = f"What was read is not taken over, what was in force stays: {error}"
        log.error("%s", status)
    except Exception:
        status = "Reading files again failed; what was in force stays"
        log.exception("%s", status)
    manager.reread(status)


def _tell(turn: Turn, told: str) -> str:
    """Log what a turn did; why nothing is acted on is said when it changes. What was said of that."""
    report = turn.report
    if report and (report.began or report.ended):
        log.info("pass: audit %s, %d begun, %d ended", (report.audit or "")[:12], report.began, report.ended)
    stalled = report.stalled if report else told
    if stalled != told:
        if stalled:
            log.warning("nothing is acted on: %s", stalled)
        else:
            log.info("acting again")
    return stalled


def _pause(reconciler: Reconciler, poll: float, failures: int, longest: float) -> float:
    if failures:
        return min(poll * 2.0 ** min(failures, 30), longest) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter, no secret)
    due = reconciler.next_due()
    return poll if due is None else max(0.0, min(poll, due - time.monotonic()))


def _rest(reconciler: Reconciler, wishes: Wishes, seconds: float) -> None:
    """Sleep until the pause is over, an answer lands, or something is wished."""
    deadline = time.monotonic() + seconds
    while not wishes.any and not reconciler.landed.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        reconciler.landed.wait(min(left, 0.2))
