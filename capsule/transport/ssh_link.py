"""One SSH connection to one host: dialled, its host key checked, logged in, in that order.

Rules kept: nothing is sent before the host key is accepted; strict key exchange (the answer to
CVE-2023-48795) is demanded; old ciphers are not offered; what a peer may send before it has proved who it is,
is bounded; the deadline ends every step. Called by transport.ssh.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paramiko
from paramiko.ssh_exception import IncompatiblePeer, MessageOrderError

from capsule.transport import ssh_hosts
from capsule.transport.api import TransportError
from capsule.transport.dial import dial, remaining, timed_out, unreachable
from capsule.transport.peer_text import quoted
from capsule.transport.ssh_login import LoginKeys, log_in
from capsule.transport.ssh_target import SshTarget, refused_literal

_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
_HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_CERTIFICATE = "-cert-v01@openssh.com"
_KEEPALIVE = 30  # seconds; keeps firewalls on the way, and jump hosts, from forgetting the connection
_IDLE_WAIT = 0.5  # seconds; paramiko's 0.1 costs a wake-up ten times a second for each idle connection
_MOST_UNPROVED = 256 * 1024  # bytes from a peer whose host key is not checked yet
_MOST_UNREAD = 16 * 1024 * 1024  # bytes between two looks at what arrived; a channel's window is 2 MiB


class Stream(Protocol):
    """What paramiko needs of a socket."""

    def send(self, data: bytes, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class BoundedStream:
    """A socket, or a channel of a jump host, that ends when the peer sends more than it may."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner
        self._left = _MOST_UNPROVED
        self.flooded = False
        self.send_by = math.inf
        self._closed = False  # paramiko looks at this name of a socket when it ends its thread

    def allow(self, count: int = _MOST_UNREAD) -> None:
        """Let the peer send `count` bytes from now on."""
        self._left = count

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; b"" once the peer has sent too much."""
        if self._left <= 0:
            self.flooded = True
            return b""
        data = self._inner.recv(size)
        self._left -= len(data)
        return data

    def send(self, data: bytes) -> int:
        """Send what fits; how much that was. After `send_by` a peer that takes nothing ends the connection.

        paramiko would try for ever.
        """
        try:
            return self._inner.send(data)
        except TimeoutError:
            if time.monotonic() >= self.send_by:
                raise BrokenPipeError("the peer takes nothing") from None
            raise

    def settimeout(self, seconds: float | None) -> None:
        """Longest wait of the two above."""
        self._inner.settimeout(seconds)

    def close(self) -> None:
        """Close the socket, and end the wait of whoever reads from it."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)
        self._inner.close()


@dataclass(frozen=True, slots=True)
class Identity:
    """What the reconciler has for SSH: its keys and its known_hosts files."""

    keys: LoginKeys
    known_hosts: tuple[Path, ...]

    def trust(self, target: SshTarget, pinned_key: str | None) -> ssh_hosts.HostTrust:
        """What is known of the key of `target`; `pinned_key` comes from its document."""
        if pinned_key is not None:
            return ssh_hosts.pinned(pinned_key, target.where)
        return ssh_hosts.known(self.known_hosts, target.where)


