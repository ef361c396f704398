"""What the doctor finds, and what it is given to look at. Called by commands.doctor and the parts of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from capsule.commands.repository import Repository
from capsule.commands.ssh_access import SshAccess

Verdict = Literal["ok", "note", "mend"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at. `remedy` is the command that mends it."""

    verdict: Verdict
    reason: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """The files that the reconciler is given, so that they are looked at too; None is not looked at. With
    `online` the forge is asked, which nothing else of the doctor is."""

    ssh: SshAccess = field(default_factory=SshAccess)
    forge_token: Path | None = None
    webhook_secret: Path | None = None
    notify_dir: Path | None = None
    online: bool = False


@dataclass(frozen=True, slots=True)
class Patient:
    """The repository under examination at the time `now`."""

    repository: Repository
    now: datetime
    given: Given

    @property
    def directory(self) -> Path:
        """Where the command was called."""
        return self.repository.directory
