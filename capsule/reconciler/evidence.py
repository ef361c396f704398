"""Reviews at a forge, asked for by the reconciler and recorded as attestations.

Rules kept: a forge is asked only about requests that reviews could approve, in a pool of its own, so that a
slow one delays nothing else; one that is away, busy or talks nonsense is asked again with growing pauses, and
the request waits; what it says is recorded raw, and judged by trust. Called by the reconciler.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from capsule.decide import Attest, Begin
from capsule.documents.codec import emit
from capsule.documents.problems import shown
from capsule.documents.types import Attestation, ForgeSettings, Review
from capsule.forge.api import EvidenceUnavailable, Forge, ForgeError, RawPull
from capsule.lifecycle import Records
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.flights import Bell, Flights
from capsule.reconciler.recording import Facts, folder_of
from capsule.trust.attestations import ForgeFacts, attest, awaits_reviews, says_anew
from capsule.trust.merges import Arrivals
from capsule.trust.objects import ObjectReader
from capsule.trust.state import JudgedRequest, MainState

log = logging.getLogger("capsule.reconciler")

REASONS: dict[str, str] = {
    "EvidenceUnavailable": "The forge that knows the reviews is away, busy, or answers nonsense. The request "
    "waits; the forge is asked again.",
    "ForgeTokenMissing": "The settings name a forge, and the reconciler was given no token for it.",
    "PullRequestMissing": "The forge knows no merged pull request by which the request came to main.",
}

Connect = Callable[[ForgeSettings], Forge]
WORKERS = 4
EVERY = 30.0
"""Seconds between two questions about one request."""
GAP = 6.0
"""Seconds between two questions about different requests, when many wait: forges count calls by the hour."""
SOONEST = 2.0
"""Seconds between two questions about one request, whoever rings."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 600.0
LONGEST_TEXT = 300


