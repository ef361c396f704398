"""Start the example services and their upstream, as real processes: what the demo and the tests call.

    upstream = start_upstream(folder)
    service = start_service("mail-sender", folder, upstream, owners)
    worker = start_service_behind_ssh("archive-worker", folder, upstream, owners, login)
    …
    service.stop(); upstream.stop()          # or use both as context managers

Rules kept: everything lies below the folder given; secrets travel as files with mode 0600, never in
arguments or environment; every process ends with its starter, even one that is killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from . import upstream as aws
from .processes import DidNotStart, RunningProcess, module_of, start, start_on_free_port
from .ssh_door import Door, Server, open_door
from .upstream import Upstream

__all__ = [
    "DidNotStart",
    "Door",
    "SERVICES",
    "RunningService",
    "Server",
    "Upstream",
    "start_service",
    "start_service_behind_ssh",
    "start_upstream",
]

_MODULES = {
    "mail-sender": "mail_sender.app",
    "order-events": "order_events.app",
    "archive-worker": "archive_worker.app",
}
SERVICES = tuple(_MODULES)
_OWN_FOLDER = "capsule-socket-"
_OWN_FOLDER_BYTES = len(f"/{_OWN_FOLDER}xxxxxxxx/agent.sock")
_LONGEST_SOCKET = 100
"""Bytes of the path of a Unix socket: the system's own limit is 103 to 107."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class RunningService:
    """An example service that answers at `endpoint`; `public_key` is what its document pins.

    `door` is the SSH server that leads there, when only that does.
    """

    name: str
    endpoint: str
    public_key: str
    process: RunningProcess
    directory: Path
    door: Door | None = None

    def stop(self) -> None:
        """End the service's process, and its SSH server. Calling again does nothing."""
        self.process.stop()
        if self.door is not None:
            self.door.stop()
            _remove_own_folder(self.door.socket)

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
    public_key, arguments = _arguments(name, directory, upstream, owners)

    def command(chosen: int) -> list[str]:
        return [*arguments, "--port", str(chosen)]

    folder = directory / name
    process, chosen = start_on_free_port(command, folder / "log", _agent_answers, port=port)
    return RunningService(name, f"http://127.0.0.1:{chosen}", public_key, process, folder)


def start_service_behind_ssh(
    name: str, directory: Path, upstream: Upstream, owners: Path, login: Path, *, server: Server = "auto"
) -> RunningService:
    """As start_service, for a host where only SSH is open: the agent listens on a Unix socket alone, and an
    SSH server on a loopback port runs `capsule-agent stdio` for the bearer of the key `login`.

    `server` chooses it: OpenSSH's where that works, by default. Raises DidNotStart.
    """
    public_key, arguments = _arguments(name, directory, upstream, owners)
    folder = directory / name
    listening = _socket_path(folder)
    command = [*arguments, "--socket", str(listening)]
    process = start(command, folder / "log", partial(_agent_answers_at, listening))
    try:
        door = open_door(folder / "ssh", listening, login, server)
    except BaseException:
        process.stop()
        _remove_own_folder(listening)
        raise
    return RunningService(name, door.endpoint, public_key, process, folder, door)


def _arguments(name: str, directory: Path, upstream: Upstream, owners: Path) -> tuple[str, list[str]]:
    """The public key of the service's agent, and its command line but for where to listen."""
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "agent.key"
    public_key = _agent_key(key)
    return public_key, [
        *(sys.executable, "-m", module_of(_MODULES[name])),
        *("--upstream", upstream.endpoint),
        *("--region", aws.REGION),
        *("--credentials", str(upstream.credentials(name))),
        *("--key-admin", str(upstream.key_admin(name))),
        *("--journal", str(folder / "agent.db")),
        *("--owners", str(owners)),
        *("--key", str(key)),
    ]


def _socket_path(folder: Path) -> Path:
    """Where the agent of `folder` listens: there, or in a folder of its own where that path is too long."""
    path = folder / "agent.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    # The folder for temporary files may be a long path itself: the system's own is short.
    roomy = len(os.fsencode(tempfile.gettempdir())) + _OWN_FOLDER_BYTES <= _LONGEST_SOCKET
    return Path(tempfile.mkdtemp(prefix=_OWN_FOLDER, dir=None if roomy else "/tmp")) / "agent.sock"


def _remove_own_folder(path: Path) -> None:
    if path.parent.name.startswith(_OWN_FOLDER):
        shutil.rmtree(path.parent, ignore_errors=True)


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


def _agent_answers_at(path: Path) -> bool:
    """Whether an agent gives a report on the Unix socket `path`."""
    body = b'{"nonce": "ready"}'
    head = (
        f"POST /capsule/v1/report HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False
