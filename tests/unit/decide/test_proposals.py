"""Keys fall due exactly as long after they were made as their document says; who asks for it, and when."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.decide import World, decide, key_due, next_change, proposal_name, status_change
from capsule.decide.keys import key_created, key_instants
from capsule.documents.scalars import NAME, instant_text
from capsule.plan import plan
from capsule.trust.state import Finding
from tests.unit.decide.made import MINUTE, done, recorded
from tests.unit.worlds import KEY, NOW, later, operation, policy, report, request, seen, service, state, world

DAY = timedelta(days=1)
MADE = NOW - 80 * DAY
DUE = NOW + 10 * DAY
ROTATION = {"every": "90d", "propose": "14d"}
TARGET = service(rotation=ROTATION)
AGED = report(key_created_at=instant_text(MADE))


def asking(**rule: Any) -> Any:
    """A policy under which reconciler-1 may ask for a rotation that people approve."""
    return policy(
        principals={"alice": {"keys": (KEY,)}, "reconciler-1": {"keys": (KEY,), "machine": True}},
        teams={"operators": ("alice",), "owners": ("alice",), "robots": ("reconciler-1",)},
        rules=(
            {
                "match": {"action": "rotateKey"},
                "mayRequest": ("operators", "robots"),
                "approvals": ({"team": "owners", "count": 1},),
                **rule,
            },
        ),
    )


def around(*requests: Any, **changes: Any) -> World:
    values: dict[str, Any] = {
        "state": state(TARGET, policy=asking()),
        "observations": {"openai-chat": seen(report=AGED)},
        **changes,
    }
    return world(*requests, **values)


# ---- who asks, and when -------------------------------------------------------------------------


def test_a_rotation_is_asked_for_so_long_before_it_is_due() -> None:
    (propose,) = decide(around()).propose
    assert (propose.due, propose.service) == (DUE, TARGET)
    assert propose.name == proposal_name("openai-chat", DUE)
    assert propose.name.startswith("20261203-rotate-openai-chat-")
    assert not decide(around()).empty
    assert not decide(around(now=DUE - 14 * DAY - MINUTE)).propose
    assert decide(around(now=DUE - 14 * DAY)).propose
    assert decide(around(now=DUE + 400 * DAY)).propose


@pytest.mark.parametrize(
    "changes",
    [
        {"state": state(TARGET, policy=asking(), suspended=Finding("PolicyNotAuthorised", "x"))},
        {"state": state(TARGET, policy=asking(mayRequest=("operators",)))},
        {"state": state(TARGET, policy=asking(approvals=()))},
        {"state": state(TARGET, policy=asking(match={"action": "configure"}))},
        {"state": state(service(rotation={"every": "90d"}), policy=asking())},
        {"state": state(service(), policy=asking())},
        {"state": state(service(rotation=ROTATION, agent={"key": None}), policy=asking())},
        {"observations": {}},
        {"observations": {"openai-chat": seen()}},
        {
            "observations": {
                "openai-chat": seen(report=report(key_created_at=instant_text(MADE), observe=True))
            }
        },
        {"observations": {"openai-chat": seen(report=report(actions=(), key_created_at=instant_text(MADE)))}},
        {"reconciler": "alice-2"},
        {"converge_only": frozenset({"other"})},
    ],
)
def test_who_cannot_or_need_not_ask_does_not(changes: dict[str, Any]) -> None:
    assert not decide(around(**changes)).propose


def test_a_proposal_is_made_once() -> None:
    (propose,) = decide(around()).propose
    known = request(propose.name, "rejected", spec={"requestedBy": "reconciler-1"})
    assert not decide(around(known)).propose
    assert not decide(around(replace(known, verdict="refused", reason="Expired"))).propose
    past = recorded(known, done(known, outcome="failed"))
    assert not decide(around(records=past)).propose


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"requestedBy": "alice"}},
        {"spec": {"requestedBy": "mallory"}},
        {"spec": {"action": "runHealthCheck"}},
        {"spec": {"targets": ("other",)}},
        {"spec": {"targets": ("openai-chat", "other")}},
        {"verdict": "refused", "reason": "BadSignature"},
        {"verdict": "refused", "reason": "RequestUnsigned"},
        {"verdict": "refused", "reason": "InvalidDocument", "document": None},
    ],
)
def test_whoever_takes_the_name_of_a_proposal_only_makes_it_take_the_next(changes: dict[str, Any]) -> None:
    names = [proposal_name("openai-chat", DUE, again) for again in range(4)]
    assert len(set(names)) == 4
    asked = {"requestedBy": "reconciler-1", **changes.get("spec", {})}
    squatted = request(names[0], **{"verdict": "rejected", **changes, "spec": asked})
    (propose,) = decide(around(squatted)).propose
    assert propose.name == names[1]
    (propose,) = decide(around(squatted, taken=frozenset(names[1:3]))).propose
    assert propose.name == names[3]
    ours = request(names[2], "rejected", spec={"requestedBy": "reconciler-1"})
    assert not decide(around(squatted, ours, taken=frozenset(names[1:2]))).propose
    recorded_name = recorded(request(names[1]), done(request(names[1])))
    (propose,) = decide(around(squatted, records=recorded_name)).propose
    assert propose.name == names[2]


def test_every_due_date_and_every_service_has_proposals_of_its_own() -> None:
    early = request(proposal_name("openai-chat", DUE - DAY), "rejected", spec={"requestedBy": "reconciler-1"})
    assert decide(around(early)).propose
    other = {"requestedBy": "reconciler-1", "targets": ("other",)}
    assert decide(around(request(proposal_name("other", DUE), "rejected", spec=other))).propose
    for name in (proposal_name("a" * 63, DUE, 3), proposal_name("openai-chat", DUE, 10**6)):
        assert re.fullmatch(NAME, name)


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({}, False),
        ({"verdict": "approved"}, False),
        ({"verdict": "rejected"}, True),
        ({"verdict": "refused", "reason": "NoRule"}, True),
        ({"spec": {"action": "runHealthCheck"}}, True),
        ({"spec": {"targets": ("other",)}}, True),
        ({"spec": {"expires": "2026-11-23T11:00:00Z"}}, True),
        ({"document": None, "verdict": "refused", "reason": "InvalidDocument"}, True),
    ],
)
def test_an_open_request_for_a_rotation_is_enough(changes: dict[str, Any], asks: bool) -> None:
    judged = request("by-hand", **{"verdict": "proposed", **changes})
    assert bool(decide(around(judged)).propose) is asks


def test_a_request_that_is_over_is_not_open_and_one_that_runs_past_its_expiry_is() -> None:
    judged = request("by-hand", spec={"expires": "2026-11-23T11:00:00Z"})
    running = recorded(judged, operation(judged, outcome=None))
    assert not decide(around(judged, records=running)).propose
    over = request("by-hand")
    assert decide(around(over, records=recorded(over, done(over)))).propose


def test_the_plan_tells_what_will_be_asked_for() -> None:
    (row,) = plan(around()).rows
    assert (row.service, row.action, row.step, row.reason) == (
        "openai-chat",
        "rotateKey",
        "propose",
        "KeyDueSoon",
    )
    assert row.message == "its key is due on 2026-12-03; people approve"


@given(
    st.from_regex(re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"), fullmatch=True),
    st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1)),
)
@settings(deadline=None)
def test_every_proposal_has_a_name_that_a_request_can_have(name: str, due: datetime) -> None:
    found = proposal_name(name, due.replace(tzinfo=UTC))
    assert re.fullmatch(NAME, found)
    assert found != proposal_name(name, due.replace(tzinfo=UTC) + DAY)


# ---- exactly so long ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "every", "due"),
    [
        ("2028-02-28T12:00:00Z", 1, "2028-02-29T12:00:00Z"),
        ("2028-02-29T00:00:00Z", 365, "2029-02-28T00:00:00Z"),
        ("2027-02-28T12:00:00Z", 1, "2027-03-01T12:00:00Z"),
        ("2027-12-02T00:00:00Z", 90, "2028-03-01T00:00:00Z"),
        ("2026-12-02T00:00:00Z", 90, "2027-03-02T00:00:00Z"),
    ],
)
def test_leap_days_are_days(made: str, every: int, due: str) -> None:
    found = key_due(datetime.fromisoformat(made), every * DAY)
    assert found == datetime.fromisoformat(due)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_change_of_clocks_moves_no_due_date(zone: str) -> None:
    """Noon before the clocks change: 90 days later the wall shows another hour, and the key is as old."""
    noon = datetime(2027, 1, 15, 12, tzinfo=ZoneInfo(zone))
    due = key_due(noon.astimezone(UTC), 90 * DAY)
    assert due is not None
    assert (due - noon.astimezone(UTC)).total_seconds() == 90 * 86400
    assert due.astimezone(ZoneInfo(zone)).hour != 12


def test_a_clock_that_lies_moves_nothing_beyond_the_calendar() -> None:
    late, early = datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)
    assert key_due(None, DAY) is None
    assert key_due(late, DAY) is None
    assert key_instants(TARGET.document, late) == ()
    patient = service(rotation={"every": "1d", "propose": "30000d"}).document
    assert key_instants(patient, early) == (early + DAY,)
    lying = seen(report=report(key_created_at=instant_text(late)))
    assert not decide(around(observations={"openai-chat": lying})).propose
    assert key_created(report()) is None


# ---- what the status says of it -----------------------------------------------------------------


def condition(now: datetime, observation: Any = None, target: Any = TARGET) -> list[tuple[str, str]]:
    aged = report(key_created_at=instant_text(MADE))
    before = status_change(state(target), target, seen(report=aged), None, MADE)
    assert before
    found = status_change(state(target), target, observation, before.status, now)
    return [(each.type, each.message) for each in found.status.spec.conditions] if found else []


def test_a_key_that_falls_due_is_said_though_the_agent_is_silent() -> None:
    assert condition(DUE - 15 * DAY) == []
    assert condition(DUE - 14 * DAY) == [("KeyDueSoon", "the key is due on 2026-12-03")]
    assert condition(DUE) == [("KeyOverdue", "the key was due on 2026-12-03")]
    silent = seen(ok=False, report=None, reason="AgentTimeout", failing_since=DUE)
    assert condition(DUE, silent) == [("KeyOverdue", "the key was due on 2026-12-03")]
    quiet = service(rotation={"every": "90d"})
    assert condition(DUE - DAY, target=quiet) == []


def test_who_asks_is_told_when_time_alone_changes_the_status() -> None:
    aged = seen(report=report(key_created_at=instant_text(MADE)))
    found = status_change(state(TARGET), TARGET, aged, None, MADE)
    assert found
    known = found.status
    assert next_change(TARGET, known, NOW - 30 * DAY) == DUE - 14 * DAY
    assert next_change(TARGET, known, NOW) == DUE
    assert next_change(TARGET, known, DUE) is None
    renewed = seen(report=report(key_created_at=instant_text(NOW)))
    assert next_change(TARGET, known, NOW, observation=renewed) == NOW + 76 * DAY
    assert next_change(service(), known, NOW, observation=aged) is None
    failing = replace(aged, ok=False, failing_since=later(seconds=-20))
    assert next_change(TARGET, known, NOW, observation=failing, grace=MINUTE) == later(seconds=40)
    unsaid = replace(failing, failing_since=None)
    assert next_change(TARGET, known, NOW, observation=unsaid, grace=MINUTE) == later(minutes=1)
    assert next_change(TARGET, known, NOW, observation=aged, grace=MINUTE) == DUE
