"""The refs of a local repository: read fresh, moved by compare-and-swap, durable.

Rules kept: never an unconditional move (dulwich's `set_if_equals(ref, None, x)` is one: a new ref goes
through `add_if_new`); a held lock is waited for, up to a deadline; file and folder are synced; a branch
that is a symbolic ref is refused, for a move would follow it. dulwich's deletion removes the loose file
before the packed entry, so that a kill in between brings an old value back: here the packed entry goes
first, as git does it. Called by store.git.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path

from dulwich.file import FileLocked, GitFile
from dulwich.objects import ObjectID
from dulwich.refs import DiskRefsContainer, Ref

from capsule.store.api import RefMoved, RefUpdate, RepositoryBusy, StoreError
from capsule.store.git_locks import Intent, ref_writer
from capsule.store.git_objects import sync_folder
from capsule.store.objects import check_ref_name, check_room, is_object_id

_LOCK_SECONDS = 10.0
_SYMBOLIC = b"ref: "


class LocalRefs:
    """The refs in one repository; safe for threads and beside git's own processes.

    `common` is the git folder that holds refs/ and packed-refs, `private` the folder for our own locks.
    """

    def __init__(self, common: Path, private: Path, lock_seconds: float = _LOCK_SECONDS) -> None:
        self._common = common
        self._private = private
        self._lock_seconds = lock_seconds
        self._lock = threading.RLock()
        self._refs = DiskRefsContainer(str(common))

    def all(self, prefix: str = "refs/") -> dict[str, str]:
        """Ids by full name, of refs below `prefix`; symbolic, broken and undecodable ones are passed over."""
        base = prefix.encode()
        folder = base[: base.rfind(b"/") + 1]
        with self._lock:
            # Only the folder that is asked about is walked: a pass asks several times.
            known = [folder + key for key in self._refs.subkeys(Ref(folder))] if folder else []
            names = [name for name in known if name.startswith(base)]
            found = {text: self._read(name) for name in names if (text := _text(name)) is not None}
        return {name: oid for name, oid in sorted(found.items()) if oid is not None}

    def get(self, name: str) -> str | None:
        """The id that a full ref name names, or None. Raises StoreError for a symbolic ref."""
        check_ref_name(name)
        with self._lock:
            raw = self._refs.read_ref(Ref(name.encode()))
        if raw is None:
            return None
        if raw.startswith(_SYMBOLIC):
            raise StoreError(f"{name} is a symbolic ref", f"run `git symbolic-ref --delete {name}`")
        return raw.decode("ascii", "replace")

    def _read(self, name: bytes) -> str | None:
        raw = self._refs.read_ref(Ref(name))
        text = raw.decode("ascii", "replace") if raw else ""
        return text if is_object_id(text) else None

    def move(self, update: RefUpdate) -> None:
        """Compare and swap. Raises RefMoved, RepositoryBusy (a lock not let go), StoreError."""
        check_ref_name(update.name)
        deadline = time.monotonic() + self._lock_seconds
        while True:
            try:
                with self._lock:
                    self._move(update, deadline)
                return
            except FileLocked as locked:
                self._wait(str(locked.lockfilename), deadline)
            except FileNotFoundError:
                self._wait("an emptied folder of refs", deadline)  # git removed it under us: try again
            except (IsADirectoryError, NotADirectoryError):
                raise StoreError(
                    f"{update.name} cannot be written: another ref is below it, or where its folder should be"
                ) from None
            except OSError as error:
                raise StoreError(
                    f"cannot write {update.name}: {error.strerror or error}",
                    "free space or mend the permissions",
                ) from None

    def _wait(self, lock: str, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise RepositoryBusy(
                f"{lock} is held, by a running git or by one that was killed",
                "if no git process is at work in this repository, remove that file",
            )
        # Jitter against two writers that meet again and again; nothing secret depends on it.
        time.sleep(random.uniform(0.002, 0.02))  # noqa: S311 (jitter, no secret)

    def _move(self, update: RefUpdate, deadline: float) -> None:
        with ref_writer(self._private, self._common, self._intent(update), deadline):
            current = self.get(update.name)
            if current != update.old:
                raise moved(update, current)
            if not self._swap(update):
                raise moved(update, self.get(update.name))
        self._sync(update.name)

    def _intent(self, update: RefUpdate) -> Intent:
        if update.new is not None:
            return Intent({update.name: update.new + "\n"})
        packed = self._packed_without(update.name)
        return Intent({update.name: "", **({"packed-refs": packed} if packed is not None else {})})

    def _swap(self, update: RefUpdate) -> bool:
        name = Ref(update.name.encode())
        if update.new is None:
            return self._remove(update)
        new = ObjectID(update.new.encode())
        if update.old is None:
            # Neither dulwich nor the file system looks for a packed ref where a folder should be.
            check_room(update.name, (each.decode("utf-8", "replace") for each in self._refs.allkeys()))
            self._clear_folders(self._common / update.name)
            return self._refs.add_if_new(name, new)
        return self._refs.set_if_equals(name, ObjectID(update.old.encode()), new)

    def _clear_folders(self, path: Path) -> None:
        """Remove the empty folders that deleted refs left where a ref is to be, as git does."""
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # not empty: somebody is about to write there
                Path(folder).rmdir()

    def _remove(self, update: RefUpdate) -> bool:
        path = self._common / update.name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = GitFile(str(path), "wb")
        try:
            if self.get(update.name) != update.old:
                return False
            self._drop_packed(update.name)
            path.unlink(missing_ok=True)
            return True
        finally:
            lock.abort()

    def _drop_packed(self, name: str) -> None:
        if self._packed_without(name) is None:
            return
        with GitFile(str(self._common / "packed-refs"), "wb") as file:
            text = self._packed_without(name)  # again, now that nobody else can change it
            if text is None:
                file.abort()
                return
            file.write(text.encode("utf-8", "surrogateescape"))

    def _packed_without(self, name: str) -> str | None:
        """The packed-refs file without one ref, or None if it is not in there."""
        try:
            text = (self._common / "packed-refs").read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        kept: list[str] = []
        dropping = False
        found = False
        for line in text.split("\n"):  # not splitlines: a name may have U+2028 in it
            if not line.startswith("^"):  # a line with ^ is the peeled value of the tag above it
                dropping = line.partition(" ")[2] == name
                found = found or dropping
            if not dropping:
                kept.append(line)
        return "\n".join(kept) if found else None

    def _sync(self, name: str) -> None:
        folder = (self._common / name).parent
        while folder != self._common.parent:
            with contextlib.suppress(FileNotFoundError):  # emptied, and removed by another writer
                sync_folder(folder)
            folder = folder.parent


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def moved(update: RefUpdate, current: str | None) -> RefMoved:
    """The error of a lost compare-and-swap."""
    return RefMoved(
        f"{update.name} is at {current or 'nothing'}, expected {update.old or 'nothing'}: "
        "another writer was first",
        "read the new tip and start again from it",
    )
