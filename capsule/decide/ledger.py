"""What the records say of each service over time: last words on `enabled`, acknowledgements, last changes.

Rules kept: pure; records only grow, so only those that are new are looked at, and a set of records that lost
something is read anew. Called by decide (when its world brings no ledger) and by the reconciler, which keeps
one from pass to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from capsule.documents.types import Result
from capsule.lifecycle import OperationRecord, Records, RequestRecords, StateOperation, StateRecords
from capsule.trust.last_words import last_word, unsettled
from capsule.trust.state import JudgedRequest
from capsule_agent.protocol.messages import instant
from capsule_agent.protocol.strict_json import InvalidMessage

ACKNOWLEDGE = "acknowledge"
SWITCHES: Mapping[str, Literal["enable", "disable"]] = {"enable": "enable", "disable": "disable"}
CHANGES_NOTHING = frozenset({"runHealthCheck", ACKNOWLEDGE, "abort"})
"""Actions after which a value that changed is as unexplained as before."""


@dataclass(frozen=True, slots=True)
class LastWord:
    """Who last said whether a service takes traffic, and what: a request of people, or a state order.

    `at` is when its result was recorded; `why` is what the agent repeated of the reason, if anything;
    `finished` is when the agent says that it was done.
    """

    by: Literal["request", "state"]
    action: Literal["enable", "disable"]
    at: datetime
    request: str = ""
    why: str = ""
    finished: datetime | None = None

    @property
    def done(self) -> datetime:
        """When it was done, by the agent's clock where it said so."""
        return self.finished or self.at

    @property
    def holds(self) -> bool:
        """Whether people disabled the service by request, and nothing settled that yet."""
        return self.by == "request" and self.action == "disable"

    @property
    def rank(self) -> tuple[datetime, bool, bool, str]:
        """Of two at the same time a request counts, and of two requests the one that disables."""
        return self.at, self.by == "request", self.action == "disable", self.request


@dataclass(frozen=True, slots=True)
class LastChange:
    """The last operation on a service that may change a value, and when its result was recorded (None while
    it is under way)."""

    op_id: str
    ended: datetime | None

    def over_at(self, seen: datetime) -> bool:
        """Whether a probe at `seen` certainly came after it; results are recorded to the second."""
        return self.ended is not None and seen >= self.ended + timedelta(seconds=1)


@dataclass(frozen=True)
class Ledger:
    """By service: the last word on `enabled`, since when the conditions lasted that were acknowledged (by
    their type), and the last change. `records` are those it was read from."""

    records: Records = field(default_factory=Records, repr=False)
    words: Mapping[str, LastWord] = field(default_factory=dict)
    acknowledged: Mapping[str, Mapping[str, frozenset[datetime]]] = field(default_factory=dict)
    changed: Mapping[str, tuple[datetime, LastChange]] = field(default_factory=dict, repr=False)
    said: Mapping[str, tuple[LastWord, ...]] = field(default_factory=dict, repr=False)

    def last_change(self, service: str) -> LastChange | None:
        """The last operation on `service` that may have changed a value."""
        found = self.changed.get(service)
        return found[1] if found else None

    def acknowledged_at(self, service: str, condition: str) -> datetime | None:
        """Since when the last condition of that type lasted that was acknowledged for `service`."""
        return max(self.acknowledged.get(service, {}).get(condition, ()), default=None)


def read_ledger(records: Records, known: Ledger | None = None) -> Ledger:
    """The ledger of `records`; with the one `known` before, only what is new is looked at."""
    if known and known.records is records:
        return known
    old = known or Ledger()
    if not _grew(old.records, records):
        old = Ledger()
    book = _Book(dict(old.words), dict(old.acknowledged), dict(old.changed), dict(old.said))
    for request in _new_requests(old.records, records):
        for operation in request.operations.values():
            book.operation(operation)
    for kept in _new_orders(old.records, records):
        book.orders(kept)
    return Ledger(records, book.words, book.acknowledged, book.changed, book.said)


def why(word: LastWord, requests: Mapping[str, JudgedRequest]) -> str:
    """What people gave as the reason of a word: that of its request, or what the agent repeated of it."""
    judged = requests.get(word.request)
    if judged is None or judged.document is None:
        return f"{word.request}: {word.why}" if word.why else word.request
    spec = judged.document.spec
    return f"{spec.requested_by} in {word.request}: {spec.reason}"


