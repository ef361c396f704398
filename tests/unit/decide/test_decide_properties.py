"""Whatever the world is like: what may begin, how much at once, and that nothing claimed is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from capsule.decide import Begin, Decision, World, decide
from capsule.decide.convergence import under_way
from capsule.documents.types import ActionRequest, Service
from capsule.lifecycle import RequestRecords, StateOperation, request_phase
from capsule.plan import plan
from capsule.trust.freezes import frozen_until
from capsule.trust.state import Finding, InForce, JudgedRequest
from capsule_agent.protocol.messages import Report
from tests.unit.decide.made import configure_action, ordered, told
from tests.unit.worlds import (
    NOW,
    claim,
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

NAMES = ("a", "b", "c", "d")
THOROUGH = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test of this file is about speed: a busy machine must not fail it."""
AGES = (0, 3, 20, 50, 200, 400, 1500, 3000)
OTHER_DIGEST = "sha256:" + "b" * 64
BUILT_IN = ("cancel", "abort", "acknowledge")
ACTIONS = ("rotateKey", "rotateKey", "rotateKey", "runHealthCheck", "enable", *BUILT_IN)
OFFERED = ("rotateKey", "runHealthCheck", "enable", "disable")
OUTCOMES = ("succeeded", "failed", "unknown", "cancelled", None)
FREEZE = {
    "selector": {"env": "prod"},
    "from": "2026-11-23T00:00",
    "to": "2026-11-24T00:00",
    "timezone": "UTC",
}


@st.composite
def requests_of(draw: st.DrawFn, name: str) -> JudgedRequest:
    """One request in any verdict, with any targets, rollout, times and place."""
    targets = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    action = draw(st.sampled_from(ACTIONS))
    spec: dict[str, Any] = {
        "targets": tuple(targets),
        "action": action,
        "rollout": {
            "parallel": draw(st.integers(1, 3)),
            "onFailure": draw(st.sampled_from(("stop", "continue"))),
            "pause": draw(st.sampled_from(("0s", "0s", "10m"))),
            "healthCheck": draw(st.sampled_from((False, False, True))),
        },
        "expires": draw(st.sampled_from(("2026-11-30T00:00:00Z", "2026-11-23T11:00:00Z"))),
    }
    if action == "acknowledge":
        spec["params"] = {"condition": draw(st.sampled_from(("CorrectionStopped", "KeyOverdue")))}
    if action in ("cancel", "abort"):
        spec["params"] = {"request": draw(st.sampled_from(("r0", "r1", "r2", "r3", "nothing")))}
    if draw(st.booleans()) and draw(st.booleans()):
        spec["notBefore"] = "2026-11-24T00:00:00Z"
    verdict = draw(st.sampled_from(("approved", "approved", "approved", "proposed", "rejected", "refused")))
    changes: dict[str, Any] = {"spec": spec, "source": draw(st.sampled_from(("main", "branch")))}
    if draw(st.integers(0, 9)) == 0:
        changes["digest"] = OTHER_DIGEST
    if draw(st.integers(0, 19)) == 0:
        verdict = "refused"
        changes["document"] = None
    return request(name, verdict, reason="" if verdict == "approved" else "NoRule", **changes)


@st.composite
def past_of(draw: st.DrawFn, judged: JudgedRequest) -> RequestRecords | None:
    """What may be on record of a request: nothing, a refusal, operations in any state."""
    if draw(st.booleans()):
        return None
    # Claims are of the request as it was then: an edit since has another digest.
    then = request(judged.name, spec={"targets": NAMES})
    done = [
        operation(then, name, draw(st.sampled_from(OUTCOMES)), reconciler=draw(st.sampled_from(RECONCILERS)))
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    ]
    ended = refusal(judged) if draw(st.integers(0, 4)) == 0 else None
    return records_of(judged, *done, refused=ended) if done or ended else None


@st.composite
def orders(draw: st.DrawFn) -> StateOperation:
    """A state order of any kind and age."""
    return any_order(
        draw(st.sampled_from(("disable", "enable", "configure"))),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(("succeeded", "refused", None))),
        draw(st.sampled_from(NAMES)),
        draw(st.sampled_from(AGES)),
        draw(st.sampled_from(RECONCILERS)),
    )


@cache
def any_order(
    action: str, generation: int, outcome: str | None, name: str, age: int, reconciler: str
) -> StateOperation:
    at = NOW - timedelta(seconds=age)
    return ordered(action, generation, outcome, service=name, at=at, reconciler=reconciler)


