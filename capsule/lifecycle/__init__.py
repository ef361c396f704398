"""Phases of a request and effectiveStatus of a service: derived from what exists, stored nowhere.

Rules kept: pure; the first match wins, in the order of the design. Called by decide, plan and view.
"""

from capsule.lifecycle.phase import FINAL, Phase, PhaseNow, request_phase
from capsule.lifecycle.records import (
    Month,
    OperationRecord,
    Records,
    RequestRecords,
    StateOperation,
    StateRecords,
    read_records,
)
from capsule.lifecycle.status import Observation, StatusNow, effective_status, followed

__all__ = [
    "FINAL",
    "Month",
    "Observation",
    "OperationRecord",
    "Phase",
    "PhaseNow",
    "Records",
    "RequestRecords",
    "StateOperation",
    "StateRecords",
    "StatusNow",
    "effective_status",
    "followed",
    "read_records",
    "request_phase",
]
