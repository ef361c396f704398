"""The snapshot: everything people see, made from the tips of main, audit, heartbeats and request branches.

Rules kept: pure but for a cache that its caller owns; what depends on the tips alone is made once per
tips, and of that only what changed (unchanged trees are not walked, unchanged records not parsed, rows
kept); what the clock decides (STALE, Expired, Held) is added at each look. Called by commands and the web.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import (
    AUDIT,
    HEARTBEATS,
    LOCAL_HEARTBEATS,
    MAIN,
    REQUEST_BRANCHES,
    STATUS,
    status_path,
)
from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Records, RequestRecords, read_records
from capsule.lifecycle.status import stale
from capsule.trust.key_validity import SeenOnAudit, committed_at, policy_at
from capsule.trust.mainline import BadRoot
from capsule.trust.objects import (
    BadObject,
    NotDescended,
    ObjectReader,
    changes,
    folder,
    read_blob,
    read_commit,
)
from capsule.trust.policy import signer_of
from capsule.trust.requests import RequestSet, judge_requests
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.beats import (
    Beat,
    freshest_probes,
    heartbeat_refs,
    latest_waits,
    newest,
    read_beat,
)
from capsule.view.broken_glass import broken_glass
from capsule.view.history import without_history
from capsule.view.mainline import judged_main
from capsule.view.model import (
    ConditionRow,
    HeartbeatRow,
    OperationRow,
    RequestRow,
    ServiceRow,
    Snapshot,
)
from capsule.view.operations import newest_first
from capsule.view.requests import is_open, phase_at, request_row, with_waits
from capsule.view.services import Recorded, service_row, with_probe, without_pulse
from capsule_agent.protocol import sshsig

_MAX_CONDITIONS = 50


class Unreadable(Exception):
    """The repository cannot be shown at all; the text says why, `reason` is a code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class _Request:
    """A request's row, with what it was made from."""

    judged: JudgedRequest | None
    records: RequestRecords | None
    row: RequestRow


@dataclass(frozen=True)
class _Service:
    """A service's row, with what it was made from."""

    made_of: tuple[object, ...]
    row: ServiceRow


@dataclass(frozen=True)
class _Base:
    """What main, audit and the request branches decide."""

    made_of: tuple[object, ...]
    state: MainState
    services: Mapping[str, ServiceRow]
    requests: tuple[_Request, ...]
    unproved: ConditionRow | None
    fleeting: bool
    """Whether any of it was judged by the time of the look."""


@dataclass(frozen=True)
class _Picture:
    """All that the tips decide, those of heartbeats too."""

    state: MainState
    services: tuple[ServiceRow, ...]
    requests: tuple[_Request, ...]
    beats: tuple[Beat, ...]
    conditions: tuple[ConditionRow, ...]


@dataclass
class SnapshotCache:
    """What is kept between two snapshots of one repository; not safe for several threads at once."""

    tips: tuple[tuple[str, str], ...] = ()
    base: _Base | None = None
    picture: _Picture | None = None
    stale: tuple[ServiceRow, ...] | None = None
    state: MainState | None = None
    judged: RequestSet = field(default_factory=lambda: RequestSet({}))
    records: Records = field(default_factory=Records)
    status_tree: str | None = None
    statuses: dict[str, Recorded] = field(default_factory=dict)
    requests: dict[str, _Request] = field(default_factory=dict)
    operations: dict[str, dict[str, OperationRow]] = field(default_factory=dict)
    services: dict[str, _Service] = field(default_factory=dict)
    beats: dict[tuple[str, str], Beat] = field(default_factory=dict)


def snapshot(
    reader: ObjectReader,
    refs: Mapping[str, str],
    root: str,
    now: datetime,
    cache: SnapshotCache | None = None,
    cut: Collection[str] = (),
) -> Snapshot:
    """Everything that is shown of the repository with these `refs` (full names) at `now` (UTC).

    `root` is the pinned id of the first commit; `cut` are commits whose parents a shallow clone left out.
    Raises Unreadable when nothing at all can be shown, and
    MissingObject for an incomplete clone.
    """
    main = refs.get(MAIN)
    if main is None:
        return _without_main(root, now)
    kept = cache or SnapshotCache()
    tips = _tips(refs, root)
    if kept.picture is None or kept.tips != tips or (kept.base and kept.base.fleeting):
        kept.picture = _picture(reader, refs, root, main, kept, now)
        kept.tips = tips
        kept.stale = None
    seen = _at(kept.picture, kept, main, refs.get(AUDIT), now)
    return without_history(seen) if cut else seen


# ---- what the clock adds ------------------------------------------------------------------------


