"""Calls to agents over HTTP, HTTPS and HTTP on a Unix socket.

Rules kept: one call is one POST of JSON to `<endpoint>/capsule/v1/<name>`; redirects are not followed,
proxies and cookies not used, answers not decompressed; connections are kept, bounded in number, and looked
at before they are used again, so that a call is never sent twice. Called through transport.routing by the
reconciler.
"""

from __future__ import annotations

import http.client
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import urllib3
from urllib3.connection import HTTPConnection

from capsule.documents.types import AgentAddress
from capsule.transport.answers import judge, malformed, too_large
from capsule.transport.api import CallName, TransportError
from capsule.transport.dial import (
    HostPort,
    insecure,
    invalid,
    is_loopback,
    may_be_plain,
    read_host_port,
    remaining,
    timed_out,
    unreachable,
)
from capsule.transport.http_connection import PlainConnection, TlsConnection, UnixConnection, tls_context
from capsule.transport.kept import KeptConnections
from capsule.transport.peer_text import quoted

_HEADERS = (
    "Accept: application/json, application/problem+json\r\n"
    "Accept-Encoding: identity\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: capsule\r\n"
)
_MAX_UNIX_PATH = 107
_CHUNK = 64 * 1024
MOST_KEPT = 16 * 1024
_SCHEMES = {"http", "https", "unix"}


@dataclass(frozen=True, slots=True)
class _Target:
    """One endpoint with everything that decides whom to trust; connections are kept under it."""

    scheme: str
    where: HostPort | None
    path: str
    ca: str | None
    certificate: str | None
    insecure: bool

    def __str__(self) -> str:
        return f"{self.scheme}://{self.where}" if self.where else f"unix:{self.path}"


