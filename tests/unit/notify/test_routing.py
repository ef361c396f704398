"""Routing: which event goes to whom, and when a fact is told again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.documents.types import EventKind, NotifyRoute
from capsule.notify.message import LISTED, message_of
from capsule.notify.routing import Told, Wanted, after_look, fits, is_due, routed
from capsule.view.events import KINDS, Event

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SEARCH = {"team": "search", "env": "prod"}
BILLING = {"team": "billing", "env": "prod"}


def event(
    kind: EventKind = "Drift",
    about: str = "openai-chat",
    labels: tuple[Mapping[str, str], ...] = (SEARCH,),
    teams: tuple[str, ...] = (),
) -> Event:
    return Event(f"{kind}/{about}", kind, about, labels, teams, None, f"{about}: {kind}", ("why",))


def route(to: str = "oncall", **spec: Any) -> NotifyRoute:
    return NotifyRoute.model_validate({"to": to, **spec}, by_alias=True, by_name=False)


# ---- which event goes to whom ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "what", "wanted"),
    [
        ({}, event(), True),
        ({}, event("Finding", "", ()), True),
        ({"events": ("Drift", "KeyOverdue")}, event(), True),
        ({"events": ("KeyOverdue",)}, event(), False),
        ({"selector": {"team": "search"}}, event(), True),
        ({"selector": {"team": "search", "env": "test"}}, event(), False),
        ({"selector": {"team": "billing"}}, event(), False),
        ({"selector": {"team": "billing"}}, event(labels=(SEARCH, BILLING)), True),
        # One service must have all of the labels; two that share them out are not meant.
        ({"selector": {"team": "search", "vendor": "x"}}, event(labels=(SEARCH, {"vendor": "x"})), False),
        ({"selector": {"team": "search"}}, event("ReconcilerSuspended", "", ()), False),
        ({"teams": ("reviewers",)}, event("ApprovalPending", teams=("reviewers", "owners")), True),
        ({"teams": ("reviewers",)}, event("ApprovalPending", teams=("owners",)), False),
        ({"teams": ("reviewers",)}, event("Drift"), True),
    ],
)
def test_which_event_fits_which_route(spec: dict[str, Any], what: Event, wanted: bool) -> None:
    assert fits(what, route(**spec)) is wanted


def test_an_event_goes_to_every_receiver_once() -> None:
    routes = (
        route("oncall", every="5m", repeatAfter="2h", remindAfter="7d"),
        route("oncall", selector={"team": "search"}, remindAfter="1d"),
        route("billing", selector={"team": "billing"}),
        route("oncall", events=("KeyOverdue",), every="1h", remindAfter="1h"),
    )
    found = routed([event()], routes)
    assert set(found) == {"oncall", "billing"}
    assert found["billing"].wanted == {}
    assert found["oncall"].every == HOUR
    assert found["oncall"].repeat_after == 2 * HOUR
    assert found["oncall"].wanted == {
        "Drift/openai-chat": Wanted(event(), 2 * HOUR, timedelta(days=1)),
    }


def test_a_route_without_reminders_takes_none_from_another() -> None:
    found = routed([event()], (route(remindAfter="1h"), route()))
    assert found["oncall"].wanted["Drift/openai-chat"].remind_after == HOUR


_KINDS = st.sampled_from(sorted(KINDS))
_LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
_EVENTS = st.builds(
    event,
    _KINDS,
    st.sampled_from(["one", "two"]),
    st.lists(_LABELS, max_size=2).map(tuple),
    st.lists(st.sampled_from(["t", "u"]), max_size=2).map(tuple),
)
_ROUTES = st.builds(
    lambda to, kinds, labels, teams: route(to, events=tuple(kinds), selector=labels, teams=tuple(teams)),
    st.sampled_from(["p", "q"]),
    st.lists(_KINDS, max_size=3),
    _LABELS,
    st.lists(st.sampled_from(["t", "u"]), max_size=2),
)


@given(st.lists(_EVENTS, max_size=6), st.lists(_ROUTES, max_size=6))
def test_who_is_told_is_who_a_route_names(events: list[Event], routes: list[NotifyRoute]) -> None:
    found = routed(events, routes)
    for name, delivery in found.items():
        own = [each for each in routes if each.to == name]
        assert delivery.wanted.keys() == {e.key for e in events if any(fits(e, each) for each in own)}
    assert found.keys() == {each.to for each in routes}


# ---- when a fact is told again --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "remind", "due"),
    [
        (None, None, True),
        (Told(NOW - 100 * HOUR), None, False),
        (Told(NOW - HOUR), 2 * HOUR, False),
        (Told(NOW - 2 * HOUR), 2 * HOUR, True),
        (Told(NOW - HOUR, ended=NOW - HOUR / 2), None, True),
        (Told(NOW - HOUR / 2, ended=NOW - HOUR / 4), None, False),
    ],
)
def test_what_is_due(told: Told | None, remind: timedelta | None, due: bool) -> None:
    assert is_due(Wanted(event(), HOUR, remind), told, NOW) is due


def test_what_ended_is_remembered_until_its_return_is_news() -> None:
    told = {"holds": Told(NOW - 9 * HOUR), "ended": Told(NOW - HOUR / 2), "old": Told(NOW - 2 * HOUR)}
    kept = after_look(told, ["holds"], HOUR, NOW)
    assert kept == {"holds": Told(NOW - 9 * HOUR), "ended": Told(NOW - HOUR / 2, ended=NOW)}
    assert after_look(kept, ["holds"], HOUR, NOW + HOUR / 4)["ended"].ended == NOW
    back = after_look(kept, ["holds", "ended"], HOUR, NOW + HOUR / 4)
    assert back["ended"].ended == NOW
    assert not is_due(Wanted(event(), HOUR, None), back["ended"], NOW + HOUR / 4)
    assert is_due(Wanted(event(), HOUR, None), back["ended"], NOW + HOUR / 2)


def test_a_clock_that_was_set_back_silences_nobody_for_longer() -> None:
    kept = after_look({"a": Told(NOW + 1000 * HOUR)}, ["a"], HOUR, NOW)
    assert kept == {"a": Told(NOW)}


# ---- texts ----------------------------------------------------------------------------------------


def test_one_event_says_all_about_itself() -> None:
    message = message_of("Town", [event()])
    assert message.title == "Capsule Town: openai-chat: Drift"
    assert message.body == "Drift\nwhy"
    assert message.urgent


def test_many_events_are_one_digest_with_the_worst_first() -> None:
    events = [event("ApprovalPending", f"request-{at}") for at in range(LISTED)]
    message = message_of("", [*events, event("Drift"), event("OperationUnknown")])
    lines = message.body.splitlines()
    assert message.title == f"Capsule: {LISTED + 2} events"
    assert lines[:3] == [
        f"1 OperationUnknown, 1 Drift, {LISTED} ApprovalPending",
        "- openai-chat: OperationUnknown",
        "- openai-chat: Drift",
    ]
    assert len(lines) == LISTED + 2
    assert lines[-1] == "and 2 more; all: capsule notify list"
    assert not message_of("", events).urgent


def test_a_service_cannot_ring_everybody() -> None:
    loud = Event(
        "k", "ServiceUnhealthy", "a", (), (), NOW, "<!channel> @everyone [x](http://y)", ("*a* `b`",)
    )
    message = message_of("T\u202en", [loud])
    assert not set("<>@[]*`\u202e") & set(message.title + message.body)
    assert message.body.endswith("since 2026-11-23 12:00 UTC")


def test_every_kind_has_its_place() -> None:
    assert len(message_of("", [event(kind, "a") for kind in KINDS]).body.splitlines()) == len(KINDS) + 1
