"""The verbs that only look: services, show, requests, log. Values of the view, chosen and ordered here.

Rules kept: nothing is written, no network is used; what is shown is what the dashboard shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from itertools import islice

from capsule.commands.errors import CommandError, WrongUsage
from capsule.commands.repository import Repository
from capsule.trust.objects import BadObject, MissingObject
from capsule.view.asked import with_words_on_audit
from capsule.view.build import SnapshotCache, Unreadable, snapshot
from capsule.view.model import RequestRow, ServiceRow, Snapshot, TrailRow
from capsule.view.trail import trail

_LOOKS = 3
_SEARCHED = 50_000
"""Commits of audit that are looked at for the words of a request that is gone: seconds at most."""


def look(repository: Repository, now: datetime, cache: SnapshotCache | None = None) -> Snapshot:
    """Everything there is to see at the tips as last fetched; `cache` is for who looks again and again."""
    cache = cache or SnapshotCache()
    cache.proved = repository.proved
    for left in reversed(range(_LOOKS)):
        refs = repository.refs
        try:
            cut = repository.store.history_cut()
            seen = snapshot(repository.store, refs, repository.root, now, cache, cut)
        except Unreadable as error:
            raise CommandError(
                error.reason, f"the repository cannot be shown: {error}", "capsule doctor"
            ) from None
        except MissingObject as error:
            if not left:
                raise repository.missing(error) from None
            continue
        # A heartbeat is replaced and its objects go: whoever had read the old ref looks once more.
        overtaken = any(each.reason == "HeartbeatIgnored" for each in seen.conditions)
        if not (overtaken and left and refs != repository.refs):
            return seen
    raise AssertionError("unreachable")


def services(seen: Snapshot, selector: Mapping[str, str], status: str | None) -> tuple[ServiceRow, ...]:
    """The services with all labels of `selector` and, when given, that effectiveStatus."""
    return tuple(
        row
        for row in seen.services
        if all(row.labels.get(key) == value for key, value in selector.items())
        and (status is None or row.status == status)
    )


def requests(seen: Snapshot, phase: str | None) -> tuple[RequestRow, ...]:
    """The requests in `phase`, or all."""
    return tuple(row for row in seen.requests if phase is None or row.phase == phase)


def one_service(seen: Snapshot, name: str) -> ServiceRow:
    """The service called `name`. Raises WrongUsage with the nearest name."""
    for row in seen.services:
        if row.name == name:
            return row
    near = get_close_matches(name, [row.name for row in seen.services], n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `capsule services`."
    raise WrongUsage("UnknownName", f"there is no service {name!r}", hint)


def one(seen: Snapshot, name: str) -> ServiceRow | RequestRow:
    """The service or the request called `name`. Raises WrongUsage with the nearest name."""
    short = name.removeprefix("request/")
    rows: tuple[ServiceRow | RequestRow, ...] = (*seen.services, *seen.requests)
    for row in rows:
        if row.name == short:
            return row
    known = [row.name for row in rows]
    near = get_close_matches(short, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `capsule services` and `capsule requests`."
    raise WrongUsage("UnknownName", f"there is no service and no request {name!r}", hint)


def in_own_words(repository: Repository, row: RequestRow) -> RequestRow:
    """The row of a request whose branch is gone, with what it asked for as far as audit has it."""
    return with_words_on_audit(repository.store, repository.audit, repository.root, row, _SEARCHED)


def require_known(repository: Repository, service: str, now: datetime) -> None:
    """Raises WrongUsage unless `service` is one that nothing happened to yet."""
    one_service(look(repository, now), service)


def log(
    repository: Repository, service: str, action: str, since: datetime | None, limit: int
) -> tuple[TrailRow, ...]:
    """The newest `limit` commits of audit that fit, newest first."""
    audit = repository.audit
    if audit is None:
        return ()
    try:
        rows = trail(repository.store, audit, repository.root, service=service, action=action, since=since)
        return tuple(islice(rows, limit))
    except MissingObject as error:
        raise repository.missing(error) from None
    except BadObject as error:
        raise CommandError(error.reason, str(error), "capsule audit verify names the commit") from None
