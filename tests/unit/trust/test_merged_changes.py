"""Merges as evidence for changes of services: what they bring into force, alone and with signed words."""

from __future__ import annotations

import pytest

from capsule.trust import merged_changes
from tests.evidence_history import SETTINGS, Desk, files_of, policy_of
from tests.trust_history import Files, History, service_text

PATH = "services/openai-chat.yaml"
MOVED = "services/prod/openai-chat.yaml"
CHANGED = service_text(model="gpt-6")


def rules(count: int = 1) -> tuple[str, ...]:
    asks = f"mayRequest: [operators], approvals: [{{team: reviewers, count: {count}}}], evidence: merge}}"
    return (f"{{match: {{change: service}}, {asks}", f"{{match: {{change: settings}}, {asks}")


def desk(count: int = 1) -> Desk:
    return Desk(History.begun(files_of(policy_of("merge", rules=rules(count)))))


def side(at: Desk, edits: dict[str, bytes | None], who: str = "alice", *parents: str) -> str:
    files: Files = at.history.edited(edits)
    history = at.history
    return history.raw_commit(history.tree(files), parents or [history.tip], email=f"{who}@example.com")


def merged(at: Desk, edits: dict[str, bytes | None]) -> None:
    at.merge("bob", sides=[side(at, edits)], edits=edits)


def test_services_are_changed_added_moved_and_removed() -> None:
    at = desk()
    merged(at, {PATH: CHANGED, "services/new.yaml": service_text("new")})
    state = at.history.judged()
    assert state.pending == ()
    assert state.services["openai-chat"].document.spec.pins == {"model": "gpt-6"}
    merged(at, {PATH: None, MOVED: CHANGED, "services/new.yaml": None})
    state = at.history.judged()
    assert (state.pending, sorted(state.services), state.services["openai-chat"].path) == (
        (),
        ["mailer", "openai-chat"],
        MOVED,
    )


def test_settings_are_changed() -> None:
    at = desk()
    settings = SETTINGS.replace(b"100", b"90")
    merged(at, {"capsule.yaml": settings})
    assert at.history.judged().settings.document.spec.limits.max_share == 90


def test_commits_beside_the_change_have_no_part_in_it() -> None:
    at = desk()
    first = side(at, {PATH: service_text(model="gpt-5.9")})
    second = side(at, {PATH: service_text(model="gpt-5.9"), "README.md": b"By bob.\n"}, "bob", first)
    third = side(at, {PATH: CHANGED, "README.md": b"By bob.\n"}, "alice", second)
    taken_in = side(at, {PATH: CHANGED, "README.md": b"By bob.\n"}, "bob", third, at.history.tip)
    at.merge("bob", sides=[taken_in], edits={PATH: CHANGED, "README.md": b"By bob.\n"})
    assert at.history.judged().services["openai-chat"].since == at.history.tip


def test_two_sides_that_both_wrote_it() -> None:
    """A merge beside main that puts two versions together is written by whoever made it; all are authors."""
    at = desk()
    left = side(at, {PATH: service_text(model="left")})
    right = side(at, {PATH: service_text(model="right")})
    both = side(at, {PATH: CHANGED}, "alice", left, right)
    at.merge("bob", sides=[both], edits={PATH: CHANGED})
    assert at.history.judged().pending == ()
    again = desk()
    left = side(again, {PATH: service_text(model="left")}, "bob")
    right = side(again, {PATH: service_text(model="right")})
    both = side(again, {PATH: CHANGED}, "alice", left, right)
    again.merge("bob", sides=[both], edits={PATH: CHANGED})
    assert "bob merged what they wrote" in again.history.judged().pending[0].message


def test_a_merge_and_a_signed_word_count_together() -> None:
    at = desk(2)
    old = at.history.files[PATH]
    merged(at, {PATH: CHANGED})
    (waiting,) = at.history.judged().pending
    assert (waiting.authors, waiting.approved_by) == (("alice",), ("bob",))
    assert [each.candidates for each in waiting.missing] == [("dave",)]
    at.history.step(at.history.change_word("dave", {PATH: (old, CHANGED)}))
    assert at.history.judged().pending == ()


def test_somebody_entitled_may_propose_what_a_stranger_wrote() -> None:
    at = desk()
    old = at.history.files[PATH]
    words = at.history.change_word("alice", {PATH: (old, CHANGED)}, "propose")
    at.merge("bob", sides=[side(at, {PATH: CHANGED, **words}, "mallory")], edits={PATH: CHANGED, **words})
    assert at.history.judged().pending == ()


def test_two_documents_of_one_name_brought_by_two_merges() -> None:
    at = desk()
    merged(at, {MOVED: CHANGED})
    assert at.history.judged().pending[0].reason == "DuplicateName"
    merged(at, {PATH: None})
    assert [change.reason for change in at.history.judged().pending] == ["ChangeUnsigned"] * 2


def test_a_side_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_changes, "MAX_COMMITS", 2)
    at = desk()
    tip = at.history.tip
    for number in range(3):
        tip = side(at, {PATH: service_text(model=f"gpt-5.{number + 5}")}, "alice", tip)
    tip = side(at, {PATH: CHANGED}, "alice", tip)
    at.merge("bob", sides=[tip], edits={PATH: CHANGED})
    assert "not written on top of the bytes in force" in at.history.judged().pending[0].message


def test_a_malformed_merge_says_nothing() -> None:
    at = desk()
    header = b"author Mallory <mallory@example.com> 1 +0000\n"
    at.merge("bob", sides=[side(at, {PATH: CHANGED})], edits={PATH: CHANGED}, headers=header)
    (waiting,) = at.history.judged().pending
    assert waiting.reason == "ChangeUnsigned"
    assert "duplicate" in waiting.message or "author" in waiting.message
