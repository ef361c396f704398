"""Operations over SSH beside Ansible, pyinfra and plain asyncssh: python -m bench.ssh.

A hundred hosts behind real sshd on loopback; bench/README.md says what each row does and what is left out.
Rules kept: every tool runs in every round, so a ratio compares neighbours on the same machine; of several
rounds the median counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import ssh_rivals
from bench.ssh_fleet import Fleet, running_fleet
from bench.timing import duration

Seconds = Mapping[str, float]
_NAMES = {
    "capsule": "Capsule: signed, journalled, verified",
    "floor": "asyncssh: run `true` (the floor)",
    "pyinfra": "pyinfra: run `true`",
    "ansible": "Ansible ad hoc: raw `true`",
}
_TARGETS = (
    ("cold", "ansible", 3.0, "at least {:g} times faster than Ansible"),
    ("cold", "pyinfra", 1.0, "faster than pyinfra"),
    ("warm", "ansible", 20.0, "at least {:g} times faster than Ansible"),
    ("warm", "floor", 1 / 1.5, "within 1.5 times of the floor"),
)


def main(arguments: Sequence[str] = ()) -> None:
    options = _parser().parse_args(arguments)
    for operations in options.operations:
        if operations % options.hosts:
            raise SystemExit(f"--operations {operations}: expected a multiple of --hosts {options.hosts}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ssh_rivals.make_environment()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="cb-") as name, running_fleet(Path(name), options.hosts) as fleet:
        ansible = ssh_rivals.Ansible(fleet)
        try:
            console.print(f"{options.hosts} hosts, {options.rounds} rounds, {ssh_rivals.versions()}")
            console.print(f"Ansible's start, contained in its rows: {duration(ansible.start_seconds())}\n")
            for operations in options.operations:
                rounds = [_round(fleet, ansible, operations) for _ in range(options.rounds)]
                for state in ("cold", "warm"):
                    console.print(_table(rounds, operations, state))
                    _print_targets(console, rounds, state)
                _print_cpu(console, rounds, operations)
        finally:
            ansible.end_connections()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ssh", description="Operations over SSH.")
    parser.add_argument("--hosts", type=int, default=100, metavar="N")
    parser.add_argument("--operations", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    return parser


def _round(fleet: Fleet, ansible: ssh_rivals.Ansible, operations: int) -> dict[str, Seconds]:
    """Every tool once, each in a process of its own."""
    tools: dict[str, Callable[[], Seconds]] = {
        "floor": lambda: ssh_rivals.run_script("ssh_floor", fleet, operations),
        "capsule": lambda: _capsule(fleet, operations),
        "pyinfra": lambda: ssh_rivals.run_script("ssh_pyinfra", fleet, operations),
        "ansible": lambda: ansible.measure(operations),
    }
    found: dict[str, Seconds] = {}
    for name, measure in tools.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = measure()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found[name] = {**seconds, "cpu": cpu}
    return found


def _capsule(fleet: Fleet, operations: int) -> Seconds:
    command = [sys.executable, "-m", "bench.ssh_capsule", str(fleet.file), str(operations)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if found.returncode != 0:
        raise SystemExit("bench.ssh: Capsule's own side failed; what it printed is above")
    seconds: Seconds = json.loads(found.stdout)
    return seconds


def _table(rounds: Sequence[Mapping[str, Seconds]], operations: int, state: str) -> Table:
    what = "new connections" if state == "cold" else "kept connections"
    table = Table(title=f"{operations:,} operations, {what}", title_justify="left")
    table.add_column("tool")
    for name in ("wall", "each", "× floor", "Ansible ÷ it"):
        table.add_column(name, justify="right")
    for tool, title in _NAMES.items():
        _add_row(table, title, rounds, tool, state, operations)
    if state == "warm":
        _add_row(table, "asyncssh: a line there and back", rounds, "floor", "echo", operations)
    return table


def _add_row(
    table: Table,
    title: str,
    rounds: Sequence[Mapping[str, Seconds]],
    tool: str,
    column: str,
    operations: int,
) -> None:
    state = "warm" if column == "echo" else column
    wall = statistics.median(one[tool][column] for one in rounds)
    to_floor = statistics.median(one[tool][column] / one["floor"][state] for one in rounds)
    to_ansible = statistics.median(one["ansible"][state] / one[tool][column] for one in rounds)
    table.add_row(title, duration(wall), duration(wall / operations), f"{to_floor:.2f}", f"{to_ansible:.1f}")


def _print_cpu(console: Console, rounds: Sequence[Mapping[str, Seconds]], operations: int) -> None:
    """What a tool costs the machine it runs on, however loaded that is and whatever its hosts do."""
    parts = []
    for tool in _NAMES:
        each = statistics.median(one[tool]["cpu"] for one in rounds) / (2 * operations)
        parts.append(f"{tool} {duration(each)}")
    console.print(f"  CPU of the tool itself for one operation, start, cold and warm: {', '.join(parts)}\n")


def _print_targets(console: Console, rounds: Sequence[Mapping[str, Seconds]], state: str) -> None:
    for when, tool, least, text in _TARGETS:
        if when == state:
            ratios = sorted(one[tool][state] / one["capsule"][state] for one in rounds)
            found = statistics.median(ratios)
            verdict = "met" if found >= least else "MISSED"
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            console.print(f"  {verdict}: {text.format(least)} ({tool} ÷ Capsule: {each})")
    console.print()


if __name__ == "__main__":
    main(sys.argv[1:])
