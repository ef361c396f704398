"""Strict JSON (RFC 8259, narrowed): what two readers could read differently is an error.

Rules kept: UTF-8 without a byte order mark, no duplicate names, no NaN, Infinity or lone surrogates,
integers within 53 bits, bounded size and depth. Called for every message and for Approval documents.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

# The closing quote is optional, so that no text makes the search start over at each quote inside of it.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


class InvalidMessage(ValueError):
    """Bytes that are not a message of the wire contract; the text says what was expected."""


def parse(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read one JSON value from `data`.

    Raises InvalidMessage for anything that is not strict JSON, or above `max_bytes` bytes.
    """
    if len(data) > max_bytes:
        raise InvalidMessage(f"{len(data)} bytes, expected at most {max_bytes}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise InvalidMessage("starts with a byte order mark, expected plain UTF-8")
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise InvalidMessage(f"not JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    if "\\u" in text:
        _check_surrogates(value)
    return value


def canonical(value: Any) -> bytes:
    """One text per value: sorted names, no white space, UTF-8 (the subset of RFC 8785 without floats)."""
    _no_floats(value)
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    ).encode()


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidMessage(f"name {name[:80]!r} stands twice in one object")
        found[name] = value
    return found


def _constant(text: str) -> NoReturn:
    raise InvalidMessage(f"{text} is not a JSON number")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise InvalidMessage("an integer outside of 53 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidMessage("a number too large for a double")
    return value


def _check_surrogates(value: Any) -> None:
    """Half a surrogate pair can be escaped in JSON, but is no text: no UTF-8 exists for it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidMessage("an escaped half of a surrogate pair is not text") from None


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return  # too few to nest deeper, wherever they stand
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidMessage(f"nested deeper than {MAX_DEPTH}")
        else:
            depth -= 1


def _no_floats(value: Any) -> None:
    if isinstance(value, float):
        raise InvalidMessage("a float has no canonical text here; use an integer or a string")
    if isinstance(value, Mapping):
        for item in value.values():
            _no_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _no_floats(item)
