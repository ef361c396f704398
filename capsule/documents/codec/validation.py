"""Documents from bytes: strict text, then the types, and every problem with its place.

Rules kept: never an exception for what a person wrote, except the one that `load_as` documents; a document
is returned only when there is no problem at all. Called by every room that reads documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from capsule.documents.codec.expectation import Expectation, form
from capsule.documents.codec.parser import MAX_BYTES, Node, read, read_text
from capsule.documents.codec.secrecy import MACHINE_KINDS, secret_problems
from capsule.documents.codec.simple import simple_value
from capsule.documents.problems import (
    InvalidDocument,
    Problem,
    look_alikes,
    nearest,
    quoted,
    shown,
    suggestion,
)
from capsule.documents.secrets import findings
from capsule.documents.types import ANY_DOCUMENT, API_VERSION, AnyDocument, ChangeApproval
from capsule_agent.protocol import messages, strict_json

JsonDocument = ChangeApproval | messages.Approval | messages.Signers
T = TypeVar("T", bound=AnyDocument | JsonDocument)

YAML_KINDS: Mapping[str, type[AnyDocument]] = {kind.__name__: kind for kind in ANY_DOCUMENT}
JSON_KINDS: Mapping[str, type[JsonDocument]] = {
    "Approval": messages.Approval,
    "ChangeApproval": ChangeApproval,
    "Signers": messages.Signers,
}
_JSON_PLACE = re.compile(r"at line ([0-9]+) column ([0-9]+)")
_FIELD = re.compile(r"[A-Za-z]+((?:\.[^.:\[\]]+|\[[0-9]+\])*): ")
_FIELD_PART = re.compile(r"\.([^.:\[\]]+)|\[([0-9]+)\]")
_UNKNOWN = re.compile(r": unknown field '(.*)'$")
_REASONS = {
    "string_pattern_mismatch": "BadFormat",
    "value_error": "BadFormat",
    "literal_error": "WrongValue",
    "greater_than_equal": "OutOfRange",
    "less_than_equal": "OutOfRange",
    "string_too_long": "TooLong",
    "too_long": "TooLong",
    "string_too_short": "TooShort",
    "too_short": "TooShort",
}
_MESSAGES = {
    "BadFormat": "{} has another form",
    "WrongValue": "{} is not allowed here",
    "OutOfRange": "{} is out of range",
    "TooLong": "{} is too long",
    "TooShort": "{} is too short",
    "WrongType": "{} does not belong here",
}


def load(
    data: bytes, path: str, *, max_bytes: int = MAX_BYTES
) -> tuple[AnyDocument | JsonDocument | None, tuple[Problem, ...]]:
    """Read a document of any kind: JSON (an approval, signers) where `path` ends in `.json`, else YAML.

    Returns the document and no problem, or None and all problems, in the order of the text.
    """
    document, problems, _ = load_with_places(data, path, max_bytes=max_bytes)
    return document, problems


def load_with_places(
    data: bytes, path: str, *, max_bytes: int = MAX_BYTES
) -> tuple[AnyDocument | JsonDocument | None, tuple[Problem, ...], Node | None]:
    """Like `load`, with the root node, for who goes on to check what the document says."""
    read_one = _load_json if path.endswith(".json") else _load_yaml
    document, problems, node = read_one(data, path, max_bytes)
    secrets = _secrets(data, node, path, max_bytes)
    return (None, tuple(_in_order([*problems, *secrets])), node) if secrets else (document, problems, node)


def load_as(kind: type[T], data: bytes, path: str, *, max_bytes: int = MAX_BYTES) -> T:
    """Read a document of the type `kind`; JSON where `path` ends in `.json`, else YAML.

    Raises InvalidDocument with all problems, also when it is a document of another kind.
    """
    simple = _load_simple(kind, data, path) if len(data) <= max_bytes else None
    if simple is not None:
        return simple
    document, problems, node = load_with_places(data, path, max_bytes=max_bytes)
    if isinstance(document, kind):
        return document
    raise InvalidDocument(problems or (unexpected_kind(document, kind.__name__, node, path),))


def unexpected_kind(document: object, wanted: str, node: Node | None, path: str) -> Problem:
    """The problem of a document that is well-formed, but of a kind that does not belong at `path`."""
    line, column = place(node, ("kind",))
    message = f"this is a document of kind {type(document).__name__}"
    return Problem(path, line, column, "UnexpectedKind", message, f"kind: {wanted}")


def place(node: Node | None, loc: Sequence[str | int]) -> tuple[int, int]:
    """Line and column of the value at `loc`, or of the nearest thing around it."""
    found = _walk(node, loc)[0] if node else None
    return (found.line, found.column) if found else (1, 1)


def key_place(node: Node | None, loc: Sequence[str | int]) -> tuple[int, int]:
    """Line and column of the key at `loc` (of the item, in a list), or of the nearest thing around it."""
    if node is None:
        return 1, 1
    parent, walked = _walk(node, loc[:-1])
    key = parent.keys.get(str(loc[-1])) if loc and walked == len(loc) - 1 else None
    return (key.line, key.column) if key else place(node, loc)


def _walk(node: Node, loc: Sequence[str | int]) -> tuple[Node, int]:
    walked = 0
    for part in loc:
        if isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        elif isinstance(part, str) and part in node.children:
            node = node.children[part]
        else:
            break
        walked += 1
    return node, walked


def _secrets(data: bytes, node: Node | None, path: str, max_bytes: int) -> list[Problem]:
    return secret_problems(data.decode("utf-8", "replace"), node, path) if len(data) <= max_bytes else []


# ---- YAML ---------------------------------------------------------------------------------------


def _load_simple(kind: type[T], data: bytes, path: str) -> T | None:
    """A right document, written as programs write; None for any other, and where a person wrote a secret."""
    model = None if path.endswith(".json") else YAML_KINDS.get(kind.__name__)
    if model is None:
        return None
    value = simple_value(data)
    if value is None or (value.get("apiVersion"), value.get("kind")) != (API_VERSION, kind.__name__):
        return None
    try:
        document = model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError:
        return None
    written = kind.__name__ not in MACHINE_KINDS and findings(data.decode("ascii"))
    return document if isinstance(document, kind) and not written else None


def _load_yaml(
    data: bytes, path: str, max_bytes: int
) -> tuple[AnyDocument | None, tuple[Problem, ...], Node | None]:
    node, problems = read(data, path=path, max_bytes=max_bytes)
    document: AnyDocument | None = None
    if node is not None:
        document, found = _validated(node, path)
        known = {(problem.line, problem.column) for problem in problems}
        problems = _in_order([*problems, *(new for new in found if (new.line, new.column) not in known)])
    return (None if problems else document), tuple(problems), node


def _validated(node: Node, path: str) -> tuple[AnyDocument | None, list[Problem]]:
    kind, problems = _kind(node, path)
    if kind is None:
        return None, problems
    try:
        return kind.model_validate(node.value, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, _problems(error, kind, node, path)


def _kind(node: Node, path: str) -> tuple[type[AnyDocument] | None, list[Problem]]:
    root = node.value
    if not isinstance(root, dict):
        expected = "a mapping of apiVersion, kind, metadata and spec"
        return None, [
            Problem(path, node.line, node.column, "NotAMapping", f"{_what(root)} is not a document", expected)
        ]
    found = []
    if "apiVersion" in root and root["apiVersion"] != API_VERSION:
        found.append(_version(node, path))
    name = root.get("kind")
    if isinstance(name, str) and name in YAML_KINDS:
        return (None if found else YAML_KINDS[name]), found
    line, column = place(node, ("kind",))
    choice = "one of " + ", ".join(YAML_KINDS)
    if "kind" not in root:
        message = 'field "kind" is missing'
        found.append(Problem(path, line, column, "MissingField", message, choice))
    elif isinstance(name, str) and name in JSON_KINDS:
        message = f"{name} is a JSON document"
        found.append(Problem(path, line, column, "UnexpectedKind", message, "a file with the suffix .json"))
    else:
        message = f"{_what(name)} is not a kind of document"
        hint = _hint(name, tuple(YAML_KINDS)) if isinstance(name, str) else ""
        found.append(Problem(path, line, column, "UnknownKind", message, choice, hint))
    return None, found


def _version(node: Node, path: str) -> Problem:
    line, column = place(node, ("apiVersion",))
    message = f"{_what(node.children['apiVersion'].value)} is not a version of this format"
    return Problem(path, line, column, "UnknownVersion", message, f'"{API_VERSION}"', f"write {API_VERSION}")


def _problems(error: ValidationError, kind: type, node: Node, path: str) -> list[Problem]:
    """One problem for each place (a union reports one for each of its members), in the order of the text."""
    found: dict[tuple[tuple[str | int, ...], bool], Problem] = {}
    missing: list[tuple[str, Problem]] = []
    for item in error.errors(include_url=False):
        loc, on_key = _own_loc(node, item["loc"], item["type"] in ("missing", "extra_forbidden"))
        if item["type"] == "missing":
            missing.append((suggestion(str(loc[-1])), _missing(kind, node, path, loc)))
        elif (loc, on_key) not in found:
            found[loc, on_key] = _problem(item, kind, node, path, loc, on_key)
    for outer in [loc for (loc, _), problem in found.items() if problem.reason == "TooShort"]:
        if any(loc[: len(outer)] == outer and loc != outer for loc, _ in found):
            del found[outer, False]  # pydantic counts only the entries that are right
    hints = " ".join(problem.hint for problem in found.values())
    return _in_order([*found.values(), *(problem for hint, problem in missing if hint not in hints)])


def _own_loc(node: Node, loc: Sequence[str | int], names_key: bool) -> tuple[tuple[str | int, ...], bool]:
    """The part of pydantic's path that is in the document (a union adds its members), and whether it is
    the key that is meant."""
    if names_key:
        return tuple(loc), True
    walked = _walk(node, loc)[1]
    return tuple(loc[:walked]), loc[-1] == "[key]" and walked == len(loc) - 1


def _problem(
    item: Mapping[str, Any], kind: type, node: Node, path: str, loc: tuple[str | int, ...], on_key: bool
) -> Problem:
    code = item["type"]
    if code == "extra_forbidden":
        return _unknown(kind, node, path, loc)
    reason = _REASONS.get(code, "WrongType")
    if on_key:
        line, column = key_place(node, loc)
        message = f"{quoted(str(loc[-1]))} is not a valid name here"
        expected = form(item["ctx"]["pattern"])
        return Problem(path, line, column, reason, message, expected, look_alikes(str(loc[-1])))
    line, column = place(node, loc)
    expectation = Expectation(kind, loc)
    value = item["input"]
    if reason == "WrongType" and expectation.takes_text and isinstance(value, int | None):
        message = f"{_what(value)} where text belongs"
        hint = f'write "{_plain(value)}" in quotes if it is text'
        return Problem(path, line, column, "TextNotQuoted", message, expectation.text(), hint)
    message = _MESSAGES[reason].format(_what(value))
    expected = expectation.text()
    if code == "value_error":
        expected = str(item["ctx"]["error"]).removeprefix("expected ")
    hint = _hint(value, expectation.words) if isinstance(value, str) else ""
    return Problem(path, line, column, reason, message, expected, hint)


def _missing(kind: type, node: Node, path: str, loc: tuple[str | int, ...]) -> Problem:
    line, column = place(node, loc[:-1])
    message = f"field {quoted(str(loc[-1]))} is missing{_inside(loc[:-1])}"
    return Problem(path, line, column, "MissingField", message, Expectation(kind, loc).text())


def _unknown(kind: type, node: Node, path: str, loc: tuple[str | int, ...]) -> Problem:
    line, column = key_place(node, loc)
    fields = Expectation(kind, loc[:-1]).fields
    hint = _hint(str(loc[-1]), fields)
    message = f"unknown field {quoted(str(loc[-1]))}{_inside(loc[:-1])}"
    return Problem(path, line, column, "UnknownField", message, "one of " + ", ".join(fields), hint)


def _hint(word: str, valid: Sequence[str]) -> str:
    return ", ".join(hint for hint in (look_alikes(word), nearest(word, valid)) if hint)


def _inside(loc: Sequence[str | int]) -> str:
    if not loc:
        return ""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    return f" in {shown(text[:80])}"


def _what(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple | list):
        return "a list"
    return _plain(value)


def _plain(value: bool | int | None) -> str:
    return "null" if value is None else str(value).lower()


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


# ---- JSON ---------------------------------------------------------------------------------------


def _load_json(
    data: bytes, path: str, max_bytes: int
) -> tuple[JsonDocument | None, tuple[Problem, ...], Node | None]:
    _, problems = read_text(data, path, max_bytes)
    if problems:
        return None, tuple(problems), None
    try:
        value = strict_json.parse(data, max_bytes=max_bytes)
    except strict_json.InvalidMessage as error:
        found = _JSON_PLACE.search(str(error))
        line, column = (int(found[1]), int(found[2])) if found else (1, 1)
        return None, (Problem(path, line, column, "BadJson", shown(str(error))),), None
    node = read(data, path=path, max_bytes=max_bytes)[0] or _without_places(value)
    document, problems = _json_document(value, node, path)
    return document, tuple(problems), node


def _json_document(value: Any, node: Node, path: str) -> tuple[JsonDocument | None, list[Problem]]:
    name = value.get("kind") if isinstance(value, dict) else None
    kind = JSON_KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        message = f"{_what(name)} is not a kind of JSON document"
        hint = nearest(name, JSON_KINDS) if isinstance(name, str) else ""
        choice = "one of " + ", ".join(JSON_KINDS)
        return None, [Problem(path, *place(node, ("kind",)), "UnknownKind", message, choice, hint)]
    try:
        if issubclass(kind, BaseModel):
            return kind.model_validate(value, by_alias=True, by_name=False), []
        return messages.from_value(kind, value), []
    except strict_json.InvalidMessage as error:
        return None, [_bad_message(str(error), kind, node, path)]
    except ValidationError as error:
        return None, _problems(error, kind, node, path)


def _bad_message(text: str, kind: type, node: Node, path: str) -> Problem:
    """The problem of a message, placed by the path with which the wire contract's error begins."""
    field = _FIELD.match(text)
    parts = _FIELD_PART.findall(field[1]) if field else []
    loc: list[str | int] = [name or int(index) for name, index in parts]
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        return Problem(path, *place(node, loc), "BadMessage", shown(text))
    name, fields = unknown[1], Expectation(kind, loc).fields
    message = f"unknown field {quoted(name)}{_inside(loc)}"
    where = key_place(node, [*loc, name])
    return Problem(
        path, *where, "UnknownField", message, "one of " + ", ".join(fields), nearest(name, fields)
    )


def _without_places(value: Any) -> Node:
    """Nodes for JSON that cannot be read as YAML (escaped surrogate pairs): right values, no places."""
    node = Node(value)
    if isinstance(value, dict):
        node.children = {name: _without_places(part) for name, part in value.items()}
    elif isinstance(value, list):
        node.items = [_without_places(part) for part in value]
    return node
