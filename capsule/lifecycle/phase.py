"""The phase of a request: one word, derived from the request as judged and from its records.

Rules kept: pure; nothing stores a phase, so nothing can disagree with it. Called by decide and view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from capsule.lifecycle.records import OperationRecord, RequestRecords
from capsule.trust.state import JudgedRequest

Phase = Literal[
    "Proposed",
    "Approved",
    "Held",
    "Running",
    "Succeeded",
    "Failed",
    "Stopped",
    "Rejected",
    "Expired",
    "Cancelled",
    "Unknown",
]
FINAL: frozenset[Phase] = frozenset(
    {"Succeeded", "Failed", "Stopped", "Rejected", "Expired", "Cancelled", "Unknown"}
)
MOST_NAMES = 5
_WRONG = ("failed", "refused", "unknown")
_ONE_OUTCOME: dict[str, Phase] = {
    "succeeded": "Succeeded",
    "failed": "Failed",
    "refused": "Failed",
    "unknown": "Unknown",
    "cancelled": "Cancelled",
}


@dataclass(frozen=True, slots=True)
class PhaseNow:
    """A phase with its reason code and a line for people."""

    phase: Phase
    reason: str = ""
    message: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing further will happen."""
        return self.phase in FINAL


def request_phase(
    judged: JudgedRequest | None, records: RequestRecords | None, hold: PhaseNow | None = None
) -> PhaseNow:
    """The phase of one request.

    `judged` is None when the request itself is gone (a deleted branch) and records alone remain; `hold`
    is what decide found in the way of an approved request.
    """
    if records and records.operations:
        return _from_operations(judged, records)
    if records and records.refusal:
        refusal = records.refusal.spec
        return PhaseNow(refusal.phase, refusal.reason, refusal.message)
    if judged is None:
        return PhaseNow("Unknown", "RequestGone", "the request is no longer in the repository")
    return _from_verdict(judged, hold)


def may_continue(judged: JudgedRequest, records: RequestRecords) -> bool:
    """Whether targets that were not begun may still be: not after a failure under `onFailure: stop`."""
    if judged.document is None or judged.document.spec.rollout.on_failure == "continue":
        return True
    done = [operation.result for operation in records.operations.values() if operation.result]
    return all(result.spec.outcome == "succeeded" for result in done)


def _from_verdict(judged: JudgedRequest, hold: PhaseNow | None) -> PhaseNow:
    if judged.verdict == "approved":
        return hold or PhaseNow("Approved", "Approved", "waits for the next pass")
    if judged.verdict == "proposed":
        return PhaseNow("Proposed", judged.reason or "ApprovalsMissing", judged.message)
    if judged.verdict == "refused" and judged.reason == "Expired":
        return PhaseNow("Expired", judged.reason, judged.message)
    return PhaseNow("Rejected", judged.reason, judged.message)


def _from_operations(judged: JudgedRequest | None, records: RequestRecords) -> PhaseNow:
    operations = tuple(records.operations.values())
    if any(operation.running for operation in operations):
        return PhaseNow("Running", "Running", _counts(operations, _not_begun(judged, records)))
    waiting = _not_begun(judged, records)
    outcomes = {operation.result.spec.outcome for operation in operations if operation.result}
    if waiting and records.refusal is None and judged and may_continue(judged, records):
        return PhaseNow("Running", "Running", _counts(operations, waiting))
    if waiting:
        return PhaseNow("Stopped", _why_stopped(records), _counts(operations, waiting))
    if len(outcomes) == 1:
        phase = _ONE_OUTCOME[next(iter(outcomes))]
        return PhaseNow(phase, _one_reason(operations), _one_message(operations))
    phase = "Unknown" if "unknown" in outcomes else "Failed"
    return PhaseNow(phase, phase, _counts(operations, ()))


def _why_stopped(records: RequestRecords) -> str:
    """The reason of the refusal that ended it (an abort, a cancel, its expiry), or Stopped for a failure."""
    return records.refusal.spec.reason if records.refusal else "Stopped"


def _not_begun(judged: JudgedRequest | None, records: RequestRecords) -> Sequence[str]:
    if judged is None or judged.document is None:
        return ()
    return [name for name in judged.document.spec.targets if name not in records.operations]


def _one_reason(operations: Sequence[OperationRecord]) -> str:
    return next(operation.result.spec.reason for operation in operations if operation.result)


def _one_message(operations: Sequence[OperationRecord]) -> str:
    if len(operations) == 1 and operations[0].result:
        return operations[0].result.spec.message
    return _counts(operations, ())


def _counts(operations: Sequence[OperationRecord], waiting: Sequence[str]) -> str:
    """Such as "2 succeeded, 1 failed (openai-chat), 9 not started": who needs a look is named."""
    counts = Counter(_outcome(item) for item in operations)
    order = ("succeeded", "failed", "refused", "unknown", "cancelled", "running")
    parts = [f"{counts[word]} {word}{_named(operations, word)}" for word in order if counts[word]]
    if waiting:
        parts.append(f"{len(waiting)} not started")
    return ", ".join(parts)


def _outcome(operation: OperationRecord) -> str:
    return operation.result.spec.outcome if operation.result else "running"


def _named(operations: Sequence[OperationRecord], outcome: str) -> str:
    """The services whose operation went wrong, at most MOST_NAMES of them."""
    if outcome not in _WRONG:
        return ""
    names = [item.service for item in operations if _outcome(item) == outcome]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f" ({', '.join(names[:MOST_NAMES])}{more})"
