"""Whether one service must be told to be as its document says: enable, disable, or set pins.

Rules kept: pure; the document in force and the agent's report are compared, never guessed; a report from
before the last order counts for nothing; one order at a time on a service; a `disable` that people asked
for holds until a merged document settles it; corrections are bounded (`every`, and the loop breaker: `limit`
within `within`). Nothing is ordered while main is suspended, nor of a service that is only observed. Drift
waits for the end of a freeze; `enabled`, which people merged, does not. Called by decide, and by the
reconciler for a service whose facts changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from capsule.decide.drift import CONFIGURE, correctable, differing
from capsule.decide.effects import Converge, Wait
from capsule.decide.ledger import LastWord
from capsule.documents.types import Correction, Scalar, Service
from capsule.lifecycle import Observation, Records, StateOperation
from capsule.trust.freezes import frozen_until
from capsule.trust.state import InForce, MainState
from capsule_agent.protocol.generations import HOUR, LONGEST_AHEAD, generation_at, generation_text
from capsule_agent.protocol.ids import desired_state_id
from capsule_agent.protocol.messages import Report, instant

REASONS: dict[str, str] = {
    "EnabledBySpec": "The document of the service says `enabled: true`, and its agent says it is disabled.",
    "OrderUnderWay": "The last desired-state order of the service has no result yet.",
    "OrderRepeated": "The same order was given lately; it is given again after a pause.",
    "CorrectionPaused": "Drift was corrected lately; it is corrected again `correction.every` later.",
    "CorrectionStopped": "The agent drifted back after `correction.limit` corrections: a person must look.",
    "GenerationAhead": "The last order on record is dated far ahead: the clock here is wrong, or that of the "
    "reconciler that gave it.",
    "AgentClockBehind": "The agent's clock is so far behind the one here that it would refuse the order: "
    "mend the one that is wrong.",
}
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=5)
MOST_AHEAD = LONGEST_AHEAD - HOUR
"""How far ahead an order may be dated here: by clocks that differ a little, agents and trust judge alike."""
BEYOND = LONGEST_AHEAD + HOUR
"""From here on an order on record counts for nothing: agents refuse it, and trust does too."""
_SETTLED = timedelta(seconds=1)
_Action = Literal["enable", "disable", "configure"]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the agent should be told, before anything is asked about whether it may be told now."""

    action: _Action
    reason: str
    message: str
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Case:
    """One service, and all that its convergence depends on."""

    state: MainState
    service: InForce[Service]
    seen: Observation | None
    orders: Sequence[StateOperation]
    now: datetime
    busy: bool
    word: LastWord | None
    acknowledged: datetime | None
    lost: bool

    @property
    def name(self) -> str:
        return self.service.document.metadata.name

    @property
    def report(self) -> Report | None:
        return self.seen.report if self.seen else None

    @property
    def correction(self) -> Correction:
        return self.state.settings.document.spec.correction

    def wait(self, action: _Action, reason: str, message: str, until: datetime | None = None) -> Wait:
        return Wait(self.name, action, reason, message, until)


def converge(
    state: MainState,
    service: InForce[Service],
    seen: Observation | None,
    records: Records,
    now: datetime,
    busy: bool,
    word: LastWord | None,
    *,
    acknowledged: datetime | None = None,
    lost: bool = False,
) -> Converge | Wait | None:
    """The order that brings one service closer to its document, why it waits, or None: nothing to order.

    `busy`: an operation of a request on it has no result, or begins in this pass. `word` is the last word on
    `enabled`, `acknowledged` when CorrectionStopped was last acknowledged (both of the ledger). `lost`: the
    order under way is another reconciler's, and was silent for longer than the lease.
    """
    orders = within_reach(records.state_operations(service.document.metadata.name), now)
    case = _Case(state, service, seen, orders, now, busy, word, acknowledged, lost)
    switch = _switch(case)
    if isinstance(switch, _Wanted):
        return _told(case, switch)
    correction = _correction(case)
    return _told(case, correction) if correction else switch


def correction_stopped(
    orders: Sequence[StateOperation], digest: str, correction: Correction, acknowledged: datetime | None
) -> datetime | None:
    """Since when corrections of the document with that digest are stopped; None: they are not.

    They are after `limit` of them within `within`, unless that was acknowledged since.
    """
    given = [
        order.ordered_at
        for order in (each.order.spec for each in orders)
        if order.action == CONFIGURE and order.document_digest == digest
    ]
    counted = sorted(at for at in given if acknowledged is None or at > acknowledged)
    runs = zip(counted, counted[correction.limit - 1 :], strict=False)
    return next((last for first, last in runs if last - first <= correction.within), None)


