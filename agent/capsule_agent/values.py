"""Typed values of the wire: parameters, outputs and config items, as JSON Schema and as checks.

Rules kept: only text, whole numbers and truth values cross the wire; a value is never converted to fit.
JSON Schema dialect: 2020-12. Called by the declarations of an agent, and by execute and report.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from capsule_agent.protocol.strict_json import MAX_INTEGER

Scalar = str | int | bool
MAX_TEXT = 2000
MAX_ITEMS = 64
"""A caller believes at most so many config items, and as many actions, of one agent."""
INVISIBLE = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters to Unicode, nothing to the eye: refused by callers as control characters are."""
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(s|m|h|d)")
_IN_WORDS = {DURATION.pattern: 'expected a duration such as "24h"'}
"""How a pattern that people meet is told to them."""
_TYPES: Mapping[type, str] = {str: "string", int: "integer", bool: "boolean"}


class DeclarationError(ValueError):
    """An agent that was declared wrongly; the text says what was expected. Raised at start, to its author."""


class BadValue(ValueError):
    """A value that does not fit its declaration; the text says what was expected, never the value."""


def is_plain(text: str) -> bool:
    """Whether `text` is one line without a character that a terminal obeys or a reader cannot see."""
    return text.isprintable() and INVISIBLE.isdisjoint(text)


def plain_line(text: str) -> str:
    """`text` as one line, each other character as a space."""
    return "".join(char if is_plain(char) else " " for char in text)


@dataclass(frozen=True, slots=True)
class Field:
    """One declared value.

    `kind` is `str`, `int` or `bool`; `choices` are the only values allowed; `pattern` is a regular
    expression that the whole text matches; `minimum` and `maximum` bound numbers. With a `default`, or
    `required=False`, the value may be left out. `approvals`: how many an order needs that gives it, or that
    leaves it out where there is a default.
    """

    kind: type
    description: str = ""
    choices: tuple[Scalar, ...] = ()
    pattern: str = ""
    minimum: int | None = None
    maximum: int | None = None
    max_length: int = MAX_TEXT
    default: Scalar | None = None
    required: bool = True
    approvals: int = 0

    def __post_init__(self) -> None:
        texts = [self.pattern, *(str(choice) for choice in (*self.choices, self.default) if choice)]
        if not all(is_plain(text) and len(text) <= MAX_TEXT for text in texts):
            raise DeclarationError(
                f"pattern, choices and default: expected one line of at most {MAX_TEXT} characters each"
            )

    @property
    def needed(self) -> bool:
        """Whether the value must be given."""
        return self.required and self.default is None

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the value."""
        found: dict[str, Any] = {"type": _TYPES[self.kind]}
        if self.kind is str and not self.choices:
            found["maxLength"] = self.max_length
        optional = {
            "description": plain_line(" ".join(self.description.split()))[:MAX_TEXT],
            "enum": list(self.choices),
            "pattern": f"^(?:{self.pattern})$" if self.pattern else "",
            "minimum": self.minimum,
            "maximum": self.maximum,
            "default": self.default,
            "x-approvals": self.approvals or None,
        }
        return found | {name: part for name, part in optional.items() if part not in ("", [], None)}

    def check(self, value: object) -> Scalar:
        """`value`, when it fits. Raises BadValue."""
        if type(value) is not self.kind:
            raise BadValue(f"expected {_TYPES[self.kind]}")
        if self.choices and value not in self.choices:
            raise BadValue("expected one of " + ", ".join(str(choice) for choice in self.choices))
        if isinstance(value, str):
            return self._check_text(value)
        assert isinstance(value, int)
        if abs(value) > MAX_INTEGER:
            raise BadValue("expected a number within 53 bits")
        if self.minimum is not None and value < self.minimum:
            raise BadValue(f"expected at least {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise BadValue(f"expected at most {self.maximum}")
        return value

    def _check_text(self, value: str) -> str:
        if len(value) > self.max_length:
            raise BadValue(f"expected at most {self.max_length} characters")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise BadValue(_IN_WORDS.get(self.pattern, f"expected text that matches {self.pattern}"))
        return value


Fields = Mapping[str, Field]


def object_schema(fields: Fields, *, required: bool) -> dict[str, Any]:
    """The JSON Schema of an object with these values and no others; `required`: those without a default."""
    return {
        "type": "object",
        "properties": {name: item.schema() for name, item in fields.items()},
        "required": [name for name, item in fields.items() if required and item.needed],
        "additionalProperties": False,
    }


def check_params(fields: Fields, params: Mapping[str, Any]) -> dict[str, Scalar]:
    """`params` checked against `fields`, defaults filled in. Raises BadValue with the parameter's name."""
    for name in params:
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise BadValue(f"unknown parameter {name[:64]!r}; known: {known}")
    found: dict[str, Scalar] = {}
    for name, item in fields.items():
        if name in params:
            try:
                found[name] = item.check(params[name])
            except BadValue as error:
                raise BadValue(f"parameter {name!r}: {error}") from None
        elif item.default is not None:
            found[name] = item.default
        elif item.required:
            raise BadValue(f"parameter {name!r} is missing")
    return found


