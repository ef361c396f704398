"""The SSH server that is the only way to a service: a loopback port, one key, one command.

OpenSSH's sshd where it is installed and lets this user in, run without privileges and with host keys and
settings of its own; else `ssh_server`, a small one in Python. Both obey the same authorized_keys, with the
line that `capsule-agent authorize` prints.

Rules kept: nothing of the machine's own sshd is read or changed; whether the login works is tried with the
stock `ssh` before anybody relies on it. Called by `launch`.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Literal

from capsule_agent.stdio import authorize

from .processes import DidNotStart, RunningProcess, module_of, start_on_free_port

Server = Literal["auto", "openssh", "built-in"]
_SSHD = Path("/usr/sbin/sshd")
_PRIVILEGE_SEPARATION = Path("/run/sshd")
_TRY_SECONDS = 15.0
_SESSIONS_END_SECONDS = 5.0


@dataclass(frozen=True)
class Door:
    """A running SSH server that leads to the agent at `socket`, and nowhere else."""

    endpoint: str
    host_key: str
    server: str
    """Which one it is, for people."""
    process: RunningProcess
    socket: Path
    tried: int
    """How many logins its log counts from trying it."""

    def stop(self) -> None:
        """End the server, and see its sessions end. Calling again does nothing."""
        self.process.stop()
        deadline = time.monotonic() + _SESSIONS_END_SECONDS
        # A session outlives its listener until its client is gone.
        while _is_relayed(self.socket) and time.monotonic() < deadline:
            time.sleep(0.02)

    def logins(self) -> int:
        """How many logins its log counts since it was opened."""
        return _logins(self.process.log) - self.tried


def runs_what_is_asked_for(door: Door, login: Path) -> bool:
    """Whether the bearer of `login` can have another command run than the one that the door is for."""
    folder = door.process.log.parent
    port = int(door.endpoint.rpartition(":")[2])
    return b"anything else" in _ssh(folder / "known_hosts", login, port, "echo anything else").stdout


def open_door(folder: Path, socket: Path, login: Path, server: Server = "auto") -> Door:
    """Let the bearer of the key `login` (a private key file) reach the agent at `socket`, over SSH alone.

    Keys, settings and log go below `folder`. Raises DidNotStart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host_key = _host_key(folder / "host_key")
    _write_authorized_keys(folder, socket, login)
    why = ""
    if server != "built-in":
        try:
            return _openssh(folder, socket, login, host_key)
        except DidNotStart as error:
            if server == "openssh":
                raise
            why = f"; OpenSSH's sshd cannot be used here: {_first_line(error)}"
    return _built_in(folder, socket, login, host_key, why)


def _openssh(folder: Path, socket: Path, login: Path, host_key: str) -> Door:
    if not _SSHD.exists():
        raise DidNotStart("it is not installed")
    if os.geteuid() == 0:
        # As root sshd insists on this folder, whatever its port.
        try:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise DidNotStart(f"{_PRIVILEGE_SEPARATION} is missing: {error.strerror}") from None

    def command(port: int) -> list[str]:
        settings = folder / f"sshd_config.{port}"
        settings.write_text(_sshd_config(folder, port))
        return [str(_SSHD), "-D", "-e", "-f", str(settings)]

    return _started(folder, socket, login, host_key, "OpenSSH's sshd", command)


def _built_in(folder: Path, socket: Path, login: Path, host_key: str, why: str) -> Door:
    def command(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", module_of("ssh_server"), "--port", str(port)),
            *("--host-key", str(folder / "host_key")),
            *("--authorized-keys", str(folder / "authorized_keys")),
        ]

    return _started(folder, socket, login, host_key, f"a small SSH server in Python{why}", command)


def _started(
    folder: Path, socket: Path, login: Path, host_key: str, what: str, command: Callable[[int], list[str]]
) -> Door:
    process, port = start_on_free_port(command, folder / "log", _speaks_ssh)
    try:
        _require_login(folder, login, host_key, port)
    except BaseException:
        process.stop()
        raise
    endpoint = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
    return Door(endpoint, host_key, what, process, socket, _logins(process.log))


def _logins(log: Path) -> int:
    return log.read_text(errors="replace").count("Accepted publickey")


def _sshd_config(folder: Path, port: int) -> str:
    lines = (
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        f"PidFile {folder / 'sshd.pid'}",
        "StrictModes no",  # a temporary folder lies below one that all may write to
        "UsePAM no",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PrintMotd no",
        "LogLevel VERBOSE",
        f"SetEnv HOME={folder}",  # no start file of the person's shell slows or spoils the frames
    )
    return "\n".join(lines) + "\n"


def _host_key(file: Path) -> str:
    """The public half of the host key at `file`, which is made when it does not exist."""
    if not file.exists():
        _require(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "example", "-f", str(file)])
    return " ".join(Path(f"{file}.pub").read_text().split()[:2])


def _write_authorized_keys(folder: Path, socket: Path, login: Path) -> None:
    program = Path(sys.executable).with_name("capsule-agent")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "capsule_agent.stdio"]
    key = Path(f"{login}.pub").read_text().strip()
    line = authorize(key, shlex.join([*start, "stdio", "--socket", str(socket)]))
    (folder / "authorized_keys").write_text(line + "\n")


def _speaks_ssh(port: int) -> bool:
    try:
        with create_connection(("127.0.0.1", port), timeout=5) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False


def _require_login(folder: Path, login: Path, host_key: str, port: int) -> None:
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key}\n")
    said = _ssh(known, login, port, "true")
    if said.returncode != 0:
        raise DidNotStart(f"the login fails: {said.stderr.decode(errors='replace').strip()}")


def _ssh(known_hosts: Path, login: Path, port: int, command: str) -> subprocess.CompletedProcess[bytes]:
    """Ask for `command` with the stock ssh. Raises DidNotStart without one."""
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known_hosts),
        "ConnectTimeout": "5",
    }
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    where = f"{getpass.getuser()}@127.0.0.1"
    return _run(["ssh", "-F", os.devnull, *given, "-i", str(login), "-p", str(port), where, command])


def _require(command: list[str]) -> None:
    done = _run(command)
    if done.returncode:
        raise DidNotStart(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRY_SECONDS, check=False
        )
    except FileNotFoundError:
        raise DidNotStart(f"the program {command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise DidNotStart(f"{command[0]} did not end within {_TRY_SECONDS:.0f} s") from None


def _is_relayed(socket: Path) -> bool:
    wanted = str(socket).encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stdio" in words and wanted in words:
            return True
    return False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
