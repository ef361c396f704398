"""What reviews at the forge bring into force, once audit tells of them, beside the steps of main.

Rules kept: what was recorded while audit had main taken in up to a revision is judged behind that step and
before the next one, by the policy then in force, whenever and by whomever it is judged; what it brought into
force stays, whatever is said of the pull request later; what waits keeps what was said of it last, for the
steps that follow. Called by mainline, audit and the report for auditors.
"""

from __future__ import annotations

from dataclasses import replace

from capsule.documents.paths import SIGNERS_FOLDER
from capsule.documents.types import ChangeAttestation
from capsule.trust import objects
from capsule.trust.objects import ObjectReader
from capsule.trust.state import Finding, MainState
from capsule.trust.step import Step
from capsule.trust.takeover import take_over_reviewed
from capsule.trust.told_changes import Told


def hear_all(reader: ObjectReader, state: MainState, told: Told | None) -> MainState:
    """The state behind what was recorded at its tip and not judged yet. Raises MissingObject."""
    for number, attestation in (told.of(state.tip, state.heard) if told else {}).items():
        state = replace(hear(reader, state, attestation), heard=number)
    return state


def hear(reader: ObjectReader, state: MainState, told: ChangeAttestation) -> MainState:
    """The state behind `told`, which was recorded while main was taken in up to its tip.

    Raises MissingObject.
    """
    spec = told.spec
    concerned = {
        change.path: replace(change, told=told)
        for change in state.pending
        if change.path in spec.paths and change.since in spec.steps
    }
    pending = {change.path: concerned.get(change.path, change) for change in state.pending}
    tree = objects.tree_of(objects.raw_commit(reader, state.tip))
    step = Step(reader, state, state.tip, tree, pending)
    taken = state if state.held else take_over_reviewed(step, concerned)
    taken = replace(taken, pending=tuple(step.pending.values()), fleeting=state.fleeting or step.fleeting)
    signers = tuple(each for each in state.findings if each.path.startswith(SIGNERS_FOLDER))
    return replace(taken, findings=findings_of(taken, signers))


def findings_of(state: MainState, signers: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Everything a person must know of the state, most important first; `signers`: of the list of signers."""
    held = (state.held,) if state.held else ()
    return (
        *held,
        *(
            Finding(change.reason, change.message, change.path, change.since)
            for change in state.pending
            if not state.held or change.path != state.held.path
        ),
        *signers,
    )
