"""Git objects judged by their raw bytes: commits and trees, walked without trusting any of git's shortcuts.

Rules kept: an id is the SHA-1 of the bytes it names; duplicate headers, symlinks, submodules, `.git`-like
and colliding names are errors; replace refs and grafts do not exist here. Object formats: gitformat-pack
and the git book's chapter on objects. Called by trust and view; every store is an `ObjectReader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from capsule.trust.raw import (
    FOLDER,
    REASONS,
    BadObject,
    CommitInfo,
    Stamp,
    TreeEntry,
    parents_of,
    parse_commit,
    parse_tree,
    trailers,
    tree_of,
)

__all__ = [
    "FOLDER",
    "REASONS",
    "BadObject",
    "Change",
    "CommitInfo",
    "MissingObject",
    "NotDescended",
    "ObjectKind",
    "ObjectReader",
    "Stamp",
    "TreeEntry",
    "TreeReader",
    "changes",
    "entries",
    "file_bytes",
    "files",
    "find",
    "first_parents",
    "folder",
    "parents_of",
    "parse_commit",
    "parse_tree",
    "raw_commit",
    "read_blob",
    "read_commit",
    "read_tree",
    "trailers",
    "tree_of",
]

ObjectKind = Literal["commit", "tree", "blob", "tag"]

MAX_DEPTH = 32
MAX_FILES = 2_000_000


class MissingObject(LookupError):
    """An object that this repository does not have, for example in a shallow clone."""


class NotDescended(LookupError):
    """A commit does not come from another one along first parents."""


class ObjectReader(Protocol):
    """Where objects come from. Implementations check that the bytes hash to the id."""

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of the object `oid` (40 hex digits). Raises MissingObject."""
        ...


