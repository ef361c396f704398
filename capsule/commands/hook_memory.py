"""Main as a server judged it when it took the push before, so that its hook judges only what is new.

Rules kept: those of commands.memory; the file lies in the server's own folder and belongs to the user that
git runs as: whoever can write it can replace the hook, too. What is kept is main as it stood before a push,
never what a push may still fail to bring. Called by commands.hook.
"""

from __future__ import annotations

from pathlib import Path

from capsule.commands.memory import keep, recall
from capsule.trust.state import MainState


def remembered(git_dir: Path) -> MainState | None:
    """What was judged last here; None where nothing can be relied on."""
    found = recall(_place(git_dir))
    return found if isinstance(found, MainState) else None


def remember(git_dir: Path, state: MainState) -> None:
    """Keep it for the next push."""
    keep(_place(git_dir), state)


def _place(git_dir: Path) -> Path:
    return git_dir / "capsule" / "judged"
