"""Hosts each n-th agent of the fleet until standard input ends: python -m bench.ssh_agents FLEET FIRST N.

Rules kept: real agents, each on its own Unix socket with a journal of its own that is synced to disk. Called
by bench.ssh_fleet.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from bench.ssh_fleet import read_fleet
from capsule_agent import Agent
from tests.agent_fixtures import healthy, key


def main(file: str, first: int, step: int) -> None:
    fleet = read_fleet(Path(file))
    folder = Path(fleet.folder)
    with ExitStack() as serving:
        for host in fleet.hosts[first::step]:
            agent = Agent(
                host.service,
                version="1.8.2",
                journal=folder / f"{host.service}.db",
                owners=folder / "owners",
                key=key(f"agent {host.service}"),
            )
            agent.health(healthy)
            serving.enter_context(agent.serve_unix(host.socket))
            serving.callback(agent.close)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
