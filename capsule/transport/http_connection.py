"""One HTTP connection: plain, TLS or a Unix socket, whose every wait ends at the deadline of the call.

Rules kept: the socket itself knows the deadline, so a peer that drips bytes gains nothing; TLS 1.2 or newer;
a pinned certificate replaces CA and host name, and nothing else replaces them. Called by transport.http.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from capsule.transport.dial import HostPort, dial


class DeadlineSocket(socket.socket):
    """A socket on which no read lasts beyond `deadline` (time.monotonic) or `silence` seconds."""

    deadline = math.inf
    silence = math.inf

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_wait(self.deadline, self.silence))
        return super().recv_into(*args, **kwargs)


class DeadlineTlsSocket(ssl.SSLSocket):
    """The same for TLS. Sending loops in Python there, so it is bounded as well."""

    deadline = math.inf
    silence = math.inf

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_wait(self.deadline, self.silence))
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_wait(self.deadline, self.silence))
        return super().send(*args, **kwargs)


def _wait(deadline: float, silence: float) -> float | None:
    left = min(deadline - time.monotonic(), silence)
    if left <= 0:
        raise TimeoutError("the deadline of the call has passed")
    return None if left == math.inf else left


class PlainConnection(HTTPConnection):
    """HTTP to a checked address."""

    def __init__(self, where: HostPort, *, deadline: float, loopback_only: bool) -> None:
        super().__init__(where.host, where.port)
        self._where = where
        self._deadline = deadline
        self._loopback_only = loopback_only

    def _new_conn(self) -> socket.socket:
        return dial(
            self._where, deadline=self._deadline, make=DeadlineSocket, loopback_only=self._loopback_only
        )


class TlsConnection(HTTPSConnection):
    """HTTPS to a checked address, trusted as `context` says or by the SHA-256 of the certificate."""

    def __init__(
        self, where: HostPort, *, deadline: float, context: ssl.SSLContext, fingerprint: str | None
    ) -> None:
        super().__init__(where.host, where.port, ssl_context=context, assert_fingerprint=fingerprint)
        self._where = where
        self._deadline = deadline

    def _new_conn(self) -> socket.socket:
        return dial(self._where, deadline=self._deadline, make=DeadlineSocket)


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket of this host."""

    def __init__(self, path: str, *, deadline: float) -> None:
        super().__init__("localhost", 80)
        self._path = path
        self._deadline = deadline

    def _new_conn(self) -> socket.socket:
        sock = DeadlineSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_wait(self._deadline, math.inf))
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        return sock


def tls_context(ca_file: str | None, *, pinned: bool) -> ssl.SSLContext:
    """The TLS settings for one way of trust: system CAs, the CAs in `ca_file`, or a pinned certificate.

    Raises OSError or ssl.SSLError when `ca_file` cannot be read.
    """
    if pinned:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = DeadlineTlsSocket
    return context
