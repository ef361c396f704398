"""Whole passes over a real repository, real trust and real agents; only network and clock are ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsule.commands.plan import next_pass
from capsule.commands.repository import open_repository
from capsule.documents.codec import load_as
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.documents.types import Refusal, Result
from capsule.reconciler import Reconciler
from capsule.reconciler.watching import SEEN
from capsule.store.api import RefUpdate
from capsule.store.git import open_store
from capsule.testing.memory_store import MemoryRemote, MemoryStore
from capsule.trust.audit import verify_audit
from capsule.trust.objects import MissingObject, file_bytes, parse_commit
from capsule.view.build import snapshot
from capsule.view.model import RequestRow, Snapshot
from capsule_agent.protocol.messages import HealthReport
from tests.town import Town

CLAIMED = "rotateKey openai-chat: claimed"
SUCCEEDED = "rotateKey openai-chat: succeeded"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    prove(made)
    made.close()


def prove(town: Town) -> int:
    """Whatever a test did, what is on record proves."""
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    if main is None or audit is None:
        return 0
    verdict = verify_audit(town.store, town.root, main, audit)
    assert verdict.first_bad is None, verdict.first_bad
    return verdict.operations


def record(town: Town, path: str) -> bytes | None:
    tip = town.tip(AUDIT)
    assert tip is not None
    return file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path)


def result(town: Town, request: str = "rotate-1", service: str = "openai-chat") -> Result:
    path = RequestFolder("2026/11", request).result(service)
    data = record(town, path)
    assert data is not None, town.audit_subjects()
    return load_as(Result, data, path)


def refusal(town: Town, request: str) -> Refusal:
    path = RequestFolder("2026/11", request).refusal
    data = record(town, path)
    assert data is not None, town.audit_subjects()
    return load_as(Refusal, data, path)


def look(town: Town) -> Snapshot:
    return snapshot(town.store, town.store.refs(), town.root, town.clock.now())


def shown(town: Town, request: str) -> RequestRow:
    return next(row for row in look(town).requests if row.name == request)


def restarted(town: Town, old: Reconciler) -> Reconciler:
    """A new process: nothing of the old one's memory."""
    old.close()
    return town.reconciler()


# ---- the main job -------------------------------------------------------------------------------


def test_a_rotation_is_claimed_executed_once_and_on_record(town: Town) -> None:
    town.request()
    reconciler = town.reconciler()
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]
    assert town.audit_subjects() == [
        "status openai-chat: HEALTHY (HealthUp)",
        CLAIMED,
        SUCCEEDED,
    ]
    town.clock.advance(seconds=2)
    town.settle(reconciler)
    assert town.audit_subjects()[3:] == ["status openai-chat: seen after an operation"]
    assert prove(town) == 1
    assert result(town).spec.outcome == "succeeded"


def test_the_same_pass_again_does_nothing(town: Town) -> None:
    town.request()
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.clock.advance(seconds=2)
    town.settle(reconciler)
    tip = town.tip(AUDIT)
    for _ in range(3):
        town.clock.advance(minutes=2)
        reconciler.one_pass(patience=5.0)
    again = restarted(town, reconciler)
    town.settle(again)
    assert town.tip(AUDIT) == tip, town.audit_subjects()
    assert town.keys["openai-chat"].created == 1


def test_trailers_tell_a_program_what_the_subject_tells_a_person(town: Town) -> None:
    town.request()
    town.settle(town.reconciler())
    tip = town.tip(AUDIT)
    assert tip is not None
    ended = parse_commit(town.store.read(tip)[1])
    assert ended.trailers["Capsule-Request"] == ("rotate-1",)
    assert ended.trailers["Capsule-Outcome"] == ("succeeded",)
    assert ended.trailers["Capsule-Evidence"] == ("signature",)
    assert ended.trailers["Requested-by"] == ("alice",)
    assert ended.trailers["Approved-by"] == ("bob",)


def test_a_request_without_approval_waits_and_runs_once_approved(town: Town) -> None:
    raw = town.request(approved_by=())
    reconciler = town.reconciler()
    town.settle(reconciler)
    assert town.keys["openai-chat"].created == 0
    document = town.document(raw)
    town.commit(dict(town.approval(document, raw, "bob")), "Approve", who="bob")
    town.settle(reconciler)
    assert town.keys["openai-chat"].created == 1


