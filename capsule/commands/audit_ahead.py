"""What makes a long proof quick: objects read ahead by git, signatures of commits checked by other processes.

Rules kept: neither changes a verdict. An object still hashes to its id; a process only says which key a
commit's signature verifies with, and whose key that is, and whether they may sign, is judged as ever; where a
process found nothing, or is gone, the signature is checked again here. Called by commands.audit.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from capsule.store.git_ahead import ReadAhead, read_commits
from capsule.trust.objects import ObjectKind, ObjectReader
from capsule.trust.raw import BadObject, parse_commit
from capsule_agent.protocol import sshsig

CHUNK = 256
MANY = 4000
"""From so many commits on, processes of their own are worth their start."""
_WAITING = 4


class Ahead:
    """A reader for `verify_audit` that is told what comes; `close` ends its processes."""

    def __init__(self, git_folder: Path, store: ObjectReader, processes: int | None = None) -> None:
        self._folder = git_folder
        self._reader = ReadAhead(git_folder, store)
        # the proof itself keeps one processor busy
        self._count = max(0, (os.cpu_count() or 1) - 1) if processes is None else processes
        self._pool: ProcessPoolExecutor | None = None
        self._chain = b""
        self._asked = 0
        self._answers: deque[tuple[bytes, Future[list[bytes]]]] = deque()
        self._found: dict[bytes, bytes] = {}

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of `oid`. Raises MissingObject."""
        return self._reader.read(oid)

    def line(self, tip: str, until: str) -> None:
        """The commits from `tip` back to `until`, newest first, are read next."""
        self._reader.line(tip, until)

    def steps(self, chain: bytes) -> None:
        """These commits, each with all that it changes, are read next."""
        self._reader.steps(chain)
        self._chain = chain[20:]
        if self._count and len(self._chain) >= 20 * MANY:
            self._pool = ProcessPoolExecutor(self._count, mp_context=get_context("spawn"))
            self._ask()

    def signed_with(self, commit: str) -> sshsig.PublicKey | None:
        """The key that the signature of `commit` verifies with; None when that is not known here."""
        oid = bytes.fromhex(commit)
        if oid not in self._found and self._answers:
            ids, answer = self._answers[0]
            if ids.find(oid) % 20 == 0:
                self._answers.popleft()
                self._take(ids, answer)
        key = self._found.pop(oid, b"")
        return sshsig.PublicKey(key) if key else None

    def _take(self, ids: bytes, answer: Future[list[bytes]]) -> None:
        try:
            keys = answer.result()
        except BrokenProcessPool:
            self._answers.clear()
            return
        self._found = dict(zip((ids[at : at + 20] for at in range(0, len(ids), 20)), keys, strict=True))
        self._ask()

    def _ask(self) -> None:
        """Keep a few chunks under way, so that memory stays bounded."""
        while self._pool and len(self._answers) < _WAITING * self._count and self._asked < len(self._chain):
            ids = self._chain[self._asked : self._asked + 20 * CHUNK]
            self._asked += len(ids)
            self._answers.append((ids, self._pool.submit(keys_of, str(self._folder), ids)))

    def close(self) -> None:
        """End all processes."""
        self._reader.close()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def keys_of(git_folder: str, ids: bytes) -> list[bytes]:
    """For each commit (20 bytes each) the raw key that its signature verifies with, or nothing."""
    return [_key_of(data) for data in read_commits(Path(git_folder), ids)]


def _key_of(data: bytes) -> bytes:
    try:
        info = parse_commit(data)
        if info.signature is None:
            return b""
        claimed = sshsig.claimed_key(info.signature)
        return sshsig.verify(info.signed_payload, info.signature, sshsig.COMMIT, (claimed,)).raw
    except (BadObject, sshsig.BadSignature):
        return b""
