"""The floor of the SSH bench, run by the bench's own interpreter: ssh_floor.py FLEET OPERATIONS.

Plain asyncssh, 50 hosts at once, one operation after the other on each: connect and run `true` (cold), run
`true` on the kept connections (warm), and one line there and back on a kept channel into `cat` (echo), below
which nothing that speaks SSH can go. Prints seconds as JSON. Called by bench.ssh.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

AT_ONCE = 50


async def main(file: str, operations: int) -> None:
    fleet = json.loads(Path(file).read_text())
    hosts = fleet["hosts"]
    each = operations // len(hosts)
    key = asyncssh.read_private_key(fleet["key"])
    connections: dict[str, asyncssh.SSHClientConnection] = {}
    channels: dict[str, asyncssh.SSHClientProcess[str]] = {}

    async def connect_and_run(host: dict[str, Any]) -> None:
        connections[host["service"]] = await asyncssh.connect(
            host["address"],
            host["port"],
            username=fleet["user"],
            client_keys=[key],
            known_hosts=fleet["known_hosts"],
            agent_path=None,
            config=None,
        )
        await run(host)

    async def run(host: dict[str, Any]) -> None:
        for _ in range(each):
            await connections[host["service"]].run("true", check=True)

    async def open_channel(host: dict[str, Any]) -> None:
        channels[host["service"]] = await connections[host["service"]].create_process("cat")

    async def echo(host: dict[str, Any]) -> None:
        channel = channels[host["service"]]
        for _ in range(each):
            channel.stdin.write("true\n")
            if await channel.stdout.readline() != "true\n":
                raise SystemExit(f"{host['service']} did not answer")

    found = {"cold": await timed(hosts, connect_and_run), "warm": await timed(hosts, run)}
    await timed(hosts, open_channel)
    found["echo"] = await timed(hosts, echo)
    for channel in channels.values():
        channel.stdin.write_eof()
        await channel.wait()
    for connection in connections.values():
        connection.close()
        await connection.wait_closed()
    print(json.dumps(found))


async def timed(hosts: list[dict[str, Any]], work: Callable[[dict[str, Any]], Awaitable[None]]) -> float:
    """Seconds to do `work` for every host."""
    free = asyncio.Semaphore(AT_ONCE)

    async def bounded(host: dict[str, Any]) -> None:
        async with free:
            await work(host)

    began = time.perf_counter()
    await asyncio.gather(*(bounded(host) for host in hosts))
    return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
