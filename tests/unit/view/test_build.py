"""The snapshot: right at once, right after every change, and cheap when little changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, HEARTBEATS, MAIN
from capsule.trust.objects import MissingObject, ObjectKind
from capsule.trust.policy_checks import load_policy
from capsule.view.build import SnapshotCache, Unreadable, snapshot
from capsule.view.events import events_of
from capsule.view.freezes import freezes_at
from capsule.view.heartbeat import Heartbeat, encode_heartbeat
from capsule.view.model import RequestRow, ServiceRow, Snapshot
from capsule.view.requests import with_waits
from capsule.view.summary import summary
from tests.web.chronicle import KEYS, POLICY_TEXT, RECONCILER, Chronicle, service_text
from tests.web.integration_services import (
    CHECK_ZENDESK,
    EMBEDDINGS,
    NOW,
    OPENAI,
    REJECTED,
    ROLLOUT,
    ROTATE_OPENAI,
    ROTATE_STRIPE,
    ROTATE_TWO,
    SMS,
    integration_services,
    probes,
)


@pytest.fixture
def story() -> Chronicle:
    return integration_services()


def look(story: Chronicle, cache: SnapshotCache | None = None, now: datetime | None = None) -> Snapshot:
    return snapshot(story.store, story.store.refs(), story.root, now or story.now, cache)


def service(seen: Snapshot, name: str) -> ServiceRow:
    return next(row for row in seen.services if row.name == name)


def request(seen: Snapshot, name: str) -> RequestRow:
    return next(row for row in seen.requests if row.name == name)


class Counting:
    """A reader that counts what is read."""

    def __init__(self, story: Chronicle) -> None:
        self._store = story.store
        self.reads: Counter[ObjectKind] = Counter()

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        kind, data = self._store.read(oid)
        self.reads[kind] += 1
        return kind, data


# ---- services -------------------------------------------------------------------------------------


def test_every_service_has_its_status_and_its_reason(story: Chronicle) -> None:
    seen = look(story)
    assert {row.name: (row.status, row.reason) for row in seen.services} == {
        "anthropic-messages": ("HEALTHY", "HealthUp"),
        "embeddings": ("HEALTHY", "HealthUp"),
        "maps-geocoder": ("UNKNOWN", "NeverSeen"),
        "openai-chat": ("HEALTHY", "HealthUp"),
        "salesforce-sync": ("OFFLINE", "ConnectionRefused"),
        "sms-gateway": ("DISABLED", "DisabledBySpec"),
        "stripe-payments": ("HEALTHY", "HealthUp"),
        "zendesk-tickets": ("UNHEALTHY", "HealthDegraded"),
    }
    assert (seen.title, seen.main, seen.audit) == ("Integration services", story.ref(MAIN), story.ref(AUDIT))
    assert (seen.suspended, seen.conditions) == ("", ())
    assert [each.message for each in seen.freezes] == [
        "team=billing is frozen until 2026-12-01 00:00 UTC: Month end"
    ]


def test_which_one_is_up_what_is_it_pinned_to_who_rotated_its_key_when(story: Chronicle) -> None:
    row = service(look(story), "openai-chat")
    assert (row.model, row.version, row.upstream) == ("gpt-5.1", "1.8.2", "https://api.openai.com/v1")
    assert (row.health, row.checked_at, row.latency_ms) == ("UP", NOW - timedelta(seconds=4), 112)
    rotated = row.last_rotation
    assert rotated
    assert (rotated.requested_by, rotated.approved_by, rotated.evidence) == ("alice", ("bob",), "signature")
    assert (rotated.why, rotated.params) == ("Quarterly rotation, OPS-1234", {"grace": "24h"})
    assert row.operations == (rotated,)
    assert row.key_created_at
    assert row.rotation_due == row.key_created_at + timedelta(days=90)


def test_a_failed_rotation_is_not_the_last_one(story: Chronicle) -> None:
    row = service(look(story), "embeddings")
    assert [item.outcome for item in row.operations] == ["failed"]
    assert row.last_rotation is None
    assert [(item.pin, item.desired, item.observed) for item in row.drift] == [
        ("model", "text-embedding-4-large", "text-embedding-4-small")
    ]
    assert row.rotation_due is None


def test_without_a_key_date_the_last_rotation_counts() -> None:
    story = _one_service(more="  rotation: {every: 90d}")
    asked = story.request("20261101-r-a1b2", "rotateKey", ("solo",), reason="x", approvals={"bob": "approve"})
    story.record(story.claim(asked, "solo", approved_by=("bob",)), "claim")
    assert service(look(story), "solo").rotation_due is None
    story.record(story.result(asked, "solo", "succeeded", "Succeeded"), "done")
    assert service(look(story), "solo").rotation_due == story.now + timedelta(days=90)


def test_what_the_last_probe_says_is_fresher_but_never_a_better_status(story: Chronicle) -> None:
    row = service(look(story), "salesforce-sync")
    assert (row.status, row.probe_reason, row.latency_ms) == ("OFFLINE", "ConnectionRefused", None)
    story.beat({"salesforce-sync": story.probe(1), "openai-chat": story.probe(1, status="DOWN")})
    seen = look(story)
    row = service(seen, "salesforce-sync")
    assert (row.status, row.health, row.probe_reason) == ("OFFLINE", "UP", "")
    row = service(seen, "openai-chat")
    assert (row.status, row.health, row.health_detail) == ("HEALTHY", "DOWN", "")
    story.beat({"salesforce-sync": story.probe(1, ok=False)})
    assert service(look(story), "salesforce-sync").probe_reason == "NoAnswer"


def test_switched_off_in_the_document_and_not_yet_recorded_is_disabling(story: Chronicle) -> None:
    text = service_text("openai-chat", labels={"team": "search"}, pins={}, more="  enabled: false")
    fresh = Chronicle(NOW, {OPENAI: text, SMS: service_text("sms-gateway", labels={}, pins={})})
    fresh.record(fresh.status(OPENAI, "HEALTHY", "HealthUp", enabled=True), "seen")
    fresh.beat({})
    seen = look(fresh)
    assert service(seen, "openai-chat").status == "DISABLING"
    fresh.record(fresh.status(OPENAI, "DISABLING", "DisableNotConfirmed", message="asked"), "asked")
    assert service(look(fresh), "openai-chat").message == "asked"


def test_a_status_that_cannot_be_read_is_a_condition_of_its_service_alone(story: Chronicle) -> None:
    story.record({"status/llm/openai-chat.yaml": b"spec: [unclosed"}, "damage")
    seen = look(story)
    row = service(seen, "openai-chat")
    assert (row.status, row.reason) == ("UNKNOWN", "NeverSeen")
    assert [item.type for item in row.conditions] == ["StatusUnreadable"]
    assert service(seen, "anthropic-messages").conditions == ()


def test_conditions_of_the_record_are_shown(story: Chronicle) -> None:
    since = "2026-11-20T00:00:00Z"
    overdue = {"type": "KeyOverdue", "reason": "KeyOverdue", "message": "due 20 days ago", "since": since}
    story.record(story.status(OPENAI, "HEALTHY", "HealthUp", conditions=[overdue]), "overdue")
    (row,) = service(look(story), "openai-chat").conditions
    assert (row.type, row.message) == ("KeyOverdue", "due 20 days ago")


def test_a_service_that_goes_away_goes_with_its_status(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    story.record({"status/llm/embeddings.yaml": None}, "embeddings: gone")
    assert service(look(story, cache), "embeddings").status == "UNKNOWN"


def test_a_change_nobody_approved_is_pending_and_said(story: Chronicle) -> None:
    text = service_text("openai-chat", labels={"team": "search"}, pins={"model": "gpt-6"})
    story.commit({OPENAI: text, "services/llm/new.yaml": service_text("new", labels={}, pins={})}, "Sneak in")
    seen = look(story)
    row = service(seen, "openai-chat")
    assert row.pins["model"] == "gpt-5.1"
    assert [item.type for item in row.conditions] == ["ChangePending"]
    assert any("services/llm/new.yaml" in item.message for item in seen.conditions)
    assert all(row.name != "new" for row in seen.services)


def test_a_policy_change_nobody_approved_suspends_and_holds(story: Chronicle) -> None:
    story.commit({"policy.yaml": POLICY_TEXT.replace("serial: 1", "serial: 2")}, "Take over", who="alice")
    seen = look(story)
    assert seen.suspended
    assert request(seen, ROTATE_STRIPE).reason == "Suspended"
    assert seen.title == "Integration services"


# ---- the clock --------------------------------------------------------------------------------------


def test_a_dead_reconciler_makes_everything_stale(story: Chronicle) -> None:
    cache = SnapshotCache()
    alive = look(story, cache, NOW + timedelta(seconds=90))
    dead = look(story, cache, NOW + timedelta(seconds=91))
    assert [row.alive for row in alive.heartbeats] == [True]
    assert [row.alive for row in dead.heartbeats] == [False]
    assert {(row.status, row.reason, row.since) for row in dead.services} == {("STALE", "HeartbeatDead", NOW)}
    assert alive.revision == look(story, cache, NOW).revision != dead.revision


def test_without_any_heartbeat_nothing_is_known() -> None:
    seen = look(_one_service())
    assert [(row.status, row.reason, row.since) for row in seen.services] == [
        ("UNKNOWN", "HeartbeatUnknown", None)
    ]
    assert seen.heartbeats == ()


def test_a_reconciler_that_lives_but_does_not_probe_makes_one_service_stale(story: Chronicle) -> None:
    late = {**probes(story), "openai-chat": story.probe(91), "salesforce-sync": story.probe(500, ok=False)}
    story.beat(late)
    seen = look(story)
    row = service(seen, "openai-chat")
    assert (row.status, row.reason) == ("STALE", "AnswerOld")
    assert service(seen, "salesforce-sync").status == "OFFLINE"
    assert service(seen, "anthropic-messages").status == "HEALTHY"


def test_the_interval_of_the_service_says_what_is_late() -> None:
    story = _one_service(more="  health: {interval: 5m}")
    story.record(story.status("services/solo.yaml", "HEALTHY", "HealthUp"), "seen")
    story.beat({"solo": story.probe(14 * 60)})
    assert service(look(story), "solo").status == "HEALTHY"
    story.beat({"solo": story.probe(16 * 60)})
    assert service(look(story), "solo").status == "STALE"


def test_of_two_reconcilers_the_latest_probe_counts(story: Chronicle) -> None:
    text = POLICY_TEXT.replace(
        f"    {RECONCILER}:",
        '    agent: {machine: true, keys: ["' + KEYS["agent"].public.text + f'"]}}\n    {RECONCILER}:',
    )
    two = Chronicle(NOW, {"policy.yaml": text, OPENAI: _text("openai-chat")})
    two.beat({"openai-chat": two.probe(40, latency_ms=1)})
    two.beat({"openai-chat": two.probe(50, latency_ms=2)}, who="agent")
    assert service(look(two), "openai-chat").latency_ms == 1
    two.beat({"openai-chat": two.probe(30, latency_ms=3)}, who="agent")
    assert service(look(two), "openai-chat").latency_ms == 3
    assert [row.reconciler for row in look(two).heartbeats] == ["agent", RECONCILER]


# ---- heartbeats that do not count -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "why"),
    [
        ({"key": "mallory"}, "not listed"),
        ({"key": "alice"}, "signed by alice"),
        ({"signed": False}, "not signed"),
        ({"data": b"{}"}, "missing"),
        ({"data": encode_heartbeat(Heartbeat("other", "2026-11-23T14:30:00Z", 10))}, "speaks for 'other'"),
        ({"who": "reconciler-9", "key": RECONCILER}, f"signed by {RECONCILER}"),
        ({"who": "alice"}, "signed by alice"),
    ],
)
def test_a_heartbeat_that_does_not_verify_is_ignored_and_said(
    story: Chronicle, beat: dict[str, Any], why: str
) -> None:
    story.store.set_ref(HEARTBEATS + RECONCILER, None)
    story.beat({"openai-chat": story.probe(1)}, **beat)
    seen = look(story)
    assert seen.heartbeats == ()
    assert {row.status for row in seen.services} == {"STALE"}
    (said,) = seen.conditions
    assert said.reason == "HeartbeatIgnored"
    assert why in said.message


def test_a_heartbeat_with_history_or_without_its_file_is_ignored(story: Chronicle) -> None:
    story.beat({}, parents=(story.root,))
    assert "has parents" in look(story).conditions[0].message
    story.store.set_ref(HEARTBEATS + RECONCILER, story.ref(AUDIT))
    assert "has parents" in look(story).conditions[0].message
    story.store.set_ref(HEARTBEATS + RECONCILER, story.orphan())
    assert "has no heartbeat.json" in look(story).conditions[0].message


def test_an_audit_tip_that_no_reconciler_signed_is_said(story: Chronicle) -> None:
    story.record({}, "forged", who="mallory")
    assert [row.reason for row in look(story).conditions] == ["AuditSignature"]
    story.record({}, "by hand", who="bob")
    assert [row.reason for row in look(story).conditions] == ["AuditSigner"]


def test_an_audit_branch_that_just_began_needs_no_signature() -> None:
    story = _one_service()
    story.store.set_ref(AUDIT, story.root)
    assert look(story).conditions == ()


# ---- requests ---------------------------------------------------------------------------------------


def test_phases_are_derived(story: Chronicle) -> None:
    seen = look(story)
    assert {row.name: row.phase for row in seen.requests} == {
        ROTATE_TWO: "Proposed",
        ROTATE_STRIPE: "Held",
        CHECK_ZENDESK: "Succeeded",
        ROLLOUT: "Stopped",
        ROTATE_OPENAI: "Succeeded",
        REJECTED: "Rejected",
    }


def test_what_waits_stands_first_then_what_is_under_way_then_the_newest(story: Chronicle) -> None:
    story.request("audit-me-a1b2", "rotateKey", ("openai-chat",), reason="No day in its name")
    story.request("20261123-a-newer-one-z9z9", "rotateKey", ("openai-chat",), reason="x", branch=True)
    story.now += timedelta(minutes=5)
    story.request("20261101-named-long-ago-z9z9", "rotateKey", ("openai-chat",), reason="x", branch=True)
    seen = look(story, now=NOW)
    assert [(row.name, row.phase) for row in seen.requests] == [
        ("20261101-named-long-ago-z9z9", "Proposed"),
        ("20261123-a-newer-one-z9z9", "Proposed"),
        (ROTATE_TWO, "Proposed"),
        ("audit-me-a1b2", "Proposed"),
        (ROTATE_STRIPE, "Held"),
        (CHECK_ZENDESK, "Succeeded"),
        (ROLLOUT, "Stopped"),
        (ROTATE_OPENAI, "Succeeded"),
        (REJECTED, "Rejected"),
    ]


def test_a_proposed_request_says_who_can_give_what_is_missing(story: Chronicle) -> None:
    row = request(look(story), ROTATE_TWO)
    assert (row.source, row.approvals) == ("branch", ())
    assert [(item.team, item.count, set(item.candidates)) for item in row.missing] == [
        ("reviewers", 1, {"bob", "carol"})
    ]


def test_a_freeze_holds_an_approved_request_until_it_ends(story: Chronicle) -> None:
    cache = SnapshotCache()
    row = request(look(story, cache), ROTATE_STRIPE)
    assert (row.phase, row.reason) == ("Held", "Frozen")
    assert "2026-12-01 00:00 UTC: Month end" in row.message


def test_a_request_expires_by_the_clock_alone(story: Chronicle) -> None:
    cache = SnapshotCache()
    before = look(story, cache)
    after = look(story, cache, NOW + timedelta(days=7))
    assert request(before, ROTATE_TWO).phase == "Proposed"
    assert (request(after, ROTATE_TWO).phase, request(after, ROTATE_STRIPE).phase) == ("Expired", "Expired")
    assert request(after, ROTATE_OPENAI).phase == "Succeeded"
    assert before.revision != after.revision


def test_a_request_for_later_is_held_then_approved() -> None:
    story = _one_service()
    later = {"notBefore": "2026-11-24T00:00:00Z"}
    story.request("20261123-later-a1b2", "runHealthCheck", ("solo",), reason="x", more=later, days=30)
    row = request(look(story), "20261123-later-a1b2")
    assert (row.phase, row.reason, row.not_before) == (
        "Held",
        "NotBefore",
        datetime.fromisoformat("2026-11-24T00:00:00Z"),
    )
    row = request(look(story, now=NOW + timedelta(days=1)), "20261123-later-a1b2")
    assert row.phase == "Approved"


def test_a_request_that_is_no_document_is_shown_as_it_is(story: Chronicle) -> None:
    folder = story.folder("20261123-broken-a1b2")
    story.commit({folder.request: "kind: ActionRequest\n"}, "Broken")
    row = request(look(story), "20261123-broken-a1b2")
    assert (row.phase, row.action, row.targets, row.expires) == ("Rejected", "", (), None)
    assert row.reason


def test_a_request_whose_branch_is_gone_lives_on_in_its_records(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    story.store.set_ref(f"refs/heads/request/{CHECK_ZENDESK}", None)
    row = request(look(story, cache), CHECK_ZENDESK)
    assert (row.phase, row.action, row.targets) == ("Succeeded", "runHealthCheck", ("zendesk-tickets",))
    assert (row.requested_by, row.evidence, row.ended_at) == ("alice", "", row.operations[0].recorded_at)
    (operation,) = service(look(story, cache), "zendesk-tickets").operations
    assert (operation.params, operation.why) == ({}, "")


def test_a_refusal_without_its_request_is_shown(story: Chronicle) -> None:
    gone = story.request("20261123-gone-a1b2", "rotateKey", ("embeddings",), reason="x", branch=True)
    story.record(story.refusal(gone, "Cancelled", "CancelledByRequest", "not needed"), "cancelled")
    story.store.set_ref("refs/heads/request/20261123-gone-a1b2", None)
    row = request(look(story), "20261123-gone-a1b2")
    assert (row.phase, row.action, row.requested_by, row.operations) == ("Cancelled", "", "", ())
    assert row.digest.startswith("sha256:")
    assert row.ended_at == story.now


def test_a_branch_that_goes_without_records_takes_its_request_along(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    story.store.set_ref(f"refs/heads/request/{ROTATE_TWO}", None)
    assert ROTATE_TWO not in {row.name for row in look(story, cache).requests}


def test_an_operation_runs_until_it_has_a_result() -> None:
    story = _one_service()
    cache = SnapshotCache()
    asked = story.request("20261101-r-a1b2", "rotateKey", ("solo",), reason="x", approvals={"bob": "approve"})
    story.record(story.claim(asked, "solo", approved_by=("bob",)), "claim")
    story.record(story.claim(asked, "solo", approved_by=("bob",), attempt=2), "take over")
    (running,) = service(look(story, cache), "solo").operations
    assert (running.outcome, running.attempt, running.recorded_at) == ("running", 2, None)
    assert request(look(story, cache), "20261101-r-a1b2").phase == "Running"
    story.record(story.result(asked, "solo", "succeeded", "Succeeded"), "done")
    (done,) = service(look(story, cache), "solo").operations
    assert done.outcome == "succeeded"


def test_an_operation_under_way_says_what_its_reconciler_last_said_of_it() -> None:
    story = _one_service()
    cache = SnapshotCache()
    name = "20261101-r-a1b2"
    asked = story.request(name, "rotateKey", ("solo",), reason="x", approvals={"bob": "approve"})
    story.record(story.claim(asked, "solo", approved_by=("bob",)), "claim")
    story.beat({}, waits={f"{name}/solo": "AgentTimeout: no answer", "gone/solo": "x"})
    row = request(look(story, cache), name)
    assert (row.phase, row.message) == ("Running", "1 running; solo: AgentTimeout: no answer")
    assert [item.message for item in row.operations] == ["AgentTimeout: no answer"]
    story.beat({}, waits={"other/solo": "x"})
    assert request(look(story, cache), name).message == "1 running"
    story.beat({}, waits={f"{name}/solo": "AgentTimeout: no answer"})
    story.record(story.result(asked, "solo", "succeeded", "Succeeded"), "done")
    assert request(look(story, cache), name).phase == "Succeeded"
    assert "AgentTimeout" not in request(look(story, cache), name).message


def test_of_several_operations_under_way_the_first_is_told_and_the_rest_counted() -> None:
    story = integration_services()
    row = request(look(story), ROLLOUT)
    under_way = [
        replace(row.operations[0], service=name, outcome=outcome)
        for name, outcome in (("a", "running"), ("b", "running"), ("c", "failed"))
    ]
    told = with_waits(replace(row, operations=tuple(under_way)), {f"{ROLLOUT}/{name}": "W" for name in "abc"})
    assert told.message == f"{row.message}; a: W (and 1 more)"
    assert [each.message == "W" for each in told.operations] == [True, True, False]


def test_a_request_whose_evidence_cannot_be_had_says_why() -> None:
    row = request(look(integration_services()), ROLLOUT)
    waits = {ROLLOUT: "EvidenceUnavailable: ForgeUnreachable: away"}
    for phase in ("Proposed", "Held"):
        told = with_waits(replace(row, phase=phase), waits)
        assert told.message == f"{row.message}; reviews: {waits[ROLLOUT]}"
    assert with_waits(replace(row, phase="Running"), waits).message == row.message


def test_a_request_that_the_reconciler_holds_says_why() -> None:
    """An approved one is no longer said to wait for the next pass; what the repository itself tells stays."""
    row = replace(request(look(integration_services()), ROLLOUT), phase="Approved", reason="Approved")
    waits = {f"{ROLLOUT}/": "AgentWantsSignatures: the agent of a wants 1 more: capsule approve x"}
    told = with_waits(row, waits)
    assert (told.phase, told.reason) == ("Held", "AgentWantsSignatures")
    assert told.message == "the agent of a wants 1 more: capsule approve x"
    for odd in ("no reason at all", "not A Word: message", ""):
        assert with_waits(row, {f"{ROLLOUT}/": odd}) == row
    frozen = replace(row, phase="Held", reason="Frozen", message="frozen until noon")
    assert with_waits(frozen, waits) == frozen


def test_damaged_records_are_said_and_hide_nothing(story: Chronicle) -> None:
    folder = story.folder(ROTATE_OPENAI)
    story.record({folder.claim("openai-chat", 1): b"kind: ["}, "damage")
    seen = look(story)
    assert [row.reason for row in seen.conditions] == ["RecordDamaged"]
    assert service(seen, "openai-chat").operations == ()
    assert request(seen, ROLLOUT).phase == "Stopped"


def test_findings_of_main_and_of_branches_are_said(story: Chronicle) -> None:
    story.commit({"signers/signers.json": "{}"}, "A list of signers that nobody signed")
    story.store.set_ref("refs/heads/request/nothing-here", story.root)
    said = {row.reason: row.message for row in look(story).conditions}
    assert "BranchWithoutRequest" in said
    assert any(message.startswith("signers/") for message in said.values())


def test_status_on_main_suspends_and_is_said_once(story: Chronicle) -> None:
    story.commit({"status/x.yaml": "x: 1\n"}, "Write where only reconcilers write")
    seen = look(story)
    assert "only reconcilers write it" in seen.suspended
    assert seen.conditions == ()


# ---- the cache --------------------------------------------------------------------------------------


def test_a_cache_changes_nothing_but_the_cost(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    story.commit({"README.md": "x\n"}, "Words")
    story.record(story.status(EMBEDDINGS, "HEALTHY", "HealthUp"), "embeddings: drift gone")
    story.request("20261123-more-a1b2", "rotateKey", ("embeddings",), reason="x", branch=True)
    story.beat(probes(story))
    assert look(story, cache) == look(story)


def test_the_same_tips_read_nothing(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    counting = Counting(story)
    snapshot(counting, story.store.refs(), story.root, NOW, cache)
    assert not counting.reads


def test_a_heartbeat_costs_one_document(story: Chronicle) -> None:
    cache = SnapshotCache()
    look(story, cache)
    story.beat(probes(story), interval=11)
    counting = Counting(story)
    snapshot(counting, story.store.refs(), story.root, NOW, cache)
    assert counting.reads["blob"] == 1


def test_one_changed_status_among_many_reads_one_status() -> None:
    files = {f"services/{at // 20:02}/s-{at:03}.yaml": _text(f"s-{at:03}") for at in range(200)}
    story = Chronicle(NOW, files)
    edits: dict[str, Any] = {}
    for path in files:
        edits |= story.status(path, "HEALTHY", "HealthUp")
    story.record(edits, "all")
    cache = SnapshotCache()
    before = look(story, cache)
    story.record(story.status("services/03/s-077.yaml", "OFFLINE", "ConnectTimeout"), "s-077: OFFLINE")
    counting = Counting(story)
    after = snapshot(counting, story.store.refs(), story.root, NOW, cache)
    assert counting.reads["blob"] <= 2
    assert counting.reads["tree"] < 20
    changed = [row.name for row, old in zip(after.services, before.services, strict=True) if row != old]
    assert changed == []  # all are STALE: no reconciler lives
    story.beat({})
    assert [row.name for row in look(story, cache).services if row.status == "OFFLINE"] == ["s-077"]


# ---- what cannot be shown ---------------------------------------------------------------------------


def test_without_main_there_is_an_empty_picture(story: Chronicle) -> None:
    seen = snapshot(story.store, {}, story.root, NOW)
    assert (seen.main, seen.services, seen.requests) == (None, (), ())
    assert seen.revision


def test_a_root_that_is_no_root_is_unreadable(story: Chronicle) -> None:
    with pytest.raises(Unreadable) as caught:
        snapshot(story.store, story.store.refs(), story.ref(AUDIT), NOW)
    assert caught.value.reason == "BadRoot"


def test_a_shallow_clone_is_said(story: Chronicle) -> None:
    story.store.remove([story.root])
    with pytest.raises(MissingObject):
        look(story)


def test_a_history_that_was_left_out_is_a_condition(story: Chronicle) -> None:
    whole = look(story)
    cut = snapshot(story.store, story.store.refs(), story.root, story.now, cut=[story.ref(AUDIT)])
    assert cut.conditions[:-1] == whole.conditions
    assert (cut.conditions[-1].type, cut.conditions[-1].reason) == ("HistoryNotProved", "HistoryMissing")
    assert cut.services == whole.services
    assert cut.revision != whole.revision


def _text(name: str) -> str:
    return service_text(name, labels={"team": "search"}, pins={"version": "1.0.0"})


def _one_service(more: str = "") -> Chronicle:
    text = service_text("solo", labels={"team": "search"}, pins={"version": "1.0.0"}, more=more)
    return Chronicle(NOW, {"services/solo.yaml": text})


# ---- freezes, and all of it in a sentence -------------------------------------------------------


def test_a_freeze_is_told_while_it_holds(story: Chronicle) -> None:
    freezes = POLICY_TEXT.replace("selector: {team: billing}", "except: [owners]").replace(
        '      reason: "Month end"\n', ""
    )
    policy = load_policy(freezes.encode(), "policy.yaml")
    start, end = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    (told,) = freezes_at(policy, start)
    assert told.message == "everything is frozen until 2026-12-01 00:00 UTC (except owners)"
    assert list(freezes_at(policy, end)) == list(freezes_at(policy, start - timedelta(seconds=1))) == []
    assert all("Freeze" not in str(event) for event in events_of(look(story)))


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((), "No services yet."),
        (("HEALTHY",), "The one service is healthy."),
        (("HEALTHY", "HEALTHY"), "All 2 services are healthy."),
        (("OFFLINE",), "1 service needs attention."),
        (("OFFLINE", "STALE", "HEALTHY"), "2 of 3 services need attention, 1 is fine."),
        (("DISABLED", "DISABLED", "HEALTHY"), "1 of 3 services is fine, 2 are switched off."),
    ],
)
def test_all_services_in_a_sentence(story: Chronicle, statuses: tuple[str, ...], said: str) -> None:
    seen = look(story)
    calm = next(row for row in seen.services if row.status == "HEALTHY")
    rows = tuple(replace(calm, status=status, conditions=(), drift=()) for status in statuses)
    assert summary(replace(seen, services=rows)) == said
