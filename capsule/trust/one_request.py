"""One request and what its evidence amounts to, judged against main as it is in force now.

Rules kept: a request is what its signed bytes say, and nothing is executed that its rules do not allow for
every target; an approval counts only for the bytes, the targets and the parameters it names, in the
repository it names, by a person who is entitled today; whoever asks does not approve; every approval that
does not count says why. Called by requests and by `capsule audit verify`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal

from capsule.documents import codec
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.paths import RequestFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ActionRequest, Rule
from capsule.trust import objects
from capsule.trust.approvals import ApprovalFiles, ApprovalSubject, judge_approval
from capsule.trust.objects import BadObject, ObjectReader, TreeEntry
from capsule.trust.policy import (
    is_person,
    may_request,
    missing_approvals,
    rule_for_action,
    signer_of,
)
from capsule.trust.state import JudgedRequest, MainState, SeenApproval
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "InvalidDocument": "request.yaml is not a valid ActionRequest.",
    "NameMismatch": "The request carries another name than its folder.",
    "DuplicateTarget": "The request names one target twice.",
    "RequestUnsigned": "request.yaml.sig is missing: sign request.yaml as the requester.",
    "BadSignature": "request.yaml.sig was not made over these bytes, as a request, by the requester.",
    "UnknownPrincipal": "The person is not a principal of the policy (any more).",
    "MachineRequest": "Machines do not ask for anything.",
    "UnknownService": "A target is not a service in force.",
    "NoRule": "No rule of the policy is about this action on this service. No match is a refusal.",
    "NotEntitled": "The requester is in none of the teams that the rule lets ask.",
    "TooManyTargets": "The request names more services than limits.maxTargets or limits.maxShare allow.",
    "Expired": "The request's time is over. Ask again.",
    "ApprovalsMissing": "Not enough people of the demanded teams have approved yet.",
    "AwaitsMerge": "The request lies on its branch and its rules ask for approvals: it counts "
    "once it is merged.",
    "Rejected": "Somebody entitled to approve has rejected it.",
    "MalformedTree": "The request's folder holds something that no verdict may rest on, such as a symlink "
    "or a file far too large.",
}

MAX_FOLDER_BYTES = 256 * 1024
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_SIGNATURE_BYTES = 8 * 1024
MAX_STRANGERS = 20

Source = Literal["main", "branch"]


class _Refused(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def judge_request(
    reader: ObjectReader,
    state: MainState,
    own: str | None,
    folder: RequestFolder,
    source: Source,
    revision: str,
    now: datetime | None = None,
    *,
    frozen: Collection[str] = (),
) -> JudgedRequest:
    """Judge the request whose folder, `folder` in the commit `revision`, is the tree `own`.

    `frozen` are targets already begun: later changes of their documents void nothing. With `now` an
    expired request is refused. Never raises for what the request holds; raises MissingObject.
    """
    try:
        listed = {each.name: each for each in objects.entries(reader, own, MAX_FOLDER_BYTES)} if own else {}
        raw, signature = _files(reader, listed)
        approvals = _approvals(reader, listed.get("approvals"), state)
    except BadObject as error:
        # the digest of nothing: a refusal that is recorded must name one
        blank = JudgedRequest(
            folder.name, folder.request, bytes_digest(b""), b"", "", source, revision, None, "refused"
        )
        return replace(blank, reason="MalformedTree", message=str(error))
    armored = (signature or b"").decode("ascii", errors="replace")
    judged = JudgedRequest(
        folder.name, folder.request, bytes_digest(raw), raw, armored, source, revision, None, "refused"
    )
    try:
        document = _read(raw, folder)
    except _Refused as refused:
        return replace(judged, reason=refused.reason, message=str(refused))
    services = {name: state.services[name] for name in document.spec.targets if name in state.services}
    digests = {name: target_digest(service.document) for name, service in services.items()}
    judged = replace(judged, document=document, target_digests=digests)
    try:
        _check_requester(state, document, raw, signature)
        rules = _rules(state, document, frozen)
        if not frozen:
            _check_limits(state, document)
    except _Refused as refused:
        return replace(judged, reason=refused.reason, message=str(refused))
    return expire(_weigh(state, replace(judged, rules=rules), document, approvals, frozen), now)


def expire(judged: JudgedRequest, now: datetime | None) -> JudgedRequest:
    """`judged`, refused when its time is over at `now`; a rejection stays one."""
    document = judged.document
    if now is None or document is None or judged.verdict in ("refused", "rejected"):
        return judged
    if now < document.spec.expires:
        return judged
    message = f"expired at {document.spec.expires.isoformat()}"
    return replace(judged, verdict="refused", reason="Expired", message=message)


def _files(reader: ObjectReader, listed: Mapping[str, TreeEntry]) -> tuple[bytes, bytes | None]:
    """Request and signature from the request's own folder."""
    request, seal = listed.get("request.yaml"), listed.get("request.yaml.sig")
    if request is None or request.is_folder:
        raise BadObject("MalformedTree", "request.yaml is missing")
    raw = objects.read_blob(reader, request.oid, MAX_DOCUMENT_BYTES)
    if seal is None or seal.is_folder:
        return raw, None
    return raw, objects.read_blob(reader, seal.oid, MAX_SIGNATURE_BYTES)


