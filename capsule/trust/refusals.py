"""Refusals proved: the request at the revision they name must bear out why it ends.

Rules kept: a rejection needs a person who rejected; a cancellation needs an approved `cancel` that names the
request and all of its targets; every other reason is one that decide gives for such a request. Called by
records.
"""

from __future__ import annotations

from collections.abc import Collection

from capsule.documents.paths import REQUESTS, RequestFolder
from capsule.documents.types import Refusal
from capsule.trust import objects
from capsule.trust.objects import ObjectReader
from capsule.trust.record_checks import BadRecord
from capsule.trust.state import JudgedRequest

CANCEL = "cancel"

_OF_AN_ORDER = frozenset({"ObserveOnly", "UnknownAction"})
_OF_A_CANCEL = frozenset({"NothingToCancel", "CancelTargets"})


def check_refusal(
    refusal: Refusal,
    judged: JudgedRequest,
    begun_as: Collection[tuple[str, str]],
    cancels: Collection[JudgedRequest],
) -> None:
    """Raise BadRecord unless the request bears the refusal out.

    `judged` is the request at that revision and time, `begun_as` path and digest of what was claimed,
    `cancels` the approved cancel requests that are executed in the same commit.
    """
    spec = refusal.spec
    if judged.digest != spec.request_digest:
        raise BadRecord("RefusalNotPlausible", f"{judged.path} has another digest")
    expected = f"{judged.verdict} {judged.reason}".strip()
    if not _plausible(refusal, judged, begun_as, cancels):
        raise BadRecord(
            "RefusalNotPlausible", f"{judged.name} was {expected}, not {spec.phase} {spec.reason}"
        )


def _plausible(
    refusal: Refusal,
    judged: JudgedRequest,
    begun_as: Collection[tuple[str, str]],
    cancels: Collection[JudgedRequest],
) -> bool:
    spec = refusal.spec
    if spec.phase == "Expired":
        over = judged.document is not None and spec.recorded_at >= judged.document.spec.expires
        return over and spec.reason == "Expired"
    if spec.phase == "Cancelled":
        if spec.reason == "ChangedAfterClaim":
            return any(begun != (judged.path, judged.digest) for begun in begun_as)
        return spec.reason == "CancelledByRequest" and any(_cancels(each, judged) for each in cancels)
    if spec.reason == "RejectedByReviewer":
        return any(seen.counts and seen.decision == "reject" for seen in judged.approvals)
    if judged.verdict == "approved" and judged.document:
        return spec.reason in (_OF_A_CANCEL if judged.document.spec.action == CANCEL else _OF_AN_ORDER)
    return judged.verdict in ("refused", "rejected") and spec.reason == judged.reason


def _cancels(cancel: JudgedRequest, victim: JudgedRequest) -> bool:
    """Whether a cancel request names the victim and may end it on all of its targets."""
    if cancel.document is None or cancel.document.spec.action != CANCEL:
        return False
    asked = cancel.document.spec
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
