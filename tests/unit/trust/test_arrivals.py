"""When bytes came to main, beside the plain walk that looks at every step for every file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.trust import arrivals as walk
from capsule.trust import objects
from capsule.trust.arrivals import Arrivals
from tests.trust_history import History

PATHS = (
    "requests/2026/11/a/request.yaml",
    "requests/2026/11/b/request.yaml",
    "requests/2026/10/c/x",
    "README.md",
)
FOLDERS = ("requests/2026/11", "requests/2026/10", "requests/2026/11/a", "requests/nothing")
STEPS = st.lists(
    st.dictionaries(st.sampled_from(PATHS), st.sampled_from([b"1", b"2", None]), max_size=3), max_size=8
)


def plainly(history: History, tip: str, path: str, oid: str, most: int = 10_000) -> str | None:
    """The step since which the path holds it: one step after the other, for this path alone."""
    found: str | None = None
    at: str | None = tip
    for _ in range(most + 1):
        raw = objects.raw_commit(history, at) if at else b""
        entry = objects.find(history, objects.tree_of(raw), path) if raw else None
        if entry is None or entry.oid != oid:
            return found
        found, at = at, next(iter(objects.parents_of(raw)), None)
    return None


def held(history: History, tip: str) -> set[tuple[str, str]]:
    """Every path with what it holds anywhere in the history, as questions to be asked at any step."""
    found = set()
    at: str | None = tip
    while at:
        raw = objects.raw_commit(history, at)
        tree = objects.tree_of(raw)
        entries = ((path, objects.find(history, tree, path)) for path in (*PATHS[:-1], *FOLDERS))
        found |= {(path, entry.oid) for path, entry in entries if entry}
        at = next(iter(objects.parents_of(raw)), None)
    return found


LOOKS = st.lists(st.integers(0, 8), min_size=1, max_size=6)


@given(steps=STEPS, looks=LOOKS, most=st.sampled_from([2, 10_000]))
def test_it_is_told_as_by_the_plain_walk(
    steps: list[dict[str, bytes | None]], looks: list[int], most: int
) -> None:
    """From whatever tip after whatever other one, and no further back than it counts."""
    history = History.begun({"README.md": b"0"})
    tips = [history.root, *(history.step(step) for step in steps)]
    asked = sorted(held(history, tips[-1]))
    arrivals = Arrivals(history)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "MAX_STEPS", most)
        for look in looks:
            tip = tips[min(look, len(tips) - 1)]
            for path, oid in asked:
                expected = plainly(history, tip, path, oid, most)
                assert arrivals.of(tip, path, oid) == expected, (path, oid)
                known = tips[: tips.index(tip) + 1]
                since = known[known.index(expected) :] if expected else []
                assert [each for each in tips if arrivals.since_holds(tip, path, oid, each)] == since


def test_a_later_tip_costs_its_new_steps_alone() -> None:
    history = History.begun({"README.md": b"0"})
    history.step({PATHS[0]: b"1"})
    blob = objects.find(history, objects.tree_of(objects.raw_commit(history, history.tip)), PATHS[0])
    assert blob
    for at in range(50):
        history.step({"README.md": b"%d" % at})
    arrivals = Arrivals(history)
    first = arrivals.of(history.tip, PATHS[0], blob.oid)
    history.step({PATHS[1]: b"1"})
    before = history.reads
    assert arrivals.of(history.tip, PATHS[0], blob.oid) == first is not None
    assert history.reads - before < 12


def test_a_change_of_mode_alone_is_no_arrival() -> None:
    """Whoever makes a file executable makes no approval in it a later one."""
    history = History.begun({PATHS[0]: b"1"})
    tree = objects.tree_of(objects.raw_commit(history, history.tip))
    entry = objects.find(history, tree, PATHS[0])
    assert entry
    other = history.step({PATHS[0]: None}, special={PATHS[0]: (b"100755", entry.oid)})
    assert other == history.tip
    assert Arrivals(history).of(history.tip, PATHS[0], entry.oid) == history.root


def test_what_cannot_be_read_tells_nothing_and_spoils_nothing() -> None:
    history = History.begun({"README.md": b"0"})
    good = history.step({PATHS[0]: b"1"})
    entry = objects.find(history, objects.tree_of(objects.raw_commit(history, good)), PATHS[0])
    assert entry
    arrivals = Arrivals(history)
    assert arrivals.of(good, PATHS[0], entry.oid) == good
    blob = entry.oid
    assert arrivals.of(blob, PATHS[0], entry.oid) is None  # no commit
    assert arrivals.of(good, PATHS[0], entry.oid) == good
    assert Arrivals(history).of(blob, PATHS[0], entry.oid) is None


def test_main_is_walked_back_no_further_than_to_what_is_asked() -> None:
    history = History.begun({"README.md": b"0"})
    for at in range(50):
        history.step({"README.md": b"%d" % at})
    brought = history.step({PATHS[0]: b"1"})
    entry = objects.find(history, objects.tree_of(objects.raw_commit(history, brought)), PATHS[0])
    assert entry
    before = history.reads
    assert Arrivals(history).of(brought, PATHS[0], entry.oid) == brought
    assert history.reads - before < 15


def test_a_tip_that_is_far_ahead_is_not_walked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_STEPS", 3)
    history = History.begun({PATHS[0]: b"1"})
    entry = objects.find(history, objects.tree_of(objects.raw_commit(history, history.tip)), PATHS[0])
    assert entry
    arrivals = Arrivals(history)
    assert arrivals.of(history.tip, PATHS[0], entry.oid) == history.root
    for at in range(40):
        history.step({"README.md": b"%d" % at})
    before = history.reads
    assert arrivals.of(history.tip, PATHS[0], entry.oid) is None
    assert history.reads - before < 40


def test_what_is_remembered_over_many_tips_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_REMEMBERED", 10)
    history = History.begun({"README.md": b"0"})
    arrivals = Arrivals(history)
    for at in range(30):
        brought = history.step({f"requests/2026/11/r{at}/request.yaml": b"1"})
        assert arrivals.since_holds(
            brought, f"requests/2026/11/r{at}/request.yaml", _id_of(history, at), brought
        )
        assert sum(len(each) for each in vars(arrivals).values() if isinstance(each, dict)) < 20


def _id_of(history: History, number: int) -> str:
    tree = objects.tree_of(objects.raw_commit(history, history.tip))
    entry = objects.find(history, tree, f"requests/2026/11/r{number}/request.yaml")
    assert entry
    return entry.oid
