"""A folder of which one entry changed costs that entry alone; no change slips past a whole reading."""

from __future__ import annotations

import hashlib

import pytest

from capsule.trust import listings
from capsule.trust.listings import Listings
from capsule.trust.objects import MissingObject, ObjectKind, TreeEntry
from capsule.trust.raw import BadObject, ordinary_entries, parse_tree

FIRST = "000"
NAMES = [FIRST, *(f"name-{at:03d}" for at in range(100))]


class _Trees:
    """Trees by their id, and how many bytes of them were read for entries."""

    def __init__(self) -> None:
        self.trees: dict[str, bytes] = {}
        self.cost = 0

    def put(self, data: bytes) -> str:
        oid = hashlib.sha1(data).hexdigest()
        self.trees[oid] = data
        return oid

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        if oid not in self.trees:
            raise MissingObject(oid)
        return "tree", self.trees[oid]


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> _Trees:
    found = _Trees()

    def quickly(data: bytes) -> tuple[list[bytes], list[TreeEntry]] | None:
        found.cost += len(data)
        return ordinary_entries(data)

    def slowly(data: bytes) -> tuple[TreeEntry, ...]:
        found.cost += len(data)
        return parse_tree(data)

    monkeypatch.setattr(listings, "ordinary_entries", quickly)
    monkeypatch.setattr(listings, "parse_tree", slowly)
    return found


def _entry(name: str, content: str = "A", *, folder: bool | None = None) -> bytes:
    is_folder = len(name) % 2 == 0 if folder is None else folder
    mode = b"40000" if is_folder else b"100644"
    return mode + b" " + name.encode() + b"\0" + content.encode() * 20


def _tree(names: list[str], **contents: str) -> bytes:
    """Entries in the order of their names, each a folder or a file by the length of its name."""
    return b"".join(_entry(name, contents.get(name.replace("-", "_"), "A")) for name in names)


def _as_alone(reader: Listings, trees: _Trees, data: bytes) -> int:
    """What it costs to read this tree; what it says is what a whole reading says."""
    oid, before = trees.put(data), trees.cost
    assert dict(reader.entries_by_name(oid)) == {entry.name: entry for entry in parse_tree(data)}
    return trees.cost - before


BASE = _tree(NAMES)


def test_one_entry_after_another_costs_no_more_than_itself(trees: _Trees) -> None:
    reader = Listings(trees)
    assert _as_alone(reader, trees, BASE) == len(BASE)
    names = [*NAMES[:50], "name-048x", *NAMES[50:]]
    versions = [
        _tree(names),
        _tree(names, name_080="B"),
        _tree([*names, "name-200"], name_080="B"),
        _tree([*names[:20], *names[21:], "name-200"], name_080="B"),
        _tree([*names[:20], *names[21:], "name-200"], name_080="C"),
        _tree([*names[:20], *names[21:]], name_080="C"),
        _tree([*names[:20], *names[21:]], name_099="C", name_080="C"),
    ]
    costs = [_as_alone(reader, trees, data) for data in versions]
    assert max(costs) <= 2 * len(_entry("name-048x"))


def test_a_small_folder_is_read_whole_and_one_at_the_bound_is_not(trees: _Trees) -> None:
    at_bound = b"".join(_entry(f"n{at:03d}", folder=True) for at in range(64))
    at_bound += _entry("z" * (2048 - len(at_bound) - len(_entry("", folder=True))), folder=True)
    assert len(at_bound) == listings.SMALL
    reader = Listings(trees)
    _as_alone(reader, trees, at_bound)
    assert _as_alone(reader, trees, at_bound.replace(b"n050\0" + b"A" * 20, b"n050\0" + b"B" * 20)) < 100


def _refused_alike(before: bytes, after: bytes) -> str:
    trees = _Trees()
    reader = Listings(trees)
    reader.entries_by_name(trees.put(before))
    with pytest.raises(BadObject) as whole:
        parse_tree(after)
    with pytest.raises(BadObject) as caught:
        reader.entries_by_name(trees.put(after))
    assert (caught.value.reason, str(caught.value)) == (whole.value.reason, str(whole.value))
    return caught.value.reason


def test_a_name_that_is_another_one_in_capitals_is_refused_whichever_came_first() -> None:
    capitals = _tree([FIRST, "Name-050", *NAMES[1:]])
    assert _refused_alike(BASE, capitals) == "CollidingNames"
    without_small = _tree([FIRST, "Name-050", *(name for name in NAMES[1:] if name != "name-050")])
    assert _refused_alike(without_small, capitals) == "CollidingNames"


@pytest.mark.parametrize("name", ["name-0009x", "name-0990", "name-049", "name-051"])
def test_a_name_out_of_order_among_its_neighbours_is_refused(name: str) -> None:
    names = [name if each == "name-050" else each for each in NAMES]
    assert _refused_alike(BASE, _tree(names)) == "MalformedTree"


def test_folders_whose_first_name_is_long_are_compared_from_their_first_entry_on() -> None:
    trees = _Trees()
    reader = Listings(trees)
    long = "a" * 70
    before = _tree([long, *NAMES[1:]])
    after = _tree([long, *NAMES[1:], "name-200", "name-201"], **{long: "B"})
    for data in (before, after, before[:-30] + before[-30:], _tree(NAMES[1:])):
        found = reader.entries_by_name(trees.put(data))
        assert dict(found) == {entry.name: entry for entry in parse_tree(data)}


# ---- what is kept ----


def test_what_was_asked_last_is_kept_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT_BYTES", 2 * len(BASE))
    trees = _Trees()
    reader = Listings(trees)
    first, second, third = (
        trees.put(BASE.replace(b"A" * 20, content * 20)) for content in (b"B", b"C", b"D")
    )
    for oid in (first, second, first, third):
        reader.entries_by_name(oid)
    trees.trees.clear()
    assert reader.entries_by_name(first)
    assert reader.entries_by_name(third)
    with pytest.raises(MissingObject):
        reader.entries_by_name(second)


def test_as_many_listings_are_kept_as_may_be_and_those_used_last(
    trees: _Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MOST_LISTINGS", 2)
    reader = Listings(trees)

    def cost(first: str, content: str) -> int:
        return _as_alone(reader, trees, _tree([first, *NAMES[1:]], name_050=content))

    assert cost("000", "A") > 1000
    assert cost("001", "A") > 1000
    assert cost("000", "B") < 100
    assert cost("002", "A") > 1000
    assert cost("000", "C") < 100
    assert cost("001", "B") > 1000
