"""The git program where it is the better tool: settings, finding the repository, the work tree.

Rules kept: no shell, never an option that a value could turn into; objects and branches are the store's
business. Called by the other commands.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from capsule.commands.errors import SetUpProblem

WHERE_TO_FIND_ONE = (
    "Create a state repository with `capsule init DIR`, get one with `capsule clone URL DIR`, or name one "
    "with -C DIR or CAPSULE_REPO."
)


class GitFailed(Exception):
    """Git ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a repository is: its git directory, and its work tree when it has one."""

    git_dir: Path
    work_tree: Path | None


def run_git(directory: Path, *arguments: str, stdin: bytes | None = None) -> str:
    """What `git ARGUMENTS` prints in `directory`. Raises GitFailed, or SetUpProblem without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise SetUpProblem(
            "GitMissing", "the program git is not installed", "On Debian: sudo apt-get install git"
        ) from None
    if done.returncode:
        raise GitFailed(done.stderr.decode(errors="replace").strip())
    return done.stdout.decode(errors="replace").rstrip("\n")


def setting(directory: Path, name: str, *, as_path: bool = False) -> str | None:
    """The value of the git setting `name` as seen from `directory`; None where it is not set."""
    kind = ("--type=path",) if as_path else ()
    try:
        return run_git(directory, "config", *kind, "--get", name) or None
    except GitFailed:
        return None


def settings_below(directory: Path, section: str) -> dict[str, list[str]]:
    """All values of the git settings whose names begin with `section`, paths with ~ expanded, by lower-case
    name; in the order in which git applies them, so that the last of a single one counts."""
    try:
        pattern = "^" + section.lower().replace(".", r"\.") + r"\."
        listed = run_git(directory, "config", "--type=path", "-z", "--get-regexp", pattern)
    except GitFailed:
        return {}
    found: dict[str, list[str]] = {}
    for entry in listed.split("\0"):
        name, _, value = entry.partition("\n")
        if name:
            found.setdefault(name.lower(), []).append(value)
    return found


def write_setting(directory: Path, name: str, value: str) -> None:
    """Set `name` in the settings of the repository at `directory`."""
    run_git(directory, "config", "--local", name, value)


def locate(directory: Path) -> Location:
    """The repository that `directory` lies in. Raises SetUpProblem when there is none."""
    try:
        answer = run_git(
            directory,
            "rev-parse",
            "--path-format=absolute",
            "--git-common-dir",
            "--is-bare-repository",
        ).splitlines()
    except GitFailed as error:
        if "dubious ownership" in str(error):
            raise SetUpProblem(
                "OwnedBySomeoneElse",
                f"{directory} belongs to another user, and git does not trust it",
                f"If you trust it: git config --global --add safe.directory {directory.resolve()}",
            ) from None
        raise SetUpProblem(
            "NoRepository",
            f"{directory} is not in a git repository",
            WHERE_TO_FIND_ONE,
        ) from None
    git_dir = Path(answer[0])
    if answer[1] == "true":
        return Location(git_dir, None)
    return Location(git_dir, Path(run_git(directory, "rev-parse", "--show-toplevel")))


def current_branch(location: Location) -> str | None:
    """The full name of the branch that is checked out; None when detached or bare."""
    if location.work_tree is None:
        return None
    try:
        return run_git(location.work_tree, "symbolic-ref", "--quiet", "HEAD")
    except GitFailed:
        return None


def catch_up(location: Location, branch: str, new: str) -> str:
    """Move the local `branch` forward to `new` where it lags behind, with its files if it is checked out.

    Returns an empty text, or what the person must do when edits are in the way.
    """
    where = location.work_tree or location.git_dir
    try:
        if current_branch(location) == branch:
            run_git(where, "merge", "--ff-only", "--quiet", new)
        else:
            run_git(where, "update-ref", branch, new)
    except GitFailed as error:
        return f"your local {branch.removeprefix('refs/heads/')} could not follow: {error}"
    return ""


def is_ancestor(directory: Path, older: str, newer: str) -> bool:
    """Whether `newer` contains `older`."""
    try:
        run_git(directory, "--no-replace-objects", "merge-base", "--is-ancestor", older, newer)
    except GitFailed:
        return False
    return True