@dataclass(frozen=True, slots=True)
class Link:
    """A connection that is logged in."""

    target: SshTarget
    transport: paramiko.Transport
    stream: BoundedStream

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known here."""
        return self.transport.is_active()

    def close(self) -> None:
        """End the connection."""
        self.transport.close()


def open_link(
    target: SshTarget,
    identity: Identity,
    pinned_key: str | None,
    *,
    through: Link | None,
    deadline: float,
) -> Link:
    """Connect to `target`, through an open link to its jump host if it has one. Raises TransportError.

    The reason SshBusy means that the host ended the connection before it said anything, as sshd does above
    its MaxStartups: worth another try.
    """
    trust = identity.trust(target, pinned_key)
    stream = BoundedStream(_dial(target, through, deadline))
    try:
        transport = paramiko.Transport(stream)  # type: ignore[arg-type] # send, recv, settimeout, close do
    except BaseException:
        stream.close()
        raise
    doing = f"connecting to {target}"
    try:
        with ending_at(deadline, transport.close), telling(target, transport, stream, deadline, doing):
            _greet(transport, trust, deadline, doing)
            _check_host(transport, trust, target)
            stream.allow()
            transport.auth_timeout = remaining(deadline, doing=doing, sent=False)
            log_in(transport, target.user, identity.keys, target.identities, transport.auth_timeout)
            transport.set_keepalive(_KEEPALIVE)
            stream.settimeout(_IDLE_WAIT)
    except BaseException:
        transport.close()
        stream.close()
        raise
    return Link(target, transport, stream)


@contextlib.contextmanager
def ending_at(deadline: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at `deadline`, so that steps which know no timeout end too."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def telling(
    target: SshTarget, transport: paramiko.Transport, stream: BoundedStream, deadline: float, doing: str
) -> Iterator[None]:
    """Turn what paramiko raises before a call is sent into a TransportError."""
    try:
        yield
    except (paramiko.SSHException, EOFError, OSError) as error:
        if time.monotonic() >= deadline:
            raise timed_out(doing, sent=False) from None
        raise _told(target, transport, stream, error) from None


def _told(
    target: SshTarget, transport: paramiko.Transport, stream: BoundedStream, error: Exception
) -> TransportError:
    text = quoted(str(error), 160)
    if stream.flooded:
        return TransportError(
            "AnswerMalformed", f"{target} sends without end and is no SSH server; check its port", sent=False
        )
    if isinstance(error, IncompatiblePeer | MessageOrderError):
        return weak(target, text)
    if "protocol banner" in text and not transport.remote_version:
        return TransportError("SshBusy", f"{target} ended the connection before it said anything", sent=False)
    if isinstance(error, paramiko.ChannelException):
        return TransportError(
            "SshRefused",
            f"{target} opens no channel: {text}; check AllowTcpForwarding and MaxSessions",
            sent=False,
        )
    return unreachable(target, text or type(error).__name__)


def weak(target: SshTarget, why: str) -> TransportError:
    """The error for a peer that cannot be spoken to safely."""
    return TransportError(
        "WeakPeer",
        f"{target} does not speak SSH safely enough: {why}; OpenSSH 9.6 does, and patched older ones",
        kind="stalled",
        sent=False,
    )


def _dial(target: SshTarget, through: Link | None, deadline: float) -> Stream:
    if through is None:
        return dial(target.where, deadline=deadline, make=socket.socket)
    why = refused_literal(target)
    if why is not None:
        raise TransportError("AddressRefused", f"{target} is {why}", kind="stalled", sent=False)
    doing = f"connecting to {target} through {through.target}"
    left = remaining(deadline, doing=doing, sent=False)
    with telling(through.target, through.transport, through.stream, deadline, doing):
        return through.transport.open_channel(
            "direct-tcpip", (target.where.host, target.where.port), ("127.0.0.1", 0), timeout=left
        )


def _greet(transport: paramiko.Transport, trust: ssh_hosts.HostTrust, deadline: float, doing: str) -> None:
    """Exchange keys; nothing of ours is said yet."""
    options = transport.get_security_options()
    options.ciphers = _CIPHERS
    options.digests = _MACS
    options.key_types = _preferred_host_keys(trust)
    left = remaining(deadline, doing=doing, sent=False)
    transport.banner_timeout = transport.handshake_timeout = left
    transport.start_client(timeout=left)
    remaining(deadline, doing=doing, sent=False)


def _preferred_host_keys(trust: ssh_hosts.HostTrust) -> Sequence[str]:
    """Ask for what is known of the host first: certificates if a CA is, then the types of its known keys."""
    types = trust.key_types()
    known = [name for name in _HOST_KEYS if name in types or ("ssh-rsa" in types and name.startswith("rsa"))]
    plain = tuple(dict.fromkeys((*known, *_HOST_KEYS)))
    certified = tuple(name + _CERTIFICATE for name in _HOST_KEYS)
    return (*certified, *plain) if trust.authorities else plain


def _check_host(transport: paramiko.Transport, trust: ssh_hosts.HostTrust, target: SshTarget) -> None:
    if not transport.agreed_on_strict_kex:  # type: ignore[attr-defined] # there, but not in the published types
        raise weak(target, "it does not offer strict key exchange (CVE-2023-48795)")
    key = transport.get_remote_server_key()
    blob = key.public_blob.key_blob if key.public_blob else key.asbytes()
    trust.check(blob, now=time.time())
