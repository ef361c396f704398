"""What is material in an observation: the status to record, or nothing.

Rules kept: pure; a status is recorded only when a value a person cares about changed, so that history
stays a history: never for a time stamp, a latency or a counter. Called by the reconciler and plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.decide.effects import SetStatus
from capsule.documents.types import (
    API_VERSION,
    Condition,
    DriftItem,
    Metadata,
    ObservedHealth,
    Scalar,
    Service,
    ServiceStatus,
    StatusSpec,
)
from capsule.lifecycle import Observation, StatusNow, effective_status
from capsule.trust.state import InForce, MainState
from capsule_agent.protocol.messages import Report

MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class LastChange:
    """The last operation on a service that may change a value, and when its result was recorded (None while
    it is under way)."""

    op_id: str
    ended: datetime | None

    def over_at(self, seen: datetime) -> bool:
        """Whether a probe at `seen` certainly came after it; results are recorded to the second."""
        return self.ended is not None and seen >= self.ended + timedelta(seconds=1)


REASONS: dict[str, str] = {
    "KeyChangedOutsideCapsule": "The fingerprint of a sensitive value changed with no operation behind it.",
    "TrustOutdated": "The agent's list of signers is older than the one in force.",
    "DriftFound": "A value in the agent's report differs from the pin in the document.",
    "KeyOverdue": "The key is older than `rotation.every`.",
}


def status_change(
    state: MainState,
    service: InForce[Service],
    observation: Observation | None,
    before: ServiceStatus | None,
    now: datetime,
    last: LastChange | None = None,
) -> SetStatus | None:
    """The status to record for one service; None when nothing material changed.

    `last` is the last operation of ours on it: one newer than `before`, or under way, explains a new
    fingerprint.
    """
    grace = state.settings.document.spec.probe.grace
    enabled = service.document.spec.enabled
    effective = effective_status(enabled=enabled, observation=observation, grace=grace, before=before)
    if effective is None:
        if before is None:
            return None
        effective = StatusNow(before.spec.effective_status, before.spec.reason, before.spec.message)
    after = _status(state, service, observation, before, now, effective, last)
    if before and _material(after) == _material(before):
        return None
    return SetStatus(service, after, _subject(service.document.metadata.name, after, before))


def _status(
    state: MainState,
    service: InForce[Service],
    observation: Observation | None,
    before: ServiceStatus | None,
    now: datetime,
    word: StatusNow,
    last: LastChange | None,
) -> ServiceStatus:
    report = observation.report if observation and observation.ok else None
    old = before.spec if before else None
    values = _plain(report.config) if report else (old.values if old else {})
    spec = StatusSpec(
        observed_revision=state.tip,
        last_operation=_last_noted(last, observation, old),
        effective_status=word.status,
        reason=word.reason,
        message=word.message[:MAX_TEXT],
        since=old.since if old and old.effective_status == word.status else now,
        enabled=report.enabled if report else (old.enabled if old else None),
        version=report.version[:MAX_TEXT] if report else (old.version if old else None),
        values=values,
        fingerprints=dict(report.fingerprints) if report else (old.fingerprints if old else {}),
        health=_health(report, before, now),
        drift=_drift(service.document, report, before, now) if report else (old.drift if old else ()),
        conditions=_conditions(state, service.document, report, before, now, _explained(last, before)),
        key_created_at=_key_created(report) if report else (old.key_created_at if old else None),
    )
    return ServiceStatus(
        api_version=API_VERSION,
        kind="ServiceStatus",
        metadata=Metadata(name=service.document.metadata.name),
        spec=spec,
    )


def _explained(last: LastChange | None, before: ServiceStatus | None) -> bool:
    """Whether an operation of ours may be why a fingerprint changed since `before`."""
    return last is not None and (before is None or before.spec.last_operation != last.op_id)


def _last_noted(
    last: LastChange | None, observation: Observation | None, old: StatusSpec | None
) -> str | None:
    if last and observation and observation.ok and last.over_at(observation.at):
        return last.op_id
    return old.last_operation if old else None


def _material(status: ServiceStatus) -> object:
    spec = status.spec
    return spec.model_copy(
        update={"observed_revision": "", "message": "", "health": _without_detail(spec.health)}
    )


def _without_detail(health: ObservedHealth | None) -> ObservedHealth | None:
    return health.model_copy(update={"detail": ""}) if health else None


def _plain(config: Mapping[str, object]) -> dict[str, Scalar]:
    return {name: value for name, value in config.items() if isinstance(value, str | int | bool)}


def _health(report: Report | None, before: ServiceStatus | None, now: datetime) -> ObservedHealth | None:
    old = before.spec.health if before else None
    if report is None:
        return old
    since = old.since if old and old.status == report.health.status else now
    return ObservedHealth(status=report.health.status, detail=report.health.detail[:MAX_TEXT], since=since)


def observed_value(report: Report, pin: str) -> Scalar | None:
    """What a report says of one pin: `version` is the agent's own, all others come from its config."""
    value = report.config.get(pin)
    if value is None and pin == "version":
        value = report.version
    return value if isinstance(value, str | int | bool) else None


def _drift(
    service: Service, report: Report, before: ServiceStatus | None, now: datetime
) -> tuple[DriftItem, ...]:
    known = (
        {(item.pin, item.desired, item.observed): item.since for item in before.spec.drift} if before else {}
    )
    found = []
    for pin, desired in sorted(service.spec.pins.items()):
        observed = observed_value(report, pin)
        if pin not in service.spec.ignore_drift and observed != desired:
            since = known.get((pin, desired, observed), now)
            found.append(DriftItem(pin=pin, desired=desired, observed=observed, since=since))
    return tuple(found)


def _key_created(report: Report) -> datetime | None:
    if report.key_created_at is None:
        return None
    text = report.key_created_at
    return datetime.fromisoformat(text)


def _conditions(
    state: MainState,
    service: Service,
    report: Report | None,
    before: ServiceStatus | None,
    now: datetime,
    explained: bool,
) -> tuple[Condition, ...]:
    old = {item.type: item for item in before.spec.conditions} if before else {}
    if report is None:
        return tuple(old.values())
    texts: dict[str, str] = {}
    changed = _changed_fingerprints(report, before)
    if changed and not explained:
        texts["KeyChangedOutsideCapsule"] = f"{', '.join(changed)} changed with no operation behind it"
    elif "KeyChangedOutsideCapsule" in old and not explained:
        texts["KeyChangedOutsideCapsule"] = old["KeyChangedOutsideCapsule"].message
    # An agent that never had an order knows no list yet; it learns one with the first.
    if state.signers and 0 < report.signers_serial < state.signers.serial:
        known, serial = report.signers_serial, state.signers.serial
        texts["TrustOutdated"] = (
            f"its list of signers is number {known}, in force is {serial}; the next order brings it"
        )
    created = _key_created(report)
    rotation = service.spec.rotation
    if rotation and created and now - created > rotation.every:
        texts["KeyOverdue"] = f"the key was due on {created + rotation.every:%Y-%m-%d}"
    return tuple(
        Condition(type=name, reason=name, message=text, since=old[name].since if name in old else now)
        for name, text in sorted(texts.items())
    )


def _changed_fingerprints(report: Report, before: ServiceStatus | None) -> list[str]:
    old = before.spec.fingerprints if before else {}
    return sorted(name for name, value in report.fingerprints.items() if name in old and old[name] != value)


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
    return f"status {name}: changed"
