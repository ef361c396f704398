"""Desired-state orders of one reconciler: recorded, then told again and again until there is a receipt.

Rules kept: an order leaves only after it is recorded; the same order is told again with the same id and
generation; what a later order, a later text of the document or a person's word overrules is told no more but
withdrawn: its agent is asked what became of it, and told never to begin it; `disable` leaves before
everything else, on threads of its own that nothing slow can occupy; another reconciler's silence is measured
by our own monotonic clock. Called by the reconciler.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from capsule.decide import Converge, LastWord, within_reach
from capsule.documents.problems import shown
from capsule.documents.types import Service, StateOrder
from capsule.lifecycle import Records, StateOperation, StateRecords
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.flights import Flights
from capsule.reconciler.orders import Courier, StateAnswer
from capsule.reconciler.state_records import StateOutcome, make_order
from capsule.trust.state import InForce, MainState

log = logging.getLogger("capsule.reconciler")
AT_ONCE = 32
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
MAX_WAIT = 200
_FIRST = {"disable": 0, "enable": 1, "configure": 2}
_SUBJECT = {"disable": "enabled", "enable": "enabled", "configure": "configure"}
"""What an order is about: agents hold generations apart by the same words."""
Key = tuple[str, int]
_Call = Callable[[StateOrder, InForce[Service], MainState], StateAnswer]


@dataclass(slots=True)
class _Retry:
    """When an order that brought no receipt is told again, by the monotonic clock."""

    due: float
    failures: int


class Unanswered:
    """The desired-state orders without a result, found again only where records changed, or where one is
    dated too far ahead to count."""

    def __init__(self) -> None:
        self._tree: str | None = None
        self._kept: dict[str, StateRecords] = {}
        self._ahead: set[str] = set()
        self._newest: dict[str, tuple[StateOperation, ...]] = {}
        self._replaced: dict[str, tuple[StateOperation, ...]] = {}

    def read(self, records: Records, now: datetime) -> None:
        """Take in the records as they are now."""
        if records.desired_tree == self._tree and not self._ahead:
            return
        for name, kept in records.desired.items():
            if self._kept.get(name) is not kept or name in self._ahead:
                self._kept[name] = kept
                self._note(name, kept.operations, now)
        for name in self._kept.keys() - records.desired.keys():
            del self._kept[name]
            self._note(name, (), now)
        self._tree = records.desired_tree

    def __iter__(self) -> Iterator[StateOperation]:
        """All of them."""
        yield from self.newest()
        yield from self.replaced()

    def newest(self) -> Iterator[StateOperation]:
        """Those that are the newest about what they tell."""
        return (operation for operations in self._newest.values() for operation in operations)

    def replaced(self) -> Iterator[StateOperation]:
        """Those that a later one about the same thing replaced, or that are dated too far ahead to count."""
        return (operation for operations in self._replaced.values() for operation in operations)

    def _note(self, name: str, operations: Sequence[StateOperation], now: datetime) -> None:
        counted = within_reach(operations, now)
        self._ahead.discard(name)
        if len(counted) < len(operations):
            self._ahead.add(name)
        last = {_SUBJECT[item.order.spec.action]: item.generation for item in counted}
        opened = [item for item in operations if item.result is None]
        newest = tuple(item for item in opened if item.generation in last.values())
        replaced = tuple(item for item in opened if item.generation not in last.values())
        for kept, found in ((self._newest, newest), (self._replaced, replaced)):
            kept.pop(name, None)
            if found:
                kept[name] = found


class DesiredState:
    """Tells agents to be as their documents say."""

    def __init__(self, courier: Courier, name: str, clock: Clock, landed: threading.Event) -> None:
        self._courier = courier
        self._name = name
        self._clock = clock
        self._flights: Flights[Key, StateAnswer] = Flights(AT_ONCE, "state", landed)
        self._unanswered = Unanswered()
        self._since: dict[Key, float] = {}
        self._lost: frozenset[Key] = frozenset()
        self._retries: dict[Key, _Retry] = {}
        self._waits: dict[Key, str] = {}
        self._outcomes: dict[Key, StateOutcome] = {}

    def read(self, records: Records) -> None:
        """Take in the records as they are now; what was recorded meanwhile is done here."""
        self._unanswered.read(records, self._clock.now())
        open_now = {_key(operation.order) for operation in self._unanswered}
        for kept in (self._retries, self._waits, self._outcomes):
            for key in [key for key in kept if key not in open_now]:
                del kept[key]

    def silent(self, lease: float) -> frozenset[str]:
        """Services whose newest order is another reconciler's, and silent for more than `lease` seconds."""
        now = self._clock.monotonic()
        others = (item.order for item in self._unanswered if item.order.spec.reconciler != self._name)
        self._since = {key: self._since.get(key, now) for key in map(_key, others)}
        self._lost = frozenset(key for key, since in self._since.items() if now - since > lease)
        newest = (_key(item.order) for item in self._unanswered.newest())
        return frozenset(key[0] for key in newest if key in self._lost)

    def orders(self, found: Sequence[Converge], state: MainState) -> list[StateOrder]:
        """The documents of new orders, `disable` first; at most one for each service."""
        firsts: dict[str, Converge] = {}
        for converge in sorted(found, key=lambda item: _FIRST[item.action]):
            firsts.setdefault(converge.service.document.metadata.name, converge)
        now = self._clock.now()
        return [
            make_order(converge, state.tip, self._name, self._clock.nonce(), now)
            for converge in firsts.values()
        ]

    def send(self, recorded: Sequence[StateOrder], state: MainState, words: Mapping[str, LastWord]) -> None:
        """Tell what was just recorded, and again what brought no receipt yet: `disable` first.

        `words`: the last ones on `enabled`. What is overruled is withdrawn instead: by a later order, by a
        later text of its document, or, an `enable`, by people who disabled the service.
        """
        if state.suspended:
            return
        anew = {_about(order) for order in recorded}
        again, overruled = list(recorded), [item.order for item in self._unanswered.replaced()]
        for item in self._unanswered.newest():
            wanted = _about(item.order) not in anew and _still_wanted(item.order, state, words)
            if not wanted:
                overruled.append(item.order)
            elif self._is_ours(item.order):
                again.append(item.order)
        for order in sorted(again, key=lambda each: _FIRST[each.spec.action]):
            self._start(self._courier.tell_state, order, state)
        for order in overruled:
            if self._is_ours(order) or _key(order) in self._lost:
                self._start(self._courier.withdraw_state, order, state)

    def collect(self) -> None:
        """Keep every answer that landed: an outcome until it is recorded, or why there is none yet."""
        for key, future in self._flights.take_landed():
            error = future.exception()
            with about(service=key[0]):
                if error is not None:
                    log.error("service %s: a desired-state order crashed", key[0], exc_info=error)
                    self._not_yet(
                        key, f"OrderCrashed: {type(error).__name__}; the reconciler's log says more"
                    )
                    continue
                answer = future.result()
                if answer.outcome:
                    self._outcomes[key] = answer.outcome
                    self._waits.pop(key, None)
                else:
                    log.info("service %s: %s: %s", key[0], answer.reason, answer.message)
                    self._not_yet(key, f"{answer.reason}: {shown(answer.message)}"[:MAX_WAIT])

    def outcomes(self, most: int) -> list[StateOutcome]:
        """Those to be recorded now, at most so many."""
        return list(self._outcomes.values())[:most]

    def recorded(self, outcomes: Sequence[StateOutcome]) -> None:
        """These stand on audit now."""
        for outcome in outcomes:
            self._outcomes.pop(outcome.key, None)

    def waits(self) -> Mapping[str, str]:
        """Why orders have no result yet, by `desired/<service>`."""
        return {f"desired/{service}": why for (service, _), why in self._waits.items()}

    @property
    def under_way(self) -> int:
        """Orders that have not landed."""
        return len(self._flights)

    @property
    def busy(self) -> int:
        """Orders under way, and outcomes not yet recorded."""
        return len(self._flights) + len(self._outcomes)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for what is under way."""
        self._flights.wait(seconds)

    def close(self) -> None:
        """End the threads; what is under way is told again after the next start."""
        self._flights.close()

    def _start(self, call: _Call, order: StateOrder, state: MainState) -> None:
        service = state.services.get(order.spec.service)
        if service is None or service.document.spec.agent.key is None or not self._is_due(order):
            return
        with about(service=order.spec.service):
            self._flights.start(_key(order), lambda: call(order, service, state))

    def _is_ours(self, order: StateOrder) -> bool:
        return order.spec.reconciler == self._name

    def _is_due(self, order: StateOrder) -> bool:
        key = _key(order)
        if key in self._flights or key in self._outcomes:
            return False
        retry = self._retries.get(key)
        return retry is None or retry.due <= self._clock.monotonic()

    def _not_yet(self, key: Key, why: str) -> None:
        known = self._retries.get(key)
        failures = known.failures + 1 if known else 1
        pause = min(FIRST_PAUSE * 2.0 ** (failures - 1), LONGEST_PAUSE)
        self._retries[key] = _Retry(self._clock.monotonic() + pause, failures)
        self._waits[key] = why


def _about(order: StateOrder) -> tuple[str, str]:
    """Service and subject: a later order about the same silences an earlier one."""
    return order.spec.service, _SUBJECT[order.spec.action]


def _still_wanted(order: StateOrder, state: MainState, words: Mapping[str, LastWord]) -> bool:
    """Whether the document in force still asks for an order that it asked for once. A `disable` is told on
    while one of people holds: the agent is disabled already, and only then may a document enable it."""
    spec, service = order.spec, state.services.get(order.spec.service)
    if service is None:
        return True
    if spec.action == "configure":
        return service.digest == spec.document_digest
    word = words.get(spec.service)
    held = word is not None and word.holds
    wants = service.document.spec.enabled
    return wants and not held if spec.action == "enable" else not wants or held


def _key(order: StateOrder) -> Key:
    return order.spec.service, order.spec.generation
