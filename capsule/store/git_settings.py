"""How a remote is reached: waits, logins, keys. Plain values, given by commands. Read by store.git_*."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HEARTBEATS_REFSPEC = "+refs/capsule/heartbeat/*:refs/capsule/local/seen/heartbeat/*"
"""With it stock `git fetch` gets heartbeats, and keeps them where GitStore looks for what the remote has."""

FOLLOWS_ORIGIN = (("branch.main.remote", "origin"), ("branch.main.merge", "refs/heads/main"))
"""The settings with which `git pull` and `git push` know where main belongs."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the secret for HTTP comes from, first that is given: `token` (called at each use, for a value
    that rotates), `token_file`, else git's credential helpers when the server asks."""

    user: str = "capsule"
    token: Callable[[], str] | None = field(default=None, repr=False)
    token_file: Path | None = None
    helper: bool = True


@dataclass(frozen=True, slots=True)
class SshSettings:
    """Where keys and known hosts are. Empty tuples mean the user's own (~/.ssh)."""

    keys: tuple[Path, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    agent: bool = True
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How to reach a remote: seconds of silence to bear, seconds for a whole call, seconds to try again
    while others push to the same ref, and logins."""

    timeout: float = 30.0
    whole: float = 900.0
    contention: float = 10.0
    http: HttpSettings = field(default_factory=HttpSettings)
    ssh: SshSettings = field(default_factory=SshSettings)