def _at(picture: _Picture, kept: SnapshotCache, main: str, audit: str | None, now: datetime) -> Snapshot:
    state = picture.state
    heartbeats = tuple(
        HeartbeatRow(beat.reconciler, beat.at, not _dead(beat, now), beat.observed_revision)
        for beat in picture.beats
        if beat.at
    )
    last = newest(picture.beats)
    services = picture.services
    if _dead(last, now):
        kept.stale = kept.stale or tuple(without_pulse(row, last.at if last else None) for row in services)
        services = kept.stale
    requests = tuple(
        phase_at(item.row, item.judged, state, now)
        if item.judged and is_open(item.judged, item.records)
        else item.row
        for item in picture.requests
    )
    opened = [
        (row.name, row.phase, row.reason, row.message)
        for row, item in zip(requests, picture.requests, strict=True)
        if is_open(item.judged, item.records)
    ]
    facts = [kept.tips, [(row.reconciler, row.alive) for row in heartbeats], _dead(last, now), opened]
    return Snapshot(
        root=state.root,
        title=state.settings.document.spec.title,
        main=main,
        audit=audit,
        now=now,
        services=services,
        requests=requests,
        heartbeats=heartbeats,
        conditions=picture.conditions,
        suspended=state.suspended.message if state.suspended else "",
        revision=_digest(facts),
    )


def _dead(beat: Beat | None, now: datetime) -> bool:
    if beat is None:
        return True
    return stale(now=now, heartbeat=beat.at, heartbeat_every=beat.every)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _tips(refs: Mapping[str, str], root: str) -> tuple[tuple[str, str], ...]:
    shown = (MAIN, AUDIT)
    folders = (HEARTBEATS, LOCAL_HEARTBEATS, REQUEST_BRANCHES)
    wanted = ((name, oid) for name, oid in refs.items() if name in shown or name.startswith(folders))
    return (("root", root), *sorted(wanted))


def _without_main(root: str, now: datetime) -> Snapshot:
    return Snapshot(root, "", None, None, now, (), (), (), (), revision=_digest(["empty", root]))


# ---- what the tips decide -----------------------------------------------------------------------


def _picture(
    reader: ObjectReader,
    refs: Mapping[str, str],
    root: str,
    main: str,
    kept: SnapshotCache,
    now: datetime,
) -> _Picture:
    branches = {name: oid for name, oid in refs.items() if name.startswith(REQUEST_BRANCHES)}
    facts = (root, main, refs.get(AUDIT), tuple(sorted(branches.items())))
    if kept.base is None or kept.base.made_of != facts or kept.base.fleeting:
        kept.base = _base(reader, root, main, refs.get(AUDIT), branches, facts, kept, now)
    base = kept.base
    beats = _beats(reader, refs, base.state, kept)
    return _Picture(
        state=base.state,
        services=_with_probes(base.state, base.services, beats),
        requests=_with_waits(base.requests, latest_waits(beats)),
        beats=beats,
        conditions=tuple(_conditions(base.state, beats, kept, base.unproved))[:_MAX_CONDITIONS],
    )


def _base(
    reader: ObjectReader,
    root: str,
    main: str,
    audit: str | None,
    branches: Mapping[str, str],
    facts: tuple[object, ...],
    kept: SnapshotCache,
    now: datetime,
) -> _Base:
    """All but the heartbeats. Raises Unreadable."""
    try:
        seen = SeenOnAudit(reader, root, main, audit, now)
        kept.state = state = judged_main(reader, root, main, audit, kept.state, seen)
        kept.records = read_records(reader, audit, kept.records)
        begun = {item.name: item.operations.keys() for item in kept.records.all() if item.claimed}
        told = kept.records.attestations()
        kept.judged = judge_requests(reader, state, branches, kept.judged, begun=begun, attestations=told)
        _read_statuses(reader, audit, kept)
        unproved = _unproved(reader, state, audit)
    except (BadObject, BadRoot, NotDescended) as error:
        raise Unreadable(getattr(error, "reason", "NotDescended"), str(error)) from error
    _make_requests(kept)
    newest_path_first = sorted(
        kept.requests.values(), key=lambda item: (item.row.path, item.row.name), reverse=True
    )
    fleeting = state.fleeting or any(each.fleeting for each in kept.judged.values())
    return _Base(facts, state, _make_services(state, kept), tuple(newest_path_first), unproved, fleeting)


def _read_statuses(reader: ObjectReader, audit: str | None, kept: SnapshotCache) -> None:
    """Bring `kept.statuses` (by path) to the audit tip; only what differs is read."""
    tree = folder(reader, read_commit(reader, audit).tree, STATUS) if audit else None
    for change in changes(reader, kept.status_tree, tree, STATUS):
        if change.new is None:
            kept.statuses.pop(change.path, None)
        else:
            kept.statuses[change.path] = _recorded(reader, change.path, change.new.oid)
    kept.status_tree = tree


def _recorded(reader: ObjectReader, path: str, blob: str) -> Recorded:
    try:
        return Recorded(blob, load_as(ServiceStatus, read_blob(reader, blob), path))
    except InvalidDocument as error:
        return Recorded(blob, None, f"its status on audit cannot be read: {error}".split("\n", 1)[0][:500])


