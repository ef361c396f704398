"""What the tips of main, audit, heartbeats and request branches decide of the snapshot, whatever the time.

Rules kept: pure but for a cache that its caller owns; what depends on the tips alone is made once per tips,
and of that only what changed: unchanged trees are not walked, unchanged records not parsed, rows kept. Called
by build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import AUDIT, REQUEST_BRANCHES, STATUS, status_path
from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Records, RequestRecords, read_records
from capsule.trust.key_validity import committed_at
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
from capsule.trust.requests import RequestSet, judge_requests
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.beats import Beat, freshest_probes, heartbeat_refs, latest_waits, read_beat
from capsule.view.broken_glass import broken_glass
from capsule.view.conditions import conditions_of_main, unproved, waiting_for_reviews
from capsule.view.mainline import judged_main
from capsule.view.model import ConditionRow, OperationRow, RequestRow, ServiceRow
from capsule.view.operations import newest_first
from capsule.view.requests import day_of_name, last_recorded, request_row, with_waits
from capsule.view.services import Recorded, service_row, with_probe

_MAX_CONDITIONS = 50


class Unreadable(Exception):
    """The repository cannot be shown at all; the text says why, `reason` is a code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class RequestMade:
    """A request's row, with what it was made from."""

    judged: JudgedRequest | None
    records: RequestRecords | None
    row: RequestRow
    last: datetime
    """The last moment that is known of it."""


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
    requests: tuple[RequestMade, ...]
    unproved: ConditionRow | None
    fleeting: bool
    """Whether any of it was judged by the time of the look."""


@dataclass(frozen=True)
class Picture:
    """All that the tips decide, those of heartbeats too."""

    state: MainState
    services: tuple[ServiceRow, ...]
    requests: tuple[RequestMade, ...]
    beats: tuple[Beat, ...]
    conditions: tuple[ConditionRow, ...]


@dataclass
class SnapshotCache:
    """What is kept between two snapshots of one repository; not safe for several threads at once."""

    tips: tuple[tuple[str, str], ...] = ()
    base: _Base | None = None
    picture: Picture | None = None
    stale: tuple[ServiceRow, ...] | None = None
    state: MainState | None = None
    believed: str | None = None
    """The last commit of audit that was believed."""
    proved: Callable[[], str | None] = lambda: None
    """Gives a commit of audit that was proved here."""
    judged: RequestSet = field(default_factory=lambda: RequestSet({}))
    records: Records = field(default_factory=Records)
    status_tree: str | None = None
    statuses: dict[str, Recorded] = field(default_factory=dict)
    requests: dict[str, RequestMade] = field(default_factory=dict)
    operations: dict[str, dict[str, OperationRow]] = field(default_factory=dict)
    services: dict[str, _Service] = field(default_factory=dict)
    beats: dict[tuple[str, str], Beat] = field(default_factory=dict)


def picture(
    reader: ObjectReader,
    refs: Mapping[str, str],
    root: str,
    main: str,
    kept: SnapshotCache,
    now: datetime,
) -> Picture:
    branches = {name: oid for name, oid in refs.items() if name.startswith(REQUEST_BRANCHES)}
    facts = (root, main, refs.get(AUDIT), tuple(sorted(branches.items())))
    if kept.base is None or kept.base.made_of != facts or kept.base.fleeting:
        kept.base = _base(reader, root, main, refs.get(AUDIT), branches, facts, kept, now)
    base = kept.base
    beats = _beats(reader, refs, base.state, kept)
    return Picture(
        state=base.state,
        services=_with_probes(base.state, base.services, beats),
        requests=_with_waits(base.requests, latest_waits(beats)),
        beats=beats,
        conditions=tuple(_conditions(base, beats, kept))[:_MAX_CONDITIONS],
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
        belief = judged_main(
            reader, root, main, audit, now, earlier=kept.believed, proved=kept.proved, known=kept.state
        )
        kept.believed = belief.commit
        kept.state = state = belief.state
        kept.records = read_records(reader, audit, kept.records)
        heard = kept.records if belief.doubt is None else read_records(reader, belief.commit)
        begun, told = heard.begun, heard.attestations()
        kept.judged = judge_requests(reader, state, branches, kept.judged, begun=begun, attestations=told)
        _read_statuses(reader, audit, kept)
    except (BadObject, BadRoot, NotDescended) as error:
        raise Unreadable(getattr(error, "reason", "NotDescended"), str(error)) from error
    _make_requests(reader, kept)
    by_time = sorted(kept.requests.values(), key=lambda item: (item.last, item.row.name), reverse=True)
    fleeting = state.fleeting or kept.judged.fleeting
    return _Base(facts, state, _make_services(state, kept), tuple(by_time), unproved(belief.doubt), fleeting)


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


def _make_requests(reader: ObjectReader, kept: SnapshotCache) -> None:
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
        kept.requests[name] = RequestMade(judged, recorded, row, _last(reader, row, judged))
        for operation in row.operations:
            kept.operations.setdefault(operation.service, {})[name] = operation


def _last(reader: ObjectReader, row: RequestRow, judged: JudgedRequest | None) -> datetime:
    """When it was last recorded; else, on a branch, when that was last written; else the day of its name."""
    recorded = last_recorded(row)
    if recorded or judged is None or judged.source == "main":
        return recorded or day_of_name(row.name)
    return committed_at(read_commit(reader, judged.revision))


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


def _with_waits(requests: tuple[RequestMade, ...], waits: Mapping[str, str]) -> tuple[RequestMade, ...]:
    if not waits:
        return requests
    return tuple(replace(item, row=with_waits(item.row, waits)) for item in requests)


def _conditions(base: _Base, beats: tuple[Beat, ...], kept: SnapshotCache) -> Iterator[ConditionRow]:
    """What everybody should know, apart from single services."""
    if base.unproved:
        yield base.unproved
    yield from broken_glass(item.row for item in kept.requests.values())
    yield from (beat.condition for beat in beats if beat.condition)
    yield from conditions_of_main(base.state, kept.judged.findings)
    yield from waiting_for_reviews(base.state, latest_waits(beats))
    for item in kept.requests.values():
        for path in item.records.damaged if item.records else ():
            yield ConditionRow("RecordDamaged", "RecordDamaged", f"{path} on audit cannot be read")
