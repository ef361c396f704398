"""What a reconciler keeps over restarts: going on from it judges as judging everything anew does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capsule.commands.reconcile import ready
from capsule.commands.reconciler_memory import Memory
from capsule.commands.repository import open_repository
from capsule.documents.codec import emit
from capsule.documents.paths import AUDIT
from capsule.documents.types import Policy
from capsule.lifecycle import Records
from capsule.reconciler import Reconciler, Remembered
from capsule.reconciler.recording import Tips
from capsule.reconciler.verifying import Verifying
from capsule.trust.requests import RequestSet
from capsule.trust.state import JudgedRequest
from tests.agent_fixtures import key
from tests.town import POLICY, Town, plain, principal
from tests.unit.commands.conftest import Office

SERVICES = ("openai-chat", "mailer")
STEPS = 24
BY_MERGE = {**POLICY["rules"][2], "match": {"action": "disable"}, "evidence": "merge"}
RULES = (
    BY_MERGE,
    *POLICY["rules"],
    {"match": {"change": "policy"}, "mayRequest": ("operators",), "approvals": ()},
)
# it ends while the town walks, which begins at 12:00
DATED = {"key": key("bob").public.text, "validBefore": "2026-11-23T12:00:40Z"}
WORDS = (
    *(
        "ask",
        "ask",
        "ask",
        "merge",
        "branch",
        "approve",
        "reject",
        "cancel",
        "pins",
        "move",
        "again",
        "people",
    ),
    *("pass", "pass", "wait"),
)


class Walk:
    """A town to which anything happens."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        bob = principal("bob", keys=(DATED,)) if seed % 2 else principal("bob")
        people = {**POLICY["principals"], "bob": bob}
        self.policy: dict[str, Any] = {**POLICY, "principals": people, "rules": RULES}
        self.town = Town(folder, services=SERVICES, policy=self.policy)
        self.asked: dict[str, bytes] = {}
        self.on_main: list[str] = []

    def step(self, reconciler: Reconciler) -> None:
        """Something happens."""
        word, town = self.random.choice(WORDS), self.town
        if word in ("ask", "branch", "merge"):
            self._ask(branch=word == "branch", merge=word == "merge")
        elif word in ("approve", "reject") and self.asked:
            raw = self.random.choice(list(self.asked.values()))
            town.commit(town.approval(town.document(raw), raw, "carol", word), "Say a word")
        elif word == "pins":
            name = self.random.choice(SERVICES)
            text = town.service_text(name, pins={"model": f"m{self.random.randrange(3)}"})
            place = town.places.get(name, f"services/{name}.yaml")
            if text != town.file(place):
                town.commit({place: text}, "Pin")
        elif word == "move":
            name = self.random.choice(SERVICES)
            before = town.places.get(name, f"services/{name}.yaml")
            town.places[name] = f"services/at-{town.clock.ticks:.0f}/{name}.yaml"
            if town.places[name] != before:
                town.commit({before: None, town.places[name]: town.file(before)}, "Move")
        elif word == "again" and self.on_main:
            _, files = town.asked_on(town.tip() or town.root, self.random.choice(self.on_main))
            town.commit(dict.fromkeys(files), "Take away")
            town.commit(files, "Put back")
        elif word == "cancel" and self.asked:
            name = self.random.choice(list(self.asked))
            self._ask(action="cancel", params={"request": name})
        elif word == "people":
            teams = {
                **POLICY["teams"],
                "reviewers": self.random.choice((("bob",), ("carol",), ("bob", "carol"))),
            }
            self.policy = {**self.policy, "serial": self.policy["serial"] + 1, "teams": teams}
            town.commit({"policy.yaml": emit(plain(Policy, "policy", self.policy))}, "Change who reviews")
        elif word == "pass":
            reconciler.one_pass(patience=1.0)
        town.clock.advance(seconds=self.random.choice((1, 5, 30)))

    def _ask(self, *, branch: bool = False, merge: bool = False, **spec: Any) -> None:
        name = f"ask-{len(self.asked)}"
        action = "runHealthCheck" if branch else self.random.choice(("runHealthCheck", "rotateKey"))
        action = spec.pop("action", "disable" if merge else action)
        targets = self.random.choice((SERVICES, SERVICES[:1], SERVICES[1:], ("nobody",)))
        approved_by = self.random.choice(((), ("bob",), ("carol",), ("mallory",)))
        by = self.random.choice(("alice", "alice", "carol"))
        known = targets if targets != ("nobody",) else ()
        if merge:
            by, approved_by = "alice", ()
            spec["merged_by"] = self.random.choice(("bob", "carol"))
            spec["notBefore"] = "2026-11-23T12:05:00Z"
        raw = self.town.request(
            name,
            branch=branch,
            by=by,
            action=action,
            targets=targets,
            approved_by=approved_by if known else (),
            **spec,
        )
        if not branch:
            self.on_main.append(name)
        if known:
            self.asked[name] = raw


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.close()


def _verified(town: Town, before: Remembered | None) -> Verifying:
    verifying = Verifying(town.store, town.root, town.clock, before)
    audit = town.tip(AUDIT)
    state = verifying.main()
    assert verifying.audit(Tips(audit, state.tip), state) == ""
    return verifying


