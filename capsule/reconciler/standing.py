"""How many services and requests stand in which state, counted from what a reconciler holds.

Rules kept: the words are those on record and the derived phases; values that were read are never changed,
so another thread may count. Called by the daemon's metrics when somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from capsule.documents.types import ServiceStatus
from capsule.lifecycle import PhaseNow, Records, request_phase
from capsule.trust.state import JudgedRequest

UNSEEN = "UNKNOWN"
DRIFT = "Drift"


@dataclass(frozen=True, slots=True)
class Standing:
    """Services by effectiveStatus on record and by condition (`Drift` among them), requests by phase."""

    services: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)


def count(
    statuses: Iterable[ServiceStatus | None],
    requests: Mapping[str, JudgedRequest],
    records: Records,
    holds: Mapping[str, PhaseNow],
) -> Standing:
    """Count everything. `statuses`: one for each service in force, None where none is on record yet;
    `holds`: what the last decision found in the way of approved requests."""
    services: Counter[str] = Counter()
    conditions: Counter[str] = Counter()
    for status in statuses:
        services[status.spec.effective_status if status else UNSEEN] += 1
        if status:
            conditions.update({condition.type for condition in status.spec.conditions})
            conditions[DRIFT] += bool(status.spec.drift)
    recorded = {request.name: request for request in records.all()}
    phases: Counter[str] = Counter(
        request_phase(requests.get(name), recorded.get(name), holds.get(name)).phase
        for name in {*requests, *recorded}
    )
    return Standing(services, conditions, phases)
