"""Refusals that a request bears out, and those beside them that it does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.documents.codec import load_as
from capsule.documents.digests import bytes_digest
from capsule.documents.types import ActionRequest, Metadata, Refusal, RefusalSpec
from capsule.trust.record_checks import BadRecord
from capsule.trust.refusals import check_refusal
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, MainState, SeenApproval
from tests.trust_history import History, request_text, service_text

OVER = datetime(2026, 11, 30, tzinfo=UTC)
BEFORE = datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC)


def judged(raw: bytes | None = None, **said: Any) -> tuple[JudgedRequest, MainState]:
    """The request r1, without approvals unless `said`, and main."""
    history = History.begun()
    history.step(history.request(raw or request_text()))
    state = history.judged()
    return replace(judge_requests(history, state)["r1"], **said), state


def borne_out(
    found: tuple[JudgedRequest, MainState],
    phase: str,
    reason: str,
    *,
    at: datetime = OVER,
    digest: str = "",
    begun: tuple[tuple[str, str], ...] = (),
    cancels: tuple[JudgedRequest, ...] = (),
) -> bool:
    request, state = found
    spec: dict[str, Any] = {
        "request": "r1",
        "request_digest": digest or request.digest,
        "phase": phase,
        "reason": reason,
        "message": "",
        "observed_revision": state.tip,
        "recorded_at": at,
    }
    refusal = Refusal(
        api_version="capsule/v1", kind="Refusal", metadata=Metadata(name="r1"), spec=RefusalSpec(**spec)
    )
    try:
        check_refusal(refusal, request, begun, cancels, state)
    except BadRecord as bad:
        return bad.reason != "RefusalNotPlausible"
    return True


# ---- expired ----


def test_a_request_expires_at_its_time_and_no_second_earlier() -> None:
    assert borne_out(judged(), "Expired", "Expired", at=OVER)
    assert not borne_out(judged(), "Expired", "Expired", at=BEFORE)


def test_what_expires_says_so_and_nothing_else() -> None:
    over = judged(verdict="approved", reason="")
    assert borne_out(over, "Expired", "Expired")
    assert borne_out(over, "Rejected", "ObserveOnly")
    assert not borne_out(over, "Expired", "ObserveOnly")
    assert not borne_out(judged(verdict="refused", reason="NotEntitled"), "Expired", "NotEntitled")


def test_a_request_that_nobody_can_read_never_expires() -> None:
    assert not borne_out(judged(b"nonsense"), "Expired", "Expired")


# ---- rejected ----


def seen(who: str, decision: Any, *, counts: bool) -> SeenApproval:
    return SeenApproval(who, decision, counts, "signature", b"", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), False),
        ((seen("bob", "reject", counts=True),), True),
        ((seen("dave", "approve", counts=True), seen("bob", "reject", counts=True)), True),
        ((seen("mallory", "reject", counts=False),), False),
        ((seen("dave", "approve", counts=True),), False),
    ],
)
def test_a_rejection_needs_one_person_whose_rejection_counts(
    words: tuple[SeenApproval, ...], expected: bool
) -> None:
    found = judged(verdict="rejected", reason="Rejected", approvals=words)
    assert borne_out(found, "Rejected", "RejectedByReviewer") is expected


# ---- disabled ----


def enable(*targets: str) -> tuple[JudgedRequest, MainState]:
    raw = request_text(action="enable", targets=("openai-chat", "mailer"))
    document = load_as(ActionRequest, raw, "request.yaml")
    spec = document.spec.model_copy(update={"targets": targets})
    return judged(document=document.model_copy(update={"spec": spec}), verdict="approved", reason="")


def test_one_disabled_service_or_none_that_is_in_force() -> None:
    request, state = enable("openai-chat", "mailer")
    history = History.begun()
    off = service_text("mailer", env="test", extra="  enabled: false\n")
    history.step({"services/test/mailer.yaml": off}, by="alice")
    disabled = history.judged()
    assert not disabled.services["mailer"].document.spec.enabled
    assert borne_out((request, disabled), "Rejected", "DisabledBySpec")
    assert not borne_out((request, state), "Rejected", "DisabledBySpec")
    assert not borne_out(enable("gone"), "Rejected", "DisabledBySpec")


# ---- cancelled ----


def test_a_request_that_nobody_can_read_is_cancelled_by_its_name() -> None:
    raw = request_text("c1", action="cancel", targets=("openai-chat",), params="{request: r1}")
    cancel, _ = judged(raw)
    document = load_as(ActionRequest, raw, "request.yaml")
    cancel = replace(cancel, name="c1", document=document, verdict="approved", digest=bytes_digest(raw))
    assert borne_out(judged(b"nonsense"), "Cancelled", "CancelledByRequest", cancels=(cancel,))
    assert borne_out(judged(), "Cancelled", "CancelledByRequest", cancels=(cancel,))
    assert not borne_out(judged(), "Cancelled", "AbortedByRequest", cancels=(cancel,))
    assert not borne_out(judged(), "Cancelled", "Whatever", cancels=(cancel,))


def test_one_of_several_cancellations_that_names_the_request_is_enough_and_none_is_not() -> None:
    found = judged()
    raw = request_text("c1", action="cancel", params="{request: r1}")
    cancel = replace(judged(raw)[0], document=load_as(ActionRequest, raw, "request.yaml"), verdict="approved")
    other_raw = raw.replace(b"request: r1", b"request: r2")
    other = replace(cancel, document=load_as(ActionRequest, other_raw, "request.yaml"))
    assert borne_out(found, "Cancelled", "CancelledByRequest", cancels=(other, cancel))
    assert not borne_out(found, "Cancelled", "CancelledByRequest", cancels=(other,))
    assert not borne_out(found, "Cancelled", "CancelledByRequest")


def test_a_request_changed_after_its_claim_where_one_claim_was_of_other_bytes_or_of_another_place() -> None:
    found = judged()
    own = (found[0].path, found[0].digest)
    for other in ((found[0].path, "sha256:" + "0" * 64), ("requests/2026/10/r1/request.yaml", own[1])):
        assert borne_out(found, "Cancelled", "ChangedAfterClaim", begun=(own, other))
    assert not borne_out(found, "Cancelled", "ChangedAfterClaim", begun=(own,))
    assert not borne_out(found, "Cancelled", "ChangedAfterClaim")


# ---- as it was judged ----


def test_a_refusal_is_of_the_bytes_it_names_and_for_the_reason_they_were_refused_for() -> None:
    request, state = judged(verdict="refused", reason="NotEntitled")
    assert borne_out((request, state), "Rejected", "NotEntitled")
    assert not borne_out((request, state), "Rejected", "NoRule")
    assert not borne_out((request, state), "Rejected", "NotEntitled", digest="sha256:" + "0" * 64)
    waiting = replace(request, verdict="proposed", reason="ApprovalsMissing")
    assert not borne_out((waiting, state), "Rejected", "ApprovalsMissing")
