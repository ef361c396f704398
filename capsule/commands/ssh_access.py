"""How agents behind sshd are reached: the keys, files and socket that the command line found.

Rules kept: what only who calls an ssh endpoint needs is loaded then, for paramiko takes a tenth of a second
to import; what is missing is found without a connection. Called by reconcile, plan and doctor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsule.documents.types import AgentAddress
from capsule.transport.api import Transport, TransportError

if TYPE_CHECKING:
    from capsule.transport.ssh_hosts import HostTrust
    from capsule.transport.ssh_target import SshTarget

SCHEME = "ssh://"


@dataclass(frozen=True, slots=True)
class SshAccess:
    """Where keys, hosts and settings for ssh endpoints are. Nothing of it is read before it is needed.

    `keys`: private key files. `agent_socket`: an ssh-agent's. `known_hosts`: files; a line that is missing
    would be added to the first. `config`: an ssh_config file.
    """

    keys: tuple[Path, ...] = ()
    agent_socket: Path | None = None
    known_hosts: tuple[Path, ...] = ()
    config: Path | None = None


def ssh_transport(access: SshAccess) -> Transport:
    """What carries calls to ssh endpoints. Raises TransportError SshConfigInvalid."""
    from capsule.transport.ssh import SshTransport

    return SshTransport(
        keys=access.keys,
        agent_socket=access.agent_socket,
        known_hosts=access.known_hosts,
        config=access.config,
    )


def check_ssh_config(access: SshAccess, agents: Iterable[AgentAddress]) -> None:
    """Open the ssh_config file if any of `agents` is behind sshd. Raises TransportError SshConfigInvalid."""
    if any(agent.endpoint.startswith(SCHEME) for agent in agents):
        from capsule.transport.ssh_target import SshConfig

        SshConfig(access.config, "capsule")


@dataclass(frozen=True, slots=True)
class HostDoubt:
    """A service whose host would be refused, and what an owner does about it."""

    service: str
    reason: str
    message: str
    remedy: str


def doubtful_hosts(access: SshAccess, agents: Mapping[str, AgentAddress]) -> Iterator[HostDoubt]:
    """Every agent behind sshd whose host (or jump host) has no key that is known, without connecting."""
    behind = {name: agent for name, agent in agents.items() if agent.endpoint.startswith(SCHEME)}
    if not behind:
        return
    from capsule.transport.ssh_target import SshConfig

    for name, agent in behind.items():
        try:
            target = SshConfig(access.config, "capsule").target(agent.endpoint)
            if agent.host_key is None:
                yield from _doubt(access, name, target)
            else:
                _require_key(agent.host_key, target)
            via = target.via
            while via is not None:
                yield from _doubt(access, name, via)
                via = via.via
        except TransportError as error:
            yield HostDoubt(name, error.reason, f"{name} ({agent.endpoint}): {error}", "")


def _require_key(text: str, target: SshTarget) -> None:
    from capsule.transport.ssh_hosts import pinned

    pinned(text, target.where)


def _doubt(access: SshAccess, service: str, target: SshTarget) -> Iterator[HostDoubt]:
    from capsule.transport.ssh_hosts import known

    trust = known(access.known_hosts, target.where)
    if trust.keys or trust.authorities:
        return
    yield HostDoubt(
        service,
        "HostKeyUnknown",
        f"{service} is reached through {target}, whose host key is not known: it will be refused",
        _line_to_add(access, trust),
    )


def _line_to_add(access: SshAccess, trust: HostTrust) -> str:
    file = access.known_hosts[0] if access.known_hosts else "~/.ssh/known_hosts"
    return (
        "On that host: cat /etc/ssh/ssh_host_ed25519_key.pub\n"
        f"and add what it says to {file}, with the host before it:\n"
        f"  {trust.host} ssh-ed25519 AAAA…\n"
        'or, without the host, to the service\'s document as spec.agent.hostKey: "ssh-ed25519 AAAA…"'
    )
