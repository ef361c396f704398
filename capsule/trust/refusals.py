"""Refusals proved: the request at the revision they name must bear out why it ends.

Rules kept: a rejection needs a person who rejected; a cancellation needs an approved `cancel` or `abort` that
names the request and all of its targets; every other reason is one that decide gives for such a request.
Called by records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from capsule.documents.paths import REQUESTS, RequestFolder
from capsule.documents.types import Refusal
from capsule.trust import objects
from capsule.trust.objects import ObjectReader
from capsule.trust.record_checks import ACKNOWLEDGE, BadRecord
from capsule.trust.state import JudgedRequest, MainState

CANCEL = "cancel"
ABORT = "abort"
ENDED_BY: Mapping[str, str] = {"CancelledByRequest": CANCEL, "AbortedByRequest": ABORT}
"""The action of the request that ends another one, by the reason of the refusal."""

_OF_AN_ORDER = frozenset({"ObserveOnly", "UnknownAction"})
_OF_ACTION: Mapping[str, frozenset[str]] = {
    CANCEL: frozenset({"NothingToCancel", "CancelTargets"}),
    ABORT: frozenset({"NothingToCancel", "CancelTargets", "NothingToAbort"}),
    ACKNOWLEDGE: frozenset({"UnknownCondition", "NotToAcknowledge"}),
}
"""Why decide refuses an approved request, by its action; for every other action it is `_OF_AN_ORDER`."""


def check_refusal(
    refusal: Refusal,
    judged: JudgedRequest,
    begun_as: Collection[tuple[str, str]],
    cancels: Collection[JudgedRequest],
    state: MainState,
) -> None:
    """Raise BadRecord unless the request bears the refusal out.

    `judged` is the request at that revision and time, `begun_as` path and digest of what was claimed,
    `state` main as it was in force, `cancels` the approved requests that are executed in the same commit,
    among them any `cancel` or `abort`.
    """
    spec = refusal.spec
    if judged.digest != spec.request_digest:
        raise BadRecord("RefusalNotPlausible", f"{judged.path} has another digest")
    expected = f"{judged.verdict} {judged.reason}".strip()
    if not _plausible(refusal, judged, begun_as, cancels, state):
        raise BadRecord(
            "RefusalNotPlausible", f"{judged.name} was {expected}, not {spec.phase} {spec.reason}"
        )


def _plausible(
    refusal: Refusal,
    judged: JudgedRequest,
    begun_as: Collection[tuple[str, str]],
    cancels: Collection[JudgedRequest],
    state: MainState,
) -> bool:
    spec = refusal.spec
    if spec.phase == "Expired":
        over = judged.document is not None and spec.recorded_at >= judged.document.spec.expires
        return over and spec.reason == "Expired"
    if spec.phase == "Cancelled":
        if spec.reason == "ChangedAfterClaim":
            return any(begun != (judged.path, judged.digest) for begun in begun_as)
        action = ENDED_BY.get(spec.reason)
        return action is not None and any(_ends(each, judged, action) for each in cancels)
    if spec.reason == "RejectedByReviewer":
        return any(seen.counts and seen.decision == "reject" for seen in judged.approvals)
    if judged.verdict == "approved" and judged.document:
        asked = judged.document.spec
        if spec.reason == "DisabledBySpec":
            return asked.action == "enable" and any(_disabled(state, name) for name in asked.targets)
        return spec.reason in _OF_ACTION.get(asked.action, _OF_AN_ORDER)
    return judged.verdict in ("refused", "rejected") and spec.reason == judged.reason


def _disabled(state: MainState, service: str) -> bool:
    """Whether the service's document in force says `enabled: false`."""
    in_force = state.services.get(service)
    return in_force is not None and not in_force.document.spec.enabled


def _ends(ending: JudgedRequest, victim: JudgedRequest, action: str) -> bool:
    """Whether a `cancel` or `abort` (`action`) names the victim and may end it on all of its targets."""
    if ending.document is None or ending.document.spec.action != action:
        return False
    asked = ending.document.spec
    targets = victim.document.spec.targets if victim.document else ()
    return asked.params.get("request") == victim.name and set(targets) <= set(asked.targets)


def places(reader: ObjectReader, tree: str, name: str) -> list[tuple[RequestFolder, str]]:
    """Where folders under requests/ of `tree` carry the name, with their ids. Raises BadObject,
    MissingObject."""
    top = objects.folder(reader, tree, REQUESTS)
    return [
        (place, own)
        for year in (objects.entries(reader, top) if top else ())
        if year.is_folder
        for month in objects.entries(reader, year.oid)
        if (place := RequestFolder.of(f"{REQUESTS}/{year.name}/{month.name}/{name}/request.yaml"))
        and month.is_folder
        and (own := objects.folder(reader, month.oid, name))
    ]
