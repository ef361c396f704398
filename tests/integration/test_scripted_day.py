"""A day of fifty services, simulated: what happened must be readable in `git log audit`, and nothing else.

Rules kept: agents, signatures, trust and records are the real thing; the network and the clock are ours. The
list at the end is exact: a fact that is not material never makes a commit, and one that is always does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES
from capsule.reconciler import Reconciler
from capsule.reconciler.probing import Probing
from capsule.trust.audit import verify_audit
from capsule.trust.objects import parse_commit
from capsule.trust.state import MainState
from capsule_agent import Health
from tests.town import POLICY, START, Town

ORDINARY = tuple(f"adapter-{number:02}" for number in range(1, 41))
QUIET = frozenset(ORDINARY) - {"adapter-07"}
FLEET = tuple(f"fleet-{number}" for number in range(1, 7))
SERVICES = ("crm-sync", "mail-out", "openai-chat", "vault-keys", *FLEET, *ORDINARY)
DAY: dict[str, Any] = {
    **POLICY,
    "teams": {**POLICY["teams"], "operators": ("alice", "reconciler-1")},
    "freezes": (
        {
            "selector": {"env": "prod"},
            "from": "2026-11-23T19:00",
            "to": "2026-11-23T20:00",
            "timezone": "Europe/Berlin",
        },
    ),
}


@dataclass
class Day:
    """The town and what happens in it, by minutes since the start."""

    town: Town
    happenings: dict[int, Callable[[], object]] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    region: str = "eu"

    def at(self, hours: int, minutes: int, what: Callable[[], object]) -> None:
        """`what` happens so long after the start."""
        self.happenings[hours * 60 + minutes] = what

    def gone(self, name: str) -> None:
        self.town.transport.disconnect(f"http://{name}.invalid")

    def back(self, name: str) -> None:
        self.town.transport.connect(
            f"http://{name}.invalid", lambda call, body: self.town._answer(name, call, body)
        )

    def service(self, name: str, **spec: Any) -> None:
        self.town.commit({f"services/{name}.yaml": self.town.service_text(name, **spec)}, f"Change {name}")

    def play(self, reconciler: Reconciler) -> None:
        """Every five minutes, every minute while something flaps, what is due happens and passes see it."""
        _answer_before_orders(reconciler._probing)
        for minute in range(24 * 60):
            happens = self.happenings.get(minute)
            if happens:
                happens()
            if happens or minute % 5 == 0 or 600 <= minute < 640:
                look(reconciler)
            self.town.clock.advance(minutes=1)


def _answer_before_orders(probing: Probing) -> None:
    """What a pass asks is answered before it orders anything: a slow thread makes no other story."""
    start = probing.start_due

    def start_and_wait(state: MainState, wanted: Iterable[str]) -> None:
        start(state, wanted)
        probing.wait(10.0)

    probing.start_due = start_and_wait  # type: ignore[method-assign]  # on this one alone


def look(reconciler: Reconciler) -> None:
    """Passes until one is quiet; all answers to one pass land before the next, so that a day is one story."""
    for _ in range(30):
        report = reconciler.one_pass(patience=10.0)
        if report.quiet:
            return
        reconciler._probing.wait(10.0)
    raise AssertionError("the passes found no end")


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    town = Town(tmp_path, services=SERVICES, policy=DAY)
    made = Day(town)
    for name in SERVICES:
        town.agents[name].health(lambda name=name: Health(made.health.get(name, "UP"), ""))  # type: ignore[misc,arg-type]  # words

    def move(value: str) -> None:
        made.region = value

    town.agents["mail-out"].config("region", lambda: made.region, set=move)
    slow = {"health": {"interval": "10m"}}
    rarely = {"health": {"interval": "60m"}}
    files: dict[str, bytes | None] = {
        f"services/{name}.yaml": town.service_text(name, **(rarely if name in QUIET else slow))
        for name in SERVICES
    }
    files["services/crm-sync.yaml"] = town.service_text("crm-sync", health={"interval": "1m"})
    files["services/mail-out.yaml"] = town.service_text(
        "mail-out", pins={"model": "m1", "region": "eu"}, onDrift="correct", **slow
    )
    files["services/vault-keys.yaml"] = town.service_text(
        "vault-keys", rotation={"every": "12h", "propose": "2h"}, **slow
    )
    town.commit(files, "Say how often")
    yield made
    town.close()


def write_the_day(day: Day) -> None:
    town = day.town
    # An outage: the network of one service is gone for half an hour.
    day.at(0, 30, lambda: day.gone("adapter-07"))
    day.at(1, 0, lambda: day.back("adapter-07"))
    # A key is rotated by request; twelve hours later it is due.
    day.at(1, 20, lambda: town.request("rotate-vault", targets=("vault-keys",)))
    # Drift that is only reported, and drift that is corrected.
    day.at(2, 0, lambda: town.models.__setitem__("openai-chat", "m2"))
    day.at(3, 0, lambda: town.models.__setitem__("openai-chat", "m1"))
    day.at(4, 0, lambda: setattr(day, "region", "us"))
    # Somebody changes a key beside Capsule.
    day.at(5, 0, lambda: setattr(town.keys["adapter-30"], "in_use", "key-by-hand"))
    # A request in the freeze (19:00 to 20:00 in Berlin is 18:00 to 19:00 UTC) waits for its end.
    day.at(6, 10, lambda: town.request("rotate-chat", targets=("openai-chat",)))
    # A rollout over six services, two at a time: the fourth cannot make a key, so the last two never begin.
    day.at(8, 0, lambda: _rollout(day))
    # One service flaps from ten hours on, for half an hour.
    for minute in range(600, 612, 2):
        day.at(10, minute - 600, lambda: day.health.__setitem__("crm-sync", "DOWN"))
        day.at(10, minute - 599, lambda: day.health.__setitem__("crm-sync", "UP"))
    # Out of service by its document, and in again.
    day.at(12, 0, lambda: day.service("adapter-12", enabled=False, health={"interval": "60m"}))
    day.at(12, 30, lambda: day.service("adapter-12", enabled=True, health={"interval": "60m"}))
    # The proposed rotation is approved and merged an hour after the key was due.
    day.at(14, 20, lambda: _approve_proposal(day))


def _rollout(day: Day) -> None:
    def refuse(step: str) -> None:
        if step == "create":
            raise RuntimeError("the key store is full")

    day.town.keys["fleet-4"].before = refuse
    day.town.request("rotate-fleet", targets=FLEET, rollout={"parallel": 2, "onFailure": "stop"})


def _approve_proposal(day: Day) -> None:
    """Bob approves what the reconciler asked for, and it is merged into main."""
    town = day.town
    ((ref, tip),) = town.store.refs(REQUEST_BRANCHES).items()
    name = ref.removeprefix(REQUEST_BRANCHES)
    folder, files = town.asked_on(tip, name)
    raw = files[folder.request]
    assert raw is not None
    approval = town.approval(town.document(raw), raw, "bob", folder=folder)
    town.commit({**files, **approval}, f"Merge {name}", "bob")


def test_the_log_of_a_day_is_a_story(day: Day) -> None:
    write_the_day(day)
    reconciler = day.town.reconciler()
    day.play(reconciler)
    reconciler.close()
    town = day.town
    assert town.clock.now() == START + timedelta(days=1)
    assert datetime(2026, 11, 24, 12, tzinfo=UTC) == town.clock.now()
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    assert main is not None
    verdict = verify_audit(town.store, town.root, main, audit)
    assert verdict.first_bad is None, verdict.first_bad
    story = told(town)
    assert story == STORY, "\n".join(story)


def told(town: Town) -> list[str]:
    """`git log --first-parent --reverse --date=format:%H:%M --format='%ad %s' audit`, with "…" for ids."""
    found: list[str] = []
    at = town.tip(AUDIT)
    while at and at != town.root:
        commit = parse_commit(town.store.read(at)[1])
        when = datetime.fromtimestamp(commit.committer.at, UTC)
        subject = commit.message.split("\n", 1)[0]
        found.append(f"{when:%H:%M} " + re.sub(r"[0-9a-f]{12}$", "…", subject))
        at = commit.parents[0]
    return found[::-1]


STORY = """
12:00 status of 16 services: 16 HEALTHY
12:00 status of 16 services: 16 HEALTHY
12:00 status of 16 services: 16 HEALTHY
12:00 status of 2 services: 2 HEALTHY
12:35 status adapter-07: HEALTHY → OFFLINE (AgentUnreachable)
13:15 status adapter-07: OFFLINE → HEALTHY (HealthUp)
13:20 take in main …
13:20 rotateKey vault-keys: claimed
13:20 rotateKey vault-keys: succeeded
13:25 status vault-keys: seen after an operation
14:00 drift openai-chat: model m1 → m2, desired m1
15:05 drift openai-chat: gone
16:05 drift mail-out: region eu → us, desired eu
16:05 configure mail-out: ordered
16:05 configure mail-out: succeeded
16:10 drift mail-out: gone
17:30 status adapter-30: KeyChangedOutsideCapsule
18:10 take in main …
19:00 rotateKey openai-chat: claimed
19:00 rotateKey openai-chat: succeeded
19:05 status openai-chat: seen after an operation
20:00 take in main …
20:00 rotateKey: 2 claimed
20:00 rotateKey: 2 succeeded
20:00 rotateKey: 2 claimed
20:00 rotateKey: 1 failed, 1 succeeded
20:05 status of 4 services: 4 HEALTHY
22:00 status crm-sync: HEALTHY → UNHEALTHY (HealthDown)
22:03 status crm-sync: UNHEALTHY → HEALTHY (HealthUp)
22:04 status crm-sync: HEALTHY → UNHEALTHY (HealthDown)
22:05 status crm-sync: UNHEALTHY → HEALTHY (HealthUp)
22:06 status crm-sync: HEALTHY → UNHEALTHY (Flapping)
22:16 status crm-sync: UNHEALTHY → HEALTHY (HealthUp)
23:20 status vault-keys: KeyDueSoon
00:00 status adapter-12: HEALTHY → DISABLING (DisableNotConfirmed)
00:00 disable adapter-12: ordered
00:00 disable adapter-12: succeeded
00:05 status adapter-12: DISABLING → DISABLED (DisabledBySpec)
00:30 status adapter-12: DISABLED (EnableNotConfirmed)
00:30 enable adapter-12: ordered
00:30 enable adapter-12: succeeded
00:35 status adapter-12: DISABLED → HEALTHY (HealthUp)
01:20 status vault-keys: KeyOverdue
02:20 take in main …
02:20 rotateKey vault-keys: claimed
02:20 rotateKey vault-keys: succeeded
02:25 status vault-keys: KeyOverdue gone
""".strip().splitlines()
