"""How much of a tree is read, exactly, and that what was read once is asked of who remembers it."""

from __future__ import annotations

import pytest

from capsule.trust import objects
from capsule.trust.listings import Listings
from capsule.trust.objects import BadObject, changes, read_blob
from tests.trust_history import History


def test_a_file_may_have_so_many_bytes_and_not_one_more() -> None:
    history = History()
    oid = history.put("blob", b"12345")
    assert read_blob(history, oid, 5) == b"12345"
    with pytest.raises(BadObject) as caught:
        read_blob(history, oid, 4)
    assert caught.value.reason == "TooLarge"


def test_folders_may_be_so_deep_and_not_one_deeper() -> None:
    history = History()
    tree = history.tree({"x": b"1"})
    for _ in range(objects.MAX_DEPTH + 1):
        tree = history.raw_tree([(b"40000", b"d", tree)])
    assert [each.path for each in changes(history, None, tree)] == ["d/" * (objects.MAX_DEPTH + 1) + "x"]
    with pytest.raises(BadObject, match="deeper"):
        list(changes(history, None, history.raw_tree([(b"40000", b"d", tree)])))


def test_so_many_files_may_differ_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_FILES", 3)
    history = History()
    assert len(list(changes(history, None, history.tree({"a": b"1", "b": b"1", "c": b"1"})))) == 3
    with pytest.raises(BadObject, match="more than 3"):
        list(changes(history, None, history.tree({"a": b"1", "b": b"1", "c": b"1", "d": b"1"})))


def test_a_folder_is_read_once_by_a_reader_that_remembers() -> None:
    history = History()
    tree = history.tree({"a/b": b"1"})
    reader = Listings(history)
    for _ in range(3):
        assert objects.find(reader, tree, "a/b") is not None
    assert history.reads == 2
