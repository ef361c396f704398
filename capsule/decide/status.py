"""What is material in an observation: the status to record, or nothing.

Rules kept: pure; a status is recorded only when a value a person cares about changed, so that history
stays a history: never for a time stamp, a latency or a counter. Called by the reconciler and plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.decide.conditions import Known, conditions
from capsule.decide.drift import differing
from capsule.decide.effects import SetStatus
from capsule.decide.flapping import Damped, damped, flapping_ends, is_flapping
from capsule.decide.keys import key_created, key_instants
from capsule.decide.ledger import LastChange, LastWord
from capsule.documents.types import (
    API_VERSION,
    DriftItem,
    Metadata,
    ObservedHealth,
    Scalar,
    Service,
    ServiceStatus,
    StatusSpec,
)
from capsule.lifecycle import Observation, effective_status
from capsule.trust.state import InForce, MainState
from capsule_agent.protocol.messages import Report

MAX_TEXT = 200
_NOTHING: Mapping[str, frozenset[datetime]] = {}

REASONS: dict[str, str] = {
    "DriftFound": "A value in the agent's report differs from the pin in the document.",
}


def status_change(
    state: MainState,
    service: InForce[Service],
    observation: Observation | None,
    before: ServiceStatus | None,
    now: datetime,
    last: LastChange | None = None,
    *,
    word: LastWord | None = None,
    why: str = "",
    stopped: datetime | None = None,
    acknowledged: Mapping[str, frozenset[datetime]] = _NOTHING,
) -> SetStatus | None:
    """The status to record for one service; None when nothing material changed.

    `last` is the last operation of ours on it: one newer than `before`, or under way, explains a new
    fingerprint. `word` is the last word on `enabled` and `why` its reason for people (ledger); `stopped`
    since when its corrections are stopped (convergence.correction_stopped); `acknowledged`, by type of
    condition, since when those lasted that people acknowledged (ledger).
    """
    raw = effective_status(
        enabled=service.document.spec.enabled,
        observation=observation,
        grace=state.settings.document.spec.probe.grace,
        before=before,
        requested=(why or word.request) if word and word.holds else None,
    )
    if before:
        found = damped(raw, observation, before.spec, now)
    elif raw:
        found = Damped(raw)
    else:
        return None
    known = Known(_explained(last, before), word, why, stopped, acknowledged, found.flapping)
    after = _status(_Look(state, service, observation, before, now, last), found, known)
    if before and _material(after) == _material(before):
        return None
    return SetStatus(service, after, _subject(service.document.metadata.name, after, before))


def next_change(
    service: InForce[Service],
    status: ServiceStatus,
    now: datetime,
    *,
    observation: Observation | None = None,
    grace: timedelta | None = None,
) -> datetime | None:
    """When time alone may next change the status, or bring a rotation to propose; None: never.

    To look then is enough as long as probes say what they said; every probe of an agent that fails is looked
    at all the same, for only a failure that was seen makes it OFFLINE. `grace` is that of the settings.
    """
    report = observation.report if observation else None
    created = (key_created(report) if report else None) or status.spec.key_created_at
    found = [*key_instants(service.document, created)]
    ends = flapping_ends(observation, status)
    if ends:
        found.append(ends)
    if grace is not None and observation and not observation.ok:
        found.append((observation.failing_since or observation.at) + grace)
    return min((at for at in found if at > now), default=None)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at one service."""

    state: MainState
    service: InForce[Service]
    observation: Observation | None
    before: ServiceStatus | None
    now: datetime
    last: LastChange | None

    @property
    def report(self) -> Report | None:
        """The report of this very probe."""
        return self.observation.report if self.observation and self.observation.ok else None

    @property
    def old(self) -> StatusSpec | None:
        return self.before.spec if self.before else None


def _status(look: _Look, found: Damped, known: Known) -> ServiceStatus:
    report, old, now = look.report, look.old, look.now
    document = look.service.document
    created = key_created(report) if report else (old.key_created_at if old else None)
    spec = StatusSpec(
        observed_revision=look.state.tip,
        last_operation=_last_noted(look),
        effective_status=found.word.status,
        reason=found.word.reason,
        message=found.word.message[:MAX_TEXT],
        since=old.since if old and old.effective_status == found.word.status else now,
        enabled=report.enabled if report else (old.enabled if old else None),
        version=report.version[:MAX_TEXT] if report else (old.version if old else None),
        values=_plain(report.config) if report else (old.values if old else {}),
        fingerprints=dict(report.fingerprints) if report else (old.fingerprints if old else {}),
        health=_health(look, found),
        drift=_drift(document, report, old, now) if report else (old.drift if old else ()),
        conditions=conditions(look.state, document, report, look.before, now, created, known),
        key_created_at=created,
        actions=_offered(report) if report else (old.actions if old else ()),
        changes=found.changes,
    )
    return ServiceStatus(
        api_version=API_VERSION,
        kind="ServiceStatus",
        metadata=Metadata(name=document.metadata.name),
        spec=spec,
    )


