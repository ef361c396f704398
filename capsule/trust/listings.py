"""Trees read once: a folder of which one entry changed since it was last read costs that entry alone.

Rules kept: what is accepted and what is refused is exactly what `raw.parse_tree` accepts and refuses; memory
is bounded. A long proof reads every folder hundreds of times, each time with one name more. Called by audit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from capsule.trust.objects import ObjectKind, ObjectReader, TreeEntry, TreeReader, read_tree
from capsule.trust.raw import ordinary_entries, parse_tree

KEPT_BYTES = 4 * 1024 * 1024
SMALL = 2048
"""Below so many bytes a tree is read whole: that is quicker than to compare it."""
MOST_LISTINGS = 256
_HEAD = 64


@dataclass(frozen=True, slots=True)
class _Listing:
    """A tree of ordinary names in lower case, never an empty one: its entries by name; in order, where each
    ends, and its key for sorting."""

    data: bytes
    entries: dict[str, TreeEntry]
    keys: list[bytes]
    ends: list[int]

    @classmethod
    def of(cls, data: bytes) -> _Listing | None:
        """The listing of a whole tree; None where a name is not such."""
        found = ordinary_entries(data)
        if found is None or not _lower_case(found[0]):
            return None
        keys, entries = found
        ends = list(accumulate(_length(entry) for entry in entries))
        return cls(data, {entry.name: entry for entry in entries}, keys, ends)

    def changed_to(self, data: bytes) -> _Listing | None:
        """The listing of a tree that differs from this one in its middle; None where that is not simple."""
        first = bisect_right(self.ends, _common_start(self.data, data))
        start = self.ends[first - 1] if first else 0
        same = _common_end(self.data[start:], data[start:])
        last = bisect_left(self.ends, len(self.data) - same)  # the entry that the common end begins behind
        shift = len(data) - len(self.data)
        found = ordinary_entries(data[start : self.ends[last] + shift])
        if found is None or not _lower_case(found[0]):
            return None
        keys, added = found
        around = [*self.keys[max(first - 1, 0) : first], *keys, *self.keys[last + 1 : last + 2]]
        if around != sorted(set(around)):
            return None
        gone = self.keys[first : last + 1]
        entries = self.entries.copy()
        for key in gone:
            del entries[key.rstrip(b"/").decode("ascii")]
        for entry in added:
            if entry.name in entries:
                return None
            entries[entry.name] = entry
        ends = list(accumulate((_length(entry) for entry in added), initial=start))[1:]
        after = self.ends[last + 1 :]
        return _Listing(
            data,
            entries,
            [*self.keys[:first], *keys, *self.keys[last + 1 :]],
            [*self.ends[:first], *ends, *([end + shift for end in after] if shift else after)],
        )


def _length(entry: TreeEntry) -> int:
    """The bytes of an entry in its tree: mode, space, name, NUL, id."""
    return len(entry.name) + (27 if entry.is_folder else 28)


def _lower_case(keys: list[bytes]) -> bool:
    """Whether no name has a capital: then two names that are one to some systems are equal."""
    joined = b"".join(keys)
    return joined == joined.lower()


def _common_start(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(one: bytes, other: bytes) -> int:
    return _common_start(one[::-1], other[::-1])


class Listings:
    """An ObjectReader that remembers the folders it read; `entries_by_name` is what objects asks it for."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._known: OrderedDict[str, tuple[Mapping[str, TreeEntry], int]] = OrderedDict()
        self._bytes = 0
        self.remembering: TreeReader = self
        self._last: OrderedDict[bytes, _Listing] = OrderedDict()

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of `oid`. Raises MissingObject."""
        return self._reader.read(oid)

    def entries_by_name(self, oid: str) -> Mapping[str, TreeEntry]:
        """The entries of the tree `oid`. Raises BadObject, MissingObject."""
        known = self._known.get(oid)
        if known is None:
            data = read_tree(self._reader, oid)
            known = self._parsed(data), len(data)
            self._known[oid] = known
            self._bytes += known[1]
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._known.popitem(last=False)[1][1]
        else:
            self._known.move_to_end(oid)
        return known[0]

    def _parsed(self, data: bytes) -> Mapping[str, TreeEntry]:
        """The entries, by way of the last folder that began with the same entry: it is most often the same.

        (The name of the entry would not do: the requests and the records of a month begin with one name.)
        """
        if len(data) < SMALL:
            return {entry.name: entry for entry in parse_tree(data)}
        start = data[: data.find(b"\0", 0, _HEAD) + 21]
        before = self._last.get(start)
        listing = (before and before.changed_to(data)) or _Listing.of(data)
        if listing is None:
            return {entry.name: entry for entry in parse_tree(data)}
        self._last[start] = listing
        self._last.move_to_end(start)
        while len(self._last) > MOST_LISTINGS:
            self._last.popitem(last=False)
        return listing.entries
