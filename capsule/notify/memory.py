"""What each receiver was told, kept across restarts in one small file that only its owner can read.

Rules kept: written whole beside and renamed, so that a crash leaves the old or the new one; read strictly; of
bounded size. It is never needed: without it every fact that holds is told once more. Called by
notify.notifier.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capsule.documents.scalars import Instant
from capsule.notify.routing import Told

log = logging.getLogger("capsule.notify")
MOST_BYTES = 16 * 1024 * 1024
MOST_FACTS = 5_000
"""Of so many facts one receiver is told at most, and so many are remembered for it."""
MOST_RECEIVERS = 512

Mark = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
Mailbox = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}/[0-9]$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    at: Instant
    ended: Instant | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    version: Literal[1] = 1
    told: dict[Mailbox, dict[Mark, _Entry]]


def mark(key: str) -> str:
    """The short form in which an event's key is remembered."""
    return hashlib.sha256(key.encode()).hexdigest()[:20]


class Memory:
    """What was told, by mailbox (receiver and number of the address) and mark. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.told: dict[str, dict[str, Told]] = self._read()
        self._saved = self._copy()

    def save(self) -> None:
        """Write what changed; what cannot be written is said once more after a restart."""
        if self.told == self._saved:
            return
        value = _File(
            told={
                box: {
                    key: _Entry(at=told.at, ended=told.ended)
                    for key, told in list(facts.items())[:MOST_FACTS]
                }
                for box, facts in list(self.told.items())[:MOST_RECEIVERS]
            }
        )
        try:
            self._write(value.model_dump_json(exclude_none=True).encode())
        except OSError as error:
            log.warning("what was told cannot be kept in %s: %s", self._path, error.strerror)
            return
        self._saved = self._copy()

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            with open(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb"
            ) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise

    def _read(self) -> dict[str, dict[str, Told]]:
        try:
            with open(self._path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("what was told cannot be read from %s: %s", self._path, error.strerror)
            return {}
        try:
            found = _File.model_validate_json(data)
        except ValidationError:
            log.warning("%s is damaged; what holds now is told once more", self._path)
            return {}
        return {
            box: {key: Told(entry.at, entry.ended) for key, entry in facts.items()}
            for box, facts in found.told.items()
        }

    def _copy(self) -> Mapping[str, Mapping[str, Told]]:
        return {box: dict(facts) for box, facts in self.told.items()}
