"""What somebody tries who would have it recorded that others acknowledged what nobody did."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.paths import RequestFolder
from tests.trust_history import (
    CLAIMED,
    DEFAULT_RULES,
    ENDED,
    Audit,
    History,
    first_files,
    policy_text,
    request_text,
)

GLASS = (
    "{match: {action: rotateKey}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}], breakGlass: {team: operators}}"
)
ACKNOWLEDGE = "{match: {action: acknowledge}, mayRequest: [operators, reviewers], approvals: []}"
ABOUT: dict[str, Any] = {"name": "r2", "action": "acknowledge"}
SAID = (("Capsule-Request", "r2"), ("Capsule-Action", "acknowledge"))


def _begun(asked: bytes, by: str) -> Audit:
    """Audit of a rotation for which alice broke the glass, and of an acknowledgement that was begun."""
    policy = policy_text(rules=(GLASS, ACKNOWLEDGE, *DEFAULT_RULES))
    history = History.begun(first_files() | {"policy.yaml": policy})
    audit = Audit(history)
    raw = request_text().replace(b'reason: "OPS-1"', b'breakGlass: true\n  reason: "Key in a public log"')
    history.step(history.request(raw), merge=True)
    broken: dict[str, Any] = {"approved_by": (), "evidence": "break-glass"}
    left = ("Approved-by", "Capsule-Evidence")
    audit.step(audit.claim(raw, **broken), trailers=[each for each in CLAIMED if each[0] not in left])
    audit.step(audit.result(raw), trailers=[each for each in ENDED if each[0] not in left])
    history.step(history.request(asked, "r2", by=by), merge=True)
    audit.step(audit.claim(asked, requested_by=by, approved_by=(), **ABOUT), trailers=SAID)
    assert audit.reason() is None
    return audit


def _ended(audit: Audit, asked: bytes, **outputs: Any) -> str | None:
    """The verdict on an audit that records the acknowledgement with these outputs."""
    result = audit.result(asked, bare=True, reason="Acknowledged", outputs=outputs, **ABOUT)
    audit.step(result, trailers=SAID)
    return audit.reason()


def _edited(audit: Audit, text: bytes) -> None:
    """Somebody writes another text in place of the request, in the name of anybody."""
    audit.history.step({RequestFolder("2026/11", "r2").request: text})


def test_control_an_honest_acknowledgement_holds() -> None:
    honest = request_text("r2", by="bob", action="acknowledge", params="{request: r1}")
    assert _ended(_begun(honest, "bob"), honest, request="r1") is None


@pytest.mark.parametrize("name", ["alice", "bob", "dave"])
def test_acknowledgement_of_a_text_that_was_written_after_the_claim(name: str) -> None:
    """A harmless acknowledgement by alice is begun; then its text names bob, and the glass she broke."""
    harmless = request_text("r2", action="acknowledge", params="{condition: CorrectionStopped}")
    audit = _begun(harmless, "alice")
    _edited(audit, request_text("r2", by=name, action="acknowledge", params="{request: r1}"))
    assert _ended(audit, harmless, request="r1") == "ResultMismatch"


def test_acknowledgement_of_a_text_that_was_spoiled_after_the_claim() -> None:
    harmless = request_text("r2", action="acknowledge", params="{condition: CorrectionStopped}")
    audit = _begun(harmless, "alice")
    _edited(audit, b"no request\n")
    assert _ended(audit, harmless) == "ResultMismatch"


def test_acknowledgement_of_a_text_that_is_gone_after_the_claim() -> None:
    honest = request_text("r2", by="bob", action="acknowledge", params="{request: r1}")
    audit = _begun(honest, "bob")
    folder = RequestFolder("2026/11", "r2").folder
    audit.history.step({path: None for path in audit.history.files if path.startswith(folder)})
    assert _ended(audit, honest, request="r1") == "ClaimWithoutRequest"
