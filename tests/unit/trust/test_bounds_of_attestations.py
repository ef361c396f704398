"""What reviews at a forge say, and what is said of them: each test stands for one check of attestations."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.codec import emit
from capsule.documents.types import Attestation, Policy
from capsule.trust import attestations
from capsule.trust.attestations import awaits_reviews
from capsule.trust.requests import judge_requests
from tests.evidence_history import ACCOUNTS, HEAD, SERVER, Desk, files_of, policy_of, review
from tests.trust_history import DEFAULT_RULES, History, request_text
from tests.unit.worlds import request

FORGE, SIGNED, FREE = (
    "{match: {action: a}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    "evidence: forge}",
    "{match: {action: b}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}]}",
    "{match: {action: c}, mayRequest: [operators], approvals: [], evidence: forge}",
)


def _policy(*rules: str) -> Policy:
    files = files_of(policy_of("forge", rules=(*rules, *DEFAULT_RULES)))
    return History.begun(files).judged().policy.document


@pytest.mark.parametrize(
    ("rules", "awaits"), [((FORGE, SIGNED), True), ((SIGNED,), False), ((SIGNED, FREE), False)]
)
def test_reviews_are_asked_for_where_any_rule_takes_them_as_approvals(
    rules: tuple[str, ...], awaits: bool
) -> None:
    named = {f"service-{at}": rule for at, rule in enumerate(_policy(*rules).spec.rules[: len(rules)])}
    assert awaits_reviews(request(verdict="proposed", rules=named)) == awaits


def test_an_attestation_has_at_most_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk.of("forge")
    desk.squash()
    size = len(emit(desk.attest(review("bob"))))
    monkeypatch.setattr(attestations, "MAX_BYTES", size)
    assert isinstance(desk.attest(review("bob")), Attestation)
    monkeypatch.setattr(attestations, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"of {size} bytes, expected at most {size - 1}"):
        desk.attest(review("bob"))


def _message(desk: Desk, *reviews: Any, **said: Any) -> str:
    desk.squash()
    desk.attest(*reviews, **said)
    return desk.seen().message


def test_which_forge_the_settings_name_is_told() -> None:
    message = _message(Desk.of("forge"), review("bob"), repository="acme/other")
    assert message.endswith(f"the settings name {SERVER}")


def test_which_commit_was_reviewed_is_told() -> None:
    message = _message(Desk.of("forge"), review("bob", commit="cd" * 20))
    assert message.endswith(f"bob reviewed {'cd' * 6}, merged was {HEAD[:12]}")
    message = _message(Desk.of("forge"), review("bob", commit=None))
    assert "bob reviewed a commit that the forge does not name" in message


def test_targets_that_were_begun_may_differ_and_no_others() -> None:
    raw = request_text(targets=("openai-chat", "mailer"))
    for begun, reason in ((["mailer"], ""), (["openai-chat"], "TargetsChanged"), ([], "TargetsChanged")):
        desk = Desk.of("forge")
        desk.raw = raw
        desk.squash()
        digest = desk.history.target_digests()["openai-chat"]
        told = desk.attest(review("bob"), targets={"openai-chat": digest})
        found = judge_requests(
            desk.history, desk.history.judged(), attestations={"r1": [told]}, begun={"r1": begun}
        )
        assert [each.reason for each in found["r1"].approvals] == [reason]


def test_what_strangers_say_without_deciding_is_not_recorded() -> None:
    desk = Desk.of("forge")
    desk.squash()
    found = desk.attest(review("carol", "commented"), review(999, "commented"), review(998))
    assert [each.user for each in found.spec.reviews] == [ACCOUNTS["carol"], 998]
