"""Events: what is true now, under keys that last as long as it is true, in texts that can do no harm."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest

from capsule.documents.problems import FORBIDDEN
from capsule.documents.types import EventKind
from capsule.view.build import snapshot
from capsule.view.events import KINDS, LONGEST_LINE, RECENT, UNKNOWN_FOR, Event, events_of, plain
from capsule.view.model import (
    ConditionRow,
    Drift,
    HeartbeatRow,
    MissingRow,
    OperationRow,
    RequestRow,
    ServiceRow,
    Snapshot,
)
from tests.web.integration_services import NOW, integration_services

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def seen() -> Snapshot:
    story = integration_services()
    return snapshot(story.store, story.store.refs(), story.root, NOW)


@pytest.fixture(scope="module")
def calm(seen: Snapshot) -> ServiceRow:
    """A service about which there is nothing to tell."""
    row = next(row for row in seen.services if row.name == "openai-chat")
    return replace(row, status="HEALTHY", drift=(), conditions=(), owner="", runbook="")


def alone(seen: Snapshot, **parts: Any) -> tuple[Event, ...]:
    """The events of a repository in which there is nothing but `parts`."""
    empty = replace(seen, services=(), requests=(), heartbeats=(), conditions=(), suspended="")
    return events_of(replace(empty, **parts))


def operation(**changes: Any) -> OperationRow:
    row = OperationRow(
        request="rotate-1",
        service="openai-chat",
        action="rotateKey",
        params={},
        outcome="failed",
        reason="VerifyFailed",
        message="the new key does not work",
        requested_by="alice",
        approved_by=("bob",),
        evidence="signature",
        why="Quarterly",
        reconciler="reconciler-1",
        attempt=1,
        claimed_at=NOW - HOUR,
        recorded_at=NOW - HOUR,
    )
    return replace(row, **changes)


def request(seen: Snapshot, **changes: Any) -> RequestRow:
    values: dict[str, Any] = {
        "name": "rotate-1",
        "action": "rotateKey",
        "digest": "sha256:" + "a" * 64,
        "targets": ("openai-chat",),
        "requested_by": "alice",
        "why": "Quarterly",
        "expires": NOW + 5 * HOUR,
        "phase": "Succeeded",
        "missing": (),
        "operations": (),
        "ended_at": None,
        **changes,
    }
    return replace(seen.requests[0], **values)


# ---- an ordinary Monday ---------------------------------------------------------------------------


def test_an_ordinary_monday(seen: Snapshot) -> None:
    told = {(event.kind, event.about) for event in events_of(seen)}
    assert ("ServiceOffline", "salesforce-sync") in told
    assert ("ServiceUnhealthy", "zendesk-tickets") in told
    assert ("Drift", "embeddings") in told
    assert any(kind == "ApprovalPending" for kind, _ in told)
    assert all(about != "openai-chat" for _, about in told)


def test_every_key_once_and_always_the_same(seen: Snapshot) -> None:
    twice = replace(seen, services=(*seen.services, *seen.services), now=seen.now + timedelta(minutes=5))
    assert [event.key for event in events_of(seen)] == [event.key for event in events_of(twice)]


def test_every_kind_is_described() -> None:
    assert set(KINDS) == set(get_args(EventKind))


def test_a_quiet_repository_has_no_events(seen: Snapshot, calm: ServiceRow) -> None:
    quiet = request(seen, operations=(operation(outcome="succeeded"),))
    assert alone(seen, services=(calm,), requests=(quiet,)) == ()


# ---- services -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"), [("OFFLINE", "ServiceOffline"), ("UNHEALTHY", "ServiceUnhealthy"), ("DISABLED", None)]
)
def test_status(seen: Snapshot, calm: ServiceRow, status: Any, kind: str | None) -> None:
    row = replace(
        calm, status=status, reason="Timeout", message="no answer", since=NOW - HOUR, owner="Search"
    )
    found = alone(seen, services=(row,))
    assert [event.kind for event in found] == ([kind] if kind else [])
    for event in found:
        assert event.title == f"openai-chat: {status}"
        assert event.lines == ("Timeout: no answer", "ask Search")
        assert (event.since, event.labels) == (NOW - HOUR, (calm.labels,))


def test_drift_is_an_event_for_each_pin_and_value(seen: Snapshot, calm: ServiceRow) -> None:
    items = (Drift("model", "gpt-5.1", "gpt-5.2", NOW - HOUR), Drift("region", "eu", None, NOW))
    first, second = alone(seen, services=(replace(calm, drift=items),))
    assert first.title == "openai-chat: drift of model"
    assert first.lines == ("model is gpt-5.2, desired gpt-5.1",)
    assert second.lines == ("region is nothing, desired eu",)
    (moved,) = alone(seen, services=(replace(calm, drift=(replace(items[0], observed="gpt-5.3"),)),))
    assert len({first.key, second.key, moved.key}) == 3


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("CorrectionStopped", "CorrectionStopped"),
        ("DisabledByRequest", "DisabledByRequest"),
        ("Flapping", "Flapping"),
        ("KeyDueSoon", "KeyDueSoon"),
        ("KeyOverdue", "KeyOverdue"),
        ("KeyChangedOutsideCapsule", "KeyChangedOutsideCapsule"),
        ("SecretInReport", "SecretInReport"),
        ("TrustOutdated", "TrustOutdated"),
        ("ChangePending", "ChangePending"),
        ("StatusUnreadable", "Finding"),
        ("SomethingElse", None),
    ],
)
def test_conditions(seen: Snapshot, calm: ServiceRow, condition: str, kind: str | None) -> None:
    row = replace(
        calm, conditions=(ConditionRow(condition, "Why", "because", NOW - HOUR),), runbook="https://w/1"
    )
    found = alone(seen, services=(row,))
    assert [(event.kind, event.lines, event.since) for event in found] == (
        [(kind, ("Why: because", "runbook https://w/1"), NOW - HOUR)] if kind else []
    )


def test_a_key_that_changed_again_is_another_fact(seen: Snapshot, calm: ServiceRow) -> None:
    def keys(condition: str, *times: datetime) -> set[str]:
        rows = [replace(calm, conditions=(ConditionRow(condition, condition, "", since),)) for since in times]
        return {event.key for row in rows for event in alone(seen, services=(row,))}

    assert len(keys("KeyChangedOutsideCapsule", NOW - HOUR, NOW)) == 2
    assert len(keys("KeyOverdue", NOW - HOUR, NOW)) == 1


# ---- requests -------------------------------------------------------------------------------------


def test_a_pending_approval_names_the_teams_that_are_waited_for(seen: Snapshot, calm: ServiceRow) -> None:
    missing = (
        MissingRow("reviewers", 1, ("bob",)),
        MissingRow("owners", 2, ("carol",)),
        MissingRow("owners", 1, ()),
    )
    row = request(seen, phase="Proposed", missing=missing, targets=("openai-chat", "gone"))
    (event,) = alone(seen, services=(calm,), requests=(row,))
    assert (event.kind, event.about) == ("ApprovalPending", "rotate-1")
    assert event.teams == ("reviewers", "owners")
    assert event.labels == (calm.labels,)
    assert event.title == "rotateKey openai-chat, gone: waits for 1 of reviewers, 2 of owners, 1 of owners"
    assert event.lines == (
        "asked by alice: Quarterly",
        "expires 2026-11-23 19:30 UTC",
        "capsule approve rotate-1",
    )


def test_a_pending_approval_changes_with_the_request(seen: Snapshot) -> None:
    row = request(seen, phase="Proposed", missing=(MissingRow("owners", 1, ()),), expires=None)
    (event,) = alone(seen, requests=(row,))
    (edited,) = alone(seen, requests=(replace(row, digest="sha256:" + "b" * 64),))
    assert event.key != edited.key
    assert event.lines == ("asked by alice: Quarterly", "capsule approve rotate-1")


def test_a_request_that_no_approval_can_help_is_not_pending(seen: Snapshot) -> None:
    assert alone(seen, requests=(request(seen, phase="Proposed"),)) == ()


@pytest.mark.parametrize(
    ("phase", "kind", "word"),
    [
        ("Rejected", "RequestRefused", "rejected"),
        ("Expired", "RequestRefused", "expired"),
        ("Stopped", "RolloutStopped", "rollout stopped"),
        ("Cancelled", None, ""),
    ],
)
def test_requests_that_ended(seen: Snapshot, phase: Any, kind: str | None, word: str) -> None:
    targets = ("a", "b", "c", "d", "e")
    row = request(
        seen, phase=phase, reason="NoRule", message="no rule", ended_at=NOW - RECENT, targets=targets
    )
    found = alone(seen, requests=(row,))
    assert [(event.kind, event.title) for event in found] == (
        [(kind, f"rotateKey a, b, c and 2 more: {word}")] if kind else []
    )
    assert alone(seen, requests=(replace(row, ended_at=NOW - RECENT - HOUR),)) == ()


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("failed", "OperationFailed"), ("refused", "OperationFailed"), ("unknown", "OperationUnknown")],
)
def test_operations_that_went_wrong(seen: Snapshot, calm: ServiceRow, outcome: Any, kind: str) -> None:
    row = request(seen, phase="Failed", operations=(operation(outcome=outcome),))
    (event,) = alone(seen, services=(calm,), requests=(row,))
    assert (event.kind, event.title) == (kind, f"rotateKey openai-chat: {outcome}")
    assert event.lines == (
        "VerifyFailed: the new key does not work",
        "asked by alice",
        "capsule show rotate-1",
    )
    assert event.labels == (calm.labels,)
    assert alone(seen, requests=(row,))[0].labels == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "running", "recorded_at": None},
        {"outcome": "cancelled"},
        {"recorded_at": NOW - RECENT - HOUR},
        {"recorded_at": NOW - UNKNOWN_FOR - HOUR, "outcome": "unknown"},
    ],
)
def test_other_operations_are_no_event(seen: Snapshot, changes: dict[str, Any]) -> None:
    assert alone(seen, requests=(request(seen, operations=(operation(**changes),)),)) == ()


# ---- the whole repository -------------------------------------------------------------------------


def test_a_suspended_main(seen: Snapshot) -> None:
    (event,) = alone(seen, suspended="policy.yaml has a lower serial")
    assert (event.kind, event.lines) == ("ReconcilerSuspended", ("policy.yaml has a lower serial",))


def test_a_silent_reconciler(seen: Snapshot) -> None:
    beats = (
        HeartbeatRow("reconciler-1", NOW, True, None),
        HeartbeatRow("reconciler-2", NOW - HOUR, False, None),
    )
    (event,) = alone(seen, heartbeats=beats)
    assert (event.kind, event.about) == ("ReconcilerSilent", "reconciler-2")
    assert event.lines == ("last seen 2026-11-23 13:30 UTC",)


@pytest.mark.parametrize(
    ("condition", "kind"), [("AuditNotProved", "Finding"), ("ChangePending", "ChangePending")]
)
def test_findings(seen: Snapshot, condition: str, kind: str) -> None:
    (event,) = alone(seen, conditions=(ConditionRow(condition, "AuditSigner", "signed by a person"),))
    assert (event.kind, event.title, event.labels) == (kind, f"{condition}: AuditSigner", ())


# ---- texts ----------------------------------------------------------------------------------------


def test_texts_of_others_can_do_no_harm(seen: Snapshot, calm: ServiceRow) -> None:
    evil = "down\x1b[2J\r\n\u202egnp.exe\u200b " + "x" * 500
    row = replace(calm, status="UNHEALTHY", message=evil, owner=evil)
    pending = request(seen, phase="Proposed", missing=(MissingRow("owners", 1, ()),), why=evil)
    for event in alone(seen, services=(row,), requests=(pending,), suspended=evil):
        for text in (event.title, *event.lines):
            assert not FORBIDDEN.search(text)
            assert "\n" not in text
            assert len(text) <= LONGEST_LINE


def test_a_short_text_stays_as_it_is() -> None:
    assert plain("drift of model → gpt-5.2") == "drift of model → gpt-5.2"