def field_of(kind: Any, default: Scalar | None = None, where: str = "value") -> Field:
    """The declaration that a Python annotation means. Raises DeclarationError."""
    if isinstance(kind, Field):
        return kind
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        kinds = {type(choice) for choice in choices}
        if len(kinds) == 1 and kinds <= set(_TYPES):
            return Field(kinds.pop(), choices=choices, default=default)
    elif isinstance(kind, type) and kind in _TYPES:
        return Field(kind, default=default)
    raise DeclarationError(f"{where}: expected str, int, bool, a Literal of these, or a Field")


def fields_of(declared: Mapping[str, Any], where: str) -> dict[str, Field]:
    """Declarations given as a mapping of names to types or Fields. Raises DeclarationError."""
    for name in declared:
        if not WORD.fullmatch(name):
            raise DeclarationError(f"{where}: {name!r} is not a word of ASCII letters and digits")
    return {name: field_of(kind, where=f"{where} {name!r}") for name, kind in declared.items()}


def params_of(function: Callable[..., Any], declared: Fields) -> tuple[bool, dict[str, Field]]:
    """Whether `function` takes the order first, and its parameters: as `declared`, or else as annotated.

    A first parameter called `order` (or without an annotation) is given the order; all others are
    parameters of the action. Raises DeclarationError.
    """
    hints = typing.get_type_hints(function)
    found: dict[str, Field] = {}
    takes_order = takes_all = False
    for at, (name, item) in enumerate(inspect.signature(function).parameters.items()):
        if item.kind in (item.VAR_POSITIONAL, item.POSITIONAL_ONLY):
            raise DeclarationError(f"parameter {name!r}: an action's parameters must be passed by name")
        if item.kind is item.VAR_KEYWORD:
            takes_all = True
        elif name in declared:
            found[name] = declared[name]
        elif at == 0 and item.kind is not item.KEYWORD_ONLY and (name == "order" or name not in hints):
            takes_order = True
        elif name not in hints:
            raise DeclarationError(f"parameter {name!r}: an annotation is missing")
        else:
            default = None if item.default is item.empty else item.default
            found[name] = field_of(hints[name], default, f"parameter {name!r}")
    unknown = declared.keys() - found.keys()
    if unknown and not takes_all:
        raise DeclarationError(f"parameter {min(unknown)!r} is declared, but the function does not take it")
    return takes_order, {**found, **declared}


def outputs_of(function: Callable[..., Any]) -> dict[str, Field]:
    """The outputs that the return annotation (a dataclass or TypedDict) declares; {} for others."""
    kind = typing.get_type_hints(function).get("return")
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)):
        return {}
    return fields_of(typing.get_type_hints(kind), "output")
