"""The events that are true now: what somebody may want to be told of, made from a snapshot.

Rules kept: pure; an event holds as long as its fact does, under a key that does not change meanwhile, so that
a reader of two snapshots knows what began and what ended; what happened once (a failure) holds for a while.
Every text is one line for people, without control characters, and holds no parameter, output or fingerprint.
Called by commands, for notifications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from capsule.documents.problems import FORBIDDEN
from capsule.documents.types import EventKind
from capsule.view.model import (
    ConditionRow,
    Drift,
    HeartbeatRow,
    OperationRow,
    RequestRow,
    ServiceRow,
    Snapshot,
)

RECENT = timedelta(days=1)
UNKNOWN_FOR = timedelta(days=7)
LONGEST_LINE = 200

KINDS: dict[EventKind, str] = {
    "ApprovalPending": "A request waits for approvals.",
    "ChangePending": "A document on main is not in force.",
    "RequestRefused": "A request was rejected or has expired.",
    "BreakGlass": "Somebody acted without approvals, and nobody of the reviewers acknowledged it yet.",
    "OperationFailed": "An action on a service failed, or the agent refused it.",
    "OperationUnknown": "Nobody knows whether an action took effect; a person must look.",
    "RolloutStopped": "A request over several services stopped before all were begun.",
    "Drift": "A service reports another value than the one pinned.",
    "CorrectionStopped": "A service drifts back after each correction; it is corrected no more.",
    "KeyDueSoon": "A key falls due within `rotation.propose`.",
    "KeyOverdue": "A key is older than `rotation.every`.",
    "KeyChangedOutsideCapsule": "A sensitive value changed with no operation behind it.",
    "SecretInReport": "A service reported what looks like a secret; it was not recorded. Rotate it.",
    "TrustOutdated": "An agent knows an older list of signers than the one in force.",
    "ServiceOffline": "A service cannot be reached, past its grace.",
    "ServiceUnhealthy": "A service says that it is down or degraded.",
    "Flapping": "A service changes its state too often.",
    "DisabledByRequest": "People disabled a service by a request, and no document settles it yet.",
    "ReconcilerSilent": "A reconciler gives no sign of life any more.",
    "ReconcilerSuspended": "Main is not followed any more: nothing is acted on.",
    "Finding": "Something in the repository is damaged, unproved or ignored.",
}
_STATUSES: dict[str, EventKind] = {"OFFLINE": "ServiceOffline", "UNHEALTHY": "ServiceUnhealthy"}
_OF_A_SERVICE: dict[str, EventKind] = {
    "CorrectionStopped": "CorrectionStopped",
    "DisabledByRequest": "DisabledByRequest",
    "Flapping": "Flapping",
    "KeyDueSoon": "KeyDueSoon",
    "KeyOverdue": "KeyOverdue",
    "KeyChangedOutsideCapsule": "KeyChangedOutsideCapsule",
    "SecretInReport": "SecretInReport",
    "TrustOutdated": "TrustOutdated",
    "ChangePending": "ChangePending",
    "StatusUnreadable": "Finding",
}
_OF_REPOSITORY: dict[str, EventKind] = {"BreakGlass": "BreakGlass", "ChangePending": "ChangePending"}
_OUTCOMES: dict[str, EventKind] = {
    "failed": "OperationFailed",
    "refused": "OperationFailed",
    "unknown": "OperationUnknown",
}
_SAYINGS: dict[EventKind, str] = {
    "CorrectionStopped": "drift is corrected no more",
    "DisabledByRequest": "disabled by request",
    "Flapping": "flapping",
    "KeyDueSoon": "key due soon",
    "KeyOverdue": "key overdue",
    "KeyChangedOutsideCapsule": "key changed outside of Capsule",
    "SecretInReport": "a secret in its report",
    "TrustOutdated": "list of signers outdated",
    "ChangePending": "its document is not in force",
    "Finding": "finding",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One fact that holds now.

    `key` is the same as long as the fact is. `about` is the name of a service, request or reconciler, or
    empty for the whole repository. `labels` are those of each service concerned; `teams` those that are
    waited for. `since` is when it began, where that is known.
    """

    key: str
    kind: EventKind
    about: str
    labels: tuple[Mapping[str, str], ...]
    teams: tuple[str, ...]
    since: datetime | None
    title: str
    lines: tuple[str, ...] = ()


def events_of(seen: Snapshot) -> tuple[Event, ...]:
    """Every event that is true at `seen.now`, in a stable order, each key once."""
    labels = {row.name: row.labels for row in seen.services}
    found = chain(
        _of_repository(seen),
        *(_of_request(row, labels, seen.now) for row in seen.requests),
        *(_of_service(row) for row in seen.services),
    )
    return tuple({event.key: event for event in found}.values())


def plain(text: str) -> str:
    """`text` as one line of at most LONGEST_LINE characters, without those that hide or move text."""
    shown = " ".join(FORBIDDEN.sub("?", text).split())
    return shown if len(shown) <= LONGEST_LINE else shown[: LONGEST_LINE - 1] + "…"


# ---- the whole repository -----------------------------------------------------------------------


def _of_repository(seen: Snapshot) -> Iterator[Event]:
    if seen.suspended:
        yield _event(
            "ReconcilerSuspended", "", seen.suspended, title="main is not followed", lines=(seen.suspended,)
        )
    yield from (_silent(beat) for beat in seen.heartbeats if not beat.alive)
    yield from (_finding(condition) for condition in seen.conditions)


