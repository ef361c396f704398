"""Packing and sweeping beside the passes: when it is asked for, what its failures cost, and how it ends."""

from __future__ import annotations

import logging
import threading

import pytest

from capsule.daemon import upkeep
from capsule.store.api import StoreError

DEADLINE = 10.0


def test_it_is_asked_for_again_and_again_beside_its_caller() -> None:
    asked = threading.Semaphore(0)
    threads = set()

    def tidy(ending: threading.Event) -> None:
        threads.add(threading.current_thread().name)
        asked.release()

    with upkeep(tidy, first=0.0, every=0.01):
        assert all(asked.acquire(timeout=DEADLINE) for _ in range(3))
    assert threads == {"upkeep"}


def test_nothing_is_asked_for_before_its_time() -> None:
    asked = []
    with upkeep(asked.append, first=DEADLINE, every=DEADLINE):
        pass
    assert asked == []


@pytest.mark.parametrize(
    ("error", "level"),
    [(StoreError("the disk is full"), logging.WARNING), (RuntimeError("a defect"), logging.ERROR)],
)
def test_what_fails_is_logged_and_tried_again(
    error: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)

    def tidy(ending: threading.Event) -> None:
        asked.release()
        raise error

    with upkeep(tidy, first=0.0, every=0.01):
        assert all(asked.acquire(timeout=DEADLINE) for _ in range(2))
    assert level in {record.levelno for record in caplog.records}


def test_its_end_breaks_off_what_is_under_way() -> None:
    begun, broken_off = threading.Event(), threading.Event()

    def tidy(ending: threading.Event) -> None:
        begun.set()
        if ending.wait(DEADLINE):
            broken_off.set()

    with upkeep(tidy, first=0.0):
        assert begun.wait(DEADLINE)
    assert broken_off.is_set()
