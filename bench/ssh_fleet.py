"""A hundred hosts on this machine for the SSH bench: real sshd, real agents, each host its own of both.

Rules kept: every host has an address and port, a forced command, a Unix socket, an agent with its own key and
its own journal on disk; what is started here is ended here. A few sshd processes stand for the hundred of a
fleet, so MaxStartups, which counts per sshd, is raised until it drops nobody. Called by
bench.ssh; the children that measure read the fleet from its file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from capsule_agent.stdio import authorize, socket_command
from tests.agent_fixtures import key, write_key, write_owners
from tests.sshd import USER, Sshd

_HOSTS_PER_SSHD = 16  # sshd takes no more ListenAddress lines
_AGENT_PROCESSES = 4
SSHD_SETTINGS = (
    # One key exchange for all, under both its names; OpenSSH's own choice would cost Ansible alone more.
    "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org",
    "MaxStartups 500",
    "MaxSessions 10",
)


@dataclass(frozen=True)
class Host:
    """One host: where its sshd listens, that sshd's key, and the service behind it."""

    service: str
    address: str
    port: int
    host_key: str
    socket: str


@dataclass(frozen=True)
class Fleet:
    """All hosts, and what a tool needs to log in to them. `key`: runs any command; `order_key`: the agent."""

    folder: str
    user: str
    key: str
    order_key: str
    known_hosts: str
    hosts: tuple[Host, ...]

    @property
    def file(self) -> Path:
        """Where the fleet is written down, for the children that measure."""
        return Path(self.folder) / "fleet.json"


def read_fleet(file: Path) -> Fleet:
    """The fleet that the bench wrote to `file`."""
    found = json.loads(file.read_text())
    return Fleet(**{**found, "hosts": tuple(Host(**host) for host in found["hosts"])})


@contextmanager
def running_fleet(folder: Path, count: int) -> Iterator[Fleet]:
    """`count` hosts, up until the block ends."""
    with ExitStack() as running:
        tool_key = write_key(folder / "tool_ed25519", "bench tool")
        order_key = write_key(folder / "order_ed25519", "bench login")
        hosts: list[Host] = []
        for first in range(0, count, _HOSTS_PER_SSHD):
            numbers = range(first, min(count, first + _HOSTS_PER_SSHD))
            hosts += _start_sshd(folder, numbers, running)
        known = folder / "known_hosts"
        known.write_text("".join(f"[{host.address}]:{host.port} {host.host_key}\n" for host in hosts))
        fleet = Fleet(str(folder), USER, str(tool_key), str(order_key), str(known), tuple(hosts))
        fleet.file.write_text(json.dumps(asdict(fleet)))
        write_owners(folder / "owners", "owner")
        _start_agents(fleet, running)
        yield fleet


def _start_sshd(folder: Path, numbers: range, running: ExitStack) -> list[Host]:
    """One sshd for the hosts of these numbers; each host's address has its own authorized_keys."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    # An empty home, so that no start-up file of this machine's user runs before every command.
    settings = [*SSHD_SETTINGS, f"SetEnv HOME={home}"]
    addresses = [f"127.0.0.{at + 1}" for at in range(len(numbers))]
    settings += [f"ListenAddress {address}" for address in addresses[1:]]
    places = []
    for number, address in zip(numbers, addresses, strict=True):
        service = f"service-{number:03}"
        socket = folder / f"{number:03}.sock"
        allowed = folder / f"{number:03}.authorized"
        forced = socket_command(str(socket))
        lines = (authorize(key("bench login").public.text, forced), key("bench tool").public.text)
        allowed.write_text("\n".join(lines) + "\n")
        settings += [f"Match LocalAddress {address}", f"  AuthorizedKeysFile {allowed}"]
        places.append((service, address, str(socket)))
    sshd = Sshd(folder / f"sshd-{numbers.start:03}", settings)
    running.callback(sshd.close)
    return [Host(service, address, sshd.port, sshd.host_key, socket) for service, address, socket in places]


def _start_agents(fleet: Fleet, running: ExitStack) -> None:
    """The agents of all hosts, in a few processes that end with their standard input."""
    started = []
    for number in range(_AGENT_PROCESSES):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.ssh_agents", str(fleet.file), str(number), str(_AGENT_PROCESSES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        running.callback(_end, process)
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("bench.ssh: the agents did not start; what they printed is above")


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
