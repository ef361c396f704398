"""The trail: the machine's story as commits of audit, newest first, with what their trailers say.

Rules kept: first parents alone, and never past the root; commits are read raw, so a second author header
or a replace ref changes nothing; lazily, so the cost is what is shown; where a clone ends before the root,
the last row says so. Called by `capsule log` and the web.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from capsule.trust.objects import (
    BadObject,
    MissingObject,
    ObjectReader,
    parents_of,
    parse_commit,
    raw_commit,
)
from capsule.view.model import TrailRow

SERVICE = "Capsule-Service"
ACTION = "Capsule-Action"
REASON = "Capsule-Reason"
HISTORY_MISSING = "HistoryMissing"
_TAKES_IN = "take in main "
_LONGEST = 100
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class TrailPage:
    """Some rows, and the commit at which to go on; None at the end. `searched` counts commits read."""

    rows: tuple[TrailRow, ...]
    following: str | None
    searched: int


def trail(
    reader: ObjectReader,
    audit: str,
    root: str,
    *,
    limit: int | None = None,
    service: str = "",
    action: str = "",
    since: datetime | None = None,
) -> Iterator[TrailRow]:
    """The commits from `audit` down to, and without, `root`: at most `limit` that fit the filters.

    `since` ends the walk at the first older commit. Raises MissingObject when `audit` itself is not here,
    and BadObject where not even the parents of a commit can be read.
    """
    rows = (row for row, _ in _walk(reader, audit, root, since))
    return islice((_told(reader, row) for row in rows if _fits(row, service, action)), limit)


def trail_page(
    reader: ObjectReader,
    start: str,
    root: str,
    *,
    limit: int,
    search: int,
    service: str = "",
    action: str = "",
    since: datetime | None = None,
) -> TrailPage:
    """At most `limit` rows from `start` on, found among at most `search` commits."""
    rows: list[TrailRow] = []
    searched = 0
    for row, parent in _walk(reader, start, root, since):
        searched += 1
        if _fits(row, service, action):
            rows.append(_told(reader, row))
        if len(rows) == limit or searched == search:
            return TrailPage(tuple(rows), parent if parent != root else None, searched)
    return TrailPage(tuple(rows), None, searched)


def on_trail(reader: ObjectReader, audit: str, root: str, commit: str, reach: int) -> bool:
    """Whether `commit` is one of the newest `reach` commits of the trail."""
    return any(row.commit == commit for row, _ in islice(_walk(reader, audit, root, None), reach))


def _walk(
    reader: ObjectReader, start: str, root: str, since: datetime | None
) -> Iterator[tuple[TrailRow, str | None]]:
    at: str | None = start
    last = since or _EPOCH
    while at and at != root:
        try:
            data = raw_commit(reader, at)
        except MissingObject:
            if at == start:
                raise
            yield _end_of_clone(at, last), None
            return
        row = _row(at, data, last)
        if since and row.at < since:
            return
        last = row.at
        at = next(iter(parents_of(data)), None)
        yield row, at


def _row(oid: str, data: bytes, last: datetime) -> TrailRow:
    try:
        info = parse_commit(data)
    except BadObject as error:
        # One commit that cannot be judged hides nothing behind it: the walk needs its parents alone.
        return TrailRow(oid, last, "", f"unreadable commit: {error}", {})
    at = datetime.fromtimestamp(info.committer.at, UTC)
    subject = info.message.split("\n", 1)[0]
    return TrailRow(oid, at, info.author.name, subject, info.trailers)


def _told(reader: ObjectReader, row: TrailRow) -> TrailRow:
    """The row of a commit that only takes in main, with what main's commit calls itself."""
    if not row.subject.startswith(_TAKES_IN):
        return row
    try:
        merged = parents_of(raw_commit(reader, row.commit))[1:]
        subject = parse_commit(raw_commit(reader, merged[0])).message.split("\n", 1)[0] if merged else ""
    except (BadObject, MissingObject):
        return row
    return replace(row, about=subject if len(subject) <= _LONGEST else f"{subject[: _LONGEST - 1]}…")


def _end_of_clone(oid: str, last: datetime) -> TrailRow:
    text = "not in this clone: this commit, and what was before it"
    return TrailRow(oid, last, "", text, {REASON: (HISTORY_MISSING,)})


def _fits(row: TrailRow, service: str, action: str) -> bool:
    if row.trailers.get(REASON) == (HISTORY_MISSING,) and not row.author:
        return True  # whatever is looked for: it may be there
    return (not service or service in row.trailers.get(SERVICE, ())) and (
        not action or action in row.trailers.get(ACTION, ())
    )
