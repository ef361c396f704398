"""Every request yields one decision; nothing begins unless nothing is in its way."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from capsule.decide import Attest, Begin, Hold, Refuse, World, decide
from capsule.decide.offers import approvals_wanted
from capsule.documents.types import ApprovalRule, Match, Rule
from capsule.lifecycle import Observation
from capsule.plan import plan
from capsule.trust.state import Finding, MissingApproval, SeenApproval
from capsule_agent.protocol.messages import EvidenceKind
from tests.unit.worlds import (
    NOW,
    claim,
    later,
    operation,
    policy,
    records,
    records_of,
    refusal,
    report,
    request,
    seen,
    service,
    state,
    world,
)


def hold_reason(made: World) -> str:
    decision = decide(made)
    assert not decision.begin
    (hold,) = decision.hold
    assert isinstance(hold, Hold)
    return hold.reason


def refuse_reason(made: World) -> tuple[str, str]:
    decision = decide(made)
    assert not decision.begin
    (refuse,) = decision.refuse
    assert isinstance(refuse, Refuse)
    return refuse.phase, refuse.reason


def test_an_approved_request_begins_once_with_an_id_without_clock() -> None:
    judged = request()
    (begin,) = decide(world(judged)).begin
    assert (begin.attempt, begin.takeover) == (1, False)
    assert begin.op_id == claim(judged).spec.op_id
    assert decide(world(judged, now=later(hours=1))).begin[0].op_id == begin.op_id


FORGE_RULE = Rule(
    match=Match(action="rotateKey"),
    may_request=("operators",),
    approvals=(ApprovalRule(team="reviewers", count=1),),
    evidence="forge",
)
REVIEWED = SeenApproval("bob", "approve", True, "forge", b"", "")


def agent(approvals: int, evidence: EvidenceKind) -> dict[str, Observation]:
    """An agent that rotates for so many approvals of that evidence."""
    offered = replace(report().actions[0], approvals=approvals, evidence=evidence)
    return {"openai-chat": seen(report=replace(report(), actions=(offered,)))}


def test_reviews_are_asked_for_while_approvals_are_missing() -> None:
    judged = request(verdict="proposed", rules={"openai-chat": FORGE_RULE})
    assert decide(world(judged)).attest == (Attest(judged),)
    assert decide(world(judged, now=later(days=30))).attest == ()
    assert decide(world(replace(judged, source="branch"))).attest == ()
    ended = records(records_of(judged, refused=refusal(judged)))
    assert decide(world(judged, records=ended)).attest == ()


def test_reviews_are_looked_at_again_while_what_rests_on_them_is_held() -> None:
    judged = request(rules={"openai-chat": FORGE_RULE}, approvals=(REVIEWED,), evidence="forge")
    begun = decide(world(judged, observations=agent(1, "forge")))
    assert (len(begun.begin), len(begun.attest)) == (1, 1)
    held = decide(world(judged, quarantined=frozenset({judged.name})))
    assert (held.begin, held.attest) == ((), (Attest(judged),))


def test_an_agent_that_wants_signatures_is_not_sent_reviews() -> None:
    judged = request(rules={"openai-chat": FORGE_RULE}, approvals=(REVIEWED,), evidence="forge")
    assert hold_reason(world(judged, observations=agent(1, "signature"))) == "AgentWantsSignatures"
    (hold,) = decide(world(judged, observations=agent(2, "signature"))).hold
    wanted = "the agent of openai-chat wants 2 more signed approvals"
    assert hold.message == f"{wanted}: reviewers type capsule approve {judged.name}"
    assert decide(world(judged, observations=agent(1, "forge"))).begin
    assert decide(world(judged, observations=agent(0, "signature"))).begin


@pytest.mark.parametrize(
    ("schema", "given", "wanted"),
    [
        ({"type": "string", "x-approvals": 2}, {"mode": "hard"}, 2),
        ({"type": "string", "x-approvals": 2}, {}, 1),
        ({"type": "string", "x-approvals": 2, "default": "hard"}, {}, 2),
        ({"type": "string", "x-approvals": "9"}, {"mode": "hard"}, 1),
        ("9", {"mode": "hard"}, 1),
    ],
)
def test_as_many_approvals_are_wanted_as_the_agent_will_count(
    schema: object, given: dict[str, str], wanted: int
) -> None:
    action = replace(report().actions[0], params={"properties": {"mode": schema}}, approvals=1)
    assert approvals_wanted(action, given) == wanted


def test_an_agent_that_wants_signatures_for_what_it_fills_in_is_not_sent_reviews() -> None:
    judged = request(rules={"openai-chat": FORGE_RULE}, approvals=(REVIEWED,), evidence="forge")
    schema = {"properties": {"mode": {"default": "hard", "x-approvals": 1}}}
    action = replace(report().actions[0], params=schema, approvals=0, evidence="signature")
    observations = {"openai-chat": seen(report=replace(report(), actions=(action,)))}
    assert hold_reason(world(judged, observations=observations)) == "AgentWantsSignatures"


@pytest.mark.parametrize("verdict", ["proposed", "rejected", "refused"])
def test_nothing_else_begins(verdict: str) -> None:
    assert not decide(world(request(verdict=verdict, reason="NoRule"))).begin


def test_a_proposed_request_waits_without_a_record() -> None:
    assert decide(world(request(verdict="proposed"))).empty


def test_a_rejection_is_recorded() -> None:
    judged = request(verdict="rejected", message="bob says no")
    assert refuse_reason(world(judged)) == ("Rejected", "RejectedByReviewer")


@pytest.mark.parametrize(("reason", "phase"), [("NoRule", "Rejected"), ("Expired", "Expired")])
def test_a_refused_request_on_main_is_recorded(reason: str, phase: str) -> None:
    assert refuse_reason(world(request(verdict="refused", reason=reason))) == (phase, reason)


def test_a_request_on_its_branch_may_still_be_edited() -> None:
    judged = request(verdict="refused", reason="NoRule", source="branch")
    assert decide(world(judged)).empty
    assert decide(world(request(verdict="approved", source="branch"))).begin


def test_expiry_ends_what_was_not_begun() -> None:
    late = datetime(2026, 12, 1, tzinfo=NOW.tzinfo)
    for verdict in ("approved", "proposed"):
        assert refuse_reason(world(request(verdict=verdict), now=late)) == ("Expired", "Expired")


def test_an_unreadable_document_is_refused() -> None:
    judged = request(verdict="refused", reason="InvalidDocument", document=None)
    assert refuse_reason(world(judged)) == ("Rejected", "InvalidDocument")


def suspended() -> Any:
    return state(suspended=Finding("PolicyNotAuthorised", "policy.yaml changed without approval"))


def frozen() -> Any:
    window = {
        "selector": {"env": "prod"},
        "from": "2026-11-23T00:00",
        "to": "2026-11-24T00:00",
        "timezone": "Europe/Berlin",
    }
    return state(policy=policy(freezes=(window,)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": suspended()}, "Suspended"),
        ({"quarantined": frozenset({"rotate-1"})}, "QuarantinedRequest"),
        ({"state": frozen()}, "Frozen"),
        ({"state": state(service("other"))}, "ServiceGone"),
        ({"observations": {}}, "AgentNotSeen"),
        ({"observations": {"openai-chat": seen(report=None, ok=False)}}, "AgentNotSeen"),
        ({"observations": {"openai-chat": seen(ok=False, message="timeout")}}, "AgentNotReachable"),
    ],
)
def test_what_holds_a_request(changes: dict[str, Any], reason: str) -> None:
    assert hold_reason(world(request(), **changes)) == reason


def test_not_before_holds_until_its_instant() -> None:
    judged = request(spec={"notBefore": "2026-11-24T00:00:00Z"})
    (hold,) = decide(world(judged)).hold
    assert (hold.reason, hold.until) == ("NotBefore", datetime(2026, 11, 24, tzinfo=NOW.tzinfo))
    assert decide(world(judged, now=datetime(2026, 11, 24, 1, tzinfo=NOW.tzinfo))).begin


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": state(service(agent={"key": None}))}, "ObserveOnly"),
        ({"observations": {"openai-chat": seen(report=report(observe=True))}}, "ObserveOnly"),
        ({"observations": {"openai-chat": seen(report=report(actions=()))}}, "UnknownAction"),
        ({"observations": {"openai-chat": seen(report=report(actions=("other",)))}}, "UnknownAction"),
    ],
)
def test_what_refuses_a_request(changes: dict[str, Any], reason: str) -> None:
    assert refuse_reason(world(request(), **changes)) == ("Rejected", reason)


def three(**spec: Any) -> tuple[Any, dict[str, Any]]:
    judged = request(spec={"targets": ("a", "b", "c"), **spec})
    around = {
        "state": state(*(service(name) for name in "abc")),
        "observations": {name: seen(name) for name in "abc"},
    }
    return judged, around


def names(begins: tuple[Begin, ...]) -> list[str]:
    return [begin.service.document.metadata.name for begin in begins]


def test_a_rollout_begins_as_many_as_it_says() -> None:
    judged, around = three(rollout={"parallel": 2})
    decision = decide(world(judged, **around))
    assert names(decision.begin) == ["a", "b"]
    assert [(hold.service, hold.reason) for hold in decision.hold] == [("c", "RolloutWindow")]


def test_a_rollout_counts_what_is_under_way() -> None:
    judged, around = three(rollout={"parallel": 2})
    begun = records_of(judged, operation(judged, "a", None))
    decision = decide(world(judged, records=records(begun), **around))
    assert names(decision.begin) == ["b"]
    assert [ask.claim.spec.service for ask in decision.ask] == ["a"]


def test_a_rollout_stops_on_failure_unless_told_otherwise() -> None:
    judged, around = three()
    failed = records_of(judged, operation(judged, "a", "failed"))
    assert decide(world(judged, records=records(failed), **around)).empty
    judged, around = three(rollout={"onFailure": "continue"})
    failed = records_of(judged, operation(judged, "a", "failed"))
    assert names(decide(world(judged, records=records(failed), **around)).begin) == ["b"]


def test_a_refused_target_refuses_the_whole_request_before_anything_begins_behind_it() -> None:
    judged, around = three(rollout={"parallel": 3})
    around["observations"]["a"] = seen("a", report=report("a", actions=()))
    decision = decide(world(judged, **around))
    assert not decision.begin
    assert len(decision.refuse) == 1


def test_a_request_that_is_done_stays_done() -> None:
    judged = request()
    done = records(records_of(judged, operation(judged)))
    assert decide(world(judged, records=done)).empty
    ended = records(records_of(judged, refused=refusal(judged)))
    assert decide(world(judged, records=ended)).empty


def test_an_executed_request_edited_never_runs_again() -> None:
    judged = request()
    done = records(records_of(judged, operation(judged)))
    edited = request(digest="sha256:" + "b" * 64)
    assert decide(world(edited, records=done)).empty


def test_an_edit_in_the_middle_ends_the_request() -> None:
    judged, around = three()
    begun = records(records_of(judged, operation(judged, "a")))
    edited, _ = three()
    edited = request(digest="sha256:" + "b" * 64, spec={"targets": ("a", "b", "c")})
    assert refuse_reason(world(edited, records=begun, **around)) == ("Cancelled", "ChangedAfterClaim")


def test_a_document_that_became_unreadable_begins_nothing_more() -> None:
    judged, around = three()
    begun = records(records_of(judged, operation(judged, "a")))
    broken = request(document=None, verdict="refused", reason="InvalidDocument")
    assert decide(world(broken, records=begun, **around)).empty
    unclaimed = records(records_of(judged))
    assert refuse_reason(world(broken, records=unclaimed, **around)) == ("Rejected", "InvalidDocument")


def test_one_operation_at_a_time_on_a_service() -> None:
    first, second = request("first"), request("second")
    decision = decide(world(first, second))
    assert [begin.request.name for begin in decision.begin] == ["first"]
    assert [(hold.request.name, hold.reason) for hold in decision.hold] == [("second", "ServiceBusy")]


def test_our_own_claim_is_asked_about_even_when_its_request_is_gone() -> None:
    judged = request()
    running = records(records_of(judged, operation(judged, outcome=None)))
    (ask,) = decide(world(judged, records=running)).ask
    assert ask.request is judged
    (ask,) = decide(world(records=running)).ask
    assert ask.request is None


def test_a_claim_on_a_service_that_is_gone_waits_for_a_person() -> None:
    judged = request()
    running = records(records_of(judged, operation(judged, outcome=None)))
    assert not decide(world(judged, records=running, state=state(service("other")))).ask


def test_a_silent_claim_of_another_is_taken_over_with_the_next_attempt() -> None:
    judged = request()
    other = records(records_of(judged, operation(judged, outcome=None, reconciler="reconciler-2")))
    assert decide(world(judged, records=other)).empty
    lost = frozenset({("rotate-1", "openai-chat")})
    (begin,) = decide(world(judged, records=other, lost_leases=lost)).begin
    assert (begin.attempt, begin.takeover, begin.op_id) == (2, True, claim(judged).spec.op_id)
    edited = request(digest="sha256:" + "b" * 64)
    assert not decide(world(edited, records=other, lost_leases=lost)).begin
    assert not decide(world(records=other, lost_leases=lost)).begin
    assert not decide(world(judged, records=other, lost_leases=lost, state=suspended())).begin


def cancel(victim: str = "rotate-1", name: str = "cancel-1") -> Any:
    return request(name, spec={"action": "cancel", "params": {"request": victim}})


def test_an_approved_cancel_ends_its_victim() -> None:
    victim = request(verdict="proposed")
    (effect,) = decide(world(victim, cancel())).cancel
    assert (effect.request.name, effect.victim.name) == ("cancel-1", "rotate-1")


def test_a_cancel_reaches_what_is_under_way_and_nothing_that_is_finished() -> None:
    victim = request()
    running = records(records_of(victim, operation(victim, outcome=None)))
    assert decide(world(victim, cancel(), records=running)).cancel
    done = records(records_of(victim, operation(victim)))
    assert refuse_reason(world(victim, cancel(), records=done)) == ("Rejected", "NothingToCancel")


def test_what_is_cancelled_in_this_very_pass_does_not_begin() -> None:
    decision = decide(world(request(), cancel()))
    assert decision.cancel
    assert not decision.begin


def test_a_cancel_must_name_every_target_of_its_victim() -> None:
    victim = request(spec={"targets": ("openai-chat", "stripe-pay")}, verdict="proposed")
    assert refuse_reason(world(victim, cancel())) == ("Rejected", "CancelTargets")


def test_what_was_ended_is_not_ended_again() -> None:
    victim = request()
    ended = records_of(victim, operation(victim, outcome=None), refused=refusal(victim, "Cancelled"))
    assert refuse_reason(world(victim, cancel(), records=records(ended))) == ("Rejected", "NothingToCancel")


def test_a_request_moved_after_its_claim_ends() -> None:
    judged, around = three()
    begun = records(records_of(judged, operation(judged, "a")))
    moved = replace(judged, path=judged.path.replace("2026/11", "2026/12"))
    assert refuse_reason(world(moved, records=begun, **around)) == ("Cancelled", "ChangedAfterClaim")


@pytest.mark.parametrize("victim", ["nothing", "cancel-1"])
def test_a_cancel_needs_a_victim_other_than_itself(victim: str) -> None:
    assert refuse_reason(world(cancel(victim))) == ("Rejected", "NothingToCancel")


def test_the_plan_is_made_of_the_decision() -> None:
    begins, waits = request("a-begins", approvals=()), request("b-waits", verdict="proposed", message="")
    refused = request("c-refused", verdict="refused", reason="NoRule", message="no rule")
    missing = request(
        "d-missing", verdict="proposed", missing=(MissingApproval("reviewers", 1, ("bob", "dora")),)
    )
    nobody = request("e-nobody", verdict="proposed", missing=(MissingApproval("reviewers", 2, ()),))
    unreadable = request("f-broken", verdict="refused", reason="InvalidDocument", document=None)
    busy = request("g-busy")
    made = plan(
        world(begins, waits, refused, missing, nobody, unreadable, busy, cancel("b-waits", "h-cancel"))
    )
    assert [(row.request, row.step) for row in made.rows] == [
        ("a-begins", "execute"),
        ("b-waits", "wait for approval"),
        ("c-refused", "refuse"),
        ("d-missing", "wait for approval"),
        ("e-nobody", "wait for approval"),
        ("f-broken", "refuse"),
        ("g-busy", "hold"),
        ("h-cancel", "cancel"),
    ]
    texts = {row.request: row.message for row in made.rows}
    assert texts["a-begins"] == "its rule asks for no approval"
    assert texts["d-missing"] == "1 more of reviewers (bob, dora)"
    assert texts["e-nobody"] == "2 more of reviewers (nobody can)"
    assert made.acts
    assert not made.suspended


def test_a_plan_says_when_it_would_act_on_nothing() -> None:
    made = plan(world(request(), state=suspended()))
    assert not made.acts
    assert made.suspended.startswith("PolicyNotAuthorised: ")


def test_a_plan_shows_takeovers_and_questions() -> None:
    ours, others = request("ours"), request("others", spec={"targets": ("b",)}, approvals=())
    made = plan(
        world(
            ours,
            others,
            state=state(service(), service("b")),
            records=records(
                records_of(ours, operation(ours, outcome=None)),
                records_of(others, operation(others, "b", None, reconciler="reconciler-2")),
            ),
            lost_leases=frozenset({("others", "b")}),
        )
    )
    assert [(row.request, row.step) for row in made.rows] == [
        ("others", "take over"),
        ("ours", "ask the agent"),
    ]


def test_an_expired_proposal_on_a_branch_is_still_shown() -> None:
    late = datetime(2026, 12, 1, tzinfo=NOW.tzinfo)
    branch = request("on-branch", verdict="proposed", source="branch")
    on_main = request("on-main", verdict="proposed")
    rows = plan(world(branch, on_main, now=late)).rows
    assert [(row.request, row.step) for row in rows] == [
        ("on-branch", "wait for approval"),
        ("on-main", "refuse"),
    ]
