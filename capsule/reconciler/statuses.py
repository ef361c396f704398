"""The statuses on record, and what would change of them.

Rules kept: only services of which something changed are looked at; audit is read once, then only where it
changed; one report that fits no status stops only its own service; a change that is not recorded yet is found
again by the next pass. Called by the reconciler.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from capsule.decide import Ledger, SetStatus, correction_stopped, next_change, status_change, why
from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import STATUS, service_name, status_path
from capsule.documents.types import Service, ServiceStatus
from capsule.lifecycle import Observation, Records
from capsule.reconciler.attention import Attention
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.probing import says_the_same
from capsule.trust import objects
from capsule.trust.objects import ObjectReader
from capsule.trust.state import InForce, JudgedRequest, MainState

log = logging.getLogger("capsule.reconciler")
_STOPPED = "CorrectionStopped"


@dataclass(frozen=True, slots=True)
class Known:
    """What statuses follow from, beside main and audit."""

    observations: Mapping[str, Observation]
    records: Records
    ledger: Ledger
    requests: Mapping[str, JudgedRequest]


@dataclass(frozen=True, slots=True)
class _Settled:
    """What a service was looked at with when nothing was to be recorded; not longer than `until`."""

    basis: tuple[object, ...]
    seen: Observation
    until: datetime | None


class Statuses:
    """What audit says of each service, and what would change."""

    def __init__(self, reader: ObjectReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._attention = Attention()
        self._folder: str | None = None
        self._blobs: dict[str, str] = {}
        self._parsed: dict[str, tuple[str | None, ServiceStatus | None]] = {}
        self._nothing_new: dict[str, _Settled] = {}

    def changes(self, state: MainState, audit: str | None, known: Known) -> list[SetStatus]:
        """The material changes since what audit records."""
        self._read(audit)
        for gone in self._parsed.keys() - state.services.keys():
            del self._parsed[gone]
            self._nothing_new.pop(gone, None)
        now, book = self._clock.now(), known.ledger
        by_name = known.observations, self._blobs, known.records.desired, book.words, book.acknowledged
        facts = (*by_name, book.changed)
        whole = (state.settings, state.policy, state.signers)
        found: list[SetStatus] = []
        for name in self._attention.look(state.services, facts, now, whole=whole):
            service = state.services[name]
            before = self._before(name, service.path)
            basis = self._basis(state, service, before, known)
            if self._settled(name, basis, known, now):
                continue
            change = self._change(state, service, before, known, now)
            if change:
                found.append(change)
            elif before:
                until = self._look_again(state, service, before, known, now)
                self._remember(name, basis, known, until)
        self._attention.settle({change.service.document.metadata.name for change in found})
        return found

    def on_record(self) -> list[ServiceStatus | None]:
        """The status of every service in force as last looked at, None where there is none yet."""
        return [status for _, status in list(self._parsed.values())]

    def _change(
        self,
        state: MainState,
        service: InForce[Service],
        before: ServiceStatus | None,
        known: Known,
        now: datetime,
    ) -> SetStatus | None:
        name, book = service.document.metadata.name, known.ledger
        word = book.words.get(name)
        correction = state.settings.document.spec.correction
        orders = known.records.state_operations(name)
        try:
            return status_change(
                state,
                service,
                known.observations.get(name),
                before,
                now,
                book.last_change(name),
                word=word,
                why=why(word, known.requests) if word else "",
                stopped=correction_stopped(
                    orders, service.digest, correction, book.acknowledged_at(name, _STOPPED)
                ),
                acknowledged=book.acknowledged.get(name, {}),
            )
        except ValueError as error:
            with about(service=name):
                log.warning("the report of %s cannot be recorded: %s", name, type(error).__name__)
            return None

    def _look_again(
        self,
        state: MainState,
        service: InForce[Service],
        status: ServiceStatus,
        known: Known,
        now: datetime,
    ) -> datetime | None:
        """Where time alone may change something, look then."""
        name = service.document.metadata.name
        grace = state.settings.document.spec.probe.grace
        at = next_change(service, status, now, observation=known.observations.get(name), grace=grace)
        if at:
            self._attention.wait(name, at)
        return at

    def _basis(
        self, state: MainState, service: InForce[Service], before: ServiceStatus | None, known: Known
    ) -> tuple[object, ...]:
        """All that a status follows from, but for the observation and the time."""
        name, book = service.document.metadata.name, known.ledger
        whole = (state.settings.digest, state.policy.digest, state.signers)
        facts = (book.last_change(name), book.words.get(name), book.acknowledged.get(name))
        return (service, before, known.records.desired.get(name), *facts, *whole)

    def _settled(self, name: str, basis: tuple[object, ...], known: Known, now: datetime) -> bool:
        """Whether an answer says what the last one said that changed nothing, and nothing else did either."""
        settled, seen = self._nothing_new.get(name), known.observations.get(name)
        if settled is None or seen is None or (settled.until is not None and settled.until <= now):
            return False
        return settled.basis == basis and says_the_same(seen, settled.seen)

    def _remember(self, name: str, basis: tuple[object, ...], known: Known, until: datetime | None) -> None:
        """That nothing is to be recorded now; but each failure is looked at, and an operation is waited for
        until it is noted, for both follow from when a probe came."""
        seen, before = known.observations.get(name), self._parsed[name][1]
        last = known.ledger.last_change(name)
        noted = last is None or (before is not None and before.spec.last_operation == last.op_id)
        if seen is not None and seen.ok and noted:
            self._nothing_new[name] = _Settled(basis, seen, until)
        else:
            self._nothing_new.pop(name, None)

    def _read(self, audit: str | None) -> None:
        """Where each status lies now, by service; only what differs from the last time is read."""
        tree = objects.tree_of(objects.raw_commit(self._reader, audit)) if audit else None
        folder = objects.folder(self._reader, tree, STATUS) if tree else None
        if folder == self._folder:
            return
        for change in objects.changes(self._reader, self._folder, folder, STATUS):
            name = service_name(_service_path(change.path))
            if name is None:
                continue
            if change.new:
                self._blobs[name] = change.new.oid
            elif change.old and self._blobs.get(name) == change.old.oid:
                del self._blobs[name]
        self._folder = folder

    def _before(self, name: str, service_path: str) -> ServiceStatus | None:
        oid = self._blobs.get(name)
        known = self._parsed.get(name)
        if known is None or known[0] != oid:
            known = self._parsed[name] = (oid, self._load(oid, status_path(service_path)) if oid else None)
        return known[1]

    def _load(self, oid: str, path: str) -> ServiceStatus | None:
        try:
            return load_as(ServiceStatus, objects.read_blob(self._reader, oid), path)
        except InvalidDocument:
            return None


def _service_path(path: str) -> str:
    return "services" + path.removeprefix(STATUS)
