"""What a policy says, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.types import Policy
from capsule.trust.policy import (
    is_machine,
    is_person,
    is_satisfiable,
    may_approve,
    may_request,
    missing_approvals,
    rule_for_action,
    rules_for_change,
    signer_of,
)
from capsule.trust.policy_checks import InvalidPolicy, load_policy, policy_problems
from capsule.trust.published import allowed_signers, signers_document
from capsule_agent.protocol import sshsig
from tests.trust_history import key, policy_text


def load(**options: Any) -> Policy:
    return load_policy(policy_text(**options), "policy.yaml")


def freeze(start: str, end: str, *, zone: str = "Europe/Berlin", extra: str = "") -> str:
    return (
        f'  freezes:\n    - {{selector: {{env: prod}}, from: "{start}", to: "{end}", timezone: {zone}, '
        f"except: [owners]{extra}}}\n"
    )


PROD = {"env": "prod"}


def test_first_match_decides() -> None:
    policy = load()
    weak = rule_for_action(policy, "rotateKey", {"env": "test"})
    strong = rule_for_action(policy, "rotateKey", {"env": "prod", "team": "x"})
    assert weak is not None
    assert strong is not None
    assert (len(weak.approvals), len(strong.approvals)) == (0, 1)
    assert rule_for_action(policy, "rotateKey", {}) is None
    assert rule_for_action(policy, "unknown", PROD) is None
    star = load(rules=("{match: {action: '*'}, mayRequest: [operators], approvals: []}",))
    assert rule_for_action(star, "anything", {}) is not None
    assert rules_for_change(star, "policy", {}, {}) is None


def test_changes_meet_the_rules_of_both_sides() -> None:
    policy = load()
    assert len(rules_for_change(policy, "service", PROD, PROD) or ()) == 1
    assert len(rules_for_change(policy, "service", PROD, {"env": "test"}) or ()) == 2
    assert len(rules_for_change(policy, "service", None, PROD) or ()) == 1
    assert len(rules_for_change(policy, "service", PROD, None) or ()) == 1
    assert rules_for_change(policy, "service", PROD, {}) is None
    assert rules_for_change(policy, "service", {}, PROD) is None


def test_people_are_counted_and_machines_are_not() -> None:
    rules = (
        "{match: {action: '*'}, mayRequest: [operators], approvals: [{team: reviewers, count: 2}]}",
        "{match: {action: free}, mayRequest: [operators], approvals: []}",
        "{match: {change: service}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}]}",
        "{match: {action: '*'}, mayRequest: [owners], approvals: [{team: reviewers, count: 1}]}",
    )
    teams = {
        "operators": ["alice", "reconciler-1"],
        "reviewers": ["alice", "bob", "carol", "reconciler-1"],
        "owners": ["bob"],
    }
    policy = load(rules=rules, teams=teams)
    rule = policy.spec.rules[0]
    assert is_person(policy, "alice")
    assert not is_person(policy, "reconciler-1")
    assert not is_person(policy, "nobody")
    assert is_machine(policy, "reconciler-1")
    assert not is_machine(policy, "alice")
    assert not is_machine(policy, "nobody")
    assert may_request(policy, rule, "alice")
    asks = [each for each in policy.spec.rules if may_request(policy, each, "reconciler-1")]
    assert asks == [rule]
    assert not may_request(policy, rule, "nobody")
    assert may_approve(policy, rule, "carol")
    assert not may_approve(policy, rule, "reconciler-1")
    assert not may_approve(policy, rule, "dave")
    (missing,) = missing_approvals(policy, [rule, rule], {"alice"}, {"alice", "bob", "reconciler-1", "dave"})
    assert (missing.team, missing.count, missing.candidates) == ("reviewers", 1, ("carol",))
    assert missing_approvals(policy, [rule], {"alice"}, {"bob", "carol"}) == ()


def test_the_largest_need_of_a_team_is_told() -> None:
    rule = (
        "{{match: {{action: a{0}}}, mayRequest: [operators], approvals: [{{team: reviewers, count: {0}}}]}}"
    )
    rules = tuple(rule.format(count) for count in (1, 2, 1))
    policy = load(rules=rules)
    (missing,) = missing_approvals(policy, policy.spec.rules, {"alice"}, set())
    assert missing.count == 2


def test_one_person_in_two_teams_counts_in_each_of_them() -> None:
    both = "approvals: [{team: reviewers, count: 1}, {team: owners, count: 1}]"
    policy = load(rules=(f"{{match: {{action: '*'}}, mayRequest: [operators], {both}}}",))
    assert missing_approvals(policy, policy.spec.rules, {"alice"}, {"bob"}) == ()


def test_rules_that_nobody_can_satisfy() -> None:
    teams = {
        "operators": ["alice"],
        "reviewers": ["alice", "bob"],
        "owners": ["bob"],
        "none": ["reconciler-1"],
    }
    rules = (
        "{match: {action: a}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}]}",
        "{match: {action: b}, mayRequest: [operators], approvals: [{team: reviewers, count: 2}]}",
        "{match: {action: c}, mayRequest: [none], approvals: []}",
        "{match: {action: d}, mayRequest: [operators], approvals: []}",
        "{match: {action: e}, mayRequest: [none], approvals: [{team: reviewers, count: 2}]}",
        "{match: {change: service}, mayRequest: [none], approvals: [{team: reviewers, count: 1}]}",
    )
    policy = load(rules=rules, teams=teams)
    found = [is_satisfiable(policy, rule) for rule in policy.spec.rules]
    assert found == [True, False, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            policy_text(
                principals={"alice": ["x"], "bob": ["x"]},
                teams={"t": []},
                rules=["{match: {action: a}, mayRequest: [t], approvals: []}"],
            ),
            "SharedKey",
        ),
        (policy_text(teams={"operators": ["nobody"], "reviewers": [], "owners": []}), "UnknownPrincipal"),
        (policy_text(teams={"operators": [], "owners": []}), "UnknownTeam"),
        (policy_text(rules=["{match: {}, mayRequest: [owners], approvals: []}"]), "BadMatch"),
        (
            policy_text(freezes=freeze("2026-01-01T00:00", "2026-01-02T00:00", zone="Mars/Olympus")),
            "UnknownTimezone",
        ),
        (
            policy_text(freezes=freeze("2026-01-01T00:00", "2026-01-02T00:00", zone="../etc")),
            "UnknownTimezone",
        ),
        (policy_text(freezes=freeze("0001-01-01T00:00", "2026-01-02T00:00")), "BadWindow"),
        (
            policy_text(freezes=freeze("2026-01-01T00:00", "9999-12-31T23:59", zone="America/New_York")),
            "BadWindow",
        ),
        (policy_text(freezes=freeze("2026-01-02T00:00", "2026-01-02T00:00")), "BadWindow"),
        (policy_text().replace(b'"ssh-ed25519 AAAA', b'"ssh-ed25519 AAAB', 1), "BadKey"),
    ],
)
def test_policies_that_contradict_themselves(text: bytes, reason: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        load_policy(text, "policy.yaml")
    assert {found for found, _ in caught.value.problems} == {reason}


def test_the_same_key_twice_for_one_person_is_no_problem() -> None:
    policy = load(principals={"alice": ["a", "a"], "bob": ["b"], "carol": ["c"], "dave": ["d"]})
    assert policy_problems(policy) == []


def test_signer_of_says_who() -> None:
    policy = load()
    assert signer_of(policy, b"x", key("bob").sign(b"x", "git"), "git") == "bob"
    with pytest.raises(sshsig.BadSignature):
        signer_of(policy, b"x", key("stranger").sign(b"x", "git"), "git")


def test_allowed_signers_binds_keys_to_namespaces_and_drops_patterns() -> None:
    text = policy_text().replace(b"dave@example.com", b"'*@example.com'")
    lines = allowed_signers(load_policy(text, "policy.yaml")).splitlines()
    people = "git,capsule-request@v1,capsule-approval@v1,capsule-signers@v1,capsule-checkpoint@v1"
    assert lines[0] == f'alice,alice@example.com namespaces="{people}" {key("alice").public.text}'
    assert lines[3].startswith("dave namespaces=")
    machines = "git,capsule-order@v1,capsule-heartbeat@v1,capsule-checkpoint@v1"
    assert lines[5].startswith(f'reconciler-1 namespaces="{machines}" ssh-')


def test_signers_document_says_who_may_what() -> None:
    teams = {"operators": ["alice", "bob"], "reviewers": ["bob", "dave"], "owners": ["carol"]}
    signers = signers_document(load(teams=teams), "a" * 40, 7)
    assert (signers.repository, signers.serial) == ("a" * 40, 7)
    assert {name: entry.may for name, entry in signers.principals.items()} == {
        "alice": ("request",),
        "bob": ("request", "approve"),
        "dave": ("approve",),
        "reconciler-1": ("order",),
    }
    assert signers.principals["alice"].keys == (key("alice").public.text,)


def test_a_machine_that_may_ask_is_listed_so() -> None:
    teams = {"operators": ["alice", "reconciler-1"], "reviewers": ["bob"], "owners": ["carol"]}
    policy = load(teams=teams)
    assert signers_document(policy, "a" * 40, 1).principals["reconciler-1"].may == ("order", "request")
    namespaces = "git,capsule-request@v1,capsule-order@v1,capsule-heartbeat@v1,capsule-checkpoint@v1"
    assert f'reconciler-1 namespaces="{namespaces}" ssh-' in allowed_signers(policy)
    teams["reviewers"].append("reconciler-1")
    may = signers_document(load(teams=teams), "a" * 40, 1).principals["reconciler-1"].may
    assert may == ("order", "request")
