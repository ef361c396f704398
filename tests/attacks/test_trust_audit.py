"""What a reconciler gone bad, or whoever holds its key, tries to write on audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule_agent.protocol import sshsig
from tests.trust_history import (
    AGENT_KEY,
    CLAIMED,
    ENDED,
    Audit,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
RECORDS = "records/2026/11/r1"
RAW = request_text()
LATE = datetime(2026, 12, 1, tzinfo=UTC)


def asked(approve: bool = True) -> Audit:
    """An audit branch that has begun before the request r1 came to main."""
    history = History.begun()
    audit = Audit(history)
    history.step(history.request(RAW) | (history.approval("bob", RAW) if approve else {}), merge=True)
    return audit


def claimed() -> Audit:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    return audit


def executed() -> Audit:
    audit = claimed()
    audit.step(audit.result(RAW), trailers=ENDED)
    return audit


def test_control_an_honest_audit_holds() -> None:
    assert executed().reason() is None


@pytest.mark.parametrize("name", ["claim-1.yaml", "result.yaml", "receipt.json", "receipt.json.sig"])
def test_record_edited_by_one_byte(name: str) -> None:
    audit = executed()
    path = f"{RECORDS}/openai-chat/{name}"
    audit.step({path: audit.machine[path][:-2] + b"~\n"})
    bad = audit.verdict().first_bad
    assert bad is not None
    assert (bad.commit, bad.reason) == (audit.tip, "RecordChanged")


def test_record_edited_and_history_written_again_without_it() -> None:
    audit = claimed()
    honest = dict(audit.machine)
    files = audit.result(RAW)
    path = f"{RECORDS}/openai-chat/receipt.json"
    data = files[path]
    assert data is not None
    files[path] = data.replace(b"k2", b"k3")
    audit.step(files, trailers=ENDED)
    assert audit.reason() == "ReceiptMismatch"
    assert honest.items() <= audit.machine.items()


@pytest.mark.parametrize("name", ["claim-1.yaml", "result.yaml", "receipt.json"])
def test_record_deleted(name: str) -> None:
    audit = executed()
    audit.step({f"{RECORDS}/openai-chat/{name}": None})
    assert audit.reason() == "RecordDeleted"


def test_record_inserted_for_a_request_that_never_was() -> None:
    audit = asked()
    raw = request_text("r9")
    audit.step(audit.claim(raw, name="r9"), trailers=[("Capsule-Request", "r9")])
    assert audit.reason() == "ClaimWithoutRequest"


def test_result_inserted_without_a_claim() -> None:
    audit = asked()
    audit.step(audit.result(RAW), trailers=ENDED)
    assert audit.reason() == "ResultWithoutClaim"


def test_claim_and_result_in_one_commit() -> None:
    audit = asked()
    audit.step(audit.claim(RAW) | audit.result(RAW), trailers=ENDED)
    assert audit.reason() == "ResultWithoutClaim"


def test_second_result_for_an_operation_that_is_over() -> None:
    audit = executed()
    audit.step(audit.claim(RAW, attempt=2), trailers=CLAIMED)
    assert audit.reason() == "ClaimOutOfOrder"


def test_file_that_is_no_record() -> None:
    audit = asked()
    audit.step({f"{RECORDS}/openai-chat/notes.txt": b"x"})
    assert audit.reason() == "UnexpectedRecord"
    alone = asked()
    alone.step({f"{RECORDS}/openai-chat/receipt.json": b"{}"})
    assert alone.reason() == "UnexpectedRecord"


def test_claim_without_approval() -> None:
    audit = asked(approve=False)
    audit.step(audit.claim(RAW, approved_by=()), trailers=CLAIMED[:-1])
    assert audit.reason() == "ClaimNotApproved"


def test_claim_before_the_approval_came() -> None:
    audit = asked(approve=False)
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    audit.history.step(audit.history.approval("bob", RAW))
    assert audit.reason() == "ClaimNotApproved"


def test_claim_by_the_policy_of_another_day() -> None:
    audit = asked()
    gone = policy_text(2, teams={"operators": ["alice"], "reviewers": ["dave"], "owners": ["bob", "carol"]})
    words = audit.history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    audit.history.step({"policy.yaml": gone, **words}, by="bob")
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    assert audit.reason() == "ClaimNotApproved"


def test_policy_changed_later_takes_nothing_back() -> None:
    audit = executed()
    gone = policy_text(2, teams={"operators": ["alice"], "reviewers": ["dave"], "owners": ["bob", "carol"]})
    words = audit.history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    audit.history.step({"policy.yaml": gone, **words}, by="bob")
    audit.step({})
    assert audit.reason() is None


def test_claim_while_main_is_suspended() -> None:
    audit = asked()
    audit.history.step({"policy.yaml": policy_text(2)}, by="mallory")
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    assert audit.reason() == "ClaimWhileSuspended"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"op_id": "0" * 64}, "ClaimMismatch"),
        ({"service_digest": "sha256:" + "0" * 64}, "ClaimMismatch"),
        ({"action": "runHealthCheck"}, "ClaimMismatch"),
        ({"requested_by": "bob"}, "ClaimMismatch"),
        ({"approved_by": ("dave",)}, "ClaimMismatch"),
        ({"approved_by": ("bob", "dave")}, "ClaimMismatch"),
        ({"evidence": "merge"}, "ClaimMismatch"),
        ({"observed_revision": "0" * 40}, "ClaimMismatch"),
        ({"reconciler": "reconciler-2"}, "ClaimMismatch"),
        ({"request_digest": "sha256:" + "0" * 64}, "ClaimMismatch"),
        ({"request": "r2"}, "InvalidRecord"),
        ({"claimed_at": LATE}, "ClaimAfterExpiry"),
    ],
)
def test_claim_that_says_something_else(said: dict[str, Any], reason: str) -> None:
    audit = asked()
    late = {"at": int(LATE.timestamp())} if "claimed_at" in said else {}
    audit.step(audit.claim(RAW, **said), trailers=CLAIMED, **late)
    assert audit.reason() == reason


def test_record_in_the_place_of_another_service() -> None:
    def moved(files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
        return {
            path: (data or b"").replace(b"service: openai-chat", b"service: mailer")
            for path, data in files.items()
        }

    audit = asked()
    audit.step(moved(audit.claim(RAW)), trailers=CLAIMED)
    assert audit.reason() == "InvalidRecord"
    audit = claimed()
    audit.step(moved(audit.result(RAW)), trailers=ENDED)
    assert audit.reason() == "ResultMismatch"


def test_claim_on_a_service_that_is_no_target() -> None:
    audit = asked()
    audit.step(audit.claim(RAW, "mailer"), trailers=CLAIMED)
    assert audit.reason() == "ClaimMismatch"


def test_attempt_left_out() -> None:
    audit = claimed()
    audit.step(audit.claim(RAW, attempt=3), trailers=CLAIMED)
    assert audit.reason() == "ClaimOutOfOrder"


def test_takeover_that_changes_the_operation() -> None:
    for said in ({"action": "runHealthCheck"}, {"requested_by": "bob"}):
        audit = claimed()
        audit.step(audit.claim(RAW, attempt=2, **said), trailers=CLAIMED)
        assert audit.reason() == "ClaimMismatch"
    audit = claimed()
    audit.step(audit.claim(RAW, attempt=2, request_digest="sha256:" + "0" * 64), trailers=CLAIMED)
    assert audit.reason() == "ClaimMismatch"


def test_edited_request_is_claimed_for_another_target_later() -> None:
    history = History.begun(first_files() | {"services/b.yaml": service_text("b")})
    audit = Audit(history)
    raw = request_text(targets=("openai-chat", "b"))
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    audit.step(audit.claim(raw), trailers=CLAIMED)
    edited = raw.replace(b"OPS-1", b"OPS-2")
    history.step(history.request(edited) | history.approval("bob", edited), merge=True)
    audit.step(audit.claim(edited, "b"), trailers=[*CLAIMED[:1], *CLAIMED[2:]])
    assert audit.reason() == "ClaimMismatch"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"signer": key("mallory")}, "ReceiptMismatch"),
        ({"signer": key("reconciler-1")}, "ReceiptMismatch"),
        ({"namespace": sshsig.REPORT}, "ReceiptMismatch"),
        ({"bare": True}, "SuccessWithoutReceipt"),
        ({"outcome": "failed"}, "ResultMismatch"),
        ({"outputs": {"keyId": "k9"}}, "ResultMismatch"),
        ({"attempt": 2}, "ResultMismatch"),
        ({"action": "runHealthCheck"}, "ResultMismatch"),
        ({"op_id": "0" * 64}, "ResultMismatch"),
        ({"request": "r2"}, "ResultMismatch"),
        ({"receipt_digest": "sha256:" + "0" * 64}, "ReceiptMismatch"),
        ({"receipt_digest": None}, "ReceiptMismatch"),
    ],
)
def test_result_that_its_receipt_does_not_prove(result: dict[str, Any], reason: str) -> None:
    audit = claimed()
    audit.step(audit.result(RAW, **result), trailers=ENDED)
    assert audit.reason() == reason


def test_receipt_that_is_missing() -> None:
    audit = claimed()
    files = audit.result(RAW)
    del files[f"{RECORDS}/openai-chat/receipt.json.sig"]
    audit.step(files, trailers=ENDED)
    assert audit.reason() == "ReceiptMismatch"


@pytest.mark.parametrize(
    "said",
    [
        {"repository": "f" * 40},
        {"service": "mailer"},
        {"op_id": "0" * 64},
        {"action": "runHealthCheck"},
        {"attempt": 0},
        {"outcome": "failed"},
        {"outcome": "running"},
        {"outcome": "unknown"},
    ],
)
def test_receipt_of_something_else_replayed(said: dict[str, Any]) -> None:
    audit = claimed()
    audit.step(audit.result(RAW, receipt=audit.receipt(RAW, **said)), trailers=ENDED)
    assert audit.reason() in ("ReceiptMismatch", "ResultMismatch")


def test_receipt_signed_with_a_key_that_came_into_force_before_the_claim_only() -> None:
    audit = asked()
    swapped = service_text(agent_key=key("new-agent"))
    change = {CHAT: (service_text(), swapped)}
    words = audit.history.change_word("alice", change, "propose") | audit.history.change_word("dave", change)
    audit.history.step({CHAT: swapped, **words}, merge=True)
    fresh = audit.history.approval("bob", RAW)
    audit.history.step(fresh)
    audit.step(audit.claim(RAW), trailers=CLAIMED)
    audit.step(audit.result(RAW, signer=AGENT_KEY), trailers=ENDED)
    assert audit.reason() == "ReceiptMismatch"


def test_commit_not_signed() -> None:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED, signed=False)
    assert audit.reason() == "AuditUnsigned"


@pytest.mark.parametrize(
    ("by", "namespace", "reason"),
    [
        ("bob", sshsig.COMMIT, "AuditByPerson"),
        ("stranger", sshsig.COMMIT, "AuditBadSignature"),
        ("reconciler-1", sshsig.ORDER, "AuditBadSignature"),
    ],
)
def test_commit_signed_by_somebody_else_or_for_something_else(by: str, namespace: str, reason: str) -> None:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED, by=key(by), namespace=namespace)
    assert audit.reason() == reason


def test_audit_force_pushed_to_another_root() -> None:
    audit = executed()
    other = History(objects=audit.history.objects)
    forged = Audit(History.begun(first_files() | {"README.md": b"other"}))
    forged.history.objects.update(other.objects)
    audit.history.objects.update(forged.history.objects)
    forged.step({"status/openai-chat.yaml": b"x"})
    audit.history.objects.update(forged.history.objects)
    audit.tip = forged.tip
    assert audit.reason() == "AuditRewritten"


def test_audit_force_pushed_from_its_middle() -> None:
    audit = claimed()
    middle = audit.tip
    audit.step(audit.result(RAW), trailers=ENDED)
    del audit.machine[f"{RECORDS}/openai-chat/claim-1.yaml"]
    audit.tip = audit.history.root
    audit.observed = audit.history.root
    audit.step({}, trailers=ENDED)
    assert middle != audit.tip
    assert audit.reason() == "ResultWithoutClaim"


def test_main_rewound_behind_what_audit_took_in() -> None:
    audit = executed()
    audit.history.tip = audit.history.root
    assert audit.reason() == "MainPointUnknown"


def test_main_replaced() -> None:
    audit = executed()
    other = History(objects=audit.history.objects)
    audit.history.tip = other.commit(first_files() | {"README.md": b"other"}, parents=[])
    assert audit.reason() == "MainRewritten"


def test_second_parent_that_goes_back_on_main() -> None:
    audit = executed()
    first = audit.observed
    audit.history.step({"README.md": b"more"})
    audit.step({})
    audit.step({"status/openai-chat.yaml": b"x"}, parents=[audit.tip, first])
    assert audit.reason() == "MainPointNotRising"


def test_second_parent_that_is_the_root_or_stands_for_nothing() -> None:
    audit = executed()
    audit.step({"status/openai-chat.yaml": b"x"}, branches=[audit.history.root])
    assert audit.reason() == "MainPointNotRising"
    audit = executed()
    stray = audit.history.raw_commit(audit.history.tree({"a": b"b"}), [])
    audit.step({"status/openai-chat.yaml": b"x"}, branches=[stray])
    assert audit.reason() == "MainPointUnknown"


def test_two_points_of_main_at_once() -> None:
    audit = executed()
    one = audit.history.step({"README.md": b"one"})
    audit.history.step({"README.md": b"two"})
    audit.step({}, branches=[one])
    assert audit.reason() == "MainPointNotRising"


def test_step_with_records_on_main_taken_in() -> None:
    audit = asked()
    audit.history.step({"records/2026/11/r1/refusal.yaml": b"forged"})
    audit.step({})
    assert audit.reason() == "MainNotTakenOver"


def test_tree_that_is_not_main_s() -> None:
    audit = asked()
    audit.step(
        audit.claim(RAW), trailers=CLAIMED, foreign={CHAT: service_text(endpoint="https://10.6.6.6:1")}
    )
    assert audit.reason() == "ForeignTree"
    audit = asked()
    audit.step({"records": b"a file"}, trailers=CLAIMED)
    assert audit.reason() == "ForeignTree"


def test_commit_that_says_nothing() -> None:
    audit = executed()
    audit.step({})
    assert audit.reason() == "EmptyCommit"


def test_status_in_a_place_of_no_service() -> None:
    audit = asked()
    audit.step({"status/notes.txt": b"x"})
    assert audit.reason() == "StatusMisplaced"


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        (("Capsule-Request", "r2"),),
        (*CLAIMED, ("Capsule-Request", "r2")),
        (*CLAIMED, ("Capsule-Service", "mailer")),
        (*CLAIMED, ("Capsule-Outcome", "succeeded")),
        (*CLAIMED, ("Approved-by", "dave")),
        (*CLAIMED, ("Requested-by", "bob")),
        (*CLAIMED, ("Capsule-Revision", "0" * 40)),
        (("Capsule-Request", "r1\nApproved-by: dave"), *CLAIMED[1:]),
    ],
)
def test_trailers_that_the_records_do_not_bear_out(trailers: tuple[tuple[str, str], ...]) -> None:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=trailers)
    assert audit.reason() == "TrailerMismatch"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"recorded_at": datetime(2026, 11, 1, tzinfo=UTC)}, "RefusalNotPlausible"),
        ({"phase": "Rejected", "reason": "BadSignature"}, "RefusalNotPlausible"),
        ({"request_digest": "sha256:" + "0" * 64}, "RefusalNotPlausible"),
        ({"request": "r2"}, "InvalidRecord"),
        ({"observed_revision": "0" * 40}, "InvalidRecord"),
    ],
)
def test_refusal_that_the_request_does_not_bear_out(said: dict[str, Any], reason: str) -> None:
    audit = asked()
    audit.step(
        audit.refusal(RAW, **said), trailers=[("Capsule-Request", "r1"), ("Capsule-Outcome", "Expired")]
    )
    assert audit.reason() == reason


@pytest.mark.parametrize(
    "edit",
    [lambda data: data + b"extra: 1\n", lambda data: b"", lambda data: data.replace(b"Claim", b"Result")],
)
def test_record_that_is_no_document(edit: Callable[[bytes], bytes]) -> None:
    audit = asked()
    files: Mapping[str, bytes | None] = {path: edit(data or b"") for path, data in audit.claim(RAW).items()}
    audit.step(files, trailers=CLAIMED)
    assert audit.reason() == "InvalidRecord"


def test_malformed_commit_on_audit() -> None:
    audit = asked()
    audit.step(audit.claim(RAW), trailers=CLAIMED, headers=b"author A <a@example.com> 1 +0000\n")
    assert audit.reason() == "MalformedCommit"


def test_request_from_a_branch_that_needs_approval() -> None:
    history = History.begun()
    audit = Audit(history)
    main, files = history.tip, history.files
    branch = history.step(history.request(RAW) | history.approval("bob", RAW))
    history.tip, history.files = main, files
    audit.step(audit.claim(RAW, observed_revision=main), trailers=CLAIMED, branches=[branch])
    assert audit.reason() == "ClaimNotApproved"
