"""The object database of a git repository: checked reads, durable writes.

Rules kept: what is read hashes to its id; replace refs and grafts are never followed; what `write` was
given is on the disk (files and folders synced) when it returns, whatever was killed before. dulwich reads;
it does not write here, because its loose writer and its index writer go through `<name>.lock`, and one
killed there can never write that object again, and because it syncs neither objects nor folders. Called
by store.git.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.pack import (
    PackData,
    PackIndexer,
    UnpackedObject,
    extend_pack,
    write_pack_data,
    write_pack_index_v2,
)

from capsule.store.api import DamagedObject, StoreError
from capsule.store.objects import NewObject, is_object_id, object_id
from capsule.trust.objects import MissingObject, ObjectKind

KINDS: dict[int, ObjectKind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
TYPE_NUMBERS = {kind: number for number, kind in KINDS.items()}

PACK_FROM = 32
"""From this many objects on, a write is one pack: four times faster than as many synced loose files."""

_CACHE_BYTES = 32 * 1024 * 1024
_READ_TRIES = 5
_WRITE_TRIES = 5
_MODE = 0o444


class ObjectDatabase:
    """Reads and writes the objects of one repository; safe for threads.

    `objects` is the repository's objects folder, `store` dulwich's view of it.
    """

    def __init__(self, objects: Path, store: DiskObjectStore) -> None:
        self._objects = objects
        self._store = store
        self._lock = threading.RLock()
        self._cache: OrderedDict[str, tuple[ObjectKind, bytes]] = OrderedDict()
        self._cached_bytes = 0

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of `oid`. Raises MissingObject, DamagedObject."""
        if not is_object_id(oid):
            raise MissingObject(f"{oid[:80]!r} is not an object id (40 lower-case hex digits)")
        with self._lock:
            cached = self._cache.get(oid)
            if cached is not None:
                self._cache.move_to_end(oid)
                return cached
            kind, data = self._read_disk(oid)
            if kind in ("commit", "tree"):
                self._remember(oid, kind, data)
            return kind, data

    def _read_disk(self, oid: str) -> tuple[ObjectKind, bytes]:
        name = ObjectID(oid.encode())
        for attempt in range(_READ_TRIES):
            try:
                number, data = self._store.get_raw(name)
            except KeyError:
                raise MissingObject(f"object {oid} is not in this repository") from None
            except FileNotFoundError:
                # `git gc` replaced a pack between dulwich's listing and its opening: list again.
                if attempt + 1 == _READ_TRIES:
                    raise StoreError(f"object {oid} cannot be read: its pack keeps vanishing") from None
                continue
            except OSError as error:
                raise StoreError(f"object {oid} cannot be read: {error.strerror or error}") from None
            except Exception as error:  # dulwich's parsers raise a dozen unrelated kinds for bad bytes
                raise DamagedObject(f"object {oid} is damaged: {error}", "run `git fsck`") from None
            kind = KINDS.get(number)
            if kind is None or object_id(kind, data) != oid:
                raise DamagedObject(f"object {oid} is damaged: its bytes have another id", "run `git fsck`")
            return kind, data
        raise AssertionError("unreachable")

    def _remember(self, oid: str, kind: ObjectKind, data: bytes) -> None:
        self._cache[oid] = (kind, data)
        self._cached_bytes += len(data)
        while self._cached_bytes > _CACHE_BYTES:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    def has(self, oid: str) -> bool:
        """Whether the object is here."""
        with self._lock:
            for _ in range(_READ_TRIES):
                with contextlib.suppress(FileNotFoundError):
                    return ObjectID(oid.encode()) in self._store
        raise StoreError(f"object {oid} cannot be looked up: packs keep vanishing")

    def write(self, new: Sequence[NewObject]) -> None:
        """Put the objects on the disk, durable on return. Raises StoreError (disk full, read-only)."""
        try:
            if len(new) >= PACK_FROM:
                self._write_pack(new)
                return
            for _ in range(_WRITE_TRIES):
                # `git repack` removes a folder of objects that it has just emptied: make it again.
                with contextlib.suppress(FileNotFoundError):
                    self._write_loose(new)
                    return
            self._write_loose(new)
        except OSError as error:
            raise _cannot_write(self._objects, error) from None

    def _write_loose(self, new: Sequence[NewObject]) -> None:
        folders: set[Path] = set()
        for each in new:
            folder = self._objects / each.oid[:2]
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                folders.add(self._objects)
            self._write_one(folder, each)
            folders.add(folder)
        for folder in sorted(folders, reverse=True):
            sync_folder(folder)

    def _write_one(self, folder: Path, new: NewObject) -> None:
        path = folder / new.oid[2:]
        if _freshen(path):
            return
        header = b"%s %d\0" % (new.kind.encode(), len(new.data))
        with _temporary(folder, "tmp_obj_", path) as file:
            file.write(zlib.compress(header + new.data, 1))

    def _write_pack(self, new: Sequence[NewObject]) -> None:
        records = (
            UnpackedObject(TYPE_NUMBERS[each.kind], sha=bytes.fromhex(each.oid), decomp_chunks=[each.data])
            for each in new
        )
        folder = self._pack_folder()
        fd, name = tempfile.mkstemp(prefix="tmp_pack_", dir=folder)
        with _removed_on_error(Path(name)), os.fdopen(fd, "w+b") as file:
            entries, checksum = write_pack_data(
                file.write, records, DEFAULT_OBJECT_FORMAT, num_records=len(new), compression_level=1
            )
            listed = sorted((sha, offset, crc) for sha, (offset, crc) in entries.items())
            self._place_pack(file, Path(name), listed, checksum)

    def take_pack(self, fill: Callable[[BinaryIO], None]) -> None:
        """Take in the pack that `fill` writes into the file it is given, completing a thin one.

        Nothing is taken in when `fill` raises or writes nothing. Raises DamagedObject, StoreError.
        """
        folder = self._pack_folder()
        fd, name = tempfile.mkstemp(prefix="tmp_pack_", dir=folder)
        path = Path(name)
        with _removed_on_error(path), os.fdopen(fd, "w+b") as file:
            fill(file)
            if file.tell() == 0:
                path.unlink()
                return
            file.flush()
            try:
                entries, checksum = self._index(path, file)
            except OSError as error:
                raise _cannot_write(self._objects, error) from None
            except Exception as error:  # dulwich's parsers raise a dozen unrelated kinds for bad bytes
                raise DamagedObject(f"the other side sent a damaged pack: {error!r}") from None
            self._place_pack(file, path, entries, checksum)

    def _index(self, path: Path, file: BinaryIO) -> tuple[list[tuple[bytes, int, int | None]], bytes]:
        with self._lock, PackData(str(path), file=file, object_format=DEFAULT_OBJECT_FORMAT) as pack:
            pack.check()
            indexer = PackIndexer.for_pack_data(pack, resolve_ext_ref=self._store.get_raw)
            entries: list[tuple[bytes, int, int | None]] = list(indexer)
            outside = set(indexer.ext_refs())
        with self._lock:
            checksum, extra = extend_pack(
                file, outside, get_raw=self._store.get_raw, object_format=DEFAULT_OBJECT_FORMAT
            )
        return sorted([*entries, *extra]), checksum

    def _place_pack(
        self,
        file: BinaryIO,
        path: Path,
        entries: Sequence[tuple[bytes, int, int | None]],
        checksum: bytes,
    ) -> None:
        file.flush()
        os.fchmod(file.fileno(), _MODE)
        os.fsync(file.fileno())
        folder = self._pack_folder()
        # As git does, the pack is named by the checksum at its end: equal names are equal bytes. The index
        # comes last, for a pack is seen by its index.
        target = folder / f"pack-{checksum.hex()}"
        path.rename(target.with_suffix(".pack"))
        with _temporary(folder, "tmp_idx_", target.with_suffix(".idx")) as index:
            write_pack_index_v2(index, entries, checksum)
        sync_folder(folder)

    def _pack_folder(self) -> Path:
        folder = self._objects / "pack"
        folder.mkdir(exist_ok=True)
        return folder

    def remove_loose(self, oids: Sequence[str]) -> None:
        """Remove these objects where they are loose files; packed ones stay."""
        with self._lock:
            for oid in oids:
                dropped = self._cache.pop(oid, None)
                self._cached_bytes -= len(dropped[1]) if dropped else 0
                (self._objects / oid[:2] / oid[2:]).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the packs."""
        with self._lock:
            self._store.close()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a synced file in an unsynced folder may be gone after a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _freshen(path: Path) -> bool:
    """Whether the loose object is there; then it is young again (gc spares it) and synced (git need not)."""
    try:
        os.utime(path)
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


@contextlib.contextmanager
def _temporary(folder: Path, prefix: str, target: Path) -> Iterator[BinaryIO]:
    """A file that becomes `target`, whole and synced; `git prune` removes what a kill leaves behind."""
    fd, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    with _removed_on_error(Path(name)):
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _MODE)
            os.fsync(file.fileno())
        Path(name).rename(target)


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _cannot_write(objects: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write to {objects}: {error.strerror or error}",
        "free space or mend the permissions; nothing was published",
    )
