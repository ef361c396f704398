"""Desired-state orders of one reconciler: recorded, then told again and again until there is a receipt.

Rules kept: an order leaves only after it is recorded; the same order is told again with the same id and
generation; a later order about the same thing silences the one before; `disable` leaves before everything
else, on threads of its own that nothing slow can occupy; another reconciler's silence is measured by our own
monotonic clock. Called by the reconciler.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capsule.decide import Converge, LastWord
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


@dataclass(slots=True)
class _Retry:
    """When an order that brought no receipt is told again, by the monotonic clock."""

    due: float
    failures: int


class Unanswered:
    """The desired-state orders without a result, found again only where records changed."""

    def __init__(self) -> None:
        self._tree: str | None = None
        self._kept: dict[str, StateRecords] = {}
        self._open: dict[str, tuple[StateOperation, ...]] = {}

    def read(self, records: Records) -> None:
        """Take in the records as they are now."""
        if records.desired_tree == self._tree:
            return
        for name, kept in records.desired.items():
            if self._kept.get(name) is not kept:
                self._kept[name] = kept
                self._note(name, _unanswered(kept.operations))
        for name in self._kept.keys() - records.desired.keys():
            del self._kept[name]
            self._note(name, ())
        self._tree = records.desired_tree

    def __iter__(self) -> Iterator[StateOperation]:
        return (operation for operations in self._open.values() for operation in operations)

    def _note(self, name: str, operations: tuple[StateOperation, ...]) -> None:
        if operations:
            self._open[name] = operations
        else:
            self._open.pop(name, None)


class DesiredState:
    """Tells agents to be as their documents say."""

    def __init__(self, courier: Courier, name: str, clock: Clock, landed: threading.Event) -> None:
        self._courier = courier
        self._name = name
        self._clock = clock
        self._flights: Flights[Key, StateAnswer] = Flights(AT_ONCE, "state", landed)
        self._unanswered = Unanswered()
        self._since: dict[Key, float] = {}
        self._retries: dict[Key, _Retry] = {}
        self._waits: dict[Key, str] = {}
        self._outcomes: dict[Key, StateOutcome] = {}

    def read(self, records: Records) -> None:
        """Take in the records as they are now; what was recorded meanwhile is done here."""
        self._unanswered.read(records)
        open_now = {_key(operation.order) for operation in self._unanswered}
        for kept in (self._retries, self._waits, self._outcomes):
            for key in [key for key in kept if key not in open_now]:
                del kept[key]

    def silent(self, lease: float) -> frozenset[str]:
        """Services with an order of another reconciler that has no result for more than `lease` seconds."""
        now = self._clock.monotonic()
        others = (item.order for item in self._unanswered if item.order.spec.reconciler != self._name)
        self._since = {key: self._since.get(key, now) for key in map(_key, others)}
        return frozenset(key[0] for key, since in self._since.items() if now - since > lease)

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

        `words`: the last ones on `enabled`. An `enable` is told no more once its document or people say
        otherwise.
        """
        anew = {_about(order) for order in recorded}
        again = [
            item.order
            for item in self._unanswered
            if self._is_due(item.order)
            and _about(item.order) not in anew
            and _still_wanted(item.order, state, words)
        ]
        if state.suspended:
            return
        for order in sorted((*recorded, *again), key=lambda item: _FIRST[item.spec.action]):
            service = state.services.get(order.spec.service)
            if service is not None and service.document.spec.agent.key is not None:
                self._start(order, service, state)

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

    def _start(self, order: StateOrder, service: InForce[Service], state: MainState) -> None:
        with about(service=order.spec.service):
            self._flights.start(_key(order), lambda: self._courier.tell_state(order, service, state))

    def _is_due(self, order: StateOrder) -> bool:
        key = _key(order)
        if order.spec.reconciler != self._name or key in self._flights or key in self._outcomes:
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
    if order.spec.action != "enable":
        return True
    service, word = state.services.get(order.spec.service), words.get(order.spec.service)
    return service is not None and service.document.spec.enabled and not (word and word.holds)


def _key(order: StateOrder) -> Key:
    return order.spec.service, order.spec.generation


def _unanswered(operations: Sequence[StateOperation]) -> tuple[StateOperation, ...]:
    """The newest order about each thing, where it has no result: those before it are refused by agents."""
    newest = {_SUBJECT[item.order.spec.action]: item for item in operations}
    return tuple(item for item in newest.values() if item.result is None)
