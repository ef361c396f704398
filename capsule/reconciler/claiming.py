"""From decisions to claims: what is recorded before any order leaves. Called by the reconciler."""

from __future__ import annotations

from collections.abc import Sequence

from capsule.decide import Begin
from capsule.documents.types import (
    API_VERSION,
    Claim,
    ClaimSpec,
    Journal,
    Metadata,
)
from capsule.lifecycle import Observation, Records
from capsule.reconciler.clock import Clock
from capsule.reconciler.orders import Errand
from capsule.reconciler.recording import Facts, claim_facts, folder_of
from capsule.trust.state import JudgedRequest, MainState


class Claiming:
    """Makes the claims of one reconciler."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock

    def errands(
        self, begins: Sequence[Begin], state: MainState, records: Records, seen: dict[str, Observation]
    ) -> list[Errand]:
        """One errand for every operation to begin or to take over."""
        return [self._errand(begin, state, records, seen) for begin in begins]

    def facts(self, errands: Sequence[Errand]) -> Facts:
        """The one commit that claims them all; a request on a branch becomes a parent of it."""
        branches = [e.request.revision for e in errands if e.request and e.request.source == "branch"]
        return claim_facts([(errand.folder, errand.claim) for errand in errands], branches)

    def _errand(
        self, begin: Begin, state: MainState, records: Records, seen: dict[str, Observation]
    ) -> Errand:
        judged, name = begin.request, begin.service.document.metadata.name
        known = records.of(judged.name)
        ended = known is not None and known.refusal is not None
        earlier = known.operations[name].claims if known and name in known.operations else ()
        claim = Claim(
            api_version=API_VERSION,
            kind="Claim",
            metadata=Metadata(name=judged.name),
            spec=self._spec(begin, judged, name, state, seen.get(name)),
        )
        return Errand(
            known.folder if known else folder_of(judged),
            judged,
            begin.service,
            (*earlier, claim),
            ask_first=begin.takeover,
            tombstone=ended,
        )

    def _spec(
        self, begin: Begin, judged: JudgedRequest, name: str, state: MainState, seen: Observation | None
    ) -> ClaimSpec:
        if judged.document is None:
            raise ValueError(f"{judged.name} has no document")
        mark = seen.report.journal if seen and seen.report else None
        return ClaimSpec(
            request=judged.name,
            request_digest=judged.digest,
            op_id=begin.op_id,
            service=name,
            service_digest=judged.target_digests[name],
            action=judged.document.spec.action,
            requested_by=judged.document.spec.requested_by,
            approved_by=judged.approved_by,
            evidence=judged.evidence,
            observed_revision=state.tip,
            reconciler=self._name,
            attempt=begin.attempt,
            nonce=self._clock.nonce(),
            journal=Journal(id=mark.id, sequence=mark.sequence) if mark else None,
            claimed_at=self._clock.now(),
        )
