"""Generations of desired-state orders: Unix time in milliseconds, rising with every order of a service.

Rules kept: one unit everywhere; a generation far ahead of the clock is refused, for whoever takes it is deaf
to every lower one. A generation of a larger unit (seconds, a counter) is simply a lower one. Called by the
agent, and by Capsule's decide and trust.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

HOUR = 3_600_000
"""An hour, in generations."""
LONGEST_AHEAD = 24 * HOUR
"""How far a generation may be ahead of the clock of whoever judges it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT = timedelta(milliseconds=1)


def generation_at(when: datetime) -> int:
    """The generation of an order given at `when`."""
    return (when - _EPOCH) // _UNIT


def generation_text(generation: int) -> str:
    """The time that a generation is of, for people."""
    try:
        return f"{_EPOCH + generation * _UNIT:%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return "after the year 9999"