# ---- reading ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Book:
    """A ledger being written."""

    words: dict[str, LastWord]
    acknowledged: dict[str, Mapping[str, frozenset[datetime]]]
    changed: dict[str, tuple[datetime, LastChange]]
    said: dict[str, tuple[LastWord, ...]]

    def operation(self, operation: OperationRecord) -> None:
        """One operation of a request."""
        claim, result = operation.claim, operation.result
        if claim and claim.spec.action not in CHANGES_NOTHING:
            ended = result.spec.recorded_at if result else None
            self._change(
                operation.service, ended or claim.spec.claimed_at, LastChange(claim.spec.op_id, ended)
            )
        if result:
            self._said(operation.service, result)

    def orders(self, kept: StateRecords) -> None:
        """The state orders of one service."""
        for operation in kept.operations:
            self._ordered(operation)

    def _said(self, service: str, result: Result) -> None:
        spec = result.spec
        switch = SWITCHES.get(spec.action)
        # a disable of which nobody knows how it ended may have been done: it holds like one that was
        done = spec.outcome == "succeeded" or (spec.outcome == "unknown" and switch == "disable")
        if switch and done:
            said = str(spec.outputs.get("disabledReason", "")).removeprefix(f"request {spec.request}: ")
            word = LastWord("request", switch, spec.recorded_at, spec.request, said, spec.finished_at)
            self._word(service, word)
        condition, since = spec.outputs.get("condition"), spec.outputs.get("since")
        if spec.action == ACKNOWLEDGE and done and isinstance(condition, str):
            before = self.acknowledged.get(service, {})
            known = before.get(condition, frozenset())
            self.acknowledged[service] = {**before, condition: known | _times(since)}

    def _ordered(self, operation: StateOperation) -> None:
        order, result = operation.order.spec, operation.result
        ended = result.spec.recorded_at if result else None
        if order.action == "configure":
            self._change(operation.service, ended or order.ordered_at, LastChange(order.op_id, ended))
        elif result and result.spec.outcome == "succeeded":
            ended_at = result.spec.finished_at
            self._word(
                operation.service,
                LastWord("state", order.action, result.spec.recorded_at, finished=ended_at),
            )

    def _word(self, service: str, word: LastWord) -> None:
        known = self.said.get(service, ())
        if word in known:  # the records of a service that grew are read whole
            return
        self.said[service] = unsettled((*known, word))
        self.words[service] = last_word(self.said[service]) or word

    def _change(self, service: str, at: datetime, change: LastChange) -> None:
        known = self.changed.get(service)
        if known is None or known[1].op_id == change.op_id or (at, change.op_id) > (known[0], known[1].op_id):
            self.changed[service] = (at, change)


def _times(text: object) -> frozenset[datetime]:
    """The time that a record names, where it does: whoever may record may write anything."""
    try:
        return frozenset([instant(str(text))])
    except InvalidMessage:
        return frozenset()


def _new_requests(old: Records, new: Records) -> Iterator[RequestRecords]:
    for name, month in new.months.items():
        before = old.months.get(name)
        if before is month:
            continue
        known = before.requests if before else {}
        for request, records in month.requests.items():
            if known.get(request) is not records:
                yield records


def _new_orders(old: Records, new: Records) -> Iterator[StateRecords]:
    for service, kept in new.desired.items():
        if old.desired.get(service) is not kept:
            yield kept


def _grew(old: Records, new: Records) -> bool:
    """Whether `new` holds all that `old` did: nothing was taken back."""
    if not (old.months.keys() <= new.months.keys() and old.desired.keys() <= new.desired.keys()):
        return False
    months = ((month, new.months[name]) for name, month in old.months.items())
    return all(
        before is after or _month_grew(before.requests, after.requests) for before, after in months
    ) and all(
        kept is new.desired[name] or len(kept.operations) <= len(new.desired[name].operations)
        for name, kept in old.desired.items()
    )


def _month_grew(old: Mapping[str, RequestRecords], new: Mapping[str, RequestRecords]) -> bool:
    return old.keys() <= new.keys() and all(
        before is new[name] or _request_grew(before, new[name]) for name, before in old.items()
    )


def _request_grew(old: RequestRecords, new: RequestRecords) -> bool:
    return all(
        operation.result is None or (name in new.operations and new.operations[name].result is not None)
        for name, operation in old.operations.items()
    )
