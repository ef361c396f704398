"""Histories written with a reconciler's own key, on honest approvals, that tell what did not happen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.documents.paths import RequestFolder
from tests.trust_history import (
    CLAIMED,
    ENDED,
    Audit,
    Files,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

RAW = request_text()
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
STATUS = {"status/openai-chat.yaml": b"x: 1\n"}
DIGEST = "sha256:" + "0" * 64


def asked(decision: str = "approve", files: Files | None = None, raw: bytes = RAW) -> Audit:
    history = History.begun(files)
    audit = Audit(history)
    history.step(history.request(raw) | history.approval("bob", raw, decision=decision), merge=True)
    return audit


def claimed() -> Audit:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    return audit


def told(audit: Audit, message: str) -> str | None:
    """The verdict on a change of status under any message at all."""
    history = audit.history
    tree = history.tree({**history.files, **STATUS})
    audit.tip = history.raw_commit(
        tree,
        [audit.tip, history.tip],
        by=key("reconciler-1"),
        message=message.replace("TIP", history.tip),
        name="reconciler-1",
        email="reconciler-1@reconciler.invalid",
    )
    return audit.reason()


# ---- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("status openai-chat: changed\n\nCapsule-Revision: TIP", None),
        ("drift openai-chat: gone\n\nCapsule-Service: openai-chat\nCapsule-Revision: TIP", None),
        ("rotateKey openai-chat: succeeded\n\nCapsule-Revision: TIP", "SubjectMismatch"),
        ("status mailer: changed\n\nCapsule-Revision: TIP", "SubjectMismatch"),
        ("status of 2 services: 2 ACTIVE\n\nCapsule-Revision: TIP", "SubjectMismatch"),
        ("status of 1 services: 1 ACTIVE\n\nCapsule-Revision: TIP", "SubjectMismatch"),
        ("take in main\n\nCapsule-Revision: TIP", "SubjectMismatch"),
        ("status openai-chat: x\n\nCapsule-Outcome: succeeded\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x\n\nApproved-by: carol\n(cherry picked from commit 1)", "TrailerMismatch"),
        ("status openai-chat: x\n\napproved-by: carol\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x\n\nApproved-by : carol\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x\n\nCapsule-Revision: TIP\n  more", "TrailerMismatch"),
        ("status openai-chat: x\n\nSigned-off-by: carol\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x\n\nApproved-by: carol\n\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x\nApproved-by: carol\n\nCapsule-Revision: TIP", "TrailerMismatch"),
        ("status openai-chat: x", "TrailerMismatch"),
    ],
)
def test_message_of_a_change_of_status(message: str, reason: str | None) -> None:
    assert told(Audit(asked().history), message) == reason


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("rotateKey: 2 claimed", None),
        ("rotateKey openai-chat: claimed (+1 more)", None),
        ("rotateKey: 1 claimed (+1 more)", None),
        ("rotateKey openai-chat: claimed", "SubjectMismatch"),
        ("rotateKey: 3 claimed", "SubjectMismatch"),
        ("rotateKey: 3 claimed (+1 more)", "SubjectMismatch"),
        ("rotateKey: 2 succeeded", "SubjectMismatch"),
        ("rotateKey: 1 claimed, 1 claimed; runHealthCheck: 1 claimed", "SubjectMismatch"),
        ("status openai-chat: changed", "SubjectMismatch"),
        ("anything", "SubjectMismatch"),
    ],
)
def test_subject_of_claims(subject: str, reason: str | None) -> None:
    raw = request_text(targets=("openai-chat", "mailer"))
    audit = asked(raw=raw)
    audit.step(
        audit.claim(raw) | audit.claim(raw, "mailer"),
        trailers=[*CLAIMED, ("Capsule-Service", "mailer")],
        subject=subject,
    )
    assert audit.reason() == reason


def test_subject_of_a_refusal() -> None:
    for subject, reason in (("r1: Expired (Expired)", None), ("r1: Rejected (Rejected)", "SubjectMismatch")):
        audit = asked()
        audit.step(audit.refusal(RAW), trailers=CLAIMED[:1], subject=subject)
        assert audit.reason() == reason


@pytest.mark.parametrize("said", [{"name": "Bob the reviewer"}, {"email": "bob@example.com"}])
def test_author_that_is_not_the_signer(said: dict[str, str]) -> None:
    audit = asked()
    audit.step(STATUS, **said)
    assert audit.reason() == "AuthorMismatch"


@pytest.mark.parametrize("year", [2025, 2030])
def test_records_dated_on_another_day_than_their_commit(year: int) -> None:
    at = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED, at=at)
    assert audit.reason() == "TimeMismatch"
    audit = asked()
    audit.step(audit.refusal(RAW), trailers=CLAIMED[:1], at=at)
    assert audit.reason() == "TimeMismatch"


# ---- claims and results -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [{"approved_by": ("bob", "carol")}, {"evidence": "merge"}, {"service_digest": DIGEST}]
)
def test_takeover_with_evidence_of_its_own(said: dict[str, Any]) -> None:
    audit = claimed()
    audit.step(audit.claim(RAW, attempt=2, **said), trailers=[*CLAIMED, ("Approved-by", "carol")])
    assert audit.reason() == "ClaimMismatch"


def test_takeover_may_tell_of_an_approval_that_came_since() -> None:
    audit = claimed()
    audit.history.step(audit.history.approval("dave", RAW), merge=True)
    audit.step(
        audit.claim(RAW, attempt=2, approved_by=("bob", "dave")), trailers=[*CLAIMED, ("Approved-by", "dave")]
    )
    assert audit.verdict().first_bad is None


@pytest.mark.parametrize("outcome", ["failed", "refused"])
def test_what_an_agent_did_without_its_receipt(outcome: str) -> None:
    audit = claimed()
    audit.step(audit.result(RAW, bare=True, outcome=outcome), trailers=CLAIMED)
    assert audit.reason() == "OutcomeWithoutReceipt"


@pytest.mark.parametrize(
    "said",
    [
        {"reason": "PreviousKeyRevoked"},
        {"message": "the old key was revoked at once"},
        {"outputs": {}},
        {"finished_at": NOON},
        {"started_at": NOON},
        {"outcome": "unknown"},
        {"outcome": "cancelled"},
    ],
)
def test_result_in_other_words_than_its_receipt(said: dict[str, Any]) -> None:
    audit = claimed()
    audit.step(audit.result(RAW, **said), trailers=CLAIMED)
    assert audit.reason() == "ResultMismatch"


def test_truth_that_is_recorded_as_a_number() -> None:
    audit = claimed()
    receipt = audit.receipt(RAW, outputs={"done": True})
    audit.step(audit.result(RAW, receipt=receipt, outputs={"done": 1}), trailers=CLAIMED)
    assert audit.reason() == "ResultMismatch"


@pytest.mark.parametrize("said", [{"reason": "Interrupted"}, {"outputs": {"a": 1}}, {"finished_at": NOON}])
def test_agent_that_never_saw_the_order_is_made_to_say_more(said: dict[str, Any]) -> None:
    audit = claimed()
    receipt = audit.receipt(RAW, outcome="unknown", reason="NeverSeen", action="", outputs={})
    values = {"outcome": "unknown", "reason": "JournalChanged", "outputs": {}, **said}
    audit.step(audit.result(RAW, receipt=receipt, **values), trailers=CLAIMED)
    assert audit.reason() == "ResultMismatch"


# ---- refusals -----------------------------------------------------------------------------------


def refused(audit: Audit, phase: str, reason: str, raw: bytes = RAW, **said: Any) -> str | None:
    files = audit.refusal(raw, phase=phase, reason=reason, **{"recorded_at": NOON, **said})
    audit.step(files, trailers=CLAIMED[:1])
    return audit.reason()


@pytest.mark.parametrize(
    ("phase", "reason"),
    [
        ("Rejected", "RejectedByReviewer"),
        ("Rejected", "Rejected"),
        ("Rejected", "NothingToCancel"),
        ("Rejected", "Whatever"),
        ("Rejected", "DuplicateRequest"),
        ("Expired", "Expired"),
        ("Cancelled", "ChangedAfterClaim"),
        ("Cancelled", "CancelledByRequest"),
        ("Cancelled", "Whatever"),
    ],
)
def test_approved_request_refused_for_an_invented_reason(phase: str, reason: str) -> None:
    assert refused(asked(), phase, reason) == "RefusalNotPlausible"


def test_expired_request_under_another_reason() -> None:
    late = datetime(2026, 12, 1, tzinfo=UTC)
    assert refused(asked(), "Expired", "Whatever", recorded_at=late) == "RefusalNotPlausible"


def test_rejection_by_a_reviewer_bears_its_refusal_out() -> None:
    for reason in ("Rejected", "RejectedByReviewer"):
        assert refused(asked("reject"), "Rejected", reason) is None


def test_request_that_waits_for_approvals_is_not_refused() -> None:
    history = History.begun()
    audit = Audit(history)
    history.step(history.request(RAW), merge=True)
    assert refused(audit, "Rejected", "ApprovalsMissing") == "RefusalNotPlausible"


def refused_twice(audit: Audit) -> str | None:
    """The verdict on a refusal for a name that is said to stand twice; audit stays as it is."""
    before = audit.tip, audit.observed, dict(audit.people), dict(audit.machine)
    reason = refused(audit, "Rejected", "DuplicateRequest")
    audit.tip, audit.observed, audit.people, audit.machine = before
    return reason


def test_name_that_stands_twice_bears_its_refusal_out() -> None:
    audit = asked()
    strange = ("requests/2026/README.md", "requests/notes.txt", "requests/2026/12", "requests/old/11/r1/x")
    for path in strange:
        audit.history.step({path: b"x"})
        assert refused_twice(audit) == "RefusalNotPlausible"
    audit.history.step({"requests/2026/12": None})
    audit.history.step(audit.history.request(RAW, month="2026/12"))
    assert refused(audit, "Rejected", "DuplicateRequest") is None


def test_refusal_of_a_request_that_is_nowhere() -> None:
    audit = Audit(History.begun())
    files = audit.refusal(RAW, "ghost", phase="Cancelled", reason="Whatever")
    audit.step(files, trailers=[("Capsule-Request", "ghost")])
    assert audit.reason() == "RefusalNotPlausible"


def test_refusal_of_a_request_on_its_branch_rests_on_that_branch() -> None:
    for parents, reason in ((True, None), (False, "RefusalNotPlausible")):
        history = History.begun()
        audit = Audit(history)
        main, files = history.tip, history.files
        branch = history.step(history.request(RAW) | history.approval("bob", RAW, decision="reject"))
        history.tip, history.files = main, files
        audit.step(
            audit.refusal(RAW, phase="Rejected", reason="Rejected", recorded_at=NOON),
            trailers=[CLAIMED[0], ("Capsule-Action", "rotateKey"), ("Requested-by", "alice")],
            branches=[branch] if parents else [],
        )
        assert audit.reason() == reason


def test_request_that_was_edited_or_moved_after_its_claim() -> None:
    folder = RequestFolder("2026/11", "r1")
    audit = claimed()
    edited = RAW.replace(b"OPS-1", b"OPS-2")
    audit.history.step(audit.history.request(edited))
    assert refused(audit, "Cancelled", "ChangedAfterClaim", edited) is None
    audit = claimed()
    old = {path: None for path in audit.history.files if path.startswith(folder.folder)}
    audit.history.step({**old, **audit.history.request(RAW, month="2026/12")})
    assert refused(audit, "Cancelled", "ChangedAfterClaim") is None
    assert refused(claimed(), "Cancelled", "ChangedAfterClaim") == "RefusalNotPlausible"


ENDINGS = ("cancel", "abort", "resume")


def cancelled(
    targets: Sequence[str],
    victim: str = "r1",
    *,
    action: str = "cancel",
    reason: str = "CancelledByRequest",
    begun: bool = False,
) -> str | None:
    """The verdict on an end of r1 (on openai-chat, where it may have begun) by c1."""
    audit = ending(targets, victim, action=action, reason=reason, begun=begun)
    return audit.reason()


def ending(targets: Sequence[str], victim: str, *, action: str, reason: str, begun: bool) -> Audit:
    rules = [f"{{match: {{action: {each}}}, mayRequest: [operators], approvals: []}}" for each in ENDINGS]
    rules.append(
        "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}]}"
    )
    audit = asked(files=first_files() | {"policy.yaml": policy_text(rules=rules)})
    raw = request_text("c1", action=action, targets=targets, params=f"{{request: {victim}}}")
    if begun:
        audit.step(audit.claim(RAW), trailers=CLAIMED)
    audit.history.step(audit.history.request(raw, "c1"))
    said: dict[str, Any] = {"name": "c1", "action": action}
    files = audit.refusal(RAW, phase="Cancelled", reason=reason, recorded_at=NOON)
    for service in targets:
        files |= audit.claim(raw, service, approved_by=(), **said)
        files |= audit.result(raw, service, bare=True, reason=reason, **said)
    audit.step(files, trailers=[CLAIMED[0], ("Capsule-Request", "c1"), ("Requested-by", "alice")])
    return audit


def test_cancellation_rests_on_a_cancel_request_that_may_end_the_victim() -> None:
    assert cancelled(("openai-chat",)) is None
    assert cancelled(("openai-chat", "mailer")) is None
    assert cancelled(("mailer",)) == "RefusalNotPlausible"
    assert cancelled(("openai-chat",), "r2") == "RefusalNotPlausible"
    assert cancelled(("openai-chat",), action="resume") == "RefusalNotPlausible"


def test_abort_rests_on_an_abort_request_that_may_end_the_victim() -> None:
    abort = {"action": "abort", "reason": "AbortedByRequest"}
    assert cancelled(("openai-chat",), **abort) is None
    assert cancelled(("mailer",), **abort) == "RefusalNotPlausible"
    assert cancelled(("openai-chat",), "r2", **abort) == "RefusalNotPlausible"
    assert cancelled(("openai-chat",), reason="AbortedByRequest") == "RefusalNotPlausible"
    assert cancelled(("openai-chat",), action="abort") == "RefusalNotPlausible"


@pytest.mark.parametrize(
    ("action", "reason", "verdict"),
    [
        ("abort", "AbortedByRequest", None),
        ("cancel", "CancelledByRequest", "ClaimAfterRefusal"),
    ],
)
def test_what_runs_goes_on_after_an_abort_and_not_after_a_cancel(
    action: str, reason: str, verdict: str | None
) -> None:
    audit = ending(("openai-chat",), "r1", action=action, reason=reason, begun=True)
    assert audit.reason() is None
    audit.step(audit.claim(RAW, attempt=2), trailers=CLAIMED)
    audit.step(audit.result(RAW, receipt=audit.receipt(RAW, attempt=2), attempt=2), trailers=ENDED)
    assert audit.reason() == verdict


def test_nothing_begins_after_an_abort() -> None:
    audit = ending(("openai-chat",), "r1", action="abort", reason="AbortedByRequest", begun=False)
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    assert audit.reason() == "ClaimAfterRefusal"


@pytest.mark.parametrize(
    ("action", "params", "reason"),
    [
        ("cancel", "{request: r9}", "NothingToCancel"),
        ("abort", "{request: r9}", "NothingToAbort"),
        ("abort", "{request: r9}", "CancelTargets"),
        ("acknowledge", "{condition: Drift}", "UnknownCondition"),
    ],
)
def test_built_in_request_with_nothing_to_do(action: str, params: str, reason: str) -> None:
    audit, raw = built_in(action, params)
    assert refused(audit, "Rejected", reason, raw) is None
    audit, raw = built_in("runHealthCheck", "{}")
    assert refused(audit, "Rejected", reason, raw) == "RefusalNotPlausible"


def built_in(action: str, params: str, extra: str = "") -> tuple[Audit, bytes]:
    """An audit beside a main that holds the approved request r1 for the action, and its bytes."""
    rule = "{match: {action: '*'}, mayRequest: [operators], approvals: []}"
    chat = {"services/openai-chat.yaml": service_text(extra=extra)}
    history = History.begun(first_files() | chat | {"policy.yaml": policy_text(rules=[rule])})
    audit = Audit(history)
    raw = request_text(action=action, params=params)
    history.step(history.request(raw))
    return audit, raw


def test_enabling_is_refused_only_where_the_document_disables() -> None:
    audit, raw = built_in("enable", "{}", "  enabled: false\n")
    assert refused(audit, "Rejected", "DisabledBySpec", raw) is None
    audit, raw = built_in("enable", "{}")
    assert refused(audit, "Rejected", "DisabledBySpec", raw) == "RefusalNotPlausible"
    audit, raw = built_in("runHealthCheck", "{}", "  enabled: false\n")
    assert refused(audit, "Rejected", "DisabledBySpec", raw) == "RefusalNotPlausible"


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({"reason": "Acknowledged"}, None),
        ({"reason": "Acknowledged", "outputs": {}}, "ResultMismatch"),
        ({"reason": "Acknowledged", "outputs": {"condition": "Drift"}}, "ResultMismatch"),
        ({"reason": "Succeeded"}, "ResultMismatch"),
        ({"reason": "Acknowledged", "outcome": "failed"}, "ResultMismatch"),
        ({"reason": "Acknowledged", "outcome": "unknown"}, "ResultMismatch"),
    ],
)
def test_acknowledgement_is_what_the_reconciler_did_itself(said: dict[str, Any], verdict: str | None) -> None:
    said = {"outputs": {"condition": "CorrectionStopped"}, **said}
    for together in (True, False):
        audit, raw = built_in("acknowledge", "{condition: CorrectionStopped}")
        claim = audit.claim(raw, action="acknowledge", approved_by=())
        result = audit.result(raw, bare=True, action="acknowledge", **said)
        if not together:
            audit.step(claim, trailers=CLAIMED[:1])
        audit.step(claim | result if together else result, trailers=CLAIMED[:1])
        assert audit.reason() == verdict


# ---- after the end ------------------------------------------------------------------------------


def ended(audit: Audit) -> Audit:
    files = audit.refusal(RAW, phase="Rejected", reason="ObserveOnly", recorded_at=NOON)
    audit.step(files, trailers=CLAIMED[:1])
    assert audit.reason() is None
    return audit


def test_first_claim_after_a_refusal_or_beside_it() -> None:
    audit = ended(asked())
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    assert audit.reason() == "ClaimAfterRefusal"
    audit = asked()
    files = audit.refusal(RAW, phase="Rejected", reason="ObserveOnly", recorded_at=NOON)
    audit.step(files | audit.claim(RAW), trailers=CLAIMED)
    assert audit.reason() == "ClaimAfterRefusal"


@pytest.mark.parametrize(("attempt", "reason"), [(1, None), (2, "ClaimAfterRefusal")])
def test_success_of_an_attempt_that_began_after_the_refusal(attempt: int, reason: str | None) -> None:
    audit = ended(claimed())
    for at in (2, 3):
        audit.step(audit.claim(RAW, attempt=at), trailers=CLAIMED)
    assert audit.reason() is None
    receipt = audit.receipt(RAW, attempt=attempt)
    audit.step(audit.result(RAW, receipt=receipt, attempt=attempt), trailers=ENDED)
    assert audit.reason() == reason


def test_second_records_of_one_request_in_another_month() -> None:
    audit = asked(files=first_files() | {"services/b.yaml": service_text("b")})
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    again = {path.replace("2026/11", "2026/12"): data for path, data in audit.claim(RAW).items()}
    audit.step(again, trailers=CLAIMED)
    assert audit.reason() == "DuplicateRecords"
