"""The stock git binary, for what is its own: maintenance, the working tree, writing configuration.

Rules kept: git sees no GIT_* variable of our caller (a hook's GIT_DIR would point it elsewhere), asks no
terminal, runs for a bounded time. dulwich's gc, repack, pack_refs and write_commit_graph lose refs or
write broken files and are never used. Called by store.git.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from capsule.store.api import StoreError

_SECONDS = 60.0
_MAINTENANCE_SECONDS = 3600.0
_KEPT_VARIABLES = ("GIT_SSL_", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")


def clean_environment() -> dict[str, str]:
    """Our environment for a git process: without the GIT_* variables that redirect git."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(_KEPT_VARIABLES)
    }
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}


def run_git(
    git_folder: Path, *arguments: str, work_tree: Path | None = None, seconds: float = _SECONDS
) -> str:
    """The output of `git <arguments>`. Raises StoreError with git's own words."""
    where = [f"--git-dir={git_folder}", *([f"--work-tree={work_tree}"] if work_tree else [])]
    try:
        done = subprocess.run(
            ["git", *where, *arguments],
            cwd=work_tree or git_folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise StoreError("the git program is not installed", "install git") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"`git {arguments[0]}` took longer than {seconds:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise StoreError(f"`git {' '.join(arguments)[:200]}` failed: {said[:2000]}")
    return done.stdout


def checked_out_branch(git_folder: Path) -> str | None:
    """Full name of the branch that HEAD is on, or None (detached)."""
    head = (git_folder / "HEAD").read_text("utf-8", "replace").strip()
    return head.removeprefix("ref: ") if head.startswith("ref: ") else None


def follow_move(git_folder: Path, work_tree: Path, old: str | None, new: str) -> str | None:
    """Bring index and files of a checked-out branch from `old` to `new`.

    Edited files that the move does not touch stay as they are. Where it would overwrite something, it
    changes nothing and returns why: the branch has moved, the files have not.
    """
    trees: Sequence[str] = (old, new) if old else (new,)
    try:
        run_git(
            git_folder, "-c", "core.hooksPath=/dev/null", "read-tree", "-m", "-u", *trees, work_tree=work_tree
        )
    except StoreError as error:
        return (
            f"the branch moved to {new}, but the files in {work_tree} were left: {error}. "
            f"Put your edits aside, then run `git reset --hard`"
        )
    return None


def maintain(git_folder: Path) -> None:
    """Pack refs and objects, dropping garbage older than git's two weeks of grace."""
    run_git(
        git_folder,
        "-c",
        "gc.writeCommitGraph=false",
        "gc",
        "--quiet",
        "--prune=2.weeks.ago",
        seconds=_MAINTENANCE_SECONDS,
    )
