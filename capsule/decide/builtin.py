"""Requests that the reconciler carries out itself: cancel, abort, acknowledge.

Rules kept: pure; each is authorised by rules on its own targets, so `cancel` and `abort` must name every
target of the request they end; what cannot have an effect is refused, never silently done. Called by
requests.
"""

from __future__ import annotations

from datetime import datetime

from capsule.decide.effects import Acknowledge, Cancel, Hold, Refuse
from capsule.decide.ledger import ACKNOWLEDGE
from capsule.decide.open import finished
from capsule.decide.world import World
from capsule.documents.types import ActionRequest
from capsule.trust.break_glass import broken, unfit_to_acknowledge
from capsule.trust.state import JudgedRequest
from capsule_agent.protocol.messages import instant
from capsule_agent.protocol.strict_json import InvalidMessage

REASONS: dict[str, str] = {
    "CancelledByRequest": "An approved `cancel` request ended it.",
    "AbortedByRequest": "An approved `abort` request ended it: what ran went on, nothing more is begun.",
    "CancelTargets": "A `cancel` or `abort` must name all targets of its victim: rules look at its own.",
    "NothingToCancel": "The request named by `cancel` or `abort` does not exist or is already finished.",
    "NothingToAbort": "All targets of the request named by `abort` were begun; `cancel` would reach those.",
    "NotToAcknowledge": "An `acknowledge` of a request for which nobody broke the glass, or by somebody who "
    "may not: whoever broke it, or who is in no team whose approval was left out.",
    "AcknowledgeParams": "An `acknowledge` takes `condition` and `since`, or `request`, and nothing else.",
    "SinceMissing": "An `acknowledge` does not say which one was seen: its `since` is missing, no time, or a "
    "time to come. It is the `since` of the condition in the service's status.",
    "UnknownCondition": "No condition of that type waits to be acknowledged by a person.",
}

CANCEL = "cancel"
ABORT = "abort"
STICKY = ("CorrectionStopped", "KeyChangedOutsideCapsule")
"""Conditions that stay until a person acknowledges them."""


def built_in(
    world: World, judged: JudgedRequest, document: ActionRequest
) -> Cancel | Acknowledge | Refuse | Hold:
    """What an approved request for a built-in action amounts to."""
    if document.spec.action == ACKNOWLEDGE:
        return _acknowledge(world, judged, document)
    return _end(world, judged, document)


def is_built_in(document: ActionRequest) -> bool:
    """Whether the reconciler carries out what is asked for."""
    return document.spec.action in (CANCEL, ABORT, ACKNOWLEDGE)


def _acknowledge(world: World, judged: JudgedRequest, document: ActionRequest) -> Acknowledge | Refuse | Hold:
    params = document.spec.params
    if not (params.keys() == {"request"} or params.keys() <= {"condition", "since"}):
        message = f"its parameters are {', '.join(sorted(params))}; expected condition and since, or request"
        return Refuse(judged, "Rejected", "AcknowledgeParams", message)
    if "request" in params:
        return _acknowledge_glass(world, judged, document)
    condition, since = str(params.get("condition", "")), str(params.get("since", ""))
    if condition not in STICKY:
        message = f"its parameter condition is {condition!r}, expected {' or '.join(STICKY)}"
        return Refuse(judged, "Rejected", "UnknownCondition", message)
    if not _has_been(since, world.now):
        message = f"its parameter since is {since!r}, expected that of {condition} in the service's status"
        return Refuse(judged, "Rejected", "SinceMissing", message)
    return _gone(world, judged, document) or Acknowledge(judged, "condition", condition, since)


def _has_been(text: str, now: datetime) -> bool:
    """Whether `text` is a time that has come: nobody can have seen what begins later."""
    try:
        return instant(text) <= now
    except InvalidMessage:
        return False


def _acknowledge_glass(
    world: World, judged: JudgedRequest, document: ActionRequest
) -> Acknowledge | Refuse | Hold:
    name = str(document.spec.params["request"])
    known = world.records.of(name)
    claims = [item.claim.spec for item in known.operations.values() if item.claim] if known else []
    without = [claim for claim in claims if broken(claim)]
    problem = unfit_to_acknowledge(world.state, document.spec.requested_by, without)
    if problem:
        return Refuse(judged, "Rejected", "NotToAcknowledge", problem)
    return _gone(world, judged, document) or Acknowledge(judged, "request", name)


def _gone(world: World, judged: JudgedRequest, document: ActionRequest) -> Hold | None:
    gone = [name for name in document.spec.targets if name not in world.state.services]
    if gone:
        return Hold(judged, "ServiceGone", f"{gone[0]} is not in force", gone[0])
    return None


def _end(world: World, judged: JudgedRequest, document: ActionRequest) -> Cancel | Refuse:
    victim = world.requests.get(str(document.spec.params.get("request", "")))
    if victim is None or victim.document is None or victim.name == judged.name:
        return Refuse(judged, "Rejected", "NothingToCancel", "no such request")
    missing = sorted(set(victim.document.spec.targets) - set(document.spec.targets))
    if missing:
        message = f"it must name every target of {victim.name}; {', '.join(missing[:5])} is missing"
        return Refuse(judged, "Rejected", "CancelTargets", message)
    records = world.records.of(victim.name)
    if records and records.refusal:
        return Refuse(judged, "Rejected", "NothingToCancel", f"{victim.name} was ended before")
    running = records is not None and any(item.running for item in records.operations.values())
    if finished(victim, records) and not running:
        return Refuse(judged, "Rejected", "NothingToCancel", f"{victim.name} is already finished")
    if document.spec.action == CANCEL:
        return Cancel(judged, victim)
    if records and set(victim.document.spec.targets) <= records.operations.keys():
        message = f"every target of {victim.name} was begun; what runs goes on to its end"
        return Refuse(judged, "Rejected", "NothingToAbort", message)
    return Cancel(judged, victim, tombstone=False)
