"""When the daemon is alive, and when it is ready."""

from __future__ import annotations

from capsule.daemon.vitals import FIRST_PASS, LEAST_ALLOWANCE, Turn, Vitals
from capsule.reconciler import PassReport

DONE = Turn.of(PassReport("a" * 40, 0, 0, 0, 0), 0.1)
STALLED = Turn.of(PassReport("a" * 40, 0, 0, 0, 0, "the remote is away"), 0.1)
FAILED = Turn("failed", 0.1, problem="the disk is full")


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_alive_and_not_ready_until_the_first_pass_ended() -> None:
    vitals = Vitals(0.5, Ticks())
    assert vitals.hung() == ""
    assert vitals.unready() == ["the first pass has not ended yet"]
    vitals.turned(DONE)
    assert vitals.unready() == []


def test_the_first_pass_may_take_long_but_not_for_ever() -> None:
    ticks = Ticks()
    vitals = Vitals(0.5, ticks)
    ticks.now = FIRST_PASS
    assert vitals.hung() == ""
    ticks.now += 1
    assert vitals.hung() == "no pass ended for 901 seconds; 900 are allowed"
    assert len(vitals.unready()) == 2


def test_it_is_dead_when_no_pass_ends_however_it_ends() -> None:
    ticks = Ticks()
    vitals = Vitals(0.5, ticks)
    for turn in (DONE, FAILED, STALLED):
        ticks.now += LEAST_ALLOWANCE
        vitals.turned(turn)
        assert vitals.hung() == ""
    ticks.now += LEAST_ALLOWANCE + 1
    assert "no pass ended for 121 seconds" in vitals.hung()


def test_a_slow_rhythm_is_allowed_more() -> None:
    ticks = Ticks()
    vitals = Vitals(60.0, ticks)
    vitals.turned(DONE)
    ticks.now = 599.0
    assert vitals.hung() == ""
    ticks.now = 601.0
    assert vitals.hung()


def test_what_keeps_it_from_acting_is_said() -> None:
    vitals = Vitals(0.5, Ticks())
    vitals.turned(FAILED)
    assert vitals.unready() == [
        "no pass has read the repository yet",
        "the last pass failed: the disk is full",
    ]
    vitals.turned(DONE)
    vitals.turned(STALLED)
    assert vitals.unready() == ["nothing is acted on: the remote is away"]
    vitals.turned(Turn.of(PassReport("a" * 40, 0, 0, 0, 0, lost_race=True), 0.1))
    assert vitals.unready() == []