def test_own_approval_is_no_approval(town: Town) -> None:
    town.request(approved_by=("alice",))
    town.settle(town.reconciler())
    assert town.keys["openai-chat"].created == 0
    assert CLAIMED not in town.audit_subjects()


def test_a_rejection_ends_a_request(town: Town) -> None:
    raw = town.request(approved_by=())
    town.commit(dict(town.approval(town.document(raw), raw, "bob", "reject")), "Reject", who="bob")
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.phase == "Rejected"


def test_an_expired_request_ends_as_a_record(town: Town) -> None:
    town.request(expires="2026-11-23T11:59:00Z")
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.phase == "Expired"
    assert town.keys["openai-chat"].created == 0


def test_an_action_that_needs_no_approval_runs_from_its_branch(town: Town) -> None:
    town.request("check-1", branch=True, approved_by=(), action="runHealthCheck")
    town.settle(town.reconciler())
    assert result(town, "check-1").spec.outputs["status"] == "UP"
    branch = town.tip("refs/heads/request/check-1")
    tips = [town.tip(AUDIT)]
    parents: set[str] = set()
    while tips[-1] and tips[-1] != town.root:
        commit = parse_commit(town.store.read(tips[-1])[1])
        parents.update(commit.parents[1:])
        tips.append(commit.parents[0])
    assert branch in parents


def test_an_unknown_action_is_refused_before_any_claim(town: Town) -> None:
    town.request(action="makeCoffee")
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.reason == "UnknownAction"


def test_wrong_parameters_are_refused_by_the_agent_and_recorded(town: Town) -> None:
    town.request(params={"grace": "soon"})
    town.settle(town.reconciler())
    assert result(town).spec.outcome == "refused"
    assert town.keys["openai-chat"].created == 0


def test_cancel_ends_what_was_not_begun(town: Town) -> None:
    town.request(approved_by=())
    town.request("cancel-1", branch=True, approved_by=(), action="cancel", params={"request": "rotate-1"})
    town.settle(town.reconciler())
    assert refusal(town, "rotate-1").spec.phase == "Cancelled"
    assert result(town, "cancel-1").spec.outcome == "succeeded"


# ---- one effect, whatever happens ----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["timeout before effect", "timeout after effect", "unreachable"])
def test_an_order_whose_answer_is_lost_is_asked_about_and_executed_once(town: Town, fault: str) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.transport.fail("http://openai-chat.invalid", fault)  # type: ignore[arg-type]  # one of its words
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert town.audit_subjects().count(SUCCEEDED) == 1


@pytest.mark.parametrize("fault", ["timeout before effect", "timeout after effect"])
def test_a_reconciler_killed_between_claim_and_result_goes_on_after_its_restart(
    town: Town, fault: str
) -> None:
    first = town.reconciler()
    town.settle(first)
    town.request()
    town.transport.fail("http://openai-chat.invalid", fault)  # type: ignore[arg-type]  # one of its words
    while CLAIMED not in town.audit_subjects():
        first.one_pass(patience=5.0)
    town.settle(restarted(town, first))
    assert town.keys["openai-chat"].history == ["key-1"]
    assert result(town).spec.outcome == "succeeded"


def test_an_agent_that_lost_its_journal_leaves_a_doubt_for_a_person(town: Town) -> None:
    first = town.reconciler()
    town.settle(first)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "timeout after effect")
    while CLAIMED not in town.audit_subjects():
        first.one_pass(patience=5.0)
    first.close()
    town.agents.pop("openai-chat").close()
    for path in town.folder.glob("openai-chat.db*"):
        path.unlink()
    town.start_agent("openai-chat")
    town.settle(town.reconciler())
    assert (result(town).spec.outcome, result(town).spec.reason) == ("unknown", "JournalChanged")
    assert town.keys["openai-chat"].created == 1


