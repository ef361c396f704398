"""`capsule clone`: a state repository from a server, with its root pinned when an owner told it.

Rules kept: everything is made in a folder beside the destination, which then takes its place in one step; a
root that is given must be the one that main begins with; no secret is written into the clone. A shallow clone
holds all of main, which is judged from its root as ever, and of audit the newest commit alone (ADR 8).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from capsule.commands.errors import SetUpProblem, WrongUsage
from capsule.commands.git_program import write_setting
from capsule.commands.remote_settings import TOKEN_FILE, remote_settings
from capsule.commands.repository import open_repository
from capsule.documents.paths import AUDIT, MAIN


@dataclass(frozen=True, slots=True)
class Cloned:
    """A clone. `pinned` says whether somebody vouched for `root`; `remote` is the address without secrets."""

    directory: Path
    remote: str
    root: str
    pinned: bool


def clone(
    url: str,
    directory: Path,
    token_file: Path | None = None,
    *,
    root: str | None = None,
    shallow: bool = False,
    bare: bool = False,
) -> Cloned:
    """Get the state repository at `url` into `directory`, which must be empty or not exist.

    Raises WrongUsage, SetUpProblem (BadRoot for a `root` that main does not begin with), StoreError.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise WrongUsage("NotEmpty", f"{directory} is not empty; nothing was changed", "Name a new folder.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        made = _get(url, building, token_file, root, shallow, bare)
        building.chmod(0o755)
        building.rename(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Cloned(directory, made.remote, made.root, made.pinned)


def _get(
    url: str, building: Path, token_file: Path | None, root: str | None, shallow: bool, bare: bool
) -> Cloned:
    from capsule.store.git import clone as clone_store

    settings = remote_settings(Path.cwd(), token_file)
    store = clone_store(url, building, bare=bare, settings=settings, shallow=AUDIT if shallow else None)
    shown = store.remote_shown or ""
    has_main = MAIN in store.refs()
    store.close()
    if not has_main:
        raise SetUpProblem(
            "NoMain",
            f"{shown} has no branch main",
            "Push one that `capsule init` made: git push origin main",
        )
    if token_file is not None:
        write_setting(building, TOKEN_FILE, str(token_file.absolute()))
    repository = open_repository(building, root)
    try:
        _ = repository.state  # a wrong root is found now, not at the first verb
        if root:
            write_setting(building, "capsule.root", repository.root)
        return Cloned(building, shown, repository.root, bool(root))
    finally:
        repository.close()
