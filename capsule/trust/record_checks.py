"""What the records of one commit of audit must say, each compared with what it rests on.

Rules kept: a claim says what its approved request says; a result says what its receipt says; trailers name
all requests of the commit and nothing its records do not. Called by records.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from capsule.documents.paths import RECORDS, RequestFolder
from capsule.documents.types import Claim, ClaimSpec, Refusal, Result
from capsule.trust.one_request import REASONS as _REQUEST_REASONS
from capsule.trust.state import JudgedRequest, MainState
from capsule_agent.protocol.messages import Receipt

REASONS: dict[str, str] = {
    "UnexpectedRecord": "A file under records/ that no reconciler writes.",
    "InvalidRecord": "A record that is not a valid document, or says something else than its place.",
    "ClaimWhileSuspended": "An operation was claimed while main was suspended.",
    "ClaimWithoutRequest": "An operation was claimed for a request that was not there.",
    "ClaimNotApproved": "An operation was claimed although its request was not approved then.",
    "ClaimMismatch": "A claim says something else than the request, the service or the commit it belongs to.",
    "ClaimOutOfOrder": "The attempts of an operation do not rise by one, or it was over already.",
    "ClaimAfterExpiry": "An operation was claimed after its request had expired.",
    "ResultWithoutClaim": "A result without a claim that was recorded before it.",
    "ResultMismatch": "A result says something else than its claim or its receipt.",
    "SuccessWithoutReceipt": "A success is recorded without the signed receipt that proves it.",
    "ReceiptMismatch": "A receipt that is missing, of other bytes, or not signed by the service's own key.",
    "RefusalNotPlausible": "A refusal that the request at that revision does not bear out.",
    "MainPointUnknown": "A commit on audit has a parent that is neither on main nor a request it executes.",
    "TrailerMismatch": "The trailers of a commit say something else than its records.",
}

AGENTLESS = frozenset({"abort", "acknowledge", "cancel", "resolve", "resume"})
"""Built-in actions that the reconciler carries out itself: no agent, so no receipt."""

_RECORD = re.compile(
    RECORDS + r"/([0-9]{4}/[0-9]{2})/([a-z0-9-]{1,63})/"
    r"(?:(refusal\.yaml)|([a-z0-9-]{1,63})/(claim-([1-9][0-9]{0,8})\.yaml|result\.yaml|receipt\.json(?:\.sig)?))"
)


class BadRecord(ValueError):
    """A record that does not hold. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Batch:
    """One commit of audit: the state of main it observed, and the records it adds (path to blob id)."""

    state: MainState
    revision: str
    signer: str
    branches: tuple[str, ...]
    before: str | None
    added: Mapping[str, str]
    services: Collection[str]
    trailers: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class Said:
    """What the records of one commit say, for the trailers to be compared with."""

    requests: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    actions: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    evidence: set[str] = field(default_factory=set)
    requesters: set[str] = field(default_factory=set)
    approvers: set[str] = field(default_factory=set)

    def claim(self, claim: Claim) -> None:
        spec = claim.spec
        self.requests.add(spec.request)
        self.services.add(spec.service)
        self.actions.add(spec.action)
        self.evidence.add(spec.evidence)
        self.requesters.add(spec.requested_by)
        self.approvers.update(spec.approved_by)


def sort_records(
    added: Mapping[str, str],
) -> tuple[list[tuple[RequestFolder, str, int]], list[tuple[RequestFolder, str]], list[RequestFolder]]:
    """The added records by kind. Raises BadRecord for a file that is none."""
    claims, results, refusals = [], [], []
    receipts = set()
    for path in sorted(added):
        match = _RECORD.fullmatch(path)
        if not match:
            raise BadRecord("UnexpectedRecord", f"{path} is no record")
        folder, service = RequestFolder(match[1], match[2]), match[4]
        if match[3]:
            refusals.append(folder)
        elif match[6]:
            claims.append((folder, service, int(match[6])))
        elif match[5] == "result.yaml":
            results.append((folder, service))
        else:
            receipts.add((folder, service))
    if not receipts <= set(results):
        raise BadRecord("UnexpectedRecord", "a receipt without a result beside it")
    return claims, results, refusals


