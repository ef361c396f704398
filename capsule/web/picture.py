"""What the dashboard looks at: one open repository, its snapshot at `now`, and its trail.

Rules kept: the repository is read under one lock, its history under another, and opened again after an error;
equal revisions are built once; nothing is written. Called by the pages and by the JSON.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from capsule.store.api import Store, StoreError
from capsule.trust.objects import BadObject, MissingObject
from capsule.view.asked import with_words_on_audit
from capsule.view.build import SnapshotCache, Unreadable, snapshot
from capsule.view.model import RequestRow, Snapshot
from capsule.view.past import StatusPast
from capsule.view.trail import TrailPage, on_trail, trail_page
from capsule.view.uptime import LONGEST, HistoryRow, history, last_sign
from capsule.web.listing import TrailQuery

TRAIL_ROWS = 100
TRAIL_SEARCH = 5_000
TRAIL_REACH = 50_000
HISTORY_STEP = 2_000
_REMEMBERED = 10_000

T = TypeVar("T")


class RepositoryUnreadable(Exception):
    """The repository cannot be shown; `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotOnTrail(LookupError):
    """A commit that is not, or not within reach, on the audit trail."""


@dataclass(frozen=True, slots=True)
class History:
    """The history of a service; `read_back_to` is set while what is older has not been read yet."""

    row: HistoryRow
    read_back_to: datetime | None


class Picture:
    """The repository as the dashboard sees it; safe to use from several threads."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        root: str,
        clock: Callable[[], datetime],
        proved: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._open = open_store
        self._root = root
        self._clock = clock
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._cache = SnapshotCache(proved=proved)
        self._starts: OrderedDict[str, None] = OrderedDict()
        self._reading_history = threading.Lock()
        self._history_store: Store | None = None
        self._past = StatusPast()

    def look(self) -> Snapshot:
        """The snapshot of this moment. Raises RepositoryUnreadable."""
        return self._read(
            lambda store: snapshot(
                store, store.refs(), self._root, self._clock(), self._cache, store.history_cut()
            )
        )

    def now(self) -> datetime:
        """The clock's time."""
        return self._clock()

    def trail(self, audit: str | None, query: TrailQuery) -> TrailPage:
        """One page of the trail below the audit tip `audit`. Raises NotOnTrail, RepositoryUnreadable."""
        if audit is None:
            return TrailPage((), None, 0)
        return self._read(lambda store: self._page(store, audit, query))

    def in_own_words(self, seen: Snapshot, row: RequestRow) -> RequestRow:
        """The row of a request whose branch is gone, with what it asked for. Raises RepositoryUnreadable."""
        return self._read(lambda store: with_words_on_audit(store, seen.audit, self._root, row, TRAIL_SEARCH))

    def history(self, seen: Snapshot, service: str) -> History:
        """The history of `service` up to the snapshot's moment. Raises RepositoryUnreadable.

        A long history is read in parts, one at each look, while no other page waits for it.
        """
        with self._reading_history:
            store = self._history_store = self._history_store or self._opened()
            try:
                past = self._past
                past.bring_to(store, seen.audit, self._root, seen.now - LONGEST, HISTORY_STEP)
                row = history(service, past.moments(store, service), seen.now, last_sign(seen))
                return History(row, None if past.complete else past.reached)
            except (StoreError, BadObject, MissingObject, OSError) as error:
                self._forget_history()
                raise RepositoryUnreadable(
                    str(error), "run `capsule doctor` beside the repository"
                ) from error

    def refresh(self) -> None:
        """Fetch from the remote, if there is one. Raises RepositoryUnreadable."""
        self._read(lambda store: store.refresh() if store.has_remote() else None)

    def close(self) -> None:
        """Let go of the repository."""
        with self._lock:
            self._forget()
        with self._reading_history:
            self._forget_history()

    def _opened(self) -> Store:
        try:
            return self._open()
        except (StoreError, OSError) as error:
            raise RepositoryUnreadable(str(error)) from error

    def _forget_history(self) -> None:
        store, self._history_store = self._history_store, None
        self._past = StatusPast()
        if store:
            store.close()

    def _page(self, store: Store, audit: str, query: TrailQuery) -> TrailPage:
        start = query.before or audit
        if start != audit and start not in self._starts:
            # A commit of another branch must never be shown as part of the machine's story.
            if not on_trail(store, audit, self._root, start, TRAIL_REACH):
                raise NotOnTrail(start)
            self._remember(start)
        page = trail_page(
            store,
            start,
            self._root,
            limit=TRAIL_ROWS,
            search=TRAIL_SEARCH,
            service=query.service,
            action=query.action,
            since=query.since,
        )
        if page.following:
            self._remember(page.following)
        return page

    def _remember(self, commit: str) -> None:
        self._starts[commit] = None
        if len(self._starts) > _REMEMBERED:
            self._starts.popitem(last=False)

    def _read(self, look: Callable[[Store], T]) -> T:
        with self._lock:
            try:
                if self._store is None:
                    self._store = self._open()
                return look(self._store)
            except StoreError as error:
                self._forget()
                raise RepositoryUnreadable(str(error), error.hint) from error
            except (Unreadable, BadObject, MissingObject, OSError) as error:
                self._forget()
                raise RepositoryUnreadable(
                    str(error), "run `capsule doctor` beside the repository"
                ) from error

    def _forget(self) -> None:
        store, self._store = self._store, None
        if store:
            store.close()
