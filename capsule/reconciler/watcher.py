"""Who is told what passes do, as it happens: the reconciler itself counts and measures nothing.

Rules kept: a watcher is told of what is recorded, never of what might be; it is called from the pass's own
thread, must not block, and a watcher that fails is a defect. Implemented by the daemon's metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from capsule.lifecycle import Observation
from capsule.store.api import StoreError

_FIELDS = {
    "Capsule-Request": "request",
    "Capsule-Service": "service",
    "Capsule-Action": "action",
    "Capsule-Outcome": "outcome",
    "Capsule-Reason": "reason",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a commit on audit, as its trailers tell it; what they do not say is empty."""

    request: str = ""
    service: str = ""
    action: str = ""
    outcome: str = ""
    reason: str = ""


class Watcher(Protocol):
    """Is told what happens."""

    def recorded(self, commit: str, facts: Sequence[Fact]) -> None:
        """A commit stands on audit."""
        ...

    def probed(self, seen: Observation, late: float) -> None:
        """A probe landed, which was sent off `late` seconds after it fell due."""
        ...

    def beaten(self, at: datetime) -> None:
        """A heartbeat was written."""
        ...

    def troubled(self, error: StoreError) -> None:
        """The repository, or its remote, did not do what it was asked."""
        ...


class Unwatched:
    """The watcher that takes no note."""

    def recorded(self, commit: str, facts: Sequence[Fact]) -> None:
        """Nothing."""

    def probed(self, seen: Observation, late: float) -> None:
        """Nothing."""

    def beaten(self, at: datetime) -> None:
        """Nothing."""

    def troubled(self, error: StoreError) -> None:
        """Nothing."""


def facts_of(trailers: Sequence[tuple[str, str]]) -> Iterator[Fact]:
    """The facts that a commit's trailers tell, in their order.

    A fact begins with its request, or with its service where there is no request, and never names one
    thing twice.
    """
    current: dict[str, str] = {}
    for trailer, value in trailers:
        name = _FIELDS.get(trailer)
        if name is None:
            continue
        if name in current or name == "request" or (name == "service" and "action" in current):
            if current:
                yield Fact(**current)
            current = {}
        current[name] = value
    if current:
        yield Fact(**current)
