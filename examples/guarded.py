"""Run one program that ends when its parent does, however the parent ended.

`python guarded.py PROGRAM ARG…` starts the program and waits. It ends the program when its own standard
input closes (the parent's half of the pipe closes with the parent), on SIGTERM and on SIGINT; on Linux the
kernel ends the program too should this process be killed outright. Called by `launch`; needs nothing but
the standard library, so that it can watch a program not written for it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def run(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, _only_wake)
    # preexec_fn is unsafe beside other threads, and PR_SET_PDEATHSIG follows the thread that forked: both
    # are sound here alone, because this process has one thread.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: PLW1509
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin.fileno(), wake_read], [], [])
        if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 1024):
            return _end(child)
        if wake_read in ready and set(os.read(wake_read, 64)) & {signal.SIGTERM, signal.SIGINT}:
            return _end(child)
    return child.returncode


def _only_wake(_number: int, _frame: object) -> None:
    """The wakeup descriptor carries the number; a handler must exist for it to be written."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end(child: subprocess.Popen[bytes]) -> int:
    child.terminate()
    try:
        return child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]) & 0xFF)
