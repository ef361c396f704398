"""The status of a service as audit records it now. Called by the verbs that warn by it or rest on it.

Rules kept: it is what a reconciler saw, not what is; what cannot be read counts as nothing seen.
"""

from __future__ import annotations

from capsule.commands.repository import Repository
from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import status_path
from capsule.documents.types import ServiceStatus, StatusSpec
from capsule.trust.objects import BadObject, MissingObject, file_bytes, read_commit


def recorded_status(repository: Repository, service: str) -> StatusSpec | None:
    """What is on record of the service, which must be in force; None where nothing (readable) is."""
    audit = repository.audit
    if audit is None:
        return None
    path = status_path(repository.state.services[service].path)
    try:
        data = file_bytes(repository.store, read_commit(repository.store, audit).tree, path)
        return load_as(ServiceStatus, data, path).spec if data else None
    except (BadObject, MissingObject, InvalidDocument):
        return None