def _verdicts(requests: RequestSet) -> dict[str, JudgedRequest]:
    """All that is said of each, but for the revision of main at which it was judged."""
    return {name: replace(each, revision="") for name, each in requests.items()}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happened_since_the_same_is_judged_as_without_a_memory(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed)
    town = walk.town
    reconciler, memory = town.reconciler(), Memory(tmp_path, town.root, town.store)
    reasons = set()
    try:
        for _ in range(STEPS):
            walk.step(reconciler)
            if walk.random.random() < 0.5:
                continue
            whole = _verified(town, None)
            quick = _verified(town, Memory(tmp_path, town.root, town.store).recall())
            assert _verdicts(quick.requests) == _verdicts(whole.requests)
            assert quick.requests.findings == whole.requests.findings
            assert quick.requests.on_branches == whole.requests.on_branches
            assert quick.requests.fleeting == whole.requests.fleeting
            assert quick.requests.months.keys() == whole.requests.months.keys()
            assert quick.records == whole.records
            assert quick.records.begun == whole.records.begun
            assert quick.open.names == whole.open.names
            reasons |= {each.reason for each in whole.requests.values()}
            memory.keep(Remembered(quick.requests, quick.records))
    finally:
        reconciler.close()
        town.close()
    assert len(reasons) > 1, "a walk on which nothing happens shows nothing"


def test_what_is_as_it_was_is_neither_read_nor_judged_again(town: Town, tmp_path: Path) -> None:
    for at in range(5):
        town.request(f"ask-{at}", action="runHealthCheck", approved_by=())
    reconciler = town.reconciler()
    town.settle(reconciler, most=40)
    reconciler.close()
    Memory(tmp_path, town.root, town.store).keep(reconciler.remembered)
    before = Memory(tmp_path, town.root, town.store).recall()
    assert before is not None
    assert (tmp_path / "capsule" / "verified").stat().st_mode & 0o777 == 0o600
    verified = _verified(town, before)
    assert verified.records is before.records
    assert all(each is before.requests[name] for name, each in verified.requests.items())
    assert len(verified.requests) == 5


def test_it_holds_for_one_root(town: Town, tmp_path: Path) -> None:
    town.request(approved_by=())
    Memory(tmp_path, town.root, town.store).keep(Remembered(_verified(town, None).requests, Records()))
    assert Memory(tmp_path, town.root, town.store).recall() is not None
    assert Memory(tmp_path, "0" * 40, town.store).recall() is None


def test_keeping_takes_a_small_part_of_the_time(town: Town, tmp_path: Path) -> None:
    times = iter(
        (
            0.0,
            0.0,
            100.0,
            105.0,
            105.0 + 4999.0,
            105.0 + 5000.0,
            6000.0,
            6000.0,
            6059.0,
            6060.0,
            7000.0,
            7000.0,
        )
    )
    memory = Memory(tmp_path, town.root, town.store, lambda: next(times))
    kept = []
    for at in range(5):
        town.request(f"ask-{at}", approved_by=())
        memory.keep_when_due(_remembered(town))
        found = Memory(tmp_path, town.root, town.store).recall()
        assert found is not None
        kept.append(len(found.requests))
    assert kept == [1, 1, 3, 3, 5], "5 seconds of keeping, then 5000 without; at least a minute"


def test_only_what_changed_is_kept(town: Town, tmp_path: Path) -> None:
    place = tmp_path / "capsule" / "verified"
    memory = Memory(tmp_path, town.root, town.store)
    assert memory.recall() is None
    town.request("ask-0", approved_by=())
    memory.keep(_remembered(town))
    found = memory.recall()
    assert found is not None
    place.unlink()
    memory.keep(_remembered(town, found))
    assert not place.exists()
    for branch in (True, False):
        town.request(f"ask-{branch}".lower(), branch=branch, approved_by=(), action="runHealthCheck")
        memory.keep(_remembered(town, found))
        assert place.exists()
        place.unlink()
    reconciler = town.reconciler()
    town.settle(reconciler, most=40)
    reconciler.close()
    memory.keep(reconciler.remembered)
    assert place.exists()


def test_what_cannot_be_kept_is_logged_and_ends_nothing(
    town: Town, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = _remembered(town)
    full = tmp_path / "full"
    full.write_text("no folder")
    Memory(full, town.root, town.store).keep(found)
    odd: dict[str, Any] = {"r": lambda: 0}
    Memory(tmp_path, town.root, town.store).keep(Remembered(RequestSet(odd), found.records))
    assert caplog.text.count("is not kept") == 2
    assert not list((tmp_path / "capsule").iterdir())


def test_a_reconciler_keeps_what_it_verified_for_the_next_one(office: Office) -> None:
    place = office.state / ".git" / "capsule" / "verified"
    assert office.run("reconcile", "--once").exit_code == 0
    assert place.stat().st_mode & 0o777 == 0o600
    with ready(open_repository(office.state)) as made:
        recalled = made.memory.recall()
        assert recalled is not None
        assert made.reconciler.remembered == recalled


def _remembered(town: Town, before: Remembered | None = None) -> Remembered:
    verified = _verified(town, before)
    return Remembered(verified.requests, verified.records)
