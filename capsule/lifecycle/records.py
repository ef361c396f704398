"""What reconcilers have recorded of each request, read from a revision of audit.

Rules kept: pure; a folder whose tree is unchanged is not read again; a record that cannot be read is
kept as damage and never hides its neighbours (`capsule audit verify` names the commit). Called by decide
and view through `read_records`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import CHANGES, DESIRED, RECORDS, RequestFolder, StateFolder
from capsule.documents.types import Attestation, Claim, Refusal, Result, StateOrder, StateResult
from capsule.trust.objects import ObjectReader, entries, files, find, parse_commit

DESIRED_FOLDER = DESIRED.rpartition("/")[2]
CHANGES_FOLDER = CHANGES.rpartition("/")[2]
"""What forges said of changes of documents: it bears on main, so trust reads it."""
_CLAIM = re.compile(r"^claim-[1-9][0-9]{0,5}\.yaml$")
_ATTESTATION = re.compile(r"^attestation-([1-9][0-9]{0,8})\.yaml$")


@dataclass(frozen=True)
class OperationRecord:
    """One action on one service: its claims by rising attempt, and what became of it."""

    service: str
    claims: tuple[Claim, ...] = ()
    result: Result | None = None

    @property
    def claim(self) -> Claim | None:
        """The claim with the highest attempt."""
        return self.claims[-1] if self.claims else None

    @property
    def running(self) -> bool:
        """Claimed, with no result yet."""
        return bool(self.claims) and self.result is None


@dataclass(frozen=True)
class StateOperation:
    """One desired-state order of a service, and what became of it."""

    service: str
    generation: int
    order: StateOrder
    result: StateResult | None = None


@dataclass(frozen=True)
class StateRecords:
    """All desired-state orders of one service, by rising generation, as long as its tree is `tree`."""

    tree: str
    operations: tuple[StateOperation, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestRecords:
    """All records of one request."""

    folder: RequestFolder
    tree: str
    operations: Mapping[str, OperationRecord] = field(default_factory=dict)
    refusal: Refusal | None = None
    damaged: tuple[str, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    """What a forge said of the request's reviews, oldest first; the last one is judged."""

    @property
    def name(self) -> str:
        """The name of the request."""
        return self.folder.name

    @property
    def claimed(self) -> bool:
        """Whether any order may have left: from then on the request's name is spent."""
        return any(operation.claims for operation in self.operations.values())


@dataclass(frozen=True)
class Month:
    """The request folders of one month, as long as its tree is `tree`."""

    tree: str
    requests: Mapping[str, RequestRecords]

    @cached_property
    def attestations(self) -> Mapping[str, tuple[Attestation, ...]]:
        """What forges said of the reviews of each request, by its name."""
        return {name: each.attestations for name, each in self.requests.items() if each.attestations}

    @cached_property
    def begun(self) -> Mapping[str, Collection[str]]:
        """The targets of each request that were claimed or carried out, where any order may have left."""
        return {name: tuple(each.operations) for name, each in self.requests.items() if each.claimed}

    @cached_property
    def running(self) -> tuple[tuple[RequestRecords, OperationRecord], ...]:
        """Every operation that is claimed and has no result."""
        return tuple(
            (request, operation)
            for request in self.requests.values()
            for operation in request.operations.values()
            if operation.running
        )


@dataclass(frozen=True)
class Records:
    """All records at one revision of audit."""

    tree: str | None = None
    months: Mapping[str, Month] = field(default_factory=dict)
    desired: Mapping[str, StateRecords] = field(default_factory=dict)
    desired_tree: str | None = None

    def state_operations(self, service: str) -> tuple[StateOperation, ...]:
        """The desired-state orders of `service`, by rising generation."""
        known = self.desired.get(service)
        return known.operations if known else ()

    def of(self, request: str) -> RequestRecords | None:
        """The records of `request`, if there are any."""
        found = (month.requests.get(request) for month in self.months.values())
        return next((records for records in found if records), None)

    def all(self) -> Iterator[RequestRecords]:
        """The records of every request, oldest month first."""
        for name in sorted(self.months):
            yield from self.months[name].requests.values()

    def attestations(self) -> dict[str, tuple[Attestation, ...]]:
        """What forges said of the reviews of each request, by its name."""
        return {name: told for month in self.months.values() for name, told in month.attestations.items()}

    @cached_property
    def begun(self) -> Mapping[str, Collection[str]]:
        """The targets of each request that were claimed, where any order may have left, by its name."""
        return {name: targets for month in self.months.values() for name, targets in month.begun.items()}

    def running(self) -> Iterator[tuple[RequestRecords, OperationRecord]]:
        """Every operation that is claimed and has no result."""
        for name in sorted(self.months):
            yield from self.months[name].running


