"""Where the last proof of this clone ended, so that the next one proves only what is new.

Rules kept: it is believed only when it is one's own file, that nobody else can read or write, made by this
very code; nothing but values of this program is ever made from it; whatever is odd about it, the proof begins
at the root. The chain of audit's commits is looked at all the same, and must still hold the commit that it
names at its place. Called by commands.audit.
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
from typing import Any

import capsule.documents
import capsule.trust
import capsule_agent.protocol
from capsule.trust.audit import Proved
from capsule.trust.objects import ObjectReader

MAX_BYTES = 256 * 1024 * 1024
_OURS = ("capsule.trust.", "capsule.documents.", "capsule_agent.protocol.")
_VALUES = {
    ("builtins", "frozenset"),
    ("builtins", "set"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
}


def remembered(git_folder: Path, reader: ObjectReader) -> Proved | None:
    """What was proved last here, to be gone on from with `reader`; None where nothing can be relied on."""
    data = _own_file(_place(git_folder))
    code = _code()
    if data is None or not data.startswith(code):
        return None
    try:
        found = _Reader(io.BytesIO(data[len(code) :]), reader).load()
    except Exception:  # whatever a damaged file makes it raise: the proof begins at the root
        return None
    return found if isinstance(found, Proved) else None


def remember(git_folder: Path, proved: Proved) -> None:
    """Keep it for next time; a clone that cannot be written to is no reason to fail."""
    out = io.BytesIO()
    _Writer(out, proved.reader).dump(proved)
    place = _place(git_folder)
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="proved-", dir=place.parent)  # mode 600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_code() + out.getvalue())
            Path(name).replace(place)
        except OSError:
            Path(name).unlink(missing_ok=True)


def _place(git_folder: Path) -> Path:
    return git_folder / "capsule" / "proved"


def _own_file(path: Path) -> bytes | None:
    """The bytes of a plain file that is ours alone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        seen = os.fstat(handle)
        plain = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid()
        if not plain or stat.S_IMODE(seen.st_mode) & 0o077 or seen.st_size > MAX_BYTES:
            return None
        return file.read()


@cache
def _code() -> bytes:
    """What judges, as a digest: what another version proved is not relied on."""
    digest = hashlib.sha256()
    for package in (capsule.trust, capsule.documents, capsule_agent.protocol):
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


class _Writer(pickle.Pickler):
    """Leaves out the reader, which is another one next time."""

    def __init__(self, file: io.BytesIO, reader: object) -> None:
        super().__init__(file, protocol=5)
        self._reader = reader

    def persistent_id(self, value: object) -> str | None:
        return "reader" if value is self._reader else None


class _Reader(pickle.Unpickler):
    """Makes values of this program's own types, and plain ones; nothing is called that is no type."""

    def __init__(self, file: io.BytesIO, reader: ObjectReader) -> None:
        super().__init__(file)
        self._reader = reader

    def persistent_load(self, name: Any) -> ObjectReader:
        if name != "reader":
            raise pickle.UnpicklingError(f"{name!r} is not known")
        return self._reader

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        ours = f"{module}.".startswith(_OURS) and isinstance(found, type) and found.__module__ == module
        if ours or (module, name) in _VALUES:
            return found
        raise pickle.UnpicklingError(f"{module}.{name} does not belong here")
