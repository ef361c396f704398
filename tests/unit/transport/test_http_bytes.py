"""What goes over the wire: one request, whole, with its headers; an answer cut short is none."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from capsule.documents.types import AgentAddress
from capsule.transport.api import TransportError
from capsule.transport.http import MOST_KEPT, HttpTransport, affordable_connections

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def peer(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port whose first connection gets `answer` to its first packet, and the packet."""
    got: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            got.append(connection.recv(65536))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], got
        thread.join(5)


def test_a_call_is_one_packet() -> None:
    with peer(OK) as (port, got), contextlib.closing(HttpTransport()) as transport:
        address = AgentAddress(endpoint=f"http://127.0.0.1:{port}/base/")
        assert transport.call(address, "report", b'{"nonce": "0"}', timeout=5) == b"{}"
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert body == b'{"nonce": "0"}'
    assert head.decode().split("\r\n") == [
        "POST /base/capsule/v1/report HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept: application/json, application/problem+json",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        "User-Agent: capsule",
        "Content-Length: 14",
    ]


def test_an_answer_that_ends_too_early_is_none() -> None:
    short = OK.replace(b"Length: 2", b"Length: 3")
    with peer(short) as (port, _), contextlib.closing(HttpTransport()) as transport:
        address = AgentAddress(endpoint=f"http://127.0.0.1:{port}")
        with pytest.raises(TransportError) as caught:
            transport.call(address, "report", b"{}", timeout=5)
    assert caught.value.reason == "AgentUnreachable"
    assert caught.value.sent


def test_idle_connections_leave_files_for_everything_else() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < affordable_connections() <= MOST_KEPT
    assert soft == resource.RLIM_INFINITY or affordable_connections() <= soft // 2
