"""Which operations to begin, to ask about, to refuse, to cancel, to hold.

Rules kept: pure; an operation begins only on an approved request, once, with every condition of the
design checked in one place (`_obstacle`); what is already claimed goes on whatever happens to its
request. Called by plan and the reconciler with the same World.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from capsule.decide.effects import Ask, Begin, Cancel, Decision, Effect, Hold, Refuse
from capsule.documents.types import Claim, Service
from capsule.lifecycle import Observation, Records, RequestRecords
from capsule.lifecycle.phase import may_continue
from capsule.trust.policy import frozen_until
from capsule.trust.state import InForce, JudgedRequest, MainState
from capsule_agent.protocol.messages import operation_id

CANCEL = "cancel"

REASONS: dict[str, str] = {
    "RejectedByReviewer": "A person whose approval the rule asks for signed a rejection.",
    "Expired": "The request's `expires` passed before it was approved and begun.",
    "ChangedAfterClaim": "The request was edited after its first claim; its name is spent, ask anew.",
    "Suspended": "Main is suspended: nothing is acted on until a person mends it.",
    "NotBefore": "The request's `notBefore` lies in the future.",
    "Frozen": "A freeze window of the policy covers the service.",
    "ServiceBusy": "Another operation on the same service has no result yet.",
    "ServiceGone": "The service is no longer in force.",
    "RolloutWindow": "As many targets as `rollout.parallel` allows are under way.",
    "AgentNotSeen": "The agent has not answered this reconciler yet.",
    "AgentNotReachable": "The agent does not answer now; the request waits until it does, or expires.",
    "ObserveOnly": "The service has no agent key, or its agent runs in observe mode: it accepts no orders.",
    "UnknownAction": "The agent offers no action of that name.",
    "QuarantinedRequest": "The request made three passes fail; a person must look at it.",
    "CancelledByRequest": "An approved `cancel` request ended it.",
    "CancelTargets": "A `cancel` is authorised on its own targets, so it must name all those of its victim.",
    "NothingToCancel": "The request named by `cancel` does not exist or is already finished.",
}


@dataclass(frozen=True)
class World:
    """Everything a decision depends on. `lost_leases` are claims of others, silent for longer than the
    lease by this observer's own monotonic clock; `reconciler` is our own principal name."""

    state: MainState
    requests: Mapping[str, JudgedRequest]
    records: Records
    now: datetime
    reconciler: str
    observations: Mapping[str, Observation] = field(default_factory=dict)
    lost_leases: frozenset[tuple[str, str]] = frozenset()
    quarantined: frozenset[str] = frozenset()


def decide(world: World) -> Decision:
    """The effects of one pass, in the order of the requests' names: the same world, the same decision."""
    effects: list[Effect] = list(_claimed(world))
    busy = {operation.service for _, operation in world.records.running()}
    for name in sorted(world.requests):
        for effect in _request(world, world.requests[name], busy):
            if isinstance(effect, Begin):
                busy.add(effect.service.document.metadata.name)
            effects.append(effect)
    ended = {item.victim.name for item in effects if isinstance(item, Cancel)}
    return Decision(
        begin=tuple(item for item in effects if isinstance(item, Begin) and item.request.name not in ended),
        ask=tuple(item for item in effects if isinstance(item, Ask)),
        refuse=tuple(item for item in effects if isinstance(item, Refuse)),
        cancel=tuple(item for item in effects if isinstance(item, Cancel)),
        hold=tuple(item for item in effects if isinstance(item, Hold)),
    )


def _claimed(world: World) -> Iterator[Effect]:
    """What is claimed and has no result: ours is asked about, a silent other's is taken over."""
    for request, operation in world.records.running():
        claim = operation.claims[-1]
        service = world.state.services.get(operation.service)
        if service is None:
            continue
        judged = world.requests.get(request.name)
        if claim.spec.reconciler == world.reconciler:
            yield Ask(judged, service, claim)
        elif judged and _may_take_over(world, judged, claim):
            yield Begin(judged, service, claim.spec.op_id, claim.spec.attempt + 1, takeover=True)


def _may_take_over(world: World, judged: JudgedRequest, claim: Claim) -> bool:
    """Its lease has run out, the request is the one that was claimed, and main lets anybody act at all."""
    lost = (claim.spec.request, claim.spec.service) in world.lost_leases
    return lost and judged.digest == claim.spec.request_digest and not world.state.suspended


def _request(world: World, judged: JudgedRequest, busy: set[str]) -> Iterator[Effect]:
    records = world.records.of(judged.name)
    if _finished(judged, records):
        return
    ending = _ending(world, judged, records)
    if ending:
        yield ending
    elif judged.verdict == "approved" and judged.document:
        hold = _whole_request_waits(world, judged)
        if hold:
            yield hold
        elif judged.document.spec.action == CANCEL:
            yield _cancel(world, judged)
        else:
            yield from _targets(world, judged, records, busy)


def _finished(judged: JudgedRequest, records: RequestRecords | None) -> bool:
    if records is None:
        return False
    if records.refusal:
        return True
    done = {name for name, operation in records.operations.items() if operation.result}
    if judged.document is None:
        return records.claimed
    if set(judged.document.spec.targets) <= done:
        return True
    return not may_continue(judged, records)


