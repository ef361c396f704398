"""Claims, results and refusals proved against main as it was in force when they were recorded.

Rules kept: no claim without a request that was approved then, no result without a claim before it, no
success without a receipt that the service's own key signed; attempts rise by one; trailers say what the
records say. Called by audit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from capsule.documents import codec
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import RECORDS, RequestFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import Claim, Refusal, Result
from capsule.trust import objects
from capsule.trust.objects import ObjectReader
from capsule.trust.one_request import judge_request
from capsule.trust.policy import is_machine
from capsule.trust.receipts import Untrusted, check_receipt
from capsule.trust.record_checks import (
    AGENTLESS,
    REASONS,
    BadRecord,
    Batch,
    Said,
    check_equal,
    check_first_claim,
    check_outcome,
    check_refusal,
    check_same_operation,
    check_trailers,
    sort_records,
)
from capsule.trust.state import JudgedRequest
from capsule_agent.protocol.messages import Receipt, operation_id
from capsule_agent.protocol.sshsig import PublicKey

__all__ = ["REASONS", "BadRecord", "Batch", "RecordJudge"]

_CLAIM = re.compile(r"claim-([1-9][0-9]{0,8})\.yaml")
D = TypeVar("D", Claim, Result, Refusal)


@dataclass(slots=True)
class _Open:
    """An operation that was claimed and has no result yet."""

    claim: Claim
    keys: set[str]
    fresh: bool


class RecordJudge:
    """Judges the records of one commit after another; remembers the operations that are open."""

    def __init__(self, reader: ObjectReader, root: str) -> None:
        self._reader = reader
        self._root = root
        self._open: dict[tuple[RequestFolder, str], _Open] = {}
        self._on_branch: dict[RequestFolder, str] = {}
        self.proved = 0

    @property
    def unfinished(self) -> int:
        """Operations claimed that have no result yet."""
        return len(self._open)

    def judge(self, batch: Batch) -> None:
        """Prove the records of one commit. Raises BadRecord, BadObject."""
        claims, results, refusals = sort_records(batch.added)
        said = Said()
        judged: dict[RequestFolder, JudgedRequest] = {}
        used = {commit for folder, _, _ in claims for commit in self._holding(batch.branches, folder)}
        for folder, service, attempt in claims:
            claim = self._load(Claim, batch, folder.claim(service, attempt))
            self._judge_claim(batch, folder, service, attempt, claim, judged)
            said.claim(claim)
        if set(batch.branches) - used:
            raise BadRecord(
                "MainPointUnknown", f"parent {sorted(set(batch.branches) - used)[0]} is not explained"
            )
        for folder, service in results:
            self._judge_result(batch, folder, service, said)
        for folder in refusals:
            self._judge_refusal(batch, folder, said)
        check_trailers(batch, said)
        for folder, service, _ in claims:
            if (folder, service) in self._open:
                self._open[folder, service].fresh = False

    def _load(self, kind: type[D], batch: Batch, path: str) -> D:
        try:
            document = codec.load_as(kind, objects.read_blob(self._reader, batch.added[path]), path)
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
        opened = self._open.get((folder, service))
        if opened:
            check_same_operation(spec, opened.claim)
        else:
            if batch.state.suspended:
                raise BadRecord("ClaimWhileSuspended", f"main was suspended: {batch.state.suspended.reason}")
            if folder not in judged:
                judged[folder] = self._judge_request(batch, folder)
            check_first_claim(claim, judged[folder], batch.state)
            self._check_same_request(batch, folder, claim)
        in_force = batch.state.services.get(service)
        keys = opened.keys if opened else set()
        if in_force and in_force.document.spec.agent.key:
            keys.add(in_force.document.spec.agent.key)
        self._open[folder, service] = _Open(claim, keys, fresh=True)

    def _claimed_before(self, batch: Batch, folder: RequestFolder, service: str) -> tuple[int, bool]:
        """The last attempt recorded before this commit, and whether there was a result."""
        below = folder.records.removeprefix(f"{RECORDS}/")
        own = objects.folder(self._reader, batch.before, f"{below}/{service}")
        names = [entry.name for entry in objects.entries(self._reader, own)] if own else []
        attempts = [int(match[1]) for match in map(_CLAIM.fullmatch, names) if match]
        return max(attempts, default=0), "result.yaml" in names

    def _check_same_request(self, batch: Batch, folder: RequestFolder, claim: Claim) -> None:
        """A name is spent at its first claim: later batches are of the very same bytes."""
        for service in sorted(self._begun(batch, folder))[:1]:
            below = folder.claim(service, 1).removeprefix(f"{RECORDS}/")
            data = objects.file_bytes(self._reader, batch.before or "", below) or b""
            first = codec.load_as(Claim, data, folder.claim(service, 1))
            check_equal(
                "ClaimMismatch", ("requestDigest", claim.spec.request_digest, first.spec.request_digest)
            )

    def _judge_request(self, batch: Batch, folder: RequestFolder) -> JudgedRequest:
        """The request as judged at the revision of this commit, from main or from its branch."""
        begun = self._begun(batch, folder)
        if self._holding((batch.revision,), folder):
            tree = self._tree(batch.revision)
            return judge_request(
                self._reader, batch.state, tree, folder, "main", batch.revision, frozen=begun
            )
        known = self._on_branch.get(folder)
        branches = self._holding((*batch.branches, known) if known else batch.branches, folder)
        if not branches:
            raise BadRecord(
                "ClaimWithoutRequest", f"{folder.request} is neither on main nor on a branch taken in"
            )
        commit = self._on_branch[folder] = branches[0]
        return judge_request(
            self._reader, batch.state, self._tree(commit), folder, "branch", commit, frozen=begun
        )

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

    # ---- results ----

    def _judge_result(self, batch: Batch, folder: RequestFolder, service: str, said: Said) -> None:
        result = self._load(Result, batch, folder.result(service))
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
        receipt = self._receipt(batch, folder, service, result, opened)
        check_outcome(result, receipt)
        said.claim(opened.claim)
        said.outcomes.add(spec.outcome)
        said.reasons.add(spec.reason)
        del self._open[folder, service]
        self.proved += 1

    def _receipt(
        self, batch: Batch, folder: RequestFolder, service: str, result: Result, opened: _Open
    ) -> Receipt | None:
        """The receipt beside a result, proved with a key that was in force since the claim."""
        body = batch.added.get(folder.receipt(service))
        seal = batch.added.get(folder.receipt_signature(service))
        if result.spec.receipt_digest is None:
            if body or seal:
                raise BadRecord("ReceiptMismatch", "a receipt lies beside a result that names none")
            return None
        if body is None or seal is None:
            raise BadRecord("ReceiptMismatch", "the receipt that the result names is not there")
        payload = objects.read_blob(self._reader, body)
        armored = objects.read_blob(self._reader, seal).decode("ascii", errors="replace")
        if bytes_digest(payload) != result.spec.receipt_digest:
            raise BadRecord("ReceiptMismatch", "the receipt has another digest than the result says")
        in_force = batch.state.services.get(service)
        now = in_force.document.spec.agent.key if in_force else None
        error = "no key of the service was in force"
        for text in sorted(opened.keys | ({now} if now else set())):
            try:
                return check_receipt(
                    payload,
                    armored,
                    PublicKey.parse(text),
                    repository=self._root,
                    service=service,
                    op_id=result.spec.op_id,
                )
            except Untrusted as found:
                error = str(found)
        raise BadRecord("ReceiptMismatch", error)

    # ---- refusals ----

    def _judge_refusal(self, batch: Batch, folder: RequestFolder, said: Said) -> None:
        refusal = self._load(Refusal, batch, folder.refusal)
        spec = refusal.spec
        check_equal(
            "InvalidRecord",
            ("request", spec.request, folder.name),
            ("name", refusal.metadata.name, folder.name),
            ("observedRevision", spec.observed_revision, batch.revision),
        )
        said.requests.add(spec.request)
        said.outcomes.add(spec.phase)
        said.reasons.add(spec.reason)
        tree = self._tree(batch.revision)
        if objects.folder(self._reader, tree, folder.folder) is None:
            return
        begun = self._begun(batch, folder)
        judged = judge_request(
            self._reader, batch.state, tree, folder, "main", batch.revision, spec.recorded_at, frozen=begun
        )
        if judged.digest != spec.request_digest:
            raise BadRecord("RefusalNotPlausible", f"{folder.request} has another digest")
        check_refusal(refusal, judged)
        if judged.document:
            said.actions.add(judged.document.spec.action)
            said.requesters.add(judged.document.spec.requested_by)
