"""What holds for every transport, checked for each of them by the same tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from capsule.documents.types import AgentAddress
from capsule.testing.memory_transport import MemoryTransport
from capsule.transport.api import MAX_ANSWER, CallName, Transport, TransportError
from capsule.transport.http import HttpTransport
from capsule.transport.routing import Transports
from capsule.transport.ssh import SshTransport
from tests.sshd import Sshd, keygen, relay_command
from tests.transport_peers import Authority, HttpAgent, Refuse

NAMES: tuple[CallName, ...] = ("report", "order", "query")


@dataclass
class Line:
    """A transport, the address of an agent that lives in this process, and what the agent was asked."""

    transport: Transport
    address: AgentAddress
    nowhere: AgentAddress
    stuck: threading.Event
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    def call(self, body: bytes, name: CallName = "order", timeout: float = 20.0) -> bytes:
        return self.transport.call(self.address, name, body, timeout=timeout)


class Agent:
    """Answers as the first word of the body says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.stuck = threading.Event()

    def handle(self, name: str, body: bytes) -> bytes:
        self.seen.append((name, body))
        if body.startswith(b"size "):
            return b"x" * int(body.split()[1])
        if body.startswith(b"stuck"):
            self.stuck.wait(30)
        if body.startswith(b"refuse"):
            raise Refuse(403, "NoApproval", "this order is not approved")
        return name.encode() + b":" + body


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def memory_line(folder: Path, agent: Agent) -> Iterator[Line]:
    transport = MemoryTransport()
    transport.connect("https://agent", lambda name, body: refusing(agent, name, body))
    yield Line(
        transport, AgentAddress(endpoint="https://agent"), AgentAddress(endpoint="https://no"), agent.stuck
    )


def refusing(agent: Agent, name: str, body: bytes) -> bytes:
    try:
        return agent.handle(name, body)
    except Refuse as refusal:
        raise TransportError(
            "AgentRejectedCall", str(refusal), kind="stalled", agent_reason=refusal.reason
        ) from None


@contextlib.contextmanager
def http_line(folder: Path, agent: Agent) -> Iterator[Line]:
    with contextlib.closing(HttpAgent(agent.handle)) as server:
        yield Line(
            HttpTransport(),
            AgentAddress(endpoint=f"http://127.0.0.1:{server.port}"),
            AgentAddress(endpoint=f"http://127.0.0.1:{free_port()}"),
            agent.stuck,
        )


@contextlib.contextmanager
def https_line(folder: Path, agent: Agent) -> Iterator[Line]:
    authority = Authority(folder)
    context, _ = authority.issue("localhost")
    with contextlib.closing(HttpAgent(agent.handle, tls=context)) as server:
        yield Line(
            HttpTransport(ca_files={"house": authority.file}),
            AgentAddress(endpoint=f"https://localhost:{server.port}", ca="house"),
            AgentAddress(endpoint=f"https://localhost:{free_port()}", ca="house"),
            agent.stuck,
        )


@contextlib.contextmanager
def pinned_line(folder: Path, agent: Agent) -> Iterator[Line]:
    context, digest = Authority(folder).issue("some.other.name", expired=True)
    with contextlib.closing(HttpAgent(agent.handle, tls=context)) as server:
        yield Line(
            HttpTransport(),
            AgentAddress(endpoint=f"https://127.0.0.1:{server.port}", certificate=digest),
            AgentAddress(endpoint=f"https://127.0.0.1:{free_port()}", certificate=digest),
            agent.stuck,
        )


@contextlib.contextmanager
def unix_line(folder: Path, agent: Agent) -> Iterator[Line]:
    with contextlib.closing(HttpAgent(agent.handle, unix_path=folder / "agent.sock")):
        yield Line(
            HttpTransport(),
            AgentAddress(endpoint=f"unix:{folder}/agent.sock"),
            AgentAddress(endpoint=f"unix:{folder}/none.sock"),
            agent.stuck,
        )


