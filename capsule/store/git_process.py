"""The stock git binary, for what is its own: maintenance, the working tree, writing configuration.

Rules kept: git sees no GIT_* variable of our caller (a hook's GIT_DIR would point it elsewhere), asks no
terminal, runs for a bounded time. dulwich's gc, repack, pack_refs and write_commit_graph lose refs or
write broken files and are never used. Called by store.git.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from capsule.store.api import StoreError

_SECONDS = 60.0
_MAINTENANCE_SECONDS = 3600.0
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_MOST_LOOSE = 6700
_MOST_PACKS = 50
"""Git's own defaults, from which on `git gc --auto` does something."""
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
        raise _no_git() from None
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


def maintain(git_folder: Path, *, when_due: bool = False, ending: threading.Event | None = None) -> None:
    """Pack refs and objects, dropping garbage older than git's two weeks of grace; on one processor.

    With `when_due` only when git finds more loose objects, or more packs, than are good to have; then it
    packs what is loose alone, unless there are too many packs. Broken off once `ending` is set. Raises
    StoreError.
    """
    settings = ["gc.writeCommitGraph=false", "pack.threads=1"]
    if when_due:
        settings += [f"gc.auto={_MOST_LOOSE}", f"gc.autoPackLimit={_MOST_PACKS}", "gc.autoDetach=false"]
    command = [
        *("git", f"--git-dir={git_folder}"),
        *(word for setting in settings for word in ("-c", setting)),
        *("gc", "--quiet", "--prune=2.weeks.ago", *(["--auto"] if when_due else [])),
    ]
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=git_folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise _no_git() from None
        status = _until(process, ending or threading.Event())
        if status not in (0, None):
            said.seek(0)
            words = said.read(2000).decode("utf-8", "replace").strip()
            raise StoreError(f"`git gc` failed: {words or f'exit status {status}'}")


def _until(process: subprocess.Popen[bytes], ending: threading.Event) -> int | None:
    """The exit status; None if it was broken off, with all that it had started. Raises StoreError."""
    deadline = time.monotonic() + _MAINTENANCE_SECONDS
    while process.poll() is None and not ending.is_set() and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
    status = process.poll()
    if status is not None:
        return status
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # git removes its locks and temporary files
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not ending.is_set():
        raise StoreError(f"`git gc` took longer than {_MAINTENANCE_SECONDS:.0f} s")
    return None


def _no_git() -> StoreError:
    return StoreError("the git program is not installed", "install git")
