"""Attestations of changes proved against main as it was in force when they were recorded.

Rules kept: each lies in the folder of the revision that its commit observed, names that revision, and follows
the one before; it is about changes that waited there for reviews; what the forge said is its word for it, as
the machine signed. Called by records.
"""

from __future__ import annotations

from capsule.documents import codec
from capsule.documents.paths import CHANGES, RECORDS, ChangeFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ChangeAttestation
from capsule.trust import objects
from capsule.trust.change_reviews import NAME
from capsule.trust.objects import ObjectReader
from capsule.trust.policy import is_machine
from capsule.trust.record_checks import BadRecord, Batch, check_equal
from capsule.trust.state import PendingChange
from capsule.trust.story import Said, check_time


def is_of_change(path: str) -> bool:
    """Whether a record is about changes of documents, and not about a request or a service."""
    return path.startswith(f"{CHANGES}/")


def judge_change_records(reader: ObjectReader, batch: Batch, said: Said) -> tuple[ChangeAttestation, ...]:
    """Those that a commit adds, in their order. Raises BadRecord, BadStory, BadObject."""
    added: dict[int, str] = {}
    for path in filter(is_of_change, batch.added):
        place = ChangeFolder.of(path)
        if place is None:
            raise BadRecord("UnexpectedRecord", f"{path} is no record")
        check_equal("AttestationMismatch", ("the revision of its folder", place[0].revision, batch.revision))
        added[place[1]] = path
    last = _last(reader, batch) if added else 0
    if sorted(added) != list(range(last + 1, last + 1 + len(added))):
        numbers = ", ".join(map(str, sorted(added)))
        raise BadRecord("AttestationMismatch", f"attestations {numbers} of changes follow number {last}")
    found = []
    for number in sorted(added):
        told = _load(reader, batch.added[added[number]], added[number])
        _check(told, batch)
        said.change_attestation(told)
        found.append(told)
    return tuple(found)


def _last(reader: ObjectReader, batch: Batch) -> int:
    """The highest number recorded before this commit at its revision."""
    folder = ChangeFolder(batch.revision)
    own = objects.folder(reader, batch.before, folder.records.removeprefix(f"{RECORDS}/"))
    listed = objects.entries(reader, own) if own else ()
    places = (ChangeFolder.of(f"{folder.records}/{entry.name}") for entry in listed)
    return max((place[1] for place in places if place), default=0)


def _load(reader: ObjectReader, blob: str, path: str) -> ChangeAttestation:
    try:
        return codec.load_as(ChangeAttestation, objects.read_blob(reader, blob), path)
    except InvalidDocument as error:
        raise BadRecord("InvalidRecord", str(error)) from None


def _check(told: ChangeAttestation, batch: Batch) -> None:
    spec = told.spec
    check_equal(
        "AttestationMismatch",
        ("name", told.metadata.name, NAME),
        ("revision", spec.revision, batch.revision),
        ("reconciler", spec.reconciler, batch.signer),
    )
    if not is_machine(batch.state.policy.document, batch.signer):
        raise BadRecord("AttestationMismatch", f"{batch.signer} is no machine of the policy any more")
    waiting = {change.path: change for change in batch.state.pending}
    for path in spec.paths:
        if not _waits(waiting.get(path), spec.steps):
            raise BadRecord("AttestationMismatch", f"no change of {path} by these steps waited for reviews")
    check_time("observedAt", spec.observed_at, batch.info)


def _waits(change: PendingChange | None, steps: tuple[str, ...]) -> bool:
    return change is not None and change.takes_reviews and change.since in steps