def test_a_silent_reconciler_is_taken_over_after_its_lease(town: Town) -> None:
    first = town.reconciler()
    town.settle(first)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "timeout before effect")
    while CLAIMED not in town.audit_subjects():
        first.one_pass(patience=5.0)
    first.close()
    second = town.reconciler("reconciler-2")
    town.settle(second)
    assert SUCCEEDED not in town.audit_subjects()
    town.clock.advance(minutes=6)
    town.settle(second)
    assert town.audit_subjects().count(CLAIMED) == 2
    assert result(town).spec.attempt == 2
    assert town.keys["openai-chat"].history == ["key-1"]


def test_two_reconcilers_at_once_rotate_once(tmp_path: Path) -> None:
    remote = MemoryRemote()
    town = Town(tmp_path, MemoryStore(remote))
    other_store = MemoryStore(remote)
    town.request()
    first, second = town.reconciler(), town.reconciler("reconciler-2", store=other_store)
    for _ in range(8):
        first.one_pass(patience=5.0)
        second.one_pass(patience=5.0)
        town.clock.advance(seconds=1)
    town.store.refresh()
    assert town.keys["openai-chat"].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert prove(town) == 1
    town.close()


@pytest.mark.parametrize("effect", [True, False])
def test_a_push_that_broke_is_settled_by_reading_the_remote(tmp_path: Path, effect: bool) -> None:
    remote = MemoryRemote()
    town = Town(tmp_path, MemoryStore(remote))
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    remote.break_next_push(effect=effect)
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert prove(town) == 1
    town.close()


def test_a_request_that_is_cancelled_while_its_order_is_lost_never_runs(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "timeout before effect")
    while CLAIMED not in town.audit_subjects():
        reconciler.one_pass(patience=5.0)
    town.request("cancel-1", branch=True, approved_by=(), action="cancel", params={"request": "rotate-1"})
    town.transport.fail("http://openai-chat.invalid", "unreachable")
    town.settle(restarted(town, reconciler))
    assert (result(town).spec.outcome, result(town).spec.reason) == ("cancelled", "Tombstoned")
    assert town.keys["openai-chat"].created == 0


# ---- agents that misbehave -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["garbage answer", "huge answer", "rejected"])
def test_an_agent_that_answers_nonsense_delays_no_other(tmp_path: Path, fault: str) -> None:
    town = Town(tmp_path, services=("openai-chat", "stripe-pay"))
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request(targets=("stripe-pay",))
    town.transport.fail("http://openai-chat.invalid", *[fault] * 50)  # type: ignore[list-item]  # one of its words
    town.clock.advance(minutes=1)
    town.settle(reconciler)
    assert town.keys["stripe-pay"].history == ["key-1"]
    prove(town)
    town.close()


def test_a_garbage_receipt_is_a_doubt_and_never_a_success(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "garbage answer")
    town.settle(reconciler)
    assert (result(town).spec.outcome, result(town).spec.reason) == ("unknown", "MalformedAnswer")


def test_an_agent_that_lies_about_its_name_is_not_believed(tmp_path: Path) -> None:
    town = Town(tmp_path, services=("openai-chat", "stripe-pay"))
    town.transport.connect(
        "http://openai-chat.invalid",
        lambda call, body: town.agents["stripe-pay"].answer(f"/capsule/v1/{call}", body).body,
    )
    town.request()
    town.settle(town.reconciler())
    assert CLAIMED not in town.audit_subjects()
    town.close()


def test_an_agent_that_is_down_holds_the_request_until_it_is_back(town: Town) -> None:
    town.transport.disconnect("http://openai-chat.invalid")
    town.request()
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.clock.advance(minutes=3)
    town.settle(reconciler)
    assert "status openai-chat: UNKNOWN → OFFLINE (AgentUnreachable)" in town.audit_subjects()
    assert CLAIMED not in town.audit_subjects()
    town.start_agent("openai-chat")
    town.settle(reconciler)
    assert town.keys["openai-chat"].history == ["key-1"]


# ---- status, main, audit -------------------------------------------------------------------------


