"""What is told of two looks: each transition once, nothing where nothing moved."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from capsule.view.differences import differences
from capsule.view.model import (
    ConditionRow,
    Drift,
    HeartbeatRow,
    OperationRow,
    RequestRow,
    ServiceRow,
    Snapshot,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SERVICE = ServiceRow(
    "a", "services/a.yaml", {}, "https://a", "", "", "HEALTHY", "HealthUp", "fine", NOW, True, True,
    {}, {}, None, None, None, (), (), "UP", "", None, None, None, None, None,
)  # fmt: skip
REQUEST = RequestRow(
    "r", "requests/r", "", "main", "rotateKey", ("a",), {}, "alice", "OPS-1", None, "Proposed", "", "", (),
    (), "", (),
)  # fmt: skip
OPERATION = OperationRow(
    "r",
    "a",
    "rotateKey",
    {},
    "running",
    "",
    "",
    "alice",
    ("bob",),
    "signature",
    "",
    "reconciler-1",
    1,
    NOW,
    None,
)
SEEN = Snapshot(
    "f" * 40,
    "",
    None,
    None,
    NOW,
    (SERVICE,),
    (REQUEST,),
    (HeartbeatRow("reconciler-1", NOW, True, None),),
    (),
)
LATER = NOW + timedelta(minutes=1)


def told(before: Snapshot, after: Snapshot) -> list[tuple[str, ...]]:
    found = differences(before, replace(after, now=LATER))
    assert all(each.at == LATER for each in found)
    return [
        (each.kind, each.service or each.request, each.what, each.before, each.after, each.reason)
        for each in found
    ]


def service(**changes: object) -> Snapshot:
    return replace(SEEN, services=(replace(SERVICE, **changes),))  # type: ignore[arg-type]  # as named


def request(**changes: object) -> Snapshot:
    return replace(SEEN, requests=(replace(REQUEST, **changes),))  # type: ignore[arg-type]  # as named


def test_nothing_moved() -> None:
    assert told(SEEN, SEEN) == []
    assert told(SEEN, replace(service(latency_ms=7), requests=(replace(REQUEST),))) == []


def test_a_transition_a_new_service_and_one_that_is_gone() -> None:
    down = service(status="OFFLINE", reason="AgentTimeout")
    assert told(SEEN, down) == [("status", "a", "effectiveStatus", "HEALTHY", "OFFLINE", "AgentTimeout")]
    none = replace(SEEN, services=())
    assert told(none, SEEN) == [("status", "a", "effectiveStatus", "", "HEALTHY", "HealthUp")]
    assert told(SEEN, none) == [("status", "a", "effectiveStatus", "HEALTHY", "", "NotInForce")]


def test_drift_that_comes_changes_and_goes() -> None:
    first = service(drift=(Drift("model", "5.1", "5.2", NOW), Drift("flag", True, None, NOW)))
    second = service(drift=(Drift("model", "5.1", "5.3", NOW), Drift("flag", True, None, NOW)))
    third = service(drift=(Drift("model", "5.1", False, NOW),))
    assert told(SEEN, first) == [
        ("drift", "a", "model", "", "5.2", "Drift"),
        ("drift", "a", "flag", "", "nothing", "Drift"),
    ]
    assert told(first, second) == [("drift", "a", "model", "", "5.3", "Drift")]
    assert told(second, third) == [
        ("drift", "a", "model", "", "false", "Drift"),
        ("drift", "a", "flag", "nothing", "", "DriftGone"),
    ]


def test_conditions_of_a_service_and_of_the_repository() -> None:
    overdue = service(conditions=(ConditionRow("KeyOverdue", "KeyOverdue", "since May"),))
    assert told(SEEN, overdue) == [("condition", "a", "KeyOverdue", "", "KeyOverdue", "KeyOverdue")]
    assert told(overdue, SEEN) == [("condition", "a", "KeyOverdue", "KeyOverdue", "", "KeyOverdue")]
    odd = replace(SEEN, conditions=(ConditionRow("Finding", "BadSignature", "odd"),))
    assert told(SEEN, odd) == [("condition", "", "Finding", "", "BadSignature", "BadSignature")]


def test_requests_and_their_operations() -> None:
    running = request(phase="Running", operations=(OPERATION,))
    done = request(phase="Succeeded", operations=(replace(OPERATION, outcome="succeeded", reason="Done"),))
    assert told(replace(SEEN, requests=()), SEEN) == [("request", "r", "rotateKey", "", "Proposed", "")]
    assert told(running, request(phase="Running", operations=(OPERATION,), message="soon")) == []
    assert told(SEEN, running) == [
        ("operation", "a", "rotateKey", "", "running", ""),
        ("request", "r", "rotateKey", "Proposed", "Running", ""),
    ]
    assert told(running, done) == [
        ("operation", "a", "rotateKey", "running", "succeeded", "Done"),
        ("request", "r", "rotateKey", "Running", "Succeeded", ""),
    ]


def test_reconcilers_that_fall_silent_and_a_main_that_is_suspended() -> None:
    silent = replace(SEEN, heartbeats=(HeartbeatRow("reconciler-1", NOW, False, None),))
    assert told(SEEN, silent) == [("reconciler", "", "reconciler-1", "alive", "silent", "")]
    assert told(silent, SEEN) == [("reconciler", "", "reconciler-1", "silent", "alive", "")]
    assert told(replace(SEEN, heartbeats=()), SEEN) == [("reconciler", "", "reconciler-1", "", "alive", "")]
    bad = replace(SEEN, suspended="the serial did not rise")
    assert told(SEEN, bad) == [("repository", "", "main", "", "suspended", "Suspended")]
    assert told(bad, SEEN) == [("repository", "", "main", "suspended", "", "Suspended")]
