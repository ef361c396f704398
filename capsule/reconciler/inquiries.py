"""Questions to the forge: asked in a pool of their own, paced, and asked again.

Rules kept: a slow forge delays nothing else; nobody is asked more often than the forge likes; one that is
away, busy or talks nonsense is asked again with growing pauses, and what waits for it says why. Called by
reconciler.evidence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from capsule.documents.problems import shown
from capsule.documents.types import ForgeSettings
from capsule.forge.api import EvidenceUnavailable, Forge, ForgeError
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.flights import Bell, Flights

log = logging.getLogger("capsule.reconciler")

Connect = Callable[[ForgeSettings], Forge]
WORKERS = 4
EVERY = 30.0
"""Seconds between two questions about one thing."""
GAP = 6.0
"""Seconds between two questions about different things, when many wait: forges count calls by the hour."""
SOONEST = 2.0
"""Seconds between two questions about one thing, whoever rings."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 600.0
LONGEST_TEXT = 300
MISSING = "PullRequestMissing: the forge knows no merged pull request that brought it"
A = TypeVar("A")
Look = Callable[[Forge, ForgeSettings], A | None]
"""Asks the forge, in another thread; None: there is no such pull request. Raises ForgeError."""


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[A]):
    """Something to be asked about as long as its bytes are of this digest. `begin` gives what asks, None
    where there is nothing to ask yet; it is called when the question is due, in the thread of the pass."""

    digest: str
    begin: Callable[[], Look[A] | None]
    request: str = ""
    """The request that it is about, for logs."""


@dataclass
class _Question:
    """What is known of asking about one thing: when it was last asked (monotonic), when it is due, how
    often in a row it failed, and why it waits."""

    digest: str
    asked: float = float("-inf")
    due: float = float("-inf")
    failures: int = 0
    why: str = ""


class Inquiries(Generic[A]):
    """Asks for one reconciler. `connect` makes the client of a forge; None when there is no token."""

    def __init__(self, clock: Clock, landed: Bell, connect: Connect | None) -> None:
        self._clock = clock
        self._landed = landed
        self._connect = connect
        self._flights: Flights[str, tuple[str, A | None]] = Flights(WORKERS, "forge", landed)
        self._questions: dict[str, _Question] = {}
        self._settings: ForgeSettings | None = None
        self._forge: Forge | None = None
        self._rung = threading.Event()

    def __len__(self) -> int:
        return len(self._flights)

    def ring(self) -> None:
        """Something happened at the forge: ask soon. May be called from any thread."""
        self._rung.set()
        self._landed.set()

    def ask(self, wanted: Mapping[str, Inquiry[A]], settings: ForgeSettings | None) -> bool:
        """Send off the questions that are due; others than `wanted` are forgotten. Whether the forge is
        another one than before: what it said is of no use any more."""
        self._forget(wanted)
        other = settings != self._settings
        forge = self._client(settings, wanted)
        if forge is None or settings is None:
            return other
        now, rung = self._clock.monotonic(), self._rung.is_set()
        self._rung.clear()
        for name, inquiry in wanted.items():
            known = self._questions[name]
            if rung and not known.failures:
                known.due = min(known.due, known.asked + SOONEST)
            if name not in self._flights and known.due <= now:
                known.asked = now
                known.due = now + max(EVERY, GAP * len(wanted))
                self._send(name, inquiry, forge, settings)
        return other

    def answers(self) -> Iterator[tuple[str, str, A]]:
        """What came back and is of use: what was asked about, by name and digest, and the answer."""
        for name, flight in self._flights.take_landed():
            known = self._questions.get(name)
            if known is None:
                continue
            try:
                digest, answer = flight.result()
            except ForgeError as error:
                self.failed(name, error)
                continue
            except Exception as error:
                log.exception("asking the forge about %s crashed; it will be asked again", name)
                self.failed(name, EvidenceUnavailable("ForgeFailed", type(error).__name__))
                continue
            if answer is None:
                self._pause(known, None)
                known.why = MISSING
                continue
            known.failures, known.why = 0, ""
            yield name, digest, answer

    def failed(self, name: str, error: ForgeError) -> None:
        """What the forge said about `name` is of no use: it waits, and is asked about again."""
        known = self._questions.get(name)
        if known is None:
            return
        later = isinstance(error, EvidenceUnavailable)
        why = f"{'EvidenceUnavailable: ' if later else ''}{error.reason}: {shown(str(error))}"[:LONGEST_TEXT]
        if why != known.why:
            log.log(logging.INFO if later else logging.ERROR, "%s waits for evidence: %s", name, why)
        known.why = why
        self._pause(known, error.retry_after if isinstance(error, EvidenceUnavailable) else LONGEST_PAUSE)

    def waits(self) -> Mapping[str, str]:
        """Why there is no evidence yet, by what was asked about."""
        return {name: known.why for name, known in self._questions.items() if known.why}

    def failing(self, name: str) -> bool:
        """Whether the last question about it that was answered brought nothing of use."""
        known = self._questions.get(name)
        return known is not None and known.failures > 0

    def close(self) -> None:
        """End the threads; what was not answered is asked by the next start."""
        self._flights.close()
        if self._forge:
            self._forge.close()

    # ---- its steps ------------------------------------------------------------------------------

    def _client(self, settings: ForgeSettings | None, wanted: Mapping[str, Inquiry[A]]) -> Forge | None:
        """The client for the forge in the settings; None where there is none, or it cannot be asked."""
        if settings != self._settings:
            if self._forge:
                self._forge.close()
            self._settings, self._forge = settings, None
        if settings is None or not wanted:
            return None
        if self._connect is None:
            self._all_wait("ForgeTokenMissing: give the reconciler --forge-token-file")
            return None
        if self._forge is None:
            try:
                self._forge = self._connect(settings)
            except ForgeError as error:
                self._all_wait(f"{error.reason}: {error}")
        return self._forge

    def _all_wait(self, why: str) -> None:
        for known in self._questions.values():
            if known.why != why:
                log.warning("reviews cannot be asked for: %s", why)
            known.why = why

    def _forget(self, wanted: Mapping[str, Inquiry[A]]) -> None:
        """Keep what is known of what still waits with the same bytes."""
        self._questions = {
            name: known
            if (known := self._questions.get(name)) and known.digest == inquiry.digest
            else _Question(inquiry.digest)
            for name, inquiry in wanted.items()
        }

    def _send(self, name: str, inquiry: Inquiry[A], forge: Forge, settings: ForgeSettings) -> None:
        look, digest = inquiry.begin(), inquiry.digest
        if look is not None:
            with about(request=inquiry.request):
                self._flights.start(name, lambda: (digest, look(forge, settings)))

    def _pause(self, known: _Question, at_least: float | None) -> None:
        pause = min(FIRST_PAUSE * 2.0 ** min(known.failures, 16), LONGEST_PAUSE)
        known.failures += 1
        known.due = self._clock.monotonic() + max(pause, at_least or 0.0)
