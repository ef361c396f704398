"""Requests that go on from what is there already: cancel, abort, acknowledge, and asking anew for the rest.

Rules kept: each is a request of its own under the rules of its own action; the rest of a request is what was
never begun or ended badly: where nobody knows how it ended, a person looks first. Called by the verbs
`cancel`, `abort`, `acknowledge` and `request --continue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from capsule.commands.errors import CommandError, RefusedByPolicy, WrongUsage
from capsule.commands.recorded_status import recorded_status
from capsule.commands.repository import Repository
from capsule.commands.request import LONGEST_REASON, Asked, Wish, find_request, request, resolve_targets
from capsule.commands.signing import Identity
from capsule.documents.scalars import instant_text
from capsule.documents.types import ActionRequest
from capsule.lifecycle import FINAL, RequestRecords, request_phase
from capsule.trust.break_glass import acknowledging_teams, unfit_to_acknowledge
from capsule.trust.break_glass import broken as is_broken

CANCEL = "cancel"
ABORT = "abort"
ACKNOWLEDGE = "acknowledge"
CONDITIONS = ("CorrectionStopped", "KeyChangedOutsideCapsule")
"""Conditions that stay until a person acknowledges them."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What asking anew came to: the request, and the targets left out because nobody knows how they ended."""

    asked: Asked
    doubtful: tuple[str, ...]


def cancel(repository: Repository, identity: Identity, victim: str, reason: str, now: datetime) -> Asked:
    """Ask for the end of the request `victim`: what was ordered and not begun never will be.

    Raises WrongUsage when it is over.
    """
    return _end(repository, identity, CANCEL, victim, reason, now)


def abort(repository: Repository, identity: Identity, victim: str, reason: str, now: datetime) -> Asked:
    """Ask that nothing further of the request `victim` is begun; what runs goes on to its end.

    Raises WrongUsage when it is over.
    """
    return _end(repository, identity, ABORT, victim, reason, now)


def acknowledge(
    repository: Repository,
    identity: Identity,
    services: Sequence[str],
    condition: str,
    reason: str,
    now: datetime,
) -> Asked:
    """Ask that `condition` of the services, as it stands on record, is taken as known: one of CONDITIONS.

    The request names since when it stands, so that it covers nothing that happens before it is carried out.
    Raises WrongUsage.
    """
    if condition not in CONDITIONS:
        raise WrongUsage(
            "UnknownCondition",
            f"{condition} is not acknowledged: it goes when its cause goes",
            f"These wait for a person: {', '.join(CONDITIONS)}",
        )
    repository.refresh()
    wish = Wish(ACKNOWLEDGE, reason, services)
    since = _since(repository, resolve_targets(repository.state, wish), condition)
    params = {"condition": condition, "since": instant_text(since)}
    return request(repository, identity, replace(wish, params=params), now)


def _since(repository: Repository, services: Sequence[str], condition: str) -> datetime:
    """Since when the condition stands for all of these services, as audit records it. Raises WrongUsage."""
    found = {_began(repository, name, condition): name for name in services}
    if len(found) > 1:
        told = "; ".join(f"{name} since {instant_text(since)}" for since, name in sorted(found.items())[:3])
        raise WrongUsage(
            "SeenAtDifferentTimes",
            f"{condition} stands for {told}",
            "Acknowledge each by itself: a request names one time, and covers nothing else.",
        )
    return next(iter(found))


def _began(repository: Repository, service: str, condition: str) -> datetime:
    status = recorded_status(repository, service)
    for item in status.conditions if status else ():
        if item.type == condition:
            return item.since
    raise WrongUsage(
        "NothingToAcknowledge",
        f"{condition} does not stand for {service}, as last recorded",
        f"capsule show {service} tells what does",
    )


