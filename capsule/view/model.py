"""What people see: services, requests, operations and the trail, as plain frozen values.

Rules kept: everything here is derived from the repository at the revisions named in `Snapshot`, nothing
is stored. `as_json` of these values is the stable `--json` and `/api/v1/` format. Made by view.build;
called by commands and the web.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from capsule.documents.scalars import duration_text, instant_text
from capsule.documents.types import EffectiveStatus
from capsule.lifecycle import Phase


@dataclass(frozen=True, slots=True)
class Drift:
    """A pin that differs: `since` is when the reconciler first saw it."""

    pin: str
    desired: str | int | bool
    observed: str | int | bool | None
    since: datetime


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """A condition of a service, or of the whole repository."""

    type: str
    reason: str
    message: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One action on one service. `outcome` is running until there is a result."""

    request: str
    service: str
    action: str
    params: Mapping[str, str | int | bool]
    outcome: Literal["running", "succeeded", "failed", "refused", "unknown", "cancelled"]
    reason: str
    message: str
    requested_by: str
    approved_by: tuple[str, ...]
    evidence: str
    why: str
    reconciler: str
    attempt: int
    claimed_at: datetime
    recorded_at: datetime | None
    outputs: Mapping[str, str | int | bool] = field(default_factory=dict)
    op_id: str = ""
    receipt_digest: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One service: desired, observed, and what deserves attention.

    `model`, `version` and `upstream` are what the agent reports, else what is pinned. `probe_reason` says
    why the last probe brought no answer; empty when it did. `actions` are what its agent offered when it was
    last seen; none where it is only observed.
    """

    name: str
    path: str
    labels: Mapping[str, str]
    endpoint: str
    owner: str
    runbook: str
    status: EffectiveStatus
    reason: str
    message: str
    since: datetime | None
    enabled_desired: bool
    enabled_observed: bool | None
    pins: Mapping[str, str | int | bool]
    values: Mapping[str, str | int | bool]
    model: str | None
    version: str | None
    upstream: str | None
    drift: tuple[Drift, ...]
    conditions: tuple[ConditionRow, ...]
    health: str | None
    health_detail: str
    checked_at: datetime | None
    latency_ms: int | None
    key_created_at: datetime | None
    rotation_due: datetime | None
    last_rotation: OperationRow | None
    operations: tuple[OperationRow, ...] = ()
    observed_revision: str | None = None
    probe_reason: str = ""
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """One person's decision, and whether it counts."""

    principal: str
    decision: Literal["approve", "reject", "break-glass"]
    counts: bool
    evidence: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class MissingRow:
    """Approvals that are still needed, and who may give them."""

    team: str
    count: int
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request with its derived phase and its operations."""

    name: str
    path: str
    digest: str
    source: Literal["main", "branch"]
    action: str
    targets: tuple[str, ...]
    params: Mapping[str, str | int | bool]
    requested_by: str
    why: str
    expires: datetime | None
    phase: Phase
    reason: str
    message: str
    approvals: tuple[ApprovalRow, ...]
    missing: tuple[MissingRow, ...]
    evidence: str
    operations: tuple[OperationRow, ...]
    not_before: datetime | None = None
    parallel: int = 1
    on_failure: str = "stop"
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One commit of the machine's story (audit, first parents): its subject and its trailers.

    `about` is the subject of the commit of main that it takes in, where it does nothing else.
    """

    commit: str
    at: datetime
    author: str
    subject: str
    trailers: Mapping[str, tuple[str, ...]]
    about: str = ""


@dataclass(frozen=True, slots=True)
class HeartbeatRow:
    """The last sign of life of one reconciler; `alive` is judged at `Snapshot.now`."""

    reconciler: str
    at: datetime
    alive: bool
    observed_revision: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is shown, at one revision of main and audit.

    `freezes` are those of the policy that hold at `now`.
    `revision` is a digest of the tips and of every fact that `now` decides: equal revisions of one
    repository show the same facts.
    """

    root: str
    title: str
    main: str | None
    audit: str | None
    now: datetime
    services: tuple[ServiceRow, ...]
    requests: tuple[RequestRow, ...]
    heartbeats: tuple[HeartbeatRow, ...]
    conditions: tuple[ConditionRow, ...]
    suspended: str = ""
    revision: str = ""
    freezes: tuple[ConditionRow, ...] = ()


_CALM = frozenset({"HEALTHY", "DISABLED"})
_ALARMING = frozenset({"KeyOverdue", "KeyChangedOutsideCapsule", "SecretInReport", "TrustOutdated"})


def switched_otherwise(row: ServiceRow) -> bool:
    """Whether the service takes traffic although its document says it should not, or the reverse."""
    return row.enabled_observed is not None and row.enabled_observed != row.enabled_desired


def needs_attention(row: ServiceRow) -> bool:
    """Whether a person should look: in trouble, drifted, or under a condition that somebody must mend."""
    return (
        row.status not in _CALM
        or bool(row.drift)
        or switched_otherwise(row)
        or any(condition.type in _ALARMING for condition in row.conditions)
    )


def as_json(value: Any) -> Any:
    """The JSON form of any value of this module: camelCase names, RFC 3339 instants."""
    if is_dataclass(value) and not isinstance(value, type):
        return {_camel(item.name): as_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
