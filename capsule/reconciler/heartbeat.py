"""The reconciler's sign of life: a signed commit without history that is replaced at every beat.

Rules kept: history stays a history; a beat's objects are removed when the second one after it is written,
for a reader may still hold the ref as it was; the remote gets one at most every `heartbeatPush`. A beat is
due every ten seconds, with many services more rarely, and says how often; only the lines of services that
were probed since are made anew. A row of failures is remembered in it, and read back by the next start.
Called by the reconciler at the end of a pass, and once at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from capsule.documents.paths import HEARTBEATS, LOCAL_HEARTBEATS
from capsule.lifecycle import Observation
from capsule.reconciler.clock import Clock
from capsule.reconciler.probing import Failing
from capsule.store.api import LOCAL_PREFIX, Draft, Person, RefUpdate, Store
from capsule.trust.state import MainState
from capsule.view.beats import read_beat
from capsule.view.heartbeat import HEARTBEAT_FILE, Heartbeat, Probe, encode_probe, join_heartbeat
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import instant, instant_text

BEAT_SECONDS = 10
PROBES_A_SECOND = 400
"""So many services make a beat a second rarer: at 10,000 it comes every 25 seconds."""
BEFORE = LOCAL_PREFIX + "reconciler/heartbeat-before/"
"""Names the beat before the last, so that a restart forgets none and `git gc` keeps it readable."""
SHARED_BEFORE = LOCAL_PREFIX + "reconciler/heartbeat-shared-before/"
"""The same for the beats that are shared."""


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
        self._lines: dict[str, tuple[Observation, str]] = {}

    def recall(self, state: MainState) -> dict[str, Failing]:
        """The rows of failures that our last beat remembers; none without a beat that verifies."""
        here = LOCAL_HEARTBEATS + self._name
        commit = self._store.refs(here).get(here)
        if commit is None:
            return {}
        beat = read_beat(self._store, state.policy.document, self._name, commit)
        return {
            name: Failing(instant(probe.failing_since), probe.failures, instant(probe.due))
            for name, probe in beat.probes.items()
            if probe.failing_since and probe.due and probe.failures > 0
        }

    def beat(
        self,
        state: MainState,
        observations: Mapping[str, Observation],
        waits: Mapping[str, str] | None = None,
        failing: Callable[[], Mapping[str, Failing]] = dict,
    ) -> bool:
        """Write a heartbeat when one is due, or when `waits` changed, and push it when that is due; whether
        one was written.

        `waits`: why operations (`request/service`) have no result yet, for those under way. `failing`: asked
        for the rows of failures to remember, when a beat is due. Raises RefMoved, RemoteUnreachable or
        PushRefused when the push fails; the local one is written then.
        """
        clock = self._clock.monotonic()
        waits = waits or {}
        self._refresh(observations)
        every = beat_seconds(len(observations))
        if clock - self._beaten < every and waits == self._waits:
            return False
        self._waits = dict(waits)
        lines = self._with_rows(observations, failing())
        self._replace(LOCAL_HEARTBEATS, BEFORE, self._write(state, lines, every))
        self._beaten = clock
        push_every = state.settings.document.spec.heartbeat_push.total_seconds()
        if clock - self._pushed >= push_every:
            self._pushed = clock
            commit = self._write(state, self._plain(), max(round(push_every), every))
            self._replace(HEARTBEATS, SHARED_BEFORE, commit)
        return True

    def _refresh(self, observations: Mapping[str, Observation]) -> None:
        """Make anew the lines of what was probed since; pass by pass, so that no beat does it all."""
        lines = self._lines
        for name, seen in observations.items():
            known = lines.get(name)
            if known is None or known[0] is not seen:
                lines[name] = seen, encode_probe(_probe(seen))
        if len(lines) > len(observations):
            for gone in lines.keys() - observations.keys():
                del lines[gone]

    def _plain(self) -> dict[str, str]:
        return {name: self._lines[name][1] for name in sorted(self._lines)}

    def _with_rows(
        self, observations: Mapping[str, Observation], rows: Mapping[str, Failing]
    ) -> Mapping[str, str]:
        """All lines, those of failing services with what is remembered of them."""
        texts = self._plain()
        for name, row in rows.items():
            seen = observations.get(name)
            # One that was not probed since the start: its row goes on as it was read.
            probe = _probe(seen) if seen else Probe(instant_text(row.since), False)
            texts[name] = encode_probe(
                replace(
                    probe,
                    failing_since=instant_text(row.since),
                    failures=row.failures,
                    due=instant_text(row.due),
                )
            )
        return texts

    def _replace(self, folder: str, kept: str, commit: str) -> None:
        """Name `commit` in our ref of `folder`; what it named before is kept until the next time.

        The store discards nothing but heartbeats that it wrote itself, so one that another machine put
        there stays.
        """
        here = folder + self._name
        old = self._store.refs(here).get(here)
        self._store.publish([RefUpdate(here, old, commit)])
        if old is not None:
            self._let_go_before(kept + self._name, old, keep=[commit, old])

    def _let_go_before(self, kept: str, old: str, keep: Sequence[str]) -> None:
        """Keep `old`, the beat that was just replaced; let go of the one that was kept until now."""
        before = self._store.refs(kept).get(kept)
        if before != old:
            self._store.publish([RefUpdate(kept, before, old)])
        if before is not None and before not in keep:
            self._store.discard(before, keep=keep)

    def _write(self, state: MainState, lines: Mapping[str, str], every: int) -> str:
        heartbeat = Heartbeat(
            reconciler=self._name,
            at=instant_text(self._clock.now()),
            interval_seconds=max(every, 1),
            observed_revision=state.tip,
            operations=dict(sorted(self._waits.items())),
        )
        person = Person(self._name, f"{self._name}@reconciler.invalid")
        draft = Draft(
            base=None,
            edits={HEARTBEAT_FILE: join_heartbeat(heartbeat, lines)},
            parents=(),
            message=f"heartbeat of {self._name}\n",
            author=person,
            at=self._clock.now(),
            sign=lambda data: self._signer.sign(data, sshsig.COMMIT),
        )
        return self._store.write(draft)


def beat_seconds(services: int) -> int:
    """The time between two beats for so many services, in seconds."""
    return max(BEAT_SECONDS, -(-services // PROBES_A_SECOND))


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
