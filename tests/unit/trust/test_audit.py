"""The audit branch proved, and every way in which it can fail to hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.trust_history import (
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

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def audited(**approval: Any) -> tuple[Audit, bytes]:
    history = History.begun()
    audit = Audit(history)
    raw = request_text()
    history.step(history.request(raw) | history.approval("bob", raw, **approval), merge=True)
    return audit, raw


def executed() -> tuple[Audit, bytes]:
    audit, raw = audited()
    audit.step(audit.claim(raw), trailers=CLAIMED)
    audit.step(audit.result(raw), trailers=ENDED)
    return audit, raw


def test_an_honest_history_is_proved_whole() -> None:
    audit, _ = executed()
    seen: list[tuple[int, int]] = []
    verdict = audit.verdict(progress=lambda done, total: seen.append((done, total)))
    assert verdict.first_bad is None
    assert verdict.holds
    assert verdict.origin_proved
    assert (verdict.commits, verdict.main_steps, verdict.operations, verdict.unfinished) == (2, 1, 1, 0)
    assert seen == [(2, 2)]


def test_without_a_pinned_root_the_origin_is_unproved() -> None:
    audit, _ = executed()
    verdict = audit.verdict(pinned=False)
    assert verdict.holds
    assert not verdict.origin_proved


def test_no_audit_yet_is_consistent() -> None:
    history = History.begun()
    audit = Audit(history)
    audit.tip = ""
    verdict = audit.verdict()
    assert (verdict.holds, verdict.commits) == (True, 0)


def test_a_root_that_is_no_state_repository() -> None:
    history = History.begun({"README.md": b"x"})
    assert Audit(history).reason() == "BadRoot"


def test_status_main_and_claims_may_come_in_any_mixture() -> None:
    audit, raw = audited()
    audit.step({"status/openai-chat.yaml": b"a"}, trailers=[("Capsule-Service", "openai-chat")])
    audit.step({"status/openai-chat.yaml": b"b", **audit.claim(raw)}, trailers=CLAIMED)
    audit.history.step({"README.md": b"more"})
    audit.step({"status/test/mailer.yaml": b"c"})
    audit.step({"status/openai-chat.yaml": None, **audit.result(raw)}, trailers=ENDED)
    assert audit.reason() is None


def test_a_takeover_goes_on_with_the_next_attempt() -> None:
    audit, raw = audited()
    audit.step(audit.claim(raw), trailers=CLAIMED)
    audit.history.step({"policy.yaml": policy_text(2)}, by="mallory")  # suspended: what was begun goes on
    audit.step(audit.claim(raw, attempt=2), trailers=CLAIMED)
    audit.step(audit.result(raw), trailers=ENDED)
    assert audit.reason() is None


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        (None, {"outcome": "unknown", "reason": "BadAgentSignature"}),
        (None, {"outcome": "cancelled", "reason": "RequestGone"}),
        ({"outcome": "unknown", "reason": "NeverSeen", "action": ""}, {"reason": "JournalChanged"}),
        ({"outcome": "unknown", "reason": "Interrupted"}, {}),
        ({"outcome": "refused", "reason": "Tombstoned", "action": ""}, {"outcome": "cancelled"}),
        ({"outcome": "failed", "reason": "RolledBack", "message": "a\u00a0b"}, {"message": "a\\u00a0b"}),
        (
            {"outcome": "failed", "reason": "RolledBack", "started_at": "2026-11-23T12:00:00Z"},
            {"started_at": datetime(2026, 11, 23, 12, tzinfo=UTC)},
        ),
    ],
)
def test_results_other_than_success(receipt: dict[str, Any] | None, said: dict[str, Any]) -> None:
    audit, raw = audited()
    audit.step(audit.claim(raw), trailers=CLAIMED)
    if receipt is None:
        said = {"bare": True, **said}
    else:
        answer = audit.receipt(raw, **{"outputs": {}, **receipt})
        said = {
            "receipt": answer,
            "outputs": {},
            "outcome": receipt["outcome"],
            "reason": receipt["reason"],
            **said,
        }
    audit.step(audit.result(raw, **said), trailers=[*CLAIMED, ("Capsule-Outcome", said["outcome"])])
    assert audit.verdict().first_bad is None


def test_a_service_that_changed_its_key_or_went_while_an_order_was_under_way() -> None:
    chat = "services/openai-chat.yaml"
    for new, signer in ((service_text(agent_key=key("new")), "new"), (None, "agent")):
        audit, raw = audited()
        audit.step(audit.claim(raw), trailers=CLAIMED)
        change = {chat: (service_text(), new)}
        words = audit.history.change_word("alice", change, "propose")
        audit.history.step({chat: new, **words, **audit.history.change_word("bob", change)}, merge=True)
        made = audit.result(raw, signer=key("new")) if signer == "new" else audit.result(raw)
        audit.step(made, trailers=ENDED)
        assert audit.reason() is None


def test_later_batches_recheck_only_their_own_documents() -> None:
    chat = "services/openai-chat.yaml"
    history = History.begun()
    audit = Audit(history)
    raw = request_text(targets=("openai-chat", "mailer"))
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    audit.step(audit.claim(raw), trailers=CLAIMED)
    change = {chat: (service_text(), None)}
    words = history.change_word("alice", change, "propose") | history.change_word("bob", change)
    history.step({chat: None, **words}, merge=True)
    audit.step(audit.claim(raw, "mailer", approved_by=()), trailers=CLAIMED[:1])
    assert audit.reason() is None
    assert audit.verdict().unfinished == 2


def test_a_request_without_approvals_is_taken_from_its_branch() -> None:
    history = History.begun()
    audit = Audit(history)
    raw = request_text(action="runHealthCheck", targets=("openai-chat", "mailer"))
    main, files = history.tip, history.files
    branch = history.step(history.request(raw))
    history.tip, history.files = main, files
    said: dict[str, Any] = {"action": "runHealthCheck", "approved_by": ()}
    trailers = [("Capsule-Request", "r1"), ("Capsule-Action", "runHealthCheck")]
    audit.step(audit.claim(raw, **said), trailers=trailers, branches=[branch])
    audit.step(audit.claim(raw, "mailer", **said), trailers=trailers)
    audit.step(audit.claim(raw, attempt=2, **said), trailers=trailers, branches=[branch])
    receipt = audit.receipt(raw, action="runHealthCheck")
    audit.step(audit.result(raw, action="runHealthCheck", receipt=receipt), trailers=trailers)
    assert audit.reason() is None


def test_a_built_in_action_needs_no_agent() -> None:
    history = History.begun()
    audit = Audit(history)
    raw = request_text(action="cancel", params='{request: "r9"}')
    history.step(history.request(raw), merge=True)
    said: dict[str, Any] = {"action": "cancel"}
    files = audit.claim(raw, approved_by=(), **said) | audit.result(raw, bare=True, **said)
    audit.step(files, trailers=[("Capsule-Request", "r1"), ("Capsule-Outcome", "succeeded")])
    assert audit.reason() is None


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"phase": "Rejected", "reason": "ObserveOnly", "recorded_at": NOW},
        {"phase": "Rejected", "reason": "UnknownAction", "recorded_at": NOW},
    ],
)
def test_refusals_that_the_request_bears_out(said: Mapping[str, Any]) -> None:
    audit, raw = audited()
    outcome = said.get("phase", "Expired")
    trailers = [("Capsule-Request", "r1"), ("Capsule-Action", "rotateKey"), ("Capsule-Outcome", outcome)]
    audit.step(audit.refusal(raw, **said), trailers=[*trailers, ("Requested-by", "alice")])
    assert audit.reason() is None


def test_a_refusal_of_a_request_that_is_not_signed() -> None:
    history = History.begun()
    audit = Audit(history)
    raw = b"not a request\n"
    history.step({"requests/2026/11/r1/request.yaml": raw})
    now = datetime(2026, 11, 23, tzinfo=UTC)
    refusal = audit.refusal(raw, phase="Rejected", reason="InvalidDocument", recorded_at=now)
    audit.step(refusal, trailers=[("Capsule-Request", "r1"), ("Capsule-Outcome", "Rejected")])
    assert audit.reason() is None


def test_a_reconciler_that_replaces_another_takes_its_own_policy_in() -> None:
    audit, raw = audited()
    audit.step({})
    text = policy_text(2).replace(b"reconciler-1:", b"reconciler-2:")
    text = text.replace(key("reconciler-1").public.text.encode(), key("reconciler-2").public.text.encode())
    words = audit.history.change_word("carol", {"policy.yaml": (policy_text(), text)})
    audit.history.step({"policy.yaml": text, **words}, by="bob")
    audit.step(audit.claim(raw, reconciler="reconciler-2"), trailers=CLAIMED, by=key("reconciler-2"))
    assert audit.reason() is None
    audit.step(audit.result(raw), trailers=ENDED)
    assert audit.reason() == "AuditBadSignature"


def test_the_reconciler_that_is_replaced_may_take_that_in_but_claim_nothing() -> None:
    for claims in (False, True):
        audit, raw = audited()
        audit.step({})
        text = policy_text(2).replace(b"reconciler-1:", b"reconciler-2:")
        text = text.replace(
            key("reconciler-1").public.text.encode(), key("reconciler-2").public.text.encode()
        )
        words = audit.history.change_word("carol", {"policy.yaml": (policy_text(), text)})
        audit.history.step({"policy.yaml": text, **words}, by="bob")
        audit.step(audit.claim(raw) if claims else {}, trailers=CLAIMED if claims else ())
        assert audit.reason() == ("ClaimMismatch" if claims else None)


def test_operations_on_services_without_a_key_prove_nothing() -> None:
    history = History.begun({**first_files(), "services/openai-chat.yaml": service_text(agent_key=None)})
    audit = Audit(history)
    raw = request_text()
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    audit.step(audit.claim(raw), trailers=CLAIMED)
    audit.step(audit.result(raw), trailers=ENDED)
    assert audit.reason() == "ReceiptMismatch"


def test_progress_is_told_now_and_then() -> None:
    history = History.begun()
    audit = Audit(history)
    for at in range(300):
        audit.step({"status/openai-chat.yaml": str(at).encode()})
    seen: list[tuple[int, int]] = []
    assert audit.verdict(progress=lambda done, total: seen.append((done, total))).holds
    assert seen == [(256, 300), (300, 300)]


def test_all_claims_of_a_pass_are_one_commit() -> None:
    history = History.begun()
    audit = Audit(history)
    raw = request_text(targets=("openai-chat", "mailer"))
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    claims = audit.claim(raw) | audit.claim(raw, "mailer")
    audit.step(claims, trailers=[*CLAIMED, ("Capsule-Service", "mailer")])
    assert audit.reason() is None
