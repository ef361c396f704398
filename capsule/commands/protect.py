"""`capsule protect`: make a bare repository refuse what the policy does not authorise, without a forge.

Rules kept: the hook calls this very installation by its full path, and where that is gone every push is
refused; nobody else's hook is replaced; what is set can be set again. Git's own settings: git-config(1).
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from capsule.commands.errors import SetUpProblem, WrongUsage
from capsule.commands.git_program import GitFailed, locate, run_git, setting, write_setting
from capsule.commands.repository import first_commit
from capsule.documents.paths import MAIN

REASONS: dict[str, str] = {
    "NotBare": "`protect` was given a repository with files to edit. Servers keep bare ones.",
    "HookThere": "The repository has a pre-receive hook already. Nothing was changed.",
}

HOOK = "pre-receive"
MARK = " hook pre-receive"
_SETTINGS = {
    "core.hooksPath": "hooks",  # a server-wide hooks folder would leave ours uncalled
    "core.fsync": "all",
    "core.logAllRefUpdates": "true",  # branches alone: a log of heartbeats would keep every beat
    "core.commitGraph": "false",
    "receive.denyDeletes": "true",
    "receive.denyNonFastForwards": "true",
    "receive.fsckObjects": "true",
    "transfer.fsckObjects": "true",
    "receive.maxInputSize": "128m",
    "receive.autogc": "true",
    "gc.auto": "6700",  # nobody runs maintenance here, and what git leaves behind are replaced heartbeats
    "gc.pruneExpire": "3.days.ago",
    "gc.cruftPacks": "true",
    "gc.writeCommitGraph": "false",
}
_HIDDEN = "refs/capsule/local"


@dataclass(frozen=True, slots=True)
class Protected:
    """A repository that judges what is pushed to it. `begun` says whether it has a main yet."""

    directory: Path
    root: str
    hook: Path
    begun: bool


def protect(directory: Path, root: str | None = None) -> Protected:
    """Install the hook and git's own protections in the bare repository at `directory`.

    `root` is the id of the first commit of main, now or to come; None takes the one pinned there. Raises
    WrongUsage, SetUpProblem.
    """
    location = locate(directory)
    if location.work_tree is not None:
        raise WrongUsage(
            "NotBare", f"{directory} is not a bare repository", "git init --bare, or capsule init --bare"
        )
    git_dir = location.git_dir
    chosen = _root(git_dir, root)
    begun = _check_begin(git_dir, chosen)
    hook = git_dir / "hooks" / HOOK
    if hook.exists() and MARK not in hook.read_text("utf-8", "replace"):
        raise WrongUsage(
            "HookThere",
            f"{hook} is another hook; nothing was changed",
            f"Call this one from it: {_command()}",
        )
    write_setting(git_dir, "capsule.root", chosen)
    for name, value in _SETTINGS.items():
        write_setting(git_dir, name, value)
    run_git(git_dir, "config", "--local", "--replace-all", "transfer.hideRefs", _HIDDEN, f"^{_HIDDEN}$")
    _install(hook)
    return Protected(git_dir, chosen, hook, begun)


def _root(git_dir: Path, root: str | None) -> str:
    chosen = root or setting(git_dir, "capsule.root")
    if not chosen:
        raise SetUpProblem(
            "RootNotPinned",
            "the root of the repository is not known here, and everything is judged from it",
            "An owner finds it with `git config capsule.root`, as `capsule init` printed it: "
            "capsule protect --root ID",
        )
    if len(chosen) != 40 or not set(chosen) <= set("0123456789abcdef"):
        raise WrongUsage("BadRoot", f"the root {chosen[:80]!r} is not an id of 40 hex digits")
    return chosen


def _check_begin(git_dir: Path, root: str) -> bool:
    """Whether there is a main, which then must begin with `root`."""
    try:
        run_git(git_dir, "rev-parse", "--verify", "--quiet", MAIN)
    except GitFailed:
        return False
    begin = first_commit(git_dir)
    if begin != root:
        raise SetUpProblem(
            "BadRoot",
            f"main begins with {begin}, not with the root {root}; nothing was changed",
            "Is it the id an owner told you?",
        )
    return True


def _command() -> str:
    """What judges a push. Git runs hooks in the repository's folder: no module must come from there (-P), and
    no variable of the server may name another repository (-C)."""
    return f"{shlex.quote(sys.executable)} -P -m capsule -C .{MARK}"


def _install(hook: Path) -> None:
    """Write the hook whole or not at all."""
    hook.parent.mkdir(exist_ok=True)
    building = hook.with_name(f".{hook.name}.new")
    building.write_text(f"#!/bin/sh\nexec {_command()}\n", encoding="utf-8")
    building.chmod(0o755)
    building.replace(hook)
