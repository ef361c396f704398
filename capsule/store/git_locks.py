"""Locks of a state repository: one owner per repository, one ref writer at a time, stale locks cleared.

Rules kept: a lock is cleared only when it is proved stale. dulwich and git take `<ref>.lock` and leave it
when killed; that blocks the ref for ever. So every writer of ours holds a kernel lock (flock, which dies
with its process) and notes beforehand which ref it moves to what. Whoever gets the kernel lock next and
finds a note, finds a dead writer's; a `<ref>.lock` that holds what the note announced is its remains.
Called by store.git and store.git_refs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capsule.store.api import RepositoryBusy

_POLL_SECONDS = 0.005
_CLEARING_SECONDS = 10.0
_EMPTY_LOCK_SECONDS = 0.5
"""A lock without content is a live git's for microseconds; one that stays empty this long is not."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a writer is about to do: which lock files it takes, and what it writes into them."""

    locks: dict[str, str]

    def dump(self) -> bytes:
        return json.dumps({"locks": self.locks}).encode()

    @classmethod
    def load(cls, data: bytes) -> Intent | None:
        try:
            locks = json.loads(data)["locks"]
            return cls({str(name): str(text) for name, text in locks.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # killed while noting: nothing was begun


@contextlib.contextmanager
def owner_lock(folder: Path, git_folder: Path) -> Iterator[None]:
    """Own the repository whose private folder this is, until left, having cleared what a dead ref writer
    left behind. Raises RepositoryBusy at once when another process owns it."""
    folder.mkdir(exist_ok=True)
    path = folder / "owner.lock"
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(64).decode("ascii", "replace").strip() or "unknown"
            raise RepositoryBusy(
                f"another process (pid {owner}) owns this repository ({path})",
                "one reconciler runs per repository; stop the other one first",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        with ref_writer(folder, git_folder, Intent({}), time.monotonic() + _CLEARING_SECONDS):
            pass
        yield


@contextlib.contextmanager
def ref_writer(folder: Path, git_folder: Path, intent: Intent, deadline: float) -> Iterator[None]:
    """Be the only ref writer of ours, having cleared what a dead one left; `intent` is noted meanwhile.

    `deadline` is a time of time.monotonic(). Raises RepositoryBusy.
    """
    folder.mkdir(exist_ok=True)
    with open(folder / "refs.lock", "a+b") as file:
        _flock_until(file.fileno(), deadline)
        _clear_remains(git_folder, file.fileno())
        _note(file.fileno(), intent.dump())
        os.fdatasync(file.fileno())  # a power cut must not lose the note and keep the lock it explains
        try:
            yield
        finally:
            _note(file.fileno(), b"")


def _flock_until(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RepositoryBusy("another Capsule process has been moving refs for too long") from None
            time.sleep(_POLL_SECONDS)


def _note(fd: int, data: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)


def _clear_remains(git_folder: Path, fd: int) -> None:
    intent = Intent.load(os.pread(fd, 1 << 20, 0))
    if intent is None:
        return
    for name, text in intent.locks.items():
        _clear(git_folder / f"{name}.lock", text.encode())


def _clear(lock: Path, announced: bytes) -> None:
    try:
        before = lock.stat()
        found = lock.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not announced.startswith(found):
        return  # somebody else's: git's own process, or a person's
    if not found:
        end = time.monotonic() + _EMPTY_LOCK_SECONDS
        while time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
    with contextlib.suppress(FileNotFoundError):
        after = lock.stat()
        if (after.st_ino, after.st_size, after.st_mtime_ns) == (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        ):
            lock.unlink()
