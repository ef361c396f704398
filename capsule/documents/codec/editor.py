"""Small changes in a person's document: the text around the change stays byte for byte.

Rules kept: a change replaces one value or adds one key, and is spliced into the text at the place the
parser names; the result is read again and must differ in exactly that. Called by commands.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from capsule.documents.codec.emitter import block, flow
from capsule.documents.codec.parser import Node, parse

Value = str | int | bool | Mapping[str, Any] | Sequence[Any]


class CannotEdit(ValueError):
    """A change that cannot be made without touching other lines; the text says which."""


def edit(data: bytes, changes: Mapping[tuple[str, ...], Value], *, path: str = "") -> bytes:
    """`data` with the value at each path of keys replaced, or added where there is none.

    For example `edit(data, {("spec", "enabled"): False})`. Comments, order, quotes and layout of
    everything else stay. Raises InvalidDocument when the text before or after is not strict YAML, and
    CannotEdit when the change cannot be made alone.
    """
    for keys, value in changes.items():
        data = _edit_one(data, keys, value, path)
    return data


def _edit_one(data: bytes, keys: tuple[str, ...], value: Value, path: str) -> bytes:
    root = parse(data, path=path)
    text = data.decode()
    node, walked = root, 0
    while walked < len(keys) and keys[walked] in node.children:
        node = node.children[keys[walked]]
        walked += 1
    if walked == len(keys):
        start, end, new = _replacement(node, value, keys)
    else:
        for name in reversed(keys[walked + 1 :]):
            value = {name: value}
        start, end, new = _addition(text, node, keys[walked], value, keys)
    changed = (text[:start] + new + text[end:]).encode()
    if parse(changed, path=path).value != _expected(root.value, keys, value, walked):
        raise _refusal(keys)
    return changed


def _replacement(node: Node, value: Value, keys: Sequence[str]) -> tuple[int, int, str]:
    if node.style in ("|", ">") or (not node.flow and isinstance(node.value, dict | tuple)):
        raise _refusal(keys)
    return node.start, node.end, flow(value)


def _addition(text: str, parent: Node, name: str, value: Value, keys: Sequence[str]) -> tuple[int, int, str]:
    if not isinstance(parent.value, dict):
        raise _refusal(keys)
    if parent.flow:
        at = max((child.end for child in parent.children.values()), default=parent.start + 1)
        comma = ", " if parent.children else ""
        return at, at, f"{comma}{flow({name: value})[1:-1]}"
    lines = "\n".join(block({name: value}, parent.column - 1))
    at = text.find("\n", _last(parent).end - 1)
    return (len(text), len(text), f"\n{lines}\n") if at < 0 else (at + 1, at + 1, f"{lines}\n")


def _last(node: Node) -> Node:
    """The node that ends where the text of a block mapping ends (libyaml sees its end later)."""
    while not node.flow and (inner := [*node.items, *node.children.values()]):
        node = inner[-1]
    return node


def _expected(before: Any, keys: tuple[str, ...], value: Value, walked: int) -> Any:
    after = copy.deepcopy(before)
    place = after
    for name in keys[: min(walked, len(keys) - 1)]:
        place = place[name]
    place[keys[min(walked, len(keys) - 1)]] = parse(f"{flow(value)}\n".encode(), path="").value
    return after


def _refusal(keys: Sequence[str]) -> CannotEdit:
    return CannotEdit(
        f"{'.'.join(keys)} cannot be changed without touching other lines; edit the file by hand"
    )