def _approvals(
    reader: ObjectReader, inner: TreeEntry | None, state: MainState
) -> list[ApprovalFiles | SeenApproval]:
    """The words on the request: files of people of the policy, and why others are not even read."""
    listed = objects.entries(reader, inner.oid, MAX_FOLDER_BYTES) if inner and inner.is_folder else ()
    files = {each.name: each.oid for each in listed if not each.is_folder}
    people = state.policy.document.spec.principals
    found: list[ApprovalFiles | SeenApproval] = []
    strangers = 0
    for name in (each.removesuffix(".json") for each in files if each.endswith(".json")):
        if name in people:
            found.append(_approval(reader, name, files))
        elif strangers < MAX_STRANGERS:
            strangers += 1
            found.append(_unread(name, "UnknownPrincipal", f"the policy lists no principal {name[:80]!r}"))
    return found


def _approval(reader: ObjectReader, name: str, files: Mapping[str, str]) -> ApprovalFiles | SeenApproval:
    beside = files.get(f"{name}.json.sig")
    try:
        document = objects.read_blob(reader, files[f"{name}.json"], MAX_DOCUMENT_BYTES)
        sealed = objects.read_blob(reader, beside, MAX_SIGNATURE_BYTES) if beside else None
    except BadObject as error:
        return _unread(name, error.reason, f"approvals/{name}.json: {error}")
    return ApprovalFiles(name, document, sealed)


def _unread(name: str, reason: str, message: str) -> SeenApproval:
    return SeenApproval(name, "approve", False, "signature", b"", "", reason, message)


def _read(raw: bytes, folder: RequestFolder) -> ActionRequest:
    try:
        document = codec.load_as(ActionRequest, raw, folder.request)
    except InvalidDocument as error:
        raise _Refused("InvalidDocument", str(error)) from None
    if document.metadata.name != folder.name:
        raise _Refused("NameMismatch", f"named {document.metadata.name!r} in folder {folder.name!r}")
    targets = document.spec.targets
    if len(set(targets)) != len(targets):
        twice = next(name for name in targets if targets.count(name) > 1)
        raise _Refused("DuplicateTarget", f"{twice} stands twice among the targets")
    return document


def _check_requester(state: MainState, document: ActionRequest, raw: bytes, signature: bytes | None) -> None:
    policy, who = state.policy.document, document.spec.requested_by
    if who not in policy.spec.principals:
        raise _Refused("UnknownPrincipal", f"the policy lists no principal {who!r}")
    if not is_person(policy, who):
        raise _Refused("MachineRequest", f"{who} is a machine")
    if signature is None:
        raise _Refused("RequestUnsigned", "request.yaml.sig is missing")
    try:
        signer = signer_of(policy, raw, signature.decode("ascii", errors="replace"), sshsig.REQUEST)
    except sshsig.BadSignature as error:
        raise _Refused("BadSignature", f"request.yaml.sig: {error}") from None
    if signer != who:
        raise _Refused("BadSignature", f"request.yaml.sig was made by {signer}, not by {who}")


def _rules(state: MainState, document: ActionRequest, frozen: Collection[str]) -> dict[str, Rule]:
    """The rule of every target; each must let the requester ask."""
    policy, spec = state.policy.document, document.spec
    rules: dict[str, Rule] = {}
    for name in spec.targets:
        service = state.services.get(name)
        if service is None:
            if name in frozen:
                continue
            raise _Refused("UnknownService", f"no service in force is named {name!r}")
        rule = rule_for_action(policy, spec.action, service.document.metadata.labels)
        if rule is None:
            raise _Refused("NoRule", f"no rule is about {spec.action} on {name}")
        if not may_request(policy, rule, spec.requested_by):
            raise _Refused("NotEntitled", f"{spec.requested_by} may not ask for {spec.action} on {name}")
        rules[name] = rule
    return rules


def _check_limits(state: MainState, document: ActionRequest) -> None:
    limits = state.settings.document.spec.limits
    count = len(document.spec.targets)
    share = max(1, len(state.services) * limits.max_share // 100)
    if count > limits.max_targets:
        raise _Refused("TooManyTargets", f"{count} targets; limits.maxTargets is {limits.max_targets}")
    if count > share:
        whole = len(state.services)
        message = f"{count} of {whole} services; limits.maxShare of {limits.max_share} percent allows {share}"
        raise _Refused("TooManyTargets", message)


def _weigh(
    state: MainState,
    judged: JudgedRequest,
    document: ActionRequest,
    files: list[ApprovalFiles | SeenApproval],
    frozen: Collection[str],
) -> JudgedRequest:
    """The verdict that the approvals amount to."""
    policy, rules = state.policy.document, tuple(judged.rules.values())
    subject = ApprovalSubject(
        state.root,
        judged.path.removesuffix("/request.yaml"),
        judged.digest,
        document,
        policy,
        rules,
        judged.target_digests,
        frozen,
    )
    seen = tuple(each if isinstance(each, SeenApproval) else judge_approval(subject, each) for each in files)
    judged = replace(judged, approvals=seen)
    missing = missing_approvals(policy, rules, {document.spec.requested_by}, set(judged.approved_by))
    judged = replace(judged, missing=missing)
    against = [each.principal for each in seen if each.counts and each.decision == "reject"]
    if against:
        return replace(
            judged, verdict="rejected", reason="Rejected", message=f"rejected by {', '.join(against)}"
        )
    if missing:
        text = ", ".join(f"{each.count} of {each.team}" for each in missing)
        return replace(judged, verdict="proposed", reason="ApprovalsMissing", message=f"missing: {text}")
    if judged.source == "branch" and any(rule.approvals for rule in rules):
        message = "approved, and waits for its merge into main"
        return replace(judged, verdict="proposed", reason="AwaitsMerge", message=message)
    return replace(judged, verdict="approved")
