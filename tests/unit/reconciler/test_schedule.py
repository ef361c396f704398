"""When services are asked: the rules of the schedule, as properties, on monotonic seconds alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.reconciler.schedule import (
    AT_ONCE,
    LONGEST_FACTOR,
    START_RATE,
    Schedule,
    Turn,
    Wish,
    backoff,
)

STEP = 0.25


@dataclass
class Fleet:
    """A schedule, its agents (they answer after `slow` seconds, `dead` ones fail), when each was asked."""

    schedule: Schedule
    dead: set[str] = field(default_factory=set)
    slow: float = 0.1
    now: float = 0.0
    asked: dict[str, list[float]] = field(default_factory=dict)
    flying: list[tuple[float, str]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def step(self) -> None:
        for at, name in [flight for flight in self.flying if flight[0] <= self.now]:
            self.flying.remove((at, name))
            self.schedule.landed(name, ok=name not in self.dead, now=self.now)
        for turn in self.take():
            self.asked.setdefault(turn.name, []).append(self.now)
            self.flying.append((self.now + self.slow, turn.name))
        self.now += STEP

    def take(self) -> Iterator[Turn]:
        for failing in (True, False):
            while turn := self.schedule.take(self.now, failing=failing):
                yield turn

    def gaps(self, name: str) -> list[float]:
        times = self.asked.get(name, [])
        return [later - earlier for earlier, later in pairwise(times)]


def wishes(intervals: dict[str, float]) -> dict[str, Wish]:
    return {name: Wish(interval, "digest") for name, interval in intervals.items()}


intervals = st.dictionaries(
    st.text("abcdefghij", min_size=1, max_size=6), st.sampled_from((5.0, 10.0, 30.0)), min_size=1, max_size=12
)


@settings(max_examples=25, deadline=None)
@given(intervals=intervals, spread=st.booleans())
def test_whoever_answers_is_asked_once_an_interval_and_not_more(
    intervals: dict[str, float], spread: bool
) -> None:
    fleet = Fleet(Schedule(spread=spread))
    fleet.schedule.follow(wishes(intervals), 0.0)
    fleet.run(200)
    for name, interval in intervals.items():
        assert fleet.asked[name][0] == 0.0
        assert all(0.9 * interval <= gap <= 1.1 * interval + STEP for gap in fleet.gaps(name))
        assert fleet.now - fleet.asked[name][-1] <= 1.1 * interval + STEP


@settings(max_examples=18, deadline=None)
@given(intervals=intervals, dead=st.data())
def test_the_dead_are_asked_ever_more_rarely_and_delay_nobody(
    intervals: dict[str, float], dead: st.DataObject
) -> None:
    fleet = Fleet(Schedule(), slow=2.0)
    fleet.dead = dead.draw(st.sets(st.sampled_from(sorted(intervals))))
    fleet.schedule.follow(wishes(intervals), 0.0)
    fleet.run(400)
    for name, interval in intervals.items():
        gaps = fleet.gaps(name)
        if name not in fleet.dead:
            assert all(gap <= 1.1 * interval + STEP for gap in gaps)
            continue
        assert all(gap <= 1.1 * LONGEST_FACTOR * interval + STEP for gap in gaps)
        for place, gap in enumerate(gaps):
            expected = backoff(interval, place + 1)
            assert max(0.9 * expected, fleet.slow) <= gap <= max(1.1 * expected, fleet.slow) + STEP


@settings(max_examples=18, deadline=None)
@given(
    intervals=intervals,
    events=st.lists(
        st.tuples(st.sampled_from(("add", "remove", "edit", "hurry", "want", "soon")), st.integers(0, 11)),
        max_size=20,
    ),
)
def test_what_changes_meanwhile_loses_nobody(
    intervals: dict[str, float], events: list[tuple[str, int]]
) -> None:
    fleet = Fleet(Schedule())
    known = wishes(intervals)
    fleet.schedule.follow(known, 0.0)
    for number, (event, place) in enumerate(events):
        fleet.run(3.0)
        name = sorted(known)[place % len(known)] if known else ""
        if event == "add":
            known[f"new-{number}"] = Wish(5.0, "digest")
        elif event == "remove":
            known.pop(name, None)
        elif event == "edit" and name:
            known[name] = Wish(known[name].interval, f"digest {number}")
        elif event == "hurry" and name:
            known[name] = Wish(5.0, known[name].digest)
        elif event == "want":
            fleet.schedule.want([name], fleet.now)
        elif event == "soon":
            fleet.schedule.look_soon([name], fleet.now + 1.2)
        fleet.schedule.follow(dict(known), fleet.now)
        if event in ("add", "edit"):
            changed = f"new-{number}" if event == "add" else name
            fleet.run(2 * STEP)
            assert not known or changed == "" or fleet.asked[changed][-1] >= fleet.now - 2 * STEP
    since = fleet.now
    fleet.run(70)
    assert len(fleet.schedule) == len(known)
    for name, wish in known.items():
        times = [at for at in fleet.asked[name] if at >= since]
        assert times
        assert times[0] - since <= 1.1 * wish.interval + STEP
        assert all(gap <= 1.1 * wish.interval + STEP for gap in fleet.gaps(name)[-2:])
    assert all(at <= since + STEP for name in fleet.asked.keys() - known.keys() for at in fleet.asked[name])


def test_ten_thousand_do_not_fall_due_in_one_second() -> None:
    schedule = Schedule()
    schedule.follow(wishes({f"service-{at}": 30.0 for at in range(10_000)}), 0.0)
    due = sorted(schedule.due(f"service-{at}") for at in range(10_000))
    assert due[-1] <= 30.0
    for second in range(30):
        assert 300 <= sum(second <= at < second + 1 for at in due) <= 400


def test_a_small_fleet_is_seen_soon() -> None:
    schedule = Schedule()
    schedule.follow(wishes({f"service-{at}": 30.0 for at in range(AT_ONCE + START_RATE)}), 0.0)
    due = [schedule.due(f"service-{at}") for at in range(AT_ONCE + START_RATE)]
    assert max(due) <= 1.0
    assert sum(at == 0.0 for at in due) > AT_ONCE


def test_whoever_is_waited_for_or_changed_goes_before_all_others() -> None:
    schedule = Schedule()
    known = wishes({f"service-{at:04}": 30.0 for at in range(1000)})
    schedule.follow(known, 0.0)
    schedule.want(["service-0900"], 20.0)
    schedule.follow({**known, "service-0800": Wish(30.0, "edited")}, 20.0)
    first = [schedule.take(20.0, failing=False) for _ in range(3)]
    assert {turn.name for turn in first[:2] if turn} == {"service-0800", "service-0900"}
    assert first[2]
    assert first[2].name not in ("service-0800", "service-0900")


def test_whoever_is_waited_for_and_silent_is_asked_each_second_not_more() -> None:
    fleet = Fleet(Schedule(), dead={"a"})
    fleet.schedule.follow(wishes({"a": 30.0}), 0.0)
    while fleet.now < 20:
        fleet.schedule.want(["a"], fleet.now)
        fleet.step()
    assert 18 <= len(fleet.asked["a"]) <= 21


def test_a_row_of_failures_goes_on_after_a_restart() -> None:
    schedule = Schedule()
    schedule.follow(wishes({"a": 30.0, "b": 30.0}), 100.0)
    schedule.recall("a", 4, 70.0)
    schedule.recall("gone", 4, 70.0)
    assert schedule.due("a") == 170.0
    assert schedule.failures("a") == 4
    assert schedule.take(169.0, failing=True) is None
    assert schedule.take(170.0, failing=True) == Turn("a", 0.0)


def test_a_wall_clock_that_was_set_puts_no_question_off_for_long() -> None:
    for claimed in (-1e9, 1e9):
        schedule = Schedule()
        schedule.follow(wishes({"a": 30.0}), 100.0)
        schedule.recall("a", 8, claimed)
        assert 100.0 <= schedule.due("a") <= 100.0 + 1.1 * LONGEST_FACTOR * 30.0


def test_replaced_entries_do_not_pile_up() -> None:
    schedule = Schedule()
    schedule.follow(wishes({"a": 1000.0, "b": 1000.0}), 0.0)
    for name in ("a", "b"):
        assert schedule.take(0.0, failing=False)
        schedule.landed(name, ok=True, now=0.0)
    for at in range(2000, 200, -1):
        schedule.look_soon(["a"], at / 3)
    assert len(schedule._answering) < 100
    assert schedule.next_due(failing=False) == 201 / 3


def test_one_that_is_being_asked_is_asked_once_more_after_an_operation() -> None:
    schedule = Schedule()
    schedule.follow(wishes({"a": 30.0}), 0.0)
    assert schedule.take(0.0, failing=False)
    schedule.look_soon(["a"], 1.2)
    assert schedule.take(2.0, failing=False) is None
    schedule.landed("a", ok=True, now=0.5)
    assert schedule.due("a") == 1.2
