"""Folders read by what changed in them: exactly what a whole reading says, and not one tree more or less."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.trust import listings, objects
from capsule.trust.listings import Listings
from capsule.trust.objects import MissingObject, ObjectKind
from capsule.trust.raw import BadObject, parse_tree

NAMES = st.text("ab1", min_size=1, max_size=3)
FILES = st.dictionaries(NAMES, st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=12)


class _Trees:
    def __init__(self) -> None:
        self.trees: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        oid = hashlib.sha1(data).hexdigest()
        self.trees[oid] = data
        return oid

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        if oid not in self.trees:
            raise MissingObject(oid)
        return "tree", self.trees[oid]


def _entry(name: bytes, folder: bool, content: int) -> bytes:
    return (b"40000 " if folder else b"100644 ") + name + b"\0" + bytes([content + 65]) * 20


def _tree(files: dict[str, tuple[bool, int]]) -> bytes:
    ordered = sorted(files.items(), key=lambda item: item[0] + ("/" if item[1][0] else ""))
    return b"".join(_entry(name.encode(), *what) for name, what in ordered)


@given(st.lists(FILES, min_size=1, max_size=8), st.booleans())
def test_a_row_of_versions_reads_as_each_of_them_alone(
    versions: list[dict[str, tuple[bool, int]]], anchor: bool
) -> None:
    trees = _Trees()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listings, "SMALL", 0)
        reader = Listings(trees)
        for files in versions:
            data = (_entry(b"00", folder=False, content=0) if anchor else b"") + _tree(files)
            expected = {entry.name: entry for entry in parse_tree(data)}
            assert dict(reader.entries_by_name(trees.put(data))) == expected


BASE = b"".join(_entry(b"name-%03d" % at, True, 1) for at in range(100))


@pytest.mark.parametrize(
    "changed",
    [
        BASE + _entry(b"Name-100", True, 1),
        BASE + _entry(b".git", True, 1),
        BASE + _entry(b"name-000", True, 1),
        BASE.replace(b"name-050", b"name-049"),
        BASE.replace(b"name-050", b"name-099"),
        BASE.replace(b"name-050", b"NAME-049"),
        BASE.replace(b"40000 name-050", b"120000 name-050"),
        BASE.replace(b"40000 name-050", b"100644 name-050\0" + b"C" * 20 + b"40000 name-050"),
        BASE[:-1],
        BASE + b"x",
        BASE + BASE[-20:],
        BASE.replace(b"40000 name-050", b"100644 name-049"),
    ],
)
def test_what_a_whole_reading_refuses_is_refused_after_any_good_folder(changed: bytes) -> None:
    trees = _Trees()
    reader = Listings(trees)
    reader.entries_by_name(trees.put(BASE))
    with pytest.raises(BadObject) as whole:
        parse_tree(changed)
    with pytest.raises(BadObject) as caught:
        reader.entries_by_name(trees.put(changed))
    assert (caught.value.reason, str(caught.value)) == (whole.value.reason, str(whole.value))


def test_unusual_but_good_names_are_read_whole() -> None:
    trees = _Trees()
    reader = Listings(trees)
    for data in (BASE + _entry(b"readme (1).md", True, 1), _entry(b"README", True, 0) + BASE):
        found = reader.entries_by_name(trees.put(data))
        assert dict(found) == {entry.name: entry for entry in parse_tree(data)}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT_BYTES", 2 * len(BASE) + 300)
    monkeypatch.setattr(listings, "MOST_LISTINGS", 2)
    trees = _Trees()
    reader = Listings(trees)
    oids = [trees.put(_entry(b"a%02d" % at, True, 1) + BASE) for at in range(5)]
    for oid in (*oids, oids[-1]):
        reader.entries_by_name(oid)
    trees.trees.clear()
    assert reader.entries_by_name(oids[-1])
    with pytest.raises(MissingObject):
        reader.entries_by_name(oids[0])


def test_objects_asks_the_reader_that_remembers() -> None:
    trees = _Trees()
    oid = trees.put(BASE)
    reader = Listings(trees)
    assert objects.find(reader, oid, "name-007") == objects.find(trees, oid, "name-007")
    assert reader.read(oid) == trees.read(oid)
