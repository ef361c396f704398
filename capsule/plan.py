"""A plan is a value: what the next pass would do with each request and target, and why.

Rules kept: pure; made from the very decision the reconciler executes, so the two cannot differ. Called by
`capsule plan`, and by `request` and `approve` for the table a reviewer sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from capsule.decide import Decision, World, decide
from capsule.decide.proposals import ROTATE
from capsule.decide.rollout import batch_of
from capsule.trust.state import JudgedRequest

Step = Literal[
    "execute",
    "take over",
    "ask the agent",
    "hold",
    "refuse",
    "cancel",
    "abort",
    "acknowledge",
    "converge",
    "wait",
    "propose",
    "wait for approval",
]
_ACTING = frozenset(
    {"execute", "take over", "ask the agent", "cancel", "abort", "acknowledge", "converge", "propose"}
)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One target of one request (`service` empty: the whole request), or what a service is told without one
    (`request` empty). `until` is when a hold or a wait ends."""

    request: str
    service: str
    action: str
    step: Step
    reason: str
    message: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next pass would do; `suspended` says why it would act on nothing."""

    rows: tuple[PlanRow, ...]
    suspended: str = ""

    @property
    def acts(self) -> bool:
        """Whether the next pass would send anything."""
        return any(row.step in _ACTING for row in self.rows)


def plan(world: World) -> Plan:
    """The plan of the next pass over `world`."""
    decision = decide(world)
    rows = [*_converging(decision), *_decided(decision), *_rotations(decision), *_proposed(world)]
    rows.sort(key=lambda row: (row.request, row.service))
    suspended = world.state.suspended
    return Plan(tuple(rows), f"{suspended.reason}: {suspended.message}" if suspended else "")


def _decided(decision: Decision) -> Iterator[PlanRow]:
    for begin in decision.begin:
        name = begin.service.document.metadata.name
        step: Step = "take over" if begin.takeover else "execute"
        message = f"{_approvers(begin.request)}{_batch(begin.request, name)}"
        yield PlanRow(begin.request.name, name, _action(begin.request), step, "Approved", message)
    for ask in decision.ask:
        spec = ask.claim.spec
        yield PlanRow(
            spec.request, spec.service, spec.action, "ask the agent", "Running", f"attempt {spec.attempt}"
        )
    for refuse in decision.refuse:
        yield PlanRow(
            refuse.request.name, "", _action(refuse.request), "refuse", refuse.reason, refuse.message
        )
    for cancel in decision.cancel:
        step = "cancel" if cancel.tombstone else "abort"
        rest = "" if cancel.tombstone else "; what runs of it goes on"
        message = f"ends {cancel.victim.name}{rest}"
        yield PlanRow(cancel.request.name, "", step, step, "Approved", message)
    for known in decision.acknowledge:
        message = f"clears {known.subject}"
        yield PlanRow(known.request.name, "", "acknowledge", "acknowledge", "Approved", message)
    for hold in decision.hold:
        name = hold.service or ""
        message = f"{hold.message}{_batch(hold.request, name)}"
        action = _action(hold.request)
        yield PlanRow(hold.request.name, name, action, "hold", hold.reason, message, hold.until)


def _converging(decision: Decision) -> Iterator[PlanRow]:
    """What services are told because of their documents, and what is not told yet."""
    for told in decision.converge:
        name = told.service.document.metadata.name
        yield PlanRow("", name, told.action, "converge", told.reason, told.message)
    for wait in decision.wait:
        yield PlanRow("", wait.service, wait.action, "wait", wait.reason, wait.message, wait.until)


def _rotations(decision: Decision) -> Iterator[PlanRow]:
    """The rotations that the reconciler asks for by itself."""
    for propose in decision.propose:
        name = propose.service.document.metadata.name
        message = f"its key is due on {propose.due:%Y-%m-%d}; people approve"
        yield PlanRow(propose.name, name, ROTATE, "propose", "KeyDueSoon", message)


def _proposed(world: World) -> Iterator[PlanRow]:
    for judged in world.requests.values():
        open_still = world.records.of(judged.name) is None
        expired = judged.document is not None and judged.document.spec.expires <= world.now
        if judged.verdict == "proposed" and open_still and not (expired and judged.source == "main"):
            message = judged.message or missing_text(judged)
            yield PlanRow(
                judged.name,
                "",
                _action(judged),
                "wait for approval",
                judged.reason or "ApprovalsMissing",
                message,
            )


def _batch(judged: JudgedRequest, service: str) -> str:
    """Such as " (batch 2 of 5)", for a rollout in batches."""
    found = batch_of(judged.document, service) if judged.document else None
    return f" (batch {found[0]} of {found[1]})" if found else ""


def missing_text(judged: JudgedRequest) -> str:
    """Such as "1 more of reviewers (bob, dora)"."""
    parts = []
    for missing in judged.missing:
        who = ", ".join(missing.candidates) or "nobody can"
        parts.append(f"{missing.count} more of {missing.team} ({who})")
    return "; ".join(parts)


def _approvers(judged: JudgedRequest) -> str:
    names = ", ".join(judged.approved_by)
    return f"approved by {names}" if names else "its rule asks for no approval"


def _action(judged: JudgedRequest) -> str:
    return judged.document.spec.action if judged.document else ""
