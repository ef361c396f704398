"""Whether the daemon is alive, and whether it is ready: judged from the turns of its loop.

Rules kept: alive means that turns end, well or not, for a restart mends only a loop that hangs; ready means
that the last turn read the repository and that nothing keeps the reconciler from acting. Written by the loop,
read by the endpoints from other threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from capsule.reconciler import PassReport

LONGEST_PAUSE = 60.0
"""Seconds between two passes that fail, before jitter."""
MISSED_BEATS = 10
LEAST_ALLOWANCE = 2 * LONGEST_PAUSE
FIRST_PASS = 900.0
"""Seconds that the first pass may take: it proves the whole history."""

TurnResult = Literal["done", "stalled", "lostRace", "failed", "crashed"]
RESULTS: tuple[TurnResult, ...] = ("done", "stalled", "lostRace", "failed", "crashed")


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass that ended, well (`report`) or not (`problem` says why), after `seconds`."""

    result: TurnResult
    seconds: float
    report: PassReport | None = None
    problem: str = ""

    @property
    def read(self) -> bool:
        """Whether it read the repository."""
        return self.report is not None

    @classmethod
    def of(cls, report: PassReport, seconds: float) -> Turn:
        """The turn of a pass that gave a report."""
        result: TurnResult = "done"
        if report.stalled:
            result = "stalled"
        elif report.lost_race:
            result = "lostRace"
        return cls(result, seconds, report, report.stalled)


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    turn: Turn | None = None
    was_ready: bool = False


class Vitals:
    """The last turn and when it ended. `rhythm`: seconds between passes that go well; `clock`: monotonic."""

    def __init__(self, rhythm: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = max(MISSED_BEATS * rhythm, LEAST_ALLOWANCE)
        self._clock = clock
        self._seen = _Seen(clock())

    def turned(self, turn: Turn) -> None:
        """A pass ended."""
        self._seen = _Seen(self._clock(), turn, self._seen.was_ready or turn.read)

    def hung(self) -> str:
        """Why the daemon must be taken for dead; empty while it is alive."""
        seen = self._seen
        allowed = self._allowance if seen.turn else FIRST_PASS
        waited = self._clock() - seen.at
        if waited <= allowed:
            return ""
        return f"no pass ended for {waited:.0f} seconds; {allowed:.0f} are allowed"

    def unready(self) -> list[str]:
        """Everything that keeps the daemon from acting; empty when it is ready."""
        seen = self._seen
        if seen.turn is None:
            return [why for why in ("the first pass has not ended yet", self.hung()) if why]
        why = [self.hung()]
        if not seen.was_ready:
            why.append("no pass has read the repository yet")
        if not seen.turn.read:
            why.append(f"the last pass failed: {seen.turn.problem}")
        if seen.turn.result == "stalled":
            why.append(f"nothing is acted on: {seen.turn.problem}")
        return [each for each in why if each]
