"""Everything on record as rows, oldest first: one for each operation, desired-state order and refusal, and
one for each exception that an auditor asks about.

Rules kept: first parents of audit alone; a row tells what the records say, with the labels in force when it
was claimed, and the words of the request that was claimed, though its branch be gone; nothing is proved here
(`capsule audit verify` proves); a record that cannot be read is a row, never a gap. Memory grows with the
services, with what is unfinished or unacknowledged, and by what ledger_main keeps of main. Called by
commands.audit_ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    ChangeAttestation,
    Claim,
    ClaimSpec,
    Refusal,
    RefusalSpec,
    RequestSpec,
    Result,
    ServiceStatus,
    StateOrder,
    StateResult,
)
from capsule.trust.key_validity import committed_at
from capsule.trust.objects import ObjectReader, changes, folder, read_blob, read_commit
from capsule.trust.state import MainState
from capsule.view.asked import asked_in
from capsule.view.ledger_main import MainFollowed
from capsule.view.ledger_rows import KEY_CHANGED, KeyAge, LedgerRow, exceptions_of

D = TypeVar("D", ChangeAttestation, Claim, Result, Refusal, ServiceStatus, StateOrder, StateResult)


@dataclass(slots=True)
class _Open:
    claim: Claim
    labels: Mapping[str, str] | None
    asked: RequestSpec | None
    commit: str


@dataclass(frozen=True, slots=True)
class _Step:
    """A commit of audit; `where` are the commits whose trees may hold the requests that it tells of."""

    commit: str
    at: datetime
    where: tuple[str, ...]


class Ledger:
    """The rows of a history, commit after commit; afterwards what is unfinished, and how old keys are."""

    def __init__(self, reader: ObjectReader, root: str, main: str, end: datetime | None = None) -> None:
        """`main` is its tip, `end` the moment for which `keys` tells; None: where the history ends.

        Raises BadRoot, NotDescended, BadObject, MissingObject.
        """
        self._reader = reader
        self._main = MainFollowed(reader, root, main)
        self._open: dict[tuple[str, str], _Open] = {}
        self._orders: dict[tuple[str, int], tuple[StateOrder, Mapping[str, str] | None]] = {}
        self._alarmed: dict[str, datetime] = {}
        self._created: dict[str, datetime] = {}
        self._end = end
        self._keys_at_end: tuple[KeyAge, ...] | None = None
        self._trees: dict[str, str | None] = {STATUS: None, RECORDS: None}

    @property
    def state(self) -> MainState:
        """Main as judged where audit took it in last."""
        return self._main.state

    def step(self, commit: str) -> Iterator[LedgerRow]:
        """The rows of one commit of audit. Raises BadObject, MissingObject."""
        info = read_commit(self._reader, commit)
        at = committed_at(info)
        if self._end and at >= self._end and self._keys_at_end is None:
            self._keys_at_end = self._keys(self._end)
        yield from self._main.take_in(info, at, commit)
        where = (self.state.tip, *self._main.branches(info))
        for path, blob in self._added(RECORDS, info.tree):
            yield from self._record(path, blob, _Step(commit, at, where))
        for path, blob in self._added(STATUS, info.tree):
            yield from self._status(path, blob, at, commit)

    def unfinished(self) -> Iterator[LedgerRow]:
        """What was begun and has no result, oldest first; before it, changes whose reviews did not come."""
        yield from self._main.still_unreviewed()
        rows = [self._operation(opened, None, opened.commit) for opened in self._open.values()]
        rows += [self._state_order(order, labels, None, "") for order, labels in self._orders.values()]
        yield from sorted(rows, key=lambda row: (row.at, row.service, row.request))

    def keys(self, at: datetime) -> tuple[KeyAge, ...]:
        """How old the key of every service in force then is, as far as was on record; `at` counts where the
        history ends before the `end` that was given."""
        return self._keys(at) if self._keys_at_end is None else self._keys_at_end

    def _keys(self, at: datetime) -> tuple[KeyAge, ...]:
        found = []
        for name in sorted(self.state.services):
            document = self.state.services[name].document
            created, rotation = self._created.get(name), document.spec.rotation
            due = _moved(created, rotation.every.total_seconds()) if created and rotation else None
            labels = dict(document.metadata.labels)
            found.append(KeyAge(name, labels, created, due, due is not None and due <= at))
        return tuple(found)

    # ---- records ----

    def _added(self, name: str, tree: str) -> Iterator[tuple[str, str]]:
        """The files below `name` that are new or changed since the commit before, with their blobs."""
        new = folder(self._reader, tree, name)
        old, self._trees[name] = self._trees[name], new
        found = sorted(changes(self._reader, old, new, name), key=lambda change: _in_order(change.path))
        yield from ((change.path, change.new.oid) for change in found if change.new)

    def _record(self, path: str, blob: str, step: _Step) -> Iterator[LedgerRow]:
        name, commit = path.rpartition("/")[2], step.commit
        try:
            if StateFolder.of(path):
                yield from self._desired(path, name, blob, commit)
            elif ChangeFolder.of(path):
                yield from self._main.reviewed(self._load(ChangeAttestation, blob, path), step.at, commit)
            elif name.startswith("claim-"):
                self._claimed(self._load(Claim, blob, path), path, step)
            elif name == "result.yaml":
                yield from self._ended(self._load(Result, blob, path), commit)
            elif name == "refusal.yaml":
                yield self._refused(self._load(Refusal, blob, path), path, step)
        except InvalidDocument as error:
            yield LedgerRow(
                step.at, "exception", "", "", "damaged", "DamagedRecord", f"{path}: {error}", commit=commit
            )

    def _load(self, kind: type[D], blob: str, path: str) -> D:
        return load_as(kind, read_blob(self._reader, blob), path)

    def _claimed(self, claim: Claim, path: str, step: _Step) -> None:
        spec = claim.spec
        key = spec.request, spec.service
        before = self._open.get(key)
        asked = self._asked(path, spec, step) or (before.asked if before else None)
        self._open[key] = _Open(claim, self._main.labels(spec.service), asked, step.commit)

    def _asked(self, path: str, spec: ClaimSpec | RefusalSpec, step: _Step) -> RequestSpec | None:
        """What the request asks for that the record at `path` is about; None where that is nowhere."""
        place = RequestFolder("/".join(path.split("/")[1:3]), spec.request)
        return asked_in(self._reader, step.where, place, spec.request_digest)

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
                labels=self._main.labels(spec.service),
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
            opened.asked.reason if opened.asked else "",
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
            opened.asked.params if opened.asked else {},
        )

    def _refused(self, refusal: Refusal, path: str, step: _Step) -> LedgerRow:
        spec = refusal.spec
        asked = self._asked(path, spec, step)
        return LedgerRow(
            spec.recorded_at,
            "refusal",
            "",
            "",
            spec.phase.lower(),
            spec.reason,
            spec.message,
            spec.request,
            asked.reason if asked else "",
            asked.requested_by if asked else "",
            revision=spec.observed_revision,
            commit=step.commit,
            params=asked.params if asked else {},
        )

    def _desired(self, path: str, name: str, blob: str, commit: str) -> Iterator[LedgerRow]:
        if name == "order.yaml":
            order = self._load(StateOrder, blob, path)
            key = order.spec.service, order.spec.generation
            self._orders[key] = order, self._main.labels(order.spec.service)
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
                labels=self._main.labels(name),
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
                labels=self._main.labels(name),
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
