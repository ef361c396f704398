"""Start the example services and their upstream, as real processes: what the demo and the tests call.

    upstream = start_upstream(folder)
    service = start_service("mail-sender", folder, upstream, owners)
    …
    service.stop(); upstream.stop()          # or use both as context managers

Rules kept: everything lies below the folder given; secrets travel as files with mode 0600, never in
arguments or environment; every process ends with its starter, even one that is killed.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from . import upstream as aws
from .processes import DidNotStart, RunningProcess, module_of, start_on_free_port
from .upstream import Upstream

__all__ = ["DidNotStart", "SERVICES", "RunningService", "Upstream", "start_service", "start_upstream"]

_MODULES = {
    "mail-sender": "mail_sender.app",
    "order-events": "order_events.app",
    "archive-worker": "archive_worker.app",
}
SERVICES = tuple(_MODULES)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class RunningService:
    """An example service that answers at `endpoint`; `public_key` is what its document pins."""

    name: str
    endpoint: str
    public_key: str
    process: RunningProcess
    directory: Path

    def stop(self) -> None:
        """End the service's process. Calling again does nothing."""
        self.process.stop()

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def start_upstream(directory: Path) -> Upstream:
    """Start the upstream of all three services; its files go below `directory`. Raises DidNotStart."""
    return aws.start(directory)


def start_service(
    name: str, directory: Path, upstream: Upstream, owners: Path, *, port: int | None = None
) -> RunningService:
    """Start one of SERVICES in front of `upstream`, and wait until its agent answers.

    `directory` is the one the upstream was started with; the service's journal, key and log go to
    `directory/<name>/` and are taken up again when they exist, so that a service can be stopped and
    started. `owners` is a file, or a folder of files, with the public keys of the owners that the agent
    pins. `port` is the one to listen on (as before a restart); a free one is chosen without it.
    Raises DidNotStart, and KeyError for a name that is not in SERVICES.
    """
    module = module_of(_MODULES[name])
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "agent.key"
    public_key = _agent_key(key)

    def command(chosen: int) -> list[str]:
        return [
            *(sys.executable, "-m", module),
            *("--port", str(chosen)),
            *("--upstream", upstream.endpoint),
            *("--region", aws.REGION),
            *("--credentials", str(upstream.credentials(name))),
            *("--key-admin", str(upstream.key_admin(name))),
            *("--journal", str(folder / "agent.db")),
            *("--owners", str(owners)),
            *("--key", str(key)),
        ]

    process, chosen = start_on_free_port(command, folder / "log", _agent_answers, port=port)
    return RunningService(name, f"http://127.0.0.1:{chosen}", public_key, process, folder)


def _agent_key(path: Path) -> str:
    """The public half of the agent's key at `path`, which is made when it does not exist."""
    if path.exists():
        return Path(f"{path}.pub").read_text().strip()
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    Path(f"{path}.pub").write_text(public + "\n")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(private)
    return public


def _agent_answers(port: int) -> bool:
    """Whether an agent gives a report; what is in it is the reconciler's business."""
    call = urllib.request.Request(
        f"http://127.0.0.1:{port}/capsule/v1/report",
        data=b'{"nonce": "ready"}',
        headers={"Content-Type": "application/json"},
    )
    try:
        with _DIRECT.open(call, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
