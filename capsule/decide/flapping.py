"""A service that changes its word too often: one commit says so, instead of one for each change.

The rule: a transition is a change between HEALTHY, UNHEALTHY and OFFLINE, or of health below one of them. The
fifth within 15 minutes is recorded as condition `Flapping`: from then on effectiveStatus keeps the worst word
seen, until all probes have said the same for 10 minutes. Rules kept: pure; judged by the status on record and
the observation alone, so that a restarted reconciler judges alike. DISABLED and DISABLING are people's words:
they are never damped. Called by status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.documents.types import EffectiveStatus, ServiceStatus, StatusSpec
from capsule.lifecycle import Observation, StatusNow

REASONS: dict[str, str] = {
    "Flapping": "More than 4 transitions within 15 minutes: the worst word stands until 10 steady minutes.",
}
FLAPPING = "Flapping"
MOST_CHANGES = 4
WINDOW = timedelta(minutes=15)
STEADY = timedelta(minutes=10)
_RANK: Mapping[EffectiveStatus, int] = {"HEALTHY": 0, "UNHEALTHY": 1, "OFFLINE": 2}


@dataclass(frozen=True, slots=True)
class Damped:
    """The word to record, the transitions it is judged by, and whether the service flaps."""

    word: StatusNow
    changes: tuple[datetime, ...] = ()
    flapping: bool = False


def damped(
    raw: StatusNow | None, observation: Observation | None, before: StatusSpec, now: datetime
) -> Damped:
    """What to record after `before`, where an observation amounts to `raw` (None: to nothing new)."""
    old = StatusNow(before.effective_status, before.reason, before.message)
    changes = tuple(at for at in before.changes if at <= now < at + WINDOW)
    flaps = is_flapping(before)
    if raw is None:
        return Damped(old, before.changes if flaps else changes, flaps)
    if raw.status not in _RANK or old.status not in _RANK:
        return Damped(raw, changes)
    if flaps:
        over = steady_from(observation, before) + STEADY <= now
        return Damped(raw) if over else Damped(_worse(old, raw), before.changes, True)
    if not _is_transition(raw, observation, before):
        return Damped(raw, changes)
    changes = (*changes, now)
    if len(changes) > MOST_CHANGES:
        return Damped(_worse(old, raw), changes, True)
    return Damped(raw, changes)


def is_flapping(spec: StatusSpec) -> bool:
    """Whether the status on record says so."""
    return any(condition.type == FLAPPING for condition in spec.conditions)


def steady_from(observation: Observation | None, before: StatusSpec) -> datetime:
    """Since when all probes say the same; where nobody followed them, since the last transition on record."""
    if observation and observation.steady_since:
        return observation.steady_since
    return before.changes[-1] if before.changes else before.since


def flapping_ends(observation: Observation | None, status: ServiceStatus) -> datetime | None:
    """When flapping is over if all stays as it is; None when it does not flap."""
    return steady_from(observation, status.spec) + STEADY if is_flapping(status.spec) else None


def _worse(old: StatusNow, raw: StatusNow) -> StatusNow:
    status = max(old.status, raw.status, key=lambda word: _RANK[word])
    return StatusNow(status, FLAPPING, "its state changes too often; the worst is shown")


def _is_transition(raw: StatusNow, observation: Observation | None, before: StatusSpec) -> bool:
    report = observation.report if observation and observation.ok else None
    turned = report and before.health and before.health.status != report.health.status
    return raw.status != before.effective_status or bool(turned)
