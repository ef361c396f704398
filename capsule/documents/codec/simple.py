"""The form that programs write, read line by line: a fraction of the cost of reading any YAML.

Rules kept: a text is read here only where each line is of a form that has one meaning (block mappings by two
spaces, lists of scalars, ASCII, no escape, no comment), and then as the parser reads it; any other text,
right or wrong, is left to the parser, which alone tells of problems. Called by validation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from capsule.documents.codec.plain import Rejected, resolve

_LINE = re.compile(
    r"((?:  ){0,8})(?:([A-Za-z][A-Za-z0-9-]{0,99}):|-)"
    r'(?: (?:"([ !#-\[\]-~]*)"'
    r"|([A-Za-z0-9/_](?:[A-Za-z0-9/_.+@()=,-]++|:(?! )| (?![# ]))*+(?<![ :]))"  # as plain.is_plain has it
    r"|(\[\]|\{\})))?\n"
)
_LONGEST_WORD = 5
"""A scalar that begins with a letter and is longer is text: no word that means another thing is."""


class _Other(Exception):
    """The text is not of the simple form."""


def simple_value(data: bytes) -> dict[str, Any] | None:
    """The value of a document of the simple form; None where it is of another, which the parser reads."""
    if not data.isascii():
        return None
    try:
        return _value(data.decode("ascii"))
    except _Other:
        return None


def _value(text: str) -> dict[str, Any]:
    levels: list[dict[str, Any]] = [{}]  # the mappings that the next line may belong to, the outermost first
    lists: list[tuple[dict[str, Any], str]] = []
    waiting = ""  # the key behind which nothing stood, while nothing stands below it
    items: list[Any] | None = None  # the list that the next line may go on with
    at = 0
    while line := _LINE.match(text, at):
        at = line.end()
        indent, name, quoted, plain, empty = line.groups()
        depth = len(indent) // 2
        if name is None:
            if waiting:
                items = levels[-1][waiting] = []
                lists.append((levels[-1], waiting))
                waiting = ""
            if items is None or depth != len(levels) or line.end() - line.start() == len(indent) + 2:
                raise _Other
            items.append(_scalar(quoted, plain, empty))
            continue
        if waiting:
            below: dict[str, Any] = {}
            levels[-1][waiting] = below
            levels.append(below)
        if depth >= len(levels) or (waiting and depth != len(levels) - 1):
            raise _Other
        del levels[depth + 1 :]
        if name in levels[depth] or not _is_text(name):
            raise _Other
        items = None
        waiting = name if quoted is plain is empty is None else ""
        levels[depth][name] = None if waiting else _scalar(quoted, plain, empty)
    if at != len(text) or waiting or not text:
        raise _Other
    for mapping, name in lists:
        mapping[name] = tuple(mapping[name])
    return levels[0]


def _scalar(quoted: str | None, plain: str | None, empty: str | None) -> Any:
    if quoted is not None:
        return quoted
    if plain is None:
        return () if empty == "[]" else {}
    if len(plain) > _LONGEST_WORD and plain[0].isalpha():
        return plain
    value = resolve(plain)
    if isinstance(value, Rejected):
        raise _Other
    return value


@lru_cache(maxsize=1024)
def _is_text(name: str) -> bool:
    return resolve(name) == name
