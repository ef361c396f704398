"""README's ten minutes, followed: its commands typed, its adapter run, its claims checked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.processes import free_port
from tests.docs.pages import REPOSITORY, blocks
from tests.docs.test_tutorial import Reader, wait_for_port

README = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
"""Without line breaks."""
ENROL = "docs/how-to/enrol-a-service.md"
AROUND = """
from types import SimpleNamespace
from flask import Flask
settings, client, app = SimpleNamespace(model="gpt-5.1"), SimpleNamespace(ping=lambda: True), Flask("adapter")
"""
SERVED = '\nimport sys\napp.run("127.0.0.1", int(sys.argv[1]), use_reloader=False)\n'


def written(command: str) -> str:
    """The command, as README has it between backquotes."""
    (found,) = {each for each in re.findall(r"`(capsule [^`]*)`", README) if each.startswith(command)}
    return found


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path)
    yield found
    found.leave()


def healthy(reader: Reader) -> bool:
    """Whether `capsule services` says so of the one service."""
    (row,) = json.loads(reader.type("capsule services --json"))
    return bool(row["status"] == "HEALTHY")


@pytest.mark.timeout(120)
def test_the_ten_minutes_work(reader: Reader, tmp_path: Path) -> None:
    adapter = next(each.text for each in blocks("python") if str(each).startswith("README.md"))
    port = free_port()
    (tmp_path / "adapter.py").write_text(AROUND + adapter + SERVED)
    keygen = next(each for each in re.findall(r"`(ssh-keygen [^`]*)`", README))
    reader.type("mkdir ~/.ssh && export GIT_CONFIG_GLOBAL=$HOME/.gitconfig")
    reader.type(f"{keygen} -q -N ''".replace("~", "$HOME"))
    configured = re.findall(r"`(git config --global[^`]*)`", README)
    assert len(configured) == 2
    reader.type("\n".join(configured))
    reader.type("ssh-keygen -q -t ed25519 -N '' -C bob -f bob")
    reader.type(f"{written('capsule init')}\npython adapter.py {port} > adapter.log 2>&1 &")
    wait_for_port(port)

    document = next(each.text for each in blocks("yaml") if str(each).startswith(ENROL))
    document = re.sub(r'endpoint: "[^"]*"', f'endpoint: "http://127.0.0.1:{port}"', document)
    (tmp_path / "state" / "services" / "openai-chat.yaml").write_text(document)
    reader.type("cd state && git switch -qc enrol && git add services && git commit -qm Enrol")
    reader.type("capsule propose --yes && git switch -q main")
    reader.type(f"{written('capsule up')} --bind 127.0.0.1:{free_port()} > ../up.log 2>&1 &")
    deadline = time.monotonic() + 60
    while not healthy(reader):
        assert time.monotonic() < deadline, (tmp_path / "up.log").read_text()
        time.sleep(0.2)

    printed = reader.type(written("capsule policy add").replace("bob.pub", "../bob.pub"))
    steps = [line.strip() for line in printed.partition("then:")[2].splitlines() if line.startswith("  ")]
    assert len(steps) == 3, printed
    for step in steps:
        reader.type(re.sub(r"capsule (propose|policy signers)", r"capsule \1 --yes", step))
    asked = reader.type(f"{written('capsule request rotateKey')} || echo exit code $?")
    assert "ObserveOnly" in asked, "it only observes so far, as step 2 says"
    assert "exit code 2" in asked
