"""Approvals of a request: each is read, verified and compared with what it would approve today.

Rules kept: an approval binds repository, request by name and digest, requester, action, parameters, expiry,
and every target by the digest of its agent, labels and pins; whatever differs now makes it void, and says
what changed. Called by requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from capsule.documents.scalars import instant_text
from capsule.documents.types import ActionRequest, Evidence, Policy, Rule
from capsule.trust.changes import VoidApproval, check_person_signed
from capsule.trust.evidence import accepts
from capsule.trust.policy import may_approve
from capsule.trust.state import SeenApproval
from capsule_agent.protocol import messages, strict_json
from capsule_agent.protocol.messages import Approval
from capsule_agent.protocol.strict_json import InvalidMessage

REASONS: dict[str, str] = {
    "OtherRequest": "The approval names another request.",
    "RequestChanged": "The request's bytes changed after it was approved.",
    "RequesterChanged": "The approval names another requester than the request.",
    "ActionChanged": "The approval names another action than the request.",
    "ParamsChanged": "The approval names other parameters than the request.",
    "TargetsChanged": "The approval names other targets than the request.",
    "TargetChanged": "The agent, labels or pins of a target changed after it was approved.",
    "ExpiryChanged": "The approval names another expiry than the request.",
    "SelfApproval": "Nobody approves what they asked for.",
    "EvidenceTooWeak": "An approval by a weaker kind of evidence than the rules that ask the person take: "
    "let them sign an approval.",
    "BreakGlassNotOwn": "Somebody else than the requester says that the glass is broken for it.",
    "BreakGlassUnasked": "The glass is said to be broken for a request that does not break it.",
    "NotAnApprover": "The person is in none of the teams whose approval the rules ask.",
}


@dataclass(frozen=True, slots=True)
class ApprovalFiles:
    """An approval document and its signature as they lie in the tree; no signature is None. `seal` is the
    blob id of the signature."""

    principal: str
    document: bytes
    signature: bytes | None
    seal: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalSubject:
    """What an approval must be about to count: the request and its surroundings as they are today."""

    root: str
    folder: str
    digest: str
    request: ActionRequest
    policy: Policy
    rules: tuple[Rule, ...]
    target_digests: Mapping[str, str]
    frozen: Collection[str]


def judge_approval(subject: ApprovalSubject, files: ApprovalFiles) -> SeenApproval:
    """Whether an approval counts; if not, its reason and what changed."""
    armored = (files.signature or b"").decode("ascii", errors="replace")
    approval: Approval | None = None
    try:
        approval = _read(files)
        _check_signed(subject, files, approval)
        _check_subject(subject, approval)
        _check_word(subject, approval)
    except VoidApproval as void:
        decision = approval.decision if approval else "approve"
        return SeenApproval(
            files.principal, decision, False, "signature", files.document, armored, void.reason, str(void)
        )
    return SeenApproval(files.principal, approval.decision, True, "signature", files.document, armored)


def _read(files: ApprovalFiles) -> Approval:
    try:
        return messages.decode(Approval, files.document)
    except InvalidMessage as error:
        raise VoidApproval("MalformedApproval", str(error)) from None


def _check_signed(subject: ApprovalSubject, files: ApprovalFiles, approval: Approval) -> None:
    path = f"{subject.folder}/approvals/{files.principal}.json"
    if approval.principal != files.principal:
        raise VoidApproval("ApprovalMisplaced", f"{path} speaks for {approval.principal[:80]!r}")
    check_person_signed(subject.policy, files.principal, files.document, files.signature, path)


def _check_subject(subject: ApprovalSubject, approval: Approval) -> None:
    """The parts that a rejection must name rightly as well."""
    if approval.repository != subject.root:
        raise VoidApproval("OtherRepository", f"given in repository {approval.repository[:80]}")
    if approval.request.name != subject.request.metadata.name:
        raise VoidApproval("OtherRequest", f"given for request {approval.request.name[:80]}")
    if approval.request.digest != subject.digest:
        raise VoidApproval("RequestChanged", f"request.yaml was {approval.request.digest[:80]} when approved")


def _check_word(subject: ApprovalSubject, approval: Approval) -> None:
    """Whether this person may say this."""
    if approval.decision == "break-glass":
        _check_breaks(subject, approval)
        _check_shown(subject, approval)
        return
    if approval.decision == "approve":
        if approval.principal == subject.request.spec.requested_by:
            raise VoidApproval("SelfApproval", f"{approval.principal} asked for it")
        _check_shown(subject, approval)
    check_asked(subject.policy, subject.rules, approval.principal, "signature")


def _check_breaks(subject: ApprovalSubject, approval: Approval) -> None:
    """Only who asked breaks the glass, and only where the request says so: nobody's word is needed for that,
    agents that want one are sent it."""
    spec = subject.request.spec
    if approval.principal != spec.requested_by:
        raise VoidApproval("BreakGlassNotOwn", f"{spec.requested_by} asked for it, not {approval.principal}")
    if not spec.break_glass:
        raise VoidApproval("BreakGlassUnasked", "the request does not say breakGlass: true")


def _check_shown(subject: ApprovalSubject, approval: Approval) -> None:
    """Everything the approver was shown is still so."""
    spec = subject.request.spec
    if approval.request.requested_by != spec.requested_by:
        raise VoidApproval("RequesterChanged", f"names {approval.request.requested_by[:80]!r} as requester")
    if approval.request.action != spec.action:
        raise VoidApproval("ActionChanged", f"approved action {approval.request.action[:80]!r}")
    if _canonical(approval.request.params) != _canonical(dict(spec.params)):
        raise VoidApproval("ParamsChanged", "approved other parameters")
    if not _same_instant(approval.expires, instant_text(spec.expires)):
        raise VoidApproval("ExpiryChanged", f"approved until {approval.expires[:80]!r}")
    if set(approval.targets) != set(spec.targets):
        differing = ", ".join(sorted(set(approval.targets) ^ set(spec.targets))[:5])
        raise VoidApproval("TargetsChanged", f"approved other targets; these differ: {differing}")
    for name, digest in approval.targets.items():
        if name not in subject.frozen and subject.target_digests.get(name) != digest:
            raise VoidApproval("TargetChanged", f"agent, labels or pins of {name} changed since")


def check_asked(policy: Policy, rules: Collection[Rule], principal: str, evidence: Evidence) -> None:
    """Raise VoidApproval unless a rule asks for the word of `principal`, and takes this kind of evidence."""
    asking = [rule for rule in rules if may_approve(policy, rule, principal)]
    if not asking:
        raise VoidApproval("NotAnApprover", f"the word of {principal} is not asked for")
    if not any(accepts(rule, evidence) for rule in asking):
        raise VoidApproval("EvidenceTooWeak", f"the word of {principal} counts if signed, not by {evidence}")


def _canonical(value: object) -> bytes | None:
    try:
        return strict_json.canonical(value)
    except InvalidMessage:
        return None


def _same_instant(found: str, expected: str) -> bool:
    try:
        return messages.instant(found) == messages.instant(expected)
    except InvalidMessage:
        return False
