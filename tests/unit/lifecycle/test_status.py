"""effectiveStatus: the first match wins, in the order of the design."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from capsule.lifecycle import effective_status
from capsule.lifecycle.status import stale
from capsule_agent.protocol.messages import HealthReport
from tests.unit.worlds import NOW, later, report, seen, status

MINUTE = timedelta(minutes=1)
DOWN = HealthReport("DOWN", "no upstream", "2026-11-23T12:00:00Z")
DEGRADED = HealthReport("DEGRADED", "slow", "2026-11-23T12:00:00Z")


def failing(since: Any = NOW, **changes: Any) -> Any:
    return seen(ok=False, reason="AgentTimeout", message="no answer in 5 s", failing_since=since, **changes)


@pytest.mark.parametrize(
    ("observation", "enabled", "before", "expected"),
    [
        (None, True, None, None),
        (None, True, status(), None),
        (seen(), True, None, ("HEALTHY", "HealthUp")),
        (seen(report=report(health=DOWN)), True, None, ("UNHEALTHY", "HealthDown")),
        (seen(report=report(health=DEGRADED)), True, None, ("UNHEALTHY", "HealthDegraded")),
        (seen(report=report(enabled=False)), True, None, ("DISABLED", "DisabledOnHost")),
        (seen(report=report(enabled=False)), False, None, ("DISABLED", "DisabledBySpec")),
        (seen(report=report(enabled=False, health=DOWN)), False, None, ("DISABLED", "DisabledBySpec")),
        (seen(), False, None, ("DISABLING", "DisableNotConfirmed")),
        (None, False, status(enabled=False), ("DISABLED", "DisabledBySpec")),
        (None, False, status(enabled=True), ("DISABLING", "DisableNotConfirmed")),
        (failing(), True, None, ("UNKNOWN", "NeverSeen")),
        (failing(), True, status(), None),
        (failing(None), True, status(), None),
        (failing(later(minutes=-1)), True, status(), ("OFFLINE", "AgentTimeout")),
        (seen(report=None), True, status(), None),
    ],
)
def test_first_match(observation: Any, enabled: bool, before: Any, expected: tuple[str, str] | None) -> None:
    found = effective_status(enabled=enabled, observation=observation, grace=MINUTE, before=before)
    assert (found and (found.status, found.reason)) == expected


@pytest.mark.parametrize(
    ("seconds", "every", "expected"), [(90, 10, False), (91, 10, True), (900, 300, False), (901, 300, True)]
)
def test_a_picture_is_stale_after_three_beats_and_at_least_90_seconds(
    seconds: int, every: int, expected: bool
) -> None:
    beat = NOW - timedelta(seconds=seconds)
    assert stale(now=NOW, heartbeat=beat, heartbeat_every=timedelta(seconds=every)) is expected


def test_a_picture_without_heartbeat_is_stale() -> None:
    assert stale(now=NOW, heartbeat=None, heartbeat_every=MINUTE)
