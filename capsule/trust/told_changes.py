"""What reconcilers recorded on audit of the pull requests that changed documents, by the revision of main.

Rules kept: an attestation counts from the revision of main that audit had taken in when it was recorded, and
its folder names that revision: looking one up costs a few trees, however long audit is; what cannot be read,
or names another revision than its folder, says nothing. Called by mainline and the reconciler.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from capsule.documents import codec
from capsule.documents.paths import CHANGES, ChangeFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ChangeAttestation
from capsule.trust import objects
from capsule.trust.objects import BadObject, NotDescended, ObjectReader


class Told(Protocol):
    """What audit holds of the reviews of changes."""

    @property
    def tree(self) -> str | None:
        """The id of all of it; None where there is nothing."""
        ...

    def of(self, revision: str, above: int = 0) -> Mapping[int, ChangeAttestation]:
        """What was recorded while main was taken in up to `revision`, by rising number from `above` on."""
        ...


class ToldOnAudit:
    """What the commit `audit` holds; None stands for an audit that has not begun."""

    def __init__(self, reader: ObjectReader, audit: str | None) -> None:
        self._reader = reader
        self._audit = audit

    @cached_property
    def tree(self) -> str | None:
        """See Told.tree. Raises MissingObject."""
        if self._audit is None:
            return None
        try:
            top = objects.tree_of(objects.raw_commit(self._reader, self._audit))
            return objects.folder(self._reader, top, CHANGES)
        except BadObject:
            return None

    def of(self, revision: str, above: int = 0) -> Mapping[int, ChangeAttestation]:
        """See Told.of. Raises MissingObject."""
        if self.tree is None:
            return {}
        below = ChangeFolder(revision).records.removeprefix(f"{CHANGES}/")
        try:
            own = objects.folder(self._reader, self.tree, below)
            listed = objects.entries(self._reader, own) if own else ()
        except BadObject:
            return {}
        places = ((ChangeFolder.of(f"{CHANGES}/{below}/{entry.name}"), entry.oid) for entry in listed)
        numbers = {place[1]: oid for place, oid in places if place and place[1] > above}
        found = (
            (number, attestation_of(self._reader, revision, numbers[number])) for number in sorted(numbers)
        )
        return {number: told for number, told in found if told}


def attestation_of(reader: ObjectReader, revision: str, blob: str) -> ChangeAttestation | None:
    """The attestation with that blob id, where it is one that was recorded at `revision`."""
    try:
        found = codec.load_as(ChangeAttestation, objects.read_blob(reader, blob), CHANGES)
    except (BadObject, InvalidDocument):
        return None
    return found if found.spec.revision == revision else None


def told_since(reader: ObjectReader, old: str | None, new: str | None, before: str, tip: str) -> bool:
    """Whether what audit holds now (`new`, the id of all of it) beside what it held (`old`) bears on steps of
    main up to `before`, that is, is not only of `before` itself and of later steps up to `tip`.

    A tip that does not descend from `before` is judged as it is: what counts then is that it was rewound.
    """
    try:
        later = {before, *objects.first_parents(reader, tip, before)}
        return any(
            change.old is not None or (place is not None and place[0].revision not in later)
            for change in objects.changes(reader, old, new, CHANGES)
            for place in [ChangeFolder.of(change.path)]
        )
    except (BadObject, NotDescended):
        return False
