"""How the fuzzers run: each property briefly with every test run, and for long in `make soak`.

Rules kept: inputs are right samples, spoiled (structure first, then bytes), and noise; an example may take
little CPU time and a property little memory, whatever else the machine does. The short run gives the same
inputs every time; the long one takes CAPSULE_FUZZ_SECONDS (60) for each property, each round with another
seed, which it prints.
Called by the tests beside it.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

settings.register_profile(
    "fuzz-short",
    max_examples=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "fuzz-long",
    settings.get_profile("fuzz-short"),
    max_examples=2000,
    derandomize=False,
    phases=(Phase.generate, Phase.target, Phase.shrink),
)

LONG_SECONDS = float(os.environ.get("CAPSULE_FUZZ_SECONDS", "60"))
MOST_CPU_SECONDS = 2.0
"""CPU seconds that one example may take."""
MOST_GROWTH = 192 * 1024
"""KiB by which the process may grow while a property runs."""

Property = Callable[..., None]


def fuzz(**strategies: st.SearchStrategy[Any]) -> Callable[[Property], Callable[..., None]]:
    """A test that gives `strategies` to a property: briefly, and (marked soak) for long."""

    def decorate(check: Property) -> Callable[..., None]:
        @pytest.mark.parametrize("run", [_short, pytest.param(_long, marks=pytest.mark.soak)], ids=_run_name)
        def test(run: Callable[[Property, Mapping[str, st.SearchStrategy[Any]]], None]) -> None:
            _draw_a_text()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            run(check, strategies)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < MOST_GROWTH, f"{grown} KiB more memory"

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return decorate


@settings(max_examples=1, database=None, derandomize=True, deadline=None)
@given(st.text())
def _draw_a_text(_: str) -> None:
    """Hypothesis makes its table of all characters at the first text: that growth is no property's."""


def _run_name(run: Callable[..., None]) -> str:
    return run.__name__.strip("_")


def _short(check: Property, strategies: Mapping[str, st.SearchStrategy[Any]]) -> None:
    settings.get_profile("fuzz-short")(_of(check, strategies))()


def _long(check: Property, strategies: Mapping[str, st.SearchStrategy[Any]]) -> None:
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end:
        number = random.SystemRandom().getrandbits(64)
        print(f"{check.__name__}: seed {number}", file=sys.stderr)
        settings.get_profile("fuzz-long")(seed(number)(_of(check, strategies)))()


def _of(check: Property, strategies: Mapping[str, st.SearchStrategy[Any]]) -> Callable[[], None]:
    """`check`, failing where it takes too much of the processor (not of the clock: others use that too)."""

    @given(st.fixed_dictionaries(dict(strategies)))
    def bounded(values: dict[str, Any]) -> None:
        before = time.thread_time()
        check(**values)
        taken = time.thread_time() - before
        assert taken < MOST_CPU_SECONDS, f"{taken:.1f} s of the processor"

    found: Callable[[], None] = bounded
    return found


# ---- spoiled samples ----------------------------------------------------------------------------

_NOISE = (
    b"\0",
    b"\n",
    b"\r\n",
    b" ",
    b"\xff",
    b"\xc0\xaf",
    b"\xe2\x80\xa8",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"9" * 40,
)


@st.composite
def spoiled(draw: st.DrawFn, samples: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of `samples` after a few edits of bytes, pieces and lines; `words` mean something in its format."""
    data = draw(st.sampled_from(samples))
    tokens = (*words, *_NOISE)
    for edit in draw(st.lists(st.sampled_from(_EDITS), max_size=5)):
        place = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((1, 1, 2, 4, 8, 40, 200)))
        token = draw(st.sampled_from(tokens)) if edit in (_insert, _overwrite) else b""
        other = draw(st.sampled_from(samples)) if edit is _splice else b""
        data = edit(data, place, length, token or other)
    return data


def _insert(data: bytes, at: int, length: int, token: bytes) -> bytes:
    return data[:at] + token * (length if length > 40 else 1) + data[at:]


def _overwrite(data: bytes, at: int, _length: int, token: bytes) -> bytes:
    return data[:at] + token + data[at + len(token) :]


def _flip(data: bytes, at: int, length: int, _token: bytes) -> bytes:
    return data[:at] + bytes(byte ^ (1 << (length % 8)) for byte in data[at : at + 1]) + data[at + 1 :]


def _cut(data: bytes, at: int, length: int, _token: bytes) -> bytes:
    return data[:at] + data[at + length :]


def _twice(data: bytes, at: int, length: int, _token: bytes) -> bytes:
    return data[: at + length] + data[at : at + length] + data[at + length :]


def _end(data: bytes, at: int, _length: int, _token: bytes) -> bytes:
    return data[:at]


def _splice(data: bytes, at: int, length: int, other: bytes) -> bytes:
    return data[:at] + other[at + length - 1 :]


def _line_twice(data: bytes, at: int, _length: int, _token: bytes) -> bytes:
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at) + 1 or len(data)
    return data[:end] + data[start:end] + data[end:]


def _line_gone(data: bytes, at: int, _length: int, _token: bytes) -> bytes:
    start = data.rfind(b"\n", 0, at) + 1
    return data[:start] + data[data.find(b"\n", at) + 1 or len(data) :]


def _line_first(data: bytes, at: int, _length: int, _token: bytes) -> bytes:
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at) + 1 or len(data)
    return data[start:end] + data[:start] + data[end:]


_EDITS = (_insert, _overwrite, _flip, _cut, _twice, _end, _splice, _line_twice, _line_gone, _line_first)


# ---- spoiled JSON -------------------------------------------------------------------------------

_ODD: tuple[Any, ...] = (
    {"": {}},
    None, True, 0, -1, 1.5, 2**53, 10**30, "", "x", "\0", "\u2028", "\U0001f600", "a" * 5000, [], {}, [[]],
    "9999-12-31T23:59:59Z", "0000-00-00T00:00:00Z", "sha256:" + "0" * 64, "0" * 40, "reconciler-1", "approve",
)  # fmt: skip


@st.composite
def spoiled_json(draw: st.DrawFn, samples: Sequence[Any]) -> Any:
    """One of `samples` (JSON values) with a few of its parts replaced, removed, renamed or moved."""
    value = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        paths = list(_paths(value))
        path = draw(st.sampled_from(paths))
        new = draw(st.sampled_from([*_ODD, *(_at(value, other) for other in paths[:20])]))
        value = _changed(value, path, draw(st.sampled_from(("replace", "replace", "remove", "rename"))), new)
    return value


def _paths(value: Any, here: tuple[Any, ...] = ()) -> Any:
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from _paths(part, (*here, name))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def _changed(value: Any, path: tuple[Any, ...], how: str, new: Any) -> Any:
    if not path:
        return new if how == "replace" else value
    name, *rest = path
    if rest:
        part = _changed(value[name], tuple(rest), how, new)
        return value | {name: part} if isinstance(value, dict) else [*value[:name], part, *value[name + 1 :]]
    if isinstance(value, list):
        return [
            *value[:name],
            *([new] if how == "replace" else [new, new] * (how == "rename")),
            *value[name + 1 :],
        ]
    kept = {each: part for each, part in value.items() if each != name}
    return kept | {"replace": {name: new}, "remove": {}, "rename": {str(new)[:80]: value[name]}}[how]
