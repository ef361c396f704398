"""What the records of one commit of audit must say, each compared with what it rests on.

Rules kept: a claim says what its approved request says; a takeover what the claim before it said; a result
what its receipt says, which the service's own key signed. Called by records and state_orders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from capsule.documents.digests import bytes_digest
from capsule.documents.paths import RECORDS, RequestFolder
from capsule.documents.problems import shown
from capsule.documents.types import Attestation, Claim, Result, ResultSpec, StateResultSpec
from capsule.trust import objects
from capsule.trust.objects import CommitInfo, ObjectReader
from capsule.trust.policy import is_machine
from capsule.trust.receipts import Untrusted, check_receipt
from capsule.trust.state import JudgedRequest, MainState
from capsule.trust.story import REASONS as _STORY_REASONS
from capsule.trust.story import check_time
from capsule_agent.protocol.messages import Receipt, instant
from capsule_agent.protocol.sshsig import PublicKey

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
    "OutcomeWithoutReceipt": "What an agent did or refused is recorded without its signed receipt.",
    "ClaimAfterRefusal": "An operation was begun after its request had been refused.",
    "AttestationMismatch": "An attestation of reviews says something else than the request, the services or "
    "the commit it belongs to, or its number does not follow the one before.",
    "DuplicateRecords": "The records of one request lie in two months: a name is spent once.",
    **_STORY_REASONS,
}

_FIXED = ("request_digest", "op_id", "action", "requested_by")
_RENEWED = ("service_digest", "approved_by", "evidence")

ACKNOWLEDGE = "acknowledge"
AGENTLESS = frozenset({"abort", ACKNOWLEDGE, "cancel", "resolve", "resume"})
"""Built-in actions that the reconciler carries out itself: no agent, so no receipt."""

_RECORD = re.compile(
    RECORDS + r"/([0-9]{4}/[0-9]{2})/([a-z0-9-]{1,63})/"
    r"(?:(refusal\.yaml|attestation-([1-9][0-9]{0,8})\.yaml)|([a-z0-9-]{1,63})/(claim-([1-9][0-9]{0,8})\.yaml|result\.yaml|receipt\.json(?:\.sig)?))"
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
    info: CommitInfo


@dataclass(frozen=True, slots=True)
class Sorted:
    """The records of requests that a commit adds, by kind."""

    claims: list[tuple[RequestFolder, str, int]]
    results: list[tuple[RequestFolder, str]]
    refusals: list[RequestFolder]
    attestations: list[tuple[RequestFolder, int]]

    def folders(self) -> list[RequestFolder]:
        """The folder of each record."""
        several = (self.claims, self.results, self.attestations)
        return [*(each[0] for kind in several for each in kind), *self.refusals]


def sort_records(added: Collection[str]) -> Sorted:
    """The added records by kind. Raises BadRecord for a file that is none."""
    found = Sorted([], [], [], [])
    receipts = set()
    for path in sorted(added):
        match = _RECORD.fullmatch(path)
        if not match:
            raise BadRecord("UnexpectedRecord", f"{path} is no record")
        folder, service = RequestFolder(match[1], match[2]), match[5]
        if match[4]:
            found.attestations.append((folder, int(match[4])))
        elif match[3]:
            found.refusals.append(folder)
        elif match[7]:
            found.claims.append((folder, service, int(match[7])))
        elif match[6] == "result.yaml":
            found.results.append((folder, service))
        else:
            receipts.add((folder, service))
    if not receipts <= set(found.results):
        raise BadRecord("UnexpectedRecord", "a receipt without a result beside it")
    return found


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
        ("evidence", spec.evidence, request.evidence),
        ("revision", state.tip, spec.observed_revision),
    )
    if spec.claimed_at >= asked.expires:
        raise BadRecord("ClaimAfterExpiry", f"{request.name} had expired at {asked.expires.isoformat()}")


def check_attestation(told: Attestation, batch: Batch, folder: RequestFolder, request: JudgedRequest) -> None:
    """What an attestation says of the request and of who looked is so; what the forge said is its word for
    it, as the machine signed. Raises BadRecord, BadStory."""
    spec = told.spec
    check_equal(
        "AttestationMismatch",
        ("request", spec.request, folder.name),
        ("name", told.metadata.name, folder.name),
        ("revision", spec.revision, batch.revision),
        ("reconciler", spec.reconciler, batch.signer),
        ("requestDigest", spec.request_digest, request.digest),
        ("targets", dict(spec.targets), dict(request.target_digests)),
    )
    if not is_machine(batch.state.policy.document, batch.signer):
        raise BadRecord("AttestationMismatch", f"{batch.signer} is no machine of the policy any more")
    check_time("observedAt", spec.observed_at, batch.info)


def check_takeover(claim: Claim, before: Claim, request: JudgedRequest | None) -> None:
    """A takeover goes on with what was claimed first; what it says anew is as `request` is judged now."""
    spec = claim.spec
    for name in _FIXED:
        check_equal("ClaimMismatch", (name, getattr(spec, name), getattr(before.spec, name)))
    if request is None:
        return
    for name, now in (
        ("service_digest", request.target_digests.get(spec.service)),
        ("approved_by", request.approved_by),
        ("evidence", request.evidence),
    ):
        if getattr(spec, name) not in (getattr(before.spec, name), now):
            raise BadRecord("ClaimMismatch", f"{name} is neither as it was claimed nor as it is now")


def says_as_before(claim: Claim, before: Claim) -> bool:
    """Whether a takeover says of its evidence what the claim before it said."""
    return all(getattr(claim.spec, name) == getattr(before.spec, name) for name in _RENEWED)


def check_outcome(result: Result, receipt: Receipt | None) -> None:
    """A result says what its receipt says, and nothing is known without one. Raises BadRecord."""
    spec = result.spec
    if receipt is None:
        if spec.outcome not in ("unknown", "cancelled") and spec.action not in AGENTLESS:
            reason = "SuccessWithoutReceipt" if spec.outcome == "succeeded" else "OutcomeWithoutReceipt"
            raise BadRecord(reason, f"{spec.action} on {spec.service} {spec.outcome} unproved")
        return
    if receipt.action != spec.action and (receipt.action or spec.outcome not in ("unknown", "cancelled")):
        raise BadRecord("ResultMismatch", "the receipt is about another action")
    if (spec.outcome, receipt.outcome, receipt.reason) == ("unknown", "unknown", "NeverSeen"):
        # the agent that answered cannot know: nothing of its answer is taken over but that
        check_equal(
            "ResultMismatch",
            ("reason", spec.reason, "JournalChanged"),
            ("outputs", dict(spec.outputs), {}),
            ("startedAt", spec.started_at, None),
            ("finishedAt", spec.finished_at, None),
        )
        return
    check_equal("ResultMismatch", ("attempt", spec.attempt, receipt.attempt))
    check_told(spec, receipt)


def check_acknowledged(result: Result, request: JudgedRequest) -> None:
    """An acknowledgement is of the condition that the request names, and nothing else. Raises BadRecord."""
    spec = result.spec
    params = request.document.spec.params if request.document else {}
    check_equal(
        "ResultMismatch",
        ("outcome", spec.outcome, "succeeded"),
        ("reason", spec.reason, "Acknowledged"),
        ("outputs", typed(spec.outputs), typed(params)),
    )


def check_told(spec: ResultSpec | StateResultSpec, receipt: Receipt) -> None:
    """What a result tells of the agent's answer is what the receipt says. Raises BadRecord."""
    ended = "cancelled" if receipt.reason == "Tombstoned" else receipt.outcome
    check_equal(
        "ResultMismatch",
        ("outcome", spec.outcome, ended),
        ("reason", spec.reason, receipt.reason),
        ("message", spec.message, shown(receipt.message)[:500]),
        ("outputs", typed(spec.outputs), typed(receipt.outputs)),
        ("startedAt", spec.started_at, instant(receipt.started_at) if receipt.started_at else None),
        ("finishedAt", spec.finished_at, instant(receipt.finished_at) if receipt.finished_at else None),
    )