class TreeReader(ObjectReader, Protocol):
    """A reader that remembers the trees it read; other readers tell of it by an attribute `remembering`."""

    def entries_by_name(self, oid: str) -> Mapping[str, TreeEntry]:
        """The entries of the tree `oid`. Raises BadObject, MissingObject."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """One file that differs between two trees: None where it does not exist."""

    path: str
    old: TreeEntry | None
    new: TreeEntry | None


# ---- reading ------------------------------------------------------------------------------------


def read_commit(reader: ObjectReader, oid: str) -> CommitInfo:
    """The commit `oid`; a tag is refused. Raises BadObject, MissingObject."""
    return parse_commit(raw_commit(reader, oid))


def raw_commit(reader: ObjectReader, oid: str) -> bytes:
    """The raw bytes of the commit `oid`; a tag is refused. Raises BadObject, MissingObject."""
    return _read(reader, oid, "commit")


def entries(reader: ObjectReader, oid: str, largest: int | None = None) -> tuple[TreeEntry, ...]:
    """The entries of the tree `oid`. Raises BadObject (TooLarge beyond `largest` bytes), MissingObject."""
    return parse_tree(read_tree(reader, oid, largest))


def read_tree(reader: ObjectReader, oid: str, largest: int | None = None) -> bytes:
    """The raw bytes of the tree `oid`. Raises BadObject (TooLarge beyond `largest` bytes), MissingObject."""
    return _read(reader, oid, "tree", largest)


def by_name(reader: ObjectReader, oid: str) -> Mapping[str, TreeEntry]:
    """The entries of the tree `oid`; one that remembers trees reads none twice. Raises BadObject,
    MissingObject."""
    remembered: TreeReader | None = getattr(reader, "remembering", None)
    if remembered is not None:
        return remembered.entries_by_name(oid)
    return {entry.name: entry for entry in entries(reader, oid)}


def read_blob(reader: ObjectReader, oid: str, largest: int | None = None) -> bytes:
    """The bytes of the file `oid`. Raises BadObject (TooLarge beyond `largest` bytes), MissingObject."""
    return _read(reader, oid, "blob", largest)


def _read(reader: ObjectReader, oid: str, expected: ObjectKind, largest: int | None = None) -> bytes:
    kind, data = reader.read(oid)
    if kind != expected:
        raise BadObject("WrongKind", f"{oid} is a {kind}, expected a {expected}")
    if largest is not None and len(data) > largest:
        raise BadObject("TooLarge", f"a {kind} of {len(data)} bytes, expected at most {largest}")
    return data


def find(reader: ObjectReader, tree: str, path: str) -> TreeEntry | None:
    """The entry at `path` below the tree `tree`, or None. Raises BadObject, MissingObject."""
    entry: TreeEntry | None = TreeEntry(FOLDER, "", tree)
    for part in path.split("/"):
        if entry is None or not entry.is_folder:
            return None
        entry = by_name(reader, entry.oid).get(part)
    return entry


def folder(reader: ObjectReader, tree: str | None, path: str) -> str | None:
    """The id of the folder at `path` below `tree`, or None. Raises BadObject, MissingObject."""
    entry = find(reader, tree, path) if tree else None
    return entry.oid if entry and entry.is_folder else None


def file_bytes(reader: ObjectReader, tree: str, path: str) -> bytes | None:
    """The bytes of the file at `path`, or None. Raises BadObject, MissingObject."""
    entry = find(reader, tree, path)
    return read_blob(reader, entry.oid) if entry and not entry.is_folder else None


def changes(
    reader: ObjectReader, old_tree: str | None, new_tree: str | None, prefix: str = ""
) -> Iterator[Change]:
    """Every file that differs between two trees, with paths below `prefix`; equal subtrees are not read.

    None stands for an empty tree. Raises BadObject (also for a tree that unfolds beyond all measure),
    MissingObject.
    """
    stack = [(prefix, old_tree, new_tree)]
    count = 0
    while stack:
        base, old_oid, new_oid = stack.pop()
        if base.count("/") > MAX_DEPTH:
            raise BadObject("TooLarge", f"folders deeper than {MAX_DEPTH} at {base[:80]!r}")
        for change in _differing(reader, base, old_oid, new_oid):
            count += 1
            if count > MAX_FILES:
                raise BadObject("TooLarge", f"more than {MAX_FILES} files differ")
            old_folder, old_file = _sorts(change.old)
            new_folder, new_file = _sorts(change.new)
            if old_file or new_file:
                yield Change(change.path, old_file, new_file)
            if old_folder or new_folder:
                stack.append((change.path, old_folder, new_folder))


def _differing(reader: ObjectReader, base: str, old: str | None, new: str | None) -> list[Change]:
    before = by_name(reader, old) if old else {}
    after = by_name(reader, new) if new else {}
    start = f"{base}/" if base else ""
    differing = [name for name, entry in after.items() if before.get(name) is not entry]
    differing += [name for name in before if name not in after]
    return [
        Change(start + name, before.get(name), after.get(name))
        for name in sorted(differing)
        if before.get(name) != after.get(name)
    ]


def _sorts(entry: TreeEntry | None) -> tuple[str | None, TreeEntry | None]:
    """The entry as a folder's id, or as a file."""
    if entry is None:
        return None, None
    return (entry.oid, None) if entry.is_folder else (None, entry)


def files(reader: ObjectReader, tree: str, under: str = "") -> Iterator[tuple[str, TreeEntry]]:
    """Every file below the folder `under` (all, when empty) with its path from `tree`."""
    start = folder(reader, tree, under) if under else tree
    yield from ((each.path, each.new) for each in changes(reader, None, start, under) if each.new)


def first_parents(reader: ObjectReader, tip: str, until: str) -> Iterator[str]:
    """The commits from `tip` back to `until` along first parents, newest first, `until` itself left out.

    Raises NotDescended at the first commit of the history when `until` never came.
    """
    oid = tip
    while oid != until:
        parents = parents_of(raw_commit(reader, oid))
        yield oid
        if not parents:
            raise NotDescended(f"{tip} does not descend from {until} along first parents")
        oid = parents[0]
