"""Which targets of an approved request may begin now, and what each of the others waits for.

Rules kept: pure; before the first claim of a request with several targets all of them are looked at: what
refuses one refuses all, what holds one holds all (but for a `disable` with `onFailure: continue`). With
`pause` or `healthCheck` targets form batches of `parallel` in the order of the document, and a batch begins
only when the one before is over, has rested, and is healthy. A service has one operation at a time. Called by
requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from capsule.decide.effects import Begin, Hold, Refuse
from capsule.decide.ledger import SWITCHES
from capsule.decide.offers import approvals_wanted
from capsule.decide.world import World
from capsule.documents.types import ActionRequest, Rollout, Service
from capsule.lifecycle import Observation, OperationRecord, RequestRecords
from capsule.trust.freezes import freeze_in_force
from capsule.trust.state import InForce, JudgedRequest
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import ActionInfo

REASONS: dict[str, str] = {
    "Frozen": "A freeze window of the policy covers the service.",
    "ServiceBusy": "Another operation on the same service has no result yet.",
    "ServiceGone": "The service is no longer in force.",
    "RolloutWindow": "As many targets as `rollout.parallel` allows are under way.",
    "RolloutPause": "The batch before ended less than `rollout.pause` ago.",
    "RolloutHealth": "A service of the batch before was not seen healthy since (`rollout.healthCheck`).",
    "AgentNotSeen": "The agent has not answered this reconciler yet.",
    "AgentNotReachable": "The agent does not answer now; the request waits until it does, or expires.",
    "ObserveOnly": "The service has no agent key, or its agent runs in observe mode: it accepts no orders.",
    "AgentWantsSignatures": "The request rests on reviews or a merge, and the agent acts on it for "
    "signed approvals alone: let people sign theirs, or let the agent declare weaker evidence.",
    "UnknownAction": "The agent offers no action of that name.",
}
_PASSING = ("ServiceBusy",)
"""Why one target waits without holding the others: it passes by itself."""
_SETTLED = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """An approved request under way."""

    world: World
    judged: JudgedRequest
    document: ActionRequest
    operations: dict[str, OperationRecord]
    busy: set[str]

    @property
    def rollout(self) -> Rollout:
        return self.document.spec.rollout

    @property
    def targets(self) -> Sequence[str]:
        return self.document.spec.targets

    def hold(self, reason: str, message: str, name: str) -> Hold:
        return Hold(self.judged, reason, message, name)


def targets(
    world: World,
    judged: JudgedRequest,
    document: ActionRequest,
    records: RequestRecords | None,
    busy: set[str],
) -> Iterator[Begin | Hold | Refuse]:
    """One effect for every target that was not begun; only the first where something refuses or holds all."""
    asked = _Asked(world, judged, document, dict(records.operations) if records else {}, busy)
    together = not asked.operations and len(asked.targets) > 1 and not _each_for_itself(document)
    held = _preflight(asked) if together else None
    if held:
        yield held
        return
    if _each_for_itself(document) and not asked.operations:
        obstacles = [_obstacle(asked, name) for name in asked.targets]
        refused = [each for each in obstacles if isinstance(each, Refuse)]
        if len(refused) == len(asked.targets):
            yield refused[0]
            return
    free = asked.rollout.parallel - sum(item.running for item in asked.operations.values())
    gate = _Gate(asked)
    for at, name in enumerate(asked.targets):
        if name in asked.operations:
            continue
        obstacle = _obstacle(asked, name) or gate.before(at)
        if isinstance(obstacle, Refuse) and _each_for_itself(document):
            obstacle = asked.hold(obstacle.reason, obstacle.message, name)
        if obstacle is None and free <= 0:
            obstacle = asked.hold("RolloutWindow", "waits for targets under way", name)
        if obstacle is None:
            free -= 1
            yield _begin(asked, name)
            continue
        yield obstacle
        if isinstance(obstacle, Refuse):
            return


def batch_of(document: ActionRequest, name: str) -> tuple[int, int] | None:
    """The number of the batch of a target, and how many there are; None for a rollout without batches."""
    rollout, names = document.spec.rollout, document.spec.targets
    if not _in_batches(rollout) or len(names) <= rollout.parallel or name not in names:
        return None
    return names.index(name) // rollout.parallel + 1, -(-len(names) // rollout.parallel)


def _each_for_itself(document: ActionRequest) -> bool:
    """Whether no target waits for another: a `disable` that goes on whatever becomes of any one. A key that
    leaked is not used a minute longer because one agent of twenty is away."""
    return document.spec.action == "disable" and document.spec.rollout.on_failure == "continue"


def _in_batches(rollout: Rollout) -> bool:
    return rollout.health_check or rollout.pause > timedelta(0)


def _begin(asked: _Asked, name: str) -> Begin:
    judged, state = asked.judged, asked.world.state
    return Begin(judged, state.services[name], operation_id(state.root, judged.name, judged.digest, name))


# ---- what is in the way of a target -------------------------------------------------------------


def _preflight(asked: _Asked) -> Hold | Refuse | None:
    """What is in the way of the whole request, before anything of it is claimed."""
    found = [obstacle for name in asked.targets if (obstacle := _obstacle(asked, name))]
    refused = next((each for each in found if isinstance(each, Refuse)), None)
    if refused:
        return refused
    held = [each for each in found if isinstance(each, Hold) and each.reason not in _PASSING]
    if not held:
        return None
    first = held[0]
    others = f" (and {len(held) - 1} more of {len(asked.targets)})" if len(held) > 1 else ""
    message = f"nothing is begun before all targets are ready: {first.service}{others}: {first.message}"
    known = [each.until for each in held if each.until]
    until = max(known) if len(known) == len(held) else None
    return Hold(first.request, first.reason, message, first.service, until)


def _obstacle(asked: _Asked, name: str) -> Hold | Refuse | None:
    """The first thing in the way of acting on one target, whatever its batch."""
    service = asked.world.state.services.get(name)
    if service is None:
        return asked.hold("ServiceGone", f"{name} is not in force", name)
    spec = service.document.spec
    if spec.agent.key is None:
        message = f"{name} has no agent key: it is only observed"
        return Refuse(asked.judged, "Rejected", "ObserveOnly", message)
    if asked.document.spec.action == "enable" and not spec.enabled:
        message = f"the document of {name} says enabled: false; change the document instead"
        return Refuse(asked.judged, "Rejected", "DisabledBySpec", message)
    return (
        _frozen(asked, service)
        or _agent_obstacle(asked, name, asked.world.observations.get(name))
        or _busy(asked, name)
    )


def _frozen(asked: _Asked, service: InForce[Service]) -> Hold | None:
    found = freeze_in_force(
        asked.world.state.policy.document,
        service.document.metadata.labels,
        asked.document.spec.requested_by,
        asked.world.now,
    )
    if found is None:
        return None
    until, freeze = found
    message = f"a freeze of the policy covers it{': ' if freeze.reason else ''}{freeze.reason}"
    return Hold(asked.judged, "Frozen", message, service.document.metadata.name, until)


def _busy(asked: _Asked, name: str) -> Hold | None:
    if name in asked.busy:
        return asked.hold("ServiceBusy", "another operation on it has no result yet", name)
    return None


def _agent_obstacle(asked: _Asked, name: str, seen: Observation | None) -> Hold | Refuse | None:
    action = asked.document.spec.action
    if seen is None or seen.report is None:
        return asked.hold("AgentNotSeen", seen.message if seen else "not probed yet", name)
    if not seen.ok:
        return asked.hold("AgentNotReachable", seen.message, name)
    if seen.report.observe:
        message = f"the agent of {name} runs in observe mode"
        return Refuse(asked.judged, "Rejected", "ObserveOnly", message)
    offers = {info.name: info for info in seen.report.actions}
    if action not in offers:
        offered = sorted(offers)
        message = f"the agent of {name} offers {', '.join(offered) or 'no action'}, not {action}"
        return Refuse(asked.judged, "Rejected", "UnknownAction", message)
    return _wants_signatures(asked, name, offers[action])


def _wants_signatures(asked: _Asked, name: str, offered: ActionInfo) -> Hold | None:
    """An agent that checks signed approvals itself would refuse what rests on a review or a merge."""
    judged = asked.judged
    if judged.evidence == "signature" or offered.evidence != "signature":
        return None
    if judged.evidence == "break-glass" and offered.break_glass and _says_so(judged):
        return None
    signed = {who for who, evidence in judged.evidence_of_people() if evidence == "signature"}
    short = approvals_wanted(offered, asked.document.spec.params) - len(signed)
    if short <= 0:
        return None
    more = f"{short} more signed approval{'s' if short > 1 else ''}"
    message = f"the agent of {name} wants {more}: reviewers type capsule approve {judged.name}"
    return asked.hold("AgentWantsSignatures", message, name)


def _says_so(judged: JudgedRequest) -> bool:
    """Whether who broke the glass signed that for agents, too."""
    return any(seen.counts and seen.decision == "break-glass" for seen in judged.approvals)


# ---- batches ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Closed:
    """Why a batch does not begin yet, and until when if that is known."""

    reason: str
    message: str
    until: datetime | None = None


class _Gate:
    """What the batches before a target make it wait for; looked up once for each batch."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._known: dict[int, _Closed | None] = {}

    def before(self, at: int) -> Hold | None:
        """The hold of the target at that place; None when its batch may begin."""
        asked = self._asked
        batch = at // asked.rollout.parallel if _in_batches(asked.rollout) else 0
        if batch not in self._known:
            self._known[batch] = _closed(asked, asked.targets[: batch * asked.rollout.parallel])
        found = self._known[batch]
        return (
            Hold(asked.judged, found.reason, found.message, asked.targets[at], found.until) if found else None
        )


