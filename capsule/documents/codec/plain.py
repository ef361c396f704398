"""What a scalar without quotes means: YAML 1.2's core schema where YAML 1.1 agrees, an error elsewhere.

Sources: YAML 1.2.2 section 10.3.2; the YAML 1.1 types bool, float, int, merge, null, timestamp, value;
and the readers that widen these (commas in integers). Called by codec.parser and codec.emitter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_INTEGER = 2**53 - 1
_MAX_DIGITS = 16

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_WORDS = re.compile(
    r"~|null|true|false|yes|no|on|off|y|n|=|<<",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"""
    [-+]?0b[01_]+ | [-+]?0o[0-7_]+ | [-+]?0x[0-9a-f_]+      # other bases
    | [-+]?[0-9][0-9_,]*(:[0-9]{1,2})+(\.[0-9_]*)?          # base 60
    | [-+]?(\.[0-9][0-9_]*|[0-9][0-9_,]*(\.[0-9_]*)?)(e[-+]?[0-9]+)?
    | [-+]?\.inf | \.nan
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?", re.DOTALL)
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_ALWAYS_QUOTED = re.compile(r"(?=.*[0-9])[-+0-9.,:_eE]+")
_PLAIN = re.compile(r"[A-Za-z0-9/_](?:[A-Za-z0-9/_.+@()=,-]|:(?! )| (?![# ]))*(?<![ :])")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A plain scalar that is not accepted: the reason code, and how to write what was meant."""

    reason: str
    message: str
    hint: str


def resolve(text: str) -> str | int | bool | Rejected | None:
    """The value of the plain scalar `text`: text, an integer, true, false, null, or why it is rejected."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _WORDS.fullmatch(text):
        return _word(text)
    if _NUMBER.fullmatch(text):
        return _number(text)
    if _DATE.fullmatch(text):
        return Rejected(
            "AmbiguousScalar", f"{_cut(text)} is a date to some readers, text to others", _quote(text)
        )
    return text


def is_plain(text: str) -> bool:
    """Whether `text` may be written without quotes and is read back by everyone as the same text."""
    return (
        _PLAIN.fullmatch(text) is not None
        and _ALWAYS_QUOTED.fullmatch(text) is None
        and resolve(text) == text
    )


def _integer(text: str) -> int | Rejected:
    if len(text.lstrip("-")) > _MAX_DIGITS or abs(int(text)) > MAX_INTEGER:
        return Rejected("IntegerTooLarge", f"{_cut(text)} does not fit into 53 bits", _quote(text))
    return int(text)


def _word(text: str) -> Rejected:
    low = text.lower()
    if text == "<<":
        return Rejected("MergeKeyNotAllowed", "a merge key", "write the keys out")
    meant = {"~": "null", "null": "null", "true": "true", "yes": "true", "on": "true", "y": "true"}.get(
        low, "false"
    )
    hint = (
        _quote(text) if text == "=" else f"write {meant}, or {_quote(text).removeprefix('write ')} for text"
    )
    return Rejected("AmbiguousScalar", f"{text} means different things to different readers", hint)


def _number(text: str) -> Rejected:
    if _FLOAT.fullmatch(text) and ("." in text):
        return Rejected("FloatNotAllowed", f"{_cut(text)} is a number with a fraction", _quote(text))
    return Rejected(
        "AmbiguousScalar",
        f"{_cut(text)} is read as different numbers, or as text, by different readers",
        _quote(text),
    )


def _quote(text: str) -> str:
    return f'write "{_cut(text)}"' if len(text) <= 40 else "put it in quotes"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
