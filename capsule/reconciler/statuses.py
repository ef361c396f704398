"""The statuses on record: read from audit once, then only where it changed. Called by the reconciler."""

from __future__ import annotations

import logging
from datetime import datetime

from capsule.decide import LastChange, SetStatus, status_change
from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import STATUS, status_path
from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Observation, Records
from capsule.reconciler.clock import Clock
from capsule.trust.objects import ObjectReader, find, parse_commit
from capsule.trust.state import MainState

log = logging.getLogger("capsule.reconciler")
HEALTH_CHECK = "runHealthCheck"


class Statuses:
    """What audit says of each service, and what would change."""

    def __init__(self, reader: ObjectReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._parsed: dict[str, ServiceStatus | None] = {}
        self._seen: dict[str, tuple[object, ...]] = {}
        self._last: dict[str, LastChange] = {}
        self._last_tree: str | None = None

    def changes(
        self, state: MainState, audit: str | None, observations: dict[str, Observation], records: Records
    ) -> list[SetStatus]:
        """The material changes since what audit records."""
        tree = parse_commit(self._reader.read(audit)[1]).tree if audit else None
        folder = find(self._reader, tree, STATUS) if tree else None
        if records.tree != self._last_tree:
            self._last, self._last_tree = _last_changes(records), records.tree
        found = []
        for name, service in sorted(state.services.items()):
            seen = observations.get(name)
            last = self._last.get(name)
            basis = (service.digest, seen, folder, state.signers, last)
            if self._seen.get(name) == basis:
                continue
            before = self._before(tree, status_path(service.path))
            try:
                change = status_change(state, service, seen, before, self._clock.now(), last)
            except ValueError as error:  # one report that fits no status stops only its own service
                log.warning("the report of %s cannot be recorded: %s", name, type(error).__name__)
                self._seen[name] = basis
                continue
            if change:
                found.append(change)
            else:
                self._seen[name] = basis
        return found

    def _before(self, tree: str | None, path: str) -> ServiceStatus | None:
        entry = find(self._reader, tree, path) if tree else None
        if entry is None:
            return None
        if entry.oid not in self._parsed:
            try:
                self._parsed[entry.oid] = load_as(ServiceStatus, self._reader.read(entry.oid)[1], path)
            except InvalidDocument:
                self._parsed[entry.oid] = None
        return self._parsed[entry.oid]


def _last_changes(records: Records) -> dict[str, LastChange]:
    """The last operation on each service that may change a value: its id, or that one is under way."""
    latest: dict[str, tuple[datetime, LastChange]] = {}
    for request in records.all():
        for operation in request.operations.values():
            if not operation.claims or operation.claims[-1].spec.action == HEALTH_CHECK:
                continue
            spec = operation.claims[-1].spec
            ended = operation.result.spec.recorded_at if operation.result else None
            when = ended or spec.claimed_at
            known = latest.get(operation.service)
            if known is None or when >= known[0]:
                latest[operation.service] = (when, LastChange(spec.op_id, ended))
    return {name: change for name, (_, change) in latest.items()}
