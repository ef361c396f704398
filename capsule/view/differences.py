"""What changed between two looks at the repository: transitions, drift, phases, operations, signs of life.

Rules kept: pure; a row that is the same object is not looked into; what is new since the first look counts as
changed from nothing. Called by `capsule watch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from capsule.view.model import (
    ConditionRow,
    HeartbeatRow,
    OperationRow,
    RequestRow,
    ServiceRow,
    Snapshot,
)

ChangeKind = Literal["status", "drift", "condition", "request", "operation", "reconciler", "repository"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One change: of what, from what to what. `before` and `after` are empty where there was or is nothing.

    `service` and `request` are empty where the change is not about one; `at` is the time of the look.
    """

    at: datetime
    kind: ChangeKind
    service: str
    request: str
    what: str
    before: str
    after: str
    reason: str = ""
    message: str = ""


def differences(before: Snapshot, after: Snapshot) -> tuple[Difference, ...]:
    """Every change from one snapshot of a repository to a later one, services first."""
    at = after.now
    return (
        *_repository(before, after),
        *_reconcilers(before.heartbeats, after.heartbeats, at),
        *_services(before, after),
        *_requests(before, after),
    )


def _repository(before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    if before.suspended != after.suspended:
        words = ("suspended" if before.suspended else "", "suspended" if after.suspended else "")
        yield Difference(after.now, "repository", "", "", "main", *words, "Suspended", after.suspended)
    yield from _conditions("", before.conditions, after.conditions, after.now)


def _reconcilers(
    before: tuple[HeartbeatRow, ...], after: tuple[HeartbeatRow, ...], at: datetime
) -> Iterator[Difference]:
    lived = {beat.reconciler: beat.alive for beat in before}
    for beat in after:
        if lived.get(beat.reconciler) != beat.alive:
            old = {True: "alive", False: "silent", None: ""}[lived.get(beat.reconciler)]
            new = "alive" if beat.alive else "silent"
            yield Difference(at, "reconciler", "", "", beat.reconciler, old, new)


def _services(before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    old = {row.name: row for row in before.services}
    for row in after.services:
        was = old.pop(row.name, None)
        if was is not row:
            yield from _service(was, row, after.now)
    for name, gone in old.items():
        yield Difference(after.now, "status", name, "", "effectiveStatus", gone.status, "", "NotInForce")


def _service(was: ServiceRow | None, row: ServiceRow, at: datetime) -> Iterator[Difference]:
    if was is None or was.status != row.status:
        old = was.status if was else ""
        yield Difference(
            at, "status", row.name, "", "effectiveStatus", old, row.status, row.reason, row.message
        )
    drifted = {item.pin: item for item in (was.drift if was else ())}
    for item in row.drift:
        known = drifted.pop(item.pin, None)
        if known is None or (known.observed, known.desired) != (item.observed, item.desired):
            text = f"desired {_text(item.desired)}"
            yield Difference(at, "drift", row.name, "", item.pin, "", _text(item.observed), "Drift", text)
    for pin, gone in drifted.items():
        yield Difference(at, "drift", row.name, "", pin, _text(gone.observed), "", "DriftGone")
    yield from _conditions(row.name, was.conditions if was else (), row.conditions, at)


def _conditions(
    service: str, before: tuple[ConditionRow, ...], after: tuple[ConditionRow, ...], at: datetime
) -> Iterator[Difference]:
    had = {(each.type, each.reason, each.message) for each in before}
    has = {(each.type, each.reason, each.message) for each in after}
    for kind, reason, message in sorted(has - had):
        yield Difference(at, "condition", service, "", kind, "", reason, reason, message)
    for kind, reason, _ in sorted(had - has):
        yield Difference(at, "condition", service, "", kind, reason, "", reason)


def _requests(before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    old = {row.name: row for row in before.requests}
    for row in reversed(after.requests):
        was = old.get(row.name)
        if was is not row:
            yield from _request(was, row, after.now)


def _request(was: RequestRow | None, row: RequestRow, at: datetime) -> Iterator[Difference]:
    known = {item.service: item for item in (was.operations if was else ())}
    for item in row.operations:
        yield from _operation(known.get(item.service), item, at)
    if was is None or was.phase != row.phase:
        old = was.phase if was else ""
        text = row.message or row.why
        yield Difference(at, "request", "", row.name, row.action, old, row.phase, row.reason, text)


def _operation(was: OperationRow | None, item: OperationRow, at: datetime) -> Iterator[Difference]:
    old = was.outcome if was else ""
    if old != item.outcome:
        yield Difference(
            at,
            "operation",
            item.service,
            item.request,
            item.action,
            old,
            item.outcome,
            item.reason,
            item.message,
        )


def _text(value: str | int | bool | None) -> str:
    if value is None:
        return "nothing"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