def within_reach(orders: Sequence[StateOperation], now: datetime) -> Sequence[StateOperation]:
    """The orders but for those that are dated so far ahead of `now` that no agent takes them. Whoever
    recorded them (a thief, a wrong clock) hinders nobody who orders later."""
    farthest = generation_at(now) + BEYOND
    return [each for each in orders if each.generation <= farthest]


def under_way(orders: Sequence[StateOperation], word: LastWord | None = None) -> StateOperation | None:
    """An order without result that is still told: the newest about `enabled`, or about pins. None is told
    that would give traffic to what people disabled, which the last `word` says."""
    newest = {each.order.spec.action == CONFIGURE: each for each in orders}
    waiting = (each for each in newest.values() if each.result is None)
    held = word is not None and word.holds
    return next((each for each in waiting if not (held and each.order.spec.action == "enable")), None)


# ---- what is wanted -----------------------------------------------------------------------------


def _switch(case: _Case) -> _Wanted | Wait | None:
    """Whether `enabled` must be ordered. A `disable` that people asked for holds."""
    report, word = case.report, case.word
    if not case.service.document.spec.enabled:
        ours = word is not None and (word.by, word.action) == ("state", "disable")
        if ours and (report is None or not report.enabled) and not _enabling(case):
            return None
        return _Wanted("disable", "DisabledBySpec", "its document says enabled: false")
    if report is None or report.enabled or report.disabled_by_host:
        return None
    if word and word.holds:
        return case.wait("enable", "DisabledByRequest", f"{word.request} disabled it; a document settles it")
    return _Wanted("enable", "EnabledBySpec", "its document says enabled: true")


def _enabling(case: _Case) -> bool:
    """Whether an `enable` of an earlier text of the document may still reach the agent."""
    waiting = under_way(case.orders, case.word)
    return waiting is not None and waiting.order.spec.action == "enable"


def _correction(case: _Case) -> _Wanted | None:
    """The pins that drifted and that the agent lets be set."""
    if case.service.document.spec.on_drift != "correct" or not case.seen or not case.report:
        return None
    if not case.seen.ok:
        return None
    settable = correctable(case.report)
    found = [item for item in differing(case.service.document, case.report) if item.pin in settable]
    if not found:
        return None
    message = ", ".join(f"{item.pin} {item.observed} → {item.desired}" for item in found)
    return _Wanted("configure", "DriftFound", message, {item.pin: item.desired for item in found})


# ---- whether it may be told now -----------------------------------------------------------------


def _told(case: _Case, wanted: _Wanted) -> Converge | Wait:
    """The order, or the first thing in its way."""
    obstacle = _agent_obstacle(case, wanted) or _order_obstacle(case, wanted)
    if obstacle:
        return obstacle
    generation = max(case.orders[-1].generation + 1 if case.orders else 1, generation_at(case.now))
    obstacle = _clock_obstacle(case, wanted, generation)
    if obstacle:
        return obstacle
    op_id = desired_state_id(case.state.root, case.name, case.service.digest, generation)
    return Converge(
        case.service, wanted.action, generation, op_id, wanted.params, wanted.reason, wanted.message
    )


def _clock_obstacle(case: _Case, wanted: _Wanted, generation: int) -> Wait | None:
    """Why an order would be refused: it is dated far ahead of the clock here, or of the agent's."""
    here = generation_at(case.now)
    early = generation - here - MOST_AHEAD
    if early > 0:
        message = (
            f"the last one is of {generation_text(generation)}, the clock here says {generation_text(here)}"
        )
        return case.wait(wanted.action, "GenerationAhead", message, case.now + timedelta(milliseconds=early))
    if case.seen is None or case.seen.report is None or not case.seen.ok:
        return None
    behind = generation_at(case.seen.at) - generation_at(instant(case.seen.report.at))
    if generation - (here - behind) <= MOST_AHEAD:
        return None
    message = f"its agent's clock says {generation_text(here - behind)}, the one here {generation_text(here)}"
    return case.wait(wanted.action, "AgentClockBehind", message)


