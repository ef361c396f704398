"""A rollout: all targets are looked at first, batches rest and are looked after, nothing else begins."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from capsule.decide import Decision, World, decide
from capsule.decide.rollout import batch_of
from capsule.plan import plan
from capsule_agent.protocol.messages import HealthReport
from tests.unit.decide.made import done, kept, ordered, recorded, settings, told
from tests.unit.worlds import NOW, later, policy, records_of, report, request, seen, service, state, world

NAMES = "abcd"
DOWN = HealthReport("DOWN", "no upstream", "2026-11-23T12:00:00Z")


def rollout(parallel: int = 2, **changes: Any) -> Any:
    """A request for four services, in batches of `parallel`."""
    spec = changes.pop("spec", {})
    return request(spec={"targets": tuple(NAMES), "rollout": {"parallel": parallel, **changes}, **spec})


def around(judged: Any, *operations: Any, **changes: Any) -> World:
    values: dict[str, Any] = {
        "state": state(*(service(name) for name in NAMES)),
        "observations": {name: seen(name) for name in NAMES},
        "records": recorded(judged, *operations),
        **changes,
    }
    return world(judged, **values)


def begun(made: World) -> list[str]:
    return [each.service.document.metadata.name for each in decide(made).begin]


def holds(made: World) -> list[tuple[str | None, str]]:
    return [(each.service, each.reason) for each in decide(made).hold]


def only_hold(made: World) -> Any:
    decision = decide(made)
    assert not decision.begin
    (hold,) = decision.hold
    return hold


# ---- before the first claim ---------------------------------------------------------------------


def test_one_target_that_cannot_be_reached_holds_all_of_them() -> None:
    observations = {name: seen(name, ok=name not in "bd", message="no route") for name in NAMES}
    hold = only_hold(around(rollout(), records=kept(), observations=observations))
    assert (hold.service, hold.reason) == ("b", "AgentNotReachable")
    assert hold.message == ("nothing is begun before all targets are ready: b (and 1 more of 4): no route")


def test_once_begun_each_target_waits_for_itself() -> None:
    judged = rollout()
    observations = {name: seen(name, ok=name != "b") for name in NAMES}
    made = around(judged, done(judged, "a"), observations=observations)
    assert begun(made) == ["c", "d"]
    assert holds(made) == [("b", "AgentNotReachable")]


def test_one_target_that_refuses_refuses_all_of_them() -> None:
    observations = {name: seen(name, ok=name != "a") for name in NAMES}
    observations["d"] = seen("d", report=report("d", ()))
    decision = decide(around(rollout(), records=kept(), observations=observations))
    assert not decision.begin
    assert [(each.phase, each.reason) for each in decision.refuse] == [("Rejected", "UnknownAction")]


def test_a_disable_reaches_whom_it_can_at_once() -> None:
    judged = rollout(4, onFailure="continue", spec={"action": "disable"})
    observations = {name: seen(name, report=report(name, ("disable",))) for name in NAMES}
    observations["a"] = seen("a", ok=False, report=report("a", ("disable",)))
    observations["b"] = seen("b", report=report("b", ()))
    made = around(judged, records=kept(), observations=observations)
    assert begun(made) == ["c", "d"]
    assert holds(made) == [("a", "AgentNotReachable"), ("b", "UnknownAction")]
    assert not decide(made).refuse
    observed = {name: seen(name, report=report(name, ("disable",), observe=True)) for name in NAMES}
    nobody = decide(around(judged, records=kept(), observations=observed))
    assert [(each.phase, each.reason) for each in nobody.refuse] == [("Rejected", "ObserveOnly")]
    assert not nobody.hold
    careful = rollout(4, spec={"action": "disable"})
    assert not begun(around(careful, records=kept(), observations=observations))


def test_a_busy_target_holds_itself_alone() -> None:
    judged, other = rollout(parallel=4), request("z", spec={"targets": ("b",)})
    running = records_of(other, replace(done(other, "b"), result=None))
    made = around(judged, records=kept(running))
    assert begun(made) == ["a", "c", "d"]
    assert holds(made) == [("b", "ServiceBusy")]


def test_a_frozen_target_says_when_the_request_is_released() -> None:
    windows = tuple(
        {"selector": {"ring": ring}, "from": "2026-11-23T00:00", "to": to, "timezone": "UTC", "reason": why}
        for ring, to, why in (("1", "2026-11-24T00:00", ""), ("2", "2026-11-25T00:00", "Black Friday"))
    )
    services = [service(name, {"ring": str(at)}) for at, name in enumerate(NAMES)]
    main = state(*services, policy=policy(freezes=windows))
    hold = only_hold(around(rollout(), records=kept(), state=main))
    assert (hold.service, hold.reason, hold.until) == (
        "b",
        "Frozen",
        datetime(2026, 11, 25, tzinfo=NOW.tzinfo),
    )
    assert hold.message.endswith("a freeze of the policy covers it")
    alone = request(spec={"targets": ("c",)})
    assert only_hold(world(alone, state=main)).message == "a freeze of the policy covers it: Black Friday"


def test_a_release_that_depends_on_more_than_time_is_not_promised() -> None:
    window = {
        "selector": {"ring": "1"},
        "from": "2026-11-23T00:00",
        "to": "2026-11-24T00:00",
        "timezone": "UTC",
    }
    services = [service(name, {"ring": str(at)}) for at, name in enumerate(NAMES)]
    made = around(rollout(), records=kept(), state=state(*services, policy=policy(freezes=(window,))))
    unseen = {name: each for name, each in made.observations.items() if name != "d"}
    assert only_hold(replace(made, observations=unseen)).until is None


def test_a_target_that_is_gone_holds_all() -> None:
    made = around(rollout(), records=kept(), state=state(*(service(name) for name in "abd")))
    assert only_hold(made).reason == "ServiceGone"


def test_enable_is_refused_where_the_document_says_otherwise() -> None:
    judged = request(spec={"action": "enable"})
    seen_off = {"openai-chat": seen(report=report(actions=("enable", "disable"), enabled=False))}
    off = world(judged, state=state(service(enabled=False)), observations=seen_off, converge_only=frozenset())
    (refuse,) = decide(off).refuse
    assert (refuse.phase, refuse.reason) == ("Rejected", "DisabledBySpec")
    on = replace(off, state=state(service()))
    assert begun(on) == ["openai-chat"]


# ---- batches ------------------------------------------------------------------------------------


def test_a_rollout_without_pause_or_check_has_no_batches() -> None:
    judged = rollout()
    assert judged.document
    assert batch_of(judged.document, "a") is None
    made = around(judged, done(judged, "a"), replace(done(judged, "b"), result=None))
    assert begun(made) == ["c"]


def test_a_batch_waits_for_every_result_of_the_batch_before() -> None:
    judged = rollout(pause="10m")
    first = around(judged, records=kept())
    assert begun(first) == ["a", "b"]
    assert holds(first) == [("c", "RolloutWindow"), ("d", "RolloutWindow")]
    second = around(judged, done(judged, "a"), replace(done(judged, "b"), result=None))
    assert begun(second) == []
    assert {each.message for each in decide(second).hold} == {
        "waits for the batch before: b has no result yet"
    }


def test_a_batch_rests_before_the_next_begins() -> None:
    judged = rollout(pause="10m")
    made = around(judged, done(judged, "a", at=later(minutes=-9)), done(judged, "b", at=later(minutes=-3)))
    decision = decide(made)
    assert begun(made) == []
    assert [(each.service, each.reason, each.until) for each in decision.hold] == [
        ("c", "RolloutPause", later(minutes=7)),
        ("d", "RolloutPause", later(minutes=7)),
    ]
    assert begun(replace(made, now=later(minutes=7))) == ["c", "d"]


def checked(judged: Any, **seen_after: Any) -> World:
    """A first batch (a, b) that ended 30 seconds ago; `seen_after` are observations since."""
    at = later(seconds=-30)
    operations = (done(judged, "a", at=at), done(judged, "b", at=at))
    observations = {name: seen(name) for name in NAMES} | seen_after
    return around(judged, *operations, observations=observations)


def complaint(**seen_after: Any) -> str:
    decision = decide(checked(rollout(healthCheck=True), **seen_after))
    assert not decision.begin
    assert {each.reason for each in decision.hold} == {"RolloutHealth"}
    return decision.hold[0].message


def test_a_batch_begins_when_all_before_it_are_healthy() -> None:
    assert begun(checked(rollout(healthCheck=True))) == ["c", "d"]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (seen("b", at=later(seconds=-30)), "b was not seen since its operation"),
        (seen("b", report=None), "b was not seen since its operation"),
        (seen("b", ok=False, message="no route"), "b does not answer: no route"),
        (seen("b", report=report("b", health=DOWN)), "b is DOWN: no upstream"),
        (seen("b", report=report("b", enabled=False)), "b is disabled"),
    ],
)
def test_a_batch_waits_for_the_health_of_the_one_before(observation: Any, message: str) -> None:
    assert complaint(b=observation) == message


def test_a_batch_that_stays_ill_past_grace_says_what_a_person_can_do() -> None:
    judged = rollout(healthCheck=True)
    ill = checked(judged, b=seen("b", at=later(minutes=3), report=report("b", health=DOWN)))
    decision = decide(replace(ill, now=later(minutes=3)))
    assert not decision.begin
    assert not decision.refuse
    assert decision.hold[0].message == (
        "b is DOWN: no upstream; mend it, or abort the request, which else waits until it expires"
    )
    patient = state(*(service(name) for name in NAMES), settings=settings(probe={"grace": "1h"}))
    assert "abort" not in decide(replace(ill, now=later(minutes=3), state=patient)).hold[0].message


def test_what_was_disabled_before_is_healthy_without_traffic() -> None:
    judged = rollout(healthCheck=True)
    off = seen("b", report=report("b", enabled=False))
    by_spec = state(*(service(name, enabled=name != "b") for name in NAMES))
    nobody = frozenset[str]()
    assert begun(replace(checked(judged, b=off), state=by_spec, converge_only=nobody)) == ["c", "d"]
    by_host = seen("b", report=report("b", enabled=False, disabled_by_host=True))
    assert begun(checked(judged, b=by_host)) == ["c", "d"]
    made = checked(judged, b=off)
    people = request("off", spec={"action": "disable", "targets": ("b",)})
    past = [*made.records.all(), records_of(people, done(people, "b"))]
    assert begun(replace(made, records=kept(*past), converge_only=nobody)) == ["c", "d"]
    on = replace(checked(judged), state=by_spec, converge_only=nobody)
    assert {each.message for each in decide(on).hold} == {"b is enabled"}


def test_after_a_disable_or_an_enable_the_service_must_be_so() -> None:
    for action, enabled in (("disable", False), ("enable", True)):
        judged = rollout(healthCheck=True, spec={"action": action})
        good = {name: seen(name, report=report(name, (action,), enabled=enabled)) for name in NAMES}
        nobody = frozenset[str]()
        assert begun(replace(checked(judged, **good), converge_only=nobody)) == ["c", "d"]
        bad = good | {"a": seen("a", report=report("a", (action,), enabled=not enabled))}
        assert not begun(replace(checked(judged, **bad), converge_only=nobody))


def test_a_service_that_is_gone_is_not_waited_for() -> None:
    made = checked(rollout(healthCheck=True))
    without = {name: each for name, each in made.observations.items() if name != "b"}
    gone = replace(made, state=state(*(service(name) for name in "acd")), observations=without)
    assert begun(gone) == ["c", "d"]
    assert "b was not seen" in decide(replace(made, observations=without)).hold[0].message


def test_a_failure_in_a_batch_stops_the_rollout() -> None:
    judged = rollout(pause="1s")
    made = around(judged, done(judged, "a"), done(judged, "b", "failed"))
    assert decide(made) == Decision()


# ---- the plan tells it --------------------------------------------------------------------------


def test_the_plan_numbers_the_batches() -> None:
    judged = rollout(pause="10m")
    rows = plan(around(judged, records=kept())).rows
    assert [(row.service, row.step, row.message.rpartition(" (")[2]) for row in rows] == [
        ("a", "execute", "batch 1 of 2)"),
        ("b", "execute", "batch 1 of 2)"),
        ("c", "hold", "batch 2 of 2)"),
        ("d", "hold", "batch 2 of 2)"),
    ]
    assert judged.document
    assert batch_of(judged.document, "nobody") is None
    one = rollout(4, pause="10m").document
    assert batch_of(one, "a") is None


def test_the_plan_tells_what_converges_and_what_waits() -> None:
    off, on = service("a", enabled=False), service("b", enabled=False)
    observations = {
        "a": seen("a", report=report("a", ("disable",))),
        "b": seen("b", report=report("b", ("disable",))),
    }
    lately = told(ordered("disable", outcome="refused", service="b", at=later(seconds=-20)))
    made = plan(world(state=state(off, on), observations=observations, records=lately))
    assert [(row.service, row.action, row.step, row.reason, row.until) for row in made.rows] == [
        ("a", "disable", "converge", "DisabledBySpec", None),
        ("b", "disable", "wait", "OrderRepeated", later(seconds=10)),
    ]
    assert made.acts
