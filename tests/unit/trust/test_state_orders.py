"""Desired-state orders on audit, as an honest reconciler records them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.trust.records import REASONS
from tests.trust_history import (
    GENERATION,
    Audit,
    Files,
    History,
    first_files,
    key,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
MAILER = "services/test/mailer.yaml"
OFF = "  enabled: false\n"
CORRECT = "  onDrift: correct\n"
SWITCHED = (("Capsule-Service", "openai-chat"), ("Capsule-Action", "disable"))
DONE = (*SWITCHED, ("Capsule-Outcome", "succeeded"), ("Capsule-Reason", "Done"))


def begun(extra: str = OFF, **edits: bytes) -> Audit:
    """Audit beside a main whose openai-chat says `extra`."""
    files: Files = first_files() | {CHAT: service_text(extra=extra)} | edits
    return Audit(History.begun(files))


def ordered(extra: str = OFF, action: str = "disable", **said: Any) -> Audit:
    audit = begun(extra)
    audit.step(audit.state_order(action=action, **said), trailers=(SWITCHED[0], ("Capsule-Action", action)))
    return audit


def test_order_and_result_are_proved_and_counted() -> None:
    audit = ordered()
    audit.step(audit.state_result(), trailers=DONE)
    verdict = audit.verdict()
    assert verdict.first_bad is None
    assert (verdict.state_orders, verdict.operations, verdict.unfinished) == (1, 0, 0)


def test_what_the_commits_tell() -> None:
    audit = begun(**{MAILER: service_text("mailer", env="test", extra=OFF)})
    both = audit.state_order() | audit.state_order("mailer")
    audit.step(both, subject="disable: 2 ordered", trailers=(*SWITCHED, ("Capsule-Service", "mailer")))
    files = audit.state_result() | audit.state_result(
        "mailer", answer={"outcome": "refused", "reason": "ActionUnknown", "outputs": {}}
    )
    audit.step(
        files,
        subject="disable: 1 succeeded, 1 refused",
        trailers=(*DONE, ("Capsule-Service", "mailer"), ("Capsule-Outcome", "refused")),
    )
    assert audit.reason() is None


def test_orders_and_results_beside_those_of_a_request() -> None:
    history = History.begun(
        first_files() | {CHAT: service_text(extra=OFF), MAILER: service_text("mailer", env="test")}
    )
    raw = request_text(action="runHealthCheck", targets=["mailer"], params="{}")
    history.step(history.request(raw), merge=True)
    audit = Audit(history)
    asked = (("Capsule-Request", "r1"), ("Capsule-Service", "mailer"), ("Capsule-Action", "runHealthCheck"))
    said: dict[str, Any] = {"action": "runHealthCheck", "approved_by": ()}
    audit.step(
        audit.claim(raw, "mailer", **said) | audit.state_order(),
        subject="runHealthCheck mailer: claimed (+1 more)",
        trailers=(*asked, *SWITCHED),
    )
    receipt = audit.receipt(raw, "mailer", action="runHealthCheck")
    audit.step(
        audit.result(raw, "mailer", action="runHealthCheck", receipt=receipt) | audit.state_result(),
        subject="runHealthCheck: 1 succeeded; disable: 1 succeeded",
        trailers=(*asked, *DONE, ("Capsule-Reason", "Succeeded")),
    )
    assert audit.reason() is None


def test_correction_sets_pins_of_the_document() -> None:
    audit = ordered(CORRECT, "configure", params={"model": "gpt-5.1"})
    answer = {"outputs": {"model": "gpt-5.1"}}
    audit.step(
        audit.state_result(action="configure", answer=answer),
        trailers=(SWITCHED[0], ("Capsule-Action", "configure"), *DONE[2:]),
    )
    assert audit.verdict().state_orders == 1


def test_generations_rise_without_end() -> None:
    audit = ordered()
    audit.step(audit.state_order(generation=GENERATION + 1), trailers=SWITCHED)
    audit.step(audit.state_result(generation=GENERATION + 1), trailers=DONE)
    audit.step(audit.state_result(), trailers=DONE)
    verdict = audit.verdict()
    assert verdict.first_bad is None
    assert verdict.state_orders == 2


def test_generation_goes_on_from_one_that_a_fast_clock_made() -> None:
    fast = GENERATION + 80_000_000
    audit = ordered(generation=fast)
    for more in range(1, 8):
        audit.step(audit.state_order(generation=fast + more), trailers=SWITCHED)
    assert audit.reason() is None


def test_receipt_by_the_key_that_was_in_force_at_the_order_or_since() -> None:
    new = service_text(extra=OFF, agent_key=key("new agent"))
    for signer in ("old", "new agent"):
        audit = ordered()
        digest = audit.document_digest()
        words = audit.history.change_word("bob", {CHAT: (service_text(extra=OFF), new)})
        audit.history.step({CHAT: new, **words}, by="alice")
        seal = {} if signer == "old" else {"signer": key(signer)}
        audit.step(audit.state_result(document_digest=digest, **seal), trailers=DONE)
        assert audit.reason() is None, signer


def test_receipt_after_the_service_is_gone() -> None:
    audit = ordered()
    digest = audit.document_digest()
    words = audit.history.change_word("bob", {CHAT: (service_text(extra=OFF), None)})
    audit.history.step({CHAT: None, **words}, by="alice")
    audit.step(audit.state_result(document_digest=digest), trailers=DONE)
    assert audit.reason() is None
    assert audit.history.judged().services.keys() == {"mailer"}


def test_enabled_again_once_a_document_settled_a_request() -> None:
    """Disabled by a request, then by the document, then enabled by the document."""
    audit = disabled_by_request(enabled=False)
    audit.step(audit.state_order(generation=GENERATION), trailers=SWITCHED)
    later = datetime(2026, 11, 23, 12, 2, tzinfo=UTC)
    audit.step(audit.state_result(recorded_at=later), trailers=DONE)
    on = service_text()
    words = audit.history.change_word("bob", {CHAT: (service_text(extra=OFF), on)})
    audit.history.step({CHAT: on, **words}, by="alice")
    enable = (SWITCHED[0], ("Capsule-Action", "enable"))
    audit.step(audit.state_order(action="enable", generation=GENERATION + 1), trailers=enable)
    assert audit.reason() is None


def test_enabled_again_by_a_document_after_people_enabled_it() -> None:
    """Only a person's `disable` holds: one who enabled a service stands in no document's way."""
    files = first_files()
    rule = b"  rules:\n    - {match: {action: enable}, mayRequest: [operators], approvals: []}\n"
    files["policy.yaml"] = files["policy.yaml"].replace(b"  rules:\n", rule)
    audit = Audit(History.begun(files))
    raw = request_text(action="enable", params="{}")
    audit.history.step(audit.history.request(raw), merge=True)
    enable = (SWITCHED[0], ("Capsule-Action", "enable"))
    asked = (("Capsule-Request", "r1"), *enable)
    audit.step(audit.claim(raw, action="enable", approved_by=()), trailers=asked)
    receipt = audit.receipt(raw, action="enable")
    audit.step(audit.result(raw, action="enable", receipt=receipt), trailers=asked)
    audit.step(audit.state_order(action="enable"), trailers=enable)
    assert audit.reason() is None


def disabled_by_request(*, enabled: bool = True) -> Audit:
    """An audit on which r1 disabled openai-chat, whose document says `enabled`."""
    files = first_files()
    rule = b"  rules:\n    - {match: {action: disable}, mayRequest: [operators], approvals: []}\n"
    files["policy.yaml"] = files["policy.yaml"].replace(b"  rules:\n", rule)
    history = History.begun(files | {CHAT: service_text(extra="" if enabled else OFF)})
    audit = Audit(history)
    raw = request_text(action="disable", params="{}")
    history.step(history.request(raw), merge=True)
    trailers = (("Capsule-Request", "r1"), *SWITCHED)
    audit.step(audit.claim(raw, action="disable", approved_by=()), trailers=trailers)
    receipt = audit.receipt(raw, action="disable")
    audit.step(audit.result(raw, action="disable", receipt=receipt), trailers=trailers)
    assert audit.reason() is None
    return audit


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"outcome": "refused", "reason": "Tombstoned", "outputs": {}}, {"outcome": "cancelled"}),
        ({"outcome": "failed", "reason": "ActionFailed", "outputs": {}, "message": "no"}, {"message": "no"}),
        ({"outcome": "unknown", "reason": "InterruptedInEffect", "outputs": {}}, {}),
    ],
)
def test_results_of_every_outcome(answer: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    audit = ordered()
    audit.step(audit.state_result(answer=answer, **said), trailers=SWITCHED)
    assert audit.reason() is None


def test_every_reason_is_described() -> None:
    reasons = ("StateOrderMismatch", "StateOrderAgainstRequest", "GenerationNotRising", "ResultWithoutOrder")
    assert all(REASONS[reason].endswith(".") for reason in reasons)
