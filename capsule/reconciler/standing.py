"""How many services and requests stand in which state, counted from what a reconciler holds.

Rules kept: the words are those on record and the derived phases; values that were read are never changed,
so another thread may count. Called by the daemon's metrics when somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Month, PhaseNow, Records, RequestRecords, request_phase
from capsule.trust.requests import RequestSet
from capsule.trust.state import JudgedRequest

UNSEEN = "UNKNOWN"
DRIFT = "Drift"
_NONE: Mapping[str, JudgedRequest] = {}


@dataclass(frozen=True, slots=True)
class Standing:
    """Services by effectiveStatus on record and by condition (`Drift` among them), requests by phase."""

    services: Mapping[str, int] = field(default_factory=dict)
    conditions: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _SettledMonth:
    """The phases of a month's requests that are begun or refused, as judged and recorded in that month; and
    the names of all others."""

    judged: Mapping[str, JudgedRequest]
    recorded: Month | None
    phases: Counter[str]
    others: tuple[str, ...]


class Standings:
    """Counts again and again: of requests, only months of which something changed are walked."""

    def __init__(self) -> None:
        self._months: Mapping[str, _SettledMonth] = {}

    def count(
        self,
        statuses: Iterable[ServiceStatus | None],
        requests: RequestSet,
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
        months = {
            label: _settled(
                requests.months.get(label, {}), records.months.get(label), self._months.get(label)
            )
            for label in requests.months.keys() | records.months.keys()
        }
        phases: Counter[str] = Counter()
        for month in months.values():
            phases.update(month.phases)
        others = {name for month in months.values() for name in month.others} | requests.on_branches
        phases.update(
            request_phase(requests.get(name), records.of(name), holds.get(name)).phase for name in others
        )
        self._months = months
        return Standing(services, conditions, phases)


def _settled(
    judged: Mapping[str, JudgedRequest], recorded: Month | None, known: _SettledMonth | None
) -> _SettledMonth:
    if known and known.judged is judged and known.recorded is recorded:
        return known
    records = recorded.requests if recorded else {}
    begun = {name for name in judged if (known_of := records.get(name)) and _begun(known_of)}
    phases = Counter(request_phase(judged[name], records[name]).phase for name in begun)
    others = (name for name in judged.keys() | records.keys() if name not in begun)
    return _SettledMonth(judged, recorded, Counter[str](phases), tuple(others))


def _begun(records: RequestRecords) -> bool:
    """Whether what is recorded tells the phase, whatever is in the way of the request now."""
    return bool(records.operations) or records.refusal is not None
