"""Threads kept for the next piece of work: reused, in nobody's way, not taken along by a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import capsule_agent
from capsule_agent import spare_threads

_FORKS = """
import os, threading
from capsule_agent import spare_threads
done = threading.Event()
spare_threads.run(done.set)
assert done.wait(10)
while not spare_threads._idle:
    pass
child = os.fork()
done.clear()
spare_threads.run(done.set)
assert done.wait(10)
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""


def _run_and_wait() -> int:
    """The thread that did a piece of work, once it is free again."""
    found: list[int] = []
    before = len(spare_threads._idle)
    spare_threads.run(lambda: found.append(threading.get_ident()))
    deadline = time.monotonic() + 10
    while not found or len(spare_threads._idle) < max(before, 1):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found[0]


def _meet(others: threading.Barrier) -> None:
    others.wait(10)


def test_work_one_after_the_other_is_done_by_one_thread() -> None:
    assert len({_run_and_wait() for _ in range(5)}) == 1


def test_work_never_waits_for_other_work() -> None:
    together = threading.Barrier(9)
    for _ in range(8):
        spare_threads.run(partial(_meet, together))
    together.wait(10)


def test_a_forked_process_starts_its_own() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(capsule_agent.__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "ignore", "-c", _FORKS], check=True, env=environment, timeout=30)