def _ending(world: World, judged: JudgedRequest, records: RequestRecords | None) -> Refuse | None:
    """A refusal to record now. A request on a branch of its own may still be edited: it is left alone."""
    if records and (_edited_since_claim(judged, records) or _moved(judged, records)):
        return Refuse(judged, "Cancelled", "ChangedAfterClaim", REASONS["ChangedAfterClaim"])
    if judged.verdict == "rejected":
        return Refuse(judged, "Rejected", judged.reason or "RejectedByReviewer", judged.message)
    if judged.source == "branch" and judged.verdict != "approved":
        return None
    if judged.document and judged.document.spec.expires <= world.now:
        return Refuse(
            judged, "Expired", "Expired", f"expired {judged.document.spec.expires:%Y-%m-%d %H:%M} UTC"
        )
    if judged.verdict == "refused":
        expired = judged.reason == "Expired"
        return Refuse(judged, "Expired" if expired else "Rejected", judged.reason, judged.message)
    return None


def _edited_since_claim(judged: JudgedRequest, records: RequestRecords) -> bool:
    claims = [operation.claims[0] for operation in records.operations.values() if operation.claims]
    return any(claim.spec.request_digest != judged.digest for claim in claims)


def _moved(judged: JudgedRequest, records: RequestRecords) -> bool:
    return judged.path != records.folder.request


def _whole_request_waits(world: World, judged: JudgedRequest) -> Hold | None:
    assert judged.document is not None  # the caller looked
    spec = judged.document.spec
    if judged.name in world.quarantined:
        return Hold(judged, "QuarantinedRequest", REASONS["QuarantinedRequest"])
    if world.state.suspended:
        return Hold(judged, "Suspended", world.state.suspended.message)
    if spec.not_before and spec.not_before > world.now:
        return Hold(judged, "NotBefore", "its notBefore has not come yet", until=spec.not_before)
    return None


def _targets(
    world: World, judged: JudgedRequest, records: RequestRecords | None, busy: set[str]
) -> Iterator[Effect]:
    assert judged.document is not None  # the caller looked
    operations = records.operations if records else {}
    free = judged.document.spec.rollout.parallel - sum(item.running for item in operations.values())
    for name in judged.document.spec.targets:
        if name in operations:
            continue
        service = world.state.services.get(name)
        if service is None:
            yield Hold(judged, "ServiceGone", f"{name} is not in force", name)
            continue
        obstacle = _obstacle(world, judged, service, busy)
        if obstacle is None and free <= 0:
            obstacle = Hold(judged, "RolloutWindow", "waits for targets under way", name)
        if obstacle is None:
            free -= 1
        op_id = operation_id(world.state.root, judged.name, judged.digest, name)
        yield obstacle or Begin(judged, service, op_id)
        if isinstance(obstacle, Refuse):
            return


def _obstacle(
    world: World, judged: JudgedRequest, service: InForce[Service], busy: set[str]
) -> Hold | Refuse | None:
    """The first thing in the way of acting on one target."""
    assert judged.document is not None  # the caller looked
    spec = judged.document.spec
    name = service.document.metadata.name
    if service.document.spec.agent.key is None:
        return Refuse(judged, "Rejected", "ObserveOnly", f"{name} has no agent key: it is only observed")
    frozen = frozen_until(
        world.state.policy.document, service.document.metadata.labels, spec.requested_by, world.now
    )
    if frozen:
        return Hold(judged, "Frozen", "a freeze of the policy covers it", name, frozen)
    if name in busy:
        return Hold(judged, "ServiceBusy", "another operation on it has no result yet", name)
    return _agent_obstacle(judged, name, spec.action, world.observations.get(name))


def _agent_obstacle(
    judged: JudgedRequest, name: str, action: str, seen: Observation | None
) -> Hold | Refuse | None:
    if seen is None or seen.report is None:
        return Hold(judged, "AgentNotSeen", seen.message if seen else "not probed yet", name)
    if not seen.ok:
        return Hold(judged, "AgentNotReachable", seen.message, name)
    if seen.report.observe:
        return Refuse(judged, "Rejected", "ObserveOnly", f"the agent of {name} runs in observe mode")
    offered = sorted(info.name for info in seen.report.actions)
    if action not in offered:
        message = f"the agent of {name} offers {', '.join(offered) or 'no action'}, not {action}"
        return Refuse(judged, "Rejected", "UnknownAction", message)
    return None


def _cancel(world: World, judged: JudgedRequest) -> Cancel | Refuse:
    assert judged.document is not None  # the caller looked
    victim = world.requests.get(str(judged.document.spec.params.get("request", "")))
    if victim is None or victim.document is None or victim.name == judged.name:
        return Refuse(judged, "Rejected", "NothingToCancel", "no such request")
    missing = sorted(set(victim.document.spec.targets) - set(judged.document.spec.targets))
    if missing:
        message = f"it must name every target of {victim.name}; {', '.join(missing[:5])} is missing"
        return Refuse(judged, "Rejected", "CancelTargets", message)
    records = world.records.of(victim.name)
    if records and records.refusal:
        return Refuse(judged, "Rejected", "NothingToCancel", f"{victim.name} was ended before")
    running = records is not None and any(item.running for item in records.operations.values())
    if _finished(victim, records) and not running:
        return Refuse(judged, "Rejected", "NothingToCancel", f"{victim.name} is already finished")
    return Cancel(judged, victim)
