"""Writing on behalf of a person: signed commits on a branch, and merges into main.

Rules kept: everything is judged as it would stand before a ref moves, so a refusal leaves nothing behind;
a merge is a true merge commit whose second parent is the branch; a lost race starts again from the new
tip. Called by request, approve, propose and policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from capsule.commands.errors import CommandError, RefusedByPolicy
from capsule.commands.git_program import GitFailed, run_git
from capsule.commands.repository import Repository
from capsule.commands.signing import Identity
from capsule.documents.paths import MAIN
from capsule.store.api import Draft, RefMoved, RefUpdate
from capsule.trust.objects import BadObject, changes, file_bytes, read_blob, read_commit

_RACES = 5


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge into main: its commit, and what a person must still do in the work tree (mostly nothing)."""

    commit: str
    note: str = ""


def commit_as(
    repository: Repository,
    identity: Identity,
    parents: tuple[str, ...],
    edits: Mapping[str, bytes | None],
    message: str,
    at: datetime,
) -> str:
    """A commit signed by a person, on top of the first of `parents`; named by no ref yet."""
    return repository.store.write(
        Draft(
            base=parents[0],
            edits=edits,
            parents=parents,
            message=message,
            author=identity.person,
            at=at,
            sign=identity.signer.sign_commit,
        )
    )


def move_branch(repository: Repository, name: str, old: str | None, new: str) -> str:
    """Point the branch `name` (a full ref name) at `new`, at the authority.

    Returns why the files of a checked-out branch could not follow, mostly nothing. Raises RefMoved and
    StoreError.
    """
    repository.store.publish([RefUpdate(name, old, new)])
    left_behind = repository.store.files_left_behind
    if left_behind is None:
        return ""
    return f"the files here still show the old {name.removeprefix('refs/heads/')}: {left_behind}"


def branch_changes(repository: Repository, base: str, tip: str) -> dict[str, bytes | None]:
    """What the branch `tip` changes since it left `base`: path → new bytes, None for deleted.

    Raises CommandError for what no state repository holds: links, submodules, names that only differ in case.
    """
    try:
        fork = run_git(repository.directory, "--no-replace-objects", "merge-base", base, tip)
    except GitFailed:
        raise CommandError(
            "NoCommonHistory",
            "the branch has no commit in common with main",
            "Make it from main: git switch -c NAME main",
        ) from None
    store = repository.store
    try:
        old, new = read_commit(store, fork), read_commit(store, tip)
        return {
            change.path: read_blob(store, change.new.oid) if change.new else None
            for change in changes(store, old.tree, new.tree)
        }
    except BadObject as error:
        raise CommandError(
            error.reason,
            f"the branch holds what no state repository takes: {error}",
            "Plain files and folders alone: take it out of the branch, and push again.",
        ) from None


def merge_into_main(
    repository: Repository,
    identity: Identity,
    branch_tip: str,
    message: str,
    at: datetime,
    require: Callable[[str], None],
) -> Merged:
    """Merge the branch whose tip is `branch_tip` into main, signed by a person.

    `require(commit)` is given the merge before main moves, and raises when it must not. Raises CommandError
    for edits of the same file on both sides, RefMoved when main moves again and again, and StoreError.
    """
    for _ in range(_RACES):
        main = repository.main
        edits = branch_changes(repository, main, branch_tip)
        _refuse_conflicts(repository, main, branch_tip, edits)
        commit = commit_as(repository, identity, (main, branch_tip), edits, message, at)
        require(commit)
        try:
            return Merged(commit, move_branch(repository, MAIN, main, commit))
        except RefMoved:
            repository.store.refresh()
    raise RefMoved(f"main moved {_RACES} times while merging", "Try again in a moment.")


def _refuse_conflicts(repository: Repository, main: str, tip: str, edits: Mapping[str, bytes | None]) -> None:
    on_main = branch_changes(repository, tip, main)
    both = sorted(path for path in edits if path in on_main and on_main[path] != edits[path])
    if both:
        raise CommandError(
            "MergeConflict",
            f"main changed the same files since the branch began: {', '.join(both)}",
            "Bring the branch up to date (git merge main), and have it looked at again.",
        )


def require_only_below(edits: Mapping[str, bytes | None], folder: str, branch: str) -> None:
    """Raises RefusedByPolicy when a request's branch changes anything outside of its own folder."""
    others = sorted(path for path in edits if not path.startswith(folder + "/"))
    if others:
        raise RefusedByPolicy(
            "BranchTouchesMore",
            f"{branch} also changes {', '.join(others[:5])}{' …' if len(others) > 5 else ''}: "
            "a request's branch holds that request alone",
            "Put the other changes on a branch of their own, and `capsule propose` it.",
        )


def file_at(repository: Repository, commit: str, path: str) -> bytes | None:
    """The bytes of `path` at `commit`; None where there is no such file."""
    return file_bytes(repository.store, read_commit(repository.store, commit).tree, path)
