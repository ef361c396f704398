"""Agents over HTTP that lie, drip, flood, hang or are somebody else: each is one clear error, in time."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.types import AgentAddress
from capsule.transport.api import MAX_ANSWER, TransportError
from capsule.transport.dial import HostPort, dial, refusal
from capsule.transport.http import HttpTransport
from tests.transport_peers import Authority, HttpAgent, RawServer, raw_server, wait_until

SECRET = b'{"secret": "sk-do-not-repeat-me"}'
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def fails(address: AgentAddress, *, timeout: float = 10.0, **kwargs: Any) -> TransportError:
    transport = HttpTransport(**kwargs)
    began = time.monotonic()
    with contextlib.closing(transport), pytest.raises(TransportError) as caught:
        transport.call(address, "order", SECRET, timeout=timeout)
    assert time.monotonic() - began < timeout + 3
    text = str(caught.value)
    assert "sk-do-not" not in text
    assert text.isprintable()
    assert len(text) < 700
    return caught.value


def at(server: RawServer | HttpAgent, **fields: Any) -> AgentAddress:
    return AgentAddress(endpoint=f"http://127.0.0.1:{server.port}", **fields)


def answers(data: bytes, *, timeout: float = 10.0) -> TransportError:
    with raw_server(lambda _, peer: peer.sendall(data)) as server:
        return fails(at(server), timeout=timeout)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with raw_server(lambda _, peer: peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as other:
        error = answers(
            b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n"
            % (status, other.port)
        )
        assert (error.reason, error.kind) == ("AgentRedirects", "stalled")
        assert other.requests == []


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_a_gigabyte_is_not_read(framing: str) -> None:
    head = {
        "length": b"Content-Length: 1073741824\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "until close": b"",
    }[framing]
    block = b"[" * 65536
    piece = b"10000\r\n" + block + b"\r\n" if framing == "chunked" else block

    def flood(server: RawServer, peer: socket.socket) -> None:
        peer.sendall(JSON_HEAD + head + b"\r\n")
        for _ in range(16384):
            peer.sendall(piece)
            server.sent += len(piece)

    with raw_server(flood) as server:
        assert fails(at(server)).reason == "AnswerTooLarge"
    assert server.sent < 32 * MAX_ANSWER


def test_a_refusal_may_not_flood_either() -> None:
    head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/problem+json\r\n\r\n"
    error = answers(head + b'{"detail": "' + b"x" * (4 * MAX_ANSWER) + b'"}')
    assert error.reason == "AgentRejectedCall"


@pytest.mark.parametrize("part", ["status line", "headers", "body"])
def test_dripped_bytes_do_not_stretch_the_timeout(part: str) -> None:
    whole = {
        "status line": b"HTTP/1.1 200 OK" + b" " * 500,
        "headers": b"X-Drip: 1\r\n" * 50,
        "body": b" " * 500,
    }[part]
    first = {
        "status line": b"",
        "headers": b"HTTP/1.1 200 OK\r\n",
        "body": JSON_HEAD + b"Content-Length: 500\r\n\r\n",
    }[part]

    def script(server: RawServer, peer: socket.socket) -> None:
        peer.sendall(first)
        server.drip(peer, whole, 0.05)

    with raw_server(script) as server:
        error = fails(at(server), timeout=0.6)
    assert (error.reason, error.sent) == ("AgentTimeout", True)


def test_a_tls_agent_that_drips_does_not_stretch_the_timeout(tmp_path: Path) -> None:
    context, digest = Authority(tmp_path).issue("127.0.0.1")

    def script(server: RawServer, peer: socket.socket) -> None:
        server.drip(peer, JSON_HEAD + b"Content-Length: 500\r\n\r\n" + b" " * 500, 0.05)

    with raw_server(script, tls=context) as server:
        address = AgentAddress(endpoint=f"https://127.0.0.1:{server.port}", certificate=digest)
        error = fails(address, timeout=0.6)
    assert (error.reason, error.sent) == ("AgentTimeout", True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_agent_that_never_answers(scheme: str) -> None:
    with raw_server(RawServer.hang, read_request=False) as server:
        address = AgentAddress(endpoint=f"{scheme}://127.0.0.1:{server.port}")
        error = fails(address, timeout=0.4)
    assert error.reason == "AgentTimeout"
    # Without a TLS connection nothing of the call can have been seen.
    assert error.sent is (scheme == "http")


def test_an_agent_that_does_not_read_the_call(tmp_path: Path) -> None:
    with (
        raw_server(RawServer.hang, read_request=False) as server,
        contextlib.closing(HttpTransport()) as transport,
        pytest.raises(TransportError) as caught,
    ):
        transport.call(at(server), "order", b"x" * 30_000_000, timeout=0.5)
    assert (caught.value.reason, caught.value.sent) == ("AgentTimeout", True)


def test_an_endless_interim_answer_ends_with_the_timeout() -> None:
    def script(server: RawServer, peer: socket.socket) -> None:
        while not server.closing.is_set():
            peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    with raw_server(script) as server:
        assert fails(at(server), timeout=0.5).reason == "AgentTimeout"


@pytest.mark.parametrize("silence", [0.2])
def test_silence_within_an_answer_is_bounded_by_itself(silence: float) -> None:
    def script(server: RawServer, peer: socket.socket) -> None:
        peer.sendall(JSON_HEAD + b"Content-Length: 9\r\n\r\n[")
        server.hang(peer)

    with raw_server(script) as server:
        began = time.monotonic()
        assert fails(at(server), timeout=20, read_timeout=silence).reason == "AgentTimeout"
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        JSON_HEAD + b"Content-Length: 500\r\n\r\n{",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 20",
    ],
)
def test_a_connection_closed_in_the_middle(data: bytes) -> None:
    error = answers(data)
    assert error.reason in ("AgentUnreachable", "AnswerMalformed")
    assert (error.kind, error.sent) == ("transient", True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 \x1b[2Jgo\r\n\r\n",
        b"\x00" * 4096 + b"\r\n\r\n",
        b"HTTP/1.1 99999999999999999999 OK\r\n\r\n",
        b"HTTP/1.1 -5 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 None\r\n\r\n",
    ],
)
def test_what_is_not_an_answer_is_said_to_be_none(data: bytes) -> None:
    assert answers(data).reason == "AnswerMalformed"


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"a" * 10_000_000 + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(200_000))],
    ids=["one long", "many"],
)
def test_a_header_bomb(headers: bytes) -> None:
    assert answers(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n").reason in ("AnswerTooLarge", "AnswerMalformed")


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"gzip, gzip"])
def test_a_compressed_answer_is_not_unpacked(coding: bytes) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    head = JSON_HEAD + b"Content-Encoding: " + coding + b"\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    error = answers(head + bomb)
    assert error.reason == "AnswerMalformed"
    assert "compressed" in str(error)


def test_what_a_refusal_says_is_bounded_and_printable() -> None:
    said = b'{"reason": "Bad\\u001b[2J", "detail": "\\u202e\\u001b[31m' + b"A" * 5000 + b'"}'
    head = b"HTTP/1.1 422 No\r\nContent-Type: application/problem+json\r\n"
    error = answers(head + b"Content-Length: %d\r\n\r\n" % len(said) + said)
    assert (error.reason, error.kind, error.agent_reason) == ("AgentRejectedCall", "stalled", "")


@pytest.mark.parametrize(
    "said", [b"[" * 16000, b"[1]", b"\xff", b"{}", b'{"reason": 7, "detail": ["x"]}', b"<html>"]
)
def test_a_refusal_that_is_no_problem_document_is_still_a_refusal(said: bytes) -> None:
    head = b"HTTP/1.1 403 No\r\nContent-Type: application/problem+json\r\n"
    error = answers(head + b"Content-Length: %d\r\n\r\n" % len(said) + said)
    assert (error.reason, error.agent_reason) == ("AgentRejectedCall", "")


@pytest.mark.parametrize(("status", "kind"), [(409, "waiting"), (429, "waiting"), (404, "stalled")])
def test_what_a_refusal_asks_for_follows_its_status(status: int, kind: str) -> None:
    error = answers(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
    assert (error.reason, error.kind) == ("AgentRejectedCall", kind)


def test_a_failure_of_the_agent_passes() -> None:
    error = answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    assert (error.reason, error.kind, error.sent) == ("AgentFailed", "transient", True)


# ---- who it is --------------------------------------------------------------------------------------


def test_a_certificate_of_an_unknown_ca(tmp_path: Path) -> None:
    context, _ = Authority(tmp_path).issue("127.0.0.1")
    with contextlib.closing(HttpAgent(lambda name, body: body, tls=context)) as server:
        error = fails(AgentAddress(endpoint=f"https://127.0.0.1:{server.port}"))
    assert (error.reason, error.kind, error.sent) == ("CertificateUntrusted", "stalled", False)


@pytest.mark.parametrize(("host", "expired"), [("127.0.0.2", False), ("127.0.0.1", True)])
def test_a_certificate_of_another_host_or_expired(tmp_path: Path, host: str, expired: bool) -> None:
    authority = Authority(tmp_path)
    context, _ = authority.issue(host, expired=expired)
    seen: list[bytes] = []
    with contextlib.closing(HttpAgent(lambda name, body: seen.append(body) or b"{}", tls=context)) as server:
        address = AgentAddress(endpoint=f"https://127.0.0.1:{server.port}", ca="house")
        error = fails(address, ca_files={"house": authority.file})
    assert (error.reason, error.kind, error.sent) == ("CertificateUntrusted", "stalled", False)
    assert seen == []


def test_another_certificate_than_the_pinned_one_even_of_the_right_ca(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context, _ = authority.issue("127.0.0.1")
    _, other = authority.issue("127.0.0.1")
    with contextlib.closing(HttpAgent(lambda name, body: body, tls=context)) as server:
        address = AgentAddress(endpoint=f"https://127.0.0.1:{server.port}", ca="house", certificate=other)
        error = fails(address, ca_files={"house": authority.file})
    assert (error.reason, error.kind, error.sent) == ("CertificateUntrusted", "stalled", False)
    assert "pinned" in str(error)


def test_a_connection_made_for_one_trust_is_not_used_for_another(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context, digest = authority.issue("127.0.0.1")
    _, other = authority.issue("127.0.0.1")
    transport = HttpTransport()
    with contextlib.closing(HttpAgent(lambda name, body: body, tls=context)) as server:
        endpoint = f"https://127.0.0.1:{server.port}"
        good = AgentAddress(endpoint=endpoint, certificate=digest)
        assert transport.call(good, "report", b"{}", timeout=10) == b"{}"
        with contextlib.closing(transport), pytest.raises(TransportError) as caught:
            transport.call(AgentAddress(endpoint=endpoint, certificate=other), "report", b"{}", timeout=10)
    assert caught.value.reason == "CertificateUntrusted"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_below_1_2_is_refused(tmp_path: Path) -> None:
    context, digest = Authority(tmp_path).issue("127.0.0.1", most=ssl.TLSVersion.TLSv1_1)
    with contextlib.closing(HttpAgent(lambda name, body: body, tls=context)) as server:
        address = AgentAddress(endpoint=f"https://127.0.0.1:{server.port}", certificate=digest)
        error = fails(address)
    assert error.reason in ("TlsFailed", "AgentUnreachable")
    assert error.sent is False


def test_https_to_an_agent_that_speaks_http() -> None:
    with raw_server(lambda _, peer: peer.sendall(b"HTTP/1.1 400 no\r\n\r\n"), read_request=False) as server:
        error = fails(AgentAddress(endpoint=f"https://127.0.0.1:{server.port}"))
    assert (error.reason, error.kind, error.sent) == ("TlsFailed", "stalled", False)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_ca_that_is_missing_or_unreadable(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    for files in ({}, {"house": file}):
        error = fails(AgentAddress(endpoint="https://127.0.0.1:9", ca="house"), ca_files=files)
        assert (error.reason, error.kind, error.sent) == ("CaUnknown", "stalled", False)


# ---- where it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["10.1.2.3", "agent.example", "127.0.0.1.example", "[2001:db8::1]"])
def test_plain_http_beyond_this_host_needs_insecure(host: str) -> None:
    error = fails(AgentAddress(endpoint=f"http://{host}:7070"))
    assert (error.reason, error.kind, error.sent) == ("InsecureRefused", "stalled", False)


def test_a_name_that_resolves_to_loopback_today_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering("127.0.0.1"))
    assert fails(AgentAddress(endpoint="http://agent.example:7070")).reason == "InsecureRefused"


def test_localhost_that_resolves_elsewhere_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering("10.9.9.9"))
    assert fails(AgentAddress(endpoint="http://localhost:7070")).reason == "InsecureRefused"


def answering(*addresses: str) -> Any:
    """A name server that gives each lookup the next of `addresses`, and the last for ever after."""
    waiting = list(addresses)

    def look_up(host: str, port: int, **kwargs: Any) -> list[Any]:
        address = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    return look_up


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that says something harmless first and the metadata service next gains nothing."""
    monkeypatch.setattr(socket, "getaddrinfo", answering("127.0.0.1", "169.254.169.254"))
    with contextlib.closing(HttpAgent(lambda name, body: body)) as server:
        sock = dial(HostPort("agent.example", server.port), deadline=time.monotonic() + 5, make=socket.socket)
        with contextlib.closing(sock):
            assert sock.getpeername()[0] == "127.0.0.1"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


