"""`capsule watch` as a process: it tells what happens while it happens, and ends with Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from queue import Queue

import pytest
from rich.console import Console

from capsule.cli.watch import page
from capsule.commands.repository import open_repository
from capsule.commands.watch import Look, watch
from capsule.store.git import open_store
from tests.unit.commands.conftest import right_now
from tests.web.chronicle import Chronicle, service_text
from tests.web.integration_services import integration_services

PATH = "services/openai-chat.yaml"
DEADLINE = 20


class Past:
    """A repository on disk whose story goes on."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
        self.folder = folder
        self.store = open_store(folder, remote=None)
        text = service_text("openai-chat", labels={"env": "prod"}, pins={"version": "1"})
        self.story = Chronicle(right_now() - timedelta(days=1), {PATH: text}, self.store)  # type: ignore[arg-type]  # any store
        subprocess.run(["git", "-C", str(folder), "config", "capsule.root", self.story.root], check=True)
        self.status("HEALTHY", "HealthUp")
        self.story.beat({})

    def status(self, status: str, reason: str, **more: object) -> None:
        self.story.now = right_now()
        self.story.record(self.story.status(PATH, status, reason, **more), f"openai-chat: {status}")


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    made = Past(tmp_path / "state")
    yield made
    made.store.close()


@contextmanager
def watching(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Queue[str]]]:
    """The command as a process, and the lines that it prints (both streams)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "capsule", "-C", str(folder), "watch", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.put(line.rstrip("\n"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait(DEADLINE)
        reader.join(DEADLINE)
        stream.close()


def test_each_change_is_a_line_and_ctrl_c_ends_it_quietly(past: Past) -> None:
    with watching(past.folder) as (process, lines):
        assert lines.get(timeout=DEADLINE) == "Watching 1 service."
        past.status("OFFLINE", "AgentTimeout", message="no answer\u2026")
        told = lines.get(timeout=DEADLINE).partition(" ")[2]
        assert told == "status openai-chat: HEALTHY -> OFFLINE [AgentTimeout] no answer\u2026"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        rest = []
        while not lines.empty():
            rest.append(lines.get())
        assert "Traceback" not in "".join(rest)


def test_json_is_one_object_a_line(past: Past) -> None:
    with watching(past.folder, "--json") as (_, lines):
        lines.get(timeout=DEADLINE)
        past.status("UNHEALTHY", "HealthDown")
        found = json.loads(lines.get(timeout=DEADLINE))
        assert {name: found[name] for name in ("kind", "service", "before", "after", "reason")} == {
            "kind": "status",
            "service": "openai-chat",
            "before": "HEALTHY",
            "after": "UNHEALTHY",
            "reason": "HealthDown",
        }


def test_fetching_brings_what_others_wrote_and_a_remote_that_is_away_ends_nothing(
    past: Past, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    subprocess.run([sys.executable, "-m", "capsule", "clone", str(past.folder), str(clone)], check=True)
    repository = open_repository(clone, past.story.root)
    clock = iter(right_now() + timedelta(seconds=at) for at in range(0, 1000, 10))
    try:
        looks = watch(repository, lambda: next(clock), lambda: None, timedelta(seconds=10))
        first = next(looks)
        assert (first.changed, first.away) == ((), "")
        past.status("OFFLINE", "AgentTimeout")
        assert "openai-chat: OFFLINE" in [row.subject for row in next(looks).trail]
        past.folder.rename(tmp_path / "elsewhere")
        away = next(looks)
        assert away.away
        assert [row.name for row in away.seen.services] == ["openai-chat"]
        (tmp_path / "elsewhere").rename(past.folder)
        assert next(looks).away == ""
    finally:
        repository.close()


def test_nothing_is_told_while_nothing_moves(past: Past) -> None:
    now = right_now()
    repository = open_repository(past.folder, past.story.root)
    rests: list[int] = []

    def rest() -> None:
        rests.append(len(rests))
        if len(rests) == 3:
            past.status("OFFLINE", "AgentTimeout")

    try:
        looks = watch(repository, lambda: now, rest)
        assert next(looks).seen.now == now
        changed = next(looks).changed
        assert len(rests) == 3
        assert [each.after for each in changed] == ["OFFLINE"]
    finally:
        repository.close()


def _lines(look: Look, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(page(look, height))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_page_for_terminals_fits_and_shows_what_matters(width: int) -> None:
    from capsule.view.build import snapshot
    from capsule.view.trail import trail

    story = integration_services()
    refs = story.store.refs()
    seen = snapshot(story.store, refs, story.root, story.now)
    rows = tuple(trail(story.store, refs["refs/heads/audit"], story.root, limit=10))
    lines = _lines(Look(seen, (), rows, "the remote is away\x1b[2J"), width, 40)
    assert len(lines) <= 40
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "Needs attention (" in text
    assert "Open requests (" in text
    assert "reconciler-1" in text
    assert "\\x1b[2J" in text
    assert "\x1b" not in text
