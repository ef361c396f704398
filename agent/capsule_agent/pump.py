"""The far end of an SSH connection at its fastest: bytes from sshd to the agent's Unix socket, and back.

Rules kept: not one byte is looked at, for the agent's own server reads and writes the frames; where it does
not (another HTTP server, an older agent, no agent at all) nothing has been read or written yet, and stdio
relays call by call instead. sshd starts this for every new connection, so it imports nothing that a bare
interpreter has not loaded: `_socket` and `_thread` are built in, `socket` and `threading` would double the
time to start. Called by cli and stdio.
"""

from __future__ import annotations

import _socket
import _thread
import os

FRAMES_PATH = "/capsule/v1/frames"
UPGRADE = "capsule-frames"
_ASK = f"GET {FRAMES_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n"
_SECONDS = 1.0
_MAX_HEAD = 8 * 1024
_CHUNK = 64 * 1024


def pump(path: str) -> bool:
    """Carry bytes until either side ends; False at once when what listens at `path` speaks no frames."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(_SECONDS)
        sock.connect(path)
        sock.sendall(_ASK.encode())
        early = _agreed(sock)
    except OSError:
        early = None
    if early is None:
        sock.close()
        return False
    sock.settimeout(None)
    _thread.start_new_thread(_to_caller, (sock, early))
    _to_agent(sock)
    return True


def _agreed(sock: _socket.socket) -> bytes | None:
    """What came after the agreement to speak frames; None when there is none."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = sock.recv(4096)
        if not chunk or len(head) > _MAX_HEAD:
            return None
        head += chunk
    head, _, early = head.partition(b"\r\n\r\n")
    return early if head.startswith(b"HTTP/1.1 101 ") else None


def _to_agent(sock: _socket.socket) -> None:
    try:
        while data := os.read(0, _CHUNK):
            sock.sendall(data)
    except OSError:
        return


def _to_caller(sock: _socket.socket, data: bytes) -> None:
    try:
        _write(data)
        while data := sock.recv(_CHUNK):
            _write(data)
    except OSError:
        pass
    # The agent, or the caller, is gone. The other thread waits in a read that nothing else would end.
    os._exit(0)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
