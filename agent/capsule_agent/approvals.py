"""What people signed for an order: that enough of them approve it, or that its requester breaks the glass.

Rules kept: pure (no I/O, no clock); people are counted, never keys; every word holds for one repository, one
text of one request, one service, one action with its parameters, until it expires. Nothing is read from the
request but its digest. Called by execute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from capsule_agent.protocol import sshsig, strict_json
from capsule_agent.protocol.ids import request_digest
from capsule_agent.protocol.messages import Approval, Evidence, Order, SignedText, Signers, decode, instant
from capsule_agent.protocol.sshsig import BadSignature
from capsule_agent.protocol.strict_json import InvalidMessage
from capsule_agent.refusal import Refusal
from capsule_agent.signers_list import keys_of

MAX_APPROVALS = 64


def check_approvals(
    order: Order, evidence: Evidence | None, signers: Signers, needed: int, now: datetime
) -> tuple[str, ...]:
    """Who approved the order, when at least `needed` people did, each validly. Raises Refusal.

    An approval that does not hold is not counted; its reason is told when too few remain. A valid
    rejection refuses the order whatever else was signed.
    """
    if not order.request:
        raise Refusal("ApprovalsMissing", "an order without a request cannot carry approvals")
    if evidence is None:
        raise Refusal("ApprovalsMissing", f"{needed} signed approvals are needed, none came with the order")
    if len(evidence.approvals) > MAX_APPROVALS:
        raise Refusal("TooManyApprovals", f"at most {MAX_APPROVALS} approvals may come with an order")
    check_request_bytes(order, evidence.request)
    approvers: list[str] = []
    problems: list[Refusal] = []
    for signed in evidence.approvals:
        try:
            approval = _read_approval(signed, signers)
            _check_approval(approval, order, evidence.request, signers, now)
            _check_counted_once(approval, approvers)
        except Refusal as problem:
            if problem.reason == "Rejected":
                raise
            problems.append(problem)
        else:
            approvers.append(approval.principal)
    if len(approvers) < needed:
        found = f"{len(approvers)} of {needed} approvals hold"
        raise Refusal(
            problems[0].reason if problems else "ApprovalsMissing",
            "; ".join([found, *(str(problem) for problem in problems[:3])]),
        )
    return tuple(approvers)


def breaks_glass(order: Order, evidence: Evidence | None, signers: Signers, now: datetime) -> bool:
    """Whether the requester signed that they act without approvals, and may; False where nobody says so.

    For an action declared with `break_glass` alone. What is said must hold: raises Refusal. A valid rejection
    among the approvals refuses the order here, too.
    """
    if evidence is None or len(evidence.approvals) > MAX_APPROVALS:
        return False
    said = [signed for signed in evidence.approvals if _decision(signed) == "break-glass"]
    if not said or not order.request:
        return False
    check_request_bytes(order, evidence.request)
    _check_not_rejected(order, evidence, signers, now)
    word = decode(Approval, said[0].document.encode())
    if word.principal != word.request.requested_by:
        raise Refusal(
            "BreakGlassNotOwn", f"{word.principal[:64]!r} did not ask for what they break glass for"
        )
    _check_signed_by(
        said[0], word.principal, "break-glass", sshsig.APPROVAL, signers, "GlassBreaker", "BreakGlass"
    )
    _check_about(word, order)
    _check_shown(word, order, now)
    _check_requester(word, evidence.request, signers)
    return True


def _decision(signed: SignedText) -> str:
    try:
        return decode(Approval, signed.document.encode()).decision
    except InvalidMessage:
        return ""


def _check_not_rejected(order: Order, evidence: Evidence, signers: Signers, now: datetime) -> None:
    for signed in evidence.approvals:
        try:
            _check_approval(_read_approval(signed, signers), order, evidence.request, signers, now)
        except Refusal as problem:
            if problem.reason == "Rejected":
                raise


def check_request_bytes(order: Order, request: SignedText) -> None:
    """The carried request is the one the order names by digest."""
    if request_digest(request.document.encode()) != order.request_digest:
        raise Refusal("RequestDigestDiffers", "the carried request is not the one the order names")


def _read_approval(signed: SignedText, signers: Signers) -> Approval:
    try:
        approval = decode(Approval, signed.document.encode())
    except InvalidMessage as error:
        raise Refusal("ApprovalInvalid", f"an approval: {error}") from None
    if approval.decision == "break-glass":
        raise Refusal("BreakGlassRefused", "this action is not done without approvals here")
    _check_signed_by(signed, approval.principal, "approve", sshsig.APPROVAL, signers, "Approver", "Approval")
    return approval


def _check_signed_by(
    signed: SignedText,
    principal: str,
    may: str,
    namespace: str,
    signers: Signers,
    role: str,
    what: str,
) -> None:
    entry = signers.principals.get(principal)
    if entry is None or may not in entry.may:
        raise Refusal(f"{role}NotListed", f"{principal[:64]!r} is not listed as one who may {may}")
    try:
        sshsig.verify(signed.document.encode(), signed.signature, namespace, keys_of(entry.keys))
    except BadSignature as error:
        raise Refusal(f"{what}Forged", f"the signature of {principal}: {error}") from None


def _check_approval(
    approval: Approval, order: Order, request: SignedText, signers: Signers, now: datetime
) -> None:
    _check_about(approval, order)
    _check_decision(approval)
    _check_shown(approval, order, now)
    _check_not_own(approval)
    _check_requester(approval, request, signers)


def _check_about(approval: Approval, order: Order) -> None:
    """The word is about this very request, and this service: so much a rejection must name rightly, too."""
    _check_same_repository(approval, order)
    _check_same_request(approval, order)
    _check_same_bytes(approval, order)
    _check_target(approval, order)


def _check_shown(approval: Approval, order: Order, now: datetime) -> None:
    """The order does what was shown to who signed."""
    _check_same_action(approval, order)
    _check_same_params(approval.request.params, order.params)
    _check_unexpired(approval, now)


def _check_same_repository(approval: Approval, order: Order) -> None:
    if approval.repository != order.repository:
        raise Refusal("ApprovalForOtherRepository", f"{approval.principal} approved in another repository")


def _check_same_request(approval: Approval, order: Order) -> None:
    if approval.request.name != order.request:
        raise Refusal("ApprovalForOtherRequest", f"{approval.principal} approved another request")


def _check_same_bytes(approval: Approval, order: Order) -> None:
    if approval.request.digest != order.request_digest:
        raise Refusal("ApprovalForOtherText", f"{approval.principal} approved another text of the request")


def _check_target(approval: Approval, order: Order) -> None:
    if order.service not in approval.targets:
        raise Refusal("ApprovalForOtherService", f"{approval.principal} did not approve {order.service}")


def _check_decision(approval: Approval) -> None:
    if approval.decision != "approve":
        raise Refusal("Rejected", f"{approval.principal} rejected the request")


def _check_same_action(approval: Approval, order: Order) -> None:
    if approval.request.action != order.action:
        raise Refusal("ApprovalForOtherAction", f"{approval.principal} approved another action")


def _check_same_params(approved: Mapping[str, Any], ordered: Mapping[str, Any]) -> None:
    try:
        same = strict_json.canonical(approved) == strict_json.canonical(ordered)
    except InvalidMessage:
        same = False
    if not same:
        raise Refusal("ApprovalForOtherParams", "the parameters differ from the approved ones")


def _check_unexpired(approval: Approval, now: datetime) -> None:
    try:
        limit = instant(approval.expires)
    except InvalidMessage as error:
        raise Refusal("ApprovalInvalid", f"expires: {error}") from None
    if now >= limit:
        raise Refusal("ApprovalExpired", f"the approval of {approval.principal} ended {approval.expires}")


def _check_not_own(approval: Approval) -> None:
    if approval.principal == approval.request.requested_by:
        raise Refusal("OwnApproval", f"{approval.principal} asked for it, and so cannot approve it")


def _check_requester(approval: Approval, request: SignedText, signers: Signers) -> None:
    principal = approval.request.requested_by
    _check_signed_by(request, principal, "request", sshsig.REQUEST, signers, "Requester", "Request")


def _check_counted_once(approval: Approval, approvers: Iterable[str]) -> None:
    if approval.principal in approvers:
        raise Refusal("ApprovedTwice", f"{approval.principal} counts once")
