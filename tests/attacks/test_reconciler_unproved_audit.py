"""What somebody tries to have a reconciler believe by what stands on audit and does not prove.

Carol, the only owner, has a key that has ended; the thief has it, and may push to main and to audit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.codec import emit
from capsule.documents.paths import AUDIT, MAIN
from capsule.documents.types import Policy
from capsule.reconciler import Reconciler
from capsule.reconciler.watching import MOST_AHEAD, PROVED, SEEN
from capsule.store.api import Draft, Person, RefUpdate
from capsule.transport.api import TransportError
from capsule.trust.audit import verify_audit
from capsule_agent.protocol.sshsig import COMMIT
from tests.agent_fixtures import key
from tests.town import POLICY, START, Town, plain, principal

ENDS = "2026-11-24T12:00:00Z"
OWNERS_ALONE = {"match": {"change": "policy"}, "mayRequest": ("owners",), "approvals": ()}


def dated(*names: str) -> dict[str, Any]:
    """A policy in which these people's keys end on the second day."""
    people = {**POLICY["principals"], **{name: principal(name) for name in names}}
    for name in names:
        people[name]["keys"] = ({"key": str(principal(name)["keys"][0]), "validBefore": ENDS},)
    return {**POLICY, "principals": people, "rules": (*POLICY["rules"], OWNERS_ALONE)}