@dataclass
class _Question:
    """What is known of asking about one request: when it was last asked (monotonic), when it is due, how
    often in a row it failed, and why it waits."""

    digest: str
    asked: float = float("-inf")
    due: float = float("-inf")
    failures: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the forge said about the request whose bytes have this digest; None: no merged pull request."""

    digest: str
    facts: ForgeFacts | None


class ForgeEvidence:
    """Asks for one reconciler. `connect` makes the client of a forge; None when there is no token."""

    def __init__(
        self, reader: ObjectReader, name: str, clock: Clock, landed: Bell, connect: Connect | None
    ) -> None:
        self._name = name
        self._clock = clock
        self._landed = landed
        self._connect = connect
        self._arrivals = Arrivals(reader)
        self._flights: Flights[str, _Answer] = Flights(WORKERS, "forge", landed)
        self._questions: dict[str, _Question] = {}
        self._ready: dict[str, _Answer] = {}
        self._told: set[str] = set()
        self._settings: ForgeSettings | None = None
        self._forge: Forge | None = None
        self._rung = threading.Event()

    def __len__(self) -> int:
        return len(self._flights)

    def ring(self) -> None:
        """Something happened at the forge: ask soon. May be called from any thread."""
        self._rung.set()
        self._landed.set()

    def ask(self, decided: Iterable[Attest], state: MainState) -> None:
        """Send off the questions that are due about requests that reviews could approve, or have."""
        wanted = {each.request.name: each.request for each in decided}
        self._forget(wanted)
        forge = self._client(state, wanted)
        if forge is None or self._settings is None:
            return
        now, rung = self._clock.monotonic(), self._rung.is_set()
        self._rung.clear()
        for name, judged in wanted.items():
            known = self._questions[name]
            if rung and not known.failures:
                known.due = min(known.due, known.asked + SOONEST)
            if name not in self._flights and known.due <= now:
                known.asked = now
                known.due = now + max(EVERY, GAP * len(wanted))
                self._send(judged, state, forge, self._settings)

    def facts(self, requests: Mapping[str, JudgedRequest], state: MainState, records: Records) -> list[Facts]:
        """What is to be recorded of the answers that came back. `recorded` forgets them."""
        self._land()
        found = []
        self._told.clear()
        for name, answer in list(self._ready.items()):
            judged = requests.get(name)
            if judged is None or judged.digest != answer.digest or not _waits(judged, records):
                del self._ready[name]
                continue
            with about(request=name):
                made = self._attestation(judged, answer, state, records)
            if made is None:
                del self._ready[name]
            else:
                found.append(made)
                self._told.add(name)
        return found

    def settled(self, begins: Iterable[Begin]) -> list[Begin]:
        """Those whose reviews this pass found as they were when it was decided to begin them."""
        return [each for each in begins if each.request.name not in self._told]

    def recorded(self) -> None:
        """The facts that were handed out are on audit: what follows from them is decided at once."""
        if self._ready:
            self._ready.clear()
            self._landed.set()

    def waits(self) -> Mapping[str, str]:
        """Why requests have no evidence yet, by name."""
        return {name: known.why for name, known in self._questions.items() if known.why}

    def close(self) -> None:
        """End the threads; what was not answered is asked by the next start."""
        self._flights.close()
        if self._forge:
            self._forge.close()

    # ---- asking ---------------------------------------------------------------------------------

    def _client(self, state: MainState, wanted: Mapping[str, JudgedRequest]) -> Forge | None:
        """The client for the forge in the settings; None where there is none, or it cannot be asked."""
        settings = state.settings.document.spec.forge
        if settings != self._settings:
            if self._forge:
                self._forge.close()
            self._settings, self._forge = settings, None
            self._ready.clear()
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

    def _forget(self, wanted: Mapping[str, JudgedRequest]) -> None:
        """Keep what is known of requests that still wait with the same bytes."""
        self._questions = {
            name: known
            if (known := self._questions.get(name)) and known.digest == judged.digest
            else _Question(judged.digest)
            for name, judged in wanted.items()
        }

    def _send(self, judged: JudgedRequest, state: MainState, forge: Forge, settings: ForgeSettings) -> None:
        arrival = self._arrivals.of(state.tip, judged.path, _blob_id(judged.raw))
        if arrival is None:
            return
        with about(request=judged.name):
            path, digest = judged.path, judged.digest
            self._flights.start(judged.name, lambda: _Answer(digest, _look(forge, settings, arrival, path)))

    # ---- answers --------------------------------------------------------------------------------

    def _land(self) -> None:
        for name, flight in self._flights.take_landed():
            known = self._questions.get(name)
            if known is None:
                continue
            try:
                answer = flight.result()
            except ForgeError as error:
                self._failed(name, known, error)
                continue
            except Exception as error:
                log.exception("asking the forge about %s crashed; it will be asked again", name)
                self._failed(name, known, EvidenceUnavailable("ForgeFailed", type(error).__name__))
                continue
            if answer.facts is None:
                self._pause(known, None)
                known.why = "PullRequestMissing: the forge knows no merged pull request that brought it"
                continue
            known.failures, known.why = 0, ""
            self._ready[name] = answer

    def _failed(self, name: str, known: _Question, error: ForgeError) -> None:
        later = isinstance(error, EvidenceUnavailable)
        why = f"{'EvidenceUnavailable: ' if later else ''}{error.reason}: {shown(str(error))}"[:LONGEST_TEXT]
        if why != known.why:
            log.log(logging.INFO if later else logging.ERROR, "%s waits for evidence: %s", name, why)
        known.why = why
        self._pause(known, error.retry_after if isinstance(error, EvidenceUnavailable) else LONGEST_PAUSE)

    def _pause(self, known: _Question, at_least: float | None) -> None:
        pause = min(FIRST_PAUSE * 2.0 ** min(known.failures, 16), LONGEST_PAUSE)
        known.failures += 1
        known.due = self._clock.monotonic() + max(pause, at_least or 0.0)

    def _attestation(
        self, judged: JudgedRequest, answer: _Answer, state: MainState, records: Records
    ) -> Facts | None:
        """One new attestation; None where the forge says nothing new, or what no document may hold."""
        assert answer.facts is not None
        recorded = records.of(judged.name)
        earlier = recorded.attestations if recorded else ()
        try:
            found = attest(
                judged, answer.facts, revision=state.tip, reconciler=self._name, now=self._clock.now()
            )
        except ValueError as error:
            known = self._questions.get(judged.name)
            if known:
                self._failed(judged.name, known, EvidenceUnavailable("ForgeAnswerMalformed", _first(error)))
            return None
        last = _decisive(earlier[-1]) if earlier else None
        if (last is None and not _decisive(found).spec.reviews) or not says_anew(last, _decisive(found)):
            return None
        folder = recorded.folder if recorded else folder_of(judged)
        return Facts(
            {folder.attestation(len(earlier) + 1): emit(found)},
            f"{judged.name}: reviews of {found.spec.forge} pull request {found.spec.number} recorded",
            [("Capsule-Request", judged.name), ("Capsule-Evidence", "forge")],
        )


def _decisive(found: Attestation) -> Attestation:
    """An attestation without mere comments: they are recorded with the next word that decides."""
    reviews = tuple(each for each in found.spec.reviews if each.state != "commented")
    return found.model_copy(update={"spec": found.spec.model_copy(update={"reviews": reviews})})


def _waits(judged: JudgedRequest, records: Records) -> bool:
    """Whether reviews could still change what becomes of a request: nothing of it was begun or refused."""
    known = records.of(judged.name)
    ended = known is not None and (known.refusal is not None or known.claimed)
    return not ended and awaits_reviews(judged)


def _look(forge: Forge, settings: ForgeSettings, arrival: str, path: str) -> ForgeFacts | None:
    """Ask the forge how `arrival` came to main, and what the file at `path` was at the head. Raises
    ForgeError."""
    pull = forge.find(arrival)
    if pull is None or pull.merged is None:
        return None
    return facts_of(settings, pull, pull.merged, forge.blob_ids(pull.head, [path]))


def facts_of(settings: ForgeSettings, pull: RawPull, merged: str, paths: Mapping[str, str]) -> ForgeFacts:
    """What a forge said of `pull`, which became `merged`, as trust reads it. Raises ValueError."""
    return ForgeFacts(
        forge=settings.kind,
        server=settings.server,
        repository=settings.repository,
        number=pull.number,
        merged=merged,
        head=pull.head,
        author=pull.author,
        paths=paths,
        reviews=_reviews(pull),
    )


def _reviews(pull: RawPull) -> Sequence[Review]:
    return [
        Review(
            id=each.id,
            user=each.user,
            login=shown(each.login)[:100],
            state=each.state,
            commit=each.commit,
            submitted_at=each.submitted_at,
            bot=each.bot,
        )
        for each in pull.reviews
    ]


def _blob_id(data: bytes) -> str:
    """The id that git gives these bytes as a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _first(error: ValueError) -> str:
    return str(error).partition("\n")[0]
