"""Start real processes, know when they answer, and always end them.

Rules kept: every process runs under `guarded.py`, so it ends with whoever started it; output goes to a
log file, never to a pipe nobody reads; no secret in arguments or environment. Called by `launch` and
`upstream`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

_GUARDED = Path(__file__).with_name("guarded.py")
_PACKAGE = __package__ or "examples"
_ROOT = Path(__file__).resolve().parents[len(_PACKAGE.split("."))]
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 3


class DidNotStart(RuntimeError):
    """A process ended, or stayed silent, before it was ready; the text carries the end of its log."""


class RunningProcess:
    """A process that is being watched; a context manager that ends it."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self._popen.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def stop(self) -> None:
        """End it and wait until it is gone. Calling again does nothing."""
        stdin = self._popen.stdin
        if stdin and not stdin.closed:
            stdin.close()
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL), and wait until it is gone."""
        # The session holds the guard and the program: both die at once, neither has time to tidy up.
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdin:
            self._popen.stdin.close()

    def __enter__(self) -> RunningProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def module_of(name: str) -> str:
    """The full name of a module of this package, wherever the package is installed."""
    return f"{_PACKAGE}.{name}"


def start_on_free_port(
    command: Callable[[int], Sequence[str]],
    log: Path,
    ready: Callable[[int], bool],
    environment: Mapping[str, str] | None = None,
    *,
    port: int | None = None,
) -> tuple[RunningProcess, int]:
    """Start `command(port)` on `port`, or on a free one, and wait until `ready(port)`.

    Another process may take a free port between choosing and binding; a program that ends early is
    therefore started again on another one. Raises DidNotStart.
    """
    attempts = 1 if port else _PORT_ATTEMPTS
    for attempt in range(1, attempts + 1):
        chosen = port or free_port()
        try:
            return start(command(chosen), log, partial(ready, chosen), environment), chosen
        except DidNotStart:
            if attempt == attempts:
                raise
    raise AssertionError("unreachable")


def start(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> RunningProcess:
    """Start `command` and wait until `ready()`. Raises DidNotStart."""
    process = _spawn(command, log, environment or {})
    try:
        _wait_until(process, ready)
    except BaseException:
        process.stop()
        raise
    return process


def _spawn(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> RunningProcess:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return RunningProcess(_popen(command, output, environment), log)


def _popen(
    command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", str(_GUARDED), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**_clean_environment(), **environment},
        # A Ctrl-C in the terminal reaches whoever started us, who then ends us in order.
        start_new_session=True,
    )


def _clean_environment() -> dict[str, str]:
    """The caller's environment without cloud credentials and without proxies for the loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
    search_path = [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(search_path),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _wait_until(process: RunningProcess, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if not process.alive():
            raise DidNotStart(f"ended before it was ready; {process.log} ends with:\n{_tail(process.log)}")
        if ready():
            return
        time.sleep(0.05)
    raise DidNotStart(
        f"not ready after {_START_SECONDS:.0f} s; {process.log} ends with:\n{_tail(process.log)}"
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
