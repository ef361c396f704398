"""Whether a request may still have an effect. Called by the other parts of decide.

Rules kept: pure; what is recorded decides first, so that an edited request never begins again.
"""

from __future__ import annotations

from capsule.lifecycle import RequestRecords
from capsule.lifecycle.phase import may_continue
from capsule.trust.state import JudgedRequest


def finished(judged: JudgedRequest, records: RequestRecords | None) -> bool:
    """Whether nothing further is begun for a request, whatever comes."""
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
