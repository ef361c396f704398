"""Time and chance, as values that tests replace. Called by the reconciler and the daemon."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for documents, monotonic seconds for leases and schedules, nonces for claims."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def nonce(self) -> str:
        """32 random hex digits."""
        ...


class SystemClock:
    """The machine's clocks and its source of randomness."""

    def now(self) -> datetime:
        """The wall clock, in UTC, to the second: documents carry no more."""
        return datetime.now(UTC).replace(microsecond=0)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def nonce(self) -> str:
        """32 random hex digits."""
        return secrets.token_hex(16)
