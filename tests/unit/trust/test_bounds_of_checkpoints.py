"""What a checkpoint must be to the byte: each test stands for one check of reading one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from capsule.trust.checkpoints import MAX_BYTES, BadCheckpoint, Statement, read_checkpoint

STATEMENT = Statement("a" * 40, "b" * 40, "c" * 40, 2, 1, datetime(2026, 11, 23, 13, tzinfo=UTC))
LINE = STATEMENT.to_line()
BEGIN = b"-----BEGIN SSH SIGNATURE-----"


def _refused(data: bytes) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        read_checkpoint(data)
    assert caught.value.reason == "CheckpointInvalid"
    return str(caught.value)


def test_a_line_without_a_signature_is_no_checkpoint() -> None:
    assert "an SSH signature below it" in _refused(LINE)
    assert "an SSH signature below it" in _refused(LINE + b"x")


def test_a_signature_of_nothing_is_no_checkpoint() -> None:
    _refused(BEGIN)


def test_a_checkpoint_has_at_most_so_many_bytes() -> None:
    longest = (LINE + BEGIN).ljust(MAX_BYTES, b"\n")
    assert read_checkpoint(longest).statement == STATEMENT
    assert "expected one line of JSON" in _refused(longest + b"\n")


def test_the_names_of_the_fields_alone_are_no_statement() -> None:
    names = b'["apiVersion","at","branch","commit","count","kind","main","operations","repository"]\n'
    assert "expected exactly the fields" in _refused(names + BEGIN)


@pytest.mark.parametrize("name", ["repository", "commit", "main"])
@pytest.mark.parametrize("value", [b"5", b"null", b'"abc"'])
def test_an_id_is_a_text_of_40_hex_digits(name: str, value: bytes) -> None:
    other = {"repository": b"a", "commit": b"b", "main": b"c"}[name] * 40
    assert "ids of 40 hex digits" in _refused(LINE.replace(b'"' + other + b'"', value) + BEGIN)


def test_a_time_is_a_text() -> None:
    assert "time in UTC" in _refused(LINE.replace(b'"2026-11-23T13:00:00Z"', b"5") + BEGIN)
