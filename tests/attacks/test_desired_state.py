"""Attacks and accidents that would give a service traffic which a document or a person took from it.

Whole passes with real trust, records and agents. Every test ends with the proof of what is on record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from capsule.decide import Converge
from capsule.documents.codec import load_as
from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES
from capsule.documents.scalars import instant_text
from capsule.documents.types import ServiceStatus, StateOrder
from capsule.lifecycle import read_records
from capsule.reconciler import Reconciler
from capsule.reconciler.orders import Courier
from capsule.reconciler.recording import AuditBranch
from capsule.reconciler.state_records import make_order, order_facts
from capsule.reconciler.watcher import Unwatched
from capsule.store.api import RefUpdate
from capsule.testing.memory_store import MemoryStore
from capsule.transport.api import CallName, TransportError
from capsule.trust.audit import verify_audit
from capsule.trust.objects import file_bytes, read_commit
from capsule.trust.state import MainState
from capsule_agent.journal import Journal
from capsule_agent.protocol.generations import LONGEST_AHEAD, generation_at, generation_text
from capsule_agent.protocol.ids import desired_state_id
from tests.agent_fixtures import key
from tests.town import POLICY, TestClock, Town

CHAT = "openai-chat"
ENDPOINT = f"http://{CHAT}.invalid"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    prove(made)
    made.close()


def prove(town: Town) -> None:
    main = town.tip(MAIN)
    assert main is not None
    verdict = verify_audit(town.store, town.root, main, town.tip(AUDIT))
    assert verdict.first_bad is None, verdict.first_bad


def merge(town: Town, **spec: object) -> None:
    town.commit({f"services/{CHAT}.yaml": town.service_text(CHAT, **spec)}, "Change the service")


def later(town: Town, reconciler: Reconciler, times: int = 1, **amount: float) -> None:
    for _ in range(times):
        town.clock.advance(**amount)
        reconciler.one_pass(patience=5.0)
        town.settle(reconciler)


def said(town: Town) -> list[str]:
    """Such as "disable succeeded", of every desired-state order."""
    return [
        f"{item.order.spec.action} {item.result.spec.outcome if item.result else 'open'}"
        for item in read_records(town.store, town.tip(AUDIT)).state_operations(CHAT)
    ]


def endings(town: Town) -> list[str]:
    """Such as "disable Disabled", of every desired-state order."""
    return [
        f"{item.order.spec.action} {item.result.spec.reason if item.result else 'open'}"
        for item in read_records(town.store, town.tip(AUDIT)).state_operations(CHAT)
    ]


def conditions(town: Town) -> dict[str, datetime]:
    """The conditions on record, and since when each stands."""
    tip = town.tip(AUDIT)
    assert tip is not None
    path = f"status/{CHAT}.yaml"
    data = file_bytes(town.store, read_commit(town.store, tip).tree, path)
    status = load_as(ServiceStatus, data or b"", path)
    return {each.type: each.since for each in status.spec.conditions}


def hears_no_order(town: Town) -> None:
    """From now on the agent answers probes, and no order reaches it."""

    def answer(call: CallName, body: bytes) -> bytes:
        if call == "order":
            raise TransportError("AgentUnreachable", "no route", sent=False)
        return town._answer(CHAT, call, body)

    town.transport.connect(ENDPOINT, answer)


def watched(town: Town) -> list[bool]:
    """The agent hears everything again; whether it takes traffic, after each call from now on."""
    seen: list[bool] = []

    def answer(call: CallName, body: bytes) -> bytes:
        found = town._answer(CHAT, call, body)
        seen.append(town.agents[CHAT].enabled)
        return found

    town.transport.connect(ENDPOINT, answer)
    return seen


def host(town: Town, reason: str | None) -> None:
    """Somebody on the host switches the service off, or (None) lets it go on."""
    journal = Journal(town.folder / f"{CHAT}.db", CHAT)
    journal.set_enabled(reason, by_host=True, now=town.clock.now())


def with_an_enable_that_nobody_heard(town: Town) -> Reconciler:
    """Its document disabled the service and then enabled it; the second order is on record, and unheard."""
    reconciler = town.reconciler()
    town.settle(reconciler)
    merge(town, enabled=False)
    town.settle(reconciler)
    later(town, reconciler, seconds=40)
    hears_no_order(town)
    merge(town, enabled=True)
    later(town, reconciler, seconds=40)
    assert said(town) == ["disable succeeded", "enable open"]
    assert not town.agents[CHAT].enabled
    return reconciler


@pytest.mark.parametrize("away", [False, True])
def test_an_enable_that_was_not_heard_is_told_no_more_once_the_document_disables(
    town: Town, away: bool
) -> None:
    reconciler = with_an_enable_that_nobody_heard(town)
    if away:
        town.transport.disconnect(ENDPOINT)
        later(town, reconciler, seconds=40)
    merge(town, enabled=False, owner="search")
    later(town, reconciler, seconds=1)
    seen = watched(town)
    later(town, reconciler, 6, seconds=40)
    assert said(town)[-1] == "disable succeeded"
    assert True not in seen
    reconciler.close()


def test_a_reconciler_that_comes_back_tells_no_enable_that_people_overruled(town: Town) -> None:
    first = with_an_enable_that_nobody_heard(town)
    host(town, "the host looks into it")
    watched(town)
    second = town.reconciler("reconciler-2")
    town.settle(second)
    later(town, second, 6, minutes=1)
    town.request("disable-1", action="disable", params={"reason": "leaked"})
    later(town, second, 2, seconds=40)
    assert f"disable {CHAT}: succeeded" in town.audit_subjects()[-4:]
    host(town, None)
    seen = watched(town)
    for who in (first, second):
        later(town, who, 4, seconds=40)
    assert True not in seen
    assert endings(town) == ["disable Disabled", "enable Superseded"], "nothing is open for ever"
    town.request("enable-1", action="enable")
    later(town, first, 2, seconds=40)
    assert town.agents[CHAT].enabled, "what was overruled stands in nobody's way"
    first.close()
    second.close()


def test_a_disable_that_was_not_heard_is_told_no_more_once_the_document_enables(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.transport.disconnect(ENDPOINT)
    merge(town, enabled=False)
    later(town, reconciler, seconds=40)
    merge(town, enabled=True)
    later(town, reconciler, seconds=40)
    seen = watched(town)
    later(town, reconciler, 4, seconds=40)
    assert endings(town) == ["disable Superseded"]
    assert False not in seen
    reconciler.close()


def test_every_order_that_a_later_one_replaced_is_settled(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.transport.disconnect(ENDPOINT)
    for owner in ("search", "chat", "sales"):
        merge(town, enabled=False, owner=owner)
        later(town, reconciler, seconds=40)
    assert said(town) == ["disable open"] * 3
    watched(town)
    later(town, reconciler, 4, seconds=40)
    assert endings(town) == ["disable Superseded", "disable Superseded", "disable Disabled"]
    assert not town.agents[CHAT].enabled
    reconciler.close()


# ---- corrections --------------------------------------------------------------------------------


class Region:
    """A value that orders may set, and all that it was set to."""

    def __init__(self, town: Town) -> None:
        self.now = "us"
        self.put: list[str] = []
        town.agents[CHAT].config("region", lambda: self.now, set=self._set)

    def _set(self, value: str) -> None:
        self.now = value
        self.put.append(value)


def correct(town: Town, region: str) -> None:
    merge(town, pins={"model": "m1", "region": region}, onDrift="correct")


def test_a_correction_that_was_not_heard_is_told_no_more_once_the_document_changed(town: Town) -> None:
    region, reconciler = Region(town), town.reconciler()
    town.settle(reconciler)
    hears_no_order(town)
    correct(town, "eu")
    later(town, reconciler, 2, seconds=40)
    assert said(town) == ["configure open"]
    town.transport.disconnect(ENDPOINT)
    correct(town, "ap")
    later(town, reconciler, 2, seconds=40)
    assert said(town) == ["configure open"], "its agent has not said yet that it never ran"
    watched(town)
    later(town, reconciler, 2, seconds=40)
    later(town, reconciler, 2, minutes=6)
    assert endings(town) == ["configure Superseded", "configure Done"]
    assert region.put == ["ap"]
    reconciler.close()


def test_a_correction_whose_answer_was_lost_is_recorded_although_the_document_changed(town: Town) -> None:
    region, reconciler = Region(town), town.reconciler()
    town.settle(reconciler)

    def mute(call: CallName, body: bytes) -> bytes:
        found = town._answer(CHAT, call, body)
        if call == "report":
            return found
        raise TransportError("AgentUnreachable", "reset", sent=True)

    town.transport.connect(ENDPOINT, mute)
    correct(town, "eu")
    later(town, reconciler, seconds=40)
    correct(town, "ap")
    later(town, reconciler, seconds=40)
    watched(town)
    later(town, reconciler, 3, minutes=6)
    assert endings(town) == ["configure Done", "configure Done"]
    assert region.put == ["eu", "ap"]
    reconciler.close()


# ---- generations --------------------------------------------------------------------------------


def stolen(town: Town, reconciler: Reconciler, generation: int) -> StateOrder:
    """An order that whoever stole the reconciler's key makes up: to enable what is enabled already."""
    state = reconciler.in_force
    assert state is not None
    service = state.services[CHAT]
    op_id = desired_state_id(town.root, CHAT, service.digest, generation)
    made = Converge(service, "enable", generation, op_id)
    return make_order(made, state.tip, "reconciler-1", "0" * 32, town.clock.now())


