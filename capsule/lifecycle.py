"""Phases of a request and effectiveStatus of a service: derived, stored nowhere.

Rules kept: pure; first match wins, in the order of the design. Called by decide, plan and view.
"""

from __future__ import annotations

from typing import Literal

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
