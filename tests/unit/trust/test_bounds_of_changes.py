"""Who asks for a change, who lets it in, and by which word: each test stands for one check of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from capsule.documents.digests import bytes_digest
from capsule.trust.changes import (
    ChangeUnit,
    ChangeVerdict,
    DigestPair,
    MergedBy,
    VoidApproval,
    Word,
    is_word,
    judge_change,
    read_word,
    takes,
)
from capsule.trust.policy_checks import load_policy
from tests.trust_history import DEFAULT_RULES, History, key, policy_text, service_text

CHAT, MOVED = "services/openai-chat.yaml", "services/prod/openai-chat.yaml"
OLD, NEW = bytes_digest(service_text()), bytes_digest(service_text(model="gpt-6"))
OTHER = "sha256:" + "0" * 64
PROD, TEST = {"env": "prod"}, {"env": "test"}
POLICY = load_policy(policy_text(), "policy.yaml")


def _unit(paths: Mapping[str, DigestPair] | None = None, **said: Any) -> ChangeUnit:
    values: dict[str, Any] = {"kind": "service", "before": PROD, "after": PROD, **said}
    return ChangeUnit(paths={CHAT: (OLD, NEW)} if paths is None else paths, **values)


def _word(who: str, decision: Any, changes: Mapping[str, DigestPair] | None = None) -> Word:
    return Word(who, decision, {CHAT: (OLD, NEW)} if changes is None else changes, f"{who} {decision}")


def _judged(
    unit: ChangeUnit,
    *words: Word,
    by: str = "alice",
    policy: Any = POLICY,
    now_so: Callable[[str], DigestPair] | None = None,
    **more: Any,
) -> ChangeVerdict:
    return judge_change(policy, unit, {by}, words, now_so or unit.paths.__getitem__, **more)


# ---- who asks -----------------------------------------------------------------------------------


def test_control_what_alice_asks_and_bob_approves_is_let_in() -> None:
    assert _judged(_unit(), _word("bob", "approve")).accepted


def test_a_machine_that_signs_a_commit_asks_for_nothing() -> None:
    verdict = _judged(_unit(), _word("bob", "approve"), by="reconciler-1")
    assert (verdict.reason, verdict.authors) == ("ChangeUnsigned", ())


MIXED = (
    "{match: {change: service, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}]}",
    "{match: {change: service, selector: {env: test}}, mayRequest: [owners], "
    "approvals: [{team: owners, count: 1}]}",
    DEFAULT_RULES[-1],
)


def test_whoever_asks_may_ask_under_the_rules_of_both_sides() -> None:
    policy = load_policy(policy_text(rules=MIXED), "policy.yaml")
    words = (_word("bob", "approve"), _word("carol", "approve"))
    assert _judged(_unit(after=TEST), *words, policy=policy).reason == "NotEntitled"


def test_where_no_rule_asks_for_evidence_none_is_taken() -> None:
    assert not takes("service", (), "merge")
    asked: list[str] = []

    def merged() -> MergedBy | None:
        asked.append("merge")
        return None

    assert _judged(_unit(before={}, after={}), merged=merged).reason == "NoRule"
    assert asked == []


# ---- who says no --------------------------------------------------------------------------------


def test_only_who_may_approve_may_reject() -> None:
    words = (_word("bob", "approve"), _word("mallory", "reject"))
    assert _judged(_unit(), *words).accepted
    assert _judged(_unit(), _word("bob", "approve"), _word("dave", "reject")).reason == "Rejected"


def test_whoever_may_approve_one_side_may_reject_both() -> None:
    teams = {"operators": ["alice"], "reviewers": ["bob", "dave"], "owners": ["alice", "bob", "carol"]}
    policy = load_policy(policy_text(rules=MIXED, teams=teams), "policy.yaml")
    words = (_word("bob", "approve"), _word("dave", "reject"))
    verdict = _judged(_unit(after=TEST), *words, policy=policy)
    assert (verdict.reason, verdict.message) == ("Rejected", "rejected by dave")


# ---- which words count --------------------------------------------------------------------------


def test_a_word_on_a_part_of_what_moves_is_none_on_the_whole() -> None:
    unit = _unit({CHAT: (OLD, None), MOVED: (None, NEW)})
    whole = _word("bob", "approve", unit.paths)
    assert _judged(unit, whole).accepted
    for path, pair in unit.paths.items():
        verdict = _judged(unit, _word("bob", "approve", {path: pair}))
        assert verdict.reason == "ApprovalsMissing"
        assert "the word of bob is about other bytes" in verdict.message


def test_a_word_that_was_used_for_a_part_is_used_up() -> None:
    unit = _unit({CHAT: (OLD, None), MOVED: (None, NEW)})
    word = _word("bob", "approve", unit.paths)
    for path in unit.paths:
        assert _judged(unit, word, spent={(word.digest, path)}).reason == "ApprovalsMissing"
    assert _judged(unit, word, spent={(word.digest, "services/other.yaml"), ("x", CHAT)}).accepted


@pytest.mark.parametrize(
    ("now", "counts"),
    [
        ((OLD, NEW), True),
        ((NEW, NEW), True),
        ((OTHER, NEW), False),
        ((OLD, OTHER), False),
        ((NEW, OLD), False),
    ],
)
def test_a_word_counts_while_all_that_it_names_is_so(now: DigestPair, counts: bool) -> None:
    beside = "services/beside.yaml"
    unit = _unit()
    word = _word("bob", "approve", {CHAT: (OLD, NEW), beside: (OLD, NEW)})
    verdict = _judged(unit, word, now_so={CHAT: (OLD, NEW), beside: now}.__getitem__)
    assert verdict.accepted == counts


# ---- where words lie ----------------------------------------------------------------------------


def _read(path: str, data: bytes, seal: bytes | None, policy: Any = POLICY) -> Word:
    return read_word(policy, History.begun().root, path, data, seal)


def _void(path: str, data: bytes, seal: bytes | None) -> tuple[str, str]:
    with pytest.raises(VoidApproval) as caught:
        _read(path, data, seal)
    return caught.value.reason, str(caught.value)


def _given(who: str, **options: Any) -> tuple[str, bytes, bytes]:
    (path, data), (_, seal) = (
        History.begun().change_word(who, {CHAT: (service_text(), b"new")}, **options).items()
    )
    return path, data or b"", seal or b""


def test_a_word_lies_where_its_change_and_its_name_say() -> None:
    path, data, seal = _given("bob")
    assert _read(path, data, seal).principal == "bob"
    places = ("approvals/bob.json", path.replace("bob", "carol"), f"approvals/{'0' * 64}/bob.json")
    for place in (*places, f"x{path}", f"{path}x"):
        assert _void(place, data, seal)[0] == "ApprovalMisplaced"


def test_only_such_a_place_is_that_of_a_word() -> None:
    path, _, _ = _given("bob")
    assert is_word(path)
    for place in (f"{path}.sig", "approvals/bob.json", CHAT, f"{path}/x", path.upper(), f"{path}\n"):
        assert not is_word(place)


def test_a_word_of_nobody_and_that_of_a_machine_are_told_apart() -> None:
    assert _void(*_given("nobody")) == (
        "UnknownPrincipal",
        f"{_given('nobody')[0]}: the policy lists no principal 'nobody'",
    )
    assert _void(*_given("reconciler-1", signer=key("reconciler-1")))[0] == "MachineApproval"
