"""Debian's sshd for tests: on a loopback port, with host keys, authorized keys and settings of its own.

Runs as the current user, and lets that user log in. Started with an absolute path and a file, as sshd wants.
"""

from __future__ import annotations

import base64
import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.transport_peers import wait_until

SSHD = "/usr/sbin/sshd"
USER = getpass.getuser()


def keygen(file: Path, *extra: str, key_type: str = "ed25519") -> str:
    """A new key pair at `file`; the public key's text without comment."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", key_type, "-N", "", "-f", str(file), *extra],
        check=True,
        capture_output=True,
    )
    return public_text(file)


def public_text(file: Path) -> str:
    return " ".join(Path(f"{file}.pub").read_text().split()[:2])


def certify(ca: Path, public: Path, *extra: str) -> Path:
    """Sign `public` with `ca`; the certificate's file."""
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(ca), "-I", "test", *extra, str(public)],
        check=True,
        capture_output=True,
    )
    return public.with_name(public.name.removesuffix(".pub") + "-cert.pub")


def blob_of(text: str) -> bytes:
    return base64.b64decode(text.split()[1])


class Sshd:
    """A running sshd. `host_key` is its Ed25519 host key; `authorize` lets one key run one command."""

    def __init__(
        self, folder: Path, settings: Sequence[str] = (), *, host_certificate: Path | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd as root insists on it
        self.folder = folder
        host_key_file = folder / "host_ed25519"
        if not host_key_file.exists():
            keygen(host_key_file)
        self.host_key = public_text(host_key_file)
        self.authorized_keys = folder / "authorized_keys"
        self.authorized_keys.touch()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {host_key_file}",
            f"AuthorizedKeysFile {self.authorized_keys}",
            f"PidFile {folder / 'sshd.pid'}",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "LogLevel VERBOSE",
            f"SetEnv HOME={folder}",  # the shell that it starts reads nobody's settings
            *settings,
        ]
        if host_certificate is not None:
            lines.append(f"HostCertificate {host_certificate}")
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self._log = (folder / "sshd.log").open("ab")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(self._listening)

    @property
    def endpoint(self) -> str:
        return f"ssh://{USER}@127.0.0.1:{self.port}"

    @property
    def known_hosts_line(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key}"

    def authorize(self, key: str, command: str) -> None:
        """Let `key` run `command`, and nothing else."""
        with self.authorized_keys.open("a") as file:
            file.write(f'command="{command}",restrict {key}\n')

    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self._log.close()

    def _listening(self) -> bool:
        assert self.process.poll() is None, self.log()
        return f"Server listening on 127.0.0.1 port {self.port}" in self.log()


def relay_command(*arguments: str) -> str:
    """The command line of the far end, run by this interpreter."""
    return " ".join((sys.executable, "-m", "capsule_agent.stdio", "stdio", *arguments))
