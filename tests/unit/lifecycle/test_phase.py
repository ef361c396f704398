"""The phase of a request follows from what exists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from capsule.lifecycle import FINAL, PhaseNow, request_phase
from capsule.lifecycle.phase import may_continue
from tests.unit.worlds import operation, records_of, refusal, request

THREE = {"targets": ("a", "b", "c")}


@pytest.mark.parametrize(
    ("verdict", "reason", "phase"),
    [
        ("approved", "", "Approved"),
        ("proposed", "", "Proposed"),
        ("rejected", "RejectedByReviewer", "Rejected"),
        ("refused", "NoRule", "Rejected"),
        ("refused", "Expired", "Expired"),
    ],
)
def test_before_any_record_the_verdict_decides(verdict: str, reason: str, phase: str) -> None:
    assert request_phase(request(verdict=verdict, reason=reason), None).phase == phase


def test_an_approved_request_that_waits_is_held() -> None:
    hold = PhaseNow("Held", "Frozen", "a freeze covers it")
    assert request_phase(request(), None, hold) == hold
    assert not hold.final


def test_a_refusal_is_final_and_keeps_its_words() -> None:
    judged = request(verdict="refused")
    found = request_phase(judged, records_of(judged, refused=refusal(judged, "Expired")))
    assert (found.phase, found.reason, found.message) == ("Expired", "NoRule", "no rule matches")
    assert found.final
    assert found.phase in FINAL


def test_a_request_that_is_gone_without_records_is_unknown() -> None:
    assert request_phase(None, None) == PhaseNow(
        "Unknown", "RequestGone", "the request is no longer in the repository"
    )


@pytest.mark.parametrize(
    ("outcome", "phase"),
    [
        ("succeeded", "Succeeded"),
        ("failed", "Failed"),
        ("refused", "Failed"),
        ("unknown", "Unknown"),
        ("cancelled", "Cancelled"),
        (None, "Running"),
    ],
)
def test_one_operation_gives_its_outcome(outcome: str | None, phase: str) -> None:
    judged = request()
    found = request_phase(judged, records_of(judged, operation(judged, outcome=outcome)))
    assert found.phase == phase
    assert found.message == ("1 running" if outcome is None else "rotated")


def test_several_equal_outcomes_are_counted() -> None:
    judged = request(spec=THREE)
    found = request_phase(judged, records_of(judged, *(operation(judged, name) for name in "abc")))
    assert (found.phase, found.message) == ("Succeeded", "3 succeeded")


def test_a_rollout_that_stopped_says_what_was_not_started() -> None:
    judged = request(spec=THREE)
    found = request_phase(
        judged, records_of(judged, operation(judged, "a"), operation(judged, "b", "failed"))
    )
    assert (found.phase, found.message) == ("Stopped", "1 succeeded, 1 failed (b), 1 not started")


def test_a_rollout_goes_on_after_a_success_until_it_is_refused() -> None:
    judged = request(spec=THREE)
    begun = records_of(judged, operation(judged, "a"))
    assert request_phase(judged, begun).phase == "Running"
    ended = replace(begun, refusal=refusal(judged, "Expired"))
    assert request_phase(judged, ended).message == "1 succeeded, 2 not started"
    assert request_phase(judged, ended).phase == "Stopped"


def test_a_rollout_that_goes_on_after_failures_says_so() -> None:
    judged = request(spec={**THREE, "rollout": {"onFailure": "continue"}})
    some = records_of(judged, operation(judged, "a"), operation(judged, "b", "failed"))
    assert may_continue(judged, some)
    assert request_phase(judged, some).phase == "Running"
    every = records_of(judged, *some.operations.values(), operation(judged, "c"))
    assert request_phase(judged, every) == PhaseNow("Failed", "Failed", "2 succeeded, 1 failed (b)")


def test_a_doubt_among_others_is_unknown() -> None:
    judged = request(spec={"targets": ("a", "b")})
    mixed = records_of(judged, operation(judged, "a"), operation(judged, "b", "unknown"))
    assert request_phase(judged, mixed).phase == "Unknown"


def test_records_alone_tell_the_phase_of_a_deleted_branch() -> None:
    judged = request()
    assert request_phase(None, records_of(judged, operation(judged))).phase == "Succeeded"


def test_a_document_that_became_unreadable_continues_nothing_new() -> None:
    judged = request(document=None, verdict="refused")
    begun = records_of(judged, operation(request()))
    assert may_continue(judged, begun)
    assert request_phase(judged, begun).phase == "Succeeded"


def test_attempts_are_ordered_and_the_last_one_counts() -> None:
    judged = request()
    found = operation(judged, outcome=None)
    assert found.running
    assert found.claim is not None
    assert found.claim.spec.claimed_at == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert replace(found, claims=()).claim is None
    assert not replace(found, claims=()).running


def test_an_aborted_rollout_is_stopped_once_what_ran_is_over() -> None:
    judged = request(spec=THREE)
    ended = refusal(judged, "Cancelled")
    ended = ended.model_copy(update={"spec": ended.spec.model_copy(update={"reason": "AbortedByRequest"})})
    running = records_of(judged, operation(judged, "a"), operation(judged, "b", None), refused=ended)
    assert request_phase(judged, running).phase == "Running"
    over = records_of(judged, operation(judged, "a"), operation(judged, "b"), refused=ended)
    found = request_phase(judged, over)
    assert (found.phase, found.reason) == ("Stopped", "AbortedByRequest")
    assert found.message == "2 succeeded, 1 not started"
    never = request_phase(judged, records_of(judged, refused=ended))
    assert (never.phase, never.reason) == ("Cancelled", "AbortedByRequest")


def test_many_failures_are_named_as_far_as_a_line_goes() -> None:
    names = tuple("abcdefgh")
    judged = request(spec={"targets": names, "rollout": {"onFailure": "continue"}})
    outcomes = ["failed"] * 6 + ["refused", "unknown"]
    done = [operation(judged, name, outcome) for name, outcome in zip(names, outcomes, strict=True)]
    assert request_phase(judged, records_of(judged, *done)).message == (
        "6 failed (a, b, c, d, e and 1 more), 1 refused (g), 1 unknown (h)"
    )
