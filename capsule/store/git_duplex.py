"""Two-way byte streams to a git server: a subprocess, a TCP socket; the SSH one is in store.git_ssh.

Rules kept: no wait is unbounded: `timeout` seconds of silence end a stream, and so does its `deadline`
(time.monotonic()), however slowly a server drips. dulwich's own clients wait for ever. Called by
store.git_remote.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CHUNK = 65536
_EXIT_SECONDS = 5.0
_DIAGNOSIS_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: seconds of silence, and the end of the whole call by time.monotonic()."""

    timeout: float
    deadline: float

    @classmethod
    def of(cls, timeout: float, whole: float) -> Patience:
        return cls(timeout, time.monotonic() + whole)

    def left(self) -> float:
        """Seconds to wait for the next byte. Raises TimeoutError when the call has lasted too long."""
        left = min(self.timeout, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the call took too long in all")
        return left


class Duplex(ABC):
    """What dulwich's Protocol needs of a connection. Reads and writes raise OSError (TimeoutError)."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._ahead = b""

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, fewer only at the end of the stream."""
        parts = [self._ahead]
        have = len(self._ahead)
        while have < count:
            part = self._receive(_CHUNK)
            if not part:
                break
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._ahead = data[count:]
        return data[:count]

    def write(self, data: bytes) -> int:
        """Send all of `data`."""
        view = memoryview(data)
        while view:
            view = view[self._send(view) :]
        return len(data)

    @abstractmethod
    def _receive(self, limit: int) -> bytes: ...

    @abstractmethod
    def _send(self, data: memoryview) -> int: ...

    @abstractmethod
    def can_read(self) -> bool:
        """Whether a read would return at once."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    def shutdown_write(self) -> None:  # noqa: B027 (a stream that cannot be half closed does nothing)
        """Say that nothing more will be sent."""

    def diagnosis(self) -> str:
        """What the server wrote beside the protocol, for an error message."""
        return ""


class ProcessDuplex(Duplex):
    """A server program on this machine, spoken to over pipes. Its hooks run, as for any push."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], patience: Patience) -> None:
        super().__init__(patience)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close, with the process)
        try:
            self._process = subprocess.Popen(
                list(argv),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=dict(env),
                start_new_session=True,  # so that its hooks can be ended with it
            )
        except OSError:
            self._stderr.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._exit_seconds = _EXIT_SECONDS
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    def _receive(self, limit: int) -> bytes:
        self._wait(self._stdout.fileno(), select.POLLIN)
        return os.read(self._stdout.fileno(), limit)

    def _send(self, data: memoryview) -> int:
        self._wait(self._stdin.fileno(), select.POLLOUT)
        try:
            return os.write(self._stdin.fileno(), data[:_CHUNK])
        except BlockingIOError:
            return 0

    def can_read(self) -> bool:
        return bool(self._ahead) or bool(_poll(self._stdout.fileno(), select.POLLIN, 0))

    def _wait(self, fd: int, events: int) -> None:
        before, self._exit_seconds = self._exit_seconds, 0.0  # one that is given up gets no time to end
        left = self._patience.left()
        if not _poll(fd, events, left):
            raise TimeoutError(f"the server was silent for {left:.0f} s")
        self._exit_seconds = before

    def close(self) -> None:
        self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(self._exit_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if not self._stderr.closed:
            self._said = self._read_stderr()
            self._stderr.close()

    def _read_stderr(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _DIAGNOSIS_BYTES))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def diagnosis(self) -> str:
        self.close()
        return self._said


class SocketDuplex(Duplex):
    """A plain TCP connection, without Nagle's delay."""

    def __init__(self, host: str, port: int, patience: Patience) -> None:
        super().__init__(patience)
        self._socket = socket.create_connection((host, port), timeout=patience.left())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _receive(self, limit: int) -> bytes:
        self._socket.settimeout(self._patience.left())
        return self._socket.recv(limit)

    def _send(self, data: memoryview) -> int:
        self._socket.settimeout(self._patience.left())
        return self._socket.send(data[:_CHUNK])

    def can_read(self) -> bool:
        return bool(self._ahead) or bool(_poll(self._socket.fileno(), select.POLLIN, 0))

    def close(self) -> None:
        self._socket.close()


def _poll(fd: int, events: int, seconds: float) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(fd, events)
    return poll.poll(int(seconds * 1000))
