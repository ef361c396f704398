"""Reviews at a forge, asked for by the reconciler and recorded as attestations.

Rules kept: a forge is asked only about requests and changes of documents that reviews could approve; what it
says is recorded raw, and judged by trust; once reviews of changes are recorded, main is judged anew before
anything else begins. Called by the reconciler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from capsule.decide import Attest, Begin
from capsule.documents.codec import emit
from capsule.documents.types import Attestation, ForgeSettings
from capsule.forge.api import EvidenceUnavailable, Forge
from capsule.lifecycle import Records
from capsule.reconciler.change_evidence import (
    ChangeAnswer,
    Waiting,
    change_facts,
    look_at_change,
    steps_of,
    waiting_changes,
)
from capsule.reconciler.clock import Clock
from capsule.reconciler.context import about
from capsule.reconciler.flights import Bell
from capsule.reconciler.inquiries import (
    EVERY,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Connect,
    Inquiries,
    Inquiry,
    Look,
)
from capsule.reconciler.pull_facts import facts_of
from capsule.reconciler.recording import Facts, folder_of
from capsule.trust.arrivals import Arrivals
from capsule.trust.attestations import ForgeFacts, attest, awaits_reviews, says_anew
from capsule.trust.objects import ObjectReader
from capsule.trust.state import JudgedRequest, MainState

__all__ = ["EVERY", "FIRST_PAUSE", "LONGEST_PAUSE", "REASONS", "Connect", "ForgeEvidence", "facts_of"]

REASONS: dict[str, str] = {
    "EvidenceUnavailable": "The forge that knows the reviews is away, busy, or answers nonsense. The request "
    "waits; the forge is asked again.",
    "ForgeTokenMissing": "The settings name a forge, and the reconciler was given no token for it.",
    "PullRequestMissing": "The forge knows no merged pull request by which the request came to main.",
}

Answer = ForgeFacts | ChangeAnswer


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the forge said about what had this digest."""

    digest: str
    told: Answer