REFUSED = [
    "169.254.169.254",
    "fe80::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
]


@pytest.mark.parametrize("address", REFUSED)
def test_metadata_and_link_local_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    literal = f"[{address}]" if ":" in address else address
    for scheme in ("https", "http"):
        error = fails(AgentAddress(endpoint=f"{scheme}://{literal}/latest", insecure=True))
        assert (error.reason, error.kind, error.sent) == ("AddressRefused", "stalled", False)
    monkeypatch.setattr(socket, "getaddrinfo", answering(address))
    assert fails(AgentAddress(endpoint="https://agent.example")).reason == "AddressRefused"


@pytest.mark.parametrize("spelling", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662"])
def test_other_spellings_of_a_refused_address_are_refused(spelling: str) -> None:
    assert fails(AgentAddress(endpoint=f"http://{spelling}/", insecure=True)).reason == "AddressRefused"


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "::1", "192.168.1.1", "8.8.8.8", "fd12::1"])
def test_ordinary_addresses_are_not_refused(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("https://bob@host", "AddressRefused"),
        ("https://host:99999", "EndpointInvalid"),
        ("https://host:0", "EndpointInvalid"),
        ("https://-host", "EndpointInvalid"),
        ("https://[::1", "EndpointInvalid"),
        ("https://[fe80::1%25eth0]", "EndpointInvalid"),
        ("https://host\\evil", "EndpointInvalid"),
        ("https://höst", "EndpointInvalid"),
        ("https://host/a?b", "EndpointInvalid"),
        ("https://host/a b\r\nX: y", "EndpointInvalid"),
        ("https:host", "EndpointInvalid"),
        ("ftp://host", "EndpointInvalid"),
        ("unix:relative", "EndpointInvalid"),
        ("unix:/" + "a" * 200, "EndpointInvalid"),
    ],
)
def test_endpoints_that_are_none(endpoint: str, reason: str) -> None:
    """The document's type refuses most of these already; the transport does not rely on it."""
    error = fails(AgentAddress.model_construct(endpoint=endpoint, insecure=False, ca=None, certificate=None))
    assert (error.reason, error.kind, error.sent) == (reason, "stalled", False)


