"""The snapshot: everything people see, made from the tips of main, audit, heartbeats and request branches.

Rules kept: pure but for a cache that its caller owns; what the tips decide is made by `tips`, once per tips;
what the clock decides (STALE, Expired, Held) is added here at each look. Called by commands and the web.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime

from capsule.documents.paths import AUDIT, HEARTBEATS, LOCAL_HEARTBEATS, MAIN, REQUEST_BRANCHES
from capsule.lifecycle.status import stale
from capsule.trust.objects import ObjectReader
from capsule.view.beats import Beat, newest
from capsule.view.freezes import freezes_at
from capsule.view.history import without_history
from capsule.view.model import HeartbeatRow, Snapshot
from capsule.view.requests import in_order, is_open, phase_at
from capsule.view.services import without_heartbeat, without_pulse
from capsule.view.tips import Picture, SnapshotCache, Unreadable, picture

__all__ = ["SnapshotCache", "Unreadable", "snapshot"]


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
    Raises Unreadable when nothing at all can be shown, and MissingObject for an incomplete clone.
    """
    main = refs.get(MAIN)
    if main is None:
        return _without_main(root, now)
    kept = cache or SnapshotCache()
    tips = _tips(refs, root)
    if kept.picture is None or kept.tips != tips or (kept.base and kept.base.fleeting):
        kept.picture = picture(reader, refs, root, main, kept, now)
        kept.tips = tips
        kept.stale = None
    seen = _at(kept.picture, kept, main, refs.get(AUDIT), now)
    return without_history(seen) if cut else seen


# ---- what the clock adds ------------------------------------------------------------------------


def _at(seen: Picture, kept: SnapshotCache, main: str, audit: str | None, now: datetime) -> Snapshot:
    state = seen.state
    heartbeats = tuple(
        HeartbeatRow(beat.reconciler, beat.at, not _dead(beat, now), beat.observed_revision)
        for beat in seen.beats
        if beat.at
    )
    last = newest(seen.beats)
    services = seen.services
    if _dead(last, now):
        kept.stale = kept.stale or tuple(
            without_pulse(row, last.at if last else None) if seen.beats else without_heartbeat(row)
            for row in services
        )
        services = kept.stale
    requests = tuple(
        phase_at(item.row, item.judged, state, now)
        if item.judged and is_open(item.judged, item.records)
        else item.row
        for item in seen.requests
    )
    opened = [
        (row.name, row.phase, row.reason, row.message)
        for row, item in zip(requests, seen.requests, strict=True)
        if is_open(item.judged, item.records)
    ]
    frozen = tuple(freezes_at(state.policy.document, now))
    facts = [
        kept.tips,
        [row.message for row in frozen],
        [(row.reconciler, row.alive) for row in heartbeats],
        _dead(last, now),
        opened,
    ]
    return Snapshot(
        root=state.root,
        title=state.settings.document.spec.title,
        main=main,
        audit=audit,
        now=now,
        services=services,
        requests=in_order(requests),
        heartbeats=heartbeats,
        conditions=seen.conditions,
        freezes=frozen,
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
