"""The other ends of transports for tests: an HTTP agent on TCP, TLS or a Unix socket, certificates of an own
CA, and a raw server that says exactly what a test tells it to."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Handle = Callable[[str, bytes], bytes]
CALL_PREFIX = "/capsule/v1/"


class Refuse(Exception):
    """Raised by a handler: answer with problem+json."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Poll until `condition` holds; fail the test when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.01)


class HttpAgent:
    """An HTTP/1.1 server that gives calls to `handle`, and counts the connections it accepted."""

    def __init__(
        self,
        handle: Handle,
        *,
        host: str = "127.0.0.1",
        unix_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handle = handle
        self.connections = 0
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = unix_path is None
            timeout = 30

            def setup(self) -> None:
                agent.connections += 1
                super().setup()

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
                    super().handle()

            def address_string(self) -> str:
                return "peer"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    status, kind = 200, "application/json"
                    answer = agent.handle(self.path.removeprefix(CALL_PREFIX), body)
                except Refuse as refusal:
                    status, kind = refusal.status, "application/problem+json"
                    problem = {"title": "no", "reason": refusal.reason, "detail": refusal.detail}
                    answer = json.dumps({"status": status, **problem}).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        family = socket.AF_UNIX if unix_path else socket.AF_INET6 if ":" in host else socket.AF_INET

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            address_family = family
            daemon_threads = True
            request_queue_size = 128

            def finish_request(self, request: Any, client: Any) -> None:
                if tls is not None:
                    request.settimeout(10)
                    try:
                        request = tls.wrap_socket(request, server_side=True)
                    except OSError:
                        return
                with contextlib.closing(request):
                    Handler(request, client, self)

            def server_bind(self) -> None:
                self.socket.bind(self.server_address)
                self.server_address = self.socket.getsockname()

        where: Any = str(unix_path) if unix_path else (host, 0)
        self._server = Server(where, Handler)
        self.port: int = 0 if unix_path else self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class RawServer:
    """Runs `script(connection)` for every connection, after it has read the request's head and body."""

    def __init__(
        self,
        script: Callable[[socket.socket], None],
        *,
        read_request: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._script = script
        self._read_request = read_request
        self._tls = tls
        self.closing = threading.Event()
        self.requests: list[bytes] = []
        self.sent = 0
        self.ended = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def drip(self, connection: socket.socket, data: bytes, every: float) -> None:
        """Send byte after byte, each `every` seconds, until the peer or the test goes away."""
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            if self.closing.wait(every):
                return

    def hang(self, connection: socket.socket) -> None:
        """Say nothing until the test is over."""
        self.closing.wait(30)

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.settimeout(10)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with contextlib.closing(connection):
                if self._read_request:
                    self.requests.append(read_request(connection))
                self._script(connection)
        self.ended += 1


def read_request(connection: socket.socket) -> bytes:
    """One whole HTTP request, head and body."""
    found = b""
    while b"\r\n\r\n" not in found:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("closed before the end of the head")
        found += chunk
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def raw_server(script: Callable[[RawServer, socket.socket], None], **kwargs: Any) -> Iterator[RawServer]:
    """A RawServer whose script also gets the server."""
    box: list[RawServer] = []
    server = RawServer(lambda connection: script(box[0], connection), **kwargs)
    box.append(server)
    try:
        yield server
    finally:
        server.close()


class Authority:
    """A private CA and the server certificates it issues, as PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            self._builder(
                self._name, self._key, now - datetime.timedelta(days=9), now + datetime.timedelta(9)
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, start: Any, end: Any
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )

    def issue(
        self, host: str, *, expired: bool = False, most: ssl.TLSVersion | None = None
    ) -> tuple[ssl.SSLContext, str]:
        """A server's TLS context for `host`, and the sha256:… digest of its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        end = now - datetime.timedelta(days=1) if expired else now + datetime.timedelta(days=5)
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
        certificate = (
            self._builder(subject, key, now - datetime.timedelta(days=8), end)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if most is not None:
            context.maximum_version = most
        digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        return context, f"sha256:{digest}"
