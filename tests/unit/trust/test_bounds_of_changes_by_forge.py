"""What audit tells of the reviews of changes, and what is recorded of them: a test for each check alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from capsule.documents.codec import emit
from capsule.documents.paths import CHANGES, ChangeFolder
from capsule.trust import change_reviews
from capsule.trust.change_reviews import leading_steps, tells_anew, waits_for_reviews
from capsule.trust.changes import VoidApproval
from capsule.trust.told_changes import ToldOnAudit, told_since
from tests.evidence_history import CHAT, ChangeDesk, review
from tests.trust_history import History, service_text

NEW = service_text(model="gpt-6")


def _desk() -> ChangeDesk:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: NEW})
    return desk


# ---- reading ------------------------------------------------------------------------------------


def test_an_audit_that_has_not_begun_tells_nothing() -> None:
    desk = _desk()
    for audit in (None, desk.history.root):
        told = ToldOnAudit(desk.history, audit)
        assert (told.tree, told.of(desk.history.tip)) == (None, {})


def test_what_was_recorded_at_a_revision_is_read_in_order_from_a_number_on() -> None:
    desk = _desk()
    each = [desk.told(review("bob", after=at)) for at in range(3)]
    desk.record(*each)
    desk.audit.step({f"{ChangeFolder(desk.history.tip).records}/notes.yaml": b"x"}, subject="x")
    told = ToldOnAudit(desk.history, desk.audit.tip)
    for above, numbers in ((0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (3, [])):
        found = told.of(desk.history.tip, above)
        assert list(found) == numbers
        assert list(found.values()) == each[above:]
    assert told.of(desk.history.root) == {}


def _tree(history: History, *told: tuple[str, bytes]) -> str:
    """What audit holds of reviews: bytes at the first place of each revision, or at a path of its own."""
    places = {
        (path if "/" in path else ChangeFolder(path).attestation(1)).removeprefix(f"{CHANGES}/"): data
        for path, data in told
    }
    return history.tree(places)


def test_only_what_bears_on_steps_left_behind_is_looked_at_again() -> None:
    history = History.begun()
    behind, before, tip = (history.step({"README.md": b"%d\n" % at}) for at in range(3))
    old = _tree(history, (before, b"1"))

    def bears(*told: tuple[str, bytes]) -> bool:
        return told_since(history, old, _tree(history, *told), before, tip)

    same = (before, b"1")
    assert not bears(same)
    assert not bears(same, (tip, b"2"))
    assert not bears(same, (f"{CHANGES}/notes.yaml", b"3"))
    assert not bears(same, (ChangeFolder(before).attestation(2), b"2"))
    assert bears(same, (behind, b"4"))
    assert bears(same, (behind, b"4"), (tip, b"2"))
    assert bears((before, b"5"))
    assert told_since(history, old, None, before, tip)
    assert not told_since(history, old, _tree(history, same, (behind, b"4")), tip, behind)


def test_bytes_that_never_were_in_force_are_sought_no_further_back_than_the_root() -> None:
    desk = _desk()
    steps = leading_steps(desk.history, desk.history.tip, CHAT, "f" * 40)
    assert next(steps) == desk.history.tip
    with pytest.raises(VoidApproval, match="was not as it is in force"):
        list(steps)
    with pytest.raises(VoidApproval, match="was not as it is in force"):
        list(leading_steps(desk.history, desk.history.root, CHAT, "f" * 40))
    assert list(leading_steps(desk.history, desk.history.root, CHAT, None)) == [desk.history.root]


# ---- recording ----------------------------------------------------------------------------------


def test_an_attestation_of_a_change_has_at_most_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = _desk()
    size = len(emit(desk.told(review("bob"))))
    monkeypatch.setattr(change_reviews, "MAX_BYTES", size)
    desk.told(review("bob"))
    monkeypatch.setattr(change_reviews, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"of {size} bytes, expected at most {size - 1}"):
        desk.told(review("bob"))


def test_what_is_new_is_recorded_and_comments_and_who_looked_when_are_not() -> None:
    desk = _desk()
    last = desk.told(review("bob"))
    seen = {
        "revision": "f" * 40,
        "reconciler": "reconciler-2",
        "observed_at": last.spec.observed_at + timedelta(hours=1),
    }
    again = last.model_copy(update={"spec": last.spec.model_copy(update=seen)})
    comment = desk.told(review("bob"), review("dave", "commented", after=1))
    assert tells_anew(None, last)
    assert not tells_anew(last, again)
    assert not tells_anew(last, comment)
    assert not tells_anew(comment, last)
    for other in (desk.told(), desk.told(review("bob", "dismissed")), desk.told(review("bob"), number=13)):
        assert tells_anew(last, other)


def test_reviews_are_waited_for_where_they_may_still_let_a_change_in() -> None:
    desk = _desk()
    (change,) = desk.state().pending
    assert (change.reason, change.takes_reviews) == ("ChangeUnsigned", True)
    for reason in ("ChangeUnsigned", "NotEntitled", "Rejected", "ApprovalsMissing"):
        assert waits_for_reviews(replace(change, reason=reason))
        assert not waits_for_reviews(replace(change, reason=reason, takes_reviews=False))
    for reason in ("NoRule", "InvalidDocument", "MergedWhileSuspended"):
        assert not waits_for_reviews(replace(change, reason=reason))


def test_an_account_that_the_policy_gives_nobody_is_named_by_its_number() -> None:
    desk = _desk()
    desk.review(review(999, login="bob"))
    assert "the review of github:999 in" in desk.why()
