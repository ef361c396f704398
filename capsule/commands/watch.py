"""`capsule watch`: one look after the other, and what changed in between.

Rules kept: nothing is written but what a fetch brings; looking costs little while nothing changes; a remote
that is away is said and does not end the watch. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.commands.errors import SetUpProblem
from capsule.commands.reads import log, look
from capsule.commands.repository import Repository
from capsule.store.api import StoreError
from capsule.view.build import SnapshotCache
from capsule.view.differences import Difference, differences
from capsule.view.model import Snapshot, TrailRow

LAST_LINES = 10
_CLOCK_MATTERS = timedelta(seconds=5)
_PATIENCE = 5


@dataclass(frozen=True, slots=True)
class Look:
    """What is so now, what changed since the look before (nothing at the first), the newest lines of audit.

    `away` says why the last fetch brought nothing; empty when it did.
    """

    seen: Snapshot
    changed: tuple[Difference, ...]
    trail: tuple[TrailRow, ...]
    away: str = ""


def watch(
    repository: Repository,
    clock: Callable[[], datetime],
    rest: Callable[[], object],
    fetch: timedelta | None = None,
) -> Iterator[Look]:
    """Looks for ever, with `rest` called between them; `fetch` is the time between two fetches."""
    watching = _Watching(repository, fetch)
    while True:
        found = watching.look(clock())
        if found is not None:
            yield found
        rest()


class _Watching:
    """What is kept between two looks."""

    def __init__(self, repository: Repository, fetch: timedelta | None) -> None:
        self._repository = repository
        self._fetch = fetch
        self._fetched: datetime | None = None
        self._cache = SnapshotCache()
        self._refs: object = None
        self._last: Look | None = None
        self._missed = 0

    def look(self, now: datetime) -> Look | None:
        """What is so now; None when it was just read, and nothing moved."""
        away = self._get_news(now)
        refs = dict(self._repository.refs)
        last = self._last
        if last and refs == self._refs and away == last.away and now - last.seen.now < _CLOCK_MATTERS:
            return None
        try:
            seen = look(self._repository, now, self._cache)
            moved = last is None or last.seen.audit != seen.audit
            trail = log(self._repository, "", "", None, LAST_LINES) if moved else last.trail if last else ()
        except SetUpProblem:
            # Somebody replaced or packed what was just being read: the next look sees it whole.
            self._missed += 1
            if self._missed > _PATIENCE:
                raise
            return None
        self._missed = 0
        changed = differences(last.seen, seen) if last else ()
        self._refs, self._last = refs, Look(seen, changed, trail, away)
        return self._last

    def _get_news(self, now: datetime) -> str:
        if self._fetch is None or not self._repository.store.has_remote():
            return ""
        if self._fetched is not None and now - self._fetched < self._fetch:
            return self._last.away if self._last else ""
        self._fetched = now
        try:
            self._repository.store.refresh()
        except StoreError as error:
            return str(error)
        return ""
