"""The rotations that fall due and that this reconciler asks for by itself.

Rules kept: pure; a proposal is made once for each due date, never while one for the service is open, and only
under a rule that names this machine and asks at least one person for approval; whoever takes its name, on a
branch or with a request for something else, only makes it take the next one. Called by requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count

from capsule.decide.effects import Propose
from capsule.decide.keys import key_created, key_due
from capsule.decide.open import finished
from capsule.decide.world import World
from capsule.documents.types import ActionRequest, Policy, Service
from capsule.lifecycle import Observation, Records
from capsule.trust.policy import is_machine, may_request, rule_for_action
from capsule.trust.state import InForce, JudgedRequest
from capsule_agent.protocol.messages import instant_text

ROTATE = "rotateKey"
LONGEST_CUT = 40
"""Most letters of the service in a request's name: 8 + 8 + 40 + 1 + 6 are 63, the most a DNS label has."""


def proposal_name(service: str, due: datetime, again: int = 0) -> str:
    """The name of the request for a rotation: one for each service and due date, whoever asks. `again`: so
    many names before it were taken by something else."""
    about = f"{service}|{instant_text(due)}" + (f"|{again}" if again else "")
    mark = hashlib.sha256(about.encode()).hexdigest()[:6]
    return f"{_day(due)}-rotate-{service[:LONGEST_CUT]}-{mark}"


def proposals(world: World) -> tuple[Propose, ...]:
    """The rotations to ask for now."""
    if world.state.suspended:
        return ()
    wanted = [
        found
        for name in world.converging()
        if (found := _falls_due(world.state.services[name], world.observations.get(name), world.now))
        and _may_ask(world.state.policy.document, found.service.document, world.reconciler)
    ]
    if not wanted:
        return ()
    asked = _asked_already(world.requests, world.records, world.now) | _had(world, wanted)
    return tuple(
        replace(each, name=_free_name(world, each))
        for each in wanted
        if each.service.document.metadata.name not in asked
    )


def _had(world: World, wanted: Sequence[Propose]) -> frozenset[str]:
    """The services for which a machine asked before, for this due date: people's answer to that holds."""
    made = {
        (judged.document.spec.targets[0], judged.name[:8])
        for judged in world.requests.values()
        if judged.document is not None and _is_proposal(world.state.policy.document, judged, judged.document)
    }
    services = ((each.service.document.metadata.name, each) for each in wanted)
    return frozenset(
        name
        for name, each in services
        if (name, _day(each.due)) in made
        or (each.name not in world.requests and world.records.of(each.name) is not None)
    )


def _is_proposal(policy: Policy, judged: JudgedRequest, document: ActionRequest) -> bool:
    """Whether a machine of the policy asked for the rotation of one service, and signed that."""
    spec = document.spec
    if judged.reason in ("RequestUnsigned", "BadSignature") or not is_machine(policy, spec.requested_by):
        return False
    return spec.action == ROTATE and len(spec.targets) == 1


def _free_name(world: World, propose: Propose) -> str:
    """The first name under which nothing lies: neither a request, nor a record, nor a branch of any kind."""
    service = propose.service.document.metadata.name
    names = (proposal_name(service, propose.due, again) for again in count())
    return next(
        name
        for name in names
        if name not in world.requests and name not in world.taken and world.records.of(name) is None
    )


def _day(due: datetime) -> str:
    return f"{due:%Y%m%d}"


def _falls_due(service: InForce[Service], seen: Observation | None, now: datetime) -> Propose | None:
    rotation, report = service.document.spec.rotation, seen.report if seen else None
    if rotation is None or rotation.propose is None or report is None:
        return None
    due = key_due(key_created(report), rotation.every)
    if due is None or due - now > rotation.propose:
        return None
    if service.document.spec.agent.key is None or report.observe:
        return None
    if ROTATE not in {action.name for action in report.actions}:
        return None
    return Propose(service, proposal_name(service.document.metadata.name, due), due)


def _may_ask(policy: Policy, service: Service, machine: str) -> bool:
    """Whether a rule names this machine among those who may ask, and asks for people's approval."""
    rule = rule_for_action(policy, ROTATE, service.metadata.labels)
    return rule is not None and bool(rule.approvals) and may_request(policy, rule, machine)


def _asked_already(requests: Mapping[str, JudgedRequest], records: Records, now: datetime) -> frozenset[str]:
    """The services that an open request for a rotation names."""
    names: set[str] = set()
    for judged in requests.values():
        document = judged.document
        if (
            document is None
            or document.spec.action != ROTATE
            or judged.verdict not in ("approved", "proposed")
        ):
            continue
        known = records.of(judged.name)
        running = known is not None and any(item.running for item in known.operations.values())
        if running or (document.spec.expires > now and not finished(judged, known)):
            names.update(document.spec.targets)
    return frozenset(names)