def _silent(beat: HeartbeatRow) -> Event:
    return _event(
        "ReconcilerSilent",
        beat.reconciler,
        since=beat.at,
        title=f"{beat.reconciler}: no sign of life",
        lines=(f"last seen {_when(beat.at)}",),
    )


def _finding(condition: ConditionRow) -> Event:
    kind = _OF_REPOSITORY.get(condition.type, "Finding")
    return _event(
        kind,
        "",
        condition.type,
        condition.reason,
        condition.message,
        since=condition.since,
        title=f"{condition.type}: {condition.reason}",
        lines=(condition.message,),
    )


# ---- requests -----------------------------------------------------------------------------------


def _of_request(row: RequestRow, labels: Mapping[str, Mapping[str, str]], now: datetime) -> Iterator[Event]:
    concerned = tuple(labels[name] for name in row.targets if name in labels)
    if row.phase == "Proposed" and row.missing:
        yield _pending(row, concerned)
    if row.ended_at and now - row.ended_at <= RECENT:
        yield from _ended(row, concerned)
    for operation in row.operations:
        held = UNKNOWN_FOR if operation.outcome == "unknown" else RECENT
        if operation.outcome in _OUTCOMES and operation.recorded_at and now - operation.recorded_at <= held:
            yield _bad_outcome(operation, labels)


def _pending(row: RequestRow, concerned: tuple[Mapping[str, str], ...]) -> Event:
    needed = ", ".join(f"{item.count} of {item.team}" for item in row.missing)
    until = (f"expires {_when(row.expires)}",) if row.expires else ()
    return _event(
        "ApprovalPending",
        row.name,
        row.digest,
        labels=concerned,
        teams=tuple(dict.fromkeys(item.team for item in row.missing)),
        title=f"{row.action} {_targets(row)}: waits for {needed}",
        lines=(f"asked by {row.requested_by}: {row.why}", *until, f"capsule approve {row.name}"),
    )


def _ended(row: RequestRow, concerned: tuple[Mapping[str, str], ...]) -> Iterator[Event]:
    titles: dict[str, tuple[EventKind, str]] = {
        "Rejected": ("RequestRefused", "rejected"),
        "Expired": ("RequestRefused", "expired"),
        "Stopped": ("RolloutStopped", "rollout stopped"),
    }
    if row.phase in titles:
        kind, word = titles[row.phase]
        yield _event(
            kind,
            row.name,
            row.digest,
            labels=concerned,
            since=row.ended_at,
            title=f"{row.action or row.name} {_targets(row)}: {word}",
            lines=(
                f"{row.reason}: {row.message}",
                f"asked by {row.requested_by}",
                f"capsule show {row.name}",
            ),
        )


def _bad_outcome(row: OperationRow, labels: Mapping[str, Mapping[str, str]]) -> Event:
    kind = _OUTCOMES[row.outcome]
    return _event(
        kind,
        row.request,
        row.service,
        labels=(labels[row.service],) if row.service in labels else (),
        since=row.recorded_at,
        title=f"{row.action} {row.service}: {row.outcome}",
        lines=(f"{row.reason}: {row.message}", f"asked by {row.requested_by}", f"capsule show {row.request}"),
    )


def _targets(row: RequestRow) -> str:
    few = ", ".join(row.targets[:3])
    return few if len(row.targets) <= 3 else f"{few} and {len(row.targets) - 3} more"


# ---- services -----------------------------------------------------------------------------------


def _of_service(row: ServiceRow) -> Iterator[Event]:
    if row.status in _STATUSES:
        yield _of(
            row,
            _STATUSES[row.status],
            since=row.since,
            title=f"{row.name}: {row.status}",
            lines=(f"{row.reason}: {row.message}", *_whom(row)),
        )
    yield from (_drift(row, item) for item in row.drift)
    for condition in row.conditions:
        if condition.type in _OF_A_SERVICE:
            kind = _OF_A_SERVICE[condition.type]
            # Acknowledged and changed once more between two looks is another fact.
            begun = str(condition.since) if kind == "KeyChangedOutsideCapsule" else ""
            yield _of(
                row,
                kind,
                condition.reason,
                begun,
                since=condition.since,
                title=f"{row.name}: {_SAYINGS[kind]}",
                lines=(f"{condition.reason}: {condition.message}", *_whom(row)),
            )


def _drift(row: ServiceRow, item: Drift) -> Event:
    observed = "nothing" if item.observed is None else item.observed
    return _of(
        row,
        "Drift",
        item.pin,
        str(item.desired),
        str(item.observed),
        since=item.since,
        title=f"{row.name}: drift of {item.pin}",
        lines=(f"{item.pin} is {observed}, desired {item.desired}", *_whom(row)),
    )


def _whom(row: ServiceRow) -> tuple[str, ...]:
    asked = (f"ask {row.owner}",) if row.owner else ()
    read = (f"runbook {row.runbook}",) if row.runbook else ()
    return (*asked, *read)


# ---- making one ---------------------------------------------------------------------------------


def _of(
    row: ServiceRow,
    kind: EventKind,
    *parts: str,
    since: datetime | None,
    title: str,
    lines: tuple[str, ...],
) -> Event:
    return _event(kind, row.name, *parts, labels=(row.labels,), since=since, title=title, lines=lines)


def _event(
    kind: EventKind,
    about: str,
    *parts: str,
    labels: tuple[Mapping[str, str], ...] = (),
    teams: tuple[str, ...] = (),
    since: datetime | None = None,
    title: str,
    lines: tuple[str, ...],
) -> Event:
    return Event(
        "/".join((kind, about, *parts)),
        kind,
        about,
        labels,
        teams,
        since,
        plain(title),
        tuple(map(plain, lines)),
    )


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
