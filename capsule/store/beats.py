"""Which heartbeats a store wrote itself, and so may remove again once they are replaced.

Rules kept: nothing is removed but what this very store wrote for a commit without parents whose tree is
one file, heartbeat.json, and only objects that were not there before and that no ref's commit needs; in
doubt everything stays, for a loose object too many is swept by git's own maintenance. The cost follows
what is new since the beat was written. Called by store.git_store and testing.memory_store.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from capsule.store.api import DamagedObject, Draft
from capsule.store.graph import new_objects
from capsule.store.objects import NewObject, Read
from capsule.trust.objects import MissingObject

HEARTBEAT_FILE = "heartbeat.json"
"""The same as view.heartbeat's: a store knows no views."""

_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Beat:
    objects: tuple[str, ...]
    tips: frozenset[str]


class Beats:
    """The last heartbeats that a store wrote. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: OrderedDict[str, _Beat] = OrderedDict()

    def note(
        self,
        draft: Draft,
        objects: Sequence[NewObject],
        has: Callable[[str], bool],
        tips: Callable[[], Iterable[str]],
    ) -> None:
        """Remember a commit that is about to be written, if it is a heartbeat.

        `has` tells what is in the store already, `tips` what its refs name.
        """
        if draft.base or draft.overlay or draft.parents or list(draft.edits) != [HEARTBEAT_FILE]:
            return
        before = frozenset(tips())  # first: what a ref names from here on counts as new
        own = tuple(each.oid for each in objects if not has(each.oid))
        commit = objects[-1].oid
        if commit not in own:
            return
        with self._lock:
            self._written[commit] = _Beat(own, before)
            while len(self._written) > _KEPT:
                self._written.popitem(last=False)

    def removable(
        self, read: Read, commit: str, refs: Iterable[str], keep: Sequence[str], shallow: Collection[str] = ()
    ) -> list[str]:
        """The objects that go with `commit`; none when any doubt is left. `refs`: what refs name now."""
        named = set(refs)
        with self._lock:
            beat = self._written.get(commit)
            if beat is None or commit in named or commit in keep:
                return []
            del self._written[commit]
        try:
            needed = {oid for _, oid in new_objects(read, {*named, *keep}, beat.tips, shallow)}
        except (MissingObject, DamagedObject):
            return []
        return [oid for oid in beat.objects if oid not in needed]
