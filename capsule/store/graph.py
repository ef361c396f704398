"""What a history has that another lacks, found without walking what both share.

Rules kept: the cost follows what is new, not what exists (dulwich's own MissingObjectFinder walks all of
history: 16 s for one commit on top of 100,000); equal subtrees are skipped; depth is bounded by memory,
never by the stack. Pure: objects are read through a callable. Called by store.git and its remotes.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator

from capsule.store.api import DamagedObject
from capsule.store.objects import FOLDER, GITLINK, CommitLinks, Read, TreeEntry, commit_links, parse_tree
from capsule.trust.objects import MissingObject, ObjectKind

_WANTED = 1
_HAD = 2


class _Walk:
    """A walk by commit date, newest first, that paints commits as wanted, had, or both."""

    def __init__(self, read: Read, shallow: Collection[str]) -> None:
        self._read = read
        self._shallow = shallow
        self._heap: list[tuple[int, str]] = []
        self._queued: set[str] = set()
        self._pending = 0
        self.paint: dict[str, int] = {}
        self.links: dict[str, CommitLinks] = {}

    def add(self, oid: str, paint: int) -> None:
        before = self.paint.get(oid, 0)
        after = before | paint
        if after == before:
            return
        if oid in self._queued:
            self._pending += (after == _WANTED) - (before == _WANTED)
        else:
            links = self._load(oid, paint)
            if links is None:
                return
            self._queued.add(oid)
            self._pending += after == _WANTED
            heapq.heappush(self._heap, (-links.time, oid))
        self.paint[oid] = after

    def _load(self, oid: str, paint: int) -> CommitLinks | None:
        if oid in self.links:
            return self.links[oid]
        try:
            kind, data = self._read(oid)
        except MissingObject:
            if paint & _HAD:
                return None  # the other side has it, we need not
            raise
        if kind != "commit":
            if paint & _HAD:
                return None  # a ref of the other side may name anything
            raise DamagedObject(f"{oid} is a {kind}, expected a commit")
        links = commit_links(data, oid)
        if oid in self._shallow:
            links = CommitLinks(links.tree, (), links.time)
        self.links[oid] = links
        return links

    def run(self) -> list[str]:
        order: list[str] = []
        while self._pending and self._heap:
            _, oid = heapq.heappop(self._heap)
            self._queued.discard(oid)
            paint = self.paint[oid]
            self._pending -= paint == _WANTED
            order.append(oid)
            for parent in self.links[oid].parents:
                self.add(parent, paint)
        return [oid for oid in dict.fromkeys(order) if self.paint[oid] == _WANTED]


def new_commits(
    read: Read, wanted: Iterable[str], had: Iterable[str], shallow: Collection[str] = ()
) -> list[str]:
    """Commits reachable from `wanted` and not from `had`, newest first.

    Commits of `had` that are not here are passed over. Raises MissingObject when a wanted one is missing.
    """
    return [oid for oid, _ in _walked(read, wanted, had, shallow)]


def _walked(
    read: Read, wanted: Iterable[str], had: Iterable[str], shallow: Collection[str]
) -> list[tuple[str, CommitLinks]]:
    walk = _Walk(read, shallow)
    for oid in had:
        walk.add(oid, _HAD)
    for oid in wanted:
        walk.add(oid, _WANTED)
    return [(oid, walk.links[oid]) for oid in walk.run()]


def is_ancestor(read: Read, older: str, newer: str, shallow: Collection[str] = ()) -> bool:
    """Whether `older` is `newer` or reachable from it."""
    return not new_commits(read, [older], [newer], shallow)


def new_objects(
    read: Read, wanted: Iterable[str], had: Iterable[str], shallow: Collection[str] = ()
) -> Iterator[tuple[ObjectKind, str]]:
    """Kind and id of every object that `wanted` needs and `had` does not imply, each once.

    Raises MissingObject when a commit or tree on the way is not here; blobs are named, not read.
    """
    seen: set[str] = set()
    for oid, links in reversed(_walked(read, wanted, had, shallow)):
        yield "commit", oid
        known = [commit_links(data).tree for data in _present(read, links.parents)]
        yield from _new_in_tree(read, links.tree, known, seen)


def _present(read: Read, oids: Iterable[str]) -> Iterator[bytes]:
    for oid in oids:
        yield read(oid)[1]


def _new_in_tree(read: Read, root: str, known: list[str], seen: set[str]) -> Iterator[tuple[ObjectKind, str]]:
    stack: list[tuple[str, list[str]]] = [(root, known)]
    while stack:
        tree, others = stack.pop()
        if tree in seen or tree in others:
            continue
        seen.add(tree)
        yield "tree", tree
        old = [_entries(read, other) for other in others]
        for name, entry in _entries(read, tree).items():
            before = [entries[name] for entries in old if name in entries]
            if entry.mode == FOLDER:
                stack.append((entry.oid, [each.oid for each in before if each.mode == FOLDER]))
            elif entry.mode != GITLINK and entry.oid not in seen and entry not in before:
                seen.add(entry.oid)
                yield "blob", entry.oid


def _entries(read: Read, tree: str) -> dict[bytes, TreeEntry]:
    kind, data = read(tree)
    if kind != "tree":
        raise DamagedObject(f"object {tree} is a {kind}, expected a tree")
    return parse_tree(data, tree)
