"""Strict YAML: bytes to plain values that know where they stand in the text.

Rules kept: everything two readers could read differently, or that a reviewer cannot see, is a problem with
line and column; nothing but the stream of events of a parser is used, pulled one at a time, so that depth,
size and repetition are bounded here before they cost anything (libyaml looks at most 1024 characters ahead
of the event it hands out; what crashes on deep nesting is its composer, which is never called). Mappings
become dicts, sequences tuples. Called by codec.validation and codec.editor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from capsule.documents.codec.plain import Rejected, resolve
from capsule.documents.problems import FORBIDDEN, InvalidDocument, Problem, quoted, shown

try:
    from _ruamel_yaml import CParser
except ImportError:
    CParser = None

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_PROBLEMS = 100

_DIRECTIVE = re.compile(r"^%", re.MULTILINE)

Plain = str | int | bool | None | dict[str, Any] | tuple[Any, ...]


class Node:
    """A value and its place: `line` and `column` from 1, `start` and `end` as offsets into the text.

    `keys` and `children` hold the nodes of a mapping's keys and values; of a sequence, `items` the entries.
    """

    __slots__ = ("children", "column", "end", "flow", "items", "keys", "line", "start", "style", "value")

    def __init__(self, value: Plain, line: int = 1, column: int = 1, start: int = 0, end: int = 0) -> None:
        self.value = value
        self.line = line
        self.column = column
        self.start = start
        self.end = end
        self.style = ""
        self.flow = False
        self.keys: dict[str, Node] = {}
        self.children: dict[str, Node] = {}
        self.items: list[Node] = []


def _node(value: Plain, event: Any) -> Node:
    start = event.start_mark
    return Node(value, start.line + 1, start.column + 1, start.index, event.end_mark.index)


class _TooManyProblems(Exception):
    """Reading on would tell a person nothing more."""


class Events(Protocol):
    """A parser that hands out one event at a time."""

    def get_event(self) -> Any: ...


def parse(data: bytes, *, path: str, max_bytes: int = MAX_BYTES) -> Node:
    """Read one strict YAML document. `path` is what problems name; `max_bytes` bounds the size.

    Raises InvalidDocument with every problem found.
    """
    node, problems = read(data, path=path, max_bytes=max_bytes)
    if problems or node is None:
        raise InvalidDocument(problems)
    return node


def read(data: bytes, *, path: str, max_bytes: int = MAX_BYTES) -> tuple[Node | None, list[Problem]]:
    """Read as much of a document as can be read; the node is None when the text could not be read at all.

    Where there are problems the node stands in for what was meant (the text of an ambiguous scalar), so
    that further problems can be found in the same run.
    """
    text, problems = read_text(data, path, max_bytes)
    if text is None or problems:
        return None, problems
    reader = _Reader(path, text)
    return reader.document(), reader.problems


def read_text(data: bytes, path: str, max_bytes: int) -> tuple[str | None, list[Problem]]:
    """The text of a document, YAML or JSON, and the characters in it that no document may have."""
    if len(data) > max_bytes:
        message = f"the file has {len(data)} bytes"
        return None, [Problem(path, 1, 1, "TooLarge", message, f"at most {max_bytes} bytes")]
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        message = "the file starts with a byte order mark"
        return None, [Problem(path, 1, 1, "ByteOrderMark", message, "UTF-8 without a byte order mark")]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _end_of(data[: error.start].decode("utf-8"))
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        return None, [Problem(path, line, column, "NotUtf8", message, "text in UTF-8")]
    problems: list[Problem] = []
    for found in FORBIDDEN.finditer(text):
        if len(problems) == MAX_PROBLEMS:
            break
        line, column = _end_of(text[: found.start()])
        problems.append(_forbidden(path, line, column, found[0]))
    return text, problems


def _end_of(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _forbidden(path: str, line: int, column: int, char: str) -> Problem:
    message = f"the character U+{ord(char):04X} is not allowed in a document"
    return Problem(path, line, column, "ForbiddenCharacter", message, hint="remove it")


def _events(text: str) -> Events:
    if CParser is not None:
        parser: Events = CParser(text)
        return parser
    return _PureEvents(YAML(typ="safe", pure=True).parse(text))


class _PureEvents:
    """ruamel's parser in Python, for platforms that have no libyaml: the same events, slower."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events

    def get_event(self) -> Any:
        return next(self._events)


