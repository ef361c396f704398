"""The trail: first parents from the tip to the root, filtered, in pages, whatever a commit holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.trust.objects import MissingObject
from capsule.view.trail import on_trail, trail, trail_page
from tests.web.chronicle import Chronicle

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def story() -> Chronicle:
    """Ten facts, one an hour; every third is about a, the others about b."""
    story = Chronicle(NOW, {})
    for at in range(10):
        story.now += timedelta(hours=1)
        trailers = {
            "Capsule-Service": "b" if at % 3 else "a",
            "Capsule-Action": "rotateKey" if at % 2 else "probe",
        }
        story.record({f"status/{at}.txt": b"x"}, f"fact {at}", trailers)
    return story


def _subjects(story: Chronicle, **filters: object) -> list[str]:
    return [row.subject for row in trail(story.store, story.ref(AUDIT), story.root, **filters)]


def test_newest_first_down_to_the_root(story: Chronicle) -> None:
    assert _subjects(story) == [f"fact {at}" for at in range(9, -1, -1)]
    first = next(trail(story.store, story.ref(AUDIT), story.root))
    assert (first.commit, first.at, first.author) == (
        story.ref(AUDIT),
        NOW + timedelta(hours=10),
        "reconciler-1",
    )
    assert first.trailers == {"Capsule-Service": ("a",), "Capsule-Action": ("rotateKey",)}


def test_filters(story: Chronicle) -> None:
    assert _subjects(story, service="a") == ["fact 9", "fact 6", "fact 3", "fact 0"]
    assert _subjects(story, service="a", action="probe") == ["fact 6", "fact 0"]
    assert _subjects(story, since=NOW + timedelta(hours=9)) == ["fact 9", "fact 8"]
    assert _subjects(story, limit=2, service="b") == ["fact 8", "fact 7"]


def test_pages_follow_each_other_and_end(story: Chronicle) -> None:
    start: str | None = story.ref(AUDIT)
    seen = []
    while start:
        page = trail_page(story.store, start, story.root, limit=4, search=100)
        seen.append([row.subject for row in page.rows])
        start = page.following
    assert [len(rows) for rows in seen] == [4, 4, 2]


def test_a_page_that_ends_at_the_root_has_none_behind_it(story: Chronicle) -> None:
    assert trail_page(story.store, story.ref(AUDIT), story.root, limit=10, search=100).following is None


def test_a_search_is_bounded(story: Chronicle) -> None:
    page = trail_page(story.store, story.ref(AUDIT), story.root, limit=4, search=3, service="nobody")
    assert (page.rows, page.searched) == ((), 3)
    assert page.following


def test_only_commits_of_the_trail_within_reach_are_on_it(story: Chronicle) -> None:
    rows = [row.commit for row in trail(story.store, story.ref(AUDIT), story.root)]
    assert on_trail(story.store, rows[0], story.root, rows[4], 10)
    assert not on_trail(story.store, rows[0], story.root, rows[4], 4)
    assert not on_trail(story.store, rows[0], story.root, "f" * 40, 100)


def test_one_malformed_commit_hides_nothing_behind_it(story: Chronicle) -> None:
    tip = story.ref(AUDIT)
    lines = story.store.read(tip)[1].split(b"\n")
    tree = lines[0]
    author = next(line for line in lines if line.startswith(b"author "))
    twice = b"\n".join([tree, b"parent " + tip.encode(), author, author, b"", b"two authors", b""])
    bad = story.store.put("commit", twice)
    rows = list(trail(story.store, bad, story.root))
    assert rows[0].subject.startswith("unreadable commit: ")
    assert [row.subject for row in rows[1:]] == _subjects(story)


def test_history_that_never_meets_the_root_ends_where_it_begins(story: Chronicle) -> None:
    assert list(trail(story.store, story.ref(AUDIT), "f" * 40))[-1].subject == "Begin"


def test_a_clone_that_ends_before_the_root_says_so_whatever_is_looked_for(story: Chronicle) -> None:
    rows = list(trail(story.store, story.ref(AUDIT), story.root))
    story.store.remove([row.commit for row in rows[4:]])
    for filters in ({}, {"service": "a"}, {"service": "nobody"}):
        last = list(trail(story.store, story.ref(AUDIT), story.root, **filters))[-1]
        assert (last.commit, last.at) == (rows[4].commit, rows[3].at)
        assert last.subject == "not in this clone: this commit, and what was before it"
    page = trail_page(story.store, story.ref(AUDIT), story.root, limit=100, search=100)
    assert (len(page.rows), page.following) == (5, None)
    with pytest.raises(MissingObject):
        next(trail(story.store, rows[4].commit, story.root))


def test_a_row_that_takes_in_main_says_what_of(story: Chronicle) -> None:
    for subject in ("Merge request/20261101-rotate-chat-a1b2\n\nMore of it", "x" * 300):
        merged = story.commit({"README.md": subject}, subject)
        story.record({}, f"take in main {merged[:12]}")
    rows = list(trail(story.store, story.ref(AUDIT), story.root, limit=3))
    assert [row.about for row in rows] == ["x" * 99 + "…", "Merge request/20261101-rotate-chat-a1b2", ""]
    page = trail_page(story.store, story.ref(AUDIT), story.root, limit=1, search=10)
    assert page.rows == tuple(rows[:1])
    story.store.remove([story.ref(MAIN)])
    assert next(trail(story.store, story.ref(AUDIT), story.root)).about == ""


def test_a_row_that_only_says_so_takes_in_nothing(story: Chronicle) -> None:
    story.record({}, "take in main 0123456789ab")
    assert next(trail(story.store, story.ref(AUDIT), story.root)).about == ""
