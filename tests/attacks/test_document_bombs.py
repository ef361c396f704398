"""Small texts that unfold, and large ones: refused in bounded time and memory, each with its place."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from capsule.documents import codec
from capsule_agent.protocol import strict_json
from capsule_agent.protocol.strict_json import InvalidMessage

MOST_SECONDS = 2.0
MOST_BYTES = 32 * 1024 * 1024


def refused(data: bytes, path: str = "services/x.yaml") -> str:
    """The reason for which the codec refuses `data`, cheaply."""
    tracemalloc.start()
    before = time.thread_time()
    try:
        document, problems = codec.load(data, path)
        taken, (_, peak) = time.thread_time() - before, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert document is None
    assert taken < MOST_SECONDS
    assert peak < MOST_BYTES
    return problems[0].reason


def test_alias_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 12)]
    assert refused("\n".join(lines).encode()) == "AnchorNotAllowed"


def test_merge_key_bomb() -> None:
    text = b"a: &a {b: 1}\n" + b"".join(b"c%d:\n  <<: [*a, *a, *a]\n" % at for at in range(1000))
    assert refused(text) == "AnchorNotAllowed"


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? ", b"- - "])
def test_deep_nesting(opening: bytes) -> None:
    assert refused(opening * 50_000) in ("TooDeep", "BadSyntax")


def test_deep_nesting_in_json() -> None:
    for text in (b"[" * 200_000, b'{"a":' * 50_000, b'["' * 100_000):
        assert refused(text, "approvals/bob.json") in ("BadJson", "TooDeep", "TooLarge")
        with pytest.raises(InvalidMessage):
            strict_json.parse(text)


def test_huge_scalar() -> None:
    assert refused(b"a: '" + b"x" * 20_000_000 + b"'") == "TooLarge"
    assert refused(b"a: |\n" + b"  line\n" * 3_000_000) == "TooLarge"


def test_huge_number() -> None:
    assert refused(b"apiVersion: capsule/v1\nkind: Policy\nspec: {serial: " + b"9" * 200_000 + b"}\n")
    with pytest.raises(InvalidMessage, match="53 bits"):
        strict_json.parse(b"9" * 200_000)


def test_thousands_of_problems_are_told_as_some() -> None:
    document, problems = codec.load(
        b"".join(b"k%d: !t &a no\n" % at for at in range(10_000)), "services/x.yaml"
    )
    assert document is None
    assert 1 <= len(problems) <= 200