@pytest.mark.parametrize(
    ("ahead", "reason"),
    [(2**53, "GenerationFarAhead"), (LONGEST_AHEAD + 1, "GenerationFarAhead"), (LONGEST_AHEAD, "Enabled")],
)
def test_a_stolen_key_makes_an_agent_deaf_for_a_day_at_most(town: Town, ahead: int, reason: str) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    state = reconciler.in_force
    assert state is not None
    poison = stolen(town, reconciler, min(generation_at(town.clock.now()) + ahead, 2**53 - 1))
    courier = Courier(town.transport, key("reconciler-1"), "reconciler-1", town.root, town.clock)
    answer = courier.tell_state(poison, state.services[CHAT], state)
    assert answer.outcome is not None
    assert answer.outcome.result.spec.reason == reason
    if ahead > LONGEST_AHEAD:
        said_by_agent = answer.outcome.result.spec.message
        assert f"{town.clock.now():%Y-%m-%d %H:%M:%S} UTC" in said_by_agent
        assert generation_text(poison.spec.generation) in said_by_agent
    merge(town, enabled=False)
    later(town, reconciler, 3, seconds=40)
    assert town.agents[CHAT].enabled is (reason == "Enabled")
    later(town, reconciler, 2, hours=24)
    assert not town.agents[CHAT].enabled
    reconciler.close()


