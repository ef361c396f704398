"""What a type expects at one place, in words: read from the schema that is published for editors.

Called by codec.validation for messages of problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capsule.documents.scalars import DURATION, INSTANT, LOCAL_TIME, NAME, WORD
from capsule.documents.schemas import schema_of

_FORMS = {
    DURATION: 'a duration such as "30s", "5m", "24h" or "90d"',
    INSTANT: 'a time in UTC such as "2026-11-30T00:00:00Z"',
    LOCAL_TIME: 'a local time such as "2026-12-20T00:00"',
    NAME: 'a name of lower-case letters, digits and "-", at most 63 characters',
    WORD: 'a word of ASCII letters and digits, such as "rotateKey"',
    r"^sha256:[0-9a-f]{64}$": '"sha256:" and 64 hex digits',
    r"^[0-9a-f]{40}$": "40 hex digits",
    r"^ssh-ed25519 [A-Za-z0-9+/]{68}( .{0,200})?$": (
        'an OpenSSH public key of type ssh-ed25519, the only one that works: "ssh-ed25519 AAAA…"'
    ),
    r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$": 'letters, digits, "-", "_" or ".", at most 63',
    r"^[^\s@<>]+@[^\s@<>]+$": "a mail address",
}
_TYPES = {"boolean": "true or false", "object": "a mapping", "array": "a list", "null": "null"}


def form(pattern: str) -> str:
    """What a regular expression of the types asks for, in words; empty when it has none."""
    return _FORMS.get(pattern, "")


def describe(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """What `schema`, a part of the published schema `root`, takes, for a person."""
    found = dict.fromkeys(_option_text(option) for option in _options(schema, root))
    return " or ".join(text for text in found if text)


class Expectation:
    """The schema at one place of a document of type `kind`; `loc` is a path of names and indices."""

    def __init__(self, kind: type, loc: Sequence[str | int] = ()) -> None:
        self._root = schema_of(kind)
        self._schema: dict[str, Any] = self._root
        for part in loc:
            self._schema = self._step(part)

    @property
    def fields(self) -> tuple[str, ...]:
        """The keys a mapping may have here; empty when it takes any name."""
        found: dict[str, None] = {}
        for option in _options(self._schema, self._root):
            found |= dict.fromkeys(option.get("properties", ()))
        return tuple(found)

    @property
    def words(self) -> tuple[str, ...]:
        """The texts allowed here, when they can be listed."""
        found: list[str] = []
        for option in _options(self._schema, self._root):
            found += option.get("enum", [option["const"]] if "const" in option else [])
        return tuple(found)

    @property
    def takes_text(self) -> bool:
        """Whether any text at all may stand here."""
        return any(option.get("type") == "string" for option in _options(self._schema, self._root))

    def text(self) -> str:
        """What is expected here, for a person."""
        return describe(self._schema, self._root)

    def _step(self, part: str | int) -> dict[str, Any]:
        for option in _options(self._schema, self._root):
            for child in (
                option.get("properties", {}).get(part),
                option.get("items") if isinstance(part, int) else None,
                *option.get("patternProperties", {}).values(),
                option.get("additionalProperties"),
            ):
                if isinstance(child, dict):
                    return _resolve(child, self._root)
        return {}


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target: dict[str, Any] = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        return target
    return schema


def _options(schema: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]]:
    return [_resolve(option, root) for option in schema.get("anyOf", [schema])]


def _option_text(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return "one of " + ", ".join(f'"{word}"' for word in schema["enum"])
    kind = schema.get("type", "")
    if kind == "string":
        if "pattern" in schema:
            return form(schema["pattern"]) or schema.get("description", "text of another form")
        return "text" + _bounds(schema, "minLength", "maxLength", " characters")
    if kind == "integer":
        return "an integer" + _bounds(schema, "minimum", "maximum", "")
    bounds = _bounds(schema, "minItems", "maxItems", " entries") or _bounds(
        schema, "minProperties", "maxProperties", " entries"
    )
    return _TYPES.get(kind, "") + bounds


def _bounds(schema: dict[str, Any], least: str, most: str, unit: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if low is not None and high is not None:
        return f" of {low} to {high}{unit}"
    if high is not None:
        return f" of at most {high}{unit}"
    return f" of at least {low}{unit}" if low is not None else ""
