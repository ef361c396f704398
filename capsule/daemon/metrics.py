"""What a monitoring system reads: counters that passes move, and counts made when somebody looks.

Rules kept: names and units by the conventions of Prometheus; no label that a peer or a person can fill with
ever new values (no service, no request, no commit); no value of a document. Told by the reconciler as its
watcher and by the loop; read by the endpoints from other threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from capsule import __version__
from capsule.daemon.vitals import RESULTS, Turn
from capsule.documents.types import EffectiveStatus, ResultOutcome
from capsule.lifecycle import Observation, Phase
from capsule.reconciler.standing import Standing
from capsule.reconciler.watcher import Fact
from capsule.store.api import StoreError
from capsule.transport.reasons import REASONS as TRANSPORT_REASONS
from capsule.trust.receipts import REASONS as RECEIPT_REASONS

STATUSES: tuple[str, ...] = tuple(word for word in get_args(EffectiveStatus) if word != "STALE")
"""STALE is judged where the picture is looked at: here it is the age of the heartbeat."""
PHASES: tuple[str, ...] = get_args(Phase)
OUTCOMES: tuple[str, ...] = get_args(ResultOutcome)
CONDITIONS = ("Drift", "KeyOverdue", "KeyChangedOutsideCapsule", "SecretInReport", "TrustOutdated")
"""Conditions that are always shown, with 0 where there are none; others appear when there are some."""
PROBE_REASONS = frozenset({*TRANSPORT_REASONS, *RECEIPT_REASONS})
BUILT_IN = ("configure", "disable", "enable", "rotateKey", "runHealthCheck")
MOST_ACTIONS = 32
OTHER = "other"
_PROBE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATE_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PASS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Every metric of one reconciler, in `registry`: nothing is shared with the rest of the process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._standing = _Counted(registry)
        self._probes = Counter(
            "capsule_probes", "Probes that landed: answered, or failed", ["outcome"], registry=registry
        )
        self._probe_failures = Counter(
            "capsule_probe_failures", "Probes that failed, by reason code", ["reason"], registry=registry
        )
        self._probe_seconds = Histogram(
            "capsule_probe_duration_seconds",
            "How long agents took to answer probes",
            buckets=_PROBE_SECONDS,
            registry=registry,
        )
        self._probe_late = Histogram(
            "capsule_probe_lateness_seconds",
            "How long after they fell due probes were sent off",
            buckets=_LATE_SECONDS,
            registry=registry,
        )
        self._operations = Counter(
            "capsule_operations",
            "Operations whose outcome was recorded",
            ["action", "outcome"],
            registry=registry,
        )
        self._passes = Counter("capsule_passes", "Passes that ended", ["result"], registry=registry)
        self._pass_seconds = Histogram(
            "capsule_pass_duration_seconds",
            "How long passes took",
            buckets=_PASS_SECONDS,
            registry=registry,
        )
        self._commits = Counter("capsule_audit_commits", "Commits made on audit", registry=registry)
        self._store_errors = Counter(
            "capsule_store_errors", "Failures of the repository or its remote", registry=registry
        )
        self._heartbeat = Gauge(
            "capsule_heartbeat_timestamp_seconds", "When the last heartbeat was written", registry=registry
        )
        self._last_pass = Gauge(
            "capsule_last_pass_timestamp_seconds",
            "When a pass that read the repository last ended",
            registry=registry,
        )
        self._under_way = Gauge(
            "capsule_calls_under_way", "Orders and probes sent and not answered yet", registry=registry
        )
        self._stalled = Gauge(
            "capsule_stalled", "1 while the reconciler acts on nothing, 0 otherwise", registry=registry
        )
        self._rereads = Counter(
            "capsule_rereads", "Times that files were read again (SIGHUP)", ["result"], registry=registry
        )
        Info("capsule_build", "The version that runs", registry=registry).info({"version": __version__})
        self._actions: set[str] = set()
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A rate can only be told of a series that was there before its first event."""
        for result in RESULTS:
            self._passes.labels(result)
        for outcome in ("answered", "failed"):
            self._probes.labels(outcome)
        for action in BUILT_IN:
            self._expect(action)
        for taken in ("taken", "refused"):
            self._rereads.labels(taken)

    def count_with(self, standing: Callable[[], Standing]) -> None:
        """Ask `standing` for services and requests whenever somebody looks."""
        self._standing.ask = standing

    # ---- told by the reconciler -----------------------------------------------------------------

    def recorded(self, commit: str, facts: Sequence[Fact]) -> None:  # noqa: ARG002 (the watcher's signature)
        """A commit stands on audit."""
        self._commits.inc()
        for fact in facts:
            if not (fact.service and fact.action):
                continue
            action = self._expect(fact.action)  # a claim comes first, so that every outcome begins at 0
            if fact.outcome:
                self._operations.labels(action, fact.outcome if fact.outcome in OUTCOMES else OTHER).inc()

    def probed(self, seen: Observation, late: float) -> None:
        """A probe landed."""
        self._probe_late.observe(late)
        if seen.ok:
            self._probes.labels("answered").inc()
            self._probe_seconds.observe(seen.latency_ms / 1000)
            return
        self._probes.labels("failed").inc()
        self._probe_failures.labels(seen.reason if seen.reason in PROBE_REASONS else OTHER).inc()

    def beaten(self, at: datetime) -> None:
        """A heartbeat was written."""
        self._heartbeat.set(at.timestamp())

    def troubled(self, error: StoreError) -> None:  # noqa: ARG002 (the watcher's signature)
        """The repository, or its remote, did not do what it was asked."""
        self._store_errors.inc()

    # ---- told by the loop -----------------------------------------------------------------------

    def turned(self, turn: Turn) -> None:
        """A pass ended."""
        self._passes.labels(turn.result).inc()
        self._pass_seconds.observe(turn.seconds)
        if turn.result == "failed":
            self._store_errors.inc()
        if turn.report is None:
            return
        self._last_pass.set(time.time())
        self._stalled.set(bool(turn.report.stalled))
        self._under_way.set(turn.report.under_way)

    def counting(self, reread: Callable[[], str]) -> Callable[[], str]:
        """`reread`, counted by whether what it read was taken over or refused."""

        def counted() -> str:
            try:
                said = reread()
            except Exception:
                self._rereads.labels("refused").inc()
                raise
            self._rereads.labels("taken").inc()
            return said

        return counted

    def _expect(self, action: str) -> str:
        """The label of `action`: people name actions, so those beyond the first MOST_ACTIONS are one."""
        if action in self._actions:
            return action
        if len(self._actions) >= MOST_ACTIONS:
            return OTHER
        self._actions.add(action)
        for outcome in OUTCOMES:
            self._operations.labels(action, outcome)
        return action


class _Counted(Collector):
    """Services and requests, counted when somebody looks; nothing while there is no reconciler."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ask: Callable[[], Standing] = Standing
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, with every known word, be it 0."""
        now = self.ask()
        yield _family("capsule_services", "Services by effectiveStatus", "status", STATUSES, now.services)
        yield _family("capsule_conditions", "Services by condition", "condition", CONDITIONS, now.conditions)
        yield _family("capsule_requests", "Requests by phase", "phase", PHASES, now.requests)
        yield GaugeMetricFamily(
            "capsule_key_overdue",
            "Services whose key is older than rotation.every",
            value=now.conditions.get("KeyOverdue", 0),
        )


def _family(
    name: str, text: str, label: str, words: Sequence[str], counts: Mapping[str, int]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for word in dict.fromkeys((*words, *sorted(counts))):
        family.add_metric([word], counts.get(word, 0))
    return family