@contextlib.contextmanager
def ssh_line(folder: Path, agent: Agent) -> Iterator[Line]:
    key = keygen(folder / "key")
    with (
        contextlib.closing(HttpAgent(agent.handle, unix_path=folder / "agent.sock")),
        contextlib.closing(Sshd(folder / "sshd")) as sshd,
    ):
        sshd.authorize(key, relay_command("--socket", f"{folder}/agent.sock"))
        yield Line(
            SshTransport(keys=[folder / "key"]),
            AgentAddress(endpoint=sshd.endpoint, host_key=sshd.host_key),
            AgentAddress(endpoint=f"ssh://127.0.0.1:{free_port()}", host_key=sshd.host_key),
            agent.stuck,
        )


LINES = {
    "memory": memory_line,
    "http": http_line,
    "https": https_line,
    "pinned": pinned_line,
    "unix": unix_line,
    "ssh": ssh_line,
}


@pytest.fixture(params=sorted(LINES))
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    agent = Agent()
    with LINES[request.param](tmp_path, agent) as line:
        scheme = line.address.endpoint.partition(":")[0]
        line.transport = Transports({scheme: line.transport})
        line.seen = agent.seen
        yield line
        agent.stuck.set()
        line.transport.close()


def refused(
    line: Line, body: bytes, timeout: float = 20.0, address: AgentAddress | None = None
) -> TransportError:
    with pytest.raises(TransportError) as caught:
        line.transport.call(address or line.address, "order", body, timeout=timeout)
    assert body.decode() not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_call_and_answer_arrive_byte_for_byte(line: Line, name: CallName) -> None:
    body = '{"text": "Grüße\\n\u2028", "more": "\r\n\r\n"}'.encode() + b"\x00" * 7
    assert line.call(body, name) == name.encode() + b":" + body
    assert line.seen == [(name, body)]


def test_large_bodies_pass_both_ways(line: Line) -> None:
    body = b"0123456789abcdef" * 16_000
    assert line.call(body) == b"order:" + body


def test_the_largest_answer_passes_and_one_byte_more_does_not(line: Line) -> None:
    assert line.call(b"size %d" % MAX_ANSWER) == b"x" * MAX_ANSWER
    error = refused(line, b"size %d" % (MAX_ANSWER + 1))
    assert (error.reason, error.sent) == ("AnswerTooLarge", True)
    assert line.call(b"again") == b"order:again"


def test_a_silent_agent_costs_the_timeout_and_no_other_call(line: Line) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(refused, line, b"stuck", 1.0)
        assert line.call(b"meanwhile", timeout=10) == b"order:meanwhile"
        error = stuck.result()
    assert (error.reason, error.kind, error.sent) == ("AgentTimeout", "transient", True)
    assert time.monotonic() - began < 8
    assert line.call(b"later") == b"order:later"


def test_an_agent_that_is_not_there_has_certainly_not_seen_the_call(line: Line) -> None:
    error = refused(line, b"anybody?", address=line.nowhere)
    assert (error.reason, error.kind, error.sent) == ("AgentUnreachable", "transient", False)


def test_a_refusal_of_the_agent_is_told_with_its_reason(line: Line) -> None:
    error = refused(line, b"refuse")
    assert (error.reason, error.kind, error.agent_reason) == ("AgentRejectedCall", "stalled", "NoApproval")
    assert "this order is not approved" in str(error)
    assert line.call(b"next") == b"order:next"


def test_many_threads_get_their_own_answers(line: Line) -> None:
    bodies = [b"call %d" % number for number in range(200)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(line.call, bodies))
    assert answers == [b"order:" + body for body in bodies]
    assert sorted(body for _, body in line.seen) == sorted(bodies)


def test_closing_twice_is_closing(line: Line) -> None:
    line.call(b"one")
    line.transport.close()
    line.transport.close()
