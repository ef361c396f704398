"""effectiveStatus of a service: the one word people look for, with its reason.

Rules kept: pure; first match wins: STALE, DISABLING or DISABLED, OFFLINE, UNHEALTHY, UNKNOWN, HEALTHY.
STALE is judged where the picture is looked at (a dead reconciler cannot record its own death). Called by
decide (which records the rest) and view (which adds STALE).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.documents.types import EffectiveStatus, ServiceStatus
from capsule_agent.protocol.messages import Report

STALE_INTERVALS = 3
LEAST_PATIENCE = timedelta(seconds=90)

REASONS: dict[str, str] = {
    "HeartbeatDead": "No reconciler gave a sign of life in time; what is shown may be old.",
    "AnswerOld": "The last answer of the agent is older than three probe intervals while probing is held up.",
    "DisabledBySpec": "The document of the service says `enabled: false`.",
    "DisabledOnHost": "Somebody disabled the service on its host; the host wins over the document.",
    "DisableNotConfirmed": "The document says `enabled: false`; the agent has not confirmed it yet.",
    "NeverSeen": "The agent has not answered yet.",
    "HealthUp": "The agent answers and says UP.",
    "HealthDown": "The agent answers and says DOWN.",
    "HealthDegraded": "The agent answers and says DEGRADED.",
}


@dataclass(frozen=True, slots=True)
class Observation:
    """The last probe of a service, and how long it has been failing.

    `report` is the last verified report there was, even when this probe brought none (`ok` False, with
    the transport's or the agent's `reason`). `failing_since` is the first failure of the present row.
    """

    service: str
    at: datetime
    ok: bool
    report: Report | None = None
    reason: str = ""
    message: str = ""
    latency_ms: int = 0
    failing_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StatusNow:
    """effectiveStatus, its reason code, and a line for people."""

    status: EffectiveStatus
    reason: str
    message: str = ""


def effective_status(
    *, enabled: bool, observation: Observation | None, grace: timedelta, before: ServiceStatus | None
) -> StatusNow | None:
    """The status that one observation amounts to; None before the first, or while a failure is within grace.

    `enabled` is the document's; `grace` is how long an agent may be unreachable before OFFLINE; `before`
    is the status on record.
    """
    report = observation.report if observation else None
    if report and not report.enabled:
        if enabled:
            return StatusNow("DISABLED", "DisabledOnHost", report.disabled_reason)
        return StatusNow("DISABLED", "DisabledBySpec", report.disabled_reason)
    if not enabled:
        confirmed = before is not None and before.spec.enabled is False and report is None
        if confirmed:
            return StatusNow("DISABLED", "DisabledBySpec", "")
        return StatusNow("DISABLING", "DisableNotConfirmed", "the agent has not confirmed yet")
    if observation is None:
        return None
    if not observation.ok:
        return _failing(observation, grace, before)
    return _healthy(report) if report else None


def _failing(observation: Observation, grace: timedelta, before: ServiceStatus | None) -> StatusNow | None:
    since = observation.failing_since or observation.at
    if observation.at - since >= grace:
        return StatusNow("OFFLINE", observation.reason, observation.message)
    if before is None:
        return StatusNow("UNKNOWN", "NeverSeen", observation.message)
    return None


def _healthy(report: Report) -> StatusNow:
    if report.health.status == "UP":
        return StatusNow("HEALTHY", "HealthUp", report.health.detail)
    reason = "HealthDown" if report.health.status == "DOWN" else "HealthDegraded"
    return StatusNow("UNHEALTHY", reason, report.health.detail)


def stale(*, now: datetime, heartbeat: datetime | None, heartbeat_every: timedelta) -> bool:
    """Whether the picture itself is old: the newest heartbeat is older than three of its intervals (at
    least 90 seconds), or there is none."""
    limit = max(STALE_INTERVALS * heartbeat_every, LEAST_PATIENCE)
    return heartbeat is None or now - heartbeat > limit
