"""The options that say how agents behind sshd are reached, and where they come from when they are not given.

Rules kept: the environment and the home folder are read here, nowhere below. Called by reconcile, up, plan
and doctor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from capsule.commands.ssh_access import SshAccess

F = TypeVar("F", bound=Callable[..., Any])

_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
_file = click.Path(path_type=Path, exists=True, dir_okay=False)
_key: Callable[[Any], Any] = click.option(
    "--ssh-key", "ssh_keys", type=_file, multiple=True, metavar="FILE",
    help="Private key for agents behind sshd; may be repeated. Keys of an ssh-agent are tried too.",
)  # fmt: skip
_config: Callable[[Any], Any] = click.option(
    "--ssh-config", type=_file, metavar="FILE", help="Instead of ~/.ssh/config."
)
_hosts: Callable[[Any], Any] = click.option(
    "--known-hosts", type=_file, multiple=True, metavar="FILE",
    help="Instead of ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts; may be repeated.",
)  # fmt: skip


def ssh_options(function: F) -> F:
    """`--ssh-key`, `--ssh-config`, `--known-hosts`."""
    wrapped: F = _key(_config(_hosts(function)))
    return wrapped


def host_options(function: F) -> F:
    """`--ssh-config`, `--known-hosts`: for who only looks at what is known."""
    wrapped: F = _config(_hosts(function))
    return wrapped


def ssh_access(keys: tuple[Path, ...], config: Path | None, known_hosts: tuple[Path, ...]) -> SshAccess:
    """What the options say, and the user's own files where they say nothing."""
    from capsule.commands.ssh_access import SshAccess

    own = Path.home() / ".ssh"
    agent = os.environ.get("SSH_AUTH_SOCK")
    return SshAccess(
        keys=keys,
        agent_socket=Path(agent) if agent else None,
        known_hosts=known_hosts or (own / "known_hosts", _SYSTEM_KNOWN_HOSTS),
        config=config or own / "config",
    )
