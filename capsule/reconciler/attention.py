"""Which services a pass looks at: those of which something changed since they were last looked at to an end.

Rules kept: nothing is looked at for the clock's sake alone but what was to be looked at by now; what a pass
looked at and did not see through is looked at again; a change that may concern every service makes it look at
all. Called by the reconciler, statuses and convergence alike.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime


class Attention:
    """Remembers, for one purpose, what each service was last looked at with.

    A fact is compared by identity: whoever hands facts in gives the same object as long as nothing changed.
    """

    def __init__(self) -> None:
        self._whole: tuple[object, ...] = ()
        self._facts: list[dict[str, object]] = []
        self._open: dict[str, None] = {}
        self._due: dict[str, datetime] = {}
        self._queue: list[tuple[datetime, str]] = []

    def look(
        self,
        services: Mapping[str, object],
        facts: Iterable[Mapping[str, object]],
        now: datetime,
        *,
        whole: tuple[object, ...] = (),
    ) -> list[str]:
        """The names among `services` to look at now, sorted.

        `facts` are by name of a service (their number stays the same from call to call); `whole` is what
        concerns all of them. What is returned comes again until it is settled.
        """
        sources = (services, *facts)
        if not self._facts:
            self._facts = [{} for _ in sources]
        for source, known in zip(sources, self._facts, strict=True):
            self._compare(source, known)
        if len(whole) != len(self._whole) or any(a is not b for a, b in zip(whole, self._whole, strict=True)):
            self._whole = whole
            self._open.update(dict.fromkeys(services))
        self._ring(now)
        for gone in [name for name in self._open if name not in services]:
            del self._open[gone]
        return sorted(self._open)

    def settle(self, but: Collection[str] = ()) -> None:
        """What was looked at was seen through, `but` for these: they are looked at again."""
        self._open = {name: None for name in self._open if name in but}

    def wait(self, name: str, until: datetime) -> None:
        """Look at `name` again at `until`, whatever happens; the earliest such wish stands."""
        known = self._due.get(name)
        if known is None or until < known:
            self._due[name] = until
            heapq.heappush(self._queue, (until, name))

    def _compare(self, source: Mapping[str, object], known: dict[str, object]) -> None:
        changed = [name for name, fact in source.items() if known.get(name) is not fact]
        for name in changed:
            known[name] = source[name]
            self._open[name] = None
        if len(known) > len(source):
            for gone in [name for name in known if name not in source]:
                del known[gone]
                self._open[gone] = None

    def _ring(self, now: datetime) -> None:
        while self._queue and self._queue[0][0] <= now:
            at, name = heapq.heappop(self._queue)
            if self._due.get(name) == at:
                del self._due[name]
                self._open[name] = None
