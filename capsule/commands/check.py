"""`capsule check`: every problem of the documents in a work tree, at a revision, or brought in by a range.

Rules kept: all problems are found, not the first; a range tells only what it brings in; files that are no
documents of Capsule are not read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from capsule.commands.errors import CommandError, SetUpProblem, WrongUsage
from capsule.commands.git_program import WHERE_TO_FIND_ONE, GitFailed, Location, locate, run_git, setting
from capsule.commands.repository import incomplete_clone
from capsule.documents import paths
from capsule.documents.check import check_change, check_tree
from capsule.documents.problems import Problem
from capsule.store.api import Store
from capsule.trust.objects import BadObject, MissingObject, files, read_blob, read_commit

_TOPS = (
    paths.SETTINGS,
    paths.POLICY,
    paths.SERVICES,
    paths.REQUESTS,
    paths.CHANGE_APPROVALS,
    paths.SIGNERS_FOLDER,
    *paths.MACHINE_FOLDERS,
)
_MAX_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checked:
    """What was checked, in words, and what was found."""

    what: str
    problems: tuple[Problem, ...]
    uncommitted: tuple[str, ...] = ()
    """Documents of the work tree that were checked as they are, and not as git has them."""

    @property
    def failed(self) -> bool:
        """Whether anything is wrong, and not only worth a word."""
        return any(problem.severity == "error" for problem in self.problems)


def check(directory: Path, target: str | None, root: str | None, now: datetime) -> Checked:
    """Check `target`: a path, a revision, or BASE..HEAD; without one, the work tree (or main, if bare).

    `root` is the repository's id when it is known. Raises WrongUsage for a target that is neither.
    """
    if target is None:
        return _check_here(directory, root, now)
    if ".." in target and not Path(directory, target).exists():
        return _check_range(directory, target, root, now)
    path = Path(directory, target)
    if path.exists():
        return _check_path(path, root, now)
    return _check_revision(locate(directory), target, root, now)


def _check_here(directory: Path, root: str | None, now: datetime) -> Checked:
    location = locate(directory)
    if location.work_tree is None:
        return _check_revision(location, paths.MAIN, root, now)
    root = root or setting(directory, "capsule.root")
    if not root and not any((location.work_tree / each).exists() for each in (paths.SETTINGS, paths.POLICY)):
        text = f"{location.work_tree} is a git repository, but no state repository: it has no {paths.POLICY}"
        raise SetUpProblem("NoStateRepository", text, WHERE_TO_FIND_ONE)
    found = _check_folder(location.work_tree, "", root, now)
    step = _step_from_main(location, location.work_tree)
    problems = tuple(sorted({*found.problems, *step}))
    return Checked(found.what, problems, _uncommitted(location.work_tree))


def _uncommitted(work_tree: Path) -> tuple[str, ...]:
    """Documents that git has otherwise, or not at all; the index is left alone."""
    asked = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=all", "--no-renames")
    try:
        listed = run_git(work_tree, *asked, "--", *_TOPS)
    except GitFailed:
        return ()  # a hint is not worth a failure
    return tuple(line[2:].strip() for line in listed.splitlines())


def _step_from_main(location: Location, work_tree: Path) -> tuple[Problem, ...]:
    """What is wrong with the files of the work tree only because of what main says."""
    try:
        fork = run_git(_where(location), "--no-replace-objects", "merge-base", paths.MAIN, "HEAD")
    except GitFailed:
        return ()  # no main here, or nothing in common with it
    here = {name: data for name in [paths.POLICY] if (data := _plain(work_tree / name)) is not None}
    return check_change(_files_at(location, fork, {paths.POLICY}), here)


def _plain(file: Path) -> bytes | None:
    """The bytes of a plain file; None for anything else, which is a problem of its own."""
    if file.is_symlink() or not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_FILE)
    except OSError:
        return None


def check_merged(
    directory: Path, main: str, edits: Mapping[str, bytes | None], root: str | None, now: datetime
) -> tuple[Problem, ...]:
    """The errors in what `edits` (path → new bytes, None for deleted) would make of the commit `main`.

    Only of the edited files: a policy without somebody who once approved is no error, old approvals stay.
    """
    before = _files_at(locate(directory), main)
    after = {path: data for path, data in {**before, **edits}.items() if data is not None}
    found = _brought_in(before, after, root, now)
    return tuple(each for each in found if each.severity == "error" and each.path in edits)


def _check_path(path: Path, root: str | None, now: datetime) -> Checked:
    """A file or a folder, within the state repository it belongs to."""
    path = path.resolve()
    for top in (path, *path.parents):
        if (top / paths.SETTINGS).is_file():
            inside = "" if path == top else path.relative_to(top).as_posix()
            return _check_folder(top, inside, root or setting(top, "capsule.root"), now)
    raise WrongUsage(
        "NoStateRepository",
        f"{path} is not in a state repository: there is no {paths.SETTINGS} in it or above it",
        WHERE_TO_FIND_ONE,
    )


def _check_folder(top: Path, inside: str, root: str | None, now: datetime) -> Checked:
    found, odd = {}, []
    for file in _documents(top):
        name = file.relative_to(top).as_posix()
        if file.is_symlink() or not file.is_file():
            odd.append(
                Problem(name, 1, 1, "ForbiddenMode", "not a plain file", "a file, no link and no device")
            )
            continue
        try:
            with file.open("rb") as stream:
                found[name] = stream.read(_MAX_FILE)
        except OSError as error:
            raise CommandError("Unreadable", f"cannot read {file}: {error.strerror}") from None
    problems = (*check_tree(found, now=now, root=root), *odd)
    chosen = tuple(each for each in problems if _below(each.path, inside))
    return Checked(inside or str(top), tuple(sorted(chosen)))


def _documents(top: Path) -> Iterator[Path]:
    for name in _TOPS:
        start = top / name
        if start.is_symlink() or start.is_file():
            yield start
        elif start.is_dir():
            yield from (file for file in sorted(start.rglob("*")) if file.is_symlink() or not file.is_dir())


def _below(path: str, inside: str) -> bool:
    return not inside or path == inside or path.startswith(f"{inside}/")


def _check_revision(location: Location, revision: str, root: str | None, now: datetime) -> Checked:
    commit = _commit(location, revision)
    found = _files_at(location, commit)
    return Checked(commit, check_tree(found, now=now, root=root or _pinned(location)))


def _check_range(directory: Path, target: str, root: str | None, now: datetime) -> Checked:
    location = locate(directory)
    base_name, _, head_name = target.replace("...", "..").partition("..")
    head = _commit(location, head_name or "HEAD")
    base = _fork(location, _commit(location, base_name or "HEAD"), head)
    before, after = _files_at(location, base), _files_at(location, head)
    problems = _brought_in(before, after, root or _pinned(location), now)
    return Checked(f"{base[:12]}..{head[:12]}", problems)


def _brought_in(
    before: Mapping[str, bytes], after: Mapping[str, bytes], root: str | None, now: datetime
) -> tuple[Problem, ...]:
    known = {_essence(problem) for problem in check_tree(before, now=now, root=root)}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    new = [
        problem
        for problem in check_tree(after, now=now, root=root, brought=changed)
        if problem.path in changed or _essence(problem) not in known
    ]
    return tuple(sorted([*new, *check_change(before, after)]))


def _essence(problem: Problem) -> tuple[str, str, str]:
    return problem.path, problem.reason, problem.message


def _fork(location: Location, base: str, head: str) -> str:
    """Where the branch of `head` left that of `base`: what came to the base since is not its doing."""
    try:
        return run_git(_where(location), "--no-replace-objects", "merge-base", base, head)
    except GitFailed:
        return base


def _commit(location: Location, revision: str) -> str:
    if revision.startswith("-"):
        raise WrongUsage("BadRevision", f"{revision!r} is not a revision")
    candidates = [revision] if revision.startswith("refs/") else [f"refs/heads/{revision}", revision]
    for name in candidates:
        try:
            return run_git(
                _where(location), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
            )
        except GitFailed:
            continue
    raise WrongUsage(
        "UnknownTarget",
        f"{revision!r} is neither a path nor a revision",
        "capsule check [PATH | REV | BASE..HEAD]",
    )


def _files_at(location: Location, commit: str, tops: Collection[str] = _TOPS) -> dict[str, bytes]:
    from capsule.store.git import open_store

    store: Store = open_store(_where(location), remote=None)
    try:
        tree = read_commit(store, commit).tree
        return {
            path: read_blob(store, entry.oid)
            for path, entry in files(store, tree)
            if path.partition("/")[0] in tops
        }
    except BadObject as error:
        raise CommandError(error.reason, f"commit {commit} cannot be read: {error}") from None
    except MissingObject as error:
        raise incomplete_clone(_where(location), error) from None
    finally:
        store.close()


def _pinned(location: Location) -> str | None:
    return setting(_where(location), "capsule.root")


def _where(location: Location) -> Path:
    return location.work_tree or location.git_dir
