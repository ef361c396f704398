"""What one record must say of what it rests on: each test stands for one check, alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capsule.trust.record_checks import (
    BadRecord,
    check_acknowledged,
    check_first_claim,
    check_outcome,
    says_as_before,
)
from capsule_agent.protocol.messages import JournalMark, Receipt
from tests.unit.worlds import ROOT, claim, request, result, state

REQUEST = request(approvals=(), evidence="signature")


def _claim_refused(expected: str, **said: Any) -> str:
    judged = replace(REQUEST, **said.pop("request", {}))
    with pytest.raises(BadRecord) as caught:
        check_first_claim(claim(REQUEST, **{"approvedBy": (), **said}), judged, state())
    assert caught.value.reason == expected
    return str(caught.value)


# ---- claims -------------------------------------------------------------------------------------


def test_control_a_claim_of_what_was_approved_holds() -> None:
    check_first_claim(claim(REQUEST, approvedBy=()), REQUEST, state())


def test_a_claim_needs_a_request_that_can_be_read() -> None:
    _claim_refused("ClaimNotApproved", request={"document": None})


def test_a_claim_is_of_a_target_that_was_asked_for() -> None:
    digests = {"openai-chat": "sha256:" + "a" * 64, "mailer": "sha256:" + "a" * 64}
    message = _claim_refused("ClaimMismatch", service="mailer", request={"target_digests": digests})
    assert message == "mailer is no target of rotate-1"


def test_a_request_is_claimed_before_it_expires() -> None:
    check_first_claim(claim(REQUEST, approvedBy=(), claimedAt="2026-11-29T23:59:59Z"), REQUEST, state())
    _claim_refused("ClaimAfterExpiry", claimedAt="2026-11-30T00:00:00Z")


def test_a_takeover_that_says_the_same_says_as_before() -> None:
    first = claim(REQUEST)
    assert says_as_before(claim(REQUEST, attempt=2), first)
    for other in ({"approvedBy": ("dave",)}, {"evidence": "merge"}, {"serviceDigest": "sha256:" + "b" * 64}):
        assert not says_as_before(claim(REQUEST, attempt=2, **other), first)


# ---- results ------------------------------------------------------------------------------------


def _receipt(**said: Any) -> Receipt:
    values: dict[str, Any] = {
        "repository": ROOT,
        "op_id": "",
        "service": "openai-chat",
        "action": "rotateKey",
        "attempt": 1,
        "outcome": "succeeded",
        "reason": "Done",
        "message": "rotated",
        "outputs": {},
        "journal": JournalMark("j" * 8, 4),
        "agent_version": "1.8.2",
        **said,
    }
    return Receipt(**values)


def _outcome_refused(receipt: Receipt, outcome: str) -> str:
    with pytest.raises(BadRecord) as caught:
        check_outcome(result(REQUEST, outcome=outcome), receipt)
    assert caught.value.reason == "ResultMismatch"
    return str(caught.value)


def test_control_a_result_that_says_what_its_receipt_says_holds() -> None:
    check_outcome(result(REQUEST), _receipt())


@pytest.mark.parametrize("outcome", ["unknown", "cancelled"])
def test_a_receipt_that_names_no_action_proves_only_that_nothing_is_known(outcome: str) -> None:
    reason = "Tombstoned" if outcome == "cancelled" else "Done"
    answer = _receipt(action="", outcome="unknown", reason=reason)
    check_outcome(result(REQUEST, outcome=outcome, reason=reason), answer)


def test_a_receipt_of_another_action_proves_nothing() -> None:
    other = _receipt(action="disable", outcome="unknown")
    assert _outcome_refused(other, "unknown") == "the receipt is about another action"


def test_a_receipt_that_names_no_action_proves_no_success() -> None:
    assert _outcome_refused(_receipt(action=""), "succeeded") == "the receipt is about another action"


def test_an_acknowledgement_of_a_request_that_cannot_be_read_names_nothing() -> None:
    unread = replace(REQUEST, document=None)
    check_acknowledged(result(REQUEST, reason="Acknowledged"), unread)
    with pytest.raises(BadRecord, match="outputs"):
        check_acknowledged(result(REQUEST, reason="Acknowledged", outputs={"condition": "Drift"}), unread)
