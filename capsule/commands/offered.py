"""What the agents of a request's targets offered when last looked at: a slip of the pen shows early.

Rules kept: only a warning: an agent may have been deployed anew since, or be no Python one, and the
reconciler asks it before it claims anything. Called by request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from capsule.commands.recorded_status import recorded_status
from capsule.commands.repository import Repository
from capsule.documents.scalars import parse_duration
from capsule.documents.types import Scalar

_TAKES = {
    "rotateKey": ("grace",),
    "runHealthCheck": (),
    "disable": ("reason",),
    "enable": ("reason",),
}
"""The parameters of the actions that every agent has: those that are an adapter's own are not on record."""
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


def unfit_params(action: str, params: Mapping[str, Scalar]) -> str:
    """What is wrong with the parameters of an action that every agent has; empty for none, and for others."""
    taken = _TAKES.get(action)
    if taken is None:
        return ""
    for name in params:
        if name not in taken:
            near = next(iter(get_close_matches(name, taken, n=1)), None)
            meant = f"; did you mean {near}?" if near else ""
            return f"{action} takes {' and '.join(taken) or 'no parameter'}, not {name}{meant}"
    if "grace" in params and not _is_duration(params["grace"]):
        return f"grace={params['grace']} is no duration, such as 24h, 90m or 0s"
    return ""


def _is_duration(value: Scalar) -> bool:
    try:
        parse_duration(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


def _not_offered_when_last_seen(
    repository: Repository, action: str, targets: Sequence[str]
) -> tuple[NotOffered, ...]:
    found = ((name, _offered(repository, name)) for name in targets)
    return tuple(
        NotOffered(name, offered, next(iter(get_close_matches(action, offered, n=1)), None))
        for name, offered in found
        if offered and action not in offered
    )


def _offered(repository: Repository, service: str) -> tuple[str, ...]:
    status = recorded_status(repository, service)
    return status.actions if status else ()
