"""Changes that reviews at a forge let in, as an auditor reads of them."""

from __future__ import annotations

from capsule.trust.objects import first_parents
from capsule.view.ledger import Ledger
from capsule.view.ledger_rows import LedgerRow
from tests.evidence_history import CHAT, ChangeDesk, review
from tests.trust_history import service_text

OTHER = service_text(model="gpt-6")


def rows(desk: ChangeDesk) -> list[LedgerRow]:
    """All rows, with those that are told at the end."""
    ledger = Ledger(desk.history, desk.history.root, desk.history.tip)
    commits = list(first_parents(desk.history, desk.audit.tip, desk.history.root))[::-1]
    found = [row for commit in commits for row in ledger.step(commit)]
    return [*found, *ledger.unfinished()]


def changed() -> ChangeDesk:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: OTHER})
    desk.audit.step({})
    return desk


def test_a_change_on_a_forges_word_is_an_exception_that_says_who_let_it_in() -> None:
    desk = changed()
    desk.review(review("bob"))
    (row,) = rows(desk)
    assert (row.kind, row.reason, row.service, row.action) == (
        "exception",
        "WeakEvidence",
        "openai-chat",
        "change service",
    )
    assert (row.requested_by, row.approved_by, row.evidence) == ("alice", ("bob",), "forge")
    assert (row.outcome, row.labels) == ("taken over", {"env": "prod"})


def test_settings_on_a_forges_word_are_told_too() -> None:
    desk = ChangeDesk.of()
    settings = desk.history.files["capsule.yaml"].replace(b"maxShare: 100", b"maxShare: 50")
    desk.history.step({"capsule.yaml": settings})
    desk.review(review("bob"), paths=("capsule.yaml",))
    (row,) = rows(desk)
    assert (row.reason, row.service, row.action) == ("WeakEvidence", "", "change settings")


def test_a_change_that_was_signed_is_no_exception() -> None:
    desk = ChangeDesk.of()
    before = desk.history.files[CHAT]
    words = desk.history.change_word("bob", {CHAT: (before, OTHER)})
    desk.history.step({CHAT: OTHER, **words}, by="alice")
    desk.audit.step({})
    assert rows(desk) == []


def test_a_change_whose_reviews_did_not_come_is_told_when_main_goes_on_and_at_the_end() -> None:
    desk = changed()
    (row,) = rows(desk)
    assert (row.reason, row.outcome) == ("ChangeNotAuthorised", "not taken over")
    desk.review(review("carol"))
    desk.history.step({"README.md": b"x"})
    desk.audit.step({})
    found = rows(desk)
    assert [row.reason for row in found] == ["ChangeNotAuthorised", "ChangeNotAuthorised"]
    assert (found[1].approved_by, found[1].evidence) == (("carol",), "forge")
    assert rows(desk)[0].commit != found[1].commit


def test_attestations_of_one_commit_are_heard_by_their_numbers() -> None:
    """The tenth is what was said last; as text it would come before the ninth."""
    desk = changed()
    desk.record(desk.told(), desk.told(review("carol")), number=9)
    desk.history.step({"README.md": b"x"})
    desk.audit.step({})
    assert rows(desk)[-1].approved_by == ("carol",)