class _Reader:
    """Builds nodes from events, and collects problems."""

    def __init__(self, path: str, text: str) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._escapes = "\\" in text
        self._text = text
        self._depth = 0

    def document(self) -> Node | None:
        try:
            self._next = _events(self._text).get_event
            return self._document()
        except _TooManyProblems:
            return None
        except MarkedYAMLError as error:
            self._syntax(error)
        except (YAMLError, ValueError, OverflowError):
            self.problems.append(Problem(self._path, 1, 1, "BadSyntax", "the text is not YAML"))
        return None

    def _document(self) -> Node | None:
        self._next()
        event = self._next()
        if type(event).__name__ == "StreamEndEvent":
            self._add(event, "EmptyDocument", "there is no document in the file")
            return None
        if _DIRECTIVE.search(self._text[: event.end_mark.index]):
            self._add(
                event,
                "DirectiveNotAllowed",
                "a directive (a line that starts with %)",
                hint="remove the line",
            )
        node = self._node(self._next())
        self._next()
        event = self._next()
        if type(event).__name__ != "StreamEndEvent":
            self._add(
                event, "SeveralDocuments", "a second document starts here", hint="write a file for each"
            )
            return None
        return node

    def _node(self, event: Any) -> Node:
        if event.anchor is not None:
            self._anchor(event)
        kind = type(event).__name__
        if kind == "ScalarEvent":
            if event.tag is not None:
                self._tag(event)
            return self._scalar(event)
        if kind == "AliasEvent":
            return _node(None, event)
        if event.tag is not None:
            self._tag(event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._add(event, "TooDeep", f"nested deeper than {MAX_DEPTH} levels")
            raise _TooManyProblems
        node = self._mapping(event) if kind == "MappingStartEvent" else self._sequence(event)
        self._depth -= 1
        return node

    def _scalar(self, event: Any) -> Node:
        text = event.value
        node = _node(text, event)
        if event.style:
            node.style = event.style
            if self._escapes and (found := FORBIDDEN.search(text)):
                self.problems.append(_forbidden(self._path, node.line, node.column, found[0]))
                self._enough()
            return node
        if text == "":
            self._add(event, "EmptyValue", "nothing stands here", "a value", 'write the value, "" or null')
            return node
        value = resolve(text)
        if isinstance(value, Rejected):
            self._add(event, value.reason, value.message, hint=value.hint)
        else:
            node.value = value
        return node

    def _mapping(self, start: Any) -> Node:
        values: dict[str, Any] = {}
        node = _node(values, start)
        node.flow = start.flow_style
        while type(event := self._next()).__name__ != "MappingEndEvent":
            key = self._node(event)
            child = self._node(self._next())
            name = key.value
            if not isinstance(name, str):
                self._add(event, "KeyNotText", "a key that is not text", "a word", "quote it if it is a name")
            elif name in values:
                first = node.keys[name]
                message = f"the key {quoted(name)} stands twice, first in line {first.line}"
                self._add(event, "DuplicateKey", message, hint="remove one of the two")
            else:
                values[name] = child.value
                node.keys[name] = key
                node.children[name] = child
        node.end = event.end_mark.index
        return node

    def _sequence(self, start: Any) -> Node:
        node = _node((), start)
        node.flow = start.flow_style
        while type(event := self._next()).__name__ != "SequenceEndEvent":
            node.items.append(self._node(event))
        node.value = tuple([item.value for item in node.items])
        node.end = event.end_mark.index
        return node

    def _anchor(self, event: Any) -> None:
        if type(event).__name__ == "AliasEvent":
            self._add(
                event,
                "AliasNotAllowed",
                f"an alias ({quoted('*' + event.anchor)})",
                hint="write the value out",
            )
        else:
            self._add(
                event, "AnchorNotAllowed", f"an anchor ({quoted('&' + event.anchor)})", hint="remove it"
            )

    def _tag(self, event: Any) -> None:
        self._add(event, "TagNotAllowed", f"a tag ({quoted(event.tag)})", hint="remove it")

    def _add(self, event: Any, reason: str, message: str, expected: str = "", hint: str = "") -> None:
        mark = event.start_mark
        place = (mark.line + 1, mark.column + 1)
        self.problems.append(Problem(self._path, *place, reason, message, expected, hint))
        self._enough()

    def _enough(self) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            raise _TooManyProblems

    def _syntax(self, error: MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        lines = self._text.split("\n")
        if mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
            self.problems.append(
                Problem(self._path, line, column, "BadSyntax", "a tab", "spaces", "indent with spaces")
            )
            return
        words = [part for part in (error.context, error.problem) if part]
        self.problems.append(Problem(self._path, line, column, "BadSyntax", shown(", ".join(words))[:200]))
