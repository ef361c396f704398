"""One pass of the reconciler: fetch → verify → observe → decide → perform → record.

Rules kept: only verified state is acted on; a claim is recorded at the authority before its order leaves;
a lost race throws the pass's claims away and never a receipt; nothing is kept that audit and the agents'
journals could not tell again. Called by the daemon and by `capsule reconcile --once`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice

from capsule.decide import Decision, World, decide
from capsule.lifecycle import PhaseNow
from capsule.reconciler.attention import Attention
from capsule.reconciler.built_in import BuiltIn
from capsule.reconciler.claiming import Claiming
from capsule.reconciler.clock import Clock, SystemClock
from capsule.reconciler.context import note
from capsule.reconciler.desired import DesiredState
from capsule.reconciler.evidence import Connect, ForgeEvidence
from capsule.reconciler.heartbeat import Pulse
from capsule.reconciler.operations import Operations
from capsule.reconciler.orders import Courier
from capsule.reconciler.pass_report import PassReport
from capsule.reconciler.probing import Probing
from capsule.reconciler.proposing import Proposing
from capsule.reconciler.recording import (
    MOST_FACTS,
    AuditBranch,
    Facts,
    Tips,
    joined,
    make_refusal,
    refusal_facts,
    status_facts,
)
from capsule.reconciler.standing import Standing, Standings
from capsule.reconciler.state_records import all_results, order_facts
from capsule.reconciler.statuses import Known, Statuses
from capsule.reconciler.verifying import Remembered, Verifying
from capsule.reconciler.watcher import Unwatched, Watcher
from capsule.reconciler.watching import Leases
from capsule.store.api import RefMoved, RemoteUnreachable, Store, StoreError
from capsule.transport.api import Transport
from capsule.trust.state import JudgedRequest, MainState
from capsule_agent.protocol import sshsig

__all__ = ["PassReport", "Reconciler", "Remembered"]

log = logging.getLogger("capsule.reconciler")
PATIENCE = 0.5
STATE_PATIENCE = 2.0
"""Seconds that an ending reconciler waits for desired-state orders: the next one tells them again."""


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
        watcher: Watcher | None = None,
        connect: Connect | None = None,
        before: Remembered | None = None,
    ) -> None:
        self.landed = threading.Event()
        self._watcher = watcher or Unwatched()
        self._store = store
        self._root = root
        self._name = name
        self._clock = clock or SystemClock()
        self._courier = Courier(transport, signer, name, root, self._clock)
        self._operations = Operations(self._courier, self.landed)
        self._desired = DesiredState(self._courier, name, self._clock, self.landed)
        self._probing = Probing(self._courier, self._clock, self.landed, self._watcher)
        self._evidence = ForgeEvidence(store, name, self._clock, self.landed, connect)
        self._claiming = Claiming(name, self._clock)
        self._built_in = BuiltIn(self._claiming)
        self._proposing = Proposing(store, signer, name, self._clock)
        self._statuses = Statuses(store, self._clock)
        self._pulse = Pulse(store, signer, name, self._clock)
        self._audit = AuditBranch(store, signer, name, root, self._watcher)
        self._leases = Leases(self._clock)
        self._attention = Attention()
        self._standings = Standings()
        own, key = self._audit.own_word, signer.public
        self._verified = Verifying(store, root, self._clock, before, own, key)
        self._holds: Mapping[str, PhaseNow] = {}
        self._finishing = False
        self._recalled = False

    # ---- one pass -------------------------------------------------------------------------------

    def one_pass(self, *, patience: float = PATIENCE) -> PassReport:
        """Fetch → verify → observe → decide → perform → record.

        `patience` is how long, in seconds, to wait for answers that are under way. Raises StoreError when
        the repository cannot be read; a lost race or a remote that is away ends the pass early instead.
        """
        self.landed.clear()
        tips, away = self._fetch()
        state = self._verified.main()
        stalled = away or self._verify_audit(tips, state)
        state = self._verified.state or state
        note(revision=state.tip)
        self._observe(state, patience)
        try:
            if stalled:
                return self._report(tips, tips, 0, 0, stalled)
            decision = self._decide(state)
            self._evidence.ask(decision.attest, state)
            now = self._record_facts(tips, state, decision)
            if self._evidence.bears_on_main:
                return self._report(tips, now, 0, 0)  # reviews of changes: what is in force is judged anew
            now, began = self._claim_and_send(now, state, decision)
            self._collect(patience if began or decision.ask else 0.0)
            now, ended = self._record_results(now, state)
            self._proposing.publish(decision.propose, state)
            return self._report(tips, now, began, ended)
        except RefMoved:
            log.info("another writer was first; starting again from the new tip")
            return replace(self._report(tips, tips, 0, 0), lost_race=True)
        except RemoteUnreachable as error:
            self._watcher.troubled(error)
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
            self._watcher.troubled(error)
            log.warning("the remote is away: %s", error)
        return self._audit.tips(), away

    def _verify_audit(self, tips: Tips, state: MainState) -> str:
        """Prove and read audit, and judge the requests; why that failed, or nothing."""
        unsound = self._verified.audit(tips, state)
        if not unsound:
            self._desired.read(self._verified.records)
        return unsound

    def _observe(self, state: MainState, patience: float) -> None:
        """Send the probes that are due, and take in what came back."""
        if not self._recalled:
            self._recalled = True
            self._probing.recall(self._pulse.recall(state))
        self._probing.land()
        wanted = self._verified.awaited(self._probing.observations)
        self._probing.start_due(state, wanted)
        if wanted or not self._probing.observations:
            self._probing.wait(patience)
            self._probing.land()

    def _decide(self, state: MainState) -> Decision:
        converging = self._worth_a_look(state)
        decision = decide(self.world(state, converging))
        if not self._verified.bears_out(_acted_on(decision), state):
            decision = decide(self.world(state, converging))
        self._holds = {
            hold.request.name: PhaseNow("Held", hold.reason, hold.message) for hold in decision.hold
        }
        return decision

    def _record_facts(self, tips: Tips, state: MainState, decision: Decision) -> Tips:
        """Refusals, built-in actions, changes of status, and a new main tip: one commit, or none."""
        now, records = self._clock.now(), self._verified.records
        parts: list[Facts] = []
        for refuse in decision.refuse[:MOST_FACTS]:
            refusal = make_refusal(
                refuse.request, refuse.phase, refuse.reason, refuse.message, state.tip, now
            )
            parts.append(refusal_facts(refuse.request, refusal, records.of(refuse.request.name)))
        for cancel in decision.cancel[:MOST_FACTS]:
            parts.extend(self._built_in.ended(cancel, state, records, now))
        for acknowledge in decision.acknowledge[:MOST_FACTS]:
            parts.extend(self._built_in.acknowledged(acknowledge, state, records, now))
        parts.extend(self._evidence.facts(self._verified.requests, state, records)[:MOST_FACTS])
        known = Known(self._probing.observations, records, self._verified.book(), self._verified.requests)
        changes = self._statuses.changes(state, tips.audit, known)
        if changes:
            few = changes[:MOST_FACTS]
            parts.append(status_facts([(c.service.path, c.status, c.subject) for c in few]))
        if not parts and state.tip == tips.observed:
            return tips
        facts = joined(parts) if parts else Facts()
        tips = self._audit.record(tips, facts, state.tip, self._verified.moment(state))
        self._evidence.recorded()
        return tips

    def _claim_and_send(self, tips: Tips, state: MainState, decision: Decision) -> tuple[Tips, int]:
        """Record every order and claim, then, and only then, let them leave: `disable` before all else."""
        if self._finishing:
            decision = replace(decision, begin=(), converge=())
        orders = self._desired.orders(decision.converge, state)[:MOST_FACTS]
        settled = self._evidence.settled(decision.begin)
        begins = self._operations.not_under_way(settled, MOST_FACTS - len(orders))
        errands = self._claiming.errands(begins, state, self._verified.records, self._probing.observations)
        parts = [order_facts(orders)] if orders else []
        if errands:
            parts.append(self._claiming.facts(errands))
        if parts:
            tips = self._audit.record(tips, joined(parts), state.tip, self._verified.moment(state))
        self._seen_through(decision, {order.spec.service for order in orders})
        if not self._finishing:
            self._desired.send(orders, state, self._verified.book().words)
        unfinished = self._operations.unfinished(decision, self._verified.records)
        self._operations.send([*errands, *unfinished], state)
        return tips, len(orders) + len(errands)

    def _collect(self, patience: float) -> None:
        """Wait a moment for answers, at most `patience` seconds, and keep what they brought."""
        began = time.monotonic()
        self._desired.wait(patience)
        self._operations.wait(max(patience - (time.monotonic() - began), 0.0))
        self._desired.collect()
        self._operations.collect()

    def _record_results(self, tips: Tips, state: MainState) -> tuple[Tips, int]:
        """Record every outcome at hand; those that cannot be recorded now are kept for the next pass."""
        states = self._desired.outcomes(MOST_FACTS)
        outcomes = self._operations.outcomes(self._verified.records, MOST_FACTS - len(states))
        if not outcomes and not states:
            return tips, 0
        tips = self._audit.record(tips, all_results(outcomes, states), state.tip, self._clock.now())
        self._operations.recorded(outcomes)
        self._desired.recorded(states)
        acted_on = [item.result.spec.service for item in outcomes]
        self._probing.look_soon([*acted_on, *(item.result.spec.service for item in states)])
        return tips, len(outcomes) + len(states)

    # ---- what the steps need --------------------------------------------------------------------

    def world(self, state: MainState, converge_only: frozenset[str] | None = None) -> World:
        """Everything the next decision depends on; the convergence of all services, or of these only."""
        lease = state.settings.document.spec.lease.total_seconds()
        return World(
            state=state,
            requests=self._verified.requests,
            records=self._verified.records,
            now=self._clock.now(),
            reconciler=self._name,
            observations=self._probing.observations,
            lost_leases=self._leases.lost(self._verified.records, self._name, lease),
            quarantined=self._operations.quarantined,
            converge_only=converge_only,
            lost_orders=self._desired.silent(lease),
            ledger=self._verified.book(),
            open_before=self._verified.open,
            taken=self._verified.requests.without_request,
        )

    def _worth_a_look(self, state: MainState) -> frozenset[str]:
        """The services whose document, report, records or time changed since convergence was last decided."""
        book = self._verified.book()
        facts = (
            self._probing.observations,
            self._verified.records.desired,
            book.words,
            book.acknowledged,
            book.changed,
        )
        whole = (state.policy, state.settings, state.suspended)
        lease = state.settings.document.spec.lease.total_seconds()
        names = self._attention.look(state.services, facts, self._clock.now(), whole=whole)
        return frozenset(names) | self._desired.silent(lease)

    def _seen_through(self, decision: Decision, ordered: set[str]) -> None:
        """Nothing more is to be done now for what was looked at, but for orders left to a later pass."""
        left = {item.service.document.metadata.name for item in decision.converge} - ordered
        self._attention.settle(left)
        for wait in decision.wait:
            if wait.until is not None:
                self._attention.wait(wait.service, wait.until)

    def _waiting(self, state: MainState) -> dict[str, str]:
        """Why approved requests are not begun, and operations under way have no result yet; told in the
        heartbeat, for nothing is recorded."""
        holds = islice(self._holds.items(), MOST_FACTS)
        held = {f"{name}/": f"{hold.reason}: {hold.message}" for name, hold in holds}
        operations = self._operations.waits(state, self._verified.records)
        return {**held, **operations, **self._desired.waits(), **self._evidence.waits()}

    def _beat(self, state: MainState) -> None:
        try:
            if self._pulse.beat(
                state, self._probing.observations, self._waiting(state), self._probing.failing
            ):
                self._watcher.beaten(self._clock.now())
        except StoreError as error:
            self._watcher.troubled(error)
            log.warning("the heartbeat was not pushed: %s", error)

    def _report(self, before: Tips, after: Tips, began: int, ended: int, stalled: str = "") -> PassReport:
        commits = int(before.audit != after.audit)
        known = self._verified.state
        suspended = known.suspended if known else None
        stalled = stalled or (f"{suspended.reason}: {suspended.message}" if suspended else "")
        under_way = self._operations.under_way + self._desired.under_way + len(self._probing)
        under_way += len(self._evidence)
        return PassReport(after.audit, commits, began, ended, under_way, stalled)

    def probe_beside(self) -> None:
        """From now on probe in a thread of its own, so that no pass makes a probe late; `close` ends it."""
        self._probing.run_beside()

    def next_due(self) -> float | None:
        """When the next probe is due, by the clock's monotonic seconds."""
        return self._probing.next_due()

    def ring(self) -> None:
        """Something happened at the forge: look at once. May be called from any thread."""
        self._evidence.ring()

    def finish(self, seconds: float) -> None:
        """Take what is under way to its end, at most so long, and record it; nothing new is begun."""
        self._finishing = True
        began = self._clock.monotonic()
        while self._clock.monotonic() - began < seconds:
            told = self._desired.busy and self._clock.monotonic() - began < STATE_PATIENCE
            if not (self._operations.busy or told):
                return
            self.landed.wait(min(0.2, seconds))
            self.one_pass(patience=min(1.0, seconds))

    @property
    def in_force(self) -> MainState | None:
        """Main as last judged; None before the first pass."""
        return self._verified.state

    @property
    def remembered(self) -> Remembered:
        """What the next one may go on from; to be asked for between two passes."""
        return Remembered(self._verified.requests, self._verified.records)

    def standing(self) -> Standing:
        """How many services and requests stand in which state; may be asked from any thread."""
        requests, records = self._verified.requests, self._verified.records
        return self._standings.count(self._statuses.on_record(), requests, records, self._holds)

    def close(self) -> None:
        """End the threads; what is under way is asked about after the next start."""
        self._evidence.close()
        self._desired.close()
        self._operations.close()
        self._probing.close()


def _acted_on(decision: Decision) -> Collection[JudgedRequest]:
    """The requests that are begun or refused in this pass, each once."""
    kinds = (decision.begin, decision.cancel, decision.acknowledge, decision.refuse)
    return {each.request.name: each.request for kind in kinds for each in kind[:MOST_FACTS]}.values()
