"""Which services a pass looks at: what changed, what came due, what was not seen through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from capsule.reconciler.attention import Attention

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Fact:
    """Equal to every other, so that only identity tells facts apart."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fact)

    def __hash__(self) -> int:
        return 1


def settled(services: dict[str, object], seen: dict[str, object]) -> Attention:
    attention = Attention()
    assert attention.look(services, [seen], NOON) == sorted(services)
    attention.settle()
    assert attention.look(services, [seen], NOON) == []
    return attention


def test_what_changed_is_looked_at_until_it_is_seen_through() -> None:
    services, seen = {"a": Fact(), "b": Fact()}, {"a": Fact()}
    attention = settled({**services}, {**seen})
    changed = {**services, "b": Fact()}
    assert attention.look(changed, [seen], NOON) == ["b"]
    assert attention.look(changed, [seen], NOON) == ["b"], "a pass that failed looks again"
    attention.settle(but={"b"})
    assert attention.look(changed, [{"a": Fact()}], NOON) == ["a", "b"]
    attention.settle()
    assert attention.look(changed, [{}], NOON) == ["a"], "a fact that is gone is a change"


def test_services_that_are_gone_are_not_looked_at() -> None:
    services: dict[str, object] = {"a": Fact(), "b": Fact()}
    attention = settled(services, {})
    assert attention.look({"a": services["a"]}, [{"b": Fact()}], NOON) == []


def test_what_concerns_all_makes_all_be_looked_at() -> None:
    services: dict[str, object] = {"a": Fact(), "b": Fact()}
    attention = settled(services, {})
    policy = Fact()
    assert attention.look(services, [{}], NOON, whole=(policy,)) == ["a", "b"]
    attention.settle()
    assert attention.look(services, [{}], NOON, whole=(policy,)) == []
    assert attention.look(services, [{}], NOON, whole=(Fact(),)) == ["a", "b"]


def test_a_wish_to_look_again_comes_due_once_and_the_earliest_stands() -> None:
    services: dict[str, object] = {"a": Fact(), "b": Fact()}
    attention = settled(services, {})
    attention.wait("a", NOON + timedelta(minutes=5))
    attention.wait("a", NOON + timedelta(minutes=2))
    attention.wait("a", NOON + timedelta(minutes=9))
    at_two = NOON + timedelta(minutes=2)
    assert attention.look(services, [{}], at_two - timedelta(seconds=1)) == []
    assert attention.look(services, [{}], at_two) == ["a"]
    attention.settle()
    assert attention.look(services, [{}], NOON + timedelta(hours=1)) == []
