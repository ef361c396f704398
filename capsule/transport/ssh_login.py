"""Logs in to an SSH host with the reconciler's keys: files, their certificates, and an ssh-agent.

Rules kept: public keys alone, never a password; a key with a passphrase is used through an ssh-agent; no key
text is in an error; nothing is forwarded. Called by transport.ssh_link.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import UnknownKeyType

from capsule.transport.api import TransportError
from capsule.transport.peer_text import quoted

_MOST_TRIES = 6  # sshd's default MaxAuthTries


@dataclass(frozen=True, slots=True)
class LoginKeys:
    """Where keys come from: files (with `<file>-cert.pub` beside, if there), and an ssh-agent's socket."""

    files: tuple[Path, ...] = ()
    agent_socket: Path | None = None


class _SocketAgent(AgentSSH):
    """An ssh-agent at a given socket; paramiko's own class reads the environment."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self._connect(self._socket)  # type: ignore[attr-defined] # there, but not in the published types
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


def log_in(
    transport: paramiko.Transport, user: str, keys: LoginKeys, extra_files: Sequence[str], timeout: float
) -> None:
    """Authenticate as `user` with the first key that the host accepts.

    `extra_files` come from ssh_config and may be missing. Raises TransportError LoginRefused, and
    SSHException when the connection broke.
    """
    notes: list[str] = []
    tried: set[bytes] = set()
    agent = _open_agent(keys.agent_socket, timeout, notes)
    try:
        for key in _keys(keys, extra_files, agent, notes):
            blob = key.public_blob.key_blob if key.public_blob else key.asbytes()
            if blob in tried:
                continue
            tried.add(blob)
            if _try(transport, user, key, notes) or len(tried) == _MOST_TRIES:
                break
    finally:
        if agent is not None:
            agent.close()
    if not transport.is_authenticated():
        told = f" ({'; '.join(dict.fromkeys(notes))})" if notes else ""
        raise TransportError(
            "LoginRefused",
            f"the host accepts none of the {len(tried)} keys offered for user {user!r}{told}; put the line "
            "that `capsule-agent authorize` prints into that user's authorized_keys",
            kind="stalled",
            sent=False,
        )


def _try(transport: paramiko.Transport, user: str, key: paramiko.PKey, notes: list[str]) -> bool:
    try:
        return not transport.auth_publickey(user, key)
    except paramiko.BadAuthenticationType:
        notes.append("the host accepts no public keys")
        return True
    except paramiko.AuthenticationException as error:
        if not transport.is_active() or "timeout" in str(error).lower():
            raise
        return False


def _open_agent(path: Path | None, timeout: float, notes: list[str]) -> _SocketAgent | None:
    if path is None:
        return None
    try:
        return _SocketAgent(path, timeout)
    except (OSError, paramiko.SSHException) as error:
        notes.append(f"the ssh-agent at {path} does not answer: {quoted(str(error), 80)}")
        return None


def _keys(
    keys: LoginKeys, extra_files: Sequence[str], agent: _SocketAgent | None, notes: list[str]
) -> Iterator[paramiko.PKey]:
    for file in (*keys.files, *(Path(name) for name in extra_files)):
        yield from _load(file, notes, must_exist=file in keys.files)
    if agent is not None:
        yield from agent.get_keys()


def _load(file: Path, notes: list[str], *, must_exist: bool) -> Iterator[paramiko.PKey]:
    """The certificate of a key first, then the key alone, for hosts that know no CA."""
    try:
        key = paramiko.PKey.from_path(file)
        if key.public_blob is not None:
            yield key
            key = paramiko.PKey.from_path(file)
            key.public_blob = None
        yield key
    except FileNotFoundError:
        if must_exist:
            notes.append(f"{file} does not exist")
    except (paramiko.PasswordRequiredException, TypeError):
        notes.append(f"{file} has a passphrase: add it to an ssh-agent")
    except (OSError, ValueError, paramiko.SSHException, UnknownKeyType):
        notes.append(f"{file} is no private key that can be read")