def test_an_order_that_a_thief_put_on_record_far_ahead_stands_in_nobodys_way(tmp_path: Path) -> None:
    town = Town(tmp_path)
    reconciler = town.reconciler()
    town.settle(reconciler)
    facts = order_facts([stolen(town, reconciler, 2**53 - 1)])
    branch = AuditBranch(town.store, key("reconciler-1"), "reconciler-1", town.root, Unwatched())
    tips = branch.tips()
    branch.record(tips, facts, tips.observed or town.root, town.clock.now())
    merge(town, enabled=False)
    later(town, reconciler, 3, seconds=40)
    assert not town.agents[CHAT].enabled
    assert said(town) == ["disable succeeded", "enable cancelled"]
    verdict = verify_audit(town.store, town.root, town.tip(MAIN) or "", town.tip(AUDIT))
    assert verdict.first_bad is not None
    assert verdict.first_bad.reason == "GenerationFarAhead"
    reconciler.close()
    town.close()


def test_an_agent_whose_clock_is_a_day_behind_is_waited_for_and_takes_requests(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.agents[CHAT].close()
    right, clock = town.clock, WrongClock(town.clock, -25 * 3600)
    town.clock = clock  # type: ignore[assignment]  # the clock that the agent is started with
    town.start_agent(CHAT)
    town.clock = right
    reconciler = town.reconciler()
    town.settle(reconciler)
    merge(town, enabled=False)
    later(town, reconciler, 3, seconds=40)
    assert said(town) == []
    clock.seconds = 0.0
    later(town, reconciler, 2, minutes=2)
    assert said(town) == ["disable succeeded"]
    reconciler.close()
    prove(town)
    town.close()


# ---- what people acknowledge --------------------------------------------------------------------


def test_an_acknowledgement_covers_no_second_change_of_the_key_made_meanwhile(town: Town) -> None:
    token = ["first"]
    town.agents[CHAT].config("token", lambda: token[-1], sensitive=True)
    reconciler = town.reconciler()
    town.settle(reconciler)
    token.append("second")
    later(town, reconciler, seconds=40)
    seen = conditions(town)["KeyChangedOutsideCapsule"]
    token.append("third")
    later(town, reconciler, seconds=40)
    told = {"condition": "KeyChangedOutsideCapsule", "since": instant_text(seen)}
    town.request("seen-1", action="acknowledge", params=told)
    later(town, reconciler, 2, seconds=40)
    stands = conditions(town)["KeyChangedOutsideCapsule"]
    assert stands > seen
    town.request("seen-2", action="acknowledge", params={**told, "since": instant_text(stands)})
    later(town, reconciler, 2, seconds=40)
    assert "KeyChangedOutsideCapsule" not in conditions(town)
    reconciler.close()


@dataclasses.dataclass
class WrongClock:
    """The town's clock, by so many seconds wrong."""

    right: TestClock
    seconds: float

    def now(self) -> datetime:
        return self.right.now() + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.right.monotonic()

    def nonce(self) -> str:
        return self.right.nonce()


def test_a_clock_that_is_ahead_does_not_undo_what_people_disabled(town: Town) -> None:
    """What the first reconciler recorded is dated after the person's disable, and came before it."""
    ahead = Reconciler(
        town.store,
        town.transport,
        key("reconciler-1"),
        name="reconciler-1",
        root=town.root,
        clock=WrongClock(town.clock, 90),
    )
    town.settle(ahead)
    merge(town, enabled=False)
    town.settle(ahead)
    merge(town, enabled=True)
    later(town, ahead, 5, seconds=2)
    assert said(town) == ["disable succeeded", "enable succeeded"]
    ahead.close()
    right = town.reconciler("reconciler-2")
    town.settle(right)
    town.request("disable-1", action="disable", params={"reason": "leaked"})
    town.settle(right)
    assert not town.agents[CHAT].enabled
    seen = watched(town)
    later(town, right, 10, seconds=60)
    assert True not in seen
    right.close()


class Counting(MemoryStore):
    """A store that counts what is pushed to branches of requests."""

    pushes = 0

    def publish(self, updates: Sequence[RefUpdate]) -> None:
        self.pushes += sum(update.name.startswith(REQUEST_BRANCHES) for update in updates)
        super().publish(updates)


def town_of_machines(folder: Path, store: MemoryStore) -> Town:
    """A town where the reconciler may ask for rotations that people approve."""
    rule = {
        "match": {"action": "rotateKey"},
        "mayRequest": ("operators", "machines"),
        "approvals": ({"team": "reviewers", "count": 1},),
    }
    teams = {**POLICY["teams"], "machines": ("reconciler-1",)}
    return Town(folder, store, policy={**POLICY, "teams": teams, "rules": (rule, *POLICY["rules"])})


def falls_due(town: Town, reconciler: Reconciler) -> None:
    """A key is rotated, and falls due 90 days later."""
    town.settle(reconciler)
    town.request()
    town.settle(reconciler)
    merge(town, rotation={"every": "90d", "propose": "7d"})
    later(town, reconciler, 4, days=21)


def test_whoever_takes_the_name_of_a_proposal_does_not_keep_it_from_being_made(tmp_path: Path) -> None:
    """Anybody who may push branches knows the name beforehand."""
    first = Counting()
    town = town_of_machines(tmp_path / "first", first)
    reconciler = town.reconciler()
    falls_due(town, reconciler)
    (name,) = first.refs(REQUEST_BRANCHES)
    reconciler.close()
    town.close()
    store = Counting()
    town = town_of_machines(tmp_path / "second", store)
    junk = town._commit([], {"junk": b""}, "Nothing", "alice")
    store.publish([RefUpdate(name, None, junk)])
    reconciler = town.reconciler()
    falls_due(town, reconciler)
    for _ in range(3):
        later(town, reconciler, minutes=11)
    ours = [ref for ref in store.refs(REQUEST_BRANCHES) if ref != name]
    assert len(ours) == 1
    request = reconciler.world(_in_force(reconciler)).requests[ours[0].removeprefix(REQUEST_BRANCHES)]
    assert (request.verdict, request.document and request.document.spec.requested_by) == (
        "proposed",
        "reconciler-1",
    )
    reconciler.close()
    prove(town)
    town.close()


def _in_force(reconciler: Reconciler) -> MainState:
    assert reconciler.in_force is not None
    return reconciler.in_force


def test_a_branch_in_the_place_of_a_proposal_does_not_make_every_pass_push(tmp_path: Path) -> None:
    store = Counting()
    town = town_of_machines(tmp_path, store)
    reconciler = town.reconciler()
    falls_due(town, reconciler)
    (branch,) = store.refs(REQUEST_BRANCHES)
    junk = town._commit([], {"junk": b""}, "Nothing", "alice")
    store.publish([RefUpdate(branch, store.refs(branch)[branch], junk)])
    town.settle(reconciler)
    store.pushes = 0
    for _ in range(6):
        later(town, reconciler, seconds=40)
    assert store.pushes <= 1
    reconciler.close()
    prove(town)
    town.close()