def _explained(last: LastChange | None, before: ServiceStatus | None) -> bool:
    """Whether an operation of ours may be why a fingerprint changed since `before`."""
    return last is not None and (before is None or before.spec.last_operation != last.op_id)


def _last_noted(look: _Look) -> str | None:
    if look.last and look.report and look.observation and look.last.over_at(look.observation.at):
        return look.last.op_id
    return look.old.last_operation if look.old else None


def _material(status: ServiceStatus) -> object:
    spec = status.spec
    reason = "" if spec.effective_status == "OFFLINE" else spec.reason
    return spec.model_copy(
        update={
            "observed_revision": "",
            "message": "",
            "reason": reason,
            "changes": (),
            "actions": (),
            "health": _without_detail(spec.health),
        }
    )


def _without_detail(health: ObservedHealth | None) -> ObservedHealth | None:
    return health.model_copy(update={"detail": ""}) if health else None


def _plain(config: Mapping[str, object]) -> dict[str, Scalar]:
    return {name: value for name, value in config.items() if isinstance(value, str | int | bool)}


def _offered(report: Report) -> tuple[str, ...]:
    return tuple(sorted({action.name for action in report.actions}))


def _health(look: _Look, found: Damped) -> ObservedHealth | None:
    """Health as reported; while a service flaps, as it was when that began."""
    old, report = look.old.health if look.old else None, look.report
    if report is None or (old and found.flapping and look.old and is_flapping(look.old)):
        return old
    since = old.since if old and old.status == report.health.status else look.now
    return ObservedHealth(status=report.health.status, detail=report.health.detail[:MAX_TEXT], since=since)


def _drift(service: Service, report: Report, old: StatusSpec | None, now: datetime) -> tuple[DriftItem, ...]:
    known = {(item.pin, item.desired, item.observed): item.since for item in old.drift} if old else {}
    return tuple(
        DriftItem(
            pin=item.pin,
            desired=item.desired,
            observed=item.observed,
            since=known.get((item.pin, item.desired, item.observed), now),
        )
        for item in differing(service, report)
    )


def _subject(name: str, after: ServiceStatus, before: ServiceStatus | None) -> str:
    old = before.spec if before else None
    if old is None or old.effective_status != after.spec.effective_status:
        previous = f"{old.effective_status} → " if old else ""
        return f"status {name}: {previous}{after.spec.effective_status} ({after.spec.reason})"
    new_drift = [item for item in after.spec.drift if item not in old.drift]
    if new_drift:
        item = new_drift[0]
        was = old.values.get(item.pin, item.desired)
        return f"drift {name}: {item.pin} {was} → {item.observed}, desired {item.desired}"
    if old.drift and not after.spec.drift:
        return f"drift {name}: gone"
    added = {item.type for item in after.spec.conditions} - {item.type for item in old.conditions}
    if added:
        return f"status {name}: {', '.join(sorted(added))}"
    gone = {item.type for item in old.conditions} - {item.type for item in after.spec.conditions}
    if gone:
        return f"status {name}: {', '.join(sorted(gone))} gone"
    if after.spec.last_operation != old.last_operation:
        return f"status {name}: seen after an operation"
    changed = sorted(key for key, value in after.spec.values.items() if old.values.get(key) != value)
    if changed:
        return f"status {name}: {changed[0]} {old.values.get(changed[0])} → {after.spec.values[changed[0]]}"
    if old.health and after.spec.health and old.health.status != after.spec.health.status:
        return f"health {name}: {old.health.status} → {after.spec.health.status}"
    prints = sorted(
        key for key, value in after.spec.fingerprints.items() if old.fingerprints.get(key) != value
    )
    if prints:
        return f"status {name}: {', '.join(prints)} changed"
    if after.spec.reason != old.reason:
        return f"status {name}: {after.spec.effective_status} ({after.spec.reason})"
    return f"status {name}: changed"