def check_equal(reason: str, *parts: tuple[str, object, object]) -> None:
    for what, found, expected in parts:
        if found != expected:
            raise BadRecord(reason, f"{what} is {found!r}, expected {expected!r}")


def check_first_claim(claim: Claim, request: JudgedRequest, state: MainState) -> None:
    """A first claim says what the request says, and the request was approved."""
    spec = claim.spec
    if request.verdict != "approved" or request.document is None:
        raise BadRecord("ClaimNotApproved", f"{request.name}: {request.reason}: {request.message}")
    asked = request.document.spec
    if spec.service not in asked.targets:
        raise BadRecord("ClaimMismatch", f"{spec.service} is no target of {request.name}")
    check_equal(
        "ClaimMismatch",
        ("requestDigest", spec.request_digest, request.digest),
        ("serviceDigest", spec.service_digest, request.target_digests.get(spec.service)),
        ("action", spec.action, asked.action),
        ("requestedBy", spec.requested_by, asked.requested_by),
        ("approvedBy", sorted(spec.approved_by), sorted(request.approved_by)),
        ("evidence", spec.evidence, "signature"),
        ("revision", state.tip, spec.observed_revision),
    )
    if spec.claimed_at >= asked.expires:
        raise BadRecord("ClaimAfterExpiry", f"{request.name} had expired at {asked.expires.isoformat()}")


def check_same_operation(spec: ClaimSpec, before: Claim) -> None:
    """A takeover goes on with what was claimed first."""
    for name in ("request_digest", "op_id", "action", "requested_by"):
        check_equal("ClaimMismatch", (name, getattr(spec, name), getattr(before.spec, name)))


def check_outcome(result: Result, receipt: Receipt | None) -> None:
    spec = result.spec
    if receipt is None:
        if spec.outcome == "succeeded" and spec.action not in AGENTLESS:
            raise BadRecord("SuccessWithoutReceipt", f"{spec.action} on {spec.service} succeeded unproved")
        return
    doubtful = spec.outcome in ("unknown", "cancelled") and receipt.outcome in ("unknown", "refused")
    if spec.outcome != receipt.outcome and not doubtful:
        raise BadRecord("ResultMismatch", f"outcome is {spec.outcome}, the receipt says {receipt.outcome}")
    # An agent that never saw the operation knows its id alone, not its action.
    same_action = receipt.action == spec.action or (doubtful and not receipt.action)
    if not same_action or (not doubtful and receipt.attempt != spec.attempt):
        raise BadRecord("ResultMismatch", "the receipt is about another attempt")
    if spec.outputs and dict(spec.outputs) != dict(receipt.outputs):
        raise BadRecord("ResultMismatch", "the outputs are not those of the receipt")


def check_refusal(refusal: Refusal, judged: JudgedRequest) -> None:
    spec = refusal.spec
    if spec.phase == "Expired" and not (judged.document and spec.recorded_at >= judged.document.spec.expires):
        raise BadRecord("RefusalNotPlausible", f"{judged.name} had not expired")
    if spec.phase == "Rejected" and spec.reason in _REQUEST_REASONS and spec.reason != judged.reason:
        found = judged.reason or judged.verdict
        raise BadRecord("RefusalNotPlausible", f"{judged.name} was {found}, not {spec.reason}")


def check_trailers(batch: Batch, said: Said) -> None:
    """Trailers name all requests of the commit, and nothing that its records do not say."""
    named = set(batch.trailers.get("Capsule-Request", ()))
    if named != said.requests:
        raise BadRecord("TrailerMismatch", f"Capsule-Request names {sorted(named)}")
    for name, allowed in (
        ("Capsule-Service", said.services | set(batch.services)),
        ("Capsule-Action", said.actions),
        ("Capsule-Outcome", said.outcomes),
        ("Capsule-Reason", said.reasons),
        ("Capsule-Evidence", said.evidence),
        ("Requested-by", said.requesters),
        ("Approved-by", said.approvers),
        ("Capsule-Revision", {batch.revision}),
    ):
        wrong = set(batch.trailers.get(name, ())) - allowed
        if wrong:
            raise BadRecord("TrailerMismatch", f"{name} says {sorted(wrong)[0]!r}, the records do not")
