"""The reconciler's sign of life: a signed commit without history that is replaced at every beat.

Rules kept: history stays a history; a beat's objects are removed when the second one after it is written,
for a reader may still hold the ref as it was; the remote gets one at most every `heartbeatPush`. Called by
the reconciler at the end of a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capsule.documents.paths import HEARTBEATS, LOCAL_HEARTBEATS
from capsule.lifecycle import Observation
from capsule.reconciler.clock import Clock
from capsule.store.api import LOCAL_PREFIX, Draft, Person, RefUpdate, Store
from capsule.trust.state import MainState
from capsule.view.heartbeat import HEARTBEAT_FILE, Heartbeat, Probe, encode_heartbeat
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import instant_text

BEAT_SECONDS = 10
BEFORE = LOCAL_PREFIX + "reconciler/heartbeat-before/"
"""Names the beat before the last, so that a restart forgets none and `git gc` keeps it readable."""


class Pulse:
    """Writes heartbeats for one reconciler."""

    def __init__(self, store: Store, signer: sshsig.Signer, name: str, clock: Clock) -> None:
        self._store = store
        self._signer = signer
        self._name = name
        self._clock = clock
        self._beaten = float("-inf")
        self._pushed = float("-inf")
        self._waits: Mapping[str, str] = {}

    def beat(
        self,
        state: MainState,
        observations: Mapping[str, Observation],
        waits: Mapping[str, str] | None = None,
    ) -> None:
        """Write a heartbeat when one is due, or when `waits` changed; push it when that is due.

        `waits`: why operations (`request/service`) have no result yet, for those under way. Raises RefMoved,
        RemoteUnreachable or PushRefused when the push fails; the local one is written then.
        """
        clock = self._clock.monotonic()
        waits = waits or {}
        if clock - self._beaten < BEAT_SECONDS and waits == self._waits:
            return
        self._waits = dict(waits)
        here = LOCAL_HEARTBEATS + self._name
        commit = self._write(state, observations, BEAT_SECONDS)
        old = self._store.refs(here).get(here)
        self._store.publish([RefUpdate(here, old, commit)])
        self._beaten = clock
        if old is not None:
            self._let_go_before(old, keep=[commit, old])
        push_every = state.settings.document.spec.heartbeat_push.total_seconds()
        if clock - self._pushed >= push_every:
            self._pushed = clock
            self._share(state, observations, round(push_every))

    def _share(self, state: MainState, observations: Mapping[str, Observation], every: int) -> None:
        """The beat others see; what stood at its ref is theirs to have written, so it is never discarded."""
        shared = HEARTBEATS + self._name
        commit = self._write(state, observations, every)
        self._store.publish([RefUpdate(shared, self._store.refs(shared).get(shared), commit)])

    def _let_go_before(self, old: str, keep: Sequence[str]) -> None:
        """Keep `old`, the beat that was just replaced; let go of the one that was kept until now."""
        kept = BEFORE + self._name
        before = self._store.refs(kept).get(kept)
        if before != old:
            self._store.publish([RefUpdate(kept, before, old)])
        if before is not None and before not in keep:
            self._store.discard(before, keep=keep)

    def _write(self, state: MainState, observations: Mapping[str, Observation], every: int) -> str:
        heartbeat = Heartbeat(
            reconciler=self._name,
            at=instant_text(self._clock.now()),
            interval_seconds=max(every, 1),
            observed_revision=state.tip,
            probes={name: _probe(seen) for name, seen in sorted(observations.items())},
            operations=dict(sorted(self._waits.items())),
        )
        person = Person(self._name, f"{self._name}@reconciler.invalid")
        draft = Draft(
            base=None,
            edits={HEARTBEAT_FILE: encode_heartbeat(heartbeat)},
            parents=(),
            message=f"heartbeat of {self._name}\n",
            author=person,
            at=self._clock.now(),
            sign=lambda data: self._signer.sign(data, sshsig.COMMIT),
        )
        return self._store.write(draft)


def _probe(seen: Observation) -> Probe:
    report = seen.report if seen.ok else None
    return Probe(
        at=instant_text(seen.at),
        ok=seen.ok,
        latency_ms=seen.latency_ms if seen.ok else None,
        reason=seen.reason,
        status=report.health.status if report else None,
        enabled=report.enabled if report else None,
    )
