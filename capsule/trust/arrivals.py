"""Since which step of main something under requests/ is as it is: a file by its blob, a folder by its tree.

Rules kept: first parents of main alone, walked back once for all that is asked and only as far as that takes,
never further than MAX_STEPS from the tip; a later tip costs its new steps. Called by one_request, requests,
records, and the reconciler that asks forges.
"""

from __future__ import annotations

from typing import NamedTuple

from capsule.documents.paths import REQUESTS
from capsule.trust import objects
from capsule.trust.objects import BadObject, Change, ObjectReader

MAX_STEPS = 10_000
MAX_REMEMBERED = 100_000
"""Paths and steps that are kept over a move of the tip; beyond, the walk begins anew there."""


class _Step(NamedTuple):
    """A step of main: its commit, its first parent, and its folder requests/."""

    commit: str
    parent: str | None
    top: str | None


class _Last(NamedTuple):
    """The newest change of a path: at which step, of which number, and the blob since; None: it is gone, or a
    folder, which is looked up."""

    step: str
    number: int
    blob: str | None
    is_folder: bool = False


class Arrivals:
    """When bytes came to main. Steps are numbered upwards from where the walk began."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._tip: _Step | None = None
        self._front = 0
        self._next: _Step | None = None
        self._last: dict[str, _Last] = {}
        self._numbers: dict[str, int] = {}

    def read_by(self, reader: ObjectReader) -> Arrivals:
        """This memory, if it is of `reader`, else an empty one."""
        return self if reader is self._reader else Arrivals(reader)

    def of(self, tip: str, path: str, oid: str) -> str | None:
        """The step of main, as it stands at `tip`, that brought what `path` holds since, if that is `oid`.

        None when it is not, or for more than MAX_STEPS, or the history is malformed. Raises MissingObject.
        """
        last = self._arrival(tip, path, oid)
        return last.step if last else None

    def since_holds(self, tip: str, path: str, oid: str, commit: str) -> bool:
        """Whether `commit` is a step of main up to `tip` since which `path` holds `oid`.

        Raises MissingObject.
        """
        last = self._arrival(tip, path, oid)
        return last is not None and self._numbers.get(commit, last.number - 1) >= last.number

    def _arrival(self, tip: str, path: str, oid: str) -> _Last | None:
        try:
            if self._tip is None or self._tip.commit != tip:
                self._move(tip)
            while path not in self._last and self._next and self._front - self._next_number < MAX_STEPS:
                self._look_back(self._next)
            last = self._last.get(path)
            if last is None or self._front - last.number >= MAX_STEPS:
                return None
            return last if self._held(path, last) == oid else None
        except BadObject:
            return None

    @property
    def _next_number(self) -> int:
        return self._front - len(self._numbers)

    def _held(self, path: str, last: _Last) -> str | None:
        """What the path holds at the tip."""
        if not last.is_folder:
            return last.blob
        top = self._tip.top if self._tip else None
        entry = objects.find(self._reader, top, path.removeprefix(f"{REQUESTS}/")) if top else None
        return entry.oid if entry else None

    # ---- walking ----

    def _look_back(self, step: _Step) -> None:
        """Take in one more step before those that are known."""
        before = self._step(step.parent) if step.parent else None
        number = self._next_number
        for path, last in self._changed(step, before.top if before else None, number).items():
            self._last.setdefault(path, last)
        self._numbers[step.commit] = number
        self._next = before

    def _move(self, tip: str) -> None:
        """Take in the steps from the tip so far to this one, or begin anew where it is not met."""
        ahead = self._ahead(tip)
        if ahead is None or len(self._last) + len(self._numbers) > MAX_REMEMBERED:
            self._next = self._tip = self._step(tip)
            self._front, self._last, self._numbers = 0, {}, {}
            return
        before, number = self._tip.top if self._tip else None, self._front
        changed: dict[str, _Last] = {}
        numbers: dict[str, int] = {}
        for step in reversed(ahead):
            number += 1
            numbers[step.commit] = number
            changed |= self._changed(step, before, number)
            before = step.top
        # All or nothing: what cannot be read above leaves everything as it was.
        self._last |= changed
        self._numbers |= numbers
        self._tip, self._front = ahead[0], number

    def _ahead(self, tip: str) -> list[_Step] | None:
        """The steps from `tip` back to the one that was the tip (left out), newest first."""
        if self._tip is None:
            return None
        found: list[_Step] = []
        at: str | None = tip
        while at != self._tip.commit:
            if at is None or len(found) == MAX_STEPS:
                return None
            found.append(self._step(at))
            at = found[-1].parent
        return found

    def _step(self, commit: str) -> _Step:
        raw = objects.raw_commit(self._reader, commit)
        parents = objects.parents_of(raw)
        top = objects.folder(self._reader, objects.tree_of(raw), REQUESTS)
        return _Step(commit, parents[0] if parents else None, top)

    def _changed(self, step: _Step, before: str | None, number: int) -> dict[str, _Last]:
        """What the step changed: files whose bytes are others, and the folders around them."""
        changes = list(objects.changes(self._reader, before, step.top, REQUESTS))
        found = {
            each.path: _Last(step.commit, number, each.new.oid if each.new else None)
            for each in changes
            if _oid(each.old) != _oid(each.new)
        }
        folder = _Last(step.commit, number, None, is_folder=True)
        for each in changes:
            for path in _folders(each):
                found.setdefault(path, folder)
        return found


def _oid(entry: objects.TreeEntry | None) -> str | None:
    return entry.oid if entry else None


def _folders(change: Change) -> list[str]:
    """The folders below requests/ that the path lies in."""
    parts = change.path.split("/")
    return ["/".join(parts[:length]) for length in range(2, len(parts))]