class ForgeEvidence:
    """Asks for one reconciler. `connect` makes the client of a forge; None when there is no token."""

    def __init__(
        self, reader: ObjectReader, name: str, clock: Clock, landed: Bell, connect: Connect | None
    ) -> None:
        self._reader = reader
        self._name = name
        self._clock = clock
        self._landed = landed
        self._arrivals = Arrivals(reader)
        self._inquiries: Inquiries[Answer] = Inquiries(clock, landed, connect)
        self._changes: Mapping[str, Waiting] = {}
        self._ready: dict[str, _Answer] = {}
        self._told: set[str] = set()
        self.bears_on_main = False
        """Whether this pass recorded what main is to be judged anew by, before anything else begins."""

    def __len__(self) -> int:
        return len(self._inquiries)

    def ring(self) -> None:
        """Something happened at the forge: ask soon. May be called from any thread."""
        self._inquiries.ring()

    def ask(self, decided: Iterable[Attest], state: MainState) -> None:
        """Send off the questions that are due about what reviews could approve, or have."""
        wanted = {each.request.name: self._about_request(each.request, state) for each in decided}
        self._changes = waiting_changes(state)
        wanted |= {name: self._about_change(each, state) for name, each in self._changes.items()}
        if self._inquiries.ask(wanted, state.settings.document.spec.forge):
            self._ready.clear()

    def facts(self, requests: Mapping[str, JudgedRequest], state: MainState, records: Records) -> list[Facts]:
        """What is to be recorded of the answers that came back. `recorded` forgets them."""
        self._ready |= {name: _Answer(digest, told) for name, digest, told in self._inquiries.answers()}
        self._told.clear()
        found = [*self._of_requests(requests, state, records)]
        of_changes = [*self._of_changes(state)]
        self.bears_on_main = bool(of_changes)
        return of_changes + found

    def settled(self, begins: Iterable[Begin]) -> list[Begin]:
        """Those whose reviews this pass found as they were when it was decided to begin them. Where the last
        look at the forge failed, what rests on reviews waits: they may have been dismissed since."""
        return [
            each
            for each in begins
            if each.request.name not in self._told
            and not (each.request.evidence == "forge" and self._inquiries.failing(each.request.name))
        ]

    def recorded(self) -> None:
        """The facts that were handed out are on audit: what follows from them is decided at once."""
        if self._ready:
            self._ready.clear()
            self._landed.set()

    def waits(self) -> Mapping[str, str]:
        """Why there is no evidence yet, by the name of the request or the path of the document."""
        return {
            place: why
            for name, why in self._inquiries.waits().items()
            for place in (self._changes[name].paths if name in self._changes else (name,))
        }

    def close(self) -> None:
        """End the threads; what was not answered is asked by the next start."""
        self._inquiries.close()

    # ---- requests -------------------------------------------------------------------------------

    def _about_request(self, judged: JudgedRequest, state: MainState) -> Inquiry[Answer]:
        def begin() -> Look[Answer] | None:
            arrival = self._arrivals.of(state.tip, judged.path, _blob_id(judged.raw))
            if arrival is None:
                return None
            return lambda forge, settings: _look(forge, settings, arrival, judged.path)

        return Inquiry(judged.digest, begin, judged.name)

    def _of_requests(
        self, requests: Mapping[str, JudgedRequest], state: MainState, records: Records
    ) -> Iterator[Facts]:
        for name, answer in list(self._ready.items()):
            if not isinstance(answer.told, ForgeFacts):
                continue
            judged = requests.get(name)
            made = None
            if judged and judged.digest == answer.digest and _waits(judged, records):
                with about(request=name):
                    made = self._attestation(judged, answer.told, state, records)
            if made is None:
                del self._ready[name]
            else:
                self._told.add(name)
                yield made

    def _attestation(
        self, judged: JudgedRequest, facts: ForgeFacts, state: MainState, records: Records
    ) -> Facts | None:
        """One new attestation; None where the forge says nothing new, or what no document may hold."""
        recorded = records.of(judged.name)
        earlier = recorded.attestations if recorded else ()
        try:
            found = attest(
                judged,
                facts,
                policy=state.policy.document,
                revision=state.tip,
                reconciler=self._name,
                now=self._clock.now(),
            )
        except ValueError as error:
            self._malformed(judged.name, error)
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

    def _malformed(self, name: str, error: ValueError) -> None:
        self._inquiries.failed(name, EvidenceUnavailable("ForgeAnswerMalformed", _first(error)))

    # ---- changes of documents -------------------------------------------------------------------

    def _about_change(self, waiting: Waiting, state: MainState) -> Inquiry[Answer]:
        def begin() -> Look[Answer]:
            steps = steps_of(self._reader, state, waiting)
            return lambda forge, settings: look_at_change(forge, settings, steps, waiting.paths)

        return Inquiry(waiting.digest, begin)

    def _of_changes(self, state: MainState) -> Iterator[Facts]:
        """What is new of the changes that wait in `state`, numbered behind what was recorded at its tip."""
        waiting = waiting_changes(state)
        number = state.heard
        for name, answer in list(self._ready.items()):
            if not isinstance(answer.told, ChangeAnswer):
                continue
            group, made = waiting.get(name), None
            if group and group.digest == answer.digest:
                made = self._change_attestation(name, group, answer.told, state, number + 1)
            if made is None:
                del self._ready[name]
            else:
                number += 1
                yield made

    def _change_attestation(
        self, name: str, group: Waiting, told: ChangeAnswer, state: MainState, number: int
    ) -> Facts | None:
        try:
            return change_facts(group, told, state, self._name, self._clock.now(), number)
        except ValueError as error:
            self._malformed(name, error)
            return None


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


def _blob_id(data: bytes) -> str:
    """The id that git gives these bytes as a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _first(error: ValueError) -> str:
    return str(error).partition("\n")[0]
