"""What an example service is told at its start, and the few settings that may change while it runs.

Called by the three adapters. Secrets are never options: an option names the file they are in.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .files import replace_file


@dataclass(frozen=True)
class Options:
    """The command line of an example service. `socket` says where it listens instead of `port`."""

    port: int
    upstream: str
    region: str
    credentials: Path
    key_admin: Path
    journal: Path
    owners: Path
    key: Path
    socket: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the service keeps what it must not forget: beside its journal."""
        return self.journal.parent


def read_options(description: str, *, or_socket: bool = False) -> Options:
    """The options of this process, from its command line; ends the process with a usage text if wrong.

    `or_socket` lets it be told a Unix socket for its agent instead of a port.
    """
    parser = argparse.ArgumentParser(description=description)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, default=0, help="loopback port to listen on")
    if or_socket:
        where.add_argument(
            "--socket", type=Path, help="Unix socket of the agent instead: for a host where only SSH is open"
        )
    parser.add_argument(
        "--upstream", required=True, help="address of AWS, such as https://sqs.eu-central-1.amazonaws.com"
    )
    parser.add_argument("--region", default="eu-central-1", help="AWS region (default: %(default)s)")
    parser.add_argument("--credentials", type=Path, required=True, help="file with the access key in use")
    parser.add_argument(
        "--key-admin", type=Path, required=True, help="file with the access key that rotates it"
    )
    parser.add_argument("--journal", type=Path, required=True, help="the agent's journal (SQLite)")
    parser.add_argument("--owners", type=Path, required=True, help="public keys of the owners, pinned")
    parser.add_argument("--key", type=Path, required=True, help="the agent's private key (OpenSSH Ed25519)")
    return Options(**vars(parser.parse_args()))


class Settings:
    """Settings that survive a restart, in one JSON file. Safe for many threads."""

    def __init__(self, path: Path, defaults: Mapping[str, str]) -> None:
        self._path = path
        self._defaults = defaults
        self._lock = threading.Lock()

    def get(self, name: str) -> str:
        """The present value; read from the file, so that another worker's change is seen."""
        return str(self._read()[name])

    def put(self, name: str, value: str) -> None:
        """Change one value, durably before returning."""
        with self._lock:
            replace_file(self._path, json.dumps({**self._read(), name: value}, indent=2) + "\n")

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return dict(self._defaults)
        return {**self._defaults, **json.loads(self._path.read_text(encoding="utf-8"))}
