"""Everything on record as rows, oldest first: one for each operation, desired-state order and refusal, and
one for each exception that an auditor asks about.

Rules kept: first parents of audit alone; a row tells what the records say, with the labels and the words in
force when it was claimed; nothing is proved here (`capsule audit verify` proves); a record that cannot be
read is a row, never a gap; what the ledger takes for main, and when it was seen, is what the proof does, and
a request's branch is no step of it; labels that nobody can tell are None, which is not the same as empty.
Memory grows with the services, with what is unfinished or unacknowledged, and by 20 bytes and their place for
each step of main. Called by commands.audit_ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import (
    RECORDS,
    SERVICES,
    STATUS,
    ChangeFolder,
    RequestFolder,
    StateFolder,
    service_name,
)
from capsule.documents.types import (
    ActionRequest,
    Capsule,
    ChangeAttestation,
    Claim,
    Refusal,
    Result,
    Service,
    ServiceStatus,
    StateOrder,
    StateResult,
)
from capsule.trust.audit_chain import Chain
from capsule.trust.audit_walk import SeenOnWay
from capsule.trust.evidence import weakest
from capsule.trust.hearing import hear
from capsule.trust.key_validity import committed_at
from capsule.trust.mainline import advance, begin
from capsule.trust.objects import (
    CommitInfo,
    ObjectReader,
    changes,
    file_bytes,
    folder,
    read_blob,
    read_commit,
)
from capsule.trust.raw import BadObject
from capsule.trust.state import Finding, InForce, MainState, PendingChange
from capsule.view.ledger_rows import EXCEPTIONS, KEY_CHANGED, KeyAge, LedgerRow, exceptions_of

OBSERVED = "Capsule-Revision"
"""The trailer in which a commit of audit names the point of main that it was made under."""

D = TypeVar("D", ChangeAttestation, Claim, Result, Refusal, ServiceStatus, StateOrder, StateResult)


@dataclass(slots=True)
class _Open:
    claim: Claim
    labels: Mapping[str, str] | None
    why: str
    commit: str


class Ledger:
    """The rows of a history, commit after commit; afterwards what is unfinished, and how old keys are."""

    def __init__(self, reader: ObjectReader, root: str, main: str) -> None:
        """`main` is its tip. Raises BadRoot, NotDescended, BadObject, MissingObject."""
        self._reader = reader
        self._positions = Chain.of(reader, main, root).positions()
        self._at = 0
        self._seen = SeenOnWay(self._positions)
        self.state: MainState = replace(begin(reader, root), seen=self._seen)
        self._open: dict[tuple[str, str], _Open] = {}
        self._orders: dict[tuple[str, int], tuple[StateOrder, Mapping[str, str] | None]] = {}
        self._alarmed: dict[str, datetime] = {}
        self._created: dict[str, datetime] = {}
        self._told: set[tuple[str, str, str]] = set()
        self._unreviewed: dict[str, list[LedgerRow]] = {}
        self._trees: dict[str, str | None] = {STATUS: None, RECORDS: None}

    def step(self, commit: str) -> Iterator[LedgerRow]:
        """The rows of one commit of audit. Raises BadObject, MissingObject."""
        info = read_commit(self._reader, commit)
        at = self._seen.now = committed_at(info)
        yield from self._main(info, at, commit)
        for change in self._added(RECORDS, info.tree):
            yield from self._record(change[0], change[1], at, commit)
        for path, blob in self._added(STATUS, info.tree):
            yield from self._status(path, blob, at, commit)

    def unfinished(self) -> Iterator[LedgerRow]:
        """What was begun and has no result, oldest first; before it, changes whose reviews did not come."""
        yield from self._still_unreviewed()
        rows = [self._operation(opened, None, opened.commit) for opened in self._open.values()]
        rows += [self._state_order(order, labels, None, "") for order, labels in self._orders.values()]
        yield from sorted(rows, key=lambda row: (row.at, row.service, row.request))

    def keys(self, at: datetime) -> tuple[KeyAge, ...]:
        """How old the key of every service in force is, as far as is on record."""
        found = []
        for name in sorted(self.state.services):
            document = self.state.services[name].document
            created, rotation = self._created.get(name), document.spec.rotation
            due = _moved(created, rotation.every.total_seconds()) if created and rotation else None
            labels = dict(document.metadata.labels)
            found.append(KeyAge(name, labels, created, due, due is not None and due <= at))
        return tuple(found)

    # ---- main ----

    def _main(self, info: CommitInfo, at: datetime, commit: str) -> Iterator[LedgerRow]:
        """Main as far as this commit takes it in, and what of it was not taken over."""
        for parent in [each for each in info.parents[1:] if self._is_step(each, info)]:
            position = self._positions.get(bytes.fromhex(parent), 0)
            if position > self._at:
                self._at = position
                self._seen.take_in(position)
            state = advance(self._reader, self.state, parent)
            before, self.state = self.state, state
            yield from self._still_unreviewed()
            yield from self._let_in(before, at, commit)
            for change in state.pending:
                rows = self._pending(change, at, commit)
                if change.takes_reviews:
                    self._unreviewed.setdefault(change.path, []).extend(rows)
                else:
                    yield from rows
            if state.suspended:
                yield from self._suspended(state.suspended, at, commit)

    def _is_step(self, parent: str, info: CommitInfo) -> bool:
        """Whether a parent is a point of main: one of its steps, or of a main that is gone, as the commit
        itself says. The others are requests' branches, often cut from main's tip."""
        return bytes.fromhex(parent) in self._positions or info.trailers.get(OBSERVED, ())[-1:] == (parent,)

    def _pending(self, change: PendingChange, at: datetime, commit: str) -> Iterator[LedgerRow]:
        if self._is_new("ChangeNotAuthorised", change.path, f"{change.new} {change.reason}"):
            name = service_name(change.path) or ""
            yield LedgerRow(
                at,
                "exception",
                name,
                f"change {change.kind}",
                "not taken over",
                "ChangeNotAuthorised",
                f"{change.path}: {change.message or change.reason}",
                requested_by=", ".join(change.authors),
                approved_by=change.approved_by,
                evidence=weakest(change.evidence) or "",
                labels=self._labels(name),
                revision=change.since,
                commit=commit,
            )

    def _still_unreviewed(self) -> Iterator[LedgerRow]:
        """Of the changes that waited for reviews, those that still wait: main has gone on without them."""
        waiting = {change.path for change in self.state.pending}
        for path in [path for path in self._unreviewed if path in waiting]:
            yield from self._unreviewed[path]
        self._unreviewed.clear()

    def _let_in(self, before: MainState, at: datetime, commit: str) -> Iterator[LedgerRow]:
        """What came into force on a forge's word, or by a merge."""
        new: list[tuple[str, InForce[Capsule] | InForce[Service]]] = []
        if self.state.settings is not before.settings:
            new.append(("", self.state.settings))
        if self.state.services is not before.services:
            services = self.state.services.items()
            new += [(name, each) for name, each in services if each is not before.services.get(name)]
        for name, document in new:
            evidence = weakest(document.evidence)
            if evidence in ("forge", "merge"):
                yield LedgerRow(
                    at,
                    "exception",
                    name,
                    "change service" if name else "change settings",
                    "taken over",
                    "WeakEvidence",
                    f"{document.path}: {EXCEPTIONS['WeakEvidence']}",
                    requested_by=", ".join(document.authors),
                    approved_by=document.approved_by,
                    evidence=evidence,
                    labels=self._labels(name),
                    revision=document.since,
                    commit=commit,
                )

    def _reviewed(self, told: ChangeAttestation, at: datetime, commit: str) -> Iterator[LedgerRow]:
        before, self.state = self.state, hear(self._reader, self.state, told)
        yield from self._let_in(before, at, commit)

    def _suspended(self, finding: Finding, at: datetime, commit: str) -> Iterator[LedgerRow]:
        if self._is_new("MainSuspended", finding.commit, finding.reason):
            message = f"{finding.reason}: {finding.message}"
            yield LedgerRow(
                at,
                "exception",
                "",
                "",
                "suspended",
                "MainSuspended",
                message,
                revision=finding.commit,
                commit=commit,
            )

    def _is_new(self, *what: str) -> bool:
        key = (what[0], what[1], what[2])
        known = key in self._told
        self._told.add(key)
        return not known

    def _labels(self, service: str) -> Mapping[str, str] | None:
        """The labels of a service in force; None where they are not known."""
        found = self.state.services.get(service)
        if found is None:
            return None if service else {}
        return dict(found.document.metadata.labels)

    # ---- records ----

    def _added(self, name: str, tree: str) -> Iterator[tuple[str, str]]:
        """The files below `name` that are new or changed since the commit before, with their blobs."""
        new = folder(self._reader, tree, name)
        old, self._trees[name] = self._trees[name], new
        found = sorted(changes(self._reader, old, new, name), key=lambda change: _in_order(change.path))
        yield from ((change.path, change.new.oid) for change in found if change.new)

    def _record(self, path: str, blob: str, at: datetime, commit: str) -> Iterator[LedgerRow]:
        name = path.rpartition("/")[2]
        try:
            if StateFolder.of(path):
                yield from self._desired(path, name, blob, commit)
            elif ChangeFolder.of(path):
                yield from self._reviewed(self._load(ChangeAttestation, blob, path), at, commit)
            elif name.startswith("claim-"):
                self._claimed(self._load(Claim, blob, path), path, commit)
            elif name == "result.yaml":
                yield from self._ended(self._load(Result, blob, path), commit)
            elif name == "refusal.yaml":
                yield self._refused(self._load(Refusal, blob, path), commit)
        except InvalidDocument as error:
            yield LedgerRow(
                at, "exception", "", "", "damaged", "DamagedRecord", f"{path}: {error}", commit=commit
            )

    def _load(self, kind: type[D], blob: str, path: str) -> D:
        return load_as(kind, read_blob(self._reader, blob), path)

    def _claimed(self, claim: Claim, path: str, commit: str) -> None:
        spec = claim.spec
        month = "/".join(path.split("/")[1:3])
        why = self._why(RequestFolder(month, spec.request))
        self._open[spec.request, spec.service] = _Open(claim, self._labels(spec.service), why, commit)

    def _why(self, place: RequestFolder) -> str:
        """The reason that the request gives; empty where it is not on main, or cannot be read."""
        try:
            tree = read_commit(self._reader, self.state.tip).tree
            data = file_bytes(self._reader, tree, place.request)
            return load_as(ActionRequest, data, place.request).spec.reason if data else ""
        except (BadObject, InvalidDocument):
            return ""

    def _ended(self, result: Result, commit: str) -> Iterator[LedgerRow]:
        spec = result.spec
        opened = self._open.pop((spec.request, spec.service), None)
        if opened is None:
            yield LedgerRow(
                spec.recorded_at,
                "exception",
                spec.service,
                spec.action,
                spec.outcome,
                "DamagedRecord",
                "a result without a claim before it",
                request=spec.request,
                labels=self._labels(spec.service),
                commit=commit,
            )
            return
        row = self._operation(opened, result, commit)
        if (row.action, row.outcome) == ("rotateKey", "succeeded"):
            self._created[row.service] = row.at
        yield row
        yield from exceptions_of(row)

    def _operation(self, opened: _Open, result: Result | None, commit: str) -> LedgerRow:
        claim = opened.claim.spec
        ended = result.spec if result else None
        asked_for = claim.approved_by or claim.evidence == "break-glass"
        return LedgerRow(
            ended.recorded_at if ended else claim.claimed_at,
            "operation",
            claim.service,
            claim.action,
            ended.outcome if ended else "running",
            ended.reason if ended else "Running",
            ended.message if ended else "",
            claim.request,
            opened.why,
            claim.requested_by,
            claim.approved_by,
            claim.evidence if asked_for else "",
            claim.reconciler,
            ended.attempt if ended else claim.attempt,
            claim.claimed_at,
            opened.labels,
            claim.op_id,
            (ended.receipt_digest or "") if ended else "",
            claim.observed_revision,
            commit,
        )

    def _refused(self, refusal: Refusal, commit: str) -> LedgerRow:
        spec = refusal.spec
        return LedgerRow(
            spec.recorded_at,
            "refusal",
            "",
            "",
            spec.phase.lower(),
            spec.reason,
            spec.message,
            spec.request,
            revision=spec.observed_revision,
            commit=commit,
        )

    def _desired(self, path: str, name: str, blob: str, commit: str) -> Iterator[LedgerRow]:
        if name == "order.yaml":
            order = self._load(StateOrder, blob, path)
            key = order.spec.service, order.spec.generation
            self._orders[key] = order, self._labels(order.spec.service)
        elif name == "result.yaml":
            result = self._load(StateResult, blob, path)
            known = self._orders.pop((result.spec.service, result.spec.generation), None)
            if known:
                row = self._state_order(*known, result, commit)
                yield row
                yield from exceptions_of(row)

    def _state_order(
        self, order: StateOrder, labels: Mapping[str, str] | None, result: StateResult | None, commit: str
    ) -> LedgerRow:
        spec, ended = order.spec, result.spec if result else None
        return LedgerRow(
            ended.recorded_at if ended else spec.ordered_at,
            "desired-state",
            spec.service,
            spec.action,
            ended.outcome if ended else "running",
            ended.reason if ended else "Running",
            ended.message if ended else "",
            reconciler=spec.reconciler,
            attempt=1,
            claimed_at=spec.ordered_at,
            labels=labels,
            op_id=spec.op_id,
            receipt_digest=ended.receipt_digest if ended else "",
            revision=spec.observed_revision,
            commit=commit,
        )

    # ---- status ----

    def _status(self, path: str, blob: str, at: datetime, commit: str) -> Iterator[LedgerRow]:
        name = service_name(SERVICES + path.removeprefix(STATUS)) or path
        try:
            status = self._load(ServiceStatus, blob, path).spec
        except InvalidDocument as error:
            yield LedgerRow(
                at,
                "exception",
                name,
                "",
                "damaged",
                "DamagedRecord",
                f"{path}: {error}",
                labels=self._labels(name),
                commit=commit,
            )
            return
        if status.key_created_at:
            self._created[name] = status.key_created_at
        alarm = next((each for each in status.conditions if each.type == KEY_CHANGED), None)
        if alarm is None:
            self._alarmed.pop(name, None)
        elif self._alarmed.get(name) != alarm.since:
            self._alarmed[name] = alarm.since
            yield LedgerRow(
                alarm.since,
                "exception",
                name,
                "",
                "observed",
                KEY_CHANGED,
                alarm.message,
                labels=self._labels(name),
                revision=status.observed_revision,
                commit=commit,
            )


def _in_order(path: str) -> tuple[str, int]:
    """Where a file comes among those of its commit: attestations of changes are heard by their numbers."""
    place = ChangeFolder.of(path)
    return (f"{place[0].records}/", place[1]) if place else (path, 0)


def _moved(at: datetime, seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at.timestamp() + seconds, UTC)
    except (OverflowError, ValueError):
        return None
