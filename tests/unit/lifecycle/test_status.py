"""effectiveStatus: the first match wins, in the order of the design."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from capsule.lifecycle import effective_status, followed
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
        (
            seen(report=report(enabled=False, disabled_by_host=True)),
            True,
            None,
            ("DISABLED", "DisabledOnHost"),
        ),
        (seen(report=report(enabled=False)), True, None, ("DISABLED", "EnableNotConfirmed")),
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


def test_who_disabled_a_service_is_said_in_the_order_of_their_words() -> None:
    def found(enabled: bool, **said: Any) -> tuple[str, str]:
        now = effective_status(
            enabled=enabled,
            observation=seen(report=report(enabled=False, disabled_reason="spec", **said)),
            grace=MINUTE,
            before=None,
            requested="alice in off-1: leaked",
        )
        assert now is not None
        return now.reason, now.message

    assert found(True) == ("DisabledByRequest", "alice in off-1: leaked")
    assert found(True, disabled_by_host=True) == ("DisabledOnHost", "spec")
    assert found(False) == ("DisabledBySpec", "spec")


def test_an_observation_remembers_since_when_probes_say_the_same() -> None:
    first = followed(seen(), None)
    assert first.steady_since == NOW
    same = followed(seen(at=later(minutes=1), latency_ms=9), first)
    assert same.steady_since == NOW
    for other in (
        failing(at=later(minutes=2)),
        seen(at=later(minutes=2), report=report(health=DOWN)),
        seen(at=later(minutes=2), report=report(enabled=False)),
    ):
        assert followed(other, same).steady_since == later(minutes=2)
    silent = followed(failing(at=later(minutes=2)), same)
    assert followed(failing(at=later(minutes=3)), silent).steady_since == later(minutes=2)
    assert followed(seen(report=None), None).says == (True, "", False)
    assert followed(same, seen()).steady_since == later(minutes=1)
