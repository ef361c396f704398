"""What a reconciler judged of requests and read of audit, kept over restarts, so that it judges what is new.

Rules kept: those of commands.memory; the file lies beside the reconciler's key, and whoever can write it has
that, too; it holds for one root; without it everything is judged anew. Keeping it takes at most a
thousandth of the time. Called by commands.reconcile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from capsule.commands.memory import recall, write
from capsule.lifecycle import Records
from capsule.reconciler import Remembered
from capsule.trust.objects import ObjectReader
from capsule.trust.requests import RequestSet

log = logging.getLogger("capsule.reconciler")

SHARE = 1000
"""Seconds without keeping anything, for each one that keeping took."""
LEAST_PAUSE = 60.0


class Memory:
    """The memory of the reconciler that owns the repository in `git_dir`."""

    def __init__(
        self, git_dir: Path, root: str, reader: ObjectReader, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = git_dir / "capsule" / "verified"
        self._root = root
        self._reader = reader
        self._clock = clock
        self._kept: Remembered | None = None
        self._not_before = clock()

    def recall(self) -> Remembered | None:
        """What was kept last; None where nothing can be relied on."""
        match recall(self._place, self._reader):
            case (self._root, RequestSet() as requests, Records() as records):
                self._kept = Remembered(requests, records)
                return self._kept
        return None

    def keep_when_due(self, now: Remembered) -> None:
        """Keep what changed, if that was not done a moment ago."""
        if self._clock() >= self._not_before:
            self.keep(now)

    def keep(self, now: Remembered) -> None:
        """Keep what changed. Where that cannot be done, the next reconciler judges anew: no reason to end."""
        if self._kept is None or _changed(self._kept, now):
            began = self._clock()
            try:
                write(self._place, (self._root, *now), self._reader)
            except Exception as error:  # a full disk, or a value that cannot be written
                log.warning("what was verified is not kept in %s: %s", self._place, error)
            self._kept = now
            ended = self._clock()
            self._not_before = ended + max(SHARE * (ended - began), LEAST_PAUSE)


def _changed(before: Remembered, now: Remembered) -> bool:
    """Whether anything was read or judged since: a month that was not is the same object."""
    months, old = now.requests.months, before.requests.months
    return (
        now.records.tree != before.records.tree
        or now.requests.on_branches != before.requests.on_branches
        or months.keys() != old.keys()
        or any(month is not old[label] for label, month in months.items())
    )
