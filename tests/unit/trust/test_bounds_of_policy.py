"""What a policy says at its edges: evidence, unknown names, dated keys, and who learns of what."""

from __future__ import annotations

import pytest

from capsule.documents import codec
from capsule.documents.types import Policy
from capsule.trust.policy import missing_approvals, requesters, signer_of
from capsule.trust.policy_checks import load_policy
from capsule.trust.published import signers_document
from capsule_agent.protocol import sshsig
from tests.trust_history import key, policy_text


def rule(evidence: str, count: int = 1, action: str = "rotateKey") -> str:
    return (
        f"{{match: {{action: {action}}}, mayRequest: [operators], "
        f"approvals: [{{team: reviewers, count: {count}}}], evidence: {evidence}}}"
    )


def load(*rules: str) -> Policy:
    return load_policy(policy_text(rules=rules), "policy.yaml")


def test_an_approval_counts_under_a_rule_that_takes_its_evidence_and_no_other() -> None:
    policy = load(rule("signature"), rule("merge"))
    strict, mild = policy.spec.rules
    assert missing_approvals(policy, [mild], {"alice"}, {"bob": "merge"}) == ()
    (missing,) = missing_approvals(policy, [strict], {"alice"}, {"bob": "merge"})
    assert (missing.count, missing.candidates) == (1, ("bob", "dave"))
    assert missing_approvals(policy, [strict], {"alice"}, {"bob": "signature"}) == ()


def test_of_two_rules_that_need_as_many_the_first_names_who_may_still_approve() -> None:
    policy = load(rule("merge", 2), rule("signature", 1))
    (missing,) = missing_approvals(policy, policy.spec.rules, {"alice"}, {"bob": "merge"})
    assert (missing.count, missing.candidates) == (1, ("dave",))


def test_a_name_that_is_no_principal_may_ask_for_nothing() -> None:
    text = policy_text(rules=(rule("signature"),), teams={"operators": ["ghost", "alice"], "reviewers": []})
    policy = codec.load_as(Policy, text, "policy.yaml")
    assert requesters(policy, policy.spec.rules[0]) == {"alice"}


def test_a_key_that_speaks_for_a_while_speaks_for_nobody_where_no_time_is_given() -> None:
    line = f'"{key("bob").public.text}"'
    dated = f'{{key: {line}, validBefore: "2099-01-01T00:00:00Z"}}'
    policy = load_policy(policy_text().decode().replace(line, dated).encode(), "policy.yaml")
    with pytest.raises(sshsig.BadSignature, match="not listed here"):
        signer_of(policy, b"x", key("bob").sign(b"x", "git"), "git")
    assert signer_of(policy, b"x", key("dave").sign(b"x", "git"), "git") == "dave"


def test_who_may_only_break_the_glass_is_listed_as_asking_too() -> None:
    glass = (
        "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
        "breakGlass: {team: oncall}}"
    )
    teams = {"operators": ["alice"], "reviewers": ["bob"], "oncall": ["carol"], "owners": ["dave"]}
    policy = load_policy(policy_text(rules=(glass,), teams=teams), "policy.yaml")
    entries = signers_document(policy, "a" * 40, 1).principals
    assert {name: entry.may for name, entry in entries.items()} == {
        "alice": ("request",),
        "bob": ("approve",),
        "carol": ("request", "break-glass"),
        "reconciler-1": ("order",),
    }
