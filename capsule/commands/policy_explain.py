"""`capsule policy explain`: why a request is where it is, target by target, and what would move it on.

Rules kept: the rule, the approvals and their reasons are those that trust found; nothing is judged here.
Called by the verb.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from capsule.commands.policy_words import rule_words
from capsule.commands.reads import look
from capsule.commands.repository import Repository
from capsule.commands.request import find_request
from capsule.documents.types import Policy, Rule
from capsule.trust.freezes import freeze_in_force
from capsule.trust.policy import people, rule_for_action
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.model import ApprovalRow, MissingRow, RequestRow


@dataclass(frozen=True, slots=True)
class TargetExplained:
    """What decides about one target: the rule by its number (None: none is about it) and in words, who may
    still approve under it, and a freeze that holds it."""

    service: str
    rule: int | None
    words: str
    may_approve: tuple[str, ...]
    frozen_until: datetime | None = None
    frozen_why: str = ""


@dataclass(frozen=True, slots=True)
class RequestExplained:
    """Why a request is in its phase."""

    name: str
    phase: str
    reason: str
    message: str
    requested_by: str
    evidence: str
    targets: tuple[TargetExplained, ...]
    approvals: tuple[ApprovalRow, ...]
    missing: tuple[MissingRow, ...]
    holds: tuple[str, ...]
    next_step: str


def explain(repository: Repository, name: str, now: datetime) -> RequestExplained:
    """Why the request `name` is where it is. Raises WrongUsage for one that does not exist."""
    judged = find_request(repository, name)
    row = next(row for row in look(repository, now).requests if row.name == judged.name)
    spec = judged.document.spec if judged.document else None
    targets = tuple(
        _target(repository.state, judged, target, now) for target in (spec.targets if spec else ())
    )
    return RequestExplained(
        judged.name,
        row.phase,
        row.reason,
        row.message,
        row.requested_by,
        row.evidence,
        targets,
        row.approvals,
        row.missing,
        tuple(_holds(repository.state, judged, now)),
        _next_step(judged, row),
    )


def _target(state: MainState, judged: JudgedRequest, name: str, now: datetime) -> TargetExplained:
    assert judged.document is not None  # only a request that can be read has targets
    policy, spec = state.policy.document, judged.document.spec
    service = state.services.get(name)
    if service is None:
        return TargetExplained(name, None, "the service is not in force", ())
    labels = service.document.metadata.labels
    rule = judged.rules.get(name) or rule_for_action(policy, spec.action, labels)
    if rule is None:
        return TargetExplained(name, None, f"refused: no rule is about {spec.action} on it", ())
    frozen = freeze_in_force(policy, labels, spec.requested_by, now)
    given = {each.principal for each in judged.approvals if each.counts}
    return TargetExplained(
        name,
        _number(policy, rule),
        rule_words(rule),
        tuple(sorted(people(policy, (each.team for each in rule.approvals)) - given - {spec.requested_by})),
        frozen[0] if frozen else None,
        frozen[1].reason if frozen else "",
    )


def _number(policy: Policy, rule: Rule) -> int:
    return next(at for at, each in enumerate(policy.spec.rules, 1) if each == rule)


def _holds(state: MainState, judged: JudgedRequest, now: datetime) -> list[str]:
    spec = judged.document.spec if judged.document else None
    found = [f"main is suspended: {state.suspended.message}"] if state.suspended else []
    if spec and spec.not_before and spec.not_before > now:
        found.append(f"not before {spec.not_before:%Y-%m-%d %H:%M} UTC")
    if spec and spec.expires <= now:
        found.append(f"expired {spec.expires:%Y-%m-%d %H:%M} UTC")
    if judged.reason == "AwaitsMerge":
        found.append(f"request/{judged.name} is not merged into main")
    return found


def _next_step(judged: JudgedRequest, row: RequestRow) -> str:
    if row.phase == "Proposed" and judged.missing:
        return f"a person who may approve types: capsule approve {judged.name}"
    if judged.reason == "AwaitsMerge":
        return f"merge request/{judged.name}"
    if row.phase in ("Approved", "Held"):
        return "capsule plan says what the next pass does"
    if row.phase in ("Rejected", "Expired", "Cancelled"):
        return "ask anew: capsule request"
    return f"capsule show {judged.name}"