class HttpTransport:
    """Carries calls to `http:`, `https:` and `unix:` endpoints. Safe to call from many threads.

    `ca_files`: the PEM file of each private CA by the name that `spec.agent.ca` uses. `max_connections`: most
    idle connections kept, over all endpoints; None: `affordable_connections`. `connect_timeout` and
    `read_timeout`: longest wait for a connection and longest silence of an agent, in seconds, within the
    timeout of the whole call.
    """

    def __init__(
        self,
        *,
        ca_files: Mapping[str, str | os.PathLike[str]] | None = None,
        max_connections: int | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = float("inf"),
    ) -> None:
        self._ca_files = {name: os.fspath(path) for name, path in (ca_files or {}).items()}
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._kept: KeptConnections[_Target, HTTPConnection] = KeptConnections(
            affordable_connections() if max_connections is None else max_connections
        )
        self._contexts: dict[tuple[str | None, bool], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` to the agent and bring back its answer; see Transport.call."""
        deadline = time.monotonic() + timeout
        target = _target(address)
        connection = self._kept.take(target) or self._connect(target, deadline)
        reusable = False
        try:
            answer, reusable = self._exchange(connection, target, name, body, deadline)
            return answer
        finally:
            if reusable:
                self._kept.give(target, connection)
            else:
                connection.close()

    def close(self) -> None:
        """Let go of connections; calls in progress end by themselves."""
        self._kept.close()

    def _exchange(
        self, connection: HTTPConnection, target: _Target, name: CallName, body: bytes, deadline: float
    ) -> tuple[bytes, bool]:
        """The answer, and whether the connection is good for another call.

        The request is written by hand and in one piece, and the answer read by http.client: half of what
        urllib3 takes for both, and one packet instead of two. Connecting and trusting are urllib3's.
        """
        doing = f"waiting for {target}"
        sock = connection.sock
        try:
            if sock is None:
                raise http.client.NotConnected
            sock.settimeout(remaining(deadline, doing=doing, sent=False))
            _bound(connection, deadline, self._read_timeout)
            sock.sendall(_head(target, name, len(body)) + body)
            response = http.client.HTTPResponse(sock, method="POST")
            try:
                response.begin()
                return _read_answer(response, str(target)), not response.will_close
            finally:
                # The response may own the socket by now; an unread rest must not keep it open.
                response.close()
        except TimeoutError:
            raise timed_out(doing, sent=True) from None
        except http.client.LineTooLong:
            raise too_large(str(target)) from None
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, OSError) as error:
            raise _cut_off(target, error) from None
        except (http.client.HTTPException, ValueError) as error:
            what = quoted(str(error)) or type(error).__name__
            raise malformed(str(target), f"not HTTP ({what})") from None

    def _connect(self, target: _Target, deadline: float) -> HTTPConnection:
        deadline = min(deadline, time.monotonic() + self._connect_timeout)
        connection = self._new(target, deadline)
        try:
            connection.connect()
            self._check_peer(connection, target)
        except TransportError:
            connection.close()
            raise
        except (ssl.SSLCertVerificationError, urllib3.exceptions.SSLError) as error:
            connection.close()
            raise _untrusted(target, error) from None
        except TimeoutError:
            connection.close()
            raise timed_out(f"connecting to {target}", sent=False) from None
        except ssl.SSLError as error:
            connection.close()
            raise _tls_failed(target, error) from None
        except OSError as error:
            connection.close()
            raise unreachable(target, error.strerror or error) from None
        return connection

    def _new(self, target: _Target, deadline: float) -> HTTPConnection:
        if target.where is None:
            return UnixConnection(target.path, deadline=deadline)
        if target.scheme == "http":
            return PlainConnection(target.where, deadline=deadline, loopback_only=not target.insecure)
        pin = target.certificate
        return TlsConnection(
            target.where,
            deadline=deadline,
            context=self._context(None if pin else target.ca, pinned=pin is not None),
            fingerprint=pin.removeprefix("sha256:") if pin else None,
        )

    def _check_peer(self, connection: HTTPConnection, target: _Target) -> None:
        """Plain text stays on this host: judged by the address that is really connected."""
        if target.scheme != "http" or target.insecure or target.where is None:
            return
        if connection.sock is None or not is_loopback(connection.sock.getpeername()[0]):
            raise insecure(target.where)

    def _context(self, ca: str | None, *, pinned: bool) -> ssl.SSLContext:
        if ca is not None and ca not in self._ca_files:
            raise TransportError(
                "CaUnknown",
                f"the service names the CA {ca!r}, which this reconciler was not given; it knows "
                f"{', '.join(sorted(self._ca_files)) or 'none'}",
                kind="stalled",
                sent=False,
            )
        with self._lock:
            context = self._contexts.get((ca, pinned))
            if context is None:
                context = self._load(ca, pinned=pinned)
                self._contexts[ca, pinned] = context
            return context

    def _load(self, ca: str | None, *, pinned: bool) -> ssl.SSLContext:
        try:
            return tls_context(self._ca_files[ca] if ca else None, pinned=pinned)
        except OSError as error:
            raise TransportError(
                "CaUnknown",
                f"the file of the CA {ca!r} cannot be read as PEM certificates: {error.strerror or error}",
                kind="stalled",
                sent=False,
            ) from None


def affordable_connections() -> int:
    """Half of the files that this process may have open now: the rest is for connections in use, the
    repository and SSH. An agent asked every half minute keeps its connection, however many there are."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_KEPT if soft == resource.RLIM_INFINITY else min(soft // 2, MOST_KEPT)


def _target(address: AgentAddress) -> _Target:
    return _read_target(address.endpoint, address.ca, address.certificate, insecure_wanted=address.insecure)


@lru_cache(maxsize=16 * 1024)
def _read_target(endpoint: str, ca: str | None, certificate: str | None, *, insecure_wanted: bool) -> _Target:
    """What an endpoint says, read once for its many calls."""
    scheme, _, rest = endpoint.partition(":")
    if scheme not in _SCHEMES or not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
        raise invalid(endpoint, "http://, https:// or unix:/ with ASCII characters")
    if scheme == "unix":
        if not rest.startswith("/") or len(rest) > _MAX_UNIX_PATH:
            raise invalid(endpoint, f"an absolute path of at most {_MAX_UNIX_PATH} bytes after unix:")
        return _Target("unix", None, rest, None, None, False)
    host, slash, path = rest.removeprefix("//").partition("/")
    if "@" in host:
        raise TransportError(
            "AddressRefused",
            "the endpoint holds user@ before the host; agents know callers by signatures, leave it out",
            kind="stalled",
            sent=False,
        )
    if not rest.startswith("//") or set("?#\\") & set(rest):
        raise invalid(endpoint, f"{scheme}://host:port, without query or fragment")
    where = read_host_port(host, default_port=443 if scheme == "https" else 80, endpoint=endpoint)
    if scheme == "http" and not insecure_wanted and not may_be_plain(where.host):
        raise insecure(where)
    return _Target(scheme, where, slash + path, ca, certificate, insecure_wanted)


def _read_answer(response: http.client.HTTPResponse, where: str) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if response.status == 200 and encoding not in ("identity", ""):
        raise malformed(where, f"compressed as {quoted(encoding, 40)!r} although identity was asked for")
    content_type = response.headers.get("Content-Type", "")
    return judge(where, response.status, content_type, lambda limit: _read_body(response, where, limit))


def _read_body(response: http.client.HTTPResponse, where: str, limit: int) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise too_large(where)
    found = bytearray()
    while chunk := response.read(min(_CHUNK, limit + 1 - len(found))):
        found += chunk
        if len(found) > limit:
            raise too_large(where)
    if response.length:
        raise http.client.IncompleteRead(bytes(found), response.length)
    return bytes(found)


def _head(target: _Target, name: CallName, length: int) -> bytes:
    """The request's first line and headers. An endpoint is printable ASCII without spaces, or was refused."""
    host, prefix = "localhost", ""
    if target.where is not None:
        standard = target.where.port == (443 if target.scheme == "https" else 80)
        host = str(target.where).rpartition(":")[0] if standard else str(target.where)
        prefix = target.path.rstrip("/")
    first = f"POST {prefix}/capsule/v1/{name} HTTP/1.1\r\nHost: {host}\r\n"
    return f"{first}{_HEADERS}Content-Length: {length}\r\n\r\n".encode("ascii")


def _bound(connection: HTTPConnection, deadline: float, silence: float) -> None:
    sock = connection.sock
    if isinstance(sock, socket.socket):
        # The two deadline sockets know these attributes; see http_connection.
        vars(sock).update(deadline=deadline, silence=silence)


def _cut_off(target: _Target, error: Exception) -> TransportError:
    return TransportError(
        "AgentUnreachable",
        f"{target} closed the connection before its answer was whole ({quoted(str(error), 100)})",
    )


def _untrusted(target: _Target, error: Exception) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or "it does not verify"
    else:
        why = "it is not the one pinned in spec.agent.certificate"
    return TransportError(
        "CertificateUntrusted",
        f"the certificate of {target} is not trusted: {why}; renew it, name its CA in spec.agent.ca, or "
        "pin it in spec.agent.certificate",
        kind="stalled",
        sent=False,
    )


def _tls_failed(target: _Target, error: ssl.SSLError) -> TransportError:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return unreachable(target, "it closed the connection during the TLS handshake")
    return TransportError(
        "TlsFailed",
        f"no TLS connection with {target}: {quoted(error.reason or str(error))}; expected TLS 1.2 or newer",
        kind="stalled",
        sent=False,
    )