def _closed(asked: _Asked, earlier: Sequence[str]) -> _Closed | None:
    """What the targets of the batches before make the next batch wait for."""
    ended: dict[str, datetime] = {}
    for name in earlier:
        operation = asked.operations.get(name)
        if operation is None or operation.result is None:
            return _Closed("RolloutWindow", f"waits for the batch before: {name} has no result yet")
        ended[name] = operation.result.spec.recorded_at
    if not ended:
        return None
    rested = max(ended.values()) + asked.rollout.pause
    if asked.world.now < rested:
        return _Closed("RolloutPause", "waits for the pause between two batches", rested)
    return _unhealthy(asked, ended) if asked.rollout.health_check else None


def _unhealthy(asked: _Asked, ended: dict[str, datetime]) -> _Closed | None:
    grace = asked.world.state.settings.document.spec.probe.grace
    for name, at in ended.items():
        complaint = _complaint(asked, name, at)
        if complaint:
            late = asked.world.now - at > grace
            hint = "; mend it, or abort the request, which else waits until it expires" if late else ""
            return _Closed("RolloutHealth", f"{name} {complaint}{hint}")
    return None


def _complaint(asked: _Asked, name: str, ended: datetime) -> str:
    """Why a service of an earlier batch does not count as healthy again; empty when it does."""
    service, seen = asked.world.state.services.get(name), asked.world.observations.get(name)
    if service is None:
        return ""
    if seen is None or seen.report is None or seen.at < ended + _SETTLED:
        return "was not seen since its operation"
    if not seen.ok:
        return f"does not answer: {seen.message}"
    if seen.report.health.status != "UP":
        return f"is {seen.report.health.status}: {seen.report.health.detail}"
    if seen.report.enabled != _expected(asked, service) and not seen.report.disabled_by_host:
        return "is enabled" if seen.report.enabled else "is disabled"
    return ""


def _expected(asked: _Asked, service: InForce[Service]) -> bool:
    """Whether a service should take traffic once the operation is over."""
    action = asked.document.spec.action
    if action in SWITCHES:
        return action == "enable"
    word = asked.world.book.words.get(service.document.metadata.name)
    return service.document.spec.enabled and not (word is not None and word.holds)
