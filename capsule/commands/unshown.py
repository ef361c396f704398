"""What a branch with a change brings besides the documents that are shown to its reviewer.

Rules kept: `propose` and `approve` merge a branch in a person's name, so it may hold the shown documents and
people's signed words on changes, and nothing else; no word that main has is taken away. The list of signers
goes its own way (`capsule policy signers`), for agents believe it. Called by change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from capsule.commands.errors import RefusedByPolicy
from capsule.commands.repository import Repository
from capsule.commands.writing import file_at
from capsule.documents.paths import CHANGE_APPROVALS
from capsule.trust.changes import VoidApproval, is_word, read_word

_LISTED = 10


def refuse_unshown(
    repository: Repository,
    branch: str,
    tip: str,
    touched: Mapping[str, bytes | None],
    shown: Collection[str],
    digest: str,
) -> None:
    """Raises RefusedByPolicy (BranchTouchesMore) with the paths of `touched` that no reviewer sees.

    `shown` are the documents under review, `digest` is that of their change.
    """
    unshown = sorted(
        path
        for path, data in touched.items()
        if path not in shown and not (data is not None and _is_fair_word(repository, tip, path, digest))
    )
    if unshown:
        rest = f" and {len(unshown) - _LISTED} more" if len(unshown) > _LISTED else ""
        raise RefusedByPolicy(
            "BranchTouchesMore",
            f"{branch} also changes {', '.join(unshown[:_LISTED])}{rest}: a change of services, settings or "
            "policy is merged alone, for its reviewers are shown nothing else",
            "Put the rest on a branch of its own; signers/ is written by `capsule policy signers`.",
        )


def _is_fair_word(repository: Repository, tip: str, path: str, digest: str) -> bool:
    """Whether `path` holds a word on this change, which is shown, or adds a valid one on another version."""
    document = path.removesuffix(".sig")
    if not is_word(document):
        return False
    policy = repository.policy
    if document.startswith(f"{CHANGE_APPROVALS}/{digest.removeprefix('sha256:')}/"):
        return PurePosixPath(document).stem in policy.spec.principals
    data, signature = file_at(repository, tip, document), file_at(repository, tip, f"{document}.sig")
    if data is None or file_at(repository, repository.main, path) is not None:
        return False
    try:
        read_word(policy, repository.root, document, data, signature)
    except VoidApproval:
        return False
    return True