def taken_over(policy: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The policy as the thief wants it, with principals of the thief's."""
    people = {**policy["principals"], "mallory": principal("mallory"), **more}
    return {**policy, "serial": 2, "principals": people, "teams": {**policy["teams"], "owners": ("mallory",)}}


class Place:
    """A town whose reconciler has been at work for ten days."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.policy = dated(*names)
        self.town = Town(folder, policy=self.policy)
        self.reconciler = self.town.reconciler()
        self.town.settle(self.reconciler)

    def wait(self, **amount: float) -> None:
        self.town.clock.advance(**amount)
        self.town.settle(self.reconciler)

    def pushed(self, path: str, data: bytes, who: str) -> str:
        """A step of main by that key."""
        return self.town.commit({path: data}, "push", who)

    def new_policy(self, policy: Mapping[str, Any], who: str = "carol") -> str:
        return self.pushed("policy.yaml", emit(plain(Policy, "policy", policy)), who)

    def takes_in(self, main: str | None, who: str | None, at: datetime = START) -> str:
        """A commit on audit, dated `at`, that takes in that step of main; returns where audit was."""
        old = self.town.tip(AUDIT)
        assert old
        subject = f"take in main {main[:12]}" if main else "x"
        parents = [old, main] if main else [old]
        revision = main or self.town.tip()
        sign = (lambda data: key(who).sign(data, COMMIT)) if who else None
        person = Person(who or "nobody", f"{who}@reconciler.invalid")
        message = f"{subject}\n\nCapsule-Revision: {revision}\n"
        edits = {} if main else {"status/openai-chat.yaml": b"x"}
        draft = Draft(old, edits, parents, message, person, at, sign=sign, overlay=main if who else None)
        self.town.store.publish([RefUpdate(AUDIT, old, self.town.store.write(draft))])
        return old

    def audit_is(self, commit: str) -> None:
        self.town.store.publish([RefUpdate(AUDIT, self.town.tip(AUDIT), commit)])

    def stalled(self, reconciler: Reconciler | None = None) -> str:
        return (reconciler or self.reconciler).one_pass(patience=1.0).stalled

    def serials(self) -> tuple[int, int]:
        """The serial in force for the reconciler that was here all the time, and for a new one."""
        fresh = self.town.reconciler()
        fresh.one_pass(patience=1.0)
        found = (self.reconciler.in_force, fresh.in_force)
        fresh.close()
        assert found[0]
        assert found[1]
        return found[0].policy.document.spec.serial, found[1].policy.document.spec.serial

    def proved(self) -> str:
        """Why audit does not prove, or nothing."""
        main = self.town.tip(MAIN)
        assert main
        bad = verify_audit(self.town.store, self.town.root, main, self.town.tip(AUDIT)).first_bad
        return bad.reason if bad else ""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, "carol")
    yield made
    made.reconciler.close()
    made.town.close()


# ---- times that nobody may tell ----


def test_policy_by_an_ended_key_that_an_unsigned_audit_backdates(place: Place) -> None:
    """Nothing of it is left when the true audit is back."""
    place.wait(days=10)
    true = place.takes_in(place.new_policy(taken_over(place.policy)), None)
    assert place.stalled().startswith("AuditUntrusted")
    assert place.serials() == (1, 1)
    place.audit_is(true)
    for _ in range(3):
        place.town.clock.advance(minutes=1)
        assert place.stalled().startswith("PolicyNotAuthorised")
    assert (place.serials(), place.proved()) == ((1, 1), "")


@pytest.mark.parametrize("quiet", [True, False])
def test_policy_by_an_ended_key_that_its_own_machine_backdates(place: Place, quiet: bool) -> None:
    place.wait(hours=20)
    if not quiet:
        place.wait(days=10)
    last = place.town.clock.now() if quiet else START
    place.town.clock.advance(days=9)
    evil = taken_over(place.policy, ghost=principal("ghost", machine=True))
    place.takes_in(place.new_policy(evil), "ghost", last)
    for _ in range(3):
        place.town.clock.advance(minutes=1)
        assert place.stalled().startswith("AuditUntrusted")
    assert place.serials() == (1, 1)
    assert place.proved() == "AuditBadSignature"


def test_orders_are_sent_to_no_endpoint_that_an_unproved_audit_lets_in(tmp_path: Path) -> None:
    place = Place(tmp_path, "alice")
    town = place.town
    place.wait(days=10)
    heard: list[str] = []

    def thief(call: str, body: bytes) -> bytes:
        heard.append(call)
        raise TransportError("AgentRejectedCall", "no", kind="stalled")

    town.transport.connect("http://thief.invalid", thief)
    agent = {"endpoint": "http://thief.invalid", "key": key("thief").public.text}
    evil = town.service_text("openai-chat", agent=agent, enabled=False)
    true = place.takes_in(place.pushed("services/openai-chat.yaml", evil, "alice"), None)
    assert place.stalled().startswith("AuditUntrusted")
    place.audit_is(true)
    for _ in range(4):
        town.clock.advance(minutes=2)
        place.stalled()
    assert (heard, place.proved()) == ([], "")
    place.reconciler.close()
    town.close()


def test_a_valid_new_policy_lets_its_machine_tell_no_time_for_what_came_with_it(place: Place) -> None:
    """Carol's key still speaks when the reconciler looks, so ghost is one of now; but not of before."""
    more = {**place.policy["principals"], "ghost": principal("ghost", machine=True)}
    step = place.new_policy({**place.policy, "serial": 2, "principals": more})
    place.takes_in(step, "ghost", place.town.clock.now())
    assert place.stalled().startswith("AuditUntrusted")
    assert place.proved() == "AuditBadSignature"


# ---- what a reconciler must not do itself ----


def test_reconciler_that_only_a_dated_key_names_waits_for_one_that_is_known(place: Place) -> None:
    more = {**place.policy["principals"], "reconciler-3": principal("reconciler-3", machine=True)}
    place.new_policy({**place.policy, "serial": 2, "principals": more})
    newcomer = place.town.reconciler("reconciler-3")
    before = place.town.tip(AUDIT)
    for _ in range(2):
        assert place.stalled(newcomer).startswith("ReconcilerTooNew")
    assert place.town.tip(AUDIT) == before
    place.town.settle(place.reconciler)
    place.town.request()
    place.town.settle(newcomer)
    assert "rotateKey openai-chat: claimed" in place.town.audit_subjects()
    assert (place.proved(), place.serials()) == ("", (2, 2))
    newcomer.close()


def test_reconciler_that_a_key_without_dates_names_need_not_wait(tmp_path: Path) -> None:
    place = Place(tmp_path, "bob")
    more = {**place.policy["principals"], "reconciler-3": principal("reconciler-3", machine=True)}
    place.new_policy({**place.policy, "serial": 2, "principals": more})
    newcomer = place.town.reconciler("reconciler-3")
    place.town.settle(newcomer)
    place.town.request()
    place.town.settle(newcomer)
    assert "rotateKey openai-chat: claimed" in place.town.audit_subjects()
    assert place.proved() == ""
    place.reconciler.close()
    newcomer.close()
    place.town.close()


def test_a_clock_behind_judges_by_the_time_that_audit_told(place: Place) -> None:
    """Another reconciler's clock has passed the end of the key; by one's own the key would still speak."""
    other = place.town.reconciler("reconciler-2")
    place.town.clock.advance(days=1)
    place.town.settle(other)
    place.town.models["openai-chat"] = "m2"
    place.wait(minutes=20)
    place.town.clock.advance(hours=-1)
    place.new_policy(taken_over(place.policy))
    for _ in range(3):
        assert place.stalled().startswith("PolicyNotAuthorised")
    assert (place.serials(), place.proved()) == ((1, 1), "")
    other.close()


# ---- times far ahead ----


@pytest.mark.parametrize(("ahead", "reason"), [(MOST_AHEAD, ""), (MOST_AHEAD * 2, "AuditAhead")])
def test_a_stolen_machine_does_not_end_keys_by_a_commit_of_the_future(
    place: Place, ahead: timedelta, reason: str
) -> None:
    true = place.takes_in(None, "reconciler-2", place.town.clock.now() + ahead)
    for _ in range(2):
        assert place.stalled().partition(":")[0] == reason
    if reason:
        place.audit_is(true)
        assert place.stalled() == ""


def test_without_dated_keys_the_future_harms_nobody(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.takes_in(None, "reconciler-2", START + MOST_AHEAD * 400)
    assert place.stalled() == ""
    place.reconciler.close()
    place.town.close()


# ---- after an inquiry ----


def test_what_was_judged_beside_the_audit_of_before_is_forgotten_after_an_inquiry(place: Place) -> None:
    """A thief with a listed key backdates; a person takes audit back and says so to the reconciler."""
    place.town.clock.advance(days=10)
    true = place.takes_in(place.new_policy(taken_over(place.policy)), "reconciler-2")
    assert place.stalled() == ""
    assert place.serials() == (2, 2)
    place.audit_is(true)
    assert place.stalled().startswith("AuditRewritten")
    seen = place.town.store.refs(SEEN)[SEEN]
    place.town.store.publish([RefUpdate(SEEN, seen, None)])
    for _ in range(3):
        assert place.stalled().startswith("PolicyNotAuthorised")
    assert (place.serials(), place.proved()) == ((1, 1), "")
    assert place.town.store.refs(PROVED)[PROVED] == place.town.tip(AUDIT)
