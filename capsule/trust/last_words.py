"""Who last switched a service, as far as is on record: shared by who decides and who proves.

Rules kept: a `disable` of people holds until something settles it that came later by both clocks, that of the
reconcilers that recorded and that of the agent that switched; so no clock that is wrong gives a service
traffic which people took from it. Called by state_orders, and by decide for its ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar


class Said(Protocol):
    """One switch that was done. `at` is when its result was recorded, `done` when the agent says that it was
    done (as recorded, where it does not say)."""

    @property
    def at(self) -> datetime:
        """By the clock of a reconciler."""

    @property
    def done(self) -> datetime:
        """By the clock of the agent."""

    @property
    def holds(self) -> bool:
        """Whether people disabled the service, so that nothing but a later word takes it back."""

    @property
    def rank(self) -> tuple[datetime, bool, bool, str]:
        """The order of words of which none holds."""


W = TypeVar("W", bound=Said)


def unsettled(words: Sequence[W]) -> tuple[W, ...]:
    """The words that nothing settled: no other changes what counts, whatever is said later."""
    return tuple(each for each in words if not any(_settles(other, each) for other in words))


def last_word(words: Sequence[W]) -> W | None:
    """The word that counts; None where there is none."""
    left = unsettled(words)
    held = [each for each in left if each.holds]
    return max(held or left, key=lambda each: each.rank, default=None)


def _settles(later: Said, earlier: Said) -> bool:
    return later.at > earlier.at and later.done > earlier.done
