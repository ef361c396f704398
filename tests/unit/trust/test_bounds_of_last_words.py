"""Which switch of a service counts: what is settled, and by what exactly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from capsule.trust.last_words import last_word, unsettled
from tests.unit.worlds import NOW

LATER = NOW + timedelta(seconds=1)


@dataclass(frozen=True)
class Switch:
    """A switch, recorded and done at these times."""

    name: str
    at: datetime = NOW
    done: datetime = NOW
    holds: bool = False

    @property
    def rank(self) -> tuple[datetime, bool, bool, str]:
        return (self.at, False, False, self.name)


def test_without_a_word_none_counts() -> None:
    assert last_word([]) is None


def test_where_none_holds_the_last_one_counts() -> None:
    one, two = Switch("one"), Switch("two", at=LATER)
    assert last_word([one]) == one
    assert last_word([two, one]) == two


def test_what_holds_counts_beside_others_that_settle_nothing() -> None:
    held, other = Switch("held", holds=True), Switch("other", at=LATER)
    assert last_word([held, other]) == held


@pytest.mark.parametrize(
    ("at", "done", "settles"), [(LATER, LATER, True), (NOW, LATER, False), (LATER, NOW, False)]
)
def test_only_what_is_later_by_both_clocks_settles(at: datetime, done: datetime, settles: bool) -> None:
    held, other = Switch("held", holds=True), Switch("other", at=at, done=done)
    assert last_word([held, other]) == (other if settles else held)
    assert unsettled([held, other]) == ((other,) if settles else (held, other))