def _unproved(reader: ObjectReader, state: MainState, audit: str | None) -> ConditionRow | None:
    """A condition when the tip of audit was not signed by a machine of the policy in force."""
    if audit is None or audit == state.root:
        return None
    info = read_commit(reader, audit)
    policy = policy_at(state.policy.document, committed_at(info))
    try:
        signer = signer_of(policy, info.signed_payload, info.signature or "", sshsig.COMMIT)
    except sshsig.BadSignature as error:
        return ConditionRow(
            "AuditNotProved", "AuditSignature", f"the tip of audit is not signed by a reconciler: {error}"
        )
    if policy.spec.principals[signer].machine:
        return None
    return ConditionRow("AuditNotProved", "AuditSigner", f"the tip of audit is signed by {signer}, a person")


def _beats(
    reader: ObjectReader, refs: Mapping[str, str], state: MainState, kept: SnapshotCache
) -> tuple[Beat, ...]:
    """The heartbeats, each read once under one policy."""
    wanted = heartbeat_refs(refs)
    policy = state.policy
    found = {
        (name, commit + policy.blob): kept.beats.get((name, commit + policy.blob))
        or read_beat(reader, policy.document, name, commit)
        for name, commit in wanted.items()
    }
    kept.beats = found
    return tuple(found.values())


def _make_requests(kept: SnapshotCache) -> None:
    """Bring request rows, and operations by service, up to date with what is judged and recorded."""
    records = {item.name: item for item in kept.records.all()}
    names = kept.judged.keys() | records.keys()
    for name in kept.requests.keys() - names:
        _forget_operations(kept, kept.requests.pop(name).row)
    for name in names:
        judged, recorded = kept.judged.get(name), records.get(name)
        old = kept.requests.get(name)
        if old and old.records is recorded and (old.judged is judged or old.judged == judged):
            continue
        if old:
            _forget_operations(kept, old.row)
        row = request_row(judged, recorded)
        kept.requests[name] = _Request(judged, recorded, row)
        for operation in row.operations:
            kept.operations.setdefault(operation.service, {})[name] = operation


def _forget_operations(kept: SnapshotCache, row: RequestRow) -> None:
    for operation in row.operations:
        kept.operations[operation.service].pop(row.name)


def _make_services(state: MainState, kept: SnapshotCache) -> dict[str, ServiceRow]:
    """The row of each service in force; made again only when something it is made of changed."""
    pending = {item.path: item for item in state.pending}
    found: dict[str, _Service] = {}
    for name, service in state.services.items():
        recorded = kept.statuses.get(status_path(service.path))
        operations = kept.operations.get(name, {})
        made_of = (service, recorded, tuple(operations.values()), pending.get(service.path))
        old = kept.services.get(name)
        if old and _same(old.made_of, made_of):
            found[name] = old
        else:
            rows = newest_first(operations.values())
            row = service_row(service, recorded, rows, pending.get(service.path))
            found[name] = _Service(made_of, row)
    kept.services = found
    return {name: item.row for name, item in found.items()}


def _same(old: tuple[object, ...], new: tuple[object, ...]) -> bool:
    return all(one is other or one == other for one, other in zip(old, new, strict=True))


def _with_probes(
    state: MainState, rows: Mapping[str, ServiceRow], beats: tuple[Beat, ...]
) -> tuple[ServiceRow, ...]:
    probes = freshest_probes(beats)
    default = state.settings.document.spec.probe.interval
    made = []
    for name in sorted(rows):
        row = rows[name]
        if name in probes:
            own = state.services[name].document.spec.health.interval
            row = with_probe(row, probes[name], own or default)
        made.append(row)
    return tuple(made)


def _with_waits(requests: tuple[_Request, ...], waits: Mapping[str, str]) -> tuple[_Request, ...]:
    if not waits:
        return requests
    return tuple(replace(item, row=with_waits(item.row, waits)) for item in requests)


def _conditions(
    state: MainState, beats: tuple[Beat, ...], kept: SnapshotCache, unproved: ConditionRow | None
) -> Iterator[ConditionRow]:
    """What everybody should know, apart from single services."""
    if unproved:
        yield unproved
    yield from broken_glass(item.row for item in kept.requests.values())
    yield from (beat.condition for beat in beats if beat.condition)
    in_force = {service.path for service in state.services.values()}
    for change in state.pending:
        if change.path not in in_force:
            yield ConditionRow("ChangePending", change.reason, f"{change.path}: {change.message}")
    pending = {change.path for change in state.pending}
    for finding in (*state.findings, *kept.judged.findings):
        if finding.path not in pending and finding != state.suspended:
            where = f"{finding.path}: " if finding.path else ""
            yield ConditionRow("Finding", finding.reason, where + finding.message)
    for item in kept.requests.values():
        for path in item.records.damaged if item.records else ():
            yield ConditionRow("RecordDamaged", "RecordDamaged", f"{path} on audit cannot be read")
