"""The doctor's part about a bare repository on this machine that people push to: whether its hook judges.

Rules kept: nothing is executed: the hook is read, and the program that it calls is looked for. Called by
commands.doctor.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from capsule.commands.diagnosis import Diagnosis, Patient
from capsule.commands.git_program import setting
from capsule.commands.protect import HOOK, MARK
from capsule.documents.paths import MAIN

REASONS: dict[str, str] = {
    "Hook": "`doctor`: pushes to the repository are judged by its hook.",
    "HookBroken": "`doctor`: the hook of a server calls a program that is not there: every push is refused.",
    "HookMissing": "`doctor`: a bare repository that people push to has no hook that judges pushes.",
    "HooksElsewhere": "`doctor`: git looks for hooks in another folder than that of the repository.",
}


def hooks(patient: Patient) -> Iterator[Diagnosis]:
    """The hook of this repository where it is a server's, or of the one here that is its remote."""
    location = patient.repository.location
    if location.work_tree is None and not patient.repository.store.has_remote():
        yield _hook(location.git_dir)
        return
    remote = _on_this_machine(setting(patient.directory, "remote.origin.url") or "", patient.directory)
    if remote:
        yield _hook(remote)


def _on_this_machine(url: str, directory: Path) -> Path | None:
    """The bare repository that an address names, where it is a path to one."""
    path = Path(urlsplit(url).path) if url.startswith("file://") else directory / url
    is_bare = bool(url) and (path / "HEAD").is_file() and (path / "objects").is_dir()
    return path if is_bare else None


def _hook(bare: Path) -> Diagnosis:
    protect = f"capsule protect {bare}"
    file = bare / "hooks" / HOOK
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    if MARK not in text or not os.access(file, os.X_OK):
        return Diagnosis(
            "note",
            "HookMissing",
            f"{bare} takes every push to {MAIN}: no hook judges it. Readers do, all the same",
            f"{protect}   (on the machine and as the user that serve it)",
        )
    folder = setting(bare, "core.hooksPath")
    if folder not in (None, "hooks"):
        return Diagnosis("mend", "HooksElsewhere", f"git looks for the hooks of {bare} in {folder}", protect)
    line = next(each for each in text.splitlines() if MARK in each)
    program = next((word for word in _words(line) if word.startswith("/")), "")
    if program and not os.access(program, os.X_OK):
        return Diagnosis(
            "mend",
            "HookBroken",
            f"the hook of {bare} calls {program}, which is not there: every push is refused",
            f"{protect}   (with the Capsule that is installed now)",
        )
    return Diagnosis("ok", "Hook", f"pushes to {bare} are judged by its hook")


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []
