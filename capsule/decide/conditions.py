"""The conditions of a service: all that deserves attention beside the one word, each with reason and since.

Rules kept: pure; KeyChangedOutsideCapsule and CorrectionStopped stay until they are explained, settled or
acknowledged; people acknowledge the one that they saw, by its `since`: what happens once more begins anew,
and stays; what time alone brings (a key that falls due) comes also while the agent is silent. Called by
status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from capsule.decide.flapping import FLAPPING, MOST_CHANGES, WINDOW
from capsule.decide.keys import key_due
from capsule.decide.ledger import LastWord
from capsule.documents.secrets import MARK
from capsule.documents.types import Condition, Service, ServiceStatus
from capsule.trust.state import MainState
from capsule_agent.protocol.messages import Report

REASONS: dict[str, str] = {
    "KeyChangedOutsideCapsule": "The fingerprint of a sensitive value changed with no operation behind it.",
    "TrustOutdated": "The agent's list of signers is older than the one in force.",
    "SecretInReport": "The agent's report held what looks like a secret; its fingerprint stands in its "
    "place. Declare the value sensitive in the adapter, and rotate it.",
    "KeyDueSoon": "The key falls due within `rotation.propose`.",
    "KeyOverdue": "The key is older than `rotation.every`.",
}
KEY_CHANGED, STOPPED = "KeyChangedOutsideCapsule", "CorrectionStopped"


@dataclass(frozen=True, slots=True)
class Known:
    """What the records and the document say of a service, beside its report.

    `explained`: an operation may be why a fingerprint changed. `word` is the last word on `enabled` and `why`
    its reason; `stopped` since when corrections are stopped; `acknowledged` by type of condition, since when
    those lasted that people acknowledged; `flapping` whether the service flaps.
    """

    explained: bool = False
    word: LastWord | None = None
    why: str = ""
    stopped: datetime | None = None
    acknowledged: Mapping[str, frozenset[datetime]] = field(default_factory=dict)
    flapping: bool = False


def conditions(
    state: MainState,
    service: Service,
    report: Report | None,
    before: ServiceStatus | None,
    now: datetime,
    created: datetime | None,
    known: Known,
) -> tuple[Condition, ...]:
    """All conditions of a service now. `report` is that of a probe that was answered, else None; `created`
    when its key was made."""
    old = _not_acknowledged(before, known)
    texts = dict(_of_report(state, report, before, old, known)) if report else _kept(old)
    texts.update(_of_records(state, known))
    texts.update(_of_key(service, created, now))
    if known.flapping:
        texts[FLAPPING] = f"more than {MOST_CHANGES} transitions in {WINDOW // timedelta(minutes=1)} minutes"
    anew = frozenset(_anew(report, before, old, known))
    return tuple(
        Condition(
            type=name,
            reason=name,
            message=text,
            since=old[name].since if name in old and name not in anew else now,
        )
        for name, text in sorted(texts.items())
    )


def _anew(
    report: Report | None, before: ServiceStatus | None, old: Mapping[str, Condition], known: Known
) -> Iterator[str]:
    """What happened once more while it was a condition already: nobody has seen that yet."""
    if report and _changed_fingerprints(report, before):
        yield KEY_CHANGED
    if known.stopped and STOPPED in old and known.stopped > old[STOPPED].since:
        yield STOPPED


def _not_acknowledged(before: ServiceStatus | None, known: Known) -> dict[str, Condition]:
    found = before.spec.conditions if before else ()
    return {item.type: item for item in found if item.since not in known.acknowledged.get(item.type, ())}


_REPORTED = (KEY_CHANGED, "SecretInReport", "TrustOutdated")


def _kept(old: Mapping[str, Condition]) -> dict[str, str]:
    """What only a report can change."""
    return {name: old[name].message for name in _REPORTED if name in old}


def _of_report(
    state: MainState,
    report: Report,
    before: ServiceStatus | None,
    old: Mapping[str, Condition],
    known: Known,
) -> Iterator[tuple[str, str]]:
    changed = _changed_fingerprints(report, before)
    if changed and not known.explained:
        yield KEY_CHANGED, f"{', '.join(changed)} changed with no operation behind it"
    elif KEY_CHANGED in old and not known.explained:
        yield KEY_CHANGED, old[KEY_CHANGED].message
    secret = _with_secret(report)
    if secret:
        yield "SecretInReport", f"a secret in {', '.join(secret)}: declare it sensitive, and rotate it"
    # An agent that never had an order knows no list yet; it learns one with the first.
    if state.signers and 0 < report.signers_serial < state.signers.serial:
        has, serial = report.signers_serial, state.signers.serial
        yield (
            "TrustOutdated",
            f"its list of signers is number {has}, in force is {serial}; the next order brings it",
        )


def _of_records(state: MainState, known: Known) -> Iterator[tuple[str, str]]:
    correction = state.settings.document.spec.correction
    if known.stopped:
        yield (
            STOPPED,
            f"drifted back after {correction.limit} corrections until {known.stopped:%Y-%m-%d %H:%M} UTC",
        )
    if known.word and known.word.holds:
        yield "DisabledByRequest", known.why or known.word.request


def _of_key(service: Service, created: datetime | None, now: datetime) -> Iterator[tuple[str, str]]:
    rotation = service.spec.rotation
    due = key_due(created, rotation.every) if rotation else None
    if rotation is None or due is None:
        return
    if now >= due:
        yield "KeyOverdue", f"the key was due on {due:%Y-%m-%d}"
    elif rotation.propose is not None and due - now <= rotation.propose:
        yield "KeyDueSoon", f"the key is due on {due:%Y-%m-%d}"


def _changed_fingerprints(report: Report, before: ServiceStatus | None) -> list[str]:
    old = before.spec.fingerprints if before else {}
    return sorted(name for name, value in report.fingerprints.items() if name in old and old[name] != value)


def _with_secret(report: Report) -> list[str]:
    """Which parts of a report held one; it was replaced by its fingerprint when the report was opened."""
    said: dict[str, object] = {f"config.{name}": value for name, value in report.config.items()}
    said |= {
        "version": report.version,
        "health": report.health.detail,
        "disabledReason": report.disabled_reason,
    }
    return sorted(name for name, value in said.items() if isinstance(value, str) and MARK.search(value))
