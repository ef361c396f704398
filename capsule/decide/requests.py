"""What one pass does: which operations begin, are asked about, refused, ended, held; what converges.

Rules kept: pure; every request yields one decision; an operation begins only on an approved request, once;
what is already claimed goes on whatever happens to its request; desired-state orders come first, so that a
`disable` never waits for other work to begin. Called by plan and the reconciler with the same World.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from capsule.decide.builtin import built_in, is_built_in
from capsule.decide.convergence import converge, under_way, within_reach
from capsule.decide.effects import (
    Acknowledge,
    Ask,
    Attest,
    Begin,
    Cancel,
    Converge,
    Decision,
    Effect,
    Hold,
    Refuse,
    Wait,
)
from capsule.decide.ledger import LastWord
from capsule.decide.open import finished
from capsule.decide.proposals import proposals
from capsule.decide.rollout import targets
from capsule.decide.world import World
from capsule.documents.types import ActionRequest, Claim
from capsule.lifecycle import Records, RequestRecords
from capsule.trust.attestations import awaits_reviews
from capsule.trust.state import JudgedRequest

REASONS: dict[str, str] = {
    "RejectedByReviewer": "A person whose approval the rule asks for signed a rejection.",
    "Expired": "The request's `expires` passed before it was approved and begun.",
    "ChangedAfterClaim": "The request was edited after its first claim; its name is spent, ask anew.",
    "Suspended": "Main is suspended: nothing is acted on until a person mends it.",
    "NotBefore": "The request's `notBefore` lies in the future.",
    "QuarantinedRequest": "The request made three passes fail; a person must look at it.",
}


def decide(world: World) -> Decision:
    """The effects of one pass, in the order of names: the same world, the same decision."""
    effects: list[Effect] = list(_claimed(world))
    busy = {operation.service for _, operation in world.records.running()}
    states = _converging(world, busy)
    effects.extend(states)
    busy |= orders_under_way(world.records, world.book.words, world.now) - world.lost_orders
    busy |= {each.service.document.metadata.name for each in states if isinstance(each, Converge)}
    for name in world.open.names:
        for effect in _request(world, world.requests[name], busy):
            if isinstance(effect, Begin):
                busy.add(effect.service.document.metadata.name)
            effects.append(effect)
    ended = {item.victim.name: item.tombstone for item in effects if isinstance(item, Cancel)}
    return Decision(
        begin=tuple(item for item in effects if isinstance(item, Begin) and _goes_on(item, ended)),
        ask=tuple(item for item in effects if isinstance(item, Ask)),
        refuse=tuple(item for item in effects if isinstance(item, Refuse)),
        cancel=tuple(item for item in effects if isinstance(item, Cancel)),
        acknowledge=tuple(item for item in effects if isinstance(item, Acknowledge)),
        attest=_attest(effects, world, ended),
        hold=tuple(item for item in effects if isinstance(item, Hold) and item.request.name not in ended),
        converge=tuple(item for item in effects if isinstance(item, Converge)),
        wait=tuple(item for item in effects if isinstance(item, Wait)),
        propose=proposals(world),
    )


def _attest(effects: Sequence[Effect], world: World, ended: Collection[str]) -> tuple[Attest, ...]:
    """The requests whose reviews are looked up: approvals are missing, or it rests on reviews, which may have
    been dismissed since. What was claimed, or ends in this pass, needs none any more."""
    refused = {item.request.name for item in effects if isinstance(item, Refuse)}
    return tuple(
        Attest(judged)
        for name in world.open.names
        if awaits_reviews(judged := world.requests[name])
        and name not in refused
        and name not in ended
        and not _settled(world, judged)
    )


def _settled(world: World, judged: JudgedRequest) -> bool:
    records = world.records.of(judged.name)
    return finished(judged, records) or (records is not None and records.claimed)


def _goes_on(begin: Begin, ended: Mapping[str, bool]) -> bool:
    """Whether it is begun although requests are ended in this pass: an abort lets takeovers go on."""
    tombstone = ended.get(begin.request.name)
    return tombstone is None or (begin.takeover and not tombstone)


def orders_under_way(records: Records, words: Mapping[str, LastWord], now: datetime) -> frozenset[str]:
    """The services that were told how to be and have not answered. `words`: the last ones on `enabled`."""
    return frozenset(
        name
        for name, kept in records.desired.items()
        if under_way(within_reach(kept.operations, now), words.get(name))
    )


def _converging(world: World, busy: set[str]) -> list[Converge | Wait]:
    """What each service is told; those that must not take traffic come first."""
    found: list[Converge | Wait] = []
    for name in world.converging():
        effect = converge(
            world.state,
            world.state.services[name],
            world.observations.get(name),
            world.records,
            world.now,
            name in busy,
            world.book.words.get(name),
            acknowledged=world.book.acknowledged_at(name, "CorrectionStopped"),
            lost=name in world.lost_orders,
        )
        if effect:
            found.append(effect)
    return sorted(found, key=lambda each: each.action != "disable")


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
    if finished(judged, records):
        return
    ending = _ending(world, judged, records)
    if ending:
        yield ending
    elif judged.verdict == "approved" and judged.document:
        hold = _whole_request_waits(world, judged, judged.document)
        if hold:
            yield hold
        elif is_built_in(judged.document):
            yield built_in(world, judged, judged.document)
        else:
            yield from targets(world, judged, judged.document, records, busy)


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


def _whole_request_waits(world: World, judged: JudgedRequest, document: ActionRequest) -> Hold | None:
    spec = document.spec
    if judged.name in world.quarantined:
        return Hold(judged, "QuarantinedRequest", REASONS["QuarantinedRequest"])
    if world.state.suspended:
        return Hold(judged, "Suspended", world.state.suspended.message)
    if spec.not_before and spec.not_before > world.now:
        return Hold(judged, "NotBefore", "its notBefore has not come yet", until=spec.not_before)
    return None
