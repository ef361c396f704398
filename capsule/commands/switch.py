"""`capsule disable` and `capsule enable`: take traffic from services now, and give it back.

Rules kept: both are requests under rules of their own, at once where the rule asks for no approval; what a
person disabled holds until a merged document settles it, and what a document disabled is enabled by a
document alone. Called by the verbs of those names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from capsule.commands.errors import RefusedByPolicy
from capsule.commands.repository import Repository
from capsule.commands.request import Asked, Wish, request, resolve_targets
from capsule.commands.signing import Identity
from capsule.documents.types import Rollout

Switch = Literal["disable", "enable"]
_AT_ONCE = 1000
_LONGEST_WHY = 200
"""What agents take as the reason they show while they are disabled."""


def switch(
    repository: Repository,
    identity: Identity,
    action: Switch,
    reason: str,
    now: datetime,
    *,
    services: Sequence[str] = (),
    selector: Mapping[str, str] | None = None,
    at_most: int | None = None,
    expires_in: timedelta = timedelta(days=7),
    anyway: bool = False,
) -> Asked:
    """Ask for `action` on all of these services at the same time, whatever becomes of any one of them.

    Raises RefusedByPolicy (DisabledBySpec) for an `enable` that the service's document denies, and what
    `request` raises.
    """
    repository.refresh()
    wish = Wish(
        action=action,
        reason=reason,
        services=services,
        selector=selector or {},
        at_most=at_most,
        params={"reason": reason[:_LONGEST_WHY]},
        expires_in=expires_in,
        anyway=anyway,
    )
    targets = resolve_targets(repository.state, wish)
    if action == "enable":
        _refuse_against_documents(repository, targets)
    rollout = Rollout(parallel=min(len(targets), _AT_ONCE), on_failure="continue")
    return request(repository, identity, wish.of(targets, rollout), now)


def _refuse_against_documents(repository: Repository, targets: Sequence[str]) -> None:
    services = repository.state.services
    denied = next((name for name in targets if not services[name].document.spec.enabled), None)
    if denied:
        raise RefusedByPolicy(
            "DisabledBySpec",
            f"the document of {denied} says enabled: false, and a request does not outdo it",
            f"Change {services[denied].path} on a branch, and `capsule propose` it.",
        )