def test_drift_found_and_gone_is_committed_once(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.models["openai-chat"] = "m2"
    for _ in range(3):
        town.clock.advance(minutes=1)
        town.settle(reconciler)
    town.models["openai-chat"] = "m1"
    town.clock.advance(minutes=1)
    town.settle(reconciler)
    assert town.audit_subjects() == [
        "status openai-chat: HEALTHY (HealthUp)",
        "drift openai-chat: model m1 → m2, desired m1",
        "drift openai-chat: gone",
    ]


def test_a_change_of_health_is_committed(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    down = HealthReport("DOWN", "no upstream", "2026-11-23T12:00:00Z")
    town.agents["openai-chat"].health(lambda: down)  # type: ignore[arg-type, return-value]  # plain data
    town.clock.advance(minutes=1)
    town.settle(reconciler)
    assert town.audit_subjects()[-1] == "status openai-chat: HEALTHY → UNHEALTHY (HealthDown)"


def test_an_unauthorised_policy_stops_acting_and_keeps_probing(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    policy = town.file("policy.yaml").replace(b"serial: 1", b"serial: 2")
    town.commit({"policy.yaml": policy}, "Sneak in a policy", who="alice")
    town.request()
    report = town.settle(reconciler)
    assert "policy" in report.stalled.lower()
    assert CLAIMED not in town.audit_subjects()
    town.models["openai-chat"] = "m2"
    town.clock.advance(minutes=1)
    town.settle(reconciler)
    assert town.audit_subjects()[-1].startswith("drift openai-chat")


def test_a_claimed_order_that_did_not_leave_waits_while_main_is_suspended(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "timeout before effect")
    while CLAIMED not in town.audit_subjects():
        reconciler.one_pass(patience=5.0)
    good = town.file("policy.yaml")
    town.commit({"policy.yaml": good.replace(b"serial: 1", b"serial: 2")}, "Sneak in a policy", who="alice")
    again = restarted(town, reconciler)
    for _ in range(4):
        town.clock.advance(seconds=11)
        assert "policy" in again.one_pass(patience=5.0).stalled.lower()
    other = town.reconciler("reconciler-2")
    for _ in range(3):
        town.clock.advance(minutes=6)
        other.one_pass(patience=5.0)
    other.close()
    assert town.keys["openai-chat"].created == 0
    assert town.audit_subjects().count(CLAIMED) == 1
    again.one_pass(patience=5.0)
    assert "Suspended: not sent" in shown(town, "rotate-1").message
    town.commit({"policy.yaml": good}, "Take it back", who="carol")
    town.settle(again)
    assert town.keys["openai-chat"].history == ["key-1"]


def test_an_audit_branch_that_was_rewound_stops_acting(town: Town) -> None:
    reconciler = town.reconciler()
    town.request()
    town.settle(reconciler)
    tip = town.tip(AUDIT)
    assert tip is not None
    parent = parse_commit(town.store.read(tip)[1]).parents[0]
    town.store.publish([RefUpdate(AUDIT, tip, parent)])
    town.request("rotate-2")
    again = restarted(town, reconciler)
    report = town.settle(again)
    assert "AuditRewritten" in report.stalled
    assert town.keys["openai-chat"].created == 1
    assert town.store.refs(SEEN)[SEEN] == tip


def test_an_audit_commit_by_a_stranger_stops_acting(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    good = town.tip(AUDIT)
    town.commit({"records/2026/11/rotate-1/refusal.yaml": b"x"}, "Slip a record in", who="alice", ref=AUDIT)
    town.request()
    report = town.settle(restarted(town, reconciler))
    assert "AuditUntrusted" in report.stalled
    assert town.keys["openai-chat"].created == 0
    town.store.publish([RefUpdate(AUDIT, town.tip(AUDIT), good)])


def test_a_remote_that_is_away_loses_nothing(tmp_path: Path) -> None:
    remote = MemoryRemote()
    town = Town(tmp_path, MemoryStore(remote))
    reconciler = town.reconciler()
    town.settle(reconciler)
    remote.unreachable = True
    town.models["openai-chat"] = "m2"
    for _ in range(10):
        town.clock.advance(minutes=6)
        assert reconciler.one_pass(patience=5.0).stalled
    remote.unreachable = False
    town.settle(reconciler)
    assert town.audit_subjects()[-1] == "drift openai-chat: model m1 → m2, desired m1"
    prove(town)
    town.close()


def test_heartbeats_are_replaced_and_leave_no_history(town: Town) -> None:
    reconciler = town.reconciler()
    seen = set()
    for _ in range(4):
        reconciler.one_pass(patience=5.0)
        beat = town.tip("refs/capsule/local/heartbeat/reconciler-1")
        assert beat is not None
        commit = parse_commit(town.store.read(beat)[1])
        assert not commit.parents
        seen.add(beat)
        town.clock.advance(seconds=11)
    assert len(seen) == 4


def test_a_reader_that_holds_the_last_heartbeat_can_still_read_it_after_the_next(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    held = []
    for _ in range(4):
        town.clock.advance(seconds=11)
        refs = town.store.refs()
        held.append(refs["refs/capsule/local/heartbeat/reconciler-1"])
        reconciler.one_pass(patience=5.0)
        seen = snapshot(town.store, refs, town.root, town.clock.now())
        assert (seen.conditions, [row.status for row in seen.services]) == ((), ["HEALTHY"])
    with pytest.raises(MissingObject):
        town.store.read(held[-3])
    again = restarted(town, reconciler)  # a restart forgets no beat that is to be let go of
    for _ in range(2):
        town.clock.advance(seconds=11)
        again.one_pass(patience=5.0)
    with pytest.raises(MissingObject):
        town.store.read(held[-1])


def test_an_operation_on_a_service_that_was_removed_says_so(tmp_path: Path) -> None:
    town = Town(tmp_path, services=("openai-chat", "stripe-pay"))
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    town.transport.fail("http://openai-chat.invalid", "timeout before effect", "unreachable", "unreachable")
    while CLAIMED not in town.audit_subjects():
        reconciler.one_pass(patience=5.0)
    town.commit({"services/openai-chat.yaml": None}, "Remove the service")
    again = restarted(town, reconciler)
    for _ in range(2):
        town.clock.advance(seconds=11)
        again.one_pass(patience=5.0)
    row = shown(town, "rotate-1")
    assert row.phase == "Running"
    assert "openai-chat: ServiceGone: The service was removed" in row.message
    prove(town)
    town.close()


def test_the_command_line_judges_a_rollout_under_way_as_the_reconciler_does(tmp_path: Path) -> None:
    """A target that was begun may change: that voids nothing for those that wait for their turn."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "state")], check=True)
    store = open_store(tmp_path / "state")
    town = Town(tmp_path, store, services=("openai-chat", "stripe-pay"))
    reconciler = town.reconciler()
    town.request(targets=("openai-chat", "stripe-pay"), rollout={"parallel": 1, "pause": "5m"})
    town.settle(reconciler)
    assert result(town).spec.outcome == "succeeded"
    moved = town.service_text("openai-chat", pins={"model": "m2"})
    town.commit({"services/openai-chat.yaml": moved}, "Pin the next model")
    reconciler.one_pass(patience=5.0)
    repository = open_repository(tmp_path / "state", town.root)
    judged = repository.requests(repository.state)["rotate-1"]
    assert (judged.verdict, judged.approved_by) == ("approved", ("bob",))
    (row,) = next_pass(repository, None, town.clock).rows
    assert (row.service, row.step, row.reason) == ("stripe-pay", "hold", "AgentNotSeen")
    repository.close()
    town.clock.advance(minutes=5)
    town.settle(reconciler)
    assert town.keys["stripe-pay"].history == ["key-1"]
    reconciler.close()
    prove(town)
    town.close()
    store.close()


def test_what_holds_an_approved_request_is_shown(town: Town) -> None:
    """Nothing is recorded of it, so the heartbeat tells: nobody is left with "waits for the next pass"."""
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.transport.disconnect("http://openai-chat.invalid")
    town.clock.advance(minutes=5)
    town.settle(reconciler)
    town.request("rotate-1")
    reconciler.one_pass()
    row = shown(town, "rotate-1")
    assert (row.phase, row.reason) == ("Held", "AgentNotReachable"), row
    assert "openai-chat" in row.message
    reconciler.close()
