"""One pass of the reconciler: fetch → verify → observe → decide → perform → record.

Rules kept: only verified state is acted on; a claim is recorded at the authority before its order leaves;
a lost race throws the pass's claims away and never a receipt; nothing is kept that audit and the agents'
journals could not tell again. Called by the daemon and by `capsule reconcile --once`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime

from capsule.decide import Begin, Cancel, Decision, World, decide
from capsule.documents.paths import MAIN
from capsule.documents.problems import shown
from capsule.lifecycle import Observation, Records, read_records
from capsule.reconciler.claiming import Claiming, built_in_begins, built_in_outcome
from capsule.reconciler.clock import Clock, SystemClock
from capsule.reconciler.flights import Flights
from capsule.reconciler.heartbeat import Pulse
from capsule.reconciler.orders import REASONS as ORDER_REASONS
from capsule.reconciler.orders import Answer, Courier, Errand
from capsule.reconciler.probing import Probing
from capsule.reconciler.recording import (
    MOST_FACTS,
    AuditBranch,
    Facts,
    Outcome,
    Tips,
    joined,
    make_refusal,
    refusal_facts,
    result_facts,
    status_facts,
)
from capsule.reconciler.statuses import Statuses
from capsule.reconciler.watching import AuditUnsound, Leases, check_audit
from capsule.store.api import RefMoved, RemoteUnreachable, Store, StoreError
from capsule.transport.api import Transport
from capsule.trust.mainline import judge
from capsule.trust.requests import RequestSet, judge_requests
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig

log = logging.getLogger("capsule.reconciler")
ORDERS_AT_ONCE = 32
PATIENCE = 0.5
QUARANTINE_AFTER = 3
MAX_WAIT = 200
GONE = f"ServiceGone: {ORDER_REASONS['ServiceGone']} Put it back, or cancel the request."


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did, for logs and for `--once`."""

    audit: str | None
    commits: int
    began: int
    ended: int
    under_way: int
    stalled: str = ""
    lost_race: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing happened and nothing is under way."""
        return not (self.commits or self.began or self.ended or self.under_way or self.lost_race)


class Reconciler:
    """One reconciler, by its principal name, on one store. One pass at a time, from one thread."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        signer: sshsig.Signer,
        *,
        name: str,
        root: str,
        clock: Clock | None = None,
    ) -> None:
        self.landed = threading.Event()
        self._store = store
        self._root = root
        self._name = name
        self._clock = clock or SystemClock()
        self._courier = Courier(transport, signer, name, root, self._clock)
        self._orders: Flights[tuple[str, str], Answer] = Flights(ORDERS_AT_ONCE, "order", self.landed)
        self._probes: Flights[str, Observation] = Flights(ORDERS_AT_ONCE, "probe", self.landed)
        self._probing = Probing(self._courier, self._probes, self._clock)
        self._claiming = Claiming(name, self._clock)
        self._statuses = Statuses(store, self._clock)
        self._pulse = Pulse(store, signer, name, self._clock)
        self._audit = AuditBranch(store, signer, name, root)
        self._leases = Leases(self._clock)
        self._state: MainState | None = None
        self._knows_observed = False
        self._requests = RequestSet({})
        self._records = Records()
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._waits: dict[tuple[str, str], str] = {}
        self._crashes: Counter[str] = Counter()

    # ---- one pass -------------------------------------------------------------------------------

    def one_pass(self, *, patience: float = PATIENCE) -> PassReport:
        """Fetch → verify → observe → decide → perform → record.

        `patience` is how long, in seconds, to wait for answers that are under way. Raises StoreError when
        the repository cannot be read; a lost race or a remote that is away ends the pass early instead.
        """
        self.landed.clear()
        tips, away = self._fetch()
        state = self._verify_main()
        stalled = away or self._verify_audit(tips, state)
        state = self._state or state
        self._observe(state, patience)
        try:
            if stalled:
                return self._report(tips, tips, 0, 0, stalled)
            decision = self._decide(state)
            now = self._record_facts(tips, state, decision)
            now, began = self._claim_and_send(now, state, decision)
            self._collect(patience)
            now, ended = self._record_results(now, state)
            return self._report(tips, now, began, ended)
        except RefMoved:
            log.info("another writer was first; starting again from the new tip")
            return replace(self._report(tips, tips, 0, 0), lost_race=True)
        except RemoteUnreachable as error:
            return self._report(tips, tips, 0, 0, str(error))
        finally:
            self._beat(state)

    # ---- its steps ------------------------------------------------------------------------------

    def _fetch(self) -> tuple[Tips, str]:
        """Where the two branches stand; with a remote that is away, where they stood."""
        away = ""
        try:
            self._store.refresh()
        except RemoteUnreachable as error:
            away = str(error)
            log.warning("the remote is away: %s", error)
        return self._audit.tips(), away

    def _verify_main(self, *, again: bool = False) -> MainState:
        """Turn bytes into verified state: main up to its tip, as far as it was not judged before."""
        tip = self._store.refs(MAIN).get(MAIN, self._root)
        if again or self._state is None or self._state.tip != tip or self._state.suspended:
            self._state = judge(self._store, self._root, tip, self._state)
        return self._state

    def _verify_audit(self, tips: Tips, state: MainState) -> str:
        """Prove what is new on audit, then read it and the requests; why that failed, or nothing."""
        try:
            check_audit(self._store, state, tips.audit)
        except AuditUnsound as error:
            log.error("%s: %s", error.reason, error)
            return f"{error.reason}: {error}"
        if not self._knows_observed:
            # Only now is the revision that audit names to be believed: main must descend from it.
            self._state = judge(self._store, self._root, tips.observed, None)
            state = self._verify_main(again=True)
            self._knows_observed = True
        self._records = read_records(self._store, tips.audit, self._records)
        begun = {
            request.name: request.operations.keys() for request in self._records.all() if request.claimed
        }
        refs = self._store.refs("refs/heads/")
        self._requests = judge_requests(self._store, state, refs, self._requests, begun=begun)
        return ""

    def _observe(self, state: MainState, patience: float) -> None:
        """Send the probes that are due, and take in what came back."""
        self._probing.land(state)
        wanted = self._awaited()
        self._probing.start_due(state, wanted)
        if wanted or not self._probing.observations:
            self._probes.wait(patience)
            self._probing.land(state)

    def _decide(self, state: MainState) -> Decision:
        lease = state.settings.document.spec.lease.total_seconds()
        lost = self._leases.lost(self._records, self._name, lease)
        return decide(self.world(state, lost))

    def _record_facts(self, tips: Tips, state: MainState, decision: Decision) -> Tips:
        """Refusals, cancellations, changes of status, and a new main tip: one commit, or none."""
        now = self._clock.now()
        parts: list[Facts] = []
        for refuse in decision.refuse[:MOST_FACTS]:
            refusal = make_refusal(
                refuse.request, refuse.phase, refuse.reason, refuse.message, state.tip, now
            )
            parts.append(refusal_facts(refuse.request, refusal, self._records.of(refuse.request.name)))
        for cancel in decision.cancel[:MOST_FACTS]:
            parts.extend(self._cancelled(cancel, state, now))
        observations = self._probing.observations
        changes = self._statuses.changes(state, tips.audit, observations, self._records)[:MOST_FACTS]
        if changes:
            parts.append(status_facts([(c.service.path, c.status, c.subject) for c in changes]))
        if not parts and state.tip == tips.observed:
            return tips
        return self._audit.record(tips, joined(parts) if parts else Facts(), state.tip, now)

    def _claim_and_send(self, tips: Tips, state: MainState, decision: Decision) -> tuple[Tips, int]:
        """Record every claim, then, and only then, let the orders leave."""
        begins = [begin for begin in decision.begin if self._key(begin) not in self._orders][:MOST_FACTS]
        errands = self._claiming.errands(begins, state, self._records, self._probing.observations)
        if errands:
            tips = self._audit.record(tips, self._claiming.facts(errands), state.tip, self._clock.now())
        for errand in [*errands, *self._unfinished(decision)]:
            self._send(errand, state)
        return tips, len(errands)

    def _record_results(self, tips: Tips, state: MainState) -> tuple[Tips, int]:
        """Record every outcome at hand; those that cannot be recorded now are kept for the next pass."""
        self._outcomes = {key: item for key, item in self._outcomes.items() if self._still_ours(key, item)}
        outcomes = dict(list(self._outcomes.items())[:MOST_FACTS])
        if not outcomes:
            return tips, 0
        tips = self._audit.record(tips, result_facts(list(outcomes.values())), state.tip, self._clock.now())
        self._probing.look_soon(service for _, service in outcomes)
        for key in outcomes:
            del self._outcomes[key]
        return tips, len(outcomes)

    def _still_ours(self, key: tuple[str, str], outcome: Outcome) -> bool:
        """Whether nobody recorded a result meanwhile, or took the operation over."""
        known = self._records.of(key[0])
        operation = known.operations.get(key[1]) if known else None
        if operation is None:
            return True
        last = operation.claims[-1].spec.attempt if operation.claims else 0
        return operation.result is None and last <= outcome.claim.spec.attempt

    # ---- what the steps need --------------------------------------------------------------------

    def world(self, state: MainState, lost: frozenset[tuple[str, str]] = frozenset()) -> World:
        """Everything the next decision depends on."""
        return World(
            state=state,
            requests=self._requests,
            records=self._records,
            now=self._clock.now(),
            reconciler=self._name,
            observations=self._probing.observations,
            lost_leases=lost,
            quarantined=frozenset(name for name, count in self._crashes.items() if count >= QUARANTINE_AFTER),
        )

    def _awaited(self) -> list[str]:
        """Services that an approved request waits for and that were not seen since it was approved."""
        awaited: list[str] = []
        for judged in self._requests.values():
            if judged.verdict == "approved" and judged.document and self._records.of(judged.name) is None:
                unseen = (name for name in judged.document.spec.targets if not self._seen_well(name))
                awaited.extend(unseen)
        return awaited

    def _seen_well(self, service: str) -> bool:
        seen = self._probing.observations.get(service)
        return seen is not None and seen.ok

    def _cancelled(self, cancel: Cancel, state: MainState, now: datetime) -> list[Facts]:
        spec = cancel.request.document.spec if cancel.request.document else None
        who = spec.requested_by if spec else ""
        message = f"cancelled by {who} in {cancel.request.name}: {spec.reason if spec else ''}"
        refusal = make_refusal(cancel.victim, "Cancelled", "CancelledByRequest", message, state.tip, now)
        errands = self._claiming.errands(built_in_begins(cancel, state), state, self._records, {})
        claimed = self._claiming.facts(errands)
        done = result_facts([built_in_outcome(errand, message, now) for errand in errands])
        ended = refusal_facts(cancel.victim, refusal, self._records.of(cancel.victim.name))
        return [ended, claimed, done]

    def _unfinished(self, decision: Decision) -> list[Errand]:
        """What we claimed and have no outcome for: asked about, unless the answer is on its way."""
        errands = []
        cancelled = {cancel.victim.name for cancel in decision.cancel}
        for ask in decision.ask:
            spec = ask.claim.spec
            known = self._records.of(spec.request)
            key = (spec.request, spec.service)
            if known is None or key in self._orders or key in self._outcomes:
                continue
            ended = known.refusal is not None or spec.request in cancelled
            claims = known.operations[spec.service].claims
            errands.append(
                Errand(known.folder, ask.request, ask.service, claims, ask_first=True, tombstone=ended)
            )
        return errands

    def _send(self, errand: Errand, state: MainState) -> None:
        self._orders.start(errand.key, lambda: self._courier.run(errand, state))

    def _collect(self, patience: float) -> None:
        """Wait a moment for answers, and keep every outcome until it is recorded."""
        self._orders.wait(patience)
        for key, future in self._orders.take_landed():
            error = future.exception()
            self._waits.pop(key, None)
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

    def _waiting(self, state: MainState) -> dict[str, str]:
        """Why operations under way have no result yet; told in the heartbeat, for nothing is recorded."""
        running = {(request.name, operation.service) for request, operation in self._records.running()}
        gone = {key: GONE for key in running if key[1] not in state.services}
        self._waits = {key: why for key, why in self._waits.items() if key in running}
        return {"/".join(key): why for key, why in {**self._waits, **gone}.items()}

    def _beat(self, state: MainState) -> None:
        try:
            self._pulse.beat(state, self._probing.observations, self._waiting(state))
        except StoreError as error:
            log.warning("the heartbeat was not pushed: %s", error)

    @staticmethod
    def _key(begin: Begin) -> tuple[str, str]:
        return begin.request.name, begin.service.document.metadata.name

    def _report(self, before: Tips, after: Tips, began: int, ended: int, stalled: str = "") -> PassReport:
        commits = int(before.audit != after.audit)
        suspended = self._state.suspended if self._state else None
        stalled = stalled or (f"{suspended.reason}: {suspended.message}" if suspended else "")
        return PassReport(after.audit, commits, began, ended, len(self._orders) + len(self._probes), stalled)

    def next_due(self) -> float | None:
        """When the next probe is due, by the clock's monotonic seconds."""
        return self._probing.next_due()

    def finish(self, seconds: float) -> None:
        """Take what is under way to its end, at most so long, and record it."""
        deadline = self._clock.monotonic() + seconds
        while (len(self._orders) or self._outcomes) and self._clock.monotonic() < deadline:
            self.one_pass(patience=min(1.0, seconds))

    def close(self) -> None:
        """End the threads; what is under way is asked about after the next start."""
        self._orders.close()
        self._probes.close()
