"""A service that changes its word too often makes one commit, and one when it is over."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from capsule.decide import SetStatus, next_change, status_change
from capsule.documents.codec import emit, load_as
from capsule.documents.types import ServiceStatus
from capsule.lifecycle import Observation, followed
from capsule_agent.protocol.messages import HealthReport
from tests.unit.worlds import NOW, report, seen, service, state

STEP = timedelta(seconds=30)
GRACE = timedelta(minutes=1)
TARGET = service()


class Watched:
    """A service, probed every 30 seconds, and the subjects of what was recorded of it."""

    def __init__(self) -> None:
        self.now = NOW
        self.subjects: list[str] = []
        self.status: ServiceStatus | None = None
        self.last: Observation | None = None

    def probe(self, word: str, times: int = 1, *, forgets: bool = False) -> None:
        """`word` is UP, DEGRADED, DOWN, "off" (disabled on the host) or "gone"; with `forgets` the reconciler
        was started anew and knows only what is on record."""
        for _ in range(times):
            self.now += STEP
            self.last = followed(self._seen(word), None if forgets else self.last)
            found = self._change()
            if found:
                self.subjects.append(found.subject.removeprefix("status openai-chat: "))
                self.status = load_as(ServiceStatus, emit(found.status), "status/openai-chat.yaml")

    def _change(self) -> SetStatus | None:
        return status_change(state(TARGET), TARGET, self.last, self.status, self.now)

    def _seen(self, word: str) -> Any:
        if word == "gone":
            since = self.last.failing_since if self.last and not self.last.ok else self.now - GRACE
            old = self.last.report if self.last else None
            return seen(ok=False, at=self.now, report=old, reason="ConnectionRefused", failing_since=since)
        if word == "off":
            return seen(at=self.now, report=report(enabled=False, disabled_by_host=True))
        return seen(at=self.now, report=report(health=HealthReport(word, "", "2026-11-23T12:00:00Z")))  # type: ignore[arg-type]  # the words of the tests


def flapping() -> Watched:
    watched = Watched()
    watched.probe("UP")
    for _ in range(3):
        watched.probe("gone")
        watched.probe("UP")
    return watched


def conditions(watched: Watched) -> list[str]:
    assert watched.status
    return [each.type for each in watched.status.spec.conditions]


def test_the_fifth_transition_within_fifteen_minutes_is_the_last_one_recorded() -> None:
    watched = flapping()
    assert watched.subjects == [
        "HEALTHY (HealthUp)",
        "HEALTHY → OFFLINE (ConnectionRefused)",
        "OFFLINE → HEALTHY (HealthUp)",
        "HEALTHY → OFFLINE (ConnectionRefused)",
        "OFFLINE → HEALTHY (HealthUp)",
        "HEALTHY → OFFLINE (Flapping)",
    ]
    assert conditions(watched) == ["Flapping"]
    assert watched.status
    assert watched.status.spec.conditions[0].message == "more than 4 transitions in 15 minutes"
    assert len(watched.status.spec.changes) == 5


def test_four_transitions_are_an_ordinary_bad_hour() -> None:
    watched = Watched()
    for _ in range(6):
        watched.probe("UP", 10)
        watched.probe("DOWN", 10)
    assert "Flapping" not in " ".join(watched.subjects)
    assert len(watched.subjects) == 12


def test_it_is_over_after_ten_steady_minutes_and_not_before() -> None:
    watched = flapping()
    watched.probe("UP", 19)
    assert watched.subjects[-1] == "HEALTHY → OFFLINE (Flapping)"
    watched.probe("UP")
    assert watched.subjects[-1] == "OFFLINE → HEALTHY (HealthUp)"
    assert conditions(watched) == []
    assert watched.status
    assert watched.status.spec.changes == ()
    watched.probe("gone")
    assert watched.subjects[-1] == "HEALTHY → OFFLINE (ConnectionRefused)"


def test_one_failure_begins_the_ten_minutes_again() -> None:
    watched = flapping()
    count = len(watched.subjects)
    for word in ("UP", "DEGRADED", "UP", "gone", "DOWN"):
        watched.probe(word, 15)
    assert len(watched.subjects) == count


def test_a_service_that_ends_up_down_is_told_so_without_flapping() -> None:
    watched = flapping()
    watched.probe("gone", 30)
    assert watched.subjects[-1] == "Flapping gone"
    assert watched.status
    assert watched.status.spec.reason == "ConnectionRefused"


def test_what_flaps_below_one_word_flaps_too_and_shows_the_worst() -> None:
    watched = Watched()
    for _ in range(10):
        watched.probe("DEGRADED")
        watched.probe("DOWN")
    assert watched.subjects[-1] == "Flapping"
    assert len(watched.subjects) == 6
    watched.probe("gone")
    assert watched.subjects[-1] == "UNHEALTHY → OFFLINE (Flapping)"


def test_a_disabled_service_does_not_flap() -> None:
    watched = flapping()
    watched.probe("off")
    assert watched.subjects[-1] == "OFFLINE → DISABLED (DisabledOnHost)"
    assert conditions(watched) == []
    watched.probe("UP")
    assert watched.subjects[-1] == "DISABLED → HEALTHY (HealthUp)"


def test_a_restarted_reconciler_judges_alike_and_waits_anew() -> None:
    watched = flapping()
    count = len(watched.subjects)
    watched.probe("UP", 15)
    watched.probe("UP", forgets=True)
    watched.probe("UP", 18)
    assert len(watched.subjects) == count
    watched.probe("UP", 3)
    assert watched.subjects[-1] == "OFFLINE → HEALTHY (HealthUp)"


def test_a_failure_within_its_grace_keeps_a_flapping_service_as_it_is() -> None:
    watched = flapping()
    watched.last = None
    silent = seen(ok=False, at=watched.now, failing_since=watched.now, reason="AgentTimeout")
    assert status_change(state(TARGET), TARGET, silent, watched.status, watched.now) is None


def test_who_asks_when_to_look_again_is_told_when_flapping_may_end() -> None:
    watched = flapping()
    assert watched.status
    assert watched.last
    ends = next_change(TARGET, watched.status, watched.now, observation=watched.last)
    assert watched.last.steady_since is not None
    assert ends == watched.last.steady_since + timedelta(minutes=10)
    unfollowed = seen(at=watched.now)
    assert next_change(TARGET, watched.status, watched.now, observation=unfollowed) == (
        watched.status.spec.changes[-1] + timedelta(minutes=10)
    )
    gone = watched.status.model_copy(update={"spec": watched.status.spec.model_copy(update={"changes": ()})})
    assert next_change(TARGET, gone, watched.now) == gone.spec.since + timedelta(minutes=10)


@pytest.mark.parametrize(("first", "second"), [("UP", "gone"), ("DOWN", "UP"), ("DEGRADED", "DOWN")])
def test_a_day_of_flapping_is_a_handful_of_commits(first: str, second: str) -> None:
    watched = Watched()
    for _ in range(24 * 60):
        watched.probe(first)
        watched.probe(second)
    assert len(watched.subjects) == 6


@given(
    st.lists(st.tuples(st.sampled_from(("UP", "DEGRADED", "DOWN", "gone")), st.integers(1, 40)), max_size=25)
)
@run_with(max_examples=40, deadline=None)
def test_whatever_happens_transitions_are_bounded(past: list[tuple[str, int]]) -> None:
    watched = Watched()
    at: list[datetime] = []
    for word, times in past:
        for _ in range(times):
            known = len(watched.subjects)
            watched.probe(word)
            at += [watched.now] * (len(watched.subjects) - known)
    # five, one for a word that is worse yet, and one for the end: never more within a quarter of an hour
    for start in at:
        assert sum(start <= other < start + timedelta(minutes=15) for other in at) <= 8
