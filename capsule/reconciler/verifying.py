"""Bytes turned into verified state: main as judged, what audit records, the requests; kept over passes.

Rules kept: what did not change since the pass before is not walked, parsed or judged again; what was judged
by the time of then is, and whatever is about to be recorded as begun or refused. What audit says counts once
it is proved: nothing judged by anything else is kept. Called by the reconciler.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from capsule.decide import Ledger, OpenRequests, open_requests, read_ledger
from capsule.documents.paths import MAIN
from capsule.lifecycle import Observation, Records, read_records
from capsule.reconciler.clock import Clock
from capsule.reconciler.recording import Tips
from capsule.reconciler.watching import AuditUnsound, AuditWatch
from capsule.store.api import Store
from capsule.trust.key_validity import SeenOnAudit, committed_at, policy_at
from capsule.trust.mainline import judge
from capsule.trust.objects import read_commit
from capsule.trust.policy import holder_of, is_machine
from capsule.trust.requests import RequestSet, judge_afresh, judge_requests
from capsule.trust.state import JudgedRequest, MainState
from capsule_agent.protocol.sshsig import PublicKey

log = logging.getLogger("capsule.reconciler")


class Remembered(NamedTuple):
    """What a reconciler before this one, under the same root, judged of requests and read of audit.

    It is gone on from as from the pass before: whatever is not as it was then is judged and read again.
    """

    requests: RequestSet
    records: Records


class Verifying:
    """What one reconciler has verified; `before` is what one before it had, `own` those commits that it wrote
    itself to take main in or to record reviews of changes, and `key` the one that it signs with."""

    def __init__(
        self,
        store: Store,
        root: str,
        clock: Clock,
        before: Remembered | None = None,
        own: Container[str] = (),
        key: PublicKey | None = None,
    ) -> None:
        self._store = store
        self._root = root
        self._clock = clock
        self._key = key
        self._watch = AuditWatch(store, own)
        self.state: MainState | None = None
        """Main as last judged."""
        self.requests, self.records = before or Remembered(RequestSet({}), Records())
        self.open = OpenRequests()
        """The requests that may still have an effect."""
        self._at = clock.now()
        self._seen: SeenOnAudit | None = None
        self._beside: str | None = None
        self._knows_observed = False
        self._ledger: Ledger | None = None

    def main(self) -> MainState:
        """Main up to its tip, as far as it was not judged before, beside as much of audit as is proved."""
        proved = self._watch.proved
        now = self._clock.now().replace(microsecond=0)
        # No commit counts as earlier than those before it on audit: a clock that is behind judges by them.
        self._at = max(now, committed_at(read_commit(self._store, proved))) if proved else now
        self._look_at(proved)
        return self._judge()

    def _look_at(self, audit: str | None) -> None:
        """What audit says is what it says at this commit, which is proved."""
        self._seen = SeenOnAudit(self._store, self._root, self._tip(), audit, self._at)

    def audit(self, tips: Tips, state: MainState) -> str:
        """Prove what is new on audit, then read it and the requests; why that failed, or nothing."""
        anew = not self._watch.has_begun and (self._beside or self._watch.proved)
        try:
            self._watch.check(state, tips.audit)
            if anew:  # after an inquiry: what was judged beside the audit of before counts no more
                self.state, self.requests, self._knows_observed = None, RequestSet({}), False
            self._beside = tips.audit
            self._look_at(tips.audit)
            state = self._judge()
            if not self._knows_observed or state.fleeting:
                # Only now is the revision that audit names to be believed: main must descend from it.
                observed = judge(self._store, self._root, tips.observed, None, self._seen)
                self.state = observed
                state = self._judge(again=True)
                self._knows_observed = True
                self._check_time(observed, state)
        except AuditUnsound as error:
            log.error("%s: %s", error.reason, error)
            return f"{error.reason}: {error}"
        self.records = read_records(self._store, tips.audit, self.records)
        self._judge_requests(state, self.requests)
        return ""

    def _check_time(self, observed: MainState, state: MainState) -> None:
        """Main is judged by the time of now only if a proof of audit will believe this reconciler that it was
        then: if it is one of the policy that audit has taken in. Raises AuditUnsound."""
        if not state.fleeting or self._key is None:
            return
        policy = policy_at(observed.policy.document, self._at)
        if is_machine(policy, holder_of(policy, self._key) or ""):
            return
        timeless = SeenOnAudit(self._store, self._root, state.tip, self._watch.proved, None)
        if judge(self._store, self._root, state.tip, observed, timeless) != state:
            raise AuditUnsound(
                "ReconcilerTooNew",
                f"main holds changes that keys with dates let in, and audit, which has taken main in up to "
                f"{observed.tip}, does not know this reconciler yet: let one of the policy of then take them "
                "in, or push main back to there and let a key without dates make the change first",
            )

    def bears_out(self, acted_on: Iterable[JudgedRequest], state: MainState) -> bool:
        """Whether each of these requests, judged afresh as a proof of audit will, is what it is held for. If
        one is not, nothing remembered counts any more: from now on all of them are as they are judged now.
        """
        state = replace(state, seen=self._seen)
        told = self.records.attestations()
        for judged in acted_on:
            if judged.reason == "DuplicateRequest":
                continue  # no verdict on the request itself
            found = judge_afresh(
                self._store,
                state,
                judged,
                begun=self.records.begun.get(judged.name, ()),
                attestations=told.get(judged.name, ()),
            )
            if found != replace(judged, revision=found.revision):
                log.error("%s was remembered as %s; all are judged anew", judged.name, judged.verdict)
                self._judge_requests(state, RequestSet({}))
                return False
        return True

    def _judge_requests(self, state: MainState, known: RequestSet) -> None:
        self.requests = judge_requests(
            self._store,
            state,
            self._store.refs("refs/heads/"),
            known,
            begun=self.records.begun,
            attestations=self.records.attestations(),
        )
        self.open = open_requests(self.requests, self.records, self.open)

    def _tip(self) -> str:
        return self._store.refs(MAIN).get(MAIN, self._root)

    def _judge(self, *, again: bool = False) -> MainState:
        tip, state = self._tip(), self.state
        if state and state.fleeting:
            # What was judged by the time of then is judged anew, on top of what audit has observed.
            state, self._knows_observed = None, False
        told = self._seen.told.tree if self._seen and self._seen.told else None
        if again or state is None or state.tip != tip or state.suspended or state.told != told:
            state = judge(self._store, self._root, tip, state, self._seen)
        self.state = state
        return replace(state, seen=self._seen)

    # ---- what follows from it -------------------------------------------------------------------

    def book(self) -> Ledger:
        """What the records say of each service over time."""
        self._ledger = read_ledger(self.records, self._ledger)
        return self._ledger

    def awaited(self, observations: Mapping[str, Observation]) -> list[str]:
        """Services that an approved request waits for and that were not seen since it was approved."""
        awaited: list[str] = []
        for name in self.open.names:
            judged = self.requests[name]
            if judged.verdict == "approved" and judged.document and self.records.of(name) is None:
                awaited += judged.document.spec.targets
        return [name for name in awaited if not ((seen := observations.get(name)) and seen.ok)]

    def moment(self, state: MainState) -> datetime:
        """When a commit on audit says it was made: where keys were judged by the time of this pass, then,
        for it is the time that `capsule audit verify` judges by."""
        return self._at if state.fleeting or self.requests.fleeting else self._clock.now()
