"""Attacks on a reconciler through main, audit, agents' answers and other reconcilers: each must fail.

Every test ends with the proof: whatever was tried, what is on record is true.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.codec import emit, load_as
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.documents.types import AgentAddress, Policy, Refusal, Result
from capsule.reconciler import Reconciler
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git import init
from capsule.transport.api import CallName, TransportError
from capsule.trust.audit import verify_audit
from capsule.trust.objects import file_bytes, files, parse_commit
from capsule.trust.published import signers_document
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Envelope, Report, decode
from tests import town as towns
from tests.agent_fixtures import key
from tests.town import Town, plain, principal

CLAIMED = "rotateKey openai-chat: claimed"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, services=("openai-chat", "mailer"))
    yield made
    prove(made)
    made.close()


def prove(town: Town) -> None:
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    if main and audit:
        verdict = verify_audit(town.store, town.root, main, audit)
        assert verdict.first_bad is None, verdict.first_bad


def on_record(town: Town, path: str, kind: type[Any]) -> Any:
    tip = town.tip(AUDIT)
    data = file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path) if tip else None
    assert data is not None, town.audit_subjects()
    return load_as(kind, data, path)


def result(town: Town, request: str = "rotate-1", service: str = "openai-chat") -> Result:
    found: Result = on_record(town, RequestFolder("2026/11", request).result(service), Result)
    return found


def refusal(town: Town, request: str) -> Refusal:
    found: Refusal = on_record(town, RequestFolder("2026/11", request).refusal, Refusal)
    return found


class Line:
    """A transport in front of the town's: `before` and `after` may raise or wait."""

    def __init__(
        self,
        town: Town,
        before: Callable[[AgentAddress, CallName], object] = lambda *_: None,
        after: Callable[[AgentAddress, CallName], object] = lambda *_: None,
    ) -> None:
        self._town, self._before, self._after = town, before, after

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        self._before(address, name)
        answer = self._town.transport.call(address, name, body, timeout=timeout)
        self._after(address, name)
        return answer

    def close(self) -> None:
        """Nothing to let go of."""


def passes(town: Town, reconciler: Reconciler, count: int, patience: float = 5.0) -> None:
    for _ in range(count):
        reconciler.one_pass(patience=patience)
        town.clock.advance(seconds=1)


def no_orders(_address: AgentAddress, name: CallName) -> None:
    if name != "report":
        raise TransportError("AgentUnreachable", "no route", kind="stalled")


# ---- cancel --------------------------------------------------------------------------------------


def test_a_request_cancelled_in_the_same_pass_is_not_executed(town: Town) -> None:
    town.request()
    town.request("stop-1", action="cancel", params={"request": "rotate-1"}, approved_by=())
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.phase == "Cancelled"
    assert CLAIMED not in town.audit_subjects()
    assert town.keys["openai-chat"].created == 0


def test_a_cancel_must_be_authorised_for_every_target_of_its_victim(town: Town) -> None:
    town.request(notBefore="2026-11-23T12:05:00Z")
    town.request(
        "stop-1",
        branch=True,
        action="cancel",
        targets=("mailer",),
        params={"request": "rotate-1"},
        approved_by=(),
    )
    reconciler = town.reconciler()
    town.settle(reconciler)
    assert refusal(town, "stop-1").spec.reason == "CancelTargets"
    town.clock.advance(minutes=6)
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]


def test_a_second_cancel_rewrites_no_record(town: Town) -> None:
    town.request()
    reconciler = town.reconciler(transport=Line(town, before=no_orders))
    passes(town, reconciler, 3)
    for name in ("stop-1", "stop-2"):
        town.request(name, action="cancel", params={"request": "rotate-1"}, approved_by=())
        passes(town, reconciler, 3)
    assert refusal(town, "stop-2").spec.reason == "NothingToCancel"


# ---- slow reconcilers, skewed clocks -------------------------------------------------------------


def test_a_clock_that_is_behind_makes_no_false_result(town: Town) -> None:
    town.request()
    dead = threading.Event()

    def dies(_address: AgentAddress, name: CallName) -> None:
        if name == "order":
            dead.set()
        if dead.is_set():
            raise TransportError("AgentUnreachable", "the connection is lost", kind="stalled")

    first = town.reconciler(transport=Line(town, after=dies))
    passes(town, first, 4)
    first.close()
    assert town.keys["openai-chat"].history == ["key-1"]
    slow = dataclasses.replace(town.clock, at=town.clock.at - timedelta(seconds=40))
    again = Reconciler(
        town.store, town.transport, key("reconciler-1"), name="reconciler-1", root=town.root, clock=slow
    )
    for _ in range(6):
        again.one_pass(patience=5.0)
        slow.advance(seconds=1)
    again.close()
    assert result(town).spec.outcome == "succeeded"


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_slow_reconciler_overwrites_nothing_its_successor_recorded(town: Town, where: str) -> None:
    town.request()
    gate = threading.Event()

    def waits(_address: AgentAddress, name: CallName) -> None:
        if name == "order":
            gate.wait(60)

    slow = town.reconciler(transport=Line(town, **{where: waits}))
    passes(town, slow, 3, patience=0.3)
    assert CLAIMED in town.audit_subjects()
    successor = town.reconciler("reconciler-2")
    passes(town, successor, 1)
    town.clock.advance(hours=2)
    passes(town, successor, 6)
    assert result(town).spec.outcome == "succeeded"
    recorded = town.audit_subjects()
    gate.set()
    slow.landed.wait(10)
    passes(town, slow, 3)
    assert [line for line in town.audit_subjects() if line.startswith("rotateKey")] == [
        line for line in recorded if line.startswith("rotateKey")
    ]
    assert town.keys["openai-chat"].history == ["key-1"]
    slow.close()
    successor.close()


