"""A small SSH server in Python, for machines without openssh-server: one key, one forced command.

Run: `python -m examples.ssh_server --port 2222 --host-key FILE --authorized-keys FILE`. It reads lines as
`capsule-agent authorize` prints them, and obeys them as sshd does: whatever the client asks for, that command
runs; no terminal, no forwarding, no password. Loopback alone. For trying out; in earnest, use sshd.
"""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko

_LINE = re.compile(r'command="(?P<command>(?:[^"\\]|\\.)*)",restrict (?P<key>\S+ \S+)')
_CHUNK = 32768
_LOGIN_SECONDS = 20
log = logging.getLogger("ssh_server")


@dataclass(frozen=True)
class Entry:
    """One line of authorized_keys."""

    key: bytes
    command: str


def read_entries(file: Path) -> list[Entry]:
    """The lines of `file`; one that is not of the form that `capsule-agent authorize` prints is left out."""
    found = []
    for line in file.read_text().splitlines():
        match = _LINE.match(line)
        if match:
            key = paramiko.PublicBlob.from_string(match["key"]).key_blob
            found.append(Entry(key, match["command"].replace('\\"', '"')))
    return found


class Gate(paramiko.ServerInterface):
    """Lets in who bears a key of the file; everything but the forced command is refused by default."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._command: str | None = None

    def get_allowed_auths(self, _username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, _username: str, key: paramiko.PKey) -> int:
        for entry in self._entries:
            if entry.key == key.asbytes():
                self._command = entry.command
                return paramiko.AUTH_SUCCESSFUL
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, _chanid: int) -> int:
        if kind == "session":
            return paramiko.OPEN_SUCCEEDED
        return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, _command: bytes) -> bool:
        return self._start(channel)

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._start(channel)

    def _start(self, channel: paramiko.Channel) -> bool:
        if self._command is None:
            return False
        threading.Thread(target=run_command, args=(channel, self._command), daemon=True).start()
        return True


def run_command(channel: paramiko.Channel, command: str) -> None:
    """Run `command` with the channel as its standard input, output and error."""
    process = subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    feed = threading.Thread(target=_feed, args=(channel, process), daemon=True)
    errors = threading.Thread(target=_copy, args=(process.stderr.read, channel.sendall_stderr), daemon=True)
    feed.start()
    errors.start()
    _copy(process.stdout.read, channel.sendall)
    errors.join()
    with suppress(OSError):
        channel.send_exit_status(process.wait())
    channel.close()


def _feed(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    stdin = process.stdin
    with suppress(OSError), stdin:
        _copy(channel.recv, stdin.write)
    # The client is gone: whatever still runs on its behalf ends.
    if channel.closed:
        process.terminate()


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    with suppress(OSError):
        while data := read(_CHUNK):
            write(data)


def serve_one(connection: socket.socket, host_key: paramiko.PKey, authorized_keys: Path) -> None:
    """Serve a client until it goes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(connection)
    transport.add_server_key(host_key)
    try:
        transport.start_server(server=Gate(read_entries(authorized_keys)))
        transport.auth_timeout = _LOGIN_SECONDS
        channel = transport.accept(_LOGIN_SECONDS)
        if channel is None:
            transport.close()
            return
        log.info("Accepted publickey for %s", transport.get_username())
        transport.join()
    except (paramiko.SSHException, EOFError, OSError) as error:
        log.info("connection ended: %s", type(error).__name__)
        transport.close()


def main() -> None:
    """Serve on the port until ended."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--port", type=int, required=True, help="loopback port to listen on")
    parser.add_argument("--host-key", type=Path, required=True, help="private key that proves this host")
    parser.add_argument("--authorized-keys", type=Path, required=True, help="who may log in, and for what")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    host_key = paramiko.PKey.from_path(options.host_key)
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        while True:
            connection, _ = listening.accept()
            threading.Thread(
                target=serve_one, args=(connection, host_key, options.authorized_keys), daemon=True
            ).start()


if __name__ == "__main__":
    main()
