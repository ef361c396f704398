"""Git over SSH, by paramiko: one connection per host kept open, host keys strictly checked.

Rules kept: a host that known_hosts does not list, or lists with another key, is refused; keys come from
the ssh-agent and from IdentityFile, never from a password; GIT_SSH_COMMAND is not used; Nagle's delay is
off (paramiko never turns it off: 48 ms instead of 4 for a command). paramiko's own reader gives up a whole
known_hosts file at one @cert-authority or @revoked line, so lines are read one by one here. Called by
store.git_remote.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys

from capsule.store.git_duplex import Duplex, Patience
from capsule.store.git_settings import SshSettings

# paramiko's threads would print tracebacks to stderr where nobody has set up logging.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class SshProblem(OSError):
    """The connection could not be made: an unknown host key, no key accepted. The text says which."""


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    agent: bool

    @property
    def listed_as(self) -> str:
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


class SshConnector:
    """Opens commands on one host; keeps the connection for the next. Safe for threads."""

    def __init__(self, host: str, port: int | None, user: str | None, settings: SshSettings) -> None:
        self._target = _resolve(host, port, user, settings)
        self._lock = threading.Lock()
        self._transport: paramiko.Transport | None = None

    def run(self, command: str, environment: dict[str, str], patience: Patience) -> Duplex:
        """Start `command` there. Raises SshProblem, OSError, paramiko.SSHException, EOFError."""
        with self._lock:
            transport = self._transport
            if transport is None or not transport.is_active():
                transport = self._transport = _connect(self._target, patience)
            try:
                channel = transport.open_session(timeout=patience.left())
            except (paramiko.SSHException, EOFError):
                # A kept connection may have died unnoticed; a new one decides.
                transport.close()
                transport = self._transport = _connect(self._target, patience)
                channel = transport.open_session(timeout=patience.left())
        for name, value in environment.items():
            channel.set_environment_variable(name, value)  # the server may ignore it; it is a wish
        channel.settimeout(patience.left())
        channel.exec_command(command)
        return _ChannelDuplex(channel, patience)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None


class _ChannelDuplex(Duplex):
    def __init__(self, channel: paramiko.Channel, patience: Patience) -> None:
        super().__init__(patience)
        self._channel = channel

    def _receive(self, limit: int) -> bytes:
        self._channel.settimeout(self._patience.left())
        return self._channel.recv(limit)

    def _send(self, data: memoryview) -> int:
        self._channel.settimeout(self._patience.left())
        sent = self._channel.send(bytes(data[:32768]))
        if not sent:
            raise ConnectionResetError("the SSH channel was closed")
        return sent

    def can_read(self) -> bool:
        return bool(self._ahead) or self._channel.recv_ready()

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def diagnosis(self) -> str:
        if not self._channel.recv_stderr_ready():
            return ""
        return self._channel.recv_stderr(2000).decode("utf-8", "replace").strip()


def _resolve(host: str, port: int | None, user: str | None, settings: SshSettings) -> _Target:
    folder = Path.home() / ".ssh"
    found: dict[str, str | list[str]] = {}
    config = settings.config or folder / "config"
    if config.is_file():
        found = dict(paramiko.SSHConfig.from_path(str(config)).lookup(host))
    if "proxyjump" in found or "proxycommand" in found:
        raise SshProblem(
            f"host {host}: ProxyJump and ProxyCommand are not supported for the state repository"
        )
    named = [Path(each).expanduser() for each in _strings(found.get("identityfile"))]
    listed = [Path(each).expanduser() for each in _strings(found.get("userknownhostsfile"))]
    return _Target(
        host=_string(found.get("hostname")) or host,
        port=port or int(_string(found.get("port")) or 22),
        user=user or _string(found.get("user")) or getpass.getuser(),
        keys=settings.keys or tuple(named) or tuple(folder / name for name in _DEFAULT_KEYS),
        known_hosts=settings.known_hosts or (*listed, folder / "known_hosts", _SYSTEM_KNOWN_HOSTS),
        agent=settings.agent and _string(found.get("identitiesonly")) != "yes",
    )


def _string(value: str | list[str] | None) -> str | None:
    return value if isinstance(value, str) else None


def _strings(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return value.split() if isinstance(value, str) else value


def _connect(target: _Target, patience: Patience) -> paramiko.Transport:
    known, revoked = _known_keys(target)
    if not known:
        file = target.known_hosts[0] if target.known_hosts else "known_hosts"
        raise SshProblem(
            f"host {target.listed_as} is not in known_hosts: get its key with "
            f"`ssh-keyscan -t ed25519 -p {target.port} {target.host}`, compare it with what the server's "
            f"owner tells you, and add the line to {file}"
        )
    sock = socket.create_connection((target.host, target.port), timeout=patience.left())
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience.left()
        _prefer(transport, known)
        transport.start_client(timeout=patience.left())
        _check_host_key(target, transport.get_remote_server_key(), known, revoked)
        _authenticate(transport, target)
    except BaseException:
        transport.close()
        raise
    transport.set_keepalive(30)
    return transport


def _known_keys(target: _Target) -> tuple[list[paramiko.PKey], set[bytes]]:
    known: list[paramiko.PKey] = []
    revoked: set[bytes] = set()
    for path in target.known_hosts:
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split()
            marked = bool(words) and words[0].startswith("@")
            entry = _entry(" ".join(words[1:]) if marked else line)
            if entry is None or not _names(entry, target.listed_as):
                continue
            key = entry.key
            assert key is not None
            if not marked:
                known.append(key)
            elif words[0] == "@revoked":
                revoked.add(key.asbytes())
    return known, revoked


def _entry(line: str) -> HostKeyEntry | None:
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    try:
        entry = HostKeyEntry.from_line(line)
    except (paramiko.SSHException, ValueError):
        return None  # one bad line must not spoil the file
    return entry if entry is not None and entry.key is not None else None


def _names(entry: HostKeyEntry, host: str) -> bool:
    for name in entry.hostnames or ():
        if name in (host, "*"):
            return True
        if name.startswith("|1|") and HostKeys.hash_host(host, name) == name:
            return True
    return False


def _prefer(transport: paramiko.Transport, known: list[paramiko.PKey]) -> None:
    # Ask for a kind of key that is listed; otherwise the server may show another and look changed.
    options = transport.get_security_options()
    kinds = {key.get_name() for key in known}
    kinds |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set()
    chosen = tuple(kind for kind in options.key_types if kind in kinds)
    if chosen:
        options.key_types = chosen


def _check_host_key(
    target: _Target, shown: paramiko.PKey, known: list[paramiko.PKey], revoked: set[bytes]
) -> None:
    if shown.asbytes() in revoked:
        raise SshProblem(
            f"the key of host {target.listed_as} ({shown.fingerprint}) is revoked in known_hosts"
        )
    if all(shown.asbytes() != key.asbytes() for key in known):
        raise SshProblem(
            f"host {target.listed_as} shows another key than known_hosts lists: {shown.fingerprint}"
        )


def _authenticate(transport: paramiko.Transport, target: _Target) -> None:
    tried = 0
    with contextlib.ExitStack() as stack:
        for key in _offered(target, stack):
            tried += 1
            try:
                if not transport.auth_publickey(target.user, key):
                    return
                raise SshProblem(f"{target.user}@{target.listed_as} asks for more than a key")
            except paramiko.BadAuthenticationType:
                break
            except paramiko.AuthenticationException:
                if not transport.is_active():
                    break
    raise SshProblem(
        f"{target.user}@{target.listed_as} accepted none of {tried} keys: ssh-add yours to an ssh-agent, "
        "or name it as IdentityFile in ~/.ssh/config or in git config capsule.remote.sshKey"
    )


def _offered(target: _Target, stack: contextlib.ExitStack) -> Iterator[paramiko.PKey]:
    for path in target.keys:
        with contextlib.suppress(OSError, paramiko.SSHException, ValueError, TypeError):
            yield paramiko.PKey.from_path(path)
    if target.agent:
        agent = paramiko.Agent()
        stack.callback(agent.close)
        yield from agent.get_keys()
