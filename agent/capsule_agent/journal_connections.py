"""The SQLite connections of one journal, kept between transactions: opening one costs more than most of them.

Rules kept: a connection is used by one thread at a time and never between transactions; one that failed, was
opened before a fork, or leads to a file that is no longer the one at the path, is not used again; whatever is
committed is on disk (`synchronous=EXTRA`). Called by journal alone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MOST_IDLE = 2
_WAIT_SECONDS = 20.0


class Connections:
    """Connections to the SQLite file at `path`, which exists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[tuple[object, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def one(self) -> Iterator[sqlite3.Connection]:
        """A connection with no transaction open, for one transaction. Raises sqlite3.Error."""
        identity, db = self._take()
        try:
            yield db
        except BaseException:
            db.close()
            raise
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append((identity, db))
                return
        db.close()

    def log_ahead(self) -> None:
        """One sync to disk for each change instead of five (docs/adr/0012-one-sync-for-a-step.md).

        Where it cannot be (another process has the file open in the older way, or the file system shares no
        memory), the file stays as it is: slower, and as safe.
        """
        with self.one() as db, suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")

    def _take(self) -> tuple[object, sqlite3.Connection]:
        identity = self._identity()
        with self._lock:
            while self._idle:
                known, db = self._idle.pop()
                if known == identity:
                    return identity, db
                db.close()
        return identity, self._connect()

    def _connect(self) -> sqlite3.Connection:
        where = self._path.absolute().as_uri() + "?mode=rw"
        db = sqlite3.connect(
            where, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA synchronous = EXTRA")
        return db

    def _identity(self) -> object:
        """Which file the path leads to now, as seen by which process."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None, os.getpid()
        return found.st_dev, found.st_ino, os.getpid()


def _close_all(idle: list[tuple[object, sqlite3.Connection]]) -> None:
    while idle:
        idle.pop()[1].close()
