"""The metrics: names by convention, no label that grows without bound, counts that are right."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from capsule.daemon.loop import NotTakenOver
from capsule.daemon.metrics import MOST_ACTIONS, OUTCOMES, PHASES, STATUSES, Metrics
from capsule.daemon.vitals import Turn
from capsule.lifecycle import Observation
from capsule.reconciler import PassReport
from capsule.reconciler.standing import Standing
from capsule.reconciler.watcher import Fact, facts_of
from capsule.store.api import RemoteUnreachable

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    assert len(families) > 15
    for family in families:
        if family.name.endswith("_created"):
            continue
        assert re.fullmatch(r"(capsule|process)_[a-z_]+", family.name)
        assert family.documentation, family.name
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        elif family.name.startswith("capsule_"):
            assert not family.name.endswith("_total")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_two_daemons_in_one_process_share_nothing(metrics: Metrics) -> None:
    metrics.turned(Turn("crashed", 0.1))
    assert value(metrics, "capsule_passes_total", result="crashed") == 1
    assert value(Metrics(), "capsule_passes_total", result="crashed") == 0


def test_every_series_that_a_rate_is_told_of_begins_at_zero(metrics: Metrics) -> None:
    for outcome in OUTCOMES:
        assert value(metrics, "capsule_operations_total", action="rotateKey", outcome=outcome) == 0
    assert value(metrics, "capsule_operations_total", action="reload", outcome="failed") is None
    metrics.recorded("c", [Fact("r", "s", "reload")])
    assert value(metrics, "capsule_operations_total", action="reload", outcome="failed") == 0


def test_results_are_counted_by_action_and_outcome(metrics: Metrics) -> None:
    metrics.recorded("c1", [Fact("r", "s", "rotateKey", "succeeded"), Fact("r", "t", "rotateKey", "failed")])
    metrics.recorded("c2", [Fact("", "s")])
    metrics.recorded("c3", [Fact("r", "", "rotateKey", "Rejected")])
    assert value(metrics, "capsule_operations_total", action="rotateKey", outcome="succeeded") == 1
    assert value(metrics, "capsule_operations_total", action="rotateKey", outcome="failed") == 1
    assert value(metrics, "capsule_audit_commits_total") == 3


def test_what_people_and_peers_name_makes_no_series_without_end(metrics: Metrics) -> None:
    for number in range(200):
        metrics.recorded("c", [Fact("r", f"s{number}", f"act{number}", f"word{number}")])
        metrics.probed(Observation(f"s{number}", NOW, False, reason=f"Reason{number}"), 0.0)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    actions = {sample.labels["action"] for sample in samples if sample.name == "capsule_operations_total"}
    reasons = {sample.labels["reason"] for sample in samples if sample.name == "capsule_probe_failures_total"}
    assert len(actions) == MOST_ACTIONS + 1
    assert reasons == {"other"}
    assert len(samples) < 700
    assert value(metrics, "capsule_probes_total", outcome="failed") == 200


def test_probes_and_their_times(metrics: Metrics) -> None:
    metrics.probed(Observation("s", NOW, True, latency_ms=40), 0.2)
    metrics.probed(Observation("s", NOW, False, reason="AgentTimeout"), 12.0)
    assert value(metrics, "capsule_probes_total", outcome="answered") == 1
    assert value(metrics, "capsule_probe_failures_total", reason="AgentTimeout") == 1
    assert value(metrics, "capsule_probe_duration_seconds_sum") == 0.04
    assert value(metrics, "capsule_probe_lateness_seconds_count") == 2
    assert value(metrics, "capsule_probe_lateness_seconds_bucket", le="0.25") == 1


def test_passes_by_how_they_ended(metrics: Metrics) -> None:
    metrics.turned(Turn.of(PassReport("a" * 40, 1, 0, 0, 3), 0.2))
    assert value(metrics, "capsule_stalled") == 0
    assert value(metrics, "capsule_calls_under_way") == 3
    last = value(metrics, "capsule_last_pass_timestamp_seconds")
    assert last
    metrics.turned(Turn.of(PassReport("a" * 40, 0, 0, 0, 0, "the remote is away"), 0.2))
    assert value(metrics, "capsule_stalled") == 1
    metrics.turned(Turn("failed", 5.0, problem="the disk is full"))
    metrics.troubled(RemoteUnreachable("away"))
    assert value(metrics, "capsule_store_errors_total") == 2
    assert value(metrics, "capsule_pass_duration_seconds_sum") == pytest.approx(5.4)
    for result in ("done", "stalled", "failed"):
        assert value(metrics, "capsule_passes_total", result=result) == 1


def test_services_and_requests_are_counted_when_somebody_looks(metrics: Metrics) -> None:
    now = Standing({"OFFLINE": 2}, {"KeyOverdue": 3, "Flapping": 1}, {"Running": 4})
    metrics.count_with(lambda: now)
    for status in STATUSES:
        assert value(metrics, "capsule_services", status=status) == (2 if status == "OFFLINE" else 0)
    for phase in PHASES:
        assert value(metrics, "capsule_requests", phase=phase) == (4 if phase == "Running" else 0)
    assert value(metrics, "capsule_key_overdue") == 3
    assert value(metrics, "capsule_conditions", condition="Flapping") == 1
    assert value(metrics, "capsule_conditions", condition="Drift") == 0
    now = Standing()
    assert value(metrics, "capsule_conditions", condition="Flapping") is None


def test_a_heartbeat_leaves_its_mark(metrics: Metrics) -> None:
    metrics.beaten(NOW)
    assert value(metrics, "capsule_heartbeat_timestamp_seconds") == NOW.timestamp()


def test_reloads_are_counted_by_whether_they_were_taken_over(metrics: Metrics) -> None:
    def refused() -> str:
        raise NotTakenOver("the key is another machine's")

    assert metrics.counting(lambda: "taken over")() == "taken over"
    with pytest.raises(NotTakenOver):
        metrics.counting(refused)()
    assert value(metrics, "capsule_rereads_total", result="taken") == 1
    assert value(metrics, "capsule_rereads_total", result="refused") == 1


def test_trailers_are_told_apart_as_facts() -> None:
    trailers = [
        ("Capsule-Request", "old"),
        ("Capsule-Action", "rotateKey"),
        ("Capsule-Outcome", "Rejected"),
        ("Requested-by", "alice"),
        ("Capsule-Service", "one"),
        ("Capsule-Service", "two"),
        ("Capsule-Request", "r"),
        ("Capsule-Service", "one"),
        ("Capsule-Action", "reload"),
        ("Capsule-Outcome", "succeeded"),
        ("Capsule-Reason", "Done"),
        ("Capsule-Service", "two"),
        ("Capsule-Action", "disable"),
        ("Capsule-Revision", "a" * 40),
    ]
    assert list(facts_of(trailers)) == [
        Fact("old", "", "rotateKey", "Rejected"),
        Fact("", "one"),
        Fact("", "two"),
        Fact("r", "one", "reload", "succeeded", "Done"),
        Fact("", "two", "disable"),
    ]
    assert list(facts_of([])) == []
