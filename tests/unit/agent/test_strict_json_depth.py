"""How deep a JSON text nests is judged before it is parsed: by its brackets, not by those in its strings."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule_agent.protocol.strict_json import MAX_DEPTH, InvalidMessage, parse

TEXTS = st.text(st.sampled_from('[]{}"\\ a\n'), max_size=30)


def nested(depth: int, inner: str) -> bytes:
    return ("[" * depth + json.dumps(inner) + "]" * depth).encode()


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_brackets_in_strings_do_not_count(inner: str) -> None:
    assert parse(nested(MAX_DEPTH, inner)) is not None
    with pytest.raises(InvalidMessage, match="nested deeper"):
        parse(nested(MAX_DEPTH + 1, inner))


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_any_text_is_read_or_refused(text: str) -> None:
    data = ("[" * (MAX_DEPTH + 1) + text).encode()
    with pytest.raises(InvalidMessage):
        parse(data)


def test_a_string_without_end_costs_no_more_than_its_length() -> None:
    data = b"[" * (MAX_DEPTH + 1) + b'"' + b'\\"' * 100_000
    began = time.process_time()
    with pytest.raises(InvalidMessage):
        parse(data)
    assert time.process_time() - began < 1.0
