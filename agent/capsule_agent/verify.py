"""Whether an order may be executed: every check is one function with one reason code.

Rules kept: pure (no I/O, no clock); the agent trusts the owners' keys it was given, nothing else: the list
of who may sign must be signed by an owner, and an order for an action with `approvals=N` must carry what N
people signed. Nothing is read from the request but its digest. Called by execute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from capsule_agent.protocol import sshsig, strict_json
from capsule_agent.protocol.messages import (
    Approval,
    Envelope,
    Evidence,
    Order,
    Query,
    SignedText,
    Signers,
    SignersList,
    decode,
    desired_state_id,
    instant,
    operation_id,
    request_digest,
)
from capsule_agent.protocol.sshsig import BadKey, BadSignature, PublicKey
from capsule_agent.protocol.strict_json import InvalidMessage

MAX_APPROVALS = 64
MAX_SIGNERS_BYTES = 1024 * 1024


class Refusal(Exception):
    """A check that failed: `reason` is a code, the text is for people and holds no secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Untrusted(Refusal):
    """The caller is not known to be a reconciler: it gets no signed answer."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A verified list of signers, and the text it was read from."""

    signers: Signers
    text: SignersList


# ---- the list of signers ----------------------------------------------------------------------------


def trusted_signers(
    carried: SignersList | None,
    stored: SignersList | None,
    stored_serial: int,
    owners: Iterable[PublicKey],
    repository: str | None,
) -> Trusted:
    """The list to judge by: the carried one, or else the stored one.

    `stored_serial` and `repository` are those accepted before. Raises Untrusted.
    """
    text = carried or stored
    if text is None:
        raise Untrusted("SignersMissing", "no list of signers was ever sent; send it with the order")
    signers = _owner_signed(text, tuple(owners))
    _check_signers_repository(signers, repository)
    _check_serial(signers, text, stored, stored_serial)
    return Trusted(signers, text)


@lru_cache(maxsize=8)
def _owner_signed(text: SignersList, owners: tuple[PublicKey, ...]) -> Signers:
    """The list that `text` holds. The same list comes with every order: what held of these very bytes and
    these very owners holds again. Failures are not remembered."""
    _check_owner_signed(text, owners)
    signers = _read_signers(text)
    _check_keys_distinct(signers)
    _check_roles_apart(signers)
    return signers


def _check_owner_signed(text: SignersList, owners: tuple[PublicKey, ...]) -> None:
    for signature in text.signatures[:MAX_APPROVALS]:
        try:
            sshsig.verify(text.document.encode(), signature, sshsig.SIGNERS, owners)
        except BadSignature:
            continue
        return
    raise Untrusted("SignersNotOwnerSigned", "no owner known to this agent signed the list of signers")


def _read_signers(text: SignersList) -> Signers:
    try:
        return decode(Signers, text.document.encode(), max_bytes=MAX_SIGNERS_BYTES)
    except InvalidMessage as error:
        raise Untrusted("SignersInvalid", f"the list of signers: {error}") from None


def _check_signers_repository(signers: Signers, repository: str | None) -> None:
    if repository is not None and signers.repository != repository:
        raise Untrusted("SignersOfOtherRepository", f"this agent belongs to repository {repository}")


def _check_serial(
    signers: Signers, text: SignersList, stored: SignersList | None, stored_serial: int
) -> None:
    if signers.serial < stored_serial:
        raise Untrusted("SignersOutdated", f"serial {signers.serial}, this agent has seen {stored_serial}")
    if signers.serial == stored_serial and stored is not None and stored.document != text.document:
        raise Untrusted("SignersSerialReused", f"another list with serial {signers.serial} came before")


def _check_keys_distinct(signers: Signers) -> None:
    holder: dict[PublicKey, str] = {}
    for name, entry in signers.principals.items():
        for key in _keys(entry.keys):
            if holder.setdefault(key, name) != name:
                raise Untrusted("SignersShareKey", f"{name} and {holder[key]} are listed with one key")


def _check_roles_apart(signers: Signers) -> None:
    for name, entry in signers.principals.items():
        if {"order", "approve"} <= set(entry.may):
            raise Untrusted("SignersMixRoles", f"{name} may order, and so may not approve")


@lru_cache(maxsize=256)
def _keys(texts: tuple[str, ...]) -> tuple[PublicKey, ...]:
    try:
        return tuple(PublicKey.parse(text) for text in texts)
    except BadKey as error:
        raise Untrusted("SignersInvalid", f"the list of signers: {error}") from None


# ---- who sends --------------------------------------------------------------------------------------


def check_sender(envelope: Envelope, call: Order | Query, signers: Signers) -> None:
    """The envelope is signed by the reconciler it names. Raises Untrusted."""
    entry = signers.principals.get(call.reconciler)
    if entry is None or "order" not in entry.may:
        raise Untrusted("ReconcilerUnknown", f"{call.reconciler[:64]!r} is not listed as a reconciler")
    try:
        sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.ORDER, _keys(entry.keys))
    except BadSignature as error:
        raise Untrusted("OrderForged", f"the signature of {call.reconciler}: {error}") from None


# ---- what an authentic order or query says -------------------------------------------------------------


def check_service(call: Order | Query, service: str) -> None:
    """The call is for this service."""
    if call.service != service:
        raise Refusal("OrderForOtherService", f"for {call.service[:64]!r}, this is {service!r}")


def check_repository(call: Order | Query, signers: Signers) -> None:
    """The call comes from the repository that the signers belong to."""
    if call.repository != signers.repository:
        raise Refusal("OrderForOtherRepository", f"this agent belongs to repository {signers.repository}")


def check_not_after(order: Order, now: datetime) -> None:
    """The order is not too late."""
    try:
        limit = instant(order.not_after)
    except InvalidMessage as error:
        raise Refusal("OrderInvalid", f"notAfter: {error}") from None
    if now > limit:
        raise Refusal("OrderTooLate", f"not to be begun after {order.not_after}")


def check_attempt_number(call: Order | Query) -> None:
    """Attempts are counted from 1."""
    if call.attempt < 1:
        raise Refusal("OrderInvalid", "attempts are counted from 1")


def check_operation_id(order: Order) -> None:
    """The operation's id is the hash of what it is about."""
    if order.request:
        expected = operation_id(order.repository, order.request, order.request_digest, order.service)
    else:
        generation = order.params.get("generation")
        if type(generation) is not int or generation < 1:
            raise Refusal("GenerationMissing", "an order without a request needs a generation from 1")
        expected = desired_state_id(order.repository, order.service, order.request_digest, generation)
    if order.op_id != expected:
        raise Refusal("OperationIdDiffers", "the operation's id is not the hash of what the order says")


# ---- what people signed -----------------------------------------------------------------------------


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
        sshsig.verify(signed.document.encode(), signed.signature, namespace, _keys(entry.keys))
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
