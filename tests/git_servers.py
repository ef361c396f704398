"""Stock git as the other side: repositories, and servers for http, ssh and git://, all on loopback.

Rules kept: dulwich's own server is never used (it says ok to both of two racers); every server ends with
its context. Used by the tests of the store.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Drop = Literal["no", "before", "after"]


def git(path: Path, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
    """What stock git says, run in `path` without anybody's configuration."""
    done = subprocess.run(
        ["git", *arguments], cwd=path, input=stdin, capture_output=True, env=git_environment(), check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"git {arguments}: {done.stderr.decode()}")
    return done.stdout.decode() + (done.stderr.decode() if not check else "")


def git_environment() -> dict[str, str]:
    """An environment in which git reads the repository's configuration alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"}


def assert_sound(path: Path) -> None:
    """`git fsck --strict` finds nothing missing or wrong (what no ref names may lie about)."""
    done = subprocess.run(
        ["git", "fsck", "--strict", "--full", "--no-dangling"],
        cwd=path,
        capture_output=True,
        env=git_environment(),
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    wrong = [line for line in said.splitlines() if not line.startswith(("notice:", "Checking"))]
    assert (done.returncode, wrong) == (0, []), said


def bare_repository(path: Path) -> Path:
    """An empty bare repository, as a forge has it."""
    subprocess.run(
        ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(path)],
        check=True,
        env=git_environment(),
    )
    git(path, "config", "http.receivepack", "true")
    git(path, "config", "receive.fsckObjects", "true")
    return path


def hook(repository: Path, name: str, script: str) -> None:
    """Put a hook into a repository."""
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, at most so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        threading.Event().wait(0.01)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class HttpGit:
    """`git http-backend` behind a threaded server, with failures to order.

    `drop` breaks the next receive-pack request before or after git ran; `login` is what is asked for.
    """

    root: Path
    port: int = 0
    drop: Drop = "no"
    login: tuple[str, str] | None = None
    answer: tuple[int, dict[str, str], bytes] | None = None
    requests: list[str] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


class _Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    git: HttpGit

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self, body: bytes) -> None:
        self.git.requests.append(f"{self.command} {self.path}")
        if self.git.answer is not None:
            status, headers, content = self.git.answer
            self._answer(status, headers, content)
        elif not self._may_in():
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        elif self.command == "POST" and "receive-pack" in self.path and self.git.drop != "no":
            drop, self.git.drop = self.git.drop, "no"
            if drop == "after":
                self._run(body)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._forward(self._run(body))

    def _may_in(self) -> bool:
        if self.git.login is None:
            return True
        expected = base64.b64encode(":".join(self.git.login).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _run(self, body: bytes) -> bytes:
        path, _, query = self.path.partition("?")
        variables = {
            **git_environment(),
            "GIT_PROJECT_ROOT": str(self.git.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_USER": "someone",
        }
        if self.headers.get("Content-Encoding"):
            variables["HTTP_CONTENT_ENCODING"] = self.headers["Content-Encoding"]
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=variables, capture_output=True, check=False
        )
        return done.stdout

    def _forward(self, output: bytes) -> None:
        head, _, content = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, headers, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Tests read what they need from `requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Close what is open, as a machine does that goes away: kept connections too."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def http_git(root: Path, port: int = 0) -> Iterator[HttpGit]:
    """Serve the repositories in a folder over HTTP, on `port` (as before a restart) or on a free one."""
    state = HttpGit(root)
    handler = type("Handler", (_Backend,), {"git": state})
    server = _Server(("127.0.0.1", port), handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        server.hang_up()
        thread.join()


@contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """Serve the repositories in a folder over git://, pushes allowed. Gives the base URL."""
    port = free_port()
    process = subprocess.Popen(
        [
            *("git", "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack"),
            *("--listen=127.0.0.1", f"--port={port}", f"--base-path={root}", str(root)),
        ],
        env=git_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: listens(port))
        yield f"git://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@dataclass
class Sshd:
    """A running sshd that gives the bearer of `key` git and nothing else."""

    port: int
    user: str
    key: Path
    host_key: str
    known_hosts: Path

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """An unprivileged sshd on loopback, with keys of its own and git as a forced command."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True
        )
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    public = (folder / "client.pub").read_text()
    shell = shutil.which("git-shell") or "/usr/bin/git-shell"
    forced = f'restrict,command="{shell} -c \\"$SSH_ORIGINAL_COMMAND\\"" '
    (folder / "authorized_keys").write_text(forced + public)
    (folder / "authorized_keys").chmod(0o600)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        "AcceptEnv GIT_PROTOCOL\nMaxStartups 50\n"
        f"SetEnv HOME={folder}\n"  # the shell that it starts reads nobody's settings
        "KexAlgorithms -sntrup761*\n"  # OpenSSH's first choice, which costs most of a short connection
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # root's sshd insists on it, whatever its port
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=log)
    try:
        until(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        known = folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {host_key}\n")
        yield Sshd(port, user, folder / "client", host_key, known)
    finally:
        process.terminate()
        process.wait()
