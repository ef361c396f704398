"""What the agents of a request's targets offered when last looked at: a slip of the pen shows early.

Rules kept: only a warning: an agent may have been deployed anew since, and the reconciler asks it before it
claims anything. Called by request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from capsule.commands.repository import Repository
from capsule.documents.codec import InvalidDocument, load_as
from capsule.documents.paths import status_path
from capsule.documents.types import ServiceStatus
from capsule.trust.objects import BadObject, MissingObject, file_bytes, read_commit

_NO_AGENT = frozenset({"cancel", "abort", "acknowledge", "resolve", "resume"})


@dataclass(frozen=True, slots=True)
class NotOffered:
    """A target whose agent did not offer the action: what it offered, and the name that was perhaps meant.
    Nothing is offered by a service without an agent key: it is only observed."""

    service: str
    offered: tuple[str, ...]
    meant: str | None


def not_offered(repository: Repository, action: str, targets: Sequence[str]) -> tuple[NotOffered, ...]:
    """The targets that would be refused as far as their statuses on record say."""
    if action in _NO_AGENT:
        return ()
    services = repository.state.services
    keyless = [name for name in targets if services[name].document.spec.agent.key is None]
    others = [name for name in targets if name not in keyless]
    return (
        *(NotOffered(name, (), None) for name in keyless),
        *_not_offered_when_last_seen(repository, action, others),
    )


def _not_offered_when_last_seen(
    repository: Repository, action: str, targets: Sequence[str]
) -> tuple[NotOffered, ...]:
    audit = repository.audit
    if audit is None:
        return ()
    try:
        tree = read_commit(repository.store, audit).tree
        found = ((name, _offered(repository, tree, name)) for name in targets)
        return tuple(
            NotOffered(name, offered, next(iter(get_close_matches(action, offered, n=1)), None))
            for name, offered in found
            if offered and action not in offered
        )
    except (BadObject, MissingObject):
        return ()


def _offered(repository: Repository, tree: str, service: str) -> tuple[str, ...]:
    path = status_path(repository.state.services[service].path)
    data = file_bytes(repository.store, tree, path)
    try:
        return load_as(ServiceStatus, data, path).spec.actions if data else ()
    except InvalidDocument:
        return ()
