"""What an agent is told because of its service's document, when it is not told yet, and how often at most."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from capsule.decide import (
    Converge,
    LastWord,
    Wait,
    World,
    converge,
    correction_stopped,
    decide,
    orders_under_way,
    read_ledger,
)
from capsule.decide.convergence import BEYOND, MOST_AHEAD, under_way
from capsule.documents.scalars import instant_text
from capsule.documents.types import Correction
from capsule.lifecycle import Records, StateOperation
from capsule.trust.state import Finding
from capsule_agent.protocol.ids import desired_state_id
from capsule_agent.protocol.messages import ActionInfo
from tests.unit.decide.made import (
    able,
    configure_action,
    done,
    ordered,
    other_bytes,
    recorded,
    settings,
    told,
)
from tests.unit.worlds import DIGEST, NOW, ROOT, later, policy, report, request, seen, service, state, world

OTHER = "sha256:" + "b" * 64
GENERATION = 1_795_435_200_000
"""That of NOW, 2026-11-23T12:00:00Z: Unix time in milliseconds."""
OFF = service(enabled=False)
ON = service()
PINNED = service(pins={"model": "gpt-5.1", "version": "1.8.2"}, onDrift="correct")
RUNS = seen(report=able())
STOPPED = seen(report=able(enabled=False))
DRIFTED = seen(report=able("openai-chat", "model", config={"model": "gpt-5.2"}))
DISABLED_BY_US = LastWord("state", "disable", later(hours=-1))
DISABLED_BY_PEOPLE = LastWord("request", "disable", later(hours=-1), "disable-1", "leaked")


def found(target: Any, observation: Any, **facts: Any) -> Converge | Wait | None:
    main = facts.pop("main", state(target))
    return converge(
        main,
        target,
        observation,
        facts.pop("records", Records()),
        facts.pop("now", NOW),
        facts.pop("busy", False),
        facts.pop("word", None),
        **facts,
    )


def order(target: Any, observation: Any, **facts: Any) -> Converge:
    made = found(target, observation, **facts)
    assert isinstance(made, Converge)
    return made


def wait(target: Any, observation: Any, **facts: Any) -> Wait:
    made = found(target, observation, **facts)
    assert isinstance(made, Wait)
    return made


# ---- enabled ------------------------------------------------------------------------------------


def test_a_service_that_is_as_its_document_says_is_told_nothing() -> None:
    assert found(ON, RUNS) is None
    assert found(OFF, STOPPED, word=DISABLED_BY_US) is None
    assert found(OFF, None, word=DISABLED_BY_US) is None
    assert found(ON, None) is None


def test_enabled_false_disables_with_an_id_of_document_and_generation() -> None:
    made = order(OFF, RUNS)
    assert (made.action, made.reason, made.params) == ("disable", "DisabledBySpec", {})
    assert made.generation == GENERATION
    assert made.op_id == desired_state_id(ROOT, "openai-chat", DIGEST, made.generation)


def test_a_generation_rises_even_above_one_of_a_clock_that_ran_ahead() -> None:
    ahead = GENERATION + 1000
    assert order(OFF, RUNS, records=told(ordered("enable", ahead))).generation == ahead + 1


def test_an_order_that_a_thief_dated_far_ahead_stands_in_nobodys_way() -> None:
    for ahead, outcome in product((2**53 - 1, GENERATION + BEYOND + 1), (None, "refused")):
        made = order(OFF, RUNS, records=told(ordered("enable", ahead, outcome)))
        assert (made.action, made.generation) == ("disable", GENERATION)
        busy = orders_under_way(told(ordered("enable", ahead, None)), {}, NOW)
        assert not busy
    assert orders_under_way(told(ordered("enable", GENERATION + BEYOND, None)), {}, NOW)


def test_a_last_order_that_is_dated_ahead_is_waited_for() -> None:
    assert order(OFF, RUNS, records=told(ordered("enable", GENERATION + MOST_AHEAD - 1)))
    for ahead in (MOST_AHEAD, BEYOND):
        made = wait(OFF, RUNS, records=told(ordered("enable", GENERATION + ahead)))
        assert made.reason == "GenerationAhead"
        assert made.until == NOW + timedelta(milliseconds=ahead + 1 - MOST_AHEAD)
        assert "2026-11-24 1" in made.message
        assert "2026-11-23 12:00:00 UTC" in made.message


def test_an_agent_whose_clock_is_behind_is_not_told_what_it_would_refuse() -> None:
    """Its report is from 12:00 by its own clock, and came so much later by ours."""
    limit = timedelta(milliseconds=MOST_AHEAD)
    for late, ok, waits in (
        (limit, True, False),
        (limit + timedelta(milliseconds=1), True, True),
        (timedelta(days=400), True, True),
        (timedelta(days=400), False, False),
    ):
        observation = seen(at=NOW + late, ok=ok, report=able())
        made = found(OFF, observation, now=NOW + late)
        assert isinstance(made, Wait) is waits
    assert isinstance(made, Converge)
    behind = wait(OFF, seen(at=later(days=2), report=able()), now=later(days=2, minutes=1))
    assert (behind.reason, behind.until) == ("AgentClockBehind", None)
    assert "2026-11-23 12:01:00 UTC" in behind.message
    assert "2026-11-25 12:01:00 UTC" in behind.message


@pytest.mark.parametrize("word", [None, DISABLED_BY_PEOPLE, LastWord("state", "enable", later(hours=-1))])
def test_the_document_takes_the_word_even_of_a_service_that_is_off_already(word: LastWord | None) -> None:
    assert order(OFF, STOPPED, word=word).action == "disable"


def test_a_merged_enabled_true_enables_what_a_document_had_disabled() -> None:
    made = order(ON, STOPPED, word=DISABLED_BY_US)
    assert (made.action, made.reason) == ("enable", "EnabledBySpec")
    assert order(ON, STOPPED).action == "enable"


def test_what_people_disabled_holds_until_a_document_settles_it() -> None:
    made = wait(ON, STOPPED, word=DISABLED_BY_PEOPLE)
    assert (made.action, made.reason, made.until) == ("enable", "DisabledByRequest", None)
    assert "disable-1" in made.message


def test_an_enable_that_the_agent_has_not_heard_is_taken_back_at_once() -> None:
    unheard = told(ordered("enable", 5, None, digest=OTHER))
    for observation in (STOPPED, seen(ok=False, report=able(enabled=False), message="no answer")):
        made = order(OFF, observation, word=DISABLED_BY_US, records=unheard)
        assert (made.action, made.generation) == ("disable", GENERATION)


def test_an_enable_that_people_overruled_is_not_under_way() -> None:
    unheard = told(ordered("enable", 5, None))
    operations = unheard.state_operations("openai-chat")
    assert under_way(operations, DISABLED_BY_US) is not None
    assert under_way(operations, DISABLED_BY_PEOPLE) is None
    assert under_way(told(ordered("configure", 5, None)).state_operations("openai-chat"), DISABLED_BY_PEOPLE)


def test_what_the_host_disabled_is_left_to_the_host() -> None:
    assert found(ON, seen(report=able(enabled=False, disabled_by_host=True))) is None


def test_a_disable_does_not_wait_for_an_agent_that_is_away_but_is_given_once() -> None:
    away = seen(ok=False, report=able(), message="no answer")
    assert order(OFF, away).action == "disable"
    assert wait(OFF, away, word=DISABLED_BY_US).reason == "AgentNotReachable"
    gone = seen(ok=False, report=able(enabled=False), message="no answer")
    assert wait(OFF, gone, word=DISABLED_BY_PEOPLE).reason == "AgentNotReachable"
    assert wait(ON, gone, word=DISABLED_BY_US).reason == "AgentNotReachable"


# ---- what is in the way -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"main": state(OFF, suspended=Finding("PolicyNotAuthorised", "x"))}, "Suspended"),
        ({"records": told(ordered("configure", outcome=None))}, "OrderUnderWay"),
        ({"word": replace(DISABLED_BY_PEOPLE, at=NOW)}, "AgentNotSeen"),
        ({"records": told(ordered("enable", at=later(seconds=-5)))}, "AgentNotSeen"),
    ],
)
def test_what_an_order_waits_for(facts: dict[str, Any], reason: str) -> None:
    assert wait(OFF, RUNS, **facts).reason == reason


def test_only_a_disable_does_not_wait_for_operations_of_requests() -> None:
    assert wait(ON, STOPPED, busy=True).reason == "ServiceBusy"
    told_now = found(OFF, RUNS, busy=True)
    assert isinstance(told_now, Converge)


def test_a_switch_by_a_newer_text_of_the_document_replaces_the_order_under_way() -> None:
    older = told(ordered("enable", outcome=None, digest="sha256:" + "e" * 64))
    assert isinstance(found(OFF, RUNS, records=older), Converge)
    assert wait(PINNED, DRIFTED, records=older).reason == "OrderUnderWay"


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (None, "AgentNotSeen"),
        (seen(ok=False, report=None, message="no route"), "AgentNotSeen"),
        (seen(report=able(observe=True)), "ObserveOnly"),
        (seen(report=report(actions=("rotateKey",))), "UnknownAction"),
    ],
)
def test_agents_that_cannot_be_told(observation: Any, reason: str) -> None:
    assert wait(OFF, observation).reason == reason


def test_a_service_without_agent_key_is_never_told() -> None:
    assert wait(service(enabled=False, agent={"key": None}), RUNS).reason == "ObserveOnly"


def test_a_silent_order_of_another_reconciler_gives_way_to_the_next_generation() -> None:
    silent = told(ordered("disable", GENERATION + 7, None, reconciler="reconciler-2"))
    assert wait(OFF, RUNS, records=silent).message == "disable, ordered by reconciler-2"
    assert order(OFF, RUNS, records=silent, lost=True).generation == GENERATION + 8


def test_the_same_order_is_repeated_after_a_pause_that_doubles_up_to_five_minutes() -> None:
    pauses = []
    for count in range(1, 8):
        refused = [ordered("disable", at + 1, "refused", at=later(minutes=-1)) for at in range(count)]
        made = wait(OFF, seen(at=NOW, report=able()), records=told(*refused), now=later(seconds=-55))
        assert made.reason == "OrderRepeated"
        assert made.message == "the last one refused (Done)"
        assert made.until is not None
        pauses.append((made.until - later(minutes=-1)).total_seconds())
        assert order(OFF, seen(report=able()), records=told(*refused), now=made.until).action == "disable"
    assert pauses == [30, 60, 120, 240, 300, 300, 300]


def test_another_document_and_a_wrong_clock_do_not_wait() -> None:
    lately = told(ordered("disable", outcome="refused", at=later(seconds=-20)))
    assert wait(OFF, RUNS, records=lately).reason == "OrderRepeated"
    assert order(other_bytes(OFF, OTHER), RUNS, records=lately).action == "disable"
    ahead = told(ordered("disable", outcome=None, at=later(days=400)))
    assert order(OFF, RUNS, records=ahead, lost=True).action == "disable"


def test_an_order_that_was_given_up_counts_as_given() -> None:
    silent = told(ordered("disable", 1, None, at=later(seconds=-5)))
    assert wait(OFF, RUNS, records=silent, lost=True).message == "the last one was given up"


# ---- drift --------------------------------------------------------------------------------------


def test_drift_is_corrected_where_the_document_says_so_and_the_agent_lets_it() -> None:
    made = order(PINNED, DRIFTED)
    assert (made.action, made.reason, made.params) == ("configure", "DriftFound", {"model": "gpt-5.1"})
    assert made.message == "model gpt-5.2 → gpt-5.1"
    assert found(service(pins={"model": "gpt-5.1"}), DRIFTED) is None


@pytest.mark.parametrize(
    "action",
    [
        configure_action("other"),
        configure_action(approved=["model"]),
        configure_action("model", approvals=1),
        ActionInfo("configure", {"properties": ["model"]}, {}, "low", 0),
        ActionInfo("configure", {}, {}, "low", 0),
    ],
)
def test_what_needs_approval_or_is_not_offered_is_only_reported(action: ActionInfo) -> None:
    offering = replace(report(config={"model": "gpt-5.2"}), actions=(action,))
    assert found(PINNED, seen(report=offering)) is None


def test_a_schema_of_another_form_is_read_as_free() -> None:
    odd = ActionInfo("configure", {"properties": {"model": True}}, {}, "low", 0)
    offering = replace(report(config={"model": "gpt-5.2"}), actions=(odd,))
    assert order(PINNED, seen(report=offering)).params == {"model": "gpt-5.1"}


def test_ignored_pins_equal_pins_and_silent_agents_are_left_alone() -> None:
    assert found(service(pins={"model": "x"}, onDrift="correct", ignoreDrift=("model",)), DRIFTED) is None
    assert found(PINNED, replace(DRIFTED, ok=False)) is None
    assert found(PINNED, None) is None
    assert found(PINNED, seen(report=None)) is None


def test_true_is_not_one() -> None:
    target = service(pins={"cache": True}, onDrift="correct")
    assert order(target, seen(report=able("openai-chat", "cache", config={"cache": 1}))).params == {
        "cache": True
    }


def test_drift_of_a_service_that_people_disabled_is_still_corrected() -> None:
    off = seen(report=able("openai-chat", "model", config={"model": "gpt-5.2"}, enabled=False))
    assert order(PINNED, off, word=DISABLED_BY_PEOPLE).action == "configure"


def test_corrections_wait_for_the_end_of_a_freeze_and_enabled_does_not() -> None:
    window = {"from": "2026-11-23T00:00", "to": "2026-11-24T00:00", "timezone": "Europe/Berlin"}
    main = state(PINNED, policy=policy(freezes=(window,)))
    made = wait(PINNED, DRIFTED, main=main)
    assert (made.reason, made.until) == ("Frozen", datetime(2026, 11, 23, 23, tzinfo=NOW.tzinfo))
    assert order(OFF, RUNS, main=main).action == "disable"


def test_corrections_keep_their_distance_whatever_became_of_them() -> None:
    for outcome in ("succeeded", "refused", "failed", "unknown"):
        lately = told(ordered("configure", outcome=outcome, at=later(minutes=-2)))
        made = wait(PINNED, DRIFTED, records=lately)
        assert (made.reason, made.until) == ("CorrectionPaused", later(minutes=3))
        again = replace(DRIFTED, at=later(minutes=3))
        assert order(PINNED, again, records=lately, now=later(minutes=3)).action == "configure"


def test_the_loop_breaker_stops_until_the_document_changes_or_people_acknowledge() -> None:
    thrice = told(*(ordered("configure", at, at=later(minutes=-50 + 5 * at)) for at in (1, 2, 3)))
    made = wait(PINNED, DRIFTED, records=thrice)
    assert (made.reason, made.until) == ("CorrectionStopped", None)
    assert order(PINNED, DRIFTED, records=thrice, acknowledged=later(minutes=-20)).action == "configure"
    assert order(other_bytes(PINNED, OTHER), DRIFTED, records=thrice).action == "configure"


def test_the_loop_breaker_counts_only_what_lies_close_together() -> None:
    rare = [ordered("configure", at, at=later(minutes=-40 * at)) for at in (3, 2, 1)]
    assert correction_stopped(rare, DIGEST, Correction(), None) is None
    once = Correction(limit=1)
    assert correction_stopped(rare, DIGEST, once, None) == later(minutes=-120)
    assert correction_stopped(rare, DIGEST, once, later(minutes=-60)) == later(minutes=-40)
    assert correction_stopped([ordered("enable")], DIGEST, once, None) is None


@given(
    every=st.integers(1, 60),
    limit=st.integers(1, 5),
    within=st.integers(1, 240),
    answers=st.lists(st.sampled_from(("succeeded", "refused", "failed", "unknown")), min_size=1, max_size=4),
)
@run_with(max_examples=10, deadline=None)
def test_an_agent_that_always_drifts_back_is_corrected_boundedly_for_a_day(
    every: int, limit: int, within: int, answers: list[str]
) -> None:
    correction = {"every": f"{every}m", "limit": limit, "within": f"{within}m"}
    main = state(PINNED, settings=settings(correction=correction))
    orders: list[StateOperation] = []
    for minute in range(24 * 60):
        now = later(minutes=minute)
        assert DRIFTED.report
        lately = replace(DRIFTED, at=now, report=replace(DRIFTED.report, at=instant_text(now)))
        made = converge(main, PINNED, lately, told(*orders), now, False, None)
        if isinstance(made, Converge):
            outcome = answers[len(orders) % len(answers)]
            orders.append(ordered("configure", made.generation, outcome, at=now))
    times = [each.order.spec.ordered_at for each in orders]
    assert all(after - before >= timedelta(minutes=every) for before, after in pairwise(times))
    if every * (limit - 1) <= within:
        assert len(orders) == limit
    else:
        assert limit <= len(orders) == -(-24 * 60 // every)
    generations = [each.generation for each in orders]
    assert generations == sorted(set(generations))


# ---- in a pass ----------------------------------------------------------------------------------


def fleet(**changes: Any) -> World:
    """Three services: one to correct, one to disable, one to enable."""
    drifts = service("a", pins={"model": "gpt-5.1"}, onDrift="correct")
    off, on = service("b", enabled=False), service("c")
    observations = {
        "a": seen("a", report=able("a", "model", config={"model": "gpt-5.2"})),
        "b": seen("b", report=able("b")),
        "c": seen("c", report=able("c", enabled=False)),
    }
    values: dict[str, Any] = {"state": state(drifts, off, on), "observations": observations, **changes}
    return world(**values)


def told_names(made: World) -> list[tuple[str, str]]:
    return [(each.action, each.service.document.metadata.name) for each in decide(made).converge]


def test_a_pass_disables_first() -> None:
    assert told_names(fleet()) == [("disable", "b"), ("configure", "a"), ("enable", "c")]
    assert not decide(fleet()).empty


def test_a_pass_may_be_restricted_to_services_whose_facts_changed() -> None:
    assert told_names(fleet(converge_only=frozenset({"c", "gone"}))) == [("enable", "c")]
    assert told_names(fleet(converge_only=frozenset())) == []


def test_a_request_waits_for_a_state_order_and_a_state_order_for_a_request() -> None:
    judged = request("r", spec={"targets": ("c",)})
    decision = decide(replace(fleet(), requests={"r": judged}))
    assert not decision.begin
    assert [(hold.reason, hold.service) for hold in decision.hold] == [("ServiceBusy", "c")]
    running = recorded(judged, replace(done(judged, "c"), result=None))
    decision = decide(replace(fleet(), requests={"r": judged}, records=running))
    assert [(each.service, each.reason) for each in decision.wait] == [("c", "ServiceBusy")]


def test_a_request_waits_for_an_unanswered_order_until_its_reconciler_is_given_up() -> None:
    judged = request("r", spec={"targets": ("a",)})
    made = fleet(
        records=told(ordered("configure", outcome=None, service="a", reconciler="reconciler-2")),
        converge_only=frozenset(),
    )
    made = replace(made, requests={"r": judged})
    assert [hold.reason for hold in decide(made).hold] == ["ServiceBusy"]
    lost = replace(made, lost_orders=frozenset({"a"}))
    assert [each.request.name for each in decide(lost).begin] == ["r"]


def test_a_ledger_that_is_kept_gives_the_same_decision() -> None:
    judged = request("off", spec={"action": "disable", "targets": ("c",)})
    made = fleet(records=recorded(judged, done(judged, "c")))
    kept = replace(made, ledger=read_ledger(made.records))
    assert decide(kept) == decide(made)
    assert ("enable", "c") not in told_names(made)
