"""Rules for every test: in CI nothing is skipped, and no process outlives the session that started it.

Rules kept: a skipped test proves nothing, so with CI=true it is a failure; a process that a test starts
ends before the session does, orphans of orphans included; no property fails because the machine is busy
(Hypothesis would measure wall time; the fuzzers measure CPU time themselves), or because the run was started
in the background, where shells have SIGINT ignored, and so every child; the long tests begin first, so that
no worker is left with one at the end while the others idle. Used by pytest in every run, by each worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 5.0
_LONGEST_FIRST = ("e2e", "web", "docs", "integration")
# Started by Python itself, once per interpreter, and ended by it after the last test.
_OF_THE_INTERPRETER = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing may be: {report.longrepr}"
        # pytest counts no failure that was expected.
        vars(report).pop("wasxfail", None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing may be: {report.longrepr}"
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Folders with long tests first; within a folder the order stays."""
    tests = config.rootpath / "tests"

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def every_process_ends() -> Iterator[None]:
    """Fail the session that leaves a process running, and end the process."""
    _adopt_orphans()
    before = _descendants()
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    left = _descendants().keys() - before.keys()
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = _descendants().keys() - before.keys()
    named = [f"{pid}: {command}" for pid, command in _descendants().items() if pid in left]
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not named, "tests left processes running:\n" + "\n".join(named)


def _adopt_orphans() -> None:
    """Have the children of ended processes become children of this one, where the kernel can do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> dict[int, str]:
    """Every living process below this one, with its command line (read from /proc; none without it)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # The name in parentheses may hold anything; state and parent follow the last one.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            command = _command_line(pid)
            if not any(name in command for name in _OF_THE_INTERPRETER):
                found[pid] = command
            waiting.append(pid)
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
