"""The same conformance tests over every way to serve an agent: Flask, ASGI frameworks, own server, socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import flask
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.serving import make_server

from capsule_agent import Agent, server
from capsule_agent.calls import MAX_BODY
from tests.agent_fixtures import (
    NOW,
    SERVICE,
    Ask,
    KeyStore,
    body,
    desired,
    healthy,
    make_agent,
    read_receipt,
    read_report,
)

Connect = Callable[[], http.client.HTTPConnection]


@dataclass
class Served:
    """An agent that is reachable, its prefix, and whether traffic shares its port."""

    agent: Agent
    store: KeyStore
    connect: Connect
    prefix: str = ""
    traffic: bool = False

    def send(
        self, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            connection.request(method, self.prefix + path, data, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def call(self, name: str, data: bytes) -> bytes:
        status, headers, answer = self.send(
            "POST", f"/capsule/v1/{name}", data, {"Content-Type": "application/json"}
        )
        assert (status, headers["content-type"]) == (200, "application/json"), answer
        return answer

    def problem(self, *arguments: object) -> tuple[int, str]:
        status, headers, answer = self.send(*arguments)  # type: ignore[arg-type]  # passed on as they came
        assert headers["content-type"] == "application/problem+json"
        found = json.loads(answer)
        assert found["status"] == status
        return status, found["reason"]


def tcp(host: str, port: int) -> Connect:
    return lambda: http.client.HTTPConnection(host, port, timeout=20)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


@contextlib.contextmanager
def werkzeug_on(app: object) -> Iterator[Connect]:
    running = make_server("127.0.0.1", 0, app, threaded=True)  # type: ignore[arg-type]  # any WSGI app
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield tcp("127.0.0.1", running.server_port)
    finally:
        running.shutdown()
        thread.join(10)
        running.server_close()


@contextlib.contextmanager
def uvicorn_on(app: object) -> Iterator[Connect]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="on", ws="none")  # type: ignore[arg-type]  # ASGI
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 20
        while not running.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield tcp("127.0.0.1", listening.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join(10)


def flask_app(agent: Agent) -> object:
    app = flask.Flask("adapter")
    app.add_url_rule("/work", "work", lambda: "done")
    return agent.wsgi(app.wsgi_app)


def fastapi_app(agent: Agent) -> object:
    app = FastAPI()
    app.add_api_route("/work", lambda: "done", response_class=PlainTextResponse)
    return agent.asgi(app)


def starlette_app(agent: Agent) -> object:
    """The guard inside, and the agent under a prefix of its own."""
    guarded = agent.guard_asgi(PlainTextResponse("done"))
    return Starlette(routes=[Mount("/internal/agent", agent.asgi()), Route("/work", guarded)])


KINDS = ["flask", "fastapi", "starlette", "bare wsgi", "bare asgi", "own server", "unix socket"]


@contextlib.contextmanager
def serving(kind: str, agent: Agent, folder: Path) -> Iterator[tuple[Connect, str, bool]]:
    with contextlib.ExitStack() as stack:
        if kind == "flask":
            yield stack.enter_context(werkzeug_on(flask_app(agent))), "", True
        elif kind == "fastapi":
            yield stack.enter_context(uvicorn_on(fastapi_app(agent))), "", True
        elif kind == "starlette":
            yield stack.enter_context(uvicorn_on(starlette_app(agent))), "/internal/agent", False
        elif kind == "bare wsgi":
            yield stack.enter_context(werkzeug_on(agent.wsgi())), "", False
        elif kind == "bare asgi":
            yield stack.enter_context(uvicorn_on(agent.asgi())), "", False
        elif kind == "own server":
            handle = stack.enter_context(agent.serve())
            host, _, port = handle.address.removeprefix("http://").partition(":")
            yield tcp(host, int(port)), "", False
        else:
            stack.enter_context(agent.serve_unix(folder / "agent.sock"))
            yield lambda: UnixConnection(str(folder / "agent.sock")), "", False


@pytest.fixture(params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    store = KeyStore()
    agent = make_agent(tmp_path)
    agent.rotation(store.rotation())
    agent.health(healthy)
    agent.config("apiKey", lambda: "sk-of-this-test", sensitive=True)
    with serving(request.param, agent, tmp_path) as (connect, prefix, traffic):
        yield Served(agent, store, connect, prefix, traffic)
    agent.close()


def test_a_service_is_reported_rotated_and_switched_off(served: Served) -> None:
    report = read_report(served.call("report", b'{"nonce": "n-1"}'))
    assert (report.service, report.nonce, report.enabled, report.health.status) == (
        SERVICE,
        "n-1",
        True,
        "UP",
    )
    assert report.fingerprints["apiKey"].startswith("hmac-sha256:")
    assert read_receipt(served.call("query", body(Ask().query()))).reason == "NeverSeen"
    first = served.call("order", body(Ask().envelope()))
    assert read_receipt(first).outcome == "succeeded"
    assert served.call("order", body(Ask().envelope())) == first
    assert served.call("query", body(Ask().query())) == first
    assert served.store.created == 1
    receipt = read_receipt(served.call("order", body(desired("disable", 1, reason="incident"))))
    assert receipt.outputs == {"enabled": False, "disabledReason": "spec: incident"}
    if served.traffic:
        status, headers, _ = served.send("GET", "/work")
        assert (status, headers["retry-after"]) == (503, "30")
        assert served.problem("POST", "/work/capsule/v1/order", b"{}") == (503, "Disabled")
    assert read_report(served.call("report", b'{"nonce": ""}')).disabled_reason == "spec: incident"
    assert read_receipt(served.call("order", body(desired("enable", 2)))).outcome == "succeeded"
    if served.traffic:
        assert served.send("GET", "/work")[::2] == (200, b"done")


def test_what_is_no_call_is_told_so(served: Served) -> None:
    json_type = {"Content-Type": "application/json"}
    assert served.problem("POST", "/capsule/v1/order", b"{}", json_type) == (400, "MessageInvalid")
    assert served.problem("POST", "/capsule/v1/other", b"{}", json_type) == (404, "NoSuchCall")
    assert served.problem("GET", "/capsule/v1/report") == (405, "MethodNotAllowed")
    text = {"Content-Type": "text/plain"}
    assert served.problem("POST", "/capsule/v1/report", b"{}", text) == (415, "NotJson")
    forged = body(Ask().envelope(by="mallory"))
    assert served.problem("POST", "/capsule/v1/order", forged, json_type) == (403, "OrderForged")


def test_a_body_above_the_bound_is_not_read(served: Served) -> None:
    connection = served.connect()
    with contextlib.closing(connection):
        connection.putrequest("POST", served.prefix + "/capsule/v1/order")
        connection.putheader("Content-Length", str(MAX_BODY + 1))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["reason"]) == (413, "BodyTooLarge")
    assert read_receipt(served.call("query", body(Ask().query()))).reason == "NeverSeen"


# ---- the server of the agent's own -----------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Agent, tuple[str, int]]]:
    agent = make_agent(tmp_path)
    with agent.serve() as handle:
        host, _, port = handle.address.removeprefix("http://").partition(":")
        yield agent, (host, int(port))
    agent.close()


def raw(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=20) as connection:
        # A refused connection may be gone before, or while, anything is sent.
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /capsule/v1/report HTTP/1.1\r\nHost: a\r\n\r\n", b"411"),
        (b"POST /capsule/v1/report HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /capsule/v1/report HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", b"413"),
        (
            b"POST /capsule/v1/report HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            b"411",
        ),
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"BREW /capsule/v1/report HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),
    ],
)
def test_the_own_server_answers_odd_requests(
    own: tuple[Agent, tuple[str, int]], data: bytes, status: bytes
) -> None:
    answer = raw(own[1], data)
    assert status in answer.split(b"\r\n")[0]
    assert b"application/problem+json" in answer
    assert b"Python" not in answer


def test_slow_clients_hold_up_nobody_and_are_ended(
    own: tuple[Agent, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(own[1], timeout=20)) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"POST /capsule/v1/report HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        client = stack.enter_context(contextlib.closing(tcp(*own[1])()))
        client.request("POST", "/capsule/v1/report", b'{"nonce": "quick"}')
        assert read_report(client.getresponse().read()).nonce == "quick"
        for connection in slow:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1000) == b""


def test_connections_are_bounded(own: tuple[Agent, tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            kept = stack.enter_context(contextlib.closing(tcp(*own[1])()))
            kept.request("POST", "/capsule/v1/report", b'{"nonce": ""}')
            assert kept.getresponse().read()
        assert raw(own[1], b"POST /capsule/v1/report HTTP/1.1\r\n\r\n") == b""


def test_a_connection_is_kept_for_the_next_call(own: tuple[Agent, tuple[str, int]]) -> None:
    with contextlib.closing(tcp(*own[1])()) as client:
        for nonce in ("a", "b", "c"):
            client.request("POST", "/capsule/v1/report", json.dumps({"nonce": nonce}))
            assert read_report(client.getresponse().read()).nonce == nonce
            sock = client.sock
            assert sock is not None


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1, made for this test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "agent.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + made.public_bytes(Encoding.PEM))
    return path


def test_tls_is_served_and_a_silent_client_holds_up_nobody(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    agent = make_agent(tmp_path)
    with agent.serve(tls=context) as handle, contextlib.ExitStack() as stack:
        host, _, port = handle.address.removeprefix("https://").partition(":")
        stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        client = http.client.HTTPSConnection(host, int(port), timeout=20, context=trusting)
        stack.callback(client.close)
        client.request("POST", "/capsule/v1/report", b'{"nonce": "tls"}')
        assert read_report(client.getresponse().read()).nonce == "tls"
    agent.close()


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    agent = make_agent(tmp_path)
    with agent.serve_unix(path, mode=0o660) as handle:
        assert handle.address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(OSError, match="in use"):
            agent.serve_unix(path)
    assert not path.exists()
    agent.close()


def test_a_socket_path_longer_than_the_system_takes_is_named(tmp_path: Path) -> None:
    agent = make_agent(tmp_path)
    long = tmp_path / ("x" * 120) / "agent.sock"
    with pytest.raises(OSError, match="bytes: choose a shorter one") as raised:
        agent.serve_unix(long)
    assert raised.value.filename == str(long)
    agent.close()
