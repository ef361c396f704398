"""The merge that brought a request to main, as evidence that another person let it in.

Rules kept: only a true merge of two parents counts, at which these very bytes came from the second parent;
whoever merged is who signed the merge, else whose e-mail its author has; what changed of the targets since
makes it void, but not the folder that a document lies in. It trusts the branch protection of main, and
counts only where a rule takes `merge`. Called by one_request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from capsule.documents import codec
from capsule.documents.digests import target_digest
from capsule.documents.paths import SERVICES
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ForgeSettings, Policy, Service
from capsule.trust import objects
from capsule.trust.approvals import ApprovalSubject, check_asked
from capsule.trust.changes import VoidApproval
from capsule.trust.objects import BadObject, CommitInfo, ObjectReader
from capsule.trust.policy import is_person, signer_of
from capsule.trust.state import InForce, SeenApproval
from capsule_agent.protocol import sshsig

REASONS: dict[str, str] = {
    "ArrivalUnknown": "How the request came to main cannot be told: its arrival lies too far back, or the "
    "history is malformed there. Let somebody sign an approval.",
    "NotATrueMerge": "The request came to main by a commit that is no merge of two parents: a squash, a "
    "rebase, a push, an octopus. Such a commit does not say who let it in.",
    "OtherBytesMerged": "The merge holds other bytes of the request than the branch it merged.",
    "UnknownMerger": "Neither the signature nor the author's e-mail of the merge names a person of the "
    "policy, and one alone.",
    "SelfMerge": "The requester merged the request: nobody approves what they asked for.",
}

_BEHIND_NUMBER = {"github": "+", "gitlab": "-"}
"""What each forge writes between the number and the login in a hidden address; others write no number."""


# ---- who let them in ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge must have brought: the request's bytes at its path, for services as they are in force.

    `forge` is the one that the settings name.
    """

    path: str
    blob: str
    services: Mapping[str, InForce[Service]]
    forge: ForgeSettings | None


def judge_merge(
    reader: ObjectReader, subject: ApprovalSubject, merged: Merged, arrival: str | None
) -> SeenApproval:
    """The approval that the step `arrival`, which brought the request to main, amounts to.

    Raises MissingObject.
    """
    if arrival is None:
        return _void("merge", VoidApproval("ArrivalUnknown", f"of {merged.path}"))
    merger = f"merge:{arrival[:12]}"
    try:
        commit = objects.read_commit(reader, arrival)
        _check_brought(reader, merged, commit, arrival)
        merger = _person(subject.policy, merged.forge, commit, arrival)
        _check_entitled(subject, merger)
        _check_targets(reader, subject, merged, commit)
    except VoidApproval as void:
        return _void(merger, void)
    except BadObject as error:
        return _void(merger, VoidApproval("ArrivalUnknown", str(error)))
    return SeenApproval(merger, "approve", True, "merge", b"", "", message=f"merged it by {arrival[:12]}")


def _void(merger: str, void: VoidApproval) -> SeenApproval:
    return SeenApproval(merger, "approve", False, "merge", b"", "", void.reason, str(void))


def _check_brought(reader: ObjectReader, merged: Merged, commit: CommitInfo, oid: str) -> None:
    if len(commit.parents) != 2:
        raise VoidApproval("NotATrueMerge", f"{oid[:12]} has {len(commit.parents)} parents")
    side = objects.tree_of(objects.raw_commit(reader, commit.parents[1]))
    entry = objects.find(reader, side, merged.path)
    if entry is None or entry.oid != merged.blob:
        message = f"{oid[:12]} does not hold {merged.path} as its second parent does"
        raise VoidApproval("OtherBytesMerged", message)


def _person(policy: Policy, forge: ForgeSettings | None, commit: CommitInfo, oid: str) -> str:
    """Who merged. Raises VoidApproval."""
    found = merger_of(policy, forge, commit)
    if found is None:
        raise VoidApproval("UnknownMerger", f"{oid[:12]} by {commit.author.email[:80]!r}")
    return found


def merger_of(policy: Policy, forge: ForgeSettings | None, commit: CommitInfo) -> str | None:
    """The person who made a merge: who signed it, else whose e-mail its author has; None where that is no
    person of the policy, or not one alone."""
    if commit.signature is not None:
        try:
            signer = signer_of(policy, commit.signed_payload, commit.signature, sshsig.COMMIT)
        except sshsig.BadSignature:
            pass  # such as the forge's own: whoever forges a signature could leave it away as well
        else:
            return signer if is_person(policy, signer) else None
    return author_of(policy, forge, commit.author.email)


def author_of(policy: Policy, forge: ForgeSettings | None, email: str) -> str | None:
    """The one person of the policy whose e-mail this is, as far as anybody may write any; else None."""
    found = holders_of(policy, forge, email)
    return found[0] if len(found) == 1 and is_person(policy, found[0]) else None


def holders_of(policy: Policy, forge: ForgeSettings | None, email: str) -> list[str]:
    """The principals with this e-mail, or with the account whose number the forge writes in place of a
    hidden one (GitHub: 583231+login@users.noreply.github.com, GitLab: 583231-login@…).

    What stands behind the number is the forge's own: a login may itself begin with digits and a dash, and
    an old account of GitHub has its bare login for a hidden address."""
    host = urlsplit(forge.server).hostname if forge else None
    mark = _BEHIND_NUMBER.get(forge.kind, "") if forge else ""
    pattern = rf"([1-9][0-9]{{0,15}}){re.escape(mark)}[^@]*@users\.noreply\.{re.escape(host or '')}"
    hidden = re.fullmatch(pattern, email) if mark else None
    kind, user = (forge.kind, int(hidden[1])) if forge and hidden else ("", None)
    return [
        name
        for name, each in policy.spec.principals.items()
        if (each.email and each.email.lower() == email.lower()) or (user and each.forge.get(kind) == user)
    ]


def _check_entitled(subject: ApprovalSubject, merger: str) -> None:
    if merger == subject.request.spec.requested_by:
        raise VoidApproval("SelfMerge", f"{merger} asked for it and merged it")
    check_asked(subject.policy, subject.rules, merger, "merge")


def _check_targets(
    reader: ObjectReader, subject: ApprovalSubject, merged: Merged, commit: CommitInfo
) -> None:
    """What whoever merged could see of the targets is still so, in whatever folders their documents lie."""
    top = objects.folder(reader, commit.tree, SERVICES)
    for name in subject.target_digests.keys() - set(subject.frozen):
        service, digest = merged.services[name], subject.target_digests[name]
        shown = set(_documents(reader, top, f"{name}.yaml"))
        # Of several documents of one name nobody can tell which one whoever merged looked at.
        if not shown or any(
            blob != service.blob and _digest(reader, blob, service.path) != digest for blob in shown
        ):
            raise VoidApproval("TargetChanged", f"agent, labels or pins of {name} changed since the merge")


def _documents(reader: ObjectReader, top: str | None, file: str) -> Iterator[str]:
    """The blob ids of all files of that name below the folder `top`; a folder is looked at once, however
    often it stands there."""
    folders = {top} if top else set()
    left = list(folders)
    while left:
        for entry in objects.by_name(reader, left.pop()).values():
            if entry.name == file and not entry.is_folder:
                yield entry.oid
            elif entry.is_folder and entry.oid not in folders:
                folders.add(entry.oid)
                left.append(entry.oid)


def _digest(reader: ObjectReader, blob: str, path: str) -> str | None:
    try:
        return target_digest(codec.load_as(Service, objects.read_blob(reader, blob), path))
    except InvalidDocument:
        return None
