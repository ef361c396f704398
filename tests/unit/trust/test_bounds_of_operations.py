"""What records of operations must be borne out by: each test stands for one check of records, alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.trust_history import (
    CLAIMED,
    ENDED,
    Audit,
    approved,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
RAW = request_text()
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def _asked() -> Audit:
    history, _ = approved(raw=RAW)
    return Audit(history)


def _claimed() -> Audit:
    audit = _asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    return audit


def _bad(audit: Audit) -> tuple[str, str]:
    bad = audit.verdict().first_bad
    return (bad.reason, bad.message) if bad else ("", "")


# ---- claims -------------------------------------------------------------------------------------


def test_a_branch_that_no_record_is_about_is_named() -> None:
    for at in range(8):
        audit = _asked()
        history = audit.history
        raw = request_text("b1", action="runHealthCheck", params="{}")
        tip, files = history.tip, history.files
        own = history.step(history.request(raw, "b1"), at=at)
        history.tip, history.files = tip, files
        foreign = history.raw_commit(history.tree(files), [tip], message=f"foreign {at}")
        said: dict[str, Any] = {"action": "runHealthCheck", "approved_by": ()}
        audit.step(
            audit.claim(raw, name="b1", **said),
            trailers=[("Capsule-Request", "b1")],
            branches=[own, foreign],
        )
        assert _bad(audit) == ("MainPointUnknown", f"parent {foreign} is not explained")


def test_why_an_attempt_is_out_of_order_is_told() -> None:
    audit = _claimed()
    audit.step(audit.claim(RAW, attempt=3), trailers=CLAIMED)
    assert _bad(audit) == ("ClaimOutOfOrder", "attempt 3 on openai-chat; the one before was 1")
    audit = _claimed()
    audit.step(audit.result(RAW), trailers=ENDED)
    audit.step(audit.claim(RAW, attempt=2), trailers=CLAIMED)
    assert _bad(audit) == ("ClaimOutOfOrder", "attempt 2 on openai-chat; it was over already")


def test_a_takeover_that_says_the_same_needs_no_request_any_more() -> None:
    audit = _claimed()
    gone = [path for path in audit.history.files if path.startswith("requests/")]
    audit.history.step(dict.fromkeys(gone))
    audit.step(audit.claim(RAW, attempt=2), trailers=CLAIMED)
    audit.step(audit.result(RAW, receipt=audit.receipt(RAW, attempt=2), attempt=2), trailers=ENDED)
    assert _bad(audit) == ("", "")


def test_a_key_that_was_in_force_at_the_first_claim_signs_after_a_takeover() -> None:
    audit = _claimed()
    swapped = service_text(agent_key=key("new-agent"))
    change = {CHAT: (service_text(), swapped)}
    words = audit.history.change_word("alice", change, "propose") | audit.history.change_word("dave", change)
    audit.history.step({CHAT: swapped, **words}, merge=True)
    assert audit.history.judged().pending == ()
    digest = audit.claim(RAW, attempt=2)
    audit.step(digest, trailers=CLAIMED)
    taken_over = _bad(audit)
    assert taken_over == ("", "")
    audit.step(audit.result(RAW), trailers=ENDED)
    assert _bad(audit) == ("", "")


def test_a_refusal_beside_the_first_claim_is_seen_whatever_was_recorded_before() -> None:
    audit = _asked()
    history = audit.history
    other = request_text("r2")
    history.step(history.request(other, "r2") | history.approval("bob", other, "r2"), merge=True)
    audit.step(audit.claim(other, name="r2"), trailers=[("Capsule-Request", "r2"), *CLAIMED[1:]])
    assert _bad(audit) == ("", "")
    files = audit.refusal(RAW, phase="Rejected", reason="ObserveOnly", recorded_at=NOON)
    audit.step(files | audit.claim(RAW), trailers=CLAIMED)
    assert _bad(audit)[0] == "ClaimAfterRefusal"


# ---- results ------------------------------------------------------------------------------------


def test_a_result_is_of_no_later_attempt_than_was_claimed() -> None:
    audit = _claimed()
    audit.step(audit.result(RAW, receipt=audit.receipt(RAW, attempt=2), attempt=2), trailers=ENDED)
    assert _bad(audit) == ("ResultMismatch", "attempt 2 after claim 1")


def test_a_result_is_not_recorded_before_it_came() -> None:
    audit = _claimed()
    audit.step(audit.result(RAW, recorded_at=datetime(2026, 11, 25, tzinfo=UTC)), trailers=ENDED)
    assert _bad(audit)[0] == "TimeMismatch"


@pytest.mark.parametrize(("outcome", "reason"), [("failed", ""), ("succeeded", "ClaimAfterRefusal")])
def test_what_began_after_the_refusal_may_fail(outcome: str, reason: str) -> None:
    audit = _claimed()
    files = audit.refusal(RAW, phase="Rejected", reason="ObserveOnly", recorded_at=NOON)
    audit.step(files, trailers=CLAIMED[:1])
    audit.step(audit.claim(RAW, attempt=2), trailers=CLAIMED)
    said: dict[str, Any] = {"attempt": 2, "outcome": outcome}
    audit.step(
        audit.result(RAW, receipt=audit.receipt(RAW, **said), **said),
        trailers=[*CLAIMED, ("Capsule-Outcome", outcome)],
    )
    assert _bad(audit)[0] == reason


@pytest.mark.parametrize("left", [".json", ".sig"])
def test_half_a_receipt_beside_a_result_that_names_none(left: str) -> None:
    audit = _claimed()
    whole = audit.result(RAW)
    files = audit.result(RAW, bare=True, outcome="unknown", reason="BadAgentSignature")
    files |= {path: data for path, data in whole.items() if path.endswith(left)}
    audit.step(files, trailers=[*CLAIMED, ("Capsule-Outcome", "unknown")])
    assert _bad(audit) == ("ReceiptMismatch", "a receipt lies beside a result that names none")


# ---- refusals -----------------------------------------------------------------------------------


def test_a_cancel_that_has_only_begun_ends_nothing_yet() -> None:
    rules = (
        "{match: {action: cancel}, mayRequest: [operators], approvals: []}",
        "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}]}",
    )
    raw = request_text("c1", action="cancel", params="{request: r1}")
    said: dict[str, Any] = {"name": "c1", "action": "cancel"}
    for done in (True, False):
        audit = _asked()
        old, new = audit.history.files["policy.yaml"], policy_text(2, rules=rules)
        words = audit.history.change_word("carol", {"policy.yaml": (old, new)})
        audit.history.step({"policy.yaml": new, **words}, by="bob")
        audit.history.step(audit.history.request(raw, "c1"))
        files = audit.refusal(RAW, phase="Cancelled", reason="CancelledByRequest", recorded_at=NOON)
        files |= audit.claim(raw, approved_by=(), **said)
        if done:
            files |= audit.result(raw, bare=True, reason="CancelledByRequest", **said)
        audit.step(files, trailers=[CLAIMED[0], ("Capsule-Request", "c1"), ("Requested-by", "alice")])
        assert _bad(audit)[0] == ("" if done else "RefusalNotPlausible")


def test_a_name_that_stands_twice_is_refused_for_that_alone() -> None:
    for reason, found in (("DuplicateRequest", ""), ("NoRule", "RefusalNotPlausible")):
        audit = _asked()
        audit.history.step(audit.history.request(RAW, month="2026/12"))
        files = audit.refusal(RAW, phase="Rejected", reason=reason, recorded_at=NOON)
        audit.step(files, trailers=CLAIMED[:1])
        assert _bad(audit)[0] == found
