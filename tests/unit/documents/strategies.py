"""Hypothesis strategies for every type of document, made from the types and from what their fields allow."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from capsule.documents.problems import FORBIDDEN
from capsule.documents.types import ANY_DOCUMENT

_AWKWARD = st.sampled_from(
    [
        "no",
        "010",
        "1:20",
        "6e12",
        "~",
        "null",
        "true",
        "-",
        "- a",
        "a: b",
        "a #b",
        "# a",
        "'",
        '"',
        "\\",
        "{a",
        "[a",
        "2026-11-23",
        "1.5",
        "<<",
        "=",
        "&a",
        "*a",
        "!t",
        "%x",
        "@x",
        "`x",
        "a\nb",
        "\n",
        " a",
        "a ",
        "a\tb",
        "",
        "é",
        "😀",
        "a,b",
        "a:b",
        "a: ",
        ":",
        "?",
        "? a",
        "|",
        ">",
        "...",
        "---",
        "1.8.2",
        "x" * 400,
        "\u00a0",
        "\u3000",
    ]
)
_VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
_TEXT = st.one_of(_AWKWARD, st.text(max_size=30)).filter(lambda text: not FORBIDDEN.search(text))


@cache
def document(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Documents of one type, with some of the optional fields set."""
    hints = typing.get_type_hints(kind, include_extras=True)
    required = {
        name: _value(hints[name], info.metadata)
        for name, info in kind.model_fields.items()
        if info.is_required()
    }
    optional = {
        name: _value(hints[name], info.metadata)
        for name, info in kind.model_fields.items()
        if not info.is_required()
    }
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind(**fields))


def any_document() -> st.SearchStrategy[Any]:
    """A document of any type."""
    return st.one_of([document(kind) for kind in ANY_DOCUMENT])


def _value(annotation: Any, outer: Iterable[Any] = ()) -> st.SearchStrategy[Any]:
    metadata = list(outer)
    while get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        for part in extra:
            metadata += part.metadata if isinstance(part, FieldInfo) else [part]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of([_value(option, metadata) for option in get_args(annotation)])
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    low = next((part.min_length for part in metadata if isinstance(part, MinLen)), 0)
    high = next((part.max_length for part in metadata if isinstance(part, MaxLen)), 500)
    if origin is tuple:
        return st.lists(_value(get_args(annotation)[0]), min_size=low, max_size=min(high, 3)).map(tuple)
    if origin is Mapping or origin is typing.get_origin(Mapping[str, str]):
        key, value = get_args(annotation)
        return st.dictionaries(_value(key), _value(value), min_size=low, max_size=min(high, 3))
    return _scalar(annotation, metadata, low, high)


def _scalar(annotation: Any, metadata: list[Any], low: int, high: int) -> st.SearchStrategy[Any]:
    if annotation is type(None):
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        least = next((part.ge for part in metadata if isinstance(part, Ge)), -(2**53) + 1)
        most = next((part.le for part in metadata if isinstance(part, Le)), 2**53 - 1)
        return st.integers(typing.cast(int, least), typing.cast(int, most))
    if annotation is timedelta:
        return st.integers(0, 36500 * 86400).map(lambda seconds: timedelta(seconds=seconds))
    if annotation is datetime:
        return _datetime(metadata)
    if annotation is str:
        pattern = next((part.pattern for part in metadata if getattr(part, "pattern", None)), None)
        if pattern is not None:
            texts = st.from_regex(pattern, fullmatch=True, alphabet=_VISIBLE)
            return texts.filter(lambda text: len(text) <= high)
        return _TEXT.filter(lambda text: low <= len(text) <= high)
    return document(annotation)


def _datetime(metadata: list[Any]) -> st.SearchStrategy[datetime]:
    local = any(getattr(getattr(part, "func", None), "__name__", "") == "parse_local" for part in metadata)
    moments = st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1))
    if local:
        return moments.map(lambda value: value.replace(microsecond=0, second=value.second % 2 * 30))
    return moments.map(lambda value: value.replace(tzinfo=UTC))
