"""What was proved here before, kept in a file of one's own: by a proof of audit, by the hook of a server, and
by a reconciler.

Rules kept: it is believed only when it is one's own file, that nobody else can read or write, made by this
very code, and whole; nothing but values of this program is ever made from it; whatever is odd about it,
there is none. Called by commands.audit_memory, commands.hook_memory and commands.reconciler_memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import capsule.documents
import capsule.lifecycle
import capsule.trust
import capsule_agent.protocol
from capsule.trust.objects import ObjectReader

MAX_BYTES = 1024 * 1024 * 1024
"""A reconciler keeps about 4 KiB for each request."""
_OURS = ("capsule.trust.", "capsule.documents.", "capsule.lifecycle.", "capsule_agent.protocol.")
_DIGEST = hashlib.sha256().digest_size
_VALUES = {
    ("builtins", "frozenset"),
    ("builtins", "set"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
}


def recall(place: Path, reader: ObjectReader | None = None) -> object:
    """What `keep` kept at `place`, with `reader` in the place of the one of then; None where nothing can be
    relied on."""
    file = _own_file(place)
    if file is None:
        return None
    with file:
        try:
            head = file.read(2 * _DIGEST)
            if head != _code() + hashlib.file_digest(file, "sha256").digest():
                return None
            file.seek(len(head))
            return _Reader(file, reader).load()
        except Exception:  # whatever a damaged file makes it raise
            return None


def keep(place: Path, value: object, reader: ObjectReader | None = None) -> None:
    """Keep `value` at `place` without `reader`; where that cannot be written is no reason to fail."""
    with contextlib.suppress(OSError):
        write(place, value, reader)


def write(place: Path, value: object, reader: ObjectReader | None = None) -> None:
    """As `keep`, but raises OSError, or whatever a value raises that cannot be kept; what was there stays."""
    place.parent.mkdir(mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{place.name}-", dir=place.parent)  # mode 600
    try:
        with os.fdopen(handle, "w+b") as file:
            file.write(bytes(2 * _DIGEST))
            _Writer(file, reader).dump(value)
            file.seek(2 * _DIGEST)
            head = _code() + hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            file.write(head)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _own_file(path: Path) -> io.BufferedReader | None:
    """A plain file that is ours alone, to be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    seen = os.fstat(handle)
    plain = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid()
    if not plain or stat.S_IMODE(seen.st_mode) & 0o077 or seen.st_size > MAX_BYTES:
        os.close(handle)
        return None
    return os.fdopen(handle, "rb")


@cache
def _code() -> bytes:
    """What judges, as a digest: what another version proved is not relied on."""
    digest = hashlib.sha256()
    for package in (capsule.trust, capsule.documents, capsule.lifecycle, capsule_agent.protocol):
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


class _Writer(pickle.Pickler):
    """Leaves out the reader, which is another one next time."""

    def __init__(self, file: BinaryIO, reader: ObjectReader | None) -> None:
        super().__init__(file, protocol=5)
        self._reader = reader

    def persistent_id(self, value: object) -> str | None:
        return "reader" if value is self._reader and value is not None else None


class _Reader(pickle.Unpickler):
    """Makes values of this program's own types, and plain ones; nothing is called that is no type."""

    def __init__(self, file: BinaryIO, reader: ObjectReader | None) -> None:
        super().__init__(file)
        self._reader = reader

    def persistent_load(self, name: Any) -> ObjectReader:
        if name != "reader" or self._reader is None:
            raise pickle.UnpicklingError(f"{name!r} is not known")
        return self._reader

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        ours = f"{module}.".startswith(_OURS) and isinstance(found, type) and found.__module__ == module
        if ours or (module, name) in _VALUES:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} does not belong here")
