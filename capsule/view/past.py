"""The past of every service's status: which version stood on audit from when on, read once for all services.

Rules kept: first parents of audit alone; from the tip backwards, at most as many commits at a time as asked
for, so that a long history delays no page for long; equal trees are not read, a document is parsed when
somebody looks at its service, and once; a new tip costs what is new. What lies before the deepest commit
read is told only as far as the status in force there says since when it was so. Called by commands and web.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, get_args

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import STATUS
from capsule.documents.scalars import parse_instant
from capsule.documents.types import EffectiveStatus, ServiceStatus
from capsule.trust.objects import (
    BadObject,
    MissingObject,
    ObjectKind,
    ObjectReader,
    files,
    folder,
    read_blob,
    read_commit,
)
from capsule.view.uptime import Moment

_OLD_ENOUGH = 16
"""So many commits in a row before the window end the reading: one clock that was wrong ends nothing."""
_KEPT_TREES = 256
_KEPT_DOCUMENTS = 50_000
_MOST_CHANGES = 2_000_000
_DEEPEST = 32
_FOLDER = b"40000"
_ENTRY = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_HEAD = re.compile(
    rb"apiVersion: capsule/v1\nkind: ServiceStatus\nmetadata:\n  name: [a-z0-9-]+\nspec:\n"
    rb"  observedRevision: \S+\n  effectiveStatus: ([A-Z]+)\n  reason: ([A-Za-z0-9]{1,63})\n"
    rb"(?:  message: ([A-Za-z][A-Za-z0-9 .,;()/_-]*[A-Za-z0-9.)])\n)?  since: \"([^\"\n]+)\"\n"
)
"""How the emitter writes the beginning of a status; a document that begins otherwise is parsed whole."""


@dataclass(frozen=True, slots=True)
class _Version:
    """The status document of a service from a commit on; None from where there is none."""

    at: datetime
    blob: str | None


@dataclass(frozen=True, slots=True)
class _Said:
    """What one version of a status document says."""

    status: EffectiveStatus
    reason: str
    message: str
    since: datetime


@dataclass
class _Service:
    """All versions known of one service, oldest first, and the one before them."""

    before: str | None
    versions: deque[_Version] = field(default_factory=deque)


class StatusPast:
    """What is kept between two looks at one repository's history; not safe for several threads at once.

    `complete` says that everything back to the window's start was read; `reached` is the time of the
    oldest commit read so far.
    """

    def __init__(self) -> None:
        self.tip: str | None = None
        self.complete = False
        self.reached: datetime | None = None
        self._following: str | None = None
        self._older = 0
        self._services: dict[str, _Service] = {}
        self._said: dict[str, _Said | None] = {}
        self._trees: dict[str, tuple[ObjectKind, bytes]] = {}

    def bring_to(
        self, reader: ObjectReader, audit: str | None, root: str, since: datetime, limit: int
    ) -> None:
        """Read on until the history from `since` to the tip `audit` is known, at most `limit` commits.

        Raises BadObject, and MissingObject when not even the tip is here.
        """
        kept = _Remembering(reader, self._trees)
        if self.tip is None or (self.tip != audit and not self._catch_up(kept, audit, since, limit)):
            self._begin_anew(kept, audit, root)
        for _ in range(limit):
            if self.complete:
                return
            self._go_back(kept, root, since)

    def moments(self, reader: ObjectReader, name: str) -> tuple[Moment, ...]:
        """What the status of the service `name` was, from when on, oldest first.

        Raises MissingObject, BadObject.
        """
        service = self._services.get(name)
        if service is None:
            return ()
        found: list[Moment] = []
        said = self._document(reader, service.before)
        if said is not None:
            found.append(_moment(said, min([said.since, *(each.at for each in service.versions)])))
        for version in service.versions:
            said = self._document(reader, version.blob)
            moment = _next(found[-1] if found else None, said, version.at)
            if moment is not None:
                found.append(moment)
        return tuple(found)

    def names(self) -> frozenset[str]:
        """Every service that is, or was, on record."""
        return frozenset(self._services)

    # ---- reading commits ------------------------------------------------------------------------

    def _begin_anew(self, reader: ObjectReader, audit: str | None, root: str) -> None:
        self.tip = self._following = audit
        self.reached, self._older = None, 0
        self.complete = audit in (None, root)
        status = _status_tree(reader, audit) if audit else None
        self._services = {
            _name(path): _Service(entry.oid) for path, entry in (files(reader, status) if status else ())
        }

    def _catch_up(self, reader: ObjectReader, audit: str | None, since: datetime, limit: int) -> bool:
        """Take in the commits above the tip that is known; False when it is not met within `limit`."""
        steps: list[tuple[datetime, dict[str, _Changed]]] = []
        at = audit
        while at != self.tip:
            if at is None or len(steps) == limit:
                return False
            try:
                step = _step(reader, at)
            except MissingObject:
                return False
            steps.append((step.at, step.changed))
            at = step.parent
        for when, changed in reversed(steps):
            for name, change in changed.items():
                self._append(name, _Version(when, change.new), since)
        self.tip = audit
        return True

    def _append(self, name: str, version: _Version, since: datetime) -> None:
        service = self._services.setdefault(name, _Service(None))
        service.versions.append(version)
        while len(service.versions) > 1 and service.versions[1].at < since:
            service.before = service.versions.popleft().blob

    def _go_back(self, reader: ObjectReader, root: str, since: datetime) -> None:
        """Read one more commit into the past."""
        assert self._following is not None  # else it is complete
        try:
            step = _step(reader, self._following)
        except MissingObject:
            self.complete = True  # the clone ends here
            return
        for name, change in step.changed.items():
            service = self._services.setdefault(name, _Service(None))
            service.versions.appendleft(_Version(step.at, change.new))
            service.before = change.old
        self.reached, self._following = step.at, step.parent
        self._older = self._older + 1 if step.at < since else 0
        self.complete = step.parent in (None, root) or self._older == _OLD_ENOUGH

    # ---- reading documents ----------------------------------------------------------------------

    def _document(self, reader: ObjectReader, blob: str | None) -> _Said | None:
        if blob is None:
            return None
        if blob not in self._said:
            if len(self._said) >= _KEPT_DOCUMENTS:
                self._said.clear()
            self._said[blob] = _read(reader, blob)
        return self._said[blob]


@dataclass(frozen=True, slots=True)
class _Changed:
    """The blobs of one service's status before and after a commit."""

    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One commit of audit: when, what it changed by service, and what stood before it."""

    at: datetime
    changed: dict[str, _Changed]
    parent: str | None


class _Remembering:
    """Reads commits and trees, and remembers the last: each is compared with the one before and after."""

    def __init__(self, reader: ObjectReader, trees: dict[str, tuple[ObjectKind, bytes]]) -> None:
        self._reader = reader
        self._trees = trees

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        found = self._trees.get(oid)
        if found is None:
            found = self._trees[oid] = self._reader.read(oid)
            if len(self._trees) > _KEPT_TREES:
                del self._trees[next(iter(self._trees))]
        return found


def _step(reader: ObjectReader, commit: str) -> _Step:
    info = read_commit(reader, commit)
    parent = info.parents[0] if info.parents else None
    try:
        before = _status_tree(reader, parent) if parent else None
    except MissingObject:
        # A clone that ends here: what this commit changed cannot be told from what was so before.
        return _Step(datetime.fromtimestamp(info.committer.at, UTC), {}, parent)
    after = folder(reader, info.tree, STATUS)
    return _Step(
        datetime.fromtimestamp(info.committer.at, UTC),
        dict(_by_name(_differing(reader, before, after))),
        parent,
    )


def _by_name(found: Iterable[_File]) -> Iterator[tuple[str, _Changed]]:
    """The changes by service: a document that moved to another folder is still the same one."""
    names: dict[str, list[_File]] = {}
    for each in found:
        names.setdefault(_name(each.path), []).append(each)
    for name, group in names.items():
        old = next((each.old for each in group if each.old), None)
        new = next((each.new for each in group if each.new), None)
        if old != new:
            yield name, _Changed(old, new)


class _File(NamedTuple):
    """A file that differs between two trees, with its blobs."""

    path: str
    old: str | None
    new: str | None


def _differing(reader: ObjectReader, old_tree: str | None, new_tree: str | None) -> Iterator[_File]:
    """Every file that differs. As trust.objects.changes, but made for tens of thousands of commits: entries
    are compared as they stand in the trees, and only those that differ are looked at.

    Raises BadObject for a tree that unfolds beyond all measure or is none.
    """
    stack = [("", old_tree, new_tree)]
    met = 0
    while stack:
        base, old_oid, new_oid = stack.pop()
        old, new = _raw_entries(reader, old_oid), _raw_entries(reader, new_oid)
        sides: dict[tuple[bytes, bool], list[str | None]] = {}
        for at, entries in enumerate((old - new, new - old)):
            for mode, name, oid in entries:
                sides.setdefault((name, mode == _FOLDER), [None, None])[at] = oid.hex()
        for (name, is_folder), (before, after) in sorted(sides.items()):
            met += 1
            path = base + name.decode(errors="replace")
            if met > _MOST_CHANGES or path.count("/") > _DEEPEST:
                raise BadObject("TooLarge", f"status/ unfolds beyond all measure at {path[:80]!r}")
            if is_folder:
                stack.append((f"{path}/", before, after))
            else:
                yield _File(path, before, after)


def _raw_entries(reader: ObjectReader, tree: str | None) -> set[tuple[bytes, bytes, bytes]]:
    if tree is None:
        return set()
    kind, data = reader.read(tree)
    found = _ENTRY.findall(data)
    if kind != "tree" or sum(len(mode) + len(name) + 22 for mode, name, _ in found) != len(data):
        raise BadObject("BadTree", f"{tree} is not a tree")
    return set(found)


def _status_tree(reader: ObjectReader, commit: str) -> str | None:
    return folder(reader, read_commit(reader, commit).tree, STATUS)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".yaml")


def _read(reader: ObjectReader, blob: str) -> _Said | None:
    try:
        data = read_blob(reader, blob)
        head = _HEAD.match(data)
        if head and head[1].decode() in get_args(EffectiveStatus):
            status: EffectiveStatus = head[1].decode()  # type: ignore[assignment]  # it is one of the words
            message = (head[3] or b"").decode()
            return _Said(status, head[2].decode(), message, parse_instant(head[4].decode(errors="replace")))
        spec = load_as(ServiceStatus, data, "status.yaml").spec
    except (InvalidDocument, BadObject, ValueError):
        return None
    return _Said(spec.effective_status, spec.reason, spec.message, spec.since)


# ---- from versions to moments -------------------------------------------------------------------


def _next(last: Moment | None, said: _Said | None, recorded: datetime) -> Moment | None:
    """The moment that one more version begins; None when it says the same as the last.

    It begins when the document says, unless that lies before the last one or in the commit's future.
    """
    floor = last.start if last else None
    if said is None:
        if last is None or last.status is None:
            return None
        return Moment(max(recorded, last.start), None, "NotOnRecord", "")
    if last and (last.status, last.reason, last.message) == (said.status, said.reason, said.message):
        return None
    start = min(said.since, recorded)
    if floor and start <= floor:
        start = max(recorded, floor)
    return _moment(said, start)


def _moment(said: _Said, start: datetime) -> Moment:
    return Moment(start, said.status, said.reason, said.message)
