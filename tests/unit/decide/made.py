"""Builders of state orders, reports and settings for the tests of decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from capsule.documents.scalars import instant_text
from capsule.documents.types import Capsule, Result, Service, StateOrder, StateResult
from capsule.lifecycle import OperationRecord, Records, RequestRecords, StateOperation, StateRecords
from capsule.trust.state import InForce, JudgedRequest
from capsule_agent.protocol.ids import desired_state_id
from capsule_agent.protocol.messages import ActionInfo, Report
from tests.unit.worlds import DIGEST, NOW, ROOT, TIP, claim, document, records, records_of, report, result

SWITCHES = ("disable", "enable", "rotateKey")
MINUTE = timedelta(minutes=1)


def configure_action(*settable: str, approved: Sequence[str] = (), approvals: int = 0) -> ActionInfo:
    """What an agent says of its configure: values it sets, and such that it sets only when approved."""
    properties: dict[str, Any] = {name: {"type": "string"} for name in settable}
    properties |= {name: {"type": "string", "x-approvals": 1} for name in approved}
    return ActionInfo("configure", {"type": "object", "properties": properties}, {}, "low", approvals)


def able(name: str = "openai-chat", *settable: str, **changes: Any) -> Report:
    """The report of an agent that can be switched, and whose `settable` values can be set."""
    made = report(name, SWITCHES, **changes)
    return replace(made, actions=(*made.actions, configure_action(*settable)))


def other_bytes(service: InForce[Service], digest: str) -> InForce[Service]:
    """The service with other bytes of the same meaning."""
    return replace(service, digest=digest)


def settings(**spec: Any) -> InForce[Capsule]:
    """Settings in force."""
    return InForce(document(Capsule, "capsule", spec), "capsule.yaml", "d" * 40, DIGEST, TIP)


def ordered(
    action: str,
    generation: int = 1,
    outcome: str | None = "succeeded",
    *,
    service: str = "openai-chat",
    at: datetime = NOW - timedelta(hours=1),
    digest: str = DIGEST,
    reconciler: str = "reconciler-1",
) -> StateOperation:
    """One state order, and its result five seconds later."""
    op_id = desired_state_id(ROOT, service, digest, generation)
    order = {
        "service": service,
        "generation": generation,
        "documentDigest": digest,
        "opId": op_id,
        "action": action,
        "observedRevision": TIP,
        "reconciler": reconciler,
        "nonce": "0" * 32,
        "orderedAt": instant_text(at),
    }
    ended = {
        "service": service,
        "generation": generation,
        "opId": op_id,
        "action": action,
        "outcome": outcome,
        "reason": "Done",
        "recordedAt": instant_text(at + timedelta(seconds=5)),
        "receiptDigest": DIGEST,
    }
    made: StateOrder = document(StateOrder, service, order)
    result: StateResult | None = document(StateResult, service, ended) if outcome else None
    return StateOperation(service, generation, made, result)


def told(*operations: StateOperation, known: Records | None = None) -> Records:
    """Records with these state orders, beside those of requests in `known`."""
    by_service: dict[str, list[StateOperation]] = {}
    for each in operations:
        by_service.setdefault(each.service, []).append(each)
    desired = {
        name: StateRecords("9" * 40, tuple(sorted(kept, key=lambda each: each.generation)))
        for name, kept in by_service.items()
    }
    return replace(known or Records("f" * 40), desired=desired, desired_tree="8" * 40)


def done(
    judged: JudgedRequest,
    target: str = "openai-chat",
    outcome: str = "succeeded",
    *,
    at: datetime = NOW - timedelta(hours=1),
    **changes: Any,
) -> OperationRecord:
    """An operation of a request with a result recorded at `at`."""
    assert judged.document
    ended: Result = result(
        judged,
        target,
        outcome,
        **{"recordedAt": instant_text(at), "action": judged.document.spec.action, **changes},
    )
    begun = claim(judged, target, claimedAt=instant_text(at - timedelta(seconds=5)))
    return OperationRecord(target, (begun,), ended)


def recorded(judged: JudgedRequest, *operations: OperationRecord) -> Records:
    """Records of one request."""
    return records(records_of(judged, *operations))


def kept(*requests: RequestRecords) -> Records:
    """Records of several requests."""
    return records(*requests)
