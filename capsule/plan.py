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
from capsule.trust.state import JudgedRequest

Step = Literal["execute", "take over", "ask the agent", "hold", "refuse", "cancel", "wait for approval"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One target of one request (`service` empty: the whole request). `until` is when a hold ends."""

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
        return any(row.step in ("execute", "take over", "ask the agent", "cancel") for row in self.rows)


def plan(world: World) -> Plan:
    """The plan of the next pass over `world`."""
    decision = decide(world)
    rows = [*_decided(decision), *_proposed(world)]
    rows.sort(key=lambda row: (row.request, row.service))
    suspended = world.state.suspended
    return Plan(tuple(rows), f"{suspended.reason}: {suspended.message}" if suspended else "")


def _decided(decision: Decision) -> Iterator[PlanRow]:
    for begin in decision.begin:
        name = begin.service.document.metadata.name
        step: Step = "take over" if begin.takeover else "execute"
        yield PlanRow(
            begin.request.name, name, _action(begin.request), step, "Approved", _approvers(begin.request)
        )
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
        message = f"ends {cancel.victim.name}"
        yield PlanRow(cancel.request.name, "", "cancel", "cancel", "Approved", message)
    for hold in decision.hold:
        yield PlanRow(
            hold.request.name,
            hold.service or "",
            _action(hold.request),
            "hold",
            hold.reason,
            hold.message,
            hold.until,
        )


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