# ---- main ----------------------------------------------------------------------------------------


def test_a_request_moved_to_another_folder_ends_and_runs_nothing_twice(town: Town) -> None:
    town.request(targets=("openai-chat", "mailer"))
    reconciler = town.reconciler(transport=Line(town, before=_no_orders_for_the_mailer))
    passes(town, reconciler, 4)
    tip = town.tip()
    assert tip is not None
    tree = parse_commit(town.store.read(tip)[1]).tree
    moved: dict[str, bytes | None] = {}
    for path, entry in files(town.store, tree, "requests/2026/11/rotate-1"):
        moved[path] = None
        moved[path.replace("2026/11", "2026/12")] = town.store.read(entry.oid)[1]
    town.commit(moved, "Tidy up: it was December", "bob")
    reconciler.close()
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.reason == "ChangedAfterClaim"
    for name in ("openai-chat", "mailer"):
        assert town.audit_subjects().count(f"rotateKey {name}: claimed") == 1
        assert town.keys[name].created == 1


def _no_orders_for_the_mailer(address: AgentAddress, name: CallName) -> None:
    if "mailer" in address.endpoint:
        no_orders(address, name)


# ---- agents --------------------------------------------------------------------------------------


def test_one_report_that_fits_no_status_stops_only_its_own_service(town: Town) -> None:
    def swollen(call: CallName, body: bytes) -> bytes:
        answer = town._answer("mailer", call, body)
        if call != "report":
            return answer
        report = decode(Report, decode(Envelope, answer).payload.encode())
        payload = dataclasses.replace(report, fingerprints={"apiKey": "x" * 600}).to_json()
        signature = key("agent mailer").sign(payload, sshsig.REPORT)
        return Envelope(payload.decode(), signature).to_json()

    town.transport.connect("http://mailer.invalid", swollen)
    town.request()
    town.settle(town.reconciler())
    assert town.keys["openai-chat"].history == ["key-1"]


# ---- audit ---------------------------------------------------------------------------------------


def with_policy_rule(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    rule = {"match": {"change": "policy"}, "mayRequest": ("owners",), "approvals": ()}
    changed = {**towns.POLICY, "rules": (*towns.POLICY["rules"], rule)}
    monkeypatch.setattr(towns, "POLICY", changed)
    return copy.deepcopy(changed)


def test_a_reconciler_with_a_new_key_goes_on_after_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = with_policy_rule(monkeypatch)
    town = Town(tmp_path)
    old = town.reconciler()
    town.settle(old)
    policy["serial"] = 2
    policy["principals"]["reconciler-1"] = principal("reconciler-1", machine=True)
    policy["principals"]["reconciler-1"]["keys"] = (key("new key").public.text,)
    changed = plain(Policy, "policy", policy)
    signers = signers_document(changed, town.root, 2).to_json()
    signed = {
        "signers/signers.json": signers,
        "signers/carol.sig": key("carol").sign(signers, sshsig.SIGNERS).encode(),
    }
    town.commit({"policy.yaml": emit(changed), **signed}, "Replace the key", "carol")
    passes(town, old, 2)
    old.close()
    new = Reconciler(
        town.store, town.transport, key("new key"), name="reconciler-1", root=town.root, clock=town.clock
    )
    town.request()
    town.settle(new)
    assert town.keys["openai-chat"].history == ["key-1"]
    prove(town)
    town.close()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"status/x": b"1"}, "x\n\nCapsule-Revision: zzz\n"),
        ({"status/x": b"1"}, f"x\n\nCapsule-Revision: {'7' * 40}\n"),
        ({"records/2026": b"a file"}, "x\n"),
    ],
    ids=["no revision", "unknown revision", "a file for a folder"],
)
def test_garbage_on_audit_stalls_acting_and_not_probing(
    town: Town, edits: dict[str, bytes | None], message: str
) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    good = town.tip(AUDIT)
    assert good is not None
    stranger = Person("mallory", "mallory@example.com")
    garbage = town.store.write(Draft(good, edits, [good], message, stranger, town.clock.now()))
    town.store.publish([RefUpdate(AUDIT, good, garbage)])
    town.request()
    fresh = town.reconciler()
    for each in (reconciler, fresh):
        town.clock.advance(minutes=1)
        assert each.one_pass(patience=5.0).stalled.startswith("AuditUntrusted")
    assert town.keys["openai-chat"].created == 0
    assert town.store.refs("refs/capsule/local/heartbeat/")
    town.store.publish([RefUpdate(AUDIT, garbage, good)])
    fresh.close()
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]


def test_a_ref_pushed_by_a_stranger_makes_nobody_delete_what_it_names(tmp_path: Path) -> None:
    store = init(tmp_path / "state.git", bare=True)
    town = Town(tmp_path, store)
    reconciler = town.reconciler()
    shared = "refs/capsule/heartbeat/reconciler-1"
    for ref in (shared, "refs/capsule/local/heartbeat/reconciler-1"):
        passes(town, reconciler, 1)
        store.publish([RefUpdate(ref, store.refs(ref).get(ref), town.root)])
        for _ in range(4):
            town.clock.advance(minutes=6)
            passes(town, reconciler, 1)
        assert store.read(town.root)[0] == "commit"
    town.request()
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]
    reconciler.close()
    prove(town)
    town.close()
    store.close()
