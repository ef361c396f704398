"""The words of a request whose branch is gone: audit took the branch in when it was claimed or refused.

Rules kept: a text counts only when it is, byte for byte, the one that the record names; first parents of
audit alone, newest first, so that the cost is how long ago it was. Called by ledger, commands and the web.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import RequestFolder
from capsule.documents.types import ActionRequest, RequestSpec
from capsule.trust.objects import (
    BadObject,
    MissingObject,
    NotDescended,
    ObjectReader,
    file_bytes,
    first_parents,
    parents_of,
    raw_commit,
    read_commit,
)
from capsule.view.model import RequestRow

_TRAILER = "\nCapsule-Request: {}\n"


def asked_in(
    reader: ObjectReader, commits: Iterable[str], place: RequestFolder, digest: str
) -> RequestSpec | None:
    """What the request at `place` with that digest asks for, if one of the `commits` holds it.

    Raises MissingObject.
    """
    for commit in commits:
        try:
            data = file_bytes(reader, read_commit(reader, commit).tree, place.request)
            if data is not None and bytes_digest(data) == digest:
                return load_as(ActionRequest, data, place.request).spec
        except (BadObject, InvalidDocument):
            continue
    return None


def with_words_on_audit(
    reader: ObjectReader, audit: str | None, root: str, row: RequestRow, search: int
) -> RequestRow:
    """The row of a request that is gone, with what it asked for where one of the newest `search` commits of
    audit took it in; any other row as it is, and so where audit cannot be read so far."""
    place = RequestFolder.of(row.path)
    if row.expires is not None or not row.digest or place is None or audit is None:
        return row
    told = islice(first_parents(reader, audit, root), search)
    try:
        asked = asked_in(reader, _taken_in(reader, told, row.name), place, row.digest)
    except (BadObject, MissingObject, NotDescended):
        return row  # a clone that ends here, or a damaged history: what is missing is not invented
    if asked is None:
        return row
    operations = tuple(replace(each, why=asked.reason, params=asked.params) for each in row.operations)
    return replace(
        row,
        action=asked.action,
        targets=asked.targets,
        params=asked.params,
        requested_by=asked.requested_by,
        why=asked.reason,
        expires=asked.expires,
        not_before=asked.not_before,
        parallel=asked.rollout.parallel,
        on_failure=asked.rollout.on_failure,
        operations=operations,
    )


def _taken_in(reader: ObjectReader, commits: Iterable[str], request: str) -> Iterator[str]:
    """What the commits that tell of the request have for parents beside the first: main, and branches."""
    trailer = _TRAILER.format(request).encode()
    for commit in commits:
        data = raw_commit(reader, commit)
        if trailer in data:
            yield from parents_of(data)[1:]
