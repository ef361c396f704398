"""What a desired-state order rests on: each test stands for one check of state_orders, alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trust_history import Audit, History, first_files, request_text, service_text

CHAT = "services/openai-chat.yaml"
OFF = "  enabled: false\n"


def _ordered(audit: Audit, action: str, **said: Any) -> tuple[str, str]:
    """Why an audit that adds such an order does not hold."""
    trailers = (("Capsule-Service", "openai-chat"), ("Capsule-Action", action))
    audit.step(audit.state_order(action=action, **said), trailers=trailers)
    bad = audit.verdict().first_bad
    return (bad.reason, bad.message) if bad else ("", "")


@pytest.mark.parametrize(
    ("extra", "action", "says"), [("", "disable", "enabled"), (OFF, "enable", "disabled")]
)
def test_what_the_document_says_is_told(extra: str, action: str, says: str) -> None:
    audit = Audit(History.begun(first_files() | {CHAT: service_text(extra=extra)}))
    message = f"{action}: the document says {says}"
    assert _ordered(audit, action) == ("StateOrderNotJustified", message)


@pytest.mark.parametrize(
    ("action", "reason"), [("enable", ""), ("disable", "StateOrderAgainstRequest"), ("pause", "")]
)
def test_only_a_persons_disable_holds(action: str, reason: str) -> None:
    files = first_files()
    rule = f"  rules:\n    - {{match: {{action: {action}}}, mayRequest: [operators], approvals: []}}\n"
    files["policy.yaml"] = files["policy.yaml"].replace(b"  rules:\n", rule.encode())
    audit = Audit(History.begun(files))
    raw = request_text(action=action, params="{}")
    audit.history.step(audit.history.request(raw), merge=True)
    trailers = (("Capsule-Request", "r1"), ("Capsule-Action", action))
    audit.step(audit.claim(raw, action=action, approved_by=()), trailers=trailers)
    result = audit.result(raw, action=action, receipt=audit.receipt(raw, action=action))
    audit.step(result, trailers=trailers)
    assert audit.reason() is None
    assert _ordered(audit, "enable")[0] == reason