def acknowledge_glass(
    repository: Repository, identity: Identity, broken: str, reason: str, now: datetime
) -> Asked:
    """Say that a reviewer knows of the request `broken`, for which somebody broke the glass.

    Raises WrongUsage for a request that broke none, RefusedByPolicy for a person who may not.
    """
    repository.refresh()
    state, records = repository.state, repository.records().of(broken.removeprefix("request/"))
    claims = [item.claim.spec for item in records.operations.values() if item.claim] if records else []
    claims = [claim for claim in claims if is_broken(claim)]
    if not records or not claims:
        raise WrongUsage(
            "NothingToAcknowledge",
            f"nothing was begun without approvals in {broken!r}",
            "capsule requests shows what is marked break-glass",
        )
    present = [claim.service for claim in claims if claim.service in state.services]
    targets = present or sorted(state.services)[:1]
    wish = Wish(ACKNOWLEDGE, reason, targets, params={"request": records.name})
    problem = unfit_to_acknowledge(state, identity.principal, claims)
    if problem:
        may = ", ".join(acknowledging_teams(state, claims))
        raise RefusedByPolicy("NotToAcknowledge", problem, f"Somebody else of {may} types the same.")
    return request(repository, identity, wish, now)


def ask_for_rest(
    repository: Repository,
    identity: Identity,
    earlier: str,
    reason: str,
    expires_in: timedelta,
    now: datetime,
) -> Continued:
    """Ask anew for what `earlier` did not begin, or what failed: same action, parameters and rollout.

    Raises WrongUsage when it is not over yet, or when nothing is left of it.
    """
    repository.refresh()
    name, document = _document(repository, earlier)
    records = repository.records().of(name)
    _refuse_unfinished(repository, name, records)
    rest, doubtful = _rest(document, records)
    if not rest:
        raise WrongUsage("NothingToContinue", _why_nothing(name, doubtful), f"capsule show {name}")
    spec = document.spec
    wish = Wish(
        action=spec.action,
        reason=f"continues {name}: {reason or spec.reason}"[:LONGEST_REASON],
        services=rest,
        params=spec.params,
        expires_in=expires_in,
        rollout=spec.rollout,
    )
    return Continued(request(repository, identity, wish, now), doubtful)


def _end(
    repository: Repository, identity: Identity, action: str, victim: str, reason: str, now: datetime
) -> Asked:
    repository.refresh()
    name, document = _document(repository, victim)
    _refuse_finished(repository, name)
    wish = Wish(action, reason, document.spec.targets, params={"request": name})
    return request(repository, identity, wish, now)


def _document(repository: Repository, name: str) -> tuple[str, ActionRequest]:
    judged = find_request(repository, name)
    if judged.document is None:
        raise CommandError(
            "BadRequest", f"{judged.name} cannot be read: {judged.message}", f"capsule show {judged.name}"
        )
    return judged.name, judged.document


def _refuse_finished(repository: Repository, name: str) -> None:
    now = request_phase(find_request(repository, name), repository.records().of(name))
    if now.phase in FINAL:
        raise WrongUsage("AlreadyOver", f"{name} is over: {now.phase}", f"capsule show {name}")


def _refuse_unfinished(repository: Repository, name: str, records: RequestRecords | None) -> None:
    now = request_phase(find_request(repository, name), records)
    if now.phase not in FINAL:
        raise WrongUsage(
            "StillOpen",
            f"{name} is {now.phase}: {now.message or 'it may still go on'}",
            f"Wait for its end, or ask for it: capsule abort {name} --reason TEXT",
        )


def _rest(document: ActionRequest, records: RequestRecords | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The targets to ask for anew, and those of which nobody knows how they ended."""
    operations = records.operations if records else {}
    outcomes = {
        name: operation.result.spec.outcome if operation.result else "unknown"
        for name, operation in operations.items()
    }
    targets = document.spec.targets
    rest = tuple(name for name in targets if outcomes.get(name) not in ("succeeded", "unknown"))
    return rest, tuple(name for name in targets if outcomes.get(name) == "unknown")


def _why_nothing(name: str, doubtful: Sequence[str]) -> str:
    if doubtful:
        return f"nobody knows how {name} ended on {', '.join(doubtful)}: look there, then ask for it by name"
    return f"all of {name} succeeded"
