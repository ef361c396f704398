"""Claims, results and refusals proved against main as it was in force when they were recorded.

Rules kept: no claim without a request that was approved then, no result without a claim before it, no
success without a receipt that the service's own key signed; attempts rise by one; trailers say what the
records say. Called by audit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from capsule.documents import codec
from capsule.documents.paths import RECORDS, RequestFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Attestation, ChangeAttestation, Claim, ClaimSpec, Refusal, Result
from capsule.trust import objects
from capsule.trust.arrivals import Arrivals
from capsule.trust.break_glass import broken, unfit_to_acknowledge
from capsule.trust.change_records import is_of_change, judge_change_records
from capsule.trust.objects import ObjectReader
from capsule.trust.one_request import expire, judge_request
from capsule.trust.policy import is_machine
from capsule.trust.record_checks import (
    ACKNOWLEDGE,
    AGENTLESS,
    BadRecord,
    Batch,
    check_acknowledged,
    check_attestation,
    check_equal,
    check_first_claim,
    check_outcome,
    check_takeover,
    key_in_force,
    proved_receipt,
    receipt_files,
    says_as_before,
    sort_records,
)
from capsule.trust.record_checks import REASONS as _RECORD_REASONS
from capsule.trust.refusals import check_refusal, places
from capsule.trust.state import JudgedRequest
from capsule.trust.state_orders import DISABLE, StateOrderJudge, is_desired
from capsule.trust.state_orders import REASONS as _STATE_REASONS
from capsule.trust.story import Said, check_author, check_not_later, check_story, check_time
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import Receipt

__all__ = ["REASONS", "BadRecord", "Batch", "RecordJudge"]

REASONS: dict[str, str] = {**_RECORD_REASONS, **_STATE_REASONS}

_LETS_GO_ON = frozenset({"AbortedByRequest"})
"""Refusals that end what has not begun, and let go on what has."""
_CLAIM = re.compile(r"claim-([1-9][0-9]{0,8})\.yaml")
_ATTESTATION = re.compile(r"attestation-([1-9][0-9]{0,8})\.yaml")
D = TypeVar("D", Attestation, Claim, Result, Refusal)


@dataclass(slots=True)
class _Open:
    """An operation that was claimed and has no result yet."""

    claim: Claim
    keys: set[str]
    fresh: bool
    late: int | None = None
    """The first attempt that was claimed after the request had been refused, operations and all."""


class RecordJudge:
    """Judges the records of one commit after another; remembers the operations that are open."""

    def __init__(self, reader: ObjectReader, root: str) -> None:
        self._reader = reader
        self._root = root
        self._open: dict[tuple[RequestFolder, str], _Open] = {}
        self._on_branch: dict[RequestFolder, str] = {}
        self._months: dict[str, str] = {}
        self._broken: dict[str, list[ClaimSpec]] = {}
        self._arrivals = Arrivals(reader)
        self._desired = StateOrderJudge(reader, root)
        self.proved = 0

    @property
    def unfinished(self) -> int:
        """Operations claimed that have no result yet."""
        return len(self._open)

    @property
    def state_orders(self) -> int:
        """Results of desired-state orders proved."""
        return self._desired.proved

    def judge(self, batch: Batch) -> tuple[ChangeAttestation, ...]:
        """Prove the records of one commit. Returns what it tells of reviews of changes, for later ones to be
        judged by. Raises BadRecord, BadStory, BadObject."""
        check_author(batch.info, batch.signer)
        found = sort_records([path for path in batch.added if not (is_desired(path) or is_of_change(path))])
        claims, results, refusals = found.claims, found.results, found.refusals
        self._check_months(found.folders())
        said = Said()
        judged: dict[RequestFolder, JudgedRequest] = {}
        asked = {*(folder for folder, _, _ in claims), *refusals}
        used = {commit for folder in asked for commit in self._holding(batch.branches, folder)}
        for folder, number in found.attestations:
            self._judge_attestation(batch, folder, number, said)
        for folder, service, attempt in claims:
            path = folder.claim(service, attempt)
            claim = self._load(Claim, batch.added[path], path)
            self._judge_claim(batch, folder, service, attempt, claim, judged)
            said.claim(claim)
        if set(batch.branches) - used:
            raise BadRecord(
                "MainPointUnknown", f"parent {sorted(set(batch.branches) - used)[0]} is not explained"
            )
        for folder, service in results:
            self._judge_result(batch, folder, service, said, judged)
        done = {folder for folder, _ in results}
        cancels = [request for folder, request in judged.items() if folder in done]
        for folder in refusals:
            self._judge_refusal(batch, folder, said, cancels)
        self._desired.judge(batch, said)
        told = judge_change_records(self._reader, batch, said)
        check_story(batch.info, said, batch.services, batch.revision)
        for folder, service, _ in claims:
            if (folder, service) in self._open:
                self._open[folder, service].fresh = False
        return told

    def _check_months(self, folders: list[RequestFolder]) -> None:
        """All records of a request lie in one place."""
        for folder in folders:
            month = self._months.setdefault(folder.name, folder.month)
            if month != folder.month:
                raise BadRecord("DuplicateRecords", f"{folder.records}: {folder.name} has some in {month}")

    def _load(self, kind: type[D], blob: str, path: str) -> D:
        try:
            document = codec.load_as(kind, objects.read_blob(self._reader, blob), path)
        except InvalidDocument as error:
            raise BadRecord("InvalidRecord", str(error)) from None
        return document

    # ---- claims ----

    def _judge_claim(
        self,
        batch: Batch,
        folder: RequestFolder,
        service: str,
        attempt: int,
        claim: Claim,
        judged: dict[RequestFolder, JudgedRequest],
    ) -> None:
        spec = claim.spec
        check_equal(
            "InvalidRecord",
            ("request", spec.request, folder.name),
            ("name", claim.metadata.name, folder.name),
            ("service", spec.service, service),
            ("attempt", spec.attempt, attempt),
        )
        check_equal(
            "ClaimMismatch",
            ("opId", spec.op_id, operation_id(self._root, folder.name, spec.request_digest, service)),
            ("observedRevision", spec.observed_revision, batch.revision),
            ("reconciler", spec.reconciler, batch.signer),
        )
        if not is_machine(batch.state.policy.document, batch.signer):
            raise BadRecord("ClaimMismatch", f"{batch.signer} is no machine of the policy any more")
        done, over = self._claimed_before(batch, folder, service)
        if over or attempt != done + 1:
            state = "it was over already" if over else f"the one before was {done}"
            raise BadRecord("ClaimOutOfOrder", f"attempt {attempt} on {service}; {state}")
        check_time("claimedAt", spec.claimed_at, batch.info)
        opened = self._open.get((folder, service))
        refused = self._refused_for(batch, folder)
        if opened:
            same = says_as_before(claim, opened.claim)
            check_takeover(claim, opened.claim, None if same else self._judge_request(batch, folder))
        else:
            if refused:
                raise BadRecord("ClaimAfterRefusal", f"{folder.name} on {service}")
            if batch.state.suspended:
                raise BadRecord("ClaimWhileSuspended", f"main was suspended: {batch.state.suspended.reason}")
            if folder not in judged:
                judged[folder] = self._judge_request(batch, folder)
            check_first_claim(claim, judged[folder], batch.state)
            self._check_same_request(batch, folder, claim)
        keys = (opened.keys if opened else set()) | key_in_force(batch.state, service)
        late = opened.late if opened else None
        if late is None and refused and refused not in _LETS_GO_ON:
            late = attempt
        self._open[folder, service] = _Open(claim, keys, fresh=True, late=late)
        if broken(spec):
            self._broken.setdefault(folder.name, []).append(spec)

    def _refused_for(self, batch: Batch, folder: RequestFolder) -> str | None:
        """Why the request was refused before this commit, or in it; None when it was not."""
        blob = batch.added.get(folder.refusal)
        if blob is None and batch.before:
            found = objects.find(self._reader, batch.before, folder.refusal.removeprefix(f"{RECORDS}/"))
            blob = found.oid if found else None
        return self._load(Refusal, blob, folder.refusal).spec.reason if blob else None

    def _claimed_before(self, batch: Batch, folder: RequestFolder, service: str) -> tuple[int, bool]:
        """The last attempt recorded before this commit, and whether there was a result."""
        below = folder.records.removeprefix(f"{RECORDS}/")
        own = objects.folder(self._reader, batch.before, f"{below}/{service}")
        names = [entry.name for entry in objects.entries(self._reader, own)] if own else []
        attempts = [int(match[1]) for match in map(_CLAIM.fullmatch, names) if match]
        return max(attempts, default=0), "result.yaml" in names

    def _check_same_request(self, batch: Batch, folder: RequestFolder, claim: Claim) -> None:
        """A name is spent at its first claim: later batches are of the very same bytes."""
        for digest in self._begun_as(batch, folder):
            check_equal("ClaimMismatch", ("requestDigest", claim.spec.request_digest, digest))

    def _judge_request(
        self, batch: Batch, folder: RequestFolder, absent: str = "ClaimWithoutRequest"
    ) -> JudgedRequest:
        """The request as judged at the revision of this commit, from main or from its branch."""
        begun = self._begun(batch, folder)
        if self._holding((batch.revision,), folder):
            own = objects.folder(self._reader, self._tree(batch.revision), folder.folder)
            return judge_request(
                self._reader,
                batch.state,
                own,
                folder,
                "main",
                batch.revision,
                frozen=begun,
                attestations=self._attested(batch, folder),
                arrivals=self._arrivals,
            )
        known = self._on_branch.get(folder)
        branches = self._holding((*batch.branches, known) if known else batch.branches, folder)
        if not branches:
            raise BadRecord(absent, f"{folder.request} is neither on main nor on a branch taken in")
        commit = self._on_branch[folder] = branches[0]
        own = objects.folder(self._reader, self._tree(commit), folder.folder)
        return judge_request(self._reader, batch.state, own, folder, "branch", commit, frozen=begun)

    def _holding(self, commits: tuple[str, ...], folder: RequestFolder) -> list[str]:
        """Those of `commits` whose trees hold the request of `folder`."""
        return [
            commit for commit in commits if objects.find(self._reader, self._tree(commit), folder.request)
        ]

    def _tree(self, commit: str) -> str:
        return objects.tree_of(objects.raw_commit(self._reader, commit))

    def _begun(self, batch: Batch, folder: RequestFolder) -> frozenset[str]:
        own = objects.folder(self._reader, batch.before, folder.records.removeprefix(f"{RECORDS}/"))
        names = objects.entries(self._reader, own) if own else ()
        return frozenset(entry.name for entry in names if entry.is_folder)

    # ---- attestations ----

    def _judge_attestation(self, batch: Batch, folder: RequestFolder, number: int, said: Said) -> None:
        path = folder.attestation(number)
        told = self._load(Attestation, batch.added[path], path)
        last = max(self._numbers(batch, folder), default=0)
        if number != last + 1:
            raise BadRecord("AttestationMismatch", f"{path} follows number {last}")
        if not self._holding((batch.revision,), folder):
            raise BadRecord("AttestationMismatch", f"{folder.request} is not on main")
        check_attestation(told, batch, folder, self._judge_request(batch, folder))
        said.attestation(told)

    def _numbers(self, batch: Batch, folder: RequestFolder) -> dict[int, str]:
        """The blob ids of the attestations recorded before this commit, by number."""
        own = objects.folder(self._reader, batch.before, folder.records.removeprefix(f"{RECORDS}/"))
        listed = objects.entries(self._reader, own) if own else ()
        matches = ((_ATTESTATION.fullmatch(entry.name), entry.oid) for entry in listed)
        return {int(match[1]): oid for match, oid in matches if match}

    def _attested(self, batch: Batch, folder: RequestFolder) -> tuple[Attestation, ...]:
        """The last attestation recorded before this commit, or in it."""
        numbers = self._numbers(batch, folder)
        last = max(numbers, default=0)
        blob = batch.added.get(folder.attestation(last + 1)) or numbers.get(last)
        return (self._load(Attestation, blob, f"{folder.records}/attestation-{last}"),) if blob else ()

    # ---- results ----

    def _judge_result(
        self,
        batch: Batch,
        folder: RequestFolder,
        service: str,
        said: Said,
        judged: Mapping[RequestFolder, JudgedRequest],
    ) -> None:
        result = self._load(Result, batch.added[folder.result(service)], folder.result(service))
        opened = self._open.get((folder, service))
        if opened is None or (opened.fresh and opened.claim.spec.action not in AGENTLESS):
            raise BadRecord("ResultWithoutClaim", f"{folder.result(service)} has no claim before it")
        claim, spec = opened.claim.spec, result.spec
        check_equal(
            "ResultMismatch",
            ("request", spec.request, folder.name),
            ("name", result.metadata.name, folder.name),
            ("service", spec.service, service),
            ("opId", spec.op_id, claim.op_id),
            ("action", spec.action, claim.action),
        )
        if spec.attempt > claim.attempt:
            raise BadRecord("ResultMismatch", f"attempt {spec.attempt} after claim {claim.attempt}")
        check_not_later("recordedAt", spec.recorded_at, batch.info)
        receipt = self._receipt(batch, folder, service, result, opened)
        check_outcome(result, receipt)
        if spec.action == ACKNOWLEDGE:
            asking = judged.get(folder) or self._judge_request(batch, folder)
            check_equal("ResultMismatch", ("the request's digest", asking.digest, claim.request_digest))
            check_acknowledged(result, asking)
            self._check_glass(batch, asking)
        if opened.late is not None and spec.outcome == "succeeded" and spec.attempt >= opened.late:
            raise BadRecord("ClaimAfterRefusal", f"attempt {spec.attempt} on {service} was never to begin")
        if spec.outcome == "succeeded" or (spec.outcome, spec.action) == ("unknown", DISABLE):
            # of a disable whose end nobody knows, the safe reading holds
            self._desired.switched(spec, by_request=True)
        said.result(opened.claim, result)
        del self._open[folder, service]
        self.proved += 1

    def _check_glass(self, batch: Batch, asking: JudgedRequest) -> None:
        """Who acknowledges that the glass was broken is of those who were not asked then."""
        asked = asking.document.spec if asking.document else None
        if asked is None or "request" not in asked.params:
            return
        claims = self._broken.get(str(asked.params["request"]), [])
        problem = unfit_to_acknowledge(batch.state, asked.requested_by, claims)
        if problem:
            raise BadRecord("ResultMismatch", problem)

    def _receipt(
        self, batch: Batch, folder: RequestFolder, service: str, result: Result, opened: _Open
    ) -> Receipt | None:
        """The receipt beside a result, proved with a key that was in force since the claim."""
        paths = folder.receipt(service), folder.receipt_signature(service)
        if result.spec.receipt_digest is None:
            if any(path in batch.added for path in paths):
                raise BadRecord("ReceiptMismatch", "a receipt lies beside a result that names none")
            return None
        return proved_receipt(
            *receipt_files(self._reader, batch, paths, result.spec.receipt_digest),
            opened.keys | key_in_force(batch.state, service),
            repository=self._root,
            service=service,
            op_id=result.spec.op_id,
        )

    # ---- refusals ----

    def _judge_refusal(
        self, batch: Batch, folder: RequestFolder, said: Said, cancels: list[JudgedRequest]
    ) -> None:
        refusal = self._load(Refusal, batch.added[folder.refusal], folder.refusal)
        spec = refusal.spec
        check_equal(
            "InvalidRecord",
            ("request", spec.request, folder.name),
            ("name", refusal.metadata.name, folder.name),
            ("observedRevision", spec.observed_revision, batch.revision),
        )
        check_time("recordedAt", spec.recorded_at, batch.info)
        said.refusal(refusal)
        judged = expire(self._judge_refused(batch, folder, spec.reason), spec.recorded_at)
        begun_as = {(folder.request, digest) for digest in self._begun_as(batch, folder)}
        check_refusal(refusal, judged, begun_as, cancels, batch.state)
        if judged.document:
            said.actions.add(judged.document.spec.action)
            said.requesters.add(judged.document.spec.requested_by)

    def _judge_refused(self, batch: Batch, folder: RequestFolder, reason: str) -> JudgedRequest:
        """The request that a refusal is about, also where it was moved or stands twice."""
        on_main = bool(self._holding((batch.revision,), folder))
        if on_main and reason != "DuplicateRequest":
            return self._judge_request(batch, folder, "RefusalNotPlausible")
        found = places(self._reader, self._tree(batch.revision), folder.name)
        if found and not on_main:
            place, own = found[0]
            return judge_request(self._reader, batch.state, own, place, "main", batch.revision)
        judged = self._judge_request(batch, folder, "RefusalNotPlausible")
        return replace(judged, verdict="refused", reason=reason) if len(found) > 1 else judged

    def _begun_as(self, batch: Batch, folder: RequestFolder) -> set[str]:
        """The digests of the request in the first claims recorded before this commit."""
        found = set()
        for service in self._begun(batch, folder):
            path = folder.claim(service, 1)
            data = objects.file_bytes(self._reader, batch.before or "", path.removeprefix(f"{RECORDS}/"))
            found.add(codec.load_as(Claim, data or b"", path).spec.request_digest)
        return found
