"""Desired state in whole passes: real trust, records and agents; only network and clock are ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsule.documents.codec import load_as
from capsule.documents.paths import AUDIT, MAIN, REQUEST_BRANCHES, STATUS, RequestFolder
from capsule.documents.scalars import instant_text
from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Records, StateOperation, read_records
from capsule.reconciler import Reconciler
from capsule.testing.memory_transport import Fault
from capsule.trust.audit import verify_audit
from capsule.trust.objects import file_bytes, parse_commit
from tests.town import POLICY, Town

SERVICE = "services/openai-chat.yaml"
ENDPOINT = "http://openai-chat.invalid"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    prove(made)
    made.close()


@pytest.fixture
def reconciler(town: Town) -> Iterator[Reconciler]:
    made = town.reconciler()
    town.settle(made)
    yield made
    made.close()


def prove(town: Town) -> None:
    """Whatever a test did, what is on record proves."""
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    if main and audit:
        verdict = verify_audit(town.store, town.root, main, audit)
        assert verdict.first_bad is None, verdict.first_bad


def records(town: Town) -> Records:
    return read_records(town.store, town.tip(AUDIT))


def orders(town: Town, service: str = "openai-chat") -> tuple[StateOperation, ...]:
    return records(town).state_operations(service)


def said(town: Town, service: str = "openai-chat") -> list[str]:
    """Such as "disable succeeded", of every desired-state order."""
    return [
        f"{item.order.spec.action} {item.result.spec.outcome if item.result else 'open'}"
        for item in orders(town, service)
    ]


def status(town: Town, service: str = "openai-chat") -> ServiceStatus:
    tip = town.tip(AUDIT)
    assert tip is not None
    path = f"{STATUS}/{service}.yaml"
    data = file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path)
    assert data is not None
    return load_as(ServiceStatus, data, path)


def merge(town: Town, **spec: object) -> None:
    town.commit({SERVICE: town.service_text("openai-chat", **spec)}, "Change the service")


def later(town: Town, reconciler: Reconciler, **amount: float) -> None:
    """Time passes, every probe falls due, and passes see what came of it."""
    town.clock.advance(**amount)
    reconciler.one_pass(patience=5.0)
    town.settle(reconciler)


# ---- enabled ------------------------------------------------------------------------------------


def test_enabled_false_reaches_the_agent_in_the_pass_that_sees_the_merge(
    town: Town, reconciler: Reconciler
) -> None:
    merge(town, enabled=False)
    reconciler.one_pass(patience=5.0)
    assert not town.agents["openai-chat"].enabled
    assert town.audit_subjects()[-2:] == ["disable openai-chat: ordered", "disable openai-chat: succeeded"]
    (order,) = orders(town)
    assert order.result is not None
    assert order.result.spec.outputs["disabledReason"] == "spec: its document says enabled: false"
    later(town, reconciler, seconds=40)
    assert status(town).spec.effective_status == "DISABLED"
    again = town.start_agent("openai-chat")
    reconciler.close()
    assert not again.enabled, "neither a restart nor the reconciler's death gives it traffic"


def test_enabled_true_gives_traffic_again(town: Town, reconciler: Reconciler) -> None:
    merge(town, enabled=False)
    town.settle(reconciler)
    later(town, reconciler, seconds=40)
    merge(town, enabled=True)
    later(town, reconciler, seconds=40)
    assert town.agents["openai-chat"].enabled
    assert said(town) == ["disable succeeded", "enable succeeded"]
    assert [item.generation for item in orders(town)] == sorted(item.generation for item in orders(town))


def test_approved_orders_run_while_a_service_is_disabled(town: Town, reconciler: Reconciler) -> None:
    merge(town, enabled=False)
    town.settle(reconciler)
    town.request()
    later(town, reconciler, seconds=40)
    assert town.keys["openai-chat"].history == ["key-1"]
    assert not town.agents["openai-chat"].enabled


@pytest.mark.parametrize("fault", ["timeout before effect", "timeout after effect", "garbage answer"])
def test_an_order_without_a_receipt_is_told_again_as_the_same_order(
    town: Town, reconciler: Reconciler, fault: Fault
) -> None:
    merge(town, enabled=False)
    town.transport.fail(ENDPOINT, "unreachable", fault)
    reconciler.one_pass(patience=5.0)
    for _ in range(8):
        later(town, reconciler, seconds=2)
    assert said(town) == ["disable succeeded"]
    told = [call for call in town.transport.carried if call.name == "order"]
    assert len({order_id(call.body) for call in told}) == 1
    assert not town.agents["openai-chat"].enabled


def order_id(body: bytes) -> str:
    found: str = json.loads(json.loads(body)["payload"])["opId"]
    return found


def test_a_restarted_reconciler_tells_again_what_it_had_ordered(town: Town, reconciler: Reconciler) -> None:
    merge(town, enabled=False)
    town.transport.disconnect(ENDPOINT)
    reconciler.one_pass(patience=5.0)
    reconciler.close()
    assert said(town) == ["disable open"]
    again = town.reconciler()
    town.start_agent("openai-chat")
    town.settle(again)
    assert said(town) == ["disable succeeded"]
    again.close()


def test_another_reconciler_orders_anew_when_the_first_was_silent_too_long(
    town: Town, reconciler: Reconciler
) -> None:
    merge(town, enabled=False)
    town.transport.disconnect(ENDPOINT)
    reconciler.one_pass(patience=5.0)
    reconciler.close()
    town.start_agent("openai-chat")
    other = town.reconciler("reconciler-2")
    town.settle(other)
    assert said(town) == ["disable open"], "within the lease the order is the first one's"
    for _ in range(4):
        later(town, other, minutes=2)
    assert said(town) == ["disable cancelled", "disable succeeded"], "what it replaced is settled, too"
    first, second = orders(town)
    assert second.generation > first.generation
    assert (first.order.spec.reconciler, second.order.spec.reconciler) == ("reconciler-1", "reconciler-2")
    other.close()


def test_a_busy_agent_is_told_until_it_is_free(town: Town, reconciler: Reconciler) -> None:
    begun, free = threading.Event(), threading.Event()

    @town.agents["openai-chat"].action("ponder")
    def ponder() -> None:
        begun.set()
        assert free.wait(20)

    later(town, reconciler, seconds=40)
    town.request("ponder-1", action="ponder")
    reconciler.one_pass(patience=0.0)
    assert begun.wait(5)
    merge(town, enabled=False)
    for _ in range(3):
        town.clock.advance(seconds=5)
        reconciler.one_pass(patience=0.3)
    assert said(town) == ["disable open"], "ordered at once, though the agent is busy"
    assert town.agents["openai-chat"].enabled
    free.set()
    for _ in range(8):
        later(town, reconciler, seconds=5)
    assert said(town) == ["disable succeeded"]
    assert not town.agents["openai-chat"].enabled


def test_a_newer_document_silences_the_order_of_the_one_before(town: Town, reconciler: Reconciler) -> None:
    merge(town, enabled=False)
    town.settle(reconciler)
    later(town, reconciler, seconds=40)
    town.transport.disconnect(ENDPOINT)
    merge(town, enabled=True)
    later(town, reconciler, seconds=40)
    merge(town, enabled=False, owner="search")
    later(town, reconciler, seconds=40)
    town.start_agent("openai-chat")
    for _ in range(4):
        later(town, reconciler, seconds=40)
    assert not town.agents["openai-chat"].enabled
    assert said(town)[-1] == "disable succeeded"


# ---- a disable that people asked for ------------------------------------------------------------


def test_a_disable_by_request_holds_until_a_merged_document_settles_it(
    town: Town, reconciler: Reconciler
) -> None:
    town.request("disable-1", action="disable", params={"reason": "leaked"})
    town.settle(reconciler)
    assert not town.agents["openai-chat"].enabled
    for _ in range(3):
        later(town, reconciler, seconds=40)
    assert not town.agents["openai-chat"].enabled
    assert orders(town) == ()
    assert status(town).spec.reason == "DisabledByRequest"
    merge(town, owner="search")
    later(town, reconciler, seconds=40)
    assert not town.agents["openai-chat"].enabled, "its document settles nothing yet"
    merge(town, enabled=False)
    later(town, reconciler, seconds=40)
    assert said(town) == ["disable succeeded"]
    merge(town, enabled=True)
    later(town, reconciler, seconds=40)
    assert town.agents["openai-chat"].enabled


# ---- drift --------------------------------------------------------------------------------------


class Adapter:
    """A value that orders may set, and that drifts back as often as `spring` says."""

    def __init__(self, town: Town) -> None:
        self.region = "eu"
        self.springs = True
        town.agents["openai-chat"].config("region", lambda: self.region, set=self.put)

    def put(self, value: str) -> None:
        self.region = value

    def drift(self) -> None:
        if self.springs:
            self.region = "us"


def drifting(town: Town, reconciler: Reconciler) -> Adapter:
    adapter = Adapter(town)
    merge(town, pins={"model": "m1", "region": "eu"}, onDrift="correct")
    later(town, reconciler, seconds=40)
    adapter.drift()
    later(town, reconciler, seconds=40)
    return adapter


def test_drift_is_corrected_where_the_document_says_so(town: Town, reconciler: Reconciler) -> None:
    adapter = drifting(town, reconciler)
    assert adapter.region == "eu"
    assert said(town) == ["configure succeeded"]
    (order,) = orders(town)
    assert dict(order.order.spec.params) == {"region": "eu"}
    later(town, reconciler, seconds=40)
    assert status(town).spec.drift == ()


def test_the_loop_breaker_stops_an_agent_that_drifts_back_until_people_know_of_it(
    town: Town, reconciler: Reconciler
) -> None:
    adapter = drifting(town, reconciler)
    for _ in range(10):
        adapter.drift()
        later(town, reconciler, minutes=6)
    assert said(town) == ["configure succeeded"] * 3
    assert "CorrectionStopped" in {item.type for item in status(town).spec.conditions}
    (since,) = (item.since for item in status(town).spec.conditions if item.type == "CorrectionStopped")
    told = {"condition": "CorrectionStopped", "since": instant_text(since)}
    town.request("acknowledge-1", action="acknowledge", params=told)
    adapter.springs = False
    for _ in range(2):
        later(town, reconciler, minutes=6)
    assert adapter.region == "eu"
    assert "CorrectionStopped" not in {item.type for item in status(town).spec.conditions}
    assert any("acknowledge openai-chat: succeeded" in line for line in town.audit_subjects())


# ---- what is not acted on -----------------------------------------------------------------------


def test_a_reconciler_that_is_ending_orders_nothing_new(town: Town, reconciler: Reconciler) -> None:
    reconciler.finish(0.0)
    merge(town, enabled=False)
    reconciler.one_pass(patience=5.0)
    assert orders(town) == ()


def test_passes_without_news_look_at_no_service(town: Town, reconciler: Reconciler) -> None:
    town.settle(reconciler)
    seen: list[int] = []
    look = reconciler._worth_a_look
    state = reconciler.in_force
    assert state is not None
    for _ in range(3):
        reconciler.one_pass(patience=0.0)
        seen.append(len(look(state)))
    assert seen == [0, 0, 0]


# ---- abort --------------------------------------------------------------------------------------


def test_an_abort_lets_what_runs_go_on_and_begins_nothing_more(tmp_path: Path) -> None:
    town = Town(tmp_path, services=("openai-chat", "stripe-pay"))
    reconciler = town.reconciler()
    begun, free = threading.Event(), threading.Event()

    @town.agents["openai-chat"].action("ponder")
    def ponder() -> None:
        begun.set()
        assert free.wait(20)

    town.agents["stripe-pay"].action("ponder")(ponder)
    town.settle(reconciler)
    both = ("openai-chat", "stripe-pay")
    town.request("ponder-1", action="ponder", targets=both)
    reconciler.one_pass(patience=0.0)
    assert begun.wait(5)
    town.request("abort-1", action="abort", targets=both, params={"request": "ponder-1"})
    reconciler.one_pass(patience=0.1)
    free.set()
    town.settle(reconciler)
    found = records(town).of("ponder-1")
    assert found is not None
    assert found.refusal is not None
    assert found.refusal.spec.reason == "AbortedByRequest"
    assert {name: item.result and item.result.spec.outcome for name, item in found.operations.items()} == {
        "openai-chat": "succeeded"
    }
    assert b'tombstone\\":true' not in b"".join(call.body for call in town.transport.carried)
    reconciler.close()
    prove(town)
    town.close()


# ---- proposals ----------------------------------------------------------------------------------


def town_that_proposes(folder: Path) -> Town:
    """A town whose policy lets reconcilers ask for rotations, which a reviewer must approve."""
    rules = (
        {
            "match": {"action": "rotateKey"},
            "mayRequest": ("operators", "machines"),
            "approvals": ({"team": "reviewers", "count": 1},),
        },
        *POLICY["rules"],
    )
    teams = {**POLICY["teams"], "machines": ("reconciler-1", "reconciler-2")}
    return Town(folder, policy={**POLICY, "teams": teams, "rules": rules})


def branches(town: Town) -> list[str]:
    return sorted(name for name in town.store.refs(REQUEST_BRANCHES))


def test_a_rotation_that_falls_due_is_asked_for_once_and_waits_for_people(tmp_path: Path) -> None:
    town = town_that_proposes(tmp_path)
    reconciler, other = town.reconciler(), town.reconciler("reconciler-2")
    town.settle(reconciler)
    town.request()
    town.settle(reconciler)
    merge(town, rotation={"every": "90d", "propose": "7d"})
    for who in (reconciler, other):
        later(town, who, seconds=40)
    assert branches(town) == []
    for _ in range(2):
        for who in (reconciler, other):
            later(town, who, days=21)
    (branch,) = branches(town)
    assert branch.startswith(f"{REQUEST_BRANCHES}20270221-rotate-openai-chat-")
    name = branch.removeprefix(REQUEST_BRANCHES)
    later(town, reconciler, seconds=40)
    state = reconciler.in_force
    assert state is not None
    judged = reconciler.world(state).requests[name]
    assert (judged.verdict, judged.reason) in {("proposed", "ApprovalsMissing"), ("proposed", "AwaitsMerge")}
    assert judged.document is not None
    assert judged.document.spec.requested_by in {"reconciler-1", "reconciler-2"}
    assert town.keys["openai-chat"].history == ["key-1"], "nobody approved it"
    folder = RequestFolder.of(judged.path)
    assert folder is not None
    approval = town.approval(judged.document, judged.raw, "bob")
    town.commit(
        {
            folder.request: judged.raw,
            folder.signature: judged.signature.encode(),
            **{path.replace("2026/11", folder.month): data for path, data in approval.items()},
        },
        "Merge the proposal",
    )
    later(town, reconciler, seconds=40)
    assert town.keys["openai-chat"].history == ["key-1", "key-2"], "the agent takes it, for bob approved"
    reconciler.close()
    other.close()
    prove(town)
    town.close()
