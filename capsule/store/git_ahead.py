"""Objects read ahead by stock git, for who reads a whole history in order: a tenth of the cost of each alone.

Rules kept: git only says what to read next and hands over bytes; every object still hashes to its id, what
git did not hand over is read from the store, and no verdict rests on git's own reading of history (replace
refs and grafts are off). Memory is bounded; processes end with `close`. Called by commands.audit.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

from capsule.documents.paths import STATUS
from capsule.store.git_process import clean_environment
from capsule.store.objects import object_id
from capsule.trust.objects import MissingObject, ObjectKind, ObjectReader

KEPT_BYTES = 48 * 1024 * 1024
_LARGEST = 16 * 1024 * 1024
_KINDS: dict[bytes, ObjectKind] = {b"commit": "commit", b"tree": "tree", b"blob": "blob"}
_ABSENT = b"0" * 40
_FOLDER = b"040000"
_UNREAD = f"{STATUS}/".encode()
"""What the reconciler saw last of each service: nothing is proved by it, so nobody reads these files."""
_NEAR = 64
_MARK = b"capsule-end-of-step"
"""A name that no object has: git answers that it is missing, which ends what was asked for one commit."""


class ReadAhead:
    """An ObjectReader over a git repository that follows announced reads; use it from one thread."""

    def __init__(self, git_folder: Path, store: ObjectReader) -> None:
        self._git = ["git", "--no-replace-objects", "-c", "core.commitGraph=false", f"--git-dir={git_folder}"]
        self._folder = git_folder
        self._store = store
        self._kept: OrderedDict[str, tuple[ObjectKind, bytes]] = OrderedDict()
        self._bytes = 0
        self._stream: Iterator[str | None] = iter(())
        self._order = b""
        self._next = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of `oid`, hash checked. Raises MissingObject, DamagedObject."""
        found = self._kept.get(oid)
        if found is None and self._is_near(oid):
            self._take_up_to(oid)
            found = self._kept.get(oid)
        return found or self._store.read(oid)

    def _is_near(self, oid: str) -> bool:
        """Whether a group that comes soon begins with this object."""
        near = self._order[self._next : self._next + 20 * _NEAR]
        return near.find(bytes.fromhex(oid)) % 20 == 0

    # ---- what is announced ----

    def line(self, tip: str, until: str) -> None:
        """The commits from `tip` back to `until` along first parents are read next, newest first."""
        self._begin()
        listing = self._start("rev-list", "--first-parent", f"{until}..{tip}", "--")
        self._order = b"".join(bytes.fromhex(line.decode("ascii").strip()) for line in _output(listing))
        self._follow([oid.encode()] for oid in _each(self._order))

    def commits(self, ids: bytes) -> None:
        """These commits (20 bytes each) are read next, without what they hold."""
        self._begin()
        self._order = ids
        self._follow([oid.encode()] for oid in _each(ids))

    def commit_or_nothing(self, oid: str) -> bytes:
        """The raw bytes of the commit `oid`; empty where it is not there."""
        try:
            kind, data = self.read(oid)
        except MissingObject:
            return b""
        return data if kind == "commit" else b""

    def steps(self, chain: bytes) -> None:
        """`chain` (20 bytes each) is read next, in order: each but the first with all that it changes."""
        self._begin()
        listing = self._start("diff-tree", "--stdin", "--always", "-r", "-t", "-z", "--no-renames", feed=True)
        _feed(listing, (f"{new} {old}\n".encode() for old, new in pairwise(_each(chain))))
        self._follow(_wanted(_output(listing)))
        self._order = chain[20:]

    def close(self) -> None:
        """End the processes."""
        for process in reversed(self._processes):
            process.kill()
            for stream in (process.stdout, process.stdin):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait(10)
        self._processes.clear()

    # ---- the stream ----

    def _begin(self) -> None:
        self.close()
        self._order, self._next = b"", 0
        self._kept.clear()  # a commit that is here already would not bring its group along
        self._bytes = 0
        self._stream = iter(())

    def _start(self, *arguments: str, feed: bool = False) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*self._git, *arguments],
            cwd=self._folder,
            env={**clean_environment(), "GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": "/dev/null"},
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=1 << 16,
        )
        self._processes.append(process)
        return process

    def _follow(self, groups: Iterator[list[bytes]]) -> None:
        reading = self._start("cat-file", "--batch", "--buffer", feed=True)
        _feed(reading, (b"\n".join([*group, _MARK, b""]) for group in groups))
        self._stream = self._objects(_pipe(reading.stdout))

    def _objects(self, answers: IO[bytes]) -> Iterator[str | None]:
        """The id of each object as it comes, None at the end of each group; keeps them."""
        while line := answers.readline():
            oid, _, rest = line.rstrip(b"\n").partition(b" ")
            kind, _, size = rest.partition(b" ")
            if kind not in _KINDS or not size.isdigit():
                if oid == _MARK:
                    yield None
                continue
            data = answers.read(int(size))
            answers.read(1)
            name = oid.decode()
            if len(data) <= _LARGEST and object_id(_KINDS[kind], data) == name:
                self._keep(name, _KINDS[kind], data)
            yield name

    def _take_up_to(self, oid: str) -> None:
        """Read on to the end of the group that begins with `oid`; groups passed over do not come again."""
        reached = False
        for name in self._stream:
            if name is None:
                self._next += 20
                if reached:
                    return
            else:
                reached = reached or name == oid
        self._order = b""

    def _keep(self, oid: str, kind: ObjectKind, data: bytes) -> None:
        if oid in self._kept:
            return
        self._kept[oid] = (kind, data)
        self._bytes += len(data)
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1][1])


def read_commits(git_folder: Path, ids: bytes) -> list[bytes]:
    """The raw bytes of these commits (20 bytes each); empty where git does not have one that hashes so."""
    reader = ReadAhead(git_folder, _Nothing())
    try:
        reader.commits(ids)
        return [reader.commit_or_nothing(oid) for oid in _each(ids)]
    finally:
        reader.close()


class _Nothing:
    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        raise MissingObject(oid)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # asked for when the process was started
    return stream


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return _pipe(process.stdout)


def _feed(process: subprocess.Popen[bytes], lines: Iterator[bytes]) -> None:
    """Write `lines` to the process from a thread of its own: it waits where the process does."""

    def write() -> None:
        stream = _pipe(process.stdin)
        with contextlib.suppress(OSError, ValueError):  # the process was ended
            stream.writelines(lines)
            stream.close()

    threading.Thread(target=write, name="read-ahead", daemon=True).start()


def _wanted(output: IO[bytes]) -> Iterator[list[bytes]]:
    """What to read for each commit, from `git diff-tree --stdin -z`: itself, its tree, what is new in it."""
    group: list[bytes] = []
    fields = _fields(output)
    for field in fields:
        if field.startswith(b":"):
            path = next(fields, b"")
            _, mode, _, new, _ = field.split(b" ")
            unread = path.startswith(_UNREAD) and mode != _FOLDER
            if new != _ABSENT and not unread:
                group.append(new)
            continue
        if group:
            yield group
        group = [field, field + b"^{tree}", field + b"^2", field + b"^2^{tree}"]
    if group:
        yield group


def _fields(output: IO[bytes]) -> Iterator[bytes]:
    """The fields of a NUL-separated listing."""
    rest = b""
    while block := output.read(1 << 14):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole


def _each(packed: bytes) -> Iterator[str]:
    """The ids in packed bytes."""
    return (packed[at : at + 20].hex() for at in range(0, len(packed), 20))