@cache
def any_service(
    name: str, env: str, enabled: bool, model: str, on_drift: str, propose: str, keyed: bool
) -> InForce[Service]:
    return service(
        name,
        {"env": env},
        enabled=enabled,
        pins={"model": model},
        onDrift=on_drift,
        rotation={"every": "90d", "propose": propose},
        agent={} if keyed else {"key": None},
    )


@st.composite
def reports_of(draw: st.DrawFn, name: str) -> Report:
    """What an able agent may say."""
    made = report(
        name,
        OFFERED,
        enabled=draw(st.integers(0, 3)) > 0,
        disabled_by_host=draw(st.integers(0, 5)) == 0,
        config={"model": draw(st.sampled_from(("gpt-5.1", "gpt-5.2")))},
        key_created_at=draw(st.sampled_from((None, "2026-09-01T00:00:00Z", "2026-08-01T00:00:00Z"))),
    )
    return replace(made, actions=(*made.actions, configure_action("model")))


RECONCILERS = ("reconciler-1", "reconciler-1", "reconciler-2")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any world of up to four requests and four services."""
    asked = [draw(requests_of(f"r{at}")) for at in range(draw(st.integers(0, 4)))]
    past = [found for found in (draw(past_of(each)) for each in asked) if found]
    kept = [each for each in asked if draw(st.integers(0, 9)) > 0]  # a branch may be gone, records stay
    there = [name for name in NAMES if draw(st.integers(0, 9)) > 0]
    services = [
        any_service(
            name,
            draw(st.sampled_from(("prod", "test"))),
            draw(st.integers(0, 5)) > 0,
            draw(st.sampled_from(("gpt-5.1", "gpt-5.2"))),
            draw(st.sampled_from(("report", "correct"))),
            draw(st.sampled_from(("1d", "30d"))),
            draw(st.integers(0, 9)) > 0,
        )
        for name in there
    ]
    frozen = draw(st.booleans())
    suspended = Finding("PolicyNotAuthorised", "x") if draw(st.integers(0, 9)) == 0 else None
    observations = {
        name: seen(
            name,
            ok=draw(st.integers(0, 5)) > 0,
            report=draw(st.sampled_from((report(name), report(name, ()), report(name, observe=True), None)))
            if draw(st.booleans())
            else draw(reports_of(name)),
        )
        for name in NAMES
        if draw(st.integers(0, 5)) > 0
    }
    running = [
        (each.name, item.service) for each in past for item in each.operations.values() if item.running
    ]
    return world(
        *kept,
        state=state(
            *(services or [service("z")]),
            policy=policy(freezes=(FREEZE,) if frozen else ()),
            suspended=suspended,
        ),
        records=told(*draw(st.lists(orders(), max_size=3)), known=records(*past)),
        now=NOW + timedelta(seconds=draw(st.integers(0, 3600))),
        observations=observations,
        lost_leases=frozenset(draw(st.sets(st.sampled_from(running)))) if running else frozenset(),
        lost_orders=frozenset(draw(st.sets(st.sampled_from(NAMES), max_size=1))),
        quarantined=frozenset(draw(st.sets(st.sampled_from(("r0", "r1"))))),
    )


def fresh(decision: Decision) -> list[Begin]:
    """What begins for the first time."""
    return [begin for begin in decision.begin if not begin.takeover]


def document_of(judged: JudgedRequest) -> ActionRequest:
    assert judged.document is not None
    return judged.document


def name_of(begin: Begin) -> str:
    return begin.service.document.metadata.name


@given(worlds())
@THOROUGH
def test_the_same_world_gives_the_same_decision_whatever_the_order_of_its_parts(made: World) -> None:
    decision = decide(made)
    turned = world(
        *reversed(list(made.requests.values())),
        state=made.state,
        records=made.records,
        now=made.now,
        observations=dict(reversed(list(made.observations.items()))),
        lost_leases=made.lost_leases,
        quarantined=made.quarantined,
        lost_orders=made.lost_orders,
    )
    assert decide(turned) == decision
    event(f"begins {len(decision.begin)}")


@given(worlds())
@THOROUGH
def test_what_begins_is_approved_in_time_and_in_nobodys_way(made: World) -> None:
    decision = decide(made)
    running = {operation.service for _, operation in made.records.running()}
    for begin in fresh(decision):
        judged, spec = begin.request, document_of(begin.request).spec
        assert judged.verdict == "approved"
        assert made.requests[judged.name] is judged
        assert made.state.suspended is None
        assert judged.name not in made.quarantined
        assert spec.expires > made.now
        assert spec.not_before is None or spec.not_before <= made.now
        assert spec.action not in BUILT_IN
        assert spec.action != "enable" or begin.service.document.spec.enabled
        assert name_of(begin) in spec.targets
        assert name_of(begin) not in running
        policy_now = made.state.policy.document
        labels = begin.service.document.metadata.labels
        assert frozen_until(policy_now, labels, spec.requested_by, made.now) is None
        assert begin.service is made.state.services[name_of(begin)]
        assert begin.service.document.spec.agent.key is not None
        observed = made.observations[name_of(begin)]
        assert observed.ok
        assert observed.report
        assert not observed.report.observe
        assert spec.action in {action.name for action in observed.report.actions}
        assert begin.attempt == 1


@given(worlds())
@THOROUGH
def test_one_operation_on_a_service_at_a_time(made: World) -> None:
    decision = decide(made)
    first = [name_of(begin) for begin in fresh(decision)]
    told = [each.service.document.metadata.name for each in decision.converge]
    assert len(first + told) == len({*first, *told})
    # `disable` alone waits for nothing: the agent takes it as soon as it is free.
    waiting = {each.service.document.metadata.name for each in decision.converge if each.action != "disable"}
    taken_over = {name_of(begin) for begin in decision.begin if begin.takeover}
    assert not taken_over & {*first, *waiting}


@given(worlds())
@THOROUGH
def test_a_rollout_never_has_more_under_way_than_it_says(made: World) -> None:
    begun: dict[str, int] = {}
    for begin in fresh(decide(made)):
        begun[begin.request.name] = begun.get(begin.request.name, 0) + 1
    for name, count in begun.items():
        past = made.records.of(name)
        running = sum(item.running for item in past.operations.values()) if past else 0
        assert running + count <= document_of(made.requests[name]).spec.rollout.parallel


@given(worlds())
@THOROUGH
def test_a_batch_begins_only_when_the_one_before_is_over_rested_and_well(made: World) -> None:
    for begin in fresh(decide(made)):
        spec, past = document_of(begin.request).spec, made.records.of(begin.request.name)
        rollout, at = spec.rollout, spec.targets.index(name_of(begin))
        if not (rollout.pause or rollout.health_check):
            continue
        for name in spec.targets[: at // rollout.parallel * rollout.parallel]:
            assert past
            result = past.operations[name].result
            assert result
            assert made.now >= result.spec.recorded_at + rollout.pause
            observed = made.observations.get(name)
            if rollout.health_check and name in made.state.services:
                assert observed
                assert observed.report
                assert observed.ok
                assert observed.at > result.spec.recorded_at
                assert observed.report.health.status == "UP"


@given(worlds())
@THOROUGH
def test_before_anything_of_several_targets_begins_none_is_refused_or_held_by_itself(made: World) -> None:
    decision = decide(made)
    held = {(each.request.name, each.reason) for each in decision.hold}
    for begin in fresh(decision):
        past = made.records.of(begin.request.name)
        if past is None or not past.operations:
            reasons = {reason for name, reason in held if name == begin.request.name}
            assert reasons <= {"ServiceBusy", "RolloutWindow"}
            assert begin.request.name not in {each.request.name for each in decision.refuse}


@given(worlds())
@THOROUGH
def test_what_is_told_without_a_request_is_what_the_document_says(made: World) -> None:
    decision = decide(made)
    running = {operation.service for _, operation in made.records.running()}
    for told_now in decision.converge:
        service_now = told_now.service.document
        name = service_now.metadata.name
        assert made.state.suspended is None
        assert told_now.action == "disable" or name not in running
        assert service_now.spec.agent.key is not None
        past = made.records.state_operations(name)
        assert all(told_now.generation > each.generation for each in past)
        waiting = under_way(past)
        replaced = waiting and waiting.order.spec.document_digest != told_now.service.digest
        assert not waiting or name in made.lost_orders or (replaced and told_now.action != "configure")
        observed = made.observations[name]
        assert observed.report
        assert not observed.report.observe
        assert told_now.action in {action.name for action in observed.report.actions}
        if told_now.action == "configure":
            assert service_now.spec.on_drift == "correct"
            assert told_now.params == dict(service_now.spec.pins)
            assert frozen_until(made.state.policy.document, service_now.metadata.labels, "", made.now) is None
        else:
            assert service_now.spec.enabled is (told_now.action == "enable")
            assert not told_now.params
        assert made.state.services[name] is told_now.service
    told_names = {each.service.document.metadata.name for each in decision.converge}
    assert not told_names & {each.service for each in decision.wait}
    event(f"converges {len(decision.converge)}")


@given(worlds())
@THOROUGH
def test_a_disable_that_people_asked_for_is_never_undone_by_itself(made: World) -> None:
    for told_now in decide(made).converge:
        word = made.book.words.get(told_now.service.document.metadata.name)
        assert told_now.action != "enable" or word is None or not word.holds


@given(worlds(), st.sets(st.sampled_from(NAMES)))
@THOROUGH
def test_a_restricted_pass_decides_the_same_of_the_services_it_looks_at(made: World, names: set[str]) -> None:
    whole, part = decide(made), decide(replace(made, converge_only=frozenset(names)))
    chosen = [each for each in whole.converge if each.service.document.metadata.name in names]
    assert list(part.converge) == chosen
    assert [each for each in whole.wait if each.service in names] == list(part.wait)


@given(worlds())
@THOROUGH
def test_what_is_finished_stays_finished(made: World) -> None:
    decision = decide(made)
    for begin in fresh(decision):
        past = made.records.of(begin.request.name)
        if past is None:
            continue
        assert past.refusal is None
        assert name_of(begin) not in past.operations
        assert not request_phase(begin.request, past).final
        claims = [item.claims[0] for item in past.operations.values() if item.claims]
        assert {each.spec.request_digest for each in claims} <= {begin.request.digest}
    for refuse in decision.refuse:
        past = made.records.of(refuse.request.name)
        assert past is None or past.refusal is None


@given(worlds())
@THOROUGH
def test_what_is_claimed_is_asked_about_taken_over_or_waited_for_and_never_begun_anew(made: World) -> None:
    decision = decide(made)
    asked = {(each.claim.spec.request, each.claim.spec.service) for each in decision.ask}
    taken = {(each.request.name, name_of(each)): each for each in decision.begin if each.takeover}
    running = {(each.name, item.service): item.claims[-1].spec for each, item in made.records.running()}
    assert asked <= running.keys()
    assert taken.keys() <= running.keys()
    assert not asked & taken.keys()
    for key, spec in running.items():
        ours = spec.reconciler == made.reconciler
        if key[1] not in made.state.services:
            assert key not in asked | taken.keys()
        elif ours:
            assert key in asked
        else:
            assert key not in asked
            assert key in made.lost_leases or key not in taken
        if key in taken:
            assert made.state.suspended is None
            assert taken[key].attempt == spec.attempt + 1
            assert taken[key].op_id == spec.op_id
            assert taken[key].request.digest == spec.request_digest
    for begin in fresh(decision):
        assert (begin.request.name, name_of(begin)) not in running


@given(worlds())
@THOROUGH
def test_a_request_ends_or_goes_on_but_not_both(made: World) -> None:
    decision = decide(made)
    refused = [each.request.name for each in decision.refuse]
    assert len(refused) == len(set(refused))
    assert not {each.request.name for each in decision.cancel} & set(refused)
    for each in decision.refuse:
        assert each.reason
        assert each.message or each.request.verdict in ("refused", "rejected")
    for hold in decision.hold:
        assert hold.request.verdict == "approved"
        assert hold.reason


@given(worlds())
@THOROUGH
def test_the_plan_tells_each_begin_as_it_is_decided(made: World) -> None:
    told = [(row.request, row.service) for row in plan(made).rows if row.step == "execute"]
    assert sorted(told) == sorted((each.request.name, name_of(each)) for each in fresh(decide(made)))


def test_the_worlds_of_this_file_are_not_all_idle() -> None:
    """A control: an ordinary world of these parts begins something."""
    judged = request("r0", spec={"targets": ("a",)})
    made = world(judged, state=state(service("a")), observations={"a": seen("a")})
    assert [name_of(each) for each in fresh(decide(made))] == ["a"]
    assert claim(judged, "a").spec.op_id == decide(made).begin[0].op_id
