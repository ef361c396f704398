"""Where the last proof of this clone ended, so that the next one proves only what is new.

Rules kept: those of commands.memory; the chain of audit's commits is looked at all the same, and must still
hold the commit that it names at its place. Called by commands.audit and commands.repository.
"""

from __future__ import annotations

from pathlib import Path

from capsule.commands.memory import keep, recall
from capsule.trust.audit import Proved
from capsule.trust.objects import ObjectReader


def remembered(git_folder: Path, reader: ObjectReader) -> Proved | None:
    """What was proved last here, to be gone on from with `reader`; None where nothing can be relied on."""
    found = recall(_place(git_folder), reader)
    return found if isinstance(found, Proved) else None


def remember(git_folder: Path, proved: Proved) -> None:
    """Keep it for next time."""
    keep(_place(git_folder), proved, proved.reader)
    keep(_tip_place(git_folder), (proved.root, proved.commit))


def proved_tip(git_folder: Path, root: str) -> str | None:
    """The commit of audit that the last proof from that root ended at, without all else that was proved."""
    match recall(_tip_place(git_folder)):
        case (str(of), str(commit)) if of == root:
            return commit
    return None


def _place(git_folder: Path) -> Path:
    return git_folder / "capsule" / "proved"


def _tip_place(git_folder: Path) -> Path:
    return git_folder / "capsule" / "proved-tip"
