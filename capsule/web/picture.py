"""What the dashboard looks at: one open repository, its snapshot at `now`, and its trail.

Rules kept: the repository is read under one lock, and opened again after an error; equal revisions are
built once; nothing is written. Called by the pages and by the JSON.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from capsule.store.api import Store, StoreError
from capsule.trust.objects import BadObject, MissingObject
from capsule.view.build import SnapshotCache, Unreadable, snapshot
from capsule.view.model import Snapshot
from capsule.view.trail import TrailPage, on_trail, trail_page
from capsule.web.listing import TrailQuery

TRAIL_ROWS = 100
TRAIL_SEARCH = 5_000
TRAIL_REACH = 50_000
_REMEMBERED = 10_000

T = TypeVar("T")


class RepositoryUnreadable(Exception):
    """The repository cannot be shown; `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotOnTrail(LookupError):
    """A commit that is not, or not within reach, on the audit trail."""


class Picture:
    """The repository as the dashboard sees it; safe to use from several threads."""

    def __init__(self, open_store: Callable[[], Store], root: str, clock: Callable[[], datetime]) -> None:
        self._open = open_store
        self._root = root
        self._clock = clock
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._cache = SnapshotCache()
        self._starts: OrderedDict[str, None] = OrderedDict()

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

    def refresh(self) -> None:
        """Fetch from the remote, if there is one. Raises RepositoryUnreadable."""
        self._read(lambda store: store.refresh() if store.has_remote() else None)

    def close(self) -> None:
        """Let go of the repository."""
        with self._lock:
            self._forget()

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
