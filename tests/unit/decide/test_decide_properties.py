"""Whatever the world is like: what may begin, how much at once, and that nothing claimed is forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from capsule.decide import Begin, Decision, World, decide
from capsule.documents.types import ActionRequest
from capsule.lifecycle import RequestRecords, request_phase
from capsule.plan import plan
from capsule.trust.policy import frozen_until
from capsule.trust.state import Finding, JudgedRequest
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
OTHER_DIGEST = "sha256:" + "b" * 64
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
    action = draw(st.sampled_from(("rotateKey", "rotateKey", "runHealthCheck", "cancel")))
    spec: dict[str, Any] = {
        "targets": tuple(targets),
        "action": action,
        "rollout": {
            "parallel": draw(st.integers(1, 3)),
            "onFailure": draw(st.sampled_from(("stop", "continue"))),
        },
        "expires": draw(st.sampled_from(("2026-11-30T00:00:00Z", "2026-11-23T11:00:00Z"))),
    }
    if action == "cancel":
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


RECONCILERS = ("reconciler-1", "reconciler-1", "reconciler-2")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any world of up to four requests and four services."""
    asked = [draw(requests_of(f"r{at}")) for at in range(draw(st.integers(0, 4)))]
    past = [found for found in (draw(past_of(each)) for each in asked) if found]
    kept = [each for each in asked if draw(st.integers(0, 9)) > 0]  # a branch may be gone, records stay
    labels = {name: {"env": draw(st.sampled_from(("prod", "test")))} for name in NAMES}
    there = [name for name in NAMES if draw(st.integers(0, 9)) > 0]
    services = [
        service(name, labels[name], **({} if draw(st.integers(0, 9)) else {"agent": {"key": None}}))
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
            else report(name, ("rotateKey", "runHealthCheck")),
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
        records=records(*past),
        now=NOW + timedelta(seconds=draw(st.integers(0, 3600))),
        observations=observations,
        lost_leases=frozenset(draw(st.sets(st.sampled_from(running)))) if running else frozenset(),
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
    )
    assert decide(turned) == decision
    event(f"begins {len(decision.begin)}")


@given(worlds())
@settings(max_examples=300)
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
        assert spec.action != "cancel"
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
def test_one_operation_on_a_service_at_a_time(made: World) -> None:
    decision = decide(made)
    first = [name_of(begin) for begin in fresh(decision)]
    assert len(first) == len(set(first))
    taken_over = {name_of(begin) for begin in decision.begin if begin.takeover}
    assert not taken_over & set(first)


@given(worlds())
def test_a_rollout_never_has_more_under_way_than_it_says(made: World) -> None:
    begun: dict[str, int] = {}
    for begin in fresh(decide(made)):
        begun[begin.request.name] = begun.get(begin.request.name, 0) + 1
    for name, count in begun.items():
        past = made.records.of(name)
        running = sum(item.running for item in past.operations.values()) if past else 0
        assert running + count <= document_of(made.requests[name]).spec.rollout.parallel


@given(worlds())
@settings(max_examples=300)
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
@settings(max_examples=300)
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
def test_the_plan_tells_each_begin_as_it_is_decided(made: World) -> None:
    told = [(row.request, row.service) for row in plan(made).rows if row.step == "execute"]
    assert sorted(told) == sorted((each.request.name, name_of(each)) for each in fresh(decide(made)))


def test_the_worlds_of_this_file_are_not_all_idle() -> None:
    """A control: an ordinary world of these parts begins something."""
    judged = request("r0", spec={"targets": ("a",)})
    made = world(judged, state=state(service("a")), observations={"a": seen("a")})
    assert [name_of(each) for each in fresh(decide(made))] == ["a"]
    assert claim(judged, "a").spec.op_id == decide(made).begin[0].op_id
