"""When each service is asked for its report: a heap of due times, so that a pass costs what is due.

Rules kept: pure, seconds of the monotonic clock come in as arguments, and nothing depends on the wall clock;
chance is a hash of the service's name, so that two runs agree. A service that answers is asked every
`interval` × 0.9 to 1.1, counted from when it was last asked. After the k-th failure in a row it is asked
again after `interval` × min(0.25 × 2^k, 4), × 0.9 to 1.1 as well: sooner at first, at last every four
intervals. New services are spread: the first at once, then `START_RATE` a second, all within one
interval. A service whose document changed, and one that somebody waits for, goes before all others. Called by
probing, under its lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from zlib import crc32

AT_ONCE = 50
"""So many new services are asked without delay."""
START_RATE = 100
"""So many more of them a second, as long as one interval is enough for all."""
LEAST_PAUSE = 0.2
AWAITED_PAUSE = 1.0
"""Seconds between two questions to an agent that does not answer while somebody waits for it."""
LONGEST_FACTOR = 4.0
MOST_FAILURES = 8
_FIRST = float("-inf")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the schedule knows of a service: how often it is to be asked, and the digest of its document."""

    interval: float
    digest: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A service to ask now, which fell due `late` seconds ago."""

    name: str
    late: float


@dataclass(slots=True)
class _Plan:
    wish: Wish
    due: float
    first: bool = False
    failures: int = 0
    asked: int = 0
    asked_at: float = _FIRST
    asking: bool = False
    again: bool = False


def backoff(interval: float, failures: int) -> float:
    """Seconds until the next question after `failures` failures in a row, before the spread of ± 10 %."""
    factor = 1.0 if failures <= 0 else min(0.25 * 2.0 ** min(failures, MOST_FAILURES), LONGEST_FACTOR)
    return interval * factor


class Schedule:
    """Due times of services. Those that fail stand apart from those that answer, so that the caller can
    give them a share of its threads and no more. With `spread` off nothing is put off that could be asked
    now, for passes that somebody runs by hand. Not safe for threads."""

    def __init__(self, *, spread: bool = True) -> None:
        self.spread = spread
        self._plans: dict[str, _Plan] = {}
        self._unasked: set[str] = set()
        # (urgency, due, name); an entry that is no longer its plan's is passed over when it comes up.
        self._answering: list[tuple[float, float, str]] = []
        self._failing: list[tuple[float, float, str]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._plans

    def __len__(self) -> int:
        return len(self._plans)

    def failures(self, name: str) -> int:
        """How many questions in a row brought no answer."""
        return self._plans[name].failures

    def due(self, name: str) -> float:
        """When it is to be asked next."""
        return self._plans[name].due

    def follow(self, wishes: Mapping[str, Wish], now: float) -> None:
        """Take over which services there are: gone ones are forgotten, changed ones are due at once."""
        for name in [name for name in self._plans if name not in wishes]:
            del self._plans[name]
            self._unasked.discard(name)
        new: list[str] = []
        for name, wish in wishes.items():
            plan = self._plans.get(name)
            if plan is None:
                new.append(name)
            elif plan.wish != wish:
                self._change(name, plan, wish, now)
        for place, name in enumerate(sorted(new, key=_chance)):
            self._plans[name] = _Plan(wishes[name], now + self._delay(place, len(new), wishes[name].interval))
            self._unasked.add(name)
            self._push(name)

    def recall(self, name: str, failures: int, due_in: float) -> None:
        """Go on with a row of failures from before a restart; `due_in` counts from now, in seconds, and is
        believed as far as a row of failures can put off the next question."""
        plan = self._plans.get(name)
        if plan is None or plan.asked or failures < 1:
            return
        plan.failures = min(failures, MOST_FAILURES)
        longest = 1.1 * backoff(plan.wish.interval, plan.failures)
        plan.due += min(max(due_in, 0.0), longest)
        self._push(name)

    def want(self, names: Iterable[str], now: float) -> None:
        """Somebody waits for these: they are asked first, and again each second as long as they are named
        (without `spread`, at every call)."""
        pause = AWAITED_PAUSE if self.spread else 0.0
        for name in names:
            plan = self._plans.get(name)
            if plan is None or plan.asking or plan.first:
                continue
            plan.due = min(plan.due, max(now, plan.asked_at + pause))
            plan.first = plan.due <= now
            self._push(name)

    def look_soon(self, names: Iterable[str], at: float) -> None:
        """Ask these again at `at` if not before; one being asked now, once more after that."""
        for name in names:
            plan = self._plans.get(name)
            if plan is None:
                continue
            if plan.asking:
                plan.again, plan.due = True, at
            elif at < plan.due:
                plan.due = at
                self._push(name)

    def take(self, now: float, *, failing: bool) -> Turn | None:
        """The next service that is due, of those that fail or of all others; None when none is."""
        heap = self._failing if failing else self._answering
        plan = self._top(heap)
        if plan is None or plan.due > now:
            return None
        _, due, name = heappop(heap)
        plan.asking, plan.first, plan.again = True, False, False
        plan.asked += 1
        plan.asked_at = now
        self._unasked.discard(name)
        return Turn(name, max(now - due, 0.0))

    def landed(self, name: str, *, ok: bool, now: float) -> None:
        """The question came back, with an answer or without."""
        plan = self._plans.get(name)
        if plan is None or not plan.asking:
            return
        plan.asking = False
        plan.failures = 0 if ok else min(plan.failures + 1, MOST_FAILURES)
        pause = backoff(plan.wish.interval, plan.failures)
        spread = 0.9 + 0.2 * (_chance(f"{name} {plan.asked}") % 1000) / 1000
        next_due = max(plan.asked_at + pause * spread, plan.asked_at + LEAST_PAUSE)
        if plan.again:
            next_due = min(next_due, plan.due)
        plan.due = max(next_due, now) if not plan.first else now
        self._push(name)

    def next_due(self, *, failing: bool) -> float | None:
        """When the next one falls due; None when none waits."""
        plan = self._top(self._failing if failing else self._answering)
        return plan.due if plan else None

    def unasked(self) -> int:
        """How many were never asked since they are here."""
        return len(self._unasked)

    def _change(self, name: str, plan: _Plan, wish: Wish, now: float) -> None:
        edited = plan.wish.digest != wish.digest
        plan.wish = wish
        if edited:
            plan.failures = 0
            plan.due = now
            plan.first = True
        else:
            plan.due = min(plan.due, now + 1.1 * backoff(wish.interval, plan.failures))
        if not plan.asking:
            self._push(name)

    def _delay(self, place: int, of: int, interval: float) -> float:
        if not self.spread or of <= AT_ONCE:
            return 0.0
        return min(max(place - AT_ONCE, 0) / START_RATE, interval * place / of)

    def _push(self, name: str) -> None:
        plan = self._plans[name]
        if plan.asking:
            return
        heap = self._failing if plan.failures else self._answering
        heappush(heap, _entry(name, plan))
        if len(heap) > 4 * len(self._plans) + 64:  # mostly entries that were replaced
            heap[:] = [entry for entry in set(heap) if self._holds(entry, heap)]
            heapify(heap)

    def _top(self, heap: list[tuple[float, float, str]]) -> _Plan | None:
        while heap:
            if self._holds(heap[0], heap):
                return self._plans[heap[0][2]]
            heappop(heap)
        return None

    def _holds(self, entry: tuple[float, float, str], heap: list[tuple[float, float, str]]) -> bool:
        plan = self._plans.get(entry[2])
        if plan is None or plan.asking:
            return False
        return entry == _entry(entry[2], plan) and (heap is self._failing) == (plan.failures > 0)


def _entry(name: str, plan: _Plan) -> tuple[float, float, str]:
    return (_FIRST if plan.first else 0.0), plan.due, name


def _chance(text: str) -> int:
    """A number that is the text's own, evenly spread."""
    return crc32(text.encode())
