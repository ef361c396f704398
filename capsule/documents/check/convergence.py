"""Checks of what a reconciler is told to do by itself: corrections and proposals. Called by check.tree."""

from __future__ import annotations

from collections.abc import Iterator

from capsule.documents.check.sources import Source
from capsule.documents.problems import Problem
from capsule.documents.scalars import duration_text
from capsule.documents.types import Capsule, Service


def check_proposal(source: Source[Service]) -> Iterator[Problem]:
    """A rotation proposed so early that it would be proposed again as soon as it is done."""
    rotation = source.document.spec.rotation
    if rotation and rotation.propose is not None and rotation.propose >= rotation.every:
        message = "a new rotation would be proposed as soon as the last one is done"
        expected = f"less than rotation.every, {duration_text(rotation.every)}"
        yield source.problem(("spec", "rotation", "propose"), "ProposedTooEarly", message, expected)


def check_correction(source: Source[Service]) -> Iterator[Problem]:
    """Drift that is to be corrected where nothing can be ordered, or nothing is pinned."""
    spec = source.document.spec
    if spec.on_drift != "correct":
        return
    if spec.agent.key is None:
        message = "without agent.key the service is only observed, so no drift is corrected"
        hint = "add the key of its agent, or say onDrift: report"
    elif not spec.pins.keys() - set(spec.ignore_drift):
        message = "no pin is left whose drift could be corrected"
        hint = "add pins, or say onDrift: report"
    else:
        return
    loc = ("spec", "onDrift")
    yield source.problem(loc, "NothingToCorrect", message, hint=hint, severity="warning")


def check_breaker(source: Source[Capsule]) -> Iterator[Problem]:
    """A loop breaker that never trips: so many corrections do not fit into its time."""
    spec = source.document.spec.correction
    if spec.every * (spec.limit - 1) > spec.within:
        message = f"{spec.limit} corrections every {duration_text(spec.every)} never lie within "
        message += f"{duration_text(spec.within)}, so an agent that keeps drifting is corrected for ever"
        expected = f"at least {duration_text(spec.every * (spec.limit - 1))}"
        loc = ("spec", "correction")
        yield source.problem(loc, "CorrectionNeverStops", message, expected, severity="warning")
