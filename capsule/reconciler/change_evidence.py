"""Changes of documents that wait for reviews: what is asked of the forge, and what of it is recorded.

Rules kept: changes that came by one step of main are asked about together, few at a time; an answer is raw;
one attestation for each answer that says anything new of them, at the revision that is judged. Called by
reconciler.evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from capsule.documents.codec import emit
from capsule.documents.paths import ChangeFolder, service_name
from capsule.documents.types import ForgeSettings
from capsule.forge.api import EvidenceUnavailable, Forge
from capsule.reconciler.pull_facts import facts_of, origin_of
from capsule.reconciler.recording import Facts
from capsule.trust.attestations import ForgeFacts
from capsule.trust.change_reviews import (
    Origin,
    attest_change,
    leading_steps,
    tells_anew,
    waits_for_reviews,
)
from capsule.trust.changes import VoidApproval
from capsule.trust.objects import BadObject, MissingObject, ObjectReader
from capsule.trust.state import MainState, PendingChange
from capsule.trust.step import in_force_at

MOST_PATHS = 50
"""Documents that are asked about together: forges tell the blob id of one at a time."""
MOST_STEPS = 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """Changes that came by the step `since` and wait for its reviews. `steps` led to them, `since` first."""

    since: str
    changes: tuple[PendingChange, ...]

    @property
    def digest(self) -> str:
        """Tells these very changes from others."""
        return "\n".join(f"{change.path} {change.old} {change.new}" for change in self.changes)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes)


@dataclass(frozen=True, slots=True)
class ChangeAnswer:
    """What the forge said of the pull request that became `steps`, and of where it comes from."""

    facts: ForgeFacts
    origin: Origin
    steps: tuple[str, ...]


def waiting_changes(state: MainState) -> dict[str, Waiting]:
    """What of main waits for reviews, by a name for each group that is asked about together."""
    if state.suspended:
        return {}
    by_step: dict[str, list[PendingChange]] = {}
    for change in filter(waits_for_reviews, state.pending):
        by_step.setdefault(change.since, []).append(change)
    found = {}
    for since, changes in by_step.items():
        changes.sort(key=lambda change: (service_name(change.path) or "", change.path))
        for at in range(0, len(changes), MOST_PATHS):
            name = f"change {since[:12]}" + (f" ({at // MOST_PATHS + 1})" if at else "")
            found[name] = Waiting(since, tuple(changes[at : at + MOST_PATHS]))
    return found


def steps_of(reader: ObjectReader, state: MainState, waiting: Waiting) -> tuple[str, ...]:
    """The steps of main that led from what is in force to these changes, as far as they are few."""
    found = {waiting.since: None}
    for change in waiting.changes:
        document = in_force_at(state, change.path)
        blob = document.blob if document else None
        try:
            leading = leading_steps(reader, change.since, change.path, blob)
            found |= dict.fromkeys(islice(leading, MOST_STEPS))
        except (VoidApproval, BadObject, MissingObject):
            continue  # the verdict says what is wrong
    return tuple(found)[:MOST_STEPS]


def look_at_change(
    forge: Forge, settings: ForgeSettings, steps: Sequence[str], paths: Sequence[str]
) -> ChangeAnswer | None:
    """Ask the forge which pull request became the first of `steps`, which of the others it became, and what
    it holds; None when there is none. Raises ForgeError."""
    pull = forge.find(steps[0])
    if pull is None or pull.merged is None:
        return None
    others = [(step, forge.find(step)) for step in steps[1:]]
    own = [step for step, found in others if found and found.number == pull.number]
    blobs = forge.blob_ids(pull.head, paths)
    facts = facts_of(settings, pull, pull.merged, blobs)
    try:
        origin = origin_of(forge, pull.number, paths)
    except ValueError as error:
        raise EvidenceUnavailable("ForgeAnswerMalformed", str(error).partition("\n")[0]) from None
    return ChangeAnswer(facts, origin, (steps[0], *own))


def change_facts(
    waiting: Waiting, answer: ChangeAnswer, state: MainState, reconciler: str, now: datetime, number: int
) -> Facts | None:
    """The attestation with that number at the revision judged; None where the forge says nothing new.

    Raises ValueError for what no document may hold.
    """
    found = attest_change(
        answer.facts,
        answer.origin,
        policy=state.policy.document,
        steps=answer.steps,
        absent=[path for path in waiting.paths if path not in answer.facts.paths],
        revision=state.tip,
        reconciler=reconciler,
        now=now,
    )
    if not any(tells_anew(change.told, found) for change in waiting.changes):
        return None
    names = [name for name in map(service_name, waiting.paths) if name]
    return Facts(
        {ChangeFolder(state.tip).attestation(number): emit(found)},
        f"change by {found.spec.forge} pull request {found.spec.number}: reviews recorded",
        [("Capsule-Evidence", "forge"), *(("Capsule-Service", name) for name in dict.fromkeys(names))],
    )
