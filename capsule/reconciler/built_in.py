"""Actions that a reconciler carries out itself, without an agent: cancel, abort, acknowledge.

Rules kept: claim and result of every target stand in one commit, and with them the end of the request they
name; no agent takes part, so there is no receipt. Called by the reconciler.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from capsule.decide import Acknowledge, Begin, Cancel
from capsule.documents.types import Scalar
from capsule.lifecycle import Records
from capsule.reconciler.claiming import Claiming
from capsule.reconciler.recording import (
    Facts,
    Outcome,
    joined,
    make_refusal,
    make_result,
    refusal_facts,
    result_facts,
)
from capsule.trust.state import JudgedRequest, MainState
from capsule_agent.protocol.ids import operation_id

ACKNOWLEDGED = "Acknowledged"


class BuiltIn:
    """Carries out built-in actions for one reconciler."""

    def __init__(self, claiming: Claiming) -> None:
        self._claiming = claiming

    def ended(self, cancel: Cancel, state: MainState, records: Records, now: datetime) -> list[Facts]:
        """The end of a request that another one cancelled or aborted."""
        reason, word = (
            ("CancelledByRequest", "cancelled") if cancel.tombstone else ("AbortedByRequest", "aborted")
        )
        message = _who(cancel.request, word)
        victim = cancel.victim
        refusal = make_refusal(victim, "Cancelled", reason, message, state.tip, now)
        ended = refusal_facts(victim, refusal, records.of(victim.name))
        return [ended, *self._done(cancel.request, state, records, now, reason, message)]

    def acknowledged(
        self, found: Acknowledge, state: MainState, records: Records, now: datetime
    ) -> list[Facts]:
        """That people know of a condition, or of a broken glass; the results carry which."""
        message = _who(found.request, f"{found.subject} acknowledged")
        outputs: dict[str, Scalar] = {found.param: found.subject}
        if found.since:
            outputs["since"] = found.since
        return self._done(found.request, state, records, now, ACKNOWLEDGED, message, outputs)

    def _done(
        self,
        judged: JudgedRequest,
        state: MainState,
        records: Records,
        now: datetime,
        reason: str,
        message: str,
        outputs: dict[str, Scalar] | None = None,
    ) -> list[Facts]:
        """Claims and results of all targets."""
        errands = self._claiming.errands(_begins(judged, state), state, records, {})
        outcomes = [
            Outcome(
                errand.folder,
                errand.claim,
                make_result(errand.claim, "succeeded", reason, message, now, outputs=outputs),
            )
            for errand in errands
        ]
        # Both stand in one commit, which is told by how it ended and not by how it began.
        claimed, done = self._claiming.facts(errands), result_facts(outcomes)
        return [replace(joined([claimed, done]), subject=done.subject)]


def _begins(judged: JudgedRequest, state: MainState) -> list[Begin]:
    """One operation for every target that is in force."""
    targets = judged.document.spec.targets if judged.document else ()
    return [
        Begin(judged, state.services[name], operation_id(state.root, judged.name, judged.digest, name))
        for name in targets
        if name in state.services
    ]


def _who(judged: JudgedRequest, word: str) -> str:
    spec = judged.document.spec if judged.document else None
    return f"{word} by {spec.requested_by if spec else ''} in {judged.name}: {spec.reason if spec else ''}"
