"""Everything a decision depends on, as one value. Made by the reconciler and `capsule plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from capsule.decide.ledger import Ledger, read_ledger
from capsule.decide.open import OpenRequests, open_requests
from capsule.lifecycle import Observation, Records
from capsule.trust.state import JudgedRequest, MainState


@dataclass(frozen=True)
class World:
    """Everything a decision depends on. `reconciler` is our own principal name.

    `lost_leases` are claims of others (request, service), `lost_orders` desired-state orders of others (by
    service), silent for longer than the lease by this observer's own monotonic clock. `converge_only` names
    the services whose convergence and rotation are looked at (None: all); `ledger` is that of `records`, kept
    from pass to pass (None: it is read), `open_before` the requests that were open in the pass before.
    `taken` are names of requests whose branches hold no request.
    """

    state: MainState
    requests: Mapping[str, JudgedRequest]
    records: Records
    now: datetime
    reconciler: str
    observations: Mapping[str, Observation] = field(default_factory=dict)
    lost_leases: frozenset[tuple[str, str]] = frozenset()
    quarantined: frozenset[str] = frozenset()
    converge_only: frozenset[str] | None = None
    lost_orders: frozenset[str] = frozenset()
    ledger: Ledger | None = None
    open_before: OpenRequests | None = None
    taken: frozenset[str] = frozenset()

    @cached_property
    def book(self) -> Ledger:
        """The ledger of `records`."""
        return read_ledger(self.records, self.ledger)

    @cached_property
    def open(self) -> OpenRequests:
        """The requests worth a look: those that are not finished."""
        return open_requests(self.requests, self.records, self.open_before)

    def converging(self) -> list[str]:
        """The names of the services whose convergence is looked at, in order."""
        services = self.state.services
        if self.converge_only is None:
            return sorted(services)
        return sorted(name for name in self.converge_only if name in services)