def typed(values: Mapping[str, object]) -> dict[str, tuple[type, object]]:
    """Values that are equal only to their like: true is not 1."""
    return {name: (type(value), value) for name, value in values.items()}


# ---- receipts -----------------------------------------------------------------------------------


def receipt_files(
    reader: ObjectReader, batch: Batch, paths: tuple[str, str], digest: str
) -> tuple[bytes, str]:
    """The signed bytes and the armored signature of the receipt that a result names by digest.

    `paths` are those of both files. Raises BadRecord, BadObject.
    """
    body, seal = (batch.added.get(path) for path in paths)
    if body is None or seal is None:
        raise BadRecord("ReceiptMismatch", "the receipt that the result names is not there")
    payload = objects.read_blob(reader, body)
    if bytes_digest(payload) != digest:
        raise BadRecord("ReceiptMismatch", "the receipt has another digest than the result says")
    return payload, objects.read_blob(reader, seal).decode("ascii", errors="replace")


def proved_receipt(
    payload: bytes, armored: str, keys: Collection[str], *, repository: str, service: str, op_id: str
) -> Receipt:
    """The receipt, when one of `keys` (OpenSSH texts) signed it for this operation. Raises BadRecord."""
    error = "no key of the service was in force"
    for text in sorted(keys):
        try:
            return check_receipt(
                payload,
                armored,
                PublicKey.parse(text),
                repository=repository,
                service=service,
                op_id=op_id,
            )
        except Untrusted as found:
            error = str(found)
    raise BadRecord("ReceiptMismatch", error)


def key_in_force(state: MainState, service: str) -> set[str]:
    """The key that signs for the service now; empty where there is none."""
    in_force = state.services.get(service)
    return {in_force.document.spec.agent.key} if in_force and in_force.document.spec.agent.key else set()
