"""Problems of documents: what is wrong, where, what was expected, what to do next.

Rules kept: a reason code never changes its meaning; a message never quotes more than a short piece of what
it found, with unprintable characters escaped, and no secret. Made by codec and check; shown by
commands and web.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from capsule.documents.secrets import redacted

Severity = Literal["error", "warning", "hint"]

REASONS: dict[str, str] = {
    "TooLarge": "The file is larger than a document may be (256 KiB).",
    "NotUtf8": "The file is not UTF-8 text. Save it as UTF-8.",
    "ByteOrderMark": "The file starts with a byte order mark. Save it as UTF-8 without one.",
    "ForbiddenCharacter": "A control, invisible, bidirectional or line-separator character, which can make a "
    "reviewer see another text than a program reads. Remove it.",
    "SecretInDocument": "A text that looks like a secret: everybody who can clone the repository reads it. "
    "Take it out; where it was committed it is known, so rotate it.",
    "BadSyntax": "The text is not YAML.",
    "TooDeep": "Lists and mappings are nested deeper than 32 levels.",
    "EmptyDocument": "There is no document in the file.",
    "SeveralDocuments": "There is more than one document in the file. Write one file for each.",
    "DirectiveNotAllowed": "A `%YAML` or `%TAG` line. Remove it.",
    "AnchorNotAllowed": "An anchor (`&name`). Write the value out.",
    "AliasNotAllowed": "An alias (`*name`). Write the value out.",
    "TagNotAllowed": "A tag (`!name`). Write the value without it.",
    "MergeKeyNotAllowed": "A merge key (`<<`). Write the keys out.",
    "DuplicateKey": "The same key stands twice in one mapping, and readers differ in which one they take.",
    "KeyNotText": "A key that is not plain text, such as a number, a list or nothing.",
    "AmbiguousScalar": "A value without quotes that YAML 1.1 and YAML 1.2 read differently (`no`, `010`, "
    "`1:20`, a bare date). Quote it, or write true, false, null or a decimal number.",
    "FloatNotAllowed": "A number with a fraction or an exponent; no field takes one. Quote it if it is text.",
    "IntegerTooLarge": "An integer outside of 53 bits, which JSON readers round. Quote it if it is text.",
    "EmptyValue": "A key or a list item with nothing behind it. Write the value, or leave the key out.",
    "NotAMapping": "The document is not a mapping of apiVersion, kind, metadata and spec.",
    "UnknownVersion": "An apiVersion that this version of Capsule does not know.",
    "UnknownKind": "A kind of document that Capsule does not know.",
    "UnexpectedKind": "A document of a kind that does not belong in this place.",
    "UnknownField": "A key that this document does not have; often a typing error.",
    "MissingField": "A key that the document must have.",
    "WrongType": "A value of another type: text where a number belongs, a list where a mapping belongs, …",
    "TextNotQuoted": "A number, true, false or null where text belongs. Quote it.",
    "WrongValue": "A value that is not one of those allowed.",
    "BadFormat": "Text of another form than the field has.",
    "OutOfRange": "A number that is too small or too large.",
    "TooLong": "Text with too many characters, or too many entries.",
    "TooShort": "Text with too few characters, or too few entries.",
    "BadJson": "The file is not the strict JSON that this document is written in.",
    "BadMessage": "The JSON is not a document of the expected form.",
}

_BLOCK = (
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"  # controls, with U+0085
    "\\u00ad\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e\\u3164\\uffa0"  # invisible
    "\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f"  # zero width, bidirectional, separators
    "\\ud800-\\udfff\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
    "\\U000e0000-\\U000e007f"  # tags
)
FORBIDDEN = re.compile(f"[{_BLOCK}]|\\r(?!\\n)")
"""Characters of no document: raw or escaped, they hide text from a reviewer or move a terminal's cursor."""

_QUOTED_LENGTH = 60


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in one place. `line` and `column` count from 1; `reason` is a code."""

    path: str
    line: int
    column: int
    reason: str
    message: str
    expected: str = ""
    hint: str = ""
    severity: Severity = "error"


class InvalidDocument(ValueError):
    """Bytes that are not the document they should be; `problems` says why, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(one_line(problem) for problem in self.problems))


def one_line(problem: Problem) -> str:
    """The problem as a compiler would print it: `path:line:column: severity: message [Reason]`."""
    text = f"{shown(problem.path)}:{problem.line}:{problem.column}: {problem.severity}: {problem.message}"
    if problem.expected:
        text += f"; expected {problem.expected}"
    if problem.hint:
        text += f"; {problem.hint}"
    return f"{text} [{problem.reason}]"


def shown(text: str) -> str:
    """`text` with every character that is not visible written as an escape: one line, safe for a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def quoted(text: str) -> str:
    """A short piece of `text`, in quotes, for a message."""
    text = redacted(text)
    piece = text if len(text) <= _QUOTED_LENGTH else text[: _QUOTED_LENGTH - 1] + "…"
    return f'"{shown(piece)}"'


def nearest(word: str, valid: Iterable[str]) -> str:
    """The hint that names the valid word most like `word`; empty when none is near."""
    known = {name.casefold(): name for name in valid}
    found = get_close_matches(word[:100].casefold().strip(), known, n=1, cutoff=0.6)
    return suggestion(known[found[0]]) if found else ""


def suggestion(word: str) -> str:
    """The hint that proposes `word`."""
    return f"did you mean {quoted(word)}?"


def look_alikes(text: str) -> str:
    """The hint that names the first characters outside of ASCII, which may only look like a letter."""
    strange = [char for char in dict.fromkeys(text[:200]) if not char.isascii()][:3]
    names = ", ".join(f"U+{ord(char):04X} {unicodedata.name(char, '')}".strip() for char in strange)
    return f"it holds {names}" if names else ""


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
