"""Thousands of agents in one process, for the bench of probing: real reports, signed with a key for each.

Rules kept: what is sent is what an agent sends (the text of a real agent's report, with the name, nonce,
times and signature of each service); a silent agent accepts and never answers; when each service was asked
is noted here, so that lateness is judged by who was asked, not by who asks. Run by bench.probes as
`python -m bench.probe_agents COUNT`; speaks JSON lines on stdin and stdout.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from capsule_agent import Agent
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import ReportCall
from tests.agent_fixtures import KeyStore, healthy, key, write_owners

SAMPLE = "service-00000"
_NONCE = "0" * 32
_AT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def service_name(number: int) -> str:
    """The name of one of the services, which is also the first part of its endpoint's path."""
    return f"service-{number:05}"


def sample_report() -> str:
    """The payload of a report by a real agent with a rotation, a settable pin and a sensitive value."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agent = Agent(
            SAMPLE,
            version="1.8.2",
            journal=folder / "agent.db",
            owners=write_owners(folder / "owners", "carol"),
            key=key(f"agent {SAMPLE}"),
        )
        store = KeyStore()
        agent.config("model", lambda: "m1", set=lambda _: None)
        agent.config("upstream", lambda: "https://api.example.com/v1")
        agent.config("apiKey", lambda: f"secret-of-{store.in_use}", sensitive=True)
        agent.health(healthy)
        agent.rotation(store.rotation())
        answer = agent.answer("/capsule/v1/report", ReportCall(_NONCE).to_json())
        agent.close()
    assert answer.status == 200, answer.body
    payload: str = json.loads(answer.body)["payload"]
    return payload


class _Agents:
    """What all connections share."""

    def __init__(self, count: int) -> None:
        self._sample = sample_report()
        self._keys = {service_name(at): key(f"agent {service_name(at)}") for at in range(count)}
        self.asked: dict[str, list[float]] = {name: [] for name in self._keys}

    def report(self, name: str, nonce: str) -> bytes:
        """The envelope that `name` answers now."""
        self.asked[name].append(time.monotonic())
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        payload = _AT.sub(at, self._sample.replace(SAMPLE, name).replace(_NONCE, nonce))
        signature = self._keys[name].sign(payload.encode(), sshsig.REPORT)
        return json.dumps({"payload": payload, "signature": signature}).encode()

    def forget(self) -> None:
        """Count from now on."""
        for times in self.asked.values():
            del times[:-1]  # the last one before begins the first gap

    def gaps(self) -> dict[str, float]:
        """The longest time that each service went unasked until now, in seconds."""
        now = time.monotonic()
        return {
            name: max(later - earlier for earlier, later in zip(times, [*times[1:], now], strict=True))
            for name, times in self.asked.items()
            if times
        }


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as this bench needs it: POST with a length to /<service>/…, and GET /."""

    def __init__(self, agents: _Agents) -> None:
        self._agents = agents
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._data = rest[size:]
            self._answer(head.split(b" ", 2)[1].decode(), rest[:size])

    def _answer(self, path: str, body: bytes) -> None:
        name = path.split("/", 2)[1] or SAMPLE
        sent = self._agents.report(name, json.loads(body)["nonce"] if body else _NONCE)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        self._transport.write(head.encode() + sent)


async def _serve(agents: _Agents) -> None:
    loop = asyncio.get_running_loop()
    answering = await loop.create_server(lambda: _Connection(agents), "127.0.0.1", 0, backlog=1024)
    silent = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=1024)
    ports = {
        "answering": answering.sockets[0].getsockname()[1],
        "silent": silent.sockets[0].getsockname()[1],
    }
    _say(ports)
    done = asyncio.Event()
    threading.Thread(target=_listen, args=(agents, loop, done), daemon=True).start()
    await done.wait()


def _listen(agents: _Agents, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "forget":
            loop.call_soon_threadsafe(agents.forget)
        elif line.strip() == "gaps":
            loop.call_soon_threadsafe(lambda: _say(agents.gaps()))
    loop.call_soon_threadsafe(done.set)


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    """Serve until stdin ends."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve(_Agents(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
