"""Checks of approvals: each must say what the request beside it, or the change it names, says.

Whether an approval's signature verifies is trust's to judge. Called by check.tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from capsule.documents import paths
from capsule.documents.check.sources import Loc, Source, Tree
from capsule.documents.digests import bytes_digest, change_digest, target_digest
from capsule.documents.problems import Problem, nearest
from capsule.documents.scalars import instant_text, parse_instant
from capsule.documents.types import ActionRequest, ChangeApproval
from capsule_agent.protocol import strict_json
from capsule_agent.protocol.messages import Approval

_NAMESPACE = "capsule-approval@v1"


def check_approvals(
    tree: Tree,
    request: Source[ActionRequest],
    folder: paths.RequestFolder,
    root: str | None,
    *,
    expired: bool,
) -> None:
    """Note every problem of the approvals in the folder of `request`."""
    for path, principal in tree.approvals.get(folder.folder, ()):
        approval = tree.read(Approval, path)
        if approval is None:
            continue
        _signed(tree, path)
        tree.problems += _principal(tree, approval, approval.document.principal, principal)
        tree.problems += _repository(approval, approval.document.repository, root)
        tree.problems += _says_the_same(approval, request)
        if not expired:
            tree.problems += _targets(tree, approval, request.path)


def check_change_approvals(tree: Tree, root: str | None) -> None:
    """Note every problem of the approvals of changes, at the top of the tree."""
    for path in sorted(tree.files):
        place = paths.change_approval_place(path)
        approval = tree.read(ChangeApproval, path) if place else None
        if place is None or approval is None:
            continue
        _signed(tree, path)
        tree.problems += _principal(tree, approval, approval.document.principal, place[1])
        tree.problems += _repository(approval, approval.document.repository, root)
        digest = change_digest(approval.document.changes)
        if digest != place[0]:
            message = "the changes named here have another digest than the folder says"
            tree.problems.append(approval.problem(("changes",), "ApprovalMismatch", message, digest))


def _signed(tree: Tree, path: str) -> None:
    if f"{path}.sig" not in tree.files:
        hint = f"ssh-keygen -Y sign -n {_NAMESPACE} -f KEY {path}"
        tree.at_start(path, "MissingSignature", "the approval is not signed", f"{path}.sig", hint)


def _principal(
    tree: Tree, source: Source[Approval] | Source[ChangeApproval], name: str, file_name: str
) -> Iterator[Problem]:
    if name != file_name:
        message = f"the principal is not the one the file is named after, {file_name}"
        yield source.problem(("principal",), "NameMismatch", message, f'"{file_name}"')
    elif tree.policy and name not in tree.policy.document.spec.principals:
        hint = nearest(name, tree.policy.document.spec.principals)
        yield source.problem(("principal",), "UnknownPrincipal", f'no principal is named "{name}"', hint=hint)


def _repository(
    source: Source[Approval] | Source[ChangeApproval], repository: str, root: str | None
) -> Iterator[Problem]:
    if root is not None and repository != root:
        message = "this approval was given for another repository"
        yield source.problem(("repository",), "OtherRepository", message, f'"{root}"')


def _says_the_same(approval: Source[Approval], request: Source[ActionRequest]) -> Iterator[Problem]:
    found, spec = approval.document, request.document.spec
    pairs: list[tuple[Loc, object, object]] = [
        (("request", "name"), found.request.name, request.document.metadata.name),
        (("request", "digest"), found.request.digest, bytes_digest(request.data)),
        (("request", "requestedBy"), found.request.requested_by, spec.requested_by),
        (("request", "action"), found.request.action, spec.action),
        (("targets",), sorted(found.targets), sorted(set(spec.targets))),
    ]
    for loc, said, asked in pairs:
        if said != asked:
            yield _mismatch(approval, loc, asked)
    if _canonical(found.request.params) != _canonical(dict(spec.params)):
        yield _mismatch(approval, ("request", "params"), dict(spec.params))
    if _instant(found.expires) != spec.expires:
        yield _mismatch(approval, ("expires",), instant_text(spec.expires))
    if found.decision == "approve" and found.principal == spec.requested_by:
        message = f'"{found.principal}" asked for this, and nobody approves what they requested'
        yield approval.problem(("principal",), "OwnApproval", message)
    if found.decision == "break-glass" and not (spec.break_glass and found.principal == spec.requested_by):
        message = "the request does not break the glass, or somebody else asked for it"
        yield approval.problem(("decision",), "BreakGlassMismatch", message)


def _mismatch(approval: Source[Approval], loc: Loc, asked: object) -> Problem:
    message = f"{'.'.join(str(part) for part in loc)} is not what the request says"
    hint = "the request was edited after this approval, or the approval belongs to another request"
    return approval.problem(loc, "ApprovalMismatch", message, str(asked)[:200], hint)


def _instant(text: str) -> datetime | None:
    try:
        return parse_instant(text)
    except ValueError:
        return None


def _canonical(value: object) -> bytes | None:
    try:
        return strict_json.canonical(value)
    except strict_json.InvalidMessage:
        return None


def _targets(tree: Tree, approval: Source[Approval], request: str) -> Iterator[Problem]:
    for name, digest in approval.document.targets.items():
        service = tree.services.get(name)
        if service and target_digest(service.document) != digest:
            message = f'agent, labels or pins of "{name}" are not those that were approved'
            hint = "ask for the approval again"
            grave = tree.severity("warning", request, approval.path)
            yield approval.problem(("targets", name), "ApprovalVoid", message, hint=hint, severity=grave)
