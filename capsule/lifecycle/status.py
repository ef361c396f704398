"""effectiveStatus of a service: the one word people look for, with its reason.

Rules kept: pure; first match wins: STALE, DISABLING or DISABLED, OFFLINE, UNHEALTHY, UNKNOWN, HEALTHY.
STALE is judged where the picture is looked at (a dead reconciler cannot record its own death). Called by
decide (which records the rest) and view (which adds STALE).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from capsule.documents.types import EffectiveStatus, ServiceStatus
from capsule_agent.protocol.messages import Report

STALE_INTERVALS = 3
LEAST_PATIENCE = timedelta(seconds=90)

REASONS: dict[str, str] = {
    "HeartbeatDead": "No reconciler gave a sign of life in time; what is shown may be old.",
    "HeartbeatUnknown": "Unknown here: no heartbeat was fetched, so nobody can tell how old the picture is.",
    "AnswerOld": "The last answer of the agent is older than three probe intervals while probing is held up.",
    "DisabledBySpec": "The document of the service says `enabled: false`.",
    "DisabledOnHost": "Somebody disabled the service on its host; the host wins over the document.",
    "DisabledByRequest": "People disabled the service by a request; a document or `enable` settles it.",
    "EnableNotConfirmed": "The document says `enabled: true`; the agent has not confirmed it yet.",
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
    the transport's or the agent's `reason`). `failing_since` is the first failure of the present row,
    `steady_since` the first probe of the present row that all said the same (`followed` sets it).
    """

    service: str
    at: datetime
    ok: bool
    report: Report | None = None
    reason: str = ""
    message: str = ""
    latency_ms: int = 0
    failing_since: datetime | None = None
    steady_since: datetime | None = None

    @property
    def says(self) -> tuple[bool, str, bool]:
        """What may flap: whether there was an answer, its health, and whether the service takes traffic."""
        report = self.report if self.ok else None
        return self.ok, report.health.status if report else "", report.enabled if report else False


def followed(observation: Observation, before: Observation | None) -> Observation:
    """`observation` with `steady_since` set: since when all probes, of which `before` was the last, said what
    it says."""
    if before and before.steady_since and before.says == observation.says:
        return replace(observation, steady_since=before.steady_since)
    return replace(observation, steady_since=observation.at)


@dataclass(frozen=True, slots=True)
class StatusNow:
    """effectiveStatus, its reason code, and a line for people."""

    status: EffectiveStatus
    reason: str
    message: str = ""


def effective_status(
    *,
    enabled: bool,
    observation: Observation | None,
    grace: timedelta,
    before: ServiceStatus | None,
    requested: str | None = None,
) -> StatusNow | None:
    """The status that one observation amounts to; None before the first, or while a failure is within grace.

    `enabled` is the document's; `grace` is how long an agent may be unreachable before OFFLINE; `before`
    is the status on record. `requested` is the reason people gave when they disabled it by request, None
    where no such request has the last word.
    """
    report = observation.report if observation else None
    if report and not report.enabled:
        return _disabled(enabled, report, requested)
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


def _disabled(enabled: bool, report: Report, requested: str | None) -> StatusNow:
    """Whose word it is that the service takes no traffic: the document's, the host's, a request's."""
    if not enabled:
        return StatusNow("DISABLED", "DisabledBySpec", report.disabled_reason)
    if report.disabled_by_host:
        return StatusNow("DISABLED", "DisabledOnHost", report.disabled_reason)
    if requested is not None:
        return StatusNow("DISABLED", "DisabledByRequest", requested)
    return StatusNow("DISABLED", "EnableNotConfirmed", report.disabled_reason)


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
