"""Main as the ledger follows it: the steps that the proof takes, and a request's branch is none of them."""

from __future__ import annotations

from capsule.view.ledger import Ledger
from tests.trust_history import Audit, approved, key
from tests.trust_history import service_text as fixture_service


def test_a_request_taken_in_from_its_branch_is_no_step_of_main() -> None:
    """It was cut from main's tip, so along first parents it leads on from there: what comes after it on main
    must be told all the same."""
    history, _ = approved()
    audit = Audit(history)
    before = history.tip
    branch = history.raw_commit(history.tree(history.files), [before], message="Ask")
    seen = [audit.step({}, by=key("reconciler-1"), branches=[branch], subject="x")]
    history.step({"services/openai-chat.yaml": fixture_service("openai-chat", env="test")}, by=None)
    seen.append(audit.step({}, by=key("reconciler-1"), subject="x"))
    history.step({"policy.yaml": b"broken"}, by=None)
    seen.append(audit.step({}, by=key("reconciler-1"), subject="x"))
    ledger = Ledger(history, history.root, history.tip)
    assert list(ledger.step(seen[0])) == []
    assert ledger.state.tip == before
    assert [row.reason for row in ledger.step(seen[1])] == ["ChangeNotAuthorised"]
    assert [row.reason for row in ledger.step(seen[2])] == ["ChangeNotAuthorised", "MainSuspended"]
    assert ledger.state.tip == history.tip


def test_a_main_that_was_rewound_is_an_exception() -> None:
    history, _ = approved()
    audit = Audit(history)
    gone = history.tip
    first = audit.step({}, by=key("reconciler-1"), subject="x")
    history.tip = history.root
    history.step({"README.md": b"another main"}, by=None)
    second = audit.step({}, by=key("reconciler-1"), subject="x")
    ledger = Ledger(history, history.root, history.tip)
    assert list(ledger.step(first)) == []
    assert ledger.state.tip == gone
    (row,) = ledger.step(second)
    assert (row.reason, row.message.split(":")[0]) == ("MainSuspended", "HistoryRewritten")
