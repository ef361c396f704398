"""The effects a pass may have, as values with reason codes. Called by decide, plan and the reconciler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from capsule.documents.types import Claim, Service, ServiceStatus
from capsule.trust.state import InForce, JudgedRequest


@dataclass(frozen=True, slots=True)
class Begin:
    """Claim one operation, then order it. `attempt` is 1, or one more than a claim whose lease ran out
    (`takeover`: ask the agent first)."""

    request: JudgedRequest
    service: InForce[Service]
    op_id: str
    attempt: int = 1
    takeover: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the agent what became of an operation this reconciler claimed and has no result for."""

    request: JudgedRequest | None
    service: InForce[Service]
    claim: Claim


@dataclass(frozen=True, slots=True)
class Refuse:
    """Record that a request ends without (further) execution, and why."""

    request: JudgedRequest
    phase: Literal["Rejected", "Expired", "Cancelled"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Carry out an approved `cancel`: record that `victim` ends. What of it runs already is tombstoned when
    its agent is asked next."""

    request: JudgedRequest
    victim: JudgedRequest


@dataclass(frozen=True, slots=True)
class Hold:
    """An approved request, or one of its targets, waits: why, and until when if that is known."""

    request: JudgedRequest
    reason: str
    message: str
    service: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Record the status of a service, because something material changed: `subject` says what."""

    service: InForce[Service]
    status: ServiceStatus
    subject: str


Effect = Begin | Ask | Refuse | Cancel | Hold | SetStatus


@dataclass(frozen=True, slots=True)
class Decision:
    """All effects of one pass, by kind."""

    begin: tuple[Begin, ...] = ()
    ask: tuple[Ask, ...] = ()
    refuse: tuple[Refuse, ...] = ()
    cancel: tuple[Cancel, ...] = ()
    hold: tuple[Hold, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done (holds are not done)."""
        return not (self.begin or self.ask or self.refuse or self.cancel)
