"""What the records of one commit of audit must say, each compared with what it rests on.

Rules kept: a claim says what its approved request says; a takeover what the claim before it said; a result
what its receipt says. Called by records.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from capsule.documents.paths import RECORDS, RequestFolder
from capsule.documents.problems import shown
from capsule.documents.types import Claim, Result
from capsule.trust.objects import CommitInfo
from capsule.trust.state import JudgedRequest, MainState
from capsule.trust.story import REASONS as _STORY_REASONS
from capsule_agent.protocol.messages import Receipt, instant

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
    "DuplicateRecords": "The records of one request lie in two months: a name is spent once.",
    **_STORY_REASONS,
}

_FIXED = ("request_digest", "op_id", "action", "requested_by")
_RENEWED = ("service_digest", "approved_by", "evidence")

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
    info: CommitInfo


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
        ("evidence", "signature"),
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
    ended = "cancelled" if receipt.reason == "Tombstoned" else receipt.outcome
    check_equal(
        "ResultMismatch",
        ("outcome", spec.outcome, ended),
        ("attempt", spec.attempt, receipt.attempt),
        ("reason", spec.reason, receipt.reason),
        ("message", spec.message, shown(receipt.message)[:500]),
        ("outputs", _typed(spec.outputs), _typed(receipt.outputs)),
        ("startedAt", spec.started_at, instant(receipt.started_at) if receipt.started_at else None),
        ("finishedAt", spec.finished_at, instant(receipt.finished_at) if receipt.finished_at else None),
    )


def _typed(values: Mapping[str, object]) -> dict[str, tuple[type, object]]:
    """Values that are equal only to their like: true is not 1."""
    return {name: (type(value), value) for name, value in values.items()}
