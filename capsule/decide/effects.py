"""The effects a pass may have, as values with reason codes. Called by decide, plan and the reconciler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """Carry out an approved `cancel` or `abort`: record that `victim` ends.

    With `tombstone` (cancel) what of it runs already is tombstoned when its agent is asked next; without
    (abort) that goes on to its end, and only what was not begun never will be.
    """

    request: JudgedRequest
    victim: JudgedRequest
    tombstone: bool = True


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Carry out an approved `acknowledge`: record for every target that people know of `subject`.

    `param` says what that is: a `condition`, or the `request` for which the glass was broken. `since` is when
    the condition began that they saw, as they wrote it: it is of that one alone that they know. The result of
    each target carries all of it as outputs, so that the records alone tell it.
    """

    request: JudgedRequest
    param: Literal["condition", "request"]
    subject: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class Attest:
    """Ask the forge for the reviews of the pull request that brought a request to main, and record what it
    says where that is new."""

    request: JudgedRequest


@dataclass(frozen=True, slots=True)
class Hold:
    """An approved request, or one of its targets, waits: why, and until when if that is known."""

    request: JudgedRequest
    reason: str
    message: str
    service: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Converge:
    """Record a desired-state order, then tell the agent to be as the service's document says.

    `generation` is above every one recorded for the service; `params` are the pins to set, for configure.
    `reason` is a code, `message` a line for people.
    """

    service: InForce[Service]
    action: Literal["enable", "disable", "configure"]
    generation: int
    op_id: str
    params: Mapping[str, str | int | bool] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """A service is not as its document says, and nothing is ordered now: why, and when to look again.

    `until` is None where something else must change first: an observation, a record, a document.
    """

    service: str
    action: Literal["enable", "disable", "configure"]
    reason: str
    message: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Propose:
    """Ask, as this reconciler, for a rotation that falls due: a signed request on a branch of its own, which
    counts only when people approve it. `name` follows from service and due date, so it is made once."""

    service: InForce[Service]
    name: str
    due: datetime


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Record the status of a service, because something material changed: `subject` says what."""

    service: InForce[Service]
    status: ServiceStatus
    subject: str


Effect = Begin | Ask | Refuse | Cancel | Acknowledge | Attest | Hold | Converge | Wait | Propose | SetStatus


@dataclass(frozen=True, slots=True)
class Decision:
    """All effects of one pass, by kind."""

    begin: tuple[Begin, ...] = ()
    ask: tuple[Ask, ...] = ()
    refuse: tuple[Refuse, ...] = ()
    cancel: tuple[Cancel, ...] = ()
    acknowledge: tuple[Acknowledge, ...] = ()
    attest: tuple[Attest, ...] = ()
    hold: tuple[Hold, ...] = ()
    converge: tuple[Converge, ...] = ()
    wait: tuple[Wait, ...] = ()
    propose: tuple[Propose, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done (to hold and to wait is to do nothing)."""
        requested = self.begin or self.ask or self.refuse or self.cancel or self.acknowledge
        return not (requested or self.converge or self.propose)
