"""pyinfra's side of the SSH bench, run by the bench's own interpreter: ssh_pyinfra.py FLEET OPERATIONS.

Its API with 50 hosts at once: `connect_all` and `true` on every host (cold), then `true` on the kept
connections (warm). The start of its command line, which its users also wait for, is left out: in its favour.
Prints seconds as JSON. Called by bench.ssh.
"""

# ruff: noqa: E402 (gevent must patch before anything else is imported)
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import sys
import time
from pathlib import Path

from pyinfra.api import Config, Inventory, State, StringCommand
from pyinfra.api.connect import connect_all

AT_ONCE = 50


def main(file: str, operations: int) -> None:
    fleet = json.loads(Path(file).read_text())
    hosts = [
        (
            host["service"],
            {
                "ssh_hostname": host["address"],
                "ssh_port": host["port"],
                "ssh_known_hosts_file": fleet["known_hosts"],
                "ssh_strict_host_key_checking": "yes",
            },
        )
        for host in fleet["hosts"]
    ]
    common = {"ssh_user": fleet["user"], "ssh_key": fleet["key"], "ssh_allow_agent": False}
    state = State(Inventory((hosts, common)), Config(PARALLEL=AT_ONCE))
    each = operations // len(hosts)
    began = time.perf_counter()
    connect_all(state)
    run_everywhere(state, each)
    cold = time.perf_counter() - began
    began = time.perf_counter()
    run_everywhere(state, each)
    print(json.dumps({"cold": cold, "warm": time.perf_counter() - began}))
    for host in state.inventory:
        host.disconnect()


def run_everywhere(state: State, each: int) -> None:
    """`each` times `true` on every host, one after the other on each."""

    def run(host: object) -> None:
        for _ in range(each):
            done, _ = host.run_shell_command(StringCommand("true"))
            if not done:
                raise SystemExit(f"{host} failed")

    for one in [state.pool.spawn(run, host) for host in state.inventory]:
        one.get()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
