"""What the reconciler carries out itself: cancel, abort, acknowledge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capsule.decide import Acknowledge, World, decide
from capsule.documents.scalars import instant_text
from capsule.plan import plan
from tests.unit.decide.made import done, kept, recorded
from tests.unit.worlds import NOW, operation, records_of, refusal, request, seen, service, state, world

THREE = ("a", "b", "c")


def abort(victim: str = "rotate-1", **spec: Any) -> Any:
    return request(
        "abort-1", spec={"action": "abort", "params": {"request": victim}, "targets": THREE, **spec}
    )


SINCE = "2026-11-23T11:30:00.000001Z"


def acknowledge(condition: object = "CorrectionStopped", since: object = SINCE, **more: object) -> Any:
    params = {"condition": condition, "since": since, **more}
    return request("seen-1", spec={"action": "acknowledge", "params": params})


def victim(**spec: Any) -> Any:
    return request(spec={"targets": THREE, **spec})


def around(*requests: Any, **changes: Any) -> World:
    values: dict[str, Any] = {
        "state": state(*(service(name) for name in THREE)),
        "observations": {name: seen(name) for name in THREE},
        **changes,
    }
    return world(*requests, **values)


def refused(made: World) -> str:
    (refuse,) = decide(made).refuse
    return refuse.reason


def test_an_abort_ends_what_was_not_begun_and_leaves_no_tombstone() -> None:
    judged = victim()
    running = recorded(judged, done(judged, "a"), operation(judged, "b", None))
    decision = decide(around(judged, abort(), records=running))
    (ended,) = decision.cancel
    assert (ended.victim.name, ended.tombstone) == ("rotate-1", False)
    assert not decision.begin
    assert [each.claim.spec.service for each in decision.ask] == ["b"]


def test_an_abort_leaves_a_takeover_alone_and_a_cancel_does_not() -> None:
    judged = victim()
    running = recorded(judged, operation(judged, "a", None, reconciler="reconciler-2"))
    lost = frozenset({("rotate-1", "a")})
    cancel = request(
        "cancel-1", spec={"action": "cancel", "params": {"request": "rotate-1"}, "targets": THREE}
    )
    assert len(decide(around(judged, abort(), records=running, lost_leases=lost)).begin) == 1
    assert not decide(around(judged, cancel, records=running, lost_leases=lost)).begin
    assert decide(around(judged, cancel, records=running)).cancel[0].tombstone


def test_an_abort_of_what_was_all_begun_is_refused() -> None:
    judged = victim()
    running = recorded(judged, *(operation(judged, name, None) for name in THREE))
    assert refused(around(judged, abort(), records=running)) == "NothingToAbort"
    finished = recorded(judged, *(done(judged, name) for name in THREE))
    assert refused(around(judged, abort(), records=finished)) == "NothingToCancel"
    assert refused(around(judged, abort("nothing"), records=finished)) == "NothingToCancel"


def test_an_abort_of_what_was_not_begun_at_all_ends_it() -> None:
    assert decide(around(victim(), abort())).cancel
    assert refused(around(victim(), abort(targets=("a", "b")))) == "CancelTargets"


def test_an_acknowledge_clears_a_sticky_condition() -> None:
    judged = acknowledge()
    decision = decide(world(judged))
    assert decision.acknowledge == (Acknowledge(judged, "condition", "CorrectionStopped", SINCE),)
    assert not decision.empty
    assert not decision.begin
    again = decide(world(judged, records=recorded(judged, done(judged))))
    assert again.empty


@pytest.mark.parametrize("condition", ["KeyOverdue", "", 7])
def test_other_conditions_need_no_acknowledgement(condition: object) -> None:
    assert refused(world(acknowledge(condition))) == "UnknownCondition"


@pytest.mark.parametrize(
    "since", ["", "yesterday", "2026-11-23", 7, True, "2026-11-23T12:00:00.000001Z", "2027-01-01T00:00:00Z"]
)
def test_an_acknowledge_of_what_nobody_can_have_seen_is_refused(since: object) -> None:
    assert refused(world(acknowledge(since=since))) == "SinceMissing"
    assert decide(world(acknowledge(since=instant_text(NOW)))).acknowledge


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "UnknownCondition"),
        ({"condition": "CorrectionStopped"}, "SinceMissing"),
        ({"since": SINCE}, "UnknownCondition"),
        ({"condition": "CorrectionStopped", "since": SINCE, "request": "rotate-1"}, "AcknowledgeParams"),
        ({"condition": "CorrectionStopped", "since": SINCE, "more": 1}, "AcknowledgeParams"),
        ({"request": "rotate-1", "since": SINCE}, "AcknowledgeParams"),
    ],
)
def test_an_acknowledge_names_one_thing_and_nothing_else(params: dict[str, Any], reason: str) -> None:
    judged = request("seen-1", spec={"action": "acknowledge", "params": params})
    assert refused(world(judged)) == reason


def test_an_acknowledge_waits_for_a_service_that_is_gone() -> None:
    (hold,) = decide(world(acknowledge(), state=state(service("other")))).hold
    assert (hold.reason, hold.service) == ("ServiceGone", "openai-chat")


def test_the_plan_tells_aborts_and_acknowledgements() -> None:
    rows = plan(around(victim(), abort())).rows
    assert [(row.request, row.step, row.message) for row in rows] == [
        ("abort-1", "abort", "ends rotate-1; what runs of it goes on")
    ]
    (row,) = plan(world(acknowledge())).rows
    assert (row.step, row.action, row.message) == ("acknowledge", "acknowledge", "clears CorrectionStopped")


def test_what_was_aborted_is_not_aborted_again() -> None:
    judged = victim()
    ended = records_of(judged, operation(judged, "a", None), refused=refusal(judged, "Cancelled"))
    assert refused(around(judged, abort(), records=kept(ended))) == "NothingToCancel"
    gone = replace(judged, document=None, verdict="refused", reason="InvalidDocument")
    assert "NothingToCancel" in {each.reason for each in decide(around(gone, abort())).refuse}
