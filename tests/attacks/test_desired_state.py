"""Attacks and accidents that would give a service traffic which a document or a person took from it.

Whole passes with real trust, records and agents. Every test ends with the proof of what is on record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES
from capsule.lifecycle import read_records
from capsule.reconciler import Reconciler
from capsule.store.api import RefUpdate
from capsule.testing.memory_store import MemoryStore
from capsule.transport.api import CallName, TransportError
from capsule.trust.audit import verify_audit
from capsule_agent.journal import Journal
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
    town.request("enable-1", action="enable")
    later(town, first, 2, seconds=40)
    assert town.agents[CHAT].enabled, "what was overruled stands in nobody's way"
    first.close()
    second.close()


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


def test_a_branch_in_the_place_of_a_proposal_does_not_make_every_pass_push(tmp_path: Path) -> None:
    rule = {
        "match": {"action": "rotateKey"},
        "mayRequest": ("operators", "machines"),
        "approvals": ({"team": "reviewers", "count": 1},),
    }
    teams = {**POLICY["teams"], "machines": ("reconciler-1",)}
    store = Counting()
    town = Town(tmp_path, store, policy={**POLICY, "teams": teams, "rules": (rule, *POLICY["rules"])})
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.settle(reconciler)
    merge(town, rotation={"every": "90d", "propose": "7d"})
    later(town, reconciler, 4, days=21)
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
