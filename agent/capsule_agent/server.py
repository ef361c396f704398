"""A server of the agent's own: HTTP/1.1 on a port or a Unix socket, in threads of its own. On a Unix socket
it also speaks frames, so that nothing need stand between it and an SSH connection.

Rules kept: bodies, headers, connections and the time to send a request are bounded; one slow client holds
up no other; TLS handshakes happen in the connection's thread. Called by Agent.serve and Agent.serve_unix.
"""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from capsule_agent.calls import MAX_BODY, Answer, Calls, check_head, problem
from capsule_agent.pump import FRAMES_PATH, UPGRADE
from capsule_agent.sensitive import log
from capsule_agent.stdio import Answered, relay

REQUEST_SECONDS = 15.0
IDLE_SECONDS = 75.0
MAX_CONNECTIONS = 64
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket: sun_path of unix(7) and of BSD's unix(4), less its ending zero."""


class _Handler(BaseHTTPRequestHandler):
    """One connection. The server's watch closes it when a request takes too long to arrive."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "capsule-agent"
    sys_version = ""
    timeout = IDLE_SECONDS

    def parse_request(self) -> bool:
        self.server.watch(self.connection, REQUEST_SECONDS)
        return super().parse_request()

    def do_POST(self) -> None:
        length = check_head(
            self.command,
            self.path,
            self.headers.get("Content-Type") or "",
            None if "Transfer-Encoding" in self.headers else self.headers.get("Content-Length"),
        )
        if isinstance(length, Answer):
            self._drop_body()
            self._send(length)
            return
        body = self.rfile.read(length)
        self.server.watch(self.connection, None)
        if len(body) == length:
            self._send(self.server.calls.answer(self.path, body))
        else:
            self.close_connection = True
        self.server.watch(self.connection, IDLE_SECONDS)

    def do_GET(self) -> None:
        """The pump of an SSH connection asks for frames instead of HTTP; nothing else is to be got."""
        asked = (self.path, self.headers.get("Upgrade"))
        if self.server.speaks_frames and asked == (FRAMES_PATH, UPGRADE):
            self._serve_frames()
        else:
            self.do_POST()

    def _serve_frames(self) -> None:
        self.server.watch(self.connection, None)
        self.send_response_only(101, "Switching Protocols")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", UPGRADE)
        self.end_headers()
        self.close_connection = True
        self.connection.settimeout(None)
        sending = threading.Lock()

        def sink(data: bytes) -> None:
            with sending:
                self.connection.sendall(data)

        def forward(call: str, body: bytes, timeout: float) -> Answered:  # noqa: ARG001 (the caller's own)
            answer = self.server.calls.answer(f"/capsule/v1/{call}", body)
            return Answered(answer.status, answer.headers[0][1], answer.body)

        relay(self.connection, sink, forward)

    def _drop_body(self) -> None:
        """Read what a refused client is still sending, if it is not much: a reset would hide the answer."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
        else:
            self.rfile.read(int(length))

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST  # noqa: N815 (names of the base)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class answers in HTML: answer with a problem instead."""
        self.close_connection = True
        self.request_version = "HTTP/1.1"
        status = code if code in (400, 405, 408) else 400
        self._send(problem(status, "RequestInvalid", message or explain or "not an HTTP/1.1 request"))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def address_string(self) -> str:
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s %s", self.address_string(), format % args)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    tls: ssl.SSLContext | None = None
    speaks_frames = False

    def __init__(self, address: Any, calls: Calls) -> None:
        self.calls = calls
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def watch(self, connection: socket.socket, within: float | None) -> None:
        """Close `connection` unless it is watched anew within so many seconds; None: do not."""
        with self._lock:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + (1e9 if within is None else within)

    def service_actions(self) -> None:
        """Called several times a second by the accepting loop: end connections that are past their time."""
        now = time.monotonic()
        with self._lock:
            late = [connection for connection, deadline in self._deadlines.items() if deadline < now]
        for connection in late:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (of the base)
        """Accept up to MAX_CONNECTIONS at once."""
        with self._lock:
            if len(self._deadlines) >= MAX_CONNECTIONS:
                return False
            self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
            return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (of the base)
        """A client that went away, or spoke no TLS: not worth a traceback."""
        log.debug("a connection from %s ended early", client_address)

    def close_all(self) -> None:
        with self._lock:
            connections = list(self._deadlines)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
    allow_reuse_address = False
    speaks_frames = True

    def server_bind(self) -> None:
        """As the base, without its look-up of a host name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address), 0


class ServerHandle:
    """A running server. `address` is the endpoint as a service document names it."""

    def __init__(self, server: _Server, address: str, path: Path | None = None) -> None:
        self.address = address
        self._server = server
        self._path = path
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="capsule-agent", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop accepting, end all connections, and remove the Unix socket."""
        self._server.shutdown()
        self._server.close_all()
        self._server.server_close()
        self._thread.join()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> ServerHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(calls: Calls, host: str, port: int, tls: ssl.SSLContext | None) -> ServerHandle:
    """Serve on `host` and `port` (0: any free one)."""
    server = _Server((host, port), calls)
    server.tls = tls
    scheme = "https" if tls else "http"
    return ServerHandle(server, f"{scheme}://{server.server_address[0]!s}:{server.server_address[1]}")


def serve_unix(calls: Calls, path: str | os.PathLike[str], mode: int) -> ServerHandle:
    """Serve on a Unix socket with file mode `mode`; a socket that nobody listens on is replaced.

    Raises OSError (ENAMETOOLONG) for a path that is longer than the system takes: 107 bytes on Linux.
    """
    where = Path(path).absolute()
    if len(os.fsencode(where)) > _LONGEST_SOCKET:
        told = f"the path of a Unix socket has at most {_LONGEST_SOCKET} bytes: choose a shorter one"
        raise OSError(errno.ENAMETOOLONG, told, str(where))
    _remove_dead_socket(where)
    mask = os.umask(0o777 & ~mode)
    try:
        server = _UnixServer(str(where), calls)
    finally:
        os.umask(mask)
    return ServerHandle(server, f"unix:{where}", where)


def _remove_dead_socket(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
