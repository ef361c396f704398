"""Reads an `ssh://` endpoint, with what the operator's ssh_config says of the host.

Rules kept: the endpoint's own user and port win over the file; a host name cannot be taken for an option;
nothing is executed: ProxyCommand and Match exec are errors, not ignored, for ignoring them would connect
somewhere else than the operator believes. Called by transport.ssh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import paramiko

from capsule.transport.api import TransportError
from capsule.transport.dial import HostPort, invalid, read_host_port, refusal

_USER = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")
_MAX_JUMPS = 4
_MOST_REMEMBERED = 20_000
_EXECUTES = re.compile(r"(?im)^\s*match\s.*\bexec\b")


@dataclass(frozen=True, slots=True)
class SshTarget:
    """One SSH host: where, as whom, with which key files of ssh_config, through which jump host before."""

    where: HostPort
    user: str
    identities: tuple[str, ...] = ()
    via: SshTarget | None = None

    def __str__(self) -> str:
        return f"ssh://{self.user}@{self.where}"


class SshConfig:
    """The parts of an ssh_config(5) file that are kept to: HostName, User, Port, IdentityFile, ProxyJump.

    `file` may be None or missing: then nothing is said of any host. `user` is who logs in where neither the
    endpoint nor the file says. Raises TransportError SshConfigInvalid.
    """

    def __init__(self, file: Path | None, user: str) -> None:
        self._file = file
        self._user = user
        text = _read(file) if file else ""
        if _EXECUTES.search(text):
            raise self._wrong("Match exec runs a command, which is not done here; use Host")
        try:
            self._config = paramiko.SSHConfig.from_text(text)
        except paramiko.ConfigParseError as error:
            raise self._wrong(str(error)) from None
        self._targets: dict[str, SshTarget] = {}

    def target(self, endpoint: str) -> SshTarget:
        """Where `endpoint` ("ssh://user@host:port") leads. Raises TransportError.

        The file is read once, so the answer for an endpoint never changes.
        """
        found = self._targets.get(endpoint)
        if found is None:
            if len(self._targets) >= _MOST_REMEMBERED:
                self._targets.clear()
            found = self._targets[endpoint] = self._read_endpoint(endpoint)
        return found

    def _read_endpoint(self, endpoint: str) -> SshTarget:
        rest = endpoint.removeprefix("ssh://")
        if rest == endpoint or not endpoint.isascii() or not endpoint.isprintable():
            raise invalid(endpoint, "ssh://user@host:port")
        return self._resolve(rest, endpoint, _MAX_JUMPS)

    def _resolve(self, text: str, endpoint: str, jumps_left: int) -> SshTarget:
        user, _, host_port = text.rpartition("@")
        named = read_host_port(host_port, default_port=22, endpoint=endpoint)
        try:
            said = self._config.lookup(named.host)
            port = int(said.get("port", 22))
        except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ValueError, KeyError) as error:
            raise self._wrong(f"{named.host}: {error}") from None
        if said.get("proxycommand"):
            raise self._wrong(
                f"{named.host}: ProxyCommand runs a command, which is not done here; use ProxyJump"
            )
        if re.search(r":[0-9]+$", host_port):
            port = named.port
        where = read_host_port(_bracketed(said["hostname"]), default_port=port, endpoint=endpoint)
        user = user or said.get("user", self._user)
        if not _USER.match(user):
            raise invalid(endpoint, "a user of letters, digits, dots, dashes and underscores before the @")
        identities = tuple(said.get("identityfile", ()))
        return SshTarget(where, user, identities, self._jump(said.get("proxyjump"), endpoint, jumps_left))

    def _jump(self, text: str | None, endpoint: str, jumps_left: int) -> SshTarget | None:
        """The host before the last one; a list of hosts is a chain."""
        if text is None or text.lower() == "none":
            return None
        found: SshTarget | None = None
        for part in text.split(","):
            if jumps_left == 0:
                raise self._wrong(f"{endpoint}: more than {_MAX_JUMPS} jump hosts")
            jumps_left -= 1
            one = self._resolve(part.strip().removeprefix("ssh://"), endpoint, jumps_left)
            found = SshTarget(one.where, one.user, one.identities, found or one.via)
        return found

    def _wrong(self, what: str) -> TransportError:
        return TransportError(
            "SshConfigInvalid", f"{self._file}: {what}; mend that file", kind="stalled", sent=False
        )


def refused_literal(target: SshTarget) -> str | None:
    """Why the address of a host behind a jump host is refused; a name there is looked up by the jump host."""
    why = refusal(target.where.host)
    return None if why == "not an address" else why


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise TransportError(
            "SshConfigInvalid", f"{file} cannot be read: {error}", kind="stalled", sent=False
        ) from None
