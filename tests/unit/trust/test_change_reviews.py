"""Reviews of changes: what is asked, what is recorded, how it is found again on audit."""

from __future__ import annotations

import pytest

from capsule.documents.types import Writer
from capsule.trust.change_reviews import (
    leading_steps,
    tells_anew,
    waits_for_reviews,
)
from capsule.trust.changes import VoidApproval
from capsule.trust.evidence import weakest
from capsule.trust.state import PendingChange
from capsule.trust.told_changes import ToldOnAudit, told_since
from tests.evidence_history import ACCOUNTS, CHAT, ChangeDesk, review
from tests.trust_history import service_text

OTHER = service_text(model="gpt-6")


@pytest.fixture
def desk() -> ChangeDesk:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: OTHER})
    return desk


def blob(desk: ChangeDesk, data: bytes) -> str:
    return desk.history.put("blob", data)


# ---- asking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "reason", "waits"),
    [
        (True, "ChangeUnsigned", True),
        (True, "NotEntitled", True),
        (True, "Rejected", True),
        (True, "ApprovalsMissing", True),
        (True, "InvalidDocument", False),
        (False, "ApprovalsMissing", False),
    ],
)
def test_what_reviews_may_mend_waits_for_them(takes: bool, reason: str, waits: bool) -> None:
    change = PendingChange("service", CHAT, None, None, "0" * 40, reason=reason, takes_reviews=takes)
    assert waits_for_reviews(change) is waits


def test_the_steps_that_led_from_what_is_in_force_are_told_newest_first(desk: ChangeDesk) -> None:
    history, first = desk.history, desk.history.tip
    history.step({"README.md": b"x"})
    last = history.step({CHAT: OTHER + b"# more\n"})
    before = blob(desk, service_text())
    assert list(leading_steps(history, last, CHAT, before)) == [last, first]
    assert list(leading_steps(history, last, CHAT, blob(desk, OTHER))) == [last]


def test_bytes_that_never_were_on_main_led_nowhere(desk: ChangeDesk) -> None:
    with pytest.raises(VoidApproval) as caught:
        list(leading_steps(desk.history, desk.history.tip, CHAT, "1" * 40))
    assert caught.value.reason == "NotOnTopOfForce"


def test_a_document_of_the_first_commit_was_written_on_top_of_none(desk: ChangeDesk) -> None:
    history = desk.history
    assert list(leading_steps(history, history.tip, CHAT, None)) == [history.tip, history.root]


def test_something_new_is_told_once(desk: ChangeDesk) -> None:
    first = desk.told(review("bob"))
    spec = first.spec
    assert tells_anew(None, first)
    for same in (
        {"revision": "1" * 40, "reconciler": "reconciler-2", "observed_at": spec.observed_at.replace(hour=9)},
        {"reviews": (*spec.reviews, review("carol", "commented", after=9))},
    ):
        assert not tells_anew(first, first.model_copy(update={"spec": spec.model_copy(update=same)}))
    for other in (
        {"reviews": ()},
        {"head": "1" * 40},
        {"author": 5},
        {"writers": ()},
        {"bases": {CHAT: None}},
    ):
        assert tells_anew(first, first.model_copy(update={"spec": spec.model_copy(update=other)}))


def test_what_is_recorded_is_printable_sorted_and_bounded(desk: ChangeDesk) -> None:
    reviews = (review("bob", login="b\x1b[2Job", after=2), review("dave", after=1))
    told = desk.told(
        *reviews, writers=[Writer(user=7), Writer(email="b\x1b[2J"), Writer(user=3), Writer(user=7)]
    )
    assert [each.user for each in told.spec.reviews] == [ACCOUNTS["dave"], ACCOUNTS["bob"]]
    assert "\x1b" not in told.spec.reviews[1].login + "".join(each.email for each in told.spec.writers)
    assert [each.user for each in told.spec.writers] == [None, 3, 7]
    with pytest.raises(ValueError, match="writers"):
        desk.told(writers=[Writer(email=str(number)) for number in range(501)])
    with pytest.raises(ValueError, match="expected at most"):
        desk.told(writers=[Writer(email=f"{number}{'ä' * 490}") for number in range(500)])


def test_a_change_that_nobody_was_asked_about_has_no_reviews(desk: ChangeDesk) -> None:
    state = desk.state()
    (change,) = state.pending
    assert change.told is None
    assert "(ReviewsUnknown)" in change.message


def test_the_weakest_of_several_kinds() -> None:
    assert weakest(["signature", "merge", "forge"]) == "merge"
    assert weakest([]) is None


# ---- on audit -----------------------------------------------------------------------------------


def test_attestations_are_found_by_revision_and_number(desk: ChangeDesk) -> None:
    desk.review()
    desk.review(review("bob"), number=2)
    told = ToldOnAudit(desk.history, desk.audit.tip)
    tip = desk.history.tip
    assert [len(each.spec.reviews) for each in told.of(tip).values()] == [0, 1]
    assert list(told.of(tip, 1)) == [2]
    assert told.of(desk.history.root) == {}
    assert ToldOnAudit(desk.history, None).of(tip) == {}
    assert ToldOnAudit(desk.history, desk.history.root).of(tip) == {}


def test_an_audit_that_cannot_be_read_tells_nothing(desk: ChangeDesk) -> None:
    history = desk.history
    assert ToldOnAudit(history, history.put("commit", b"junk")).tree is None
    wrong = history.put("tree", b"junk")
    records = history.raw_tree([(b"40000", b"changes", wrong)])
    tree = history.raw_tree([(b"40000", b"records", records)])
    told = ToldOnAudit(history, history.raw_commit(tree, [history.root]))
    assert told.tree == wrong
    assert told.of(history.tip) == {}
    assert not told_since(history, None, wrong, history.root, history.tip)


def test_files_that_are_no_attestations_say_nothing(desk: ChangeDesk) -> None:
    desk.review(review("bob"))
    (path,) = desk.audit.machine
    folder = path.rpartition("/")[0]
    desk.audit.step({f"{folder}/notes.txt": b"x", f"{folder}/attestation-7.yaml": b"x: 1\n"}, subject="x")
    told = ToldOnAudit(desk.history, desk.audit.tip)
    assert list(told.of(desk.history.tip)) == [1]
    tree = told.tree
    assert not told_since(desk.history, None, tree, desk.history.tip, desk.history.tip)
    desk.history.step({"README.md": b"x"})
    assert told_since(desk.history, None, tree, desk.history.tip, desk.history.tip)
    assert told_since(desk.history, tree, None, desk.history.root, desk.history.tip)
    assert desk.state().told == tree