def test_a_dead_name_server_costs_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    over = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        over.wait(30)
        raise OSError("never")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    error = fails(AgentAddress(endpoint="https://agent.example"), timeout=0.3)
    over.set()
    assert asked.is_set()
    assert (error.reason, error.sent) == ("AgentTimeout", False)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(RawServer.hang) as proxy, contextlib.closing(HttpAgent(lambda _, body: body)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with contextlib.closing(HttpTransport()) as transport:
            assert transport.call(at(server), "report", b"{}", timeout=5) == b"{}"
        assert proxy.requests == []


def test_the_head_of_a_call_asks_for_plain_json_below_the_endpoints_path() -> None:
    with raw_server(lambda _, peer: peer.sendall(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")) as server:
        with contextlib.closing(HttpTransport()) as transport:
            address = AgentAddress(endpoint=f"http://127.0.0.1:{server.port}/adapters/chat/")
            assert transport.call(address, "query", b"{}", timeout=5) == b"{}"
        head = server.requests[0].split(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"POST /adapters/chat/capsule/v1/query HTTP/1.1"
    assert b"Accept-Encoding: identity" in head
    assert b"Host: 127.0.0.1:%d" % server.port in head


# ---- kept connections -------------------------------------------------------------------------------


def test_two_hundred_calls_of_sixteen_threads_use_at_most_sixteen_connections() -> None:
    with contextlib.closing(HttpAgent(lambda _, body: body)) as server:
        with contextlib.closing(HttpTransport()) as transport, ThreadPoolExecutor(16) as pool:
            calls = [
                pool.submit(transport.call, at(server), "report", b"%d" % n, timeout=10) for n in range(200)
            ]
            assert [call.result() for call in calls] == [b"%d" % n for n in range(200)]
        assert 1 <= server.connections <= 16


def test_a_kept_connection_that_died_is_replaced_and_the_call_sent_once() -> None:
    def once(_: RawServer, peer: socket.socket) -> None:
        peer.sendall(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")

    with raw_server(once) as server, contextlib.closing(HttpTransport()) as transport:
        for number in range(1, 4):
            assert transport.call(at(server), "order", b"{}", timeout=5) == b"{}"
            wait_until(lambda: server.ended == number)  # noqa: B023 (called within the loop)
            assert len(server.requests) == number


def test_bytes_sent_unasked_are_never_taken_for_the_next_answer() -> None:
    answer = JSON_HEAD + b"Content-Length: 2\r\n\r\n"

    def script(server: RawServer, peer: socket.socket) -> None:
        peer.sendall(answer + b"{}" + answer + b"[]" * 50_000)
        server.hang(peer)

    with raw_server(script) as server, contextlib.closing(HttpTransport()) as transport:
        for _ in range(3):
            assert transport.call(at(server), "order", b"{}", timeout=5) == b"{}"


def test_idle_connections_are_bounded() -> None:
    servers = [HttpAgent(lambda _, body: body) for _ in range(5)]
    with contextlib.closing(HttpTransport(max_connections=2)) as transport:
        for server in [*servers, *servers]:
            assert transport.call(at(server), "report", b"{}", timeout=5) == b"{}"
        assert [server.connections for server in servers] == [2] * 5
        assert transport.call(at(servers[4]), "report", b"{}", timeout=5) == b"{}"
        assert servers[4].connections == 2
    for server in servers:
        server.close()
