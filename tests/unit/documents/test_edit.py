"""Edits by tools change one value and leave every other byte of a person's text alone."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.codec import edit, load_as
from capsule.documents.codec.editor import CannotEdit
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Service
from tests.unit.documents.samples import SERVICE_TEXT


def edited(text: str, *keys: str, to: Any) -> str:
    return edit(text.encode(), {keys: to}).decode()


def test_disabling_a_service_changes_one_word() -> None:
    text = edited(SERVICE_TEXT, "spec", "enabled", to=False)
    assert text == SERVICE_TEXT.replace("enabled: true   # takes traffic", "enabled: false   # takes traffic")
    assert load_as(Service, text.encode(), "x.yaml").spec.enabled is False


@pytest.mark.parametrize(
    ("before", "keys", "value", "after"),
    [
        ("a: 1\n", ("a",), "no", 'a: "no"\n'),
        ("a: 'x' # why\nb: 2\n", ("a",), "z", "a: z # why\nb: 2\n"),
        ("a: {b: 1, c: 2}\n", ("a", "c"), True, "a: {b: 1, c: true}\n"),
        ("a: {b: 1, c: 2}\n", ("a", "b"), "x, y", 'a: {b: "x, y", c: 2}\n'),
        ("a: {b: 1} # c\n", ("a", "d"), "x", "a: {b: 1, d: x} # c\n"),
        ("a: {}\n", ("a", "d"), "x", "a: {d: x}\n"),
        ("a: {b: 1}\n", ("a", "d", "e"), 5, "a: {b: 1, d: {e: 5}}\n"),
        ("a: {b: [1, 2]}\n", ("a", "b"), ["x"], "a: {b: [x]}\n"),
        ("a: 1\n", ("b",), "x", "a: 1\nb: x\n"),
        ("a: 1", ("b",), "x", "a: 1\nb: x\n"),
        (
            "a:\n  # first\n  b: 1  # one\n\nc: 2\n",
            ("a", "d"),
            3,
            "a:\n  # first\n  b: 1  # one\n  d: 3\n\nc: 2\n",
        ),
        ("a:\n    b: 1\nc: 2\n", ("a", "d", "e"), [1], "a:\n    b: 1\n    d:\n      e:\n        - 1\nc: 2\n"),
        ("a:\n  b: |\n    text\nc: 2\n", ("a", "d"), 3, "a:\n  b: |\n    text\n  d: 3\nc: 2\n"),
        ("a:\n  - x\n  - z: 1\nc: 2\n", ("d",), 3, "a:\n  - x\n  - z: 1\nc: 2\nd: 3\n"),
        (
            "a:\n  b:\n    - x\n    - z: 1 # z\nc: 2\n",
            ("a", "d"),
            3,
            "a:\n  b:\n    - x\n    - z: 1 # z\n  d: 3\nc: 2\n",
        ),
        ("a: 1\n", ("b", "c"), {"d": "e"}, "a: 1\nb:\n  c:\n    d: e\n"),
        ("a: 1\n...\n", ("b",), 2, "a: 1\nb: 2\n...\n"),
        ("é: ü # ö\na: 1\n", ("a",), 2, "é: ü # ö\na: 2\n"),
    ],
)
def test_small_changes(before: str, keys: tuple[str, ...], value: object, after: str) -> None:
    assert edited(before, *keys, to=value) == after


@pytest.mark.parametrize(
    ("before", "keys"),
    [
        ("a:\n  b: 1\n", ("a",)),
        ("a:\n  - 1\n", ("a",)),
        ("a: |\n  text\n", ("a",)),
        ("a: 1\n", ("a", "b")),
        ("a: [1]\n", ("a", "b")),
        ("- a\n", ("a",)),
        ("a: |\n  text", ("b",)),
    ],
)
def test_what_cannot_be_changed_alone_is_refused(before: str, keys: tuple[str, ...]) -> None:
    with pytest.raises(CannotEdit, match=r"edit the file by hand"):
        edited(before, *keys, to="x")


def test_several_changes_at_once() -> None:
    text = edit(SERVICE_TEXT.encode(), {("spec", "enabled"): False, ("spec", "owner"): "search"}).decode()
    assert "enabled: false   # takes traffic" in text
    assert text.endswith("  rotation: {every: 90d}\n  owner: search\n")
    assert text.startswith("# The chat of the search team.\n")


def test_a_text_that_is_not_strict_yaml_is_not_edited() -> None:
    with pytest.raises(InvalidDocument) as caught:
        edit(b"a: no\n", {("a",): 1}, path="services/x.yaml")
    assert caught.value.problems[0].path == "services/x.yaml"
