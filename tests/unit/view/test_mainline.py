"""A main that was rewound is noticed at the first look, by what audit recorded; garbage there is not."""

from __future__ import annotations

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.store.api import RefUpdate
from capsule.trust.objects import read_commit
from capsule.view.build import SnapshotCache, snapshot
from capsule.view.mainline import judged_main
from tests.web.chronicle import Chronicle
from tests.web.integration_services import integration_services


@pytest.fixture
def story() -> Chronicle:
    return integration_services()


def observed(story: Chronicle, revision: str, who: str = "reconciler-1") -> str:
    edits = story.status("services/other.yaml", "UNKNOWN", "NeverSeen")
    return story.record(edits, "observed", {"Capsule-Revision": revision}, who)


def rewind(story: Chronicle) -> tuple[str, str]:
    """Main taken back by a commit and grown again; the old tip and the new one."""
    before = story.ref(MAIN)
    old = story.commit({"notes.txt": "one"}, "One")
    observed(story, old)
    story.store.publish([RefUpdate(MAIN, old, before)])
    return old, story.commit({"notes.txt": "another"}, "Another")


def suspended(story: Chronicle, cache: SnapshotCache | None = None) -> str:
    return snapshot(story.store, story.store.refs(), story.root, story.now, cache).suspended


def test_a_rewound_main_is_shown_at_the_first_look_and_after_it(story: Chronicle) -> None:
    cache = SnapshotCache()
    assert suspended(story, cache) == ""
    old, new = rewind(story)
    assert suspended(story)
    assert suspended(story, cache)
    state = judged_main(story.store, story.root, new, story.ref(AUDIT)).state
    assert state.suspended
    assert (state.suspended.reason, state.tip) == ("HistoryRewritten", old)
    story.commit({"notes.txt": "third"}, "Third")
    assert suspended(story, cache)
    main, audit = story.ref(MAIN), story.ref(AUDIT)
    assert judged_main(story.store, story.root, main, audit, known=state).state.suspended


def test_the_old_tip_pushed_back_ends_it(story: Chronicle) -> None:
    old, new = rewind(story)
    cache = SnapshotCache()
    assert suspended(story, cache)
    story.store.publish([RefUpdate(MAIN, new, old)])
    assert suspended(story, cache) == ""


def test_a_main_that_went_on_is_no_other_one(story: Chronicle) -> None:
    observed(story, story.ref(MAIN))
    assert suspended(story) == ""
    story.commit({"notes.txt": "one"}, "One")
    assert suspended(story) == ""


@pytest.mark.parametrize("garbage", ["0" * 40, "f00", "refs/heads/main", "tree", "orphan"])
def test_a_revision_that_is_none_is_passed_over(story: Chronicle, garbage: str) -> None:
    story.commit({"notes.txt": "one"}, "One")
    special = {"tree": lambda: read_commit(story.store, story.ref(MAIN)).tree, "orphan": story.orphan}
    observed(story, special[garbage]() if garbage in special else garbage)
    assert suspended(story) == ""


@pytest.mark.parametrize("who", ["alice", "mallory"])
def test_only_a_machine_of_the_policy_is_believed(story: Chronicle, who: str) -> None:
    _, new = rewind(story)
    story.store.publish([RefUpdate(AUDIT, story.ref(AUDIT), story.root)])
    observed(story, story.commit({"notes.txt": "gone"}, "Gone"), who)
    story.store.publish([RefUpdate(MAIN, story.ref(MAIN), new)])
    assert suspended(story) == ""
