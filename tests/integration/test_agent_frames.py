"""The far end of an SSH connection when the agent's own server speaks frames: nothing relays between them."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from capsule_agent import Agent
from capsule_agent.protocol.frames import Frame, FrameReader, frame
from capsule_agent.protocol.messages import ReportCall
from capsule_agent.stdio import socket_command
from tests.agent_fixtures import healthy, make_agent, read_report


class FarEnd:
    """The far end of an SSH connection as sshd runs it, with its frames."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._reader = FrameReader()
        self._waiting: list[Frame] = []

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def next(self) -> Frame:
        assert self.process.stdout is not None
        while not self._waiting:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the far end closed its output"
            self._waiting += self._reader.feed(data)
        return self._waiting.pop(0)

    def threads(self) -> int:
        """The pump has two threads; the relay of single calls has one while it waits."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


StartFarEnd = Callable[[Path], AbstractContextManager[FarEnd]]


def _by_name(path: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("capsule-agent")), "stdio", "--socket", str(path)]


def _as_printed(path: Path) -> list[str]:
    return shlex.split(socket_command(str(path)))


@pytest.fixture(params=[_by_name, _as_printed])
def far_end(request: pytest.FixtureRequest) -> StartFarEnd:
    """Both commands that lead to a socket: what holds of one holds of the other."""

    @contextmanager
    def start(path: Path) -> Iterator[FarEnd]:
        found = FarEnd(request.param(path))
        with found.process:
            try:
                yield found
            finally:
                found.process.kill()

    return start


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = make_agent(tmp_path)
    found.health(healthy)
    yield found
    found.close()


def report_call(number: int, nonce: str) -> bytes:
    head = {"kind": "call", "id": number, "call": "report", "timeout": 20.0}
    return frame(head, ReportCall(nonce).to_json())


def test_calls_and_pings_reach_the_agent(agent: Agent, tmp_path: Path, far_end: StartFarEnd) -> None:
    with agent.serve_unix(tmp_path / "a.sock"), far_end(tmp_path / "a.sock") as far:
        assert far.next().head == {"kind": "hello"}
        far.send(frame({"kind": "ping", "id": 7}))
        assert far.next().head == {"kind": "pong", "id": 7}
        assert far.threads() == 2
        far.send(report_call(1, "first") + report_call(2, "second"))
        answers = {one.head["id"]: one for one in (far.next(), far.next())}
    assert {number: read_report(one.body).nonce for number, one in answers.items()} == {
        1: "first",
        2: "second",
    }
    assert [(one.head["kind"], one.head["status"]) for one in answers.values()] == [("answer", 200)] * 2


def test_what_is_no_call_fails_alone(agent: Agent, tmp_path: Path, far_end: StartFarEnd) -> None:
    with agent.serve_unix(tmp_path / "a.sock"), far_end(tmp_path / "a.sock") as far:
        far.next()
        far.send(frame({"kind": "call", "id": 1, "call": "sudo", "timeout": 20.0}))
        head = far.next().head
        assert (head["kind"], head["reason"], head["sent"]) == ("failure", "CallUnknown", False)
        far.send(report_call(2, "after"))
        assert read_report(far.next().body).nonce == "after"


def test_it_ends_with_either_side(agent: Agent, tmp_path: Path, far_end: StartFarEnd) -> None:
    with agent.serve_unix(tmp_path / "a.sock"), far_end(tmp_path / "a.sock") as far:
        far.next()
        assert far.process.stdin is not None
        far.process.stdin.close()
        assert far.process.wait(10) == 0
    handle = agent.serve_unix(tmp_path / "b.sock")
    with far_end(tmp_path / "b.sock") as far:
        far.next()
        handle.close()
        assert far.process.wait(10) == 0


def test_without_an_agent_each_call_says_what_is_wrong(tmp_path: Path, far_end: StartFarEnd) -> None:
    with far_end(tmp_path / "nobody.sock") as far:
        assert far.next().head == {"kind": "hello"}
        far.send(report_call(1, "nobody"))
        head = far.next().head
    assert (head["kind"], head["reason"], head["sent"]) == ("failure", "AgentUnreachable", False)


def test_bytes_that_are_no_frame_end_that_connection_alone(
    agent: Agent, tmp_path: Path, far_end: StartFarEnd
) -> None:
    with agent.serve_unix(tmp_path / "a.sock"):
        with far_end(tmp_path / "a.sock") as bad:
            bad.next()
            bad.send(b"GET / HTTP/1.1\r\n\r\n")
            assert bad.process.wait(10) == 0
        with far_end(tmp_path / "a.sock") as good:
            assert good.next().head == {"kind": "hello"}


def test_a_port_speaks_no_frames(agent: Agent) -> None:
    with agent.serve() as handle:
        host, _, port = handle.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(
                b"GET /capsule/v1/frames HTTP/1.1\r\nHost: localhost\r\n"
                b"Connection: Upgrade\r\nUpgrade: capsule-frames\r\n\r\n"
            )
            head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert not body or json.loads(body)["reason"] == "NoSuchCall"
