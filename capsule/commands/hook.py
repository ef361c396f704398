"""`capsule hook`: what git asks before it moves the refs of a push, on the server itself.

Rules kept: git keeps what is pushed apart until the hook agrees (its quarantine), and that is read, never
written; the root is the one in the repository's own settings; nothing of the pusher's is executed or believed
before trust judged it. Called by the hooks that `capsule protect` installs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from capsule.commands.errors import CommandError, SetUpProblem
from capsule.commands.hook_memory import remember, remembered
from capsule.store.git import open_store
from capsule.trust.pushes import Push, judge_push
from capsule.trust.refused_pushes import RefusedPush

REASONS: dict[str, str] = {
    "HookFailed": "The server could not judge a push, so it refused it. Nothing was changed.",
    "HookInput": "The hook was not called as git calls it.",
    "TooManyRefs": "A push that moves more refs at once than are judged.",
}

MAX_REFS = 1000
"""A push of a whole state repository with its request branches stays below it."""

_ID = re.compile(r"[0-9a-f]{40}")
_NOTHING = "0" * 40
_OBJECT_FOLDERS = ("GIT_QUARANTINE_PATH", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")


def read_pushes(lines: Iterable[str]) -> tuple[Push, ...]:
    """The refs that a push would move, from the lines `OLD NEW REF` of githooks(5), pre-receive.

    Raises CommandError.
    """
    pushes: list[Push] = []
    for line in lines:
        if len(pushes) == MAX_REFS:
            raise CommandError(
                "TooManyRefs", f"more than {MAX_REFS} refs in one push", "Push fewer branches at once."
            )
        old, _, rest = line.rstrip("\n").partition(" ")
        new, _, ref = rest.partition(" ")
        pushes.append(push_of(ref, old, new))
    return tuple(pushes)


def push_of(ref: str, old: str, new: str) -> Push:
    """One ref that a push would move, as git says it: forty zeros stand for no ref. Raises CommandError."""
    if not ref.startswith("refs/") or not _ID.fullmatch(old) or not _ID.fullmatch(new):
        raise CommandError(
            "HookInput", "expected OLD NEW REF with full ids, as git gives them", "See githooks(5)."
        )
    return Push(ref, None if old == _NOTHING else old, None if new == _NOTHING else new)


def object_folders(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders in which git keeps the objects of a push while its hook decides."""
    named = [part for name in _OBJECT_FOLDERS for part in environment.get(name, "").split(os.pathsep)]
    return tuple(folder for part in dict.fromkeys(named) if part and (folder := Path(part)).is_dir())


def refusals(
    git_dir: Path, pushes: Sequence[Push], borrowed: Sequence[Path], now: datetime
) -> tuple[RefusedPush, ...]:
    """What must not be moved of `pushes` in the repository at `git_dir`; `borrowed` holds what is pushed.

    Raises SetUpProblem where no root is pinned, StoreError.
    """
    store = open_store(git_dir, remote=None, borrowed=borrowed)
    try:
        root = store.config("capsule.root")
        if root is None or not _ID.fullmatch(root):
            raise SetUpProblem(
                "RootNotPinned",
                "the server does not know the root of this repository, so nothing can be judged",
                "Whoever runs it: capsule -C REPOSITORY protect --root ID",
            )
        return judge_push(
            store,
            root,
            store.refs(),
            pushes,
            now,
            known=partial(remembered, store.git_folder),
            keep=partial(remember, store.git_folder),
        )
    finally:
        store.close()
