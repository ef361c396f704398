"""The claimed operations of one reconciler: sent off, asked about, and kept until their outcome is recorded.

Rules kept: one errand at a time for each request and service; an outcome is never thrown away but when
somebody else recorded one; what of it crashes is counted against its request. Called by the reconciler.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from capsule.decide import Begin, Decision
from capsule.documents.problems import shown
from capsule.lifecycle import Records
from capsule.reconciler.context import about
from capsule.reconciler.flights import Flights
from capsule.reconciler.orders import REASONS as ORDER_REASONS
from capsule.reconciler.orders import Answer, Courier, Errand
from capsule.reconciler.recording import Outcome
from capsule.trust.state import MainState

log = logging.getLogger("capsule.reconciler")
AT_ONCE = 32
QUARANTINE_AFTER = 3
MAX_WAIT = 200
GONE = f"ServiceGone: {ORDER_REASONS['ServiceGone']} Put it back, or cancel the request."
GOES_ON = "AbortedByRequest"
"""The one refusal after which what was begun goes on to its end."""
Key = tuple[str, str]


class Operations:
    """Operations under way, by request and service."""

    def __init__(self, courier: Courier, landed: threading.Event) -> None:
        self._courier = courier
        self._flights: Flights[Key, Answer] = Flights(AT_ONCE, "order", landed)
        self._outcomes: dict[Key, Outcome] = {}
        self._waits: dict[Key, str] = {}
        self._crashes: Counter[str] = Counter()

    def not_under_way(self, begins: Sequence[Begin], most: int) -> list[Begin]:
        """Those that may be claimed now, at most so many."""
        free = [
            begin
            for begin in begins
            if (begin.request.name, begin.service.document.metadata.name) not in self._flights
        ]
        return free[:most]

    def unfinished(self, decision: Decision, records: Records) -> list[Errand]:
        """What we claimed and have no outcome for: asked about, unless the answer is on its way."""
        errands = []
        cancelled = {cancel.victim.name for cancel in decision.cancel if cancel.tombstone}
        for ask in decision.ask:
            spec = ask.claim.spec
            known = records.of(spec.request)
            key = (spec.request, spec.service)
            if known is None or key in self._flights or key in self._outcomes:
                continue
            refused = known.refusal is not None and known.refusal.spec.reason != GOES_ON
            claims = known.operations[spec.service].claims
            errands.append(
                Errand(
                    known.folder,
                    ask.request,
                    ask.service,
                    claims,
                    ask_first=True,
                    tombstone=refused or spec.request in cancelled,
                )
            )
        return errands

    def send(self, errands: Sequence[Errand], state: MainState) -> None:
        """Let each leave on a thread of its own."""
        for errand in errands:
            request, service = errand.key
            with about(request=request, service=service):
                self._start(errand, state)

    def collect(self) -> None:
        """Keep every answer that landed: an outcome until it is recorded, or why there is none yet."""
        for key, future in self._flights.take_landed():
            error = future.exception()
            self._waits.pop(key, None)
            with about(request=key[0], service=key[1]):
                if error is not None:
                    self._crashes[key[0]] += 1
                    self._waits[key] = f"OrderCrashed: {type(error).__name__}; the reconciler's log says more"
                    log.error("request %s, service %s: the order crashed", *key, exc_info=error)
                    continue
                answer = future.result()
                if answer.outcome:
                    self._outcomes[key] = answer.outcome
                else:
                    self._waits[key] = f"{answer.reason}: {shown(answer.message)}"[:MAX_WAIT]
                    log.info("request %s, service %s: %s: %s", *key, answer.reason, answer.message)

    def outcomes(self, records: Records, most: int) -> list[Outcome]:
        """Those to be recorded now, at most so many; what somebody else settled meanwhile is let go."""
        self._outcomes = {
            key: item for key, item in self._outcomes.items() if _still_ours(records, key, item)
        }
        return list(self._outcomes.values())[:most]

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """These stand on audit now."""
        for outcome in outcomes:
            spec = outcome.claim.spec
            self._outcomes.pop((spec.request, spec.service), None)

    def waits(self, state: MainState, records: Records) -> Mapping[str, str]:
        """Why operations under way have no result yet, by `request/service`: nothing is recorded of that."""
        running = {(request.name, operation.service) for request, operation in records.running()}
        gone = {key: GONE for key in running if key[1] not in state.services}
        self._waits = {key: why for key, why in self._waits.items() if key in running}
        return {"/".join(key): why for key, why in {**self._waits, **gone}.items()}

    @property
    def quarantined(self) -> frozenset[str]:
        """Requests whose orders crashed too often."""
        return frozenset(name for name, count in self._crashes.items() if count >= QUARANTINE_AFTER)

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
        """End the threads; what is under way is asked about after the next start."""
        self._flights.close()

    def _start(self, errand: Errand, state: MainState) -> None:
        self._flights.start(errand.key, lambda: self._courier.run(errand, state))


def _still_ours(records: Records, key: Key, outcome: Outcome) -> bool:
    """Whether nobody recorded a result meanwhile, or took the operation over."""
    known = records.of(key[0])
    operation = known.operations.get(key[1]) if known else None
    if operation is None:
        return True
    last = operation.claims[-1].spec.attempt if operation.claims else 0
    return operation.result is None and last <= outcome.claim.spec.attempt