def _agent_obstacle(case: _Case, wanted: _Wanted) -> Wait | None:
    seen, report = case.seen, case.report
    if case.service.document.spec.agent.key is None:
        return case.wait(wanted.action, "ObserveOnly", "it has no agent key: it is only observed")
    if case.state.suspended:
        return case.wait(wanted.action, "Suspended", case.state.suspended.message)
    if seen is None or report is None:
        return case.wait(wanted.action, "AgentNotSeen", seen.message if seen else "not probed yet")
    if report.observe:
        return case.wait(wanted.action, "ObserveOnly", "its agent runs in observe mode")
    if wanted.action not in {action.name for action in report.actions}:
        return case.wait(wanted.action, "UnknownAction", f"its agent offers no {wanted.action}")
    if not seen.ok and not _urgent(case, wanted, report):
        return case.wait(wanted.action, "AgentNotReachable", seen.message)
    return None


def _urgent(case: _Case, wanted: _Wanted, report: Report) -> bool:
    """Whether to order although the agent does not answer now: a `disable` that it never had, or that takes
    back an `enable` which it has not heard yet, so that it is the first thing it hears."""
    had = case.word is not None and (case.word.by, case.word.action) == ("state", "disable")
    return wanted.action == "disable" and (_enabling(case) or (report.enabled and not had))


def _order_obstacle(case: _Case, wanted: _Wanted) -> Wait | None:
    waiting = under_way(case.orders, case.word)
    if waiting and not case.lost and not _replaces(case, wanted, waiting):
        spec = waiting.order.spec
        return case.wait(wanted.action, "OrderUnderWay", f"{spec.action}, ordered by {spec.reconciler}")
    if case.busy and wanted.action != "disable":  # the agent may be busy for long, and must hear of it first
        return case.wait(wanted.action, "ServiceBusy", "an operation on it has no result yet")
    if not _seen_since(case):
        return case.wait(wanted.action, "AgentNotSeen", "not probed since the last order")
    return _correction_obstacle(case) if wanted.action == CONFIGURE else _repeated(case, wanted.action)


def _replaces(case: _Case, wanted: _Wanted, waiting: StateOperation) -> bool:
    """Whether to order although an order is under way: a switch by another text of the document than that
    order is about, so that an agent that was away hears the newest word alone."""
    return wanted.action != CONFIGURE and waiting.order.spec.document_digest != case.service.digest


def _seen_since(case: _Case) -> bool:
    """Whether the report is from after all that was ordered; results are recorded to the second."""
    assert case.seen is not None  # _agent_obstacle looked
    results = [each.result.spec.recorded_at for each in case.orders[-1:] if each.result]
    ended = [*results, *([case.word.at] if case.word else [])]
    return all(case.seen.at >= at + _SETTLED for at in ended)


def _repeated(case: _Case, action: _Action) -> Wait | None:
    """The pause before the same order of the same document is given again: 30 s, doubling, at most 5 min."""
    alike = list(takewhile(lambda each: _is_like(each, case, action), reversed(case.orders)))
    if not alike:
        return None
    pause = min(FIRST_PAUSE * 2 ** min(len(alike) - 1, 8), LONGEST_PAUSE)
    until = alike[0].order.spec.ordered_at + pause
    if not _rests(case.now, alike[0].order.spec.ordered_at, until):
        return None
    return case.wait(action, "OrderRepeated", _how_it_ended(alike[0]), until)


def _is_like(each: StateOperation, case: _Case, action: _Action) -> bool:
    spec = each.order.spec
    return (spec.action, spec.document_digest) == (action, case.service.digest)


def _how_it_ended(last: StateOperation) -> str:
    spec = last.result.spec if last.result else None
    return f"the last one {spec.outcome} ({spec.reason})" if spec else "the last one was given up"


def _correction_obstacle(case: _Case) -> Wait | None:
    service = case.service.document
    if correction_stopped(case.orders, case.service.digest, case.correction, case.acknowledged):
        message = "it drifted back after every correction; change its document, or acknowledge"
        return case.wait("configure", "CorrectionStopped", message)
    frozen = frozen_until(case.state.policy.document, service.metadata.labels, "", case.now)
    if frozen:
        return case.wait("configure", "Frozen", "a freeze of the policy covers it", frozen)
    given = [each for each in case.orders if each.order.spec.action == CONFIGURE]
    if not given:
        return None
    last = given[-1].order.spec.ordered_at
    if not _rests(case.now, last, last + case.correction.every):
        return None
    return case.wait("configure", "CorrectionPaused", _how_it_ended(given[-1]), last + case.correction.every)


def _rests(now: datetime, since: datetime, until: datetime) -> bool:
    """Whether a pause lasts. One that begins in the future was dated by a wrong clock and holds nothing."""
    return since <= now < until