def read_records(reader: ObjectReader, audit: str | None, known: Records | None = None) -> Records:
    """The records below the audit commit `audit`; what `known` already holds unchanged is reused."""
    known = known or Records()
    entry = find(reader, parse_commit(reader.read(audit)[1]).tree, RECORDS) if audit else None
    if entry is None:
        return Records()
    if entry.oid == known.tree:
        return known
    months: dict[str, Month] = {}
    desired, desired_tree = known.desired, known.desired_tree
    for year in entries(reader, entry.oid):
        if year.name == CHANGES_FOLDER:
            continue
        if year.name == DESIRED_FOLDER:
            if year.oid != desired_tree:
                desired, desired_tree = _read_desired(reader, year.oid, desired), year.oid
            continue
        for month in entries(reader, year.oid):
            name = f"{year.name}/{month.name}"
            old = known.months.get(name)
            unchanged = old is not None and old.tree == month.oid
            months[name] = old if old and unchanged else _read_month(reader, name, month.oid, old)
    return Records(entry.oid, months, desired, desired_tree)


def _read_desired(
    reader: ObjectReader, tree: str, known: Mapping[str, StateRecords]
) -> Mapping[str, StateRecords]:
    found: dict[str, StateRecords] = {}
    for entry in entries(reader, tree):
        old = known.get(entry.name)
        unchanged = old is not None and old.tree == entry.oid
        found[entry.name] = old if old and unchanged else _read_service(reader, entry.name, entry.oid)
    return found


def _read_service(reader: ObjectReader, service: str, tree: str) -> StateRecords:
    orders: dict[int, StateOrder] = {}
    results: dict[int, StateResult] = {}
    damaged: list[str] = []
    for path, entry in files(reader, tree):
        whole = f"{DESIRED}/{service}/{path}"
        folder = StateFolder.of(whole)
        if folder is None or path.endswith((".json", ".sig")):
            continue
        try:
            if path.endswith("/order.yaml"):
                orders[folder.generation] = load_as(StateOrder, reader.read(entry.oid)[1], whole)
            else:
                results[folder.generation] = load_as(StateResult, reader.read(entry.oid)[1], whole)
        except InvalidDocument:
            damaged.append(whole)
    operations = tuple(
        StateOperation(service, generation, orders[generation], results.get(generation))
        for generation in sorted(orders)
    )
    return StateRecords(tree, operations, tuple(damaged))


def _read_month(reader: ObjectReader, name: str, tree: str, known: Month | None) -> Month:
    requests: dict[str, RequestRecords] = {}
    for entry in entries(reader, tree):
        old = known.requests.get(entry.name) if known else None
        unchanged = old is not None and old.tree == entry.oid
        folder = RequestFolder(name, entry.name)
        requests[entry.name] = old if old and unchanged else _read_request(reader, folder, entry.oid)
    return Month(tree, requests)


def _read_request(reader: ObjectReader, folder: RequestFolder, tree: str) -> RequestRecords:
    refusal: Refusal | None = None
    damaged: list[str] = []
    claims: dict[str, list[Claim]] = {}
    results: dict[str, Result] = {}
    attestations: dict[int, Attestation] = {}
    for path, entry in files(reader, tree):
        service, _, name = path.rpartition("/")
        data = reader.read(entry.oid)[1]
        try:
            if not service and name == "refusal.yaml":
                refusal = load_as(Refusal, data, path)
            elif not service and (match := _ATTESTATION.match(name)):
                attestations[int(match[1])] = load_as(Attestation, data, path)
            elif service and _CLAIM.match(name):
                claims.setdefault(service, []).append(load_as(Claim, data, path))
            elif service and name == "result.yaml":
                results[service] = load_as(Result, data, path)
        except InvalidDocument:
            damaged.append(f"{folder.records}/{path}")
    operations = {
        service: OperationRecord(
            service,
            tuple(sorted(claims.get(service, ()), key=lambda claim: claim.spec.attempt)),
            results.get(service),
        )
        for service in sorted(claims.keys() | results.keys())
    }
    told = tuple(attestations[number] for number in sorted(attestations))
    return RequestRecords(folder, tree, operations, refusal, tuple(damaged), told)
