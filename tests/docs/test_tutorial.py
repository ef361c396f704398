"""The tutorial, followed to the letter: its commands typed, its service written, its claims checked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.processes import free_port
from tests.docs.pages import blocks

PAGE = "docs/tutorial.md"
PORT_IN_THE_PAGE = "7070"
NAME_IN_THE_PAGE = "20261123-rotate-key-webhooks-g9jc"


def commands() -> list[str]:
    """The blocks of commands after the installation, in order."""
    found = [block.text for block in blocks("sh") if str(block).startswith(PAGE)]
    assert "pip install ./agent ." in found[0]
    return found[1:]


def edit_policy(policy: str, bob: str) -> str:
    """What step 3 tells the reader to do, by its words."""
    wanted = r'bob:|  email:|  keys:|    - "|reviewers:|- match: \{action: "\*"|  mayRe|  appr'
    text = re.sub(rf"^(\s*)# ({wanted})", r"\1\2", policy, flags=re.MULTILINE)
    return text.replace("ssh-ed25519 AAAA…", bob).replace("serial: 1", "serial: 2")


class Reader:
    """Somebody at a shell, who types what the page says."""

    def __init__(self, folder: Path) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CAPSULE_"))
        }
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **environment,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
                "HOME": str(folder),
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_NOSYSTEM": "1",
                "NO_COLOR": "1",
                "COLUMNS": "200",
            },
        )

    def type(self, text: str) -> str:
        """Type a block; its output. Fails when a command fails."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"{{ set -e\n{text}\nset +e; }}\necho; echo ---done $?\n")
        self.shell.stdin.flush()
        seen = ""
        for line in self.shell.stdout:
            if line.startswith("---done"):
                assert line == "---done 0\n", seen
                return seen
            seen += line
        raise AssertionError(f"the shell ended:\n{text}\n{seen}")

    def leave(self) -> None:
        """End the shell and everything started from it."""
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the adapter did not start"
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path)
    yield found
    found.leave()


@pytest.mark.timeout(300)
def test_the_tutorial_works_to_the_letter(reader: Reader, tmp_path: Path) -> None:
    adapter = next(block.text for block in blocks("python") if str(block).startswith(PAGE))
    outputs: dict[str, str] = {}
    name = ""
    port = str(free_port())
    for text in commands():
        if "capsule check" in text and "bob" in text:
            policy = tmp_path / "state" / "policy.yaml"
            bob = " ".join((tmp_path / "bob.pub").read_text().split()[:2])
            policy.write_text(edit_policy(policy.read_text(), bob))
        if "python adapter.py" in text:
            (tmp_path / "adapter.py").write_text(adapter.replace(PORT_IN_THE_PAGE, port))
        if "../secrets.json" in text:
            before = json.loads((tmp_path / "secrets.json").read_text())
        typed = text.replace(NAME_IN_THE_PAGE, name).replace(PORT_IN_THE_PAGE, port)
        outputs[text] = output = reader.type(typed)
        if "python adapter.py" in text:
            wait_for_port(int(port))
        asked = re.search(r"^Request (\S+)$", output, re.MULTILINE)
        name = asked[1] if asked and not name else name

    def said(part: str) -> str:
        return next(output for text, output in outputs.items() if part in text)

    assert "no problems" in said("Add bob")
    assert "HEALTHY" in said("capsule services")
    assert "Proposed" in said("capsule show")
    assert "refused, exit code 4" in said("refused, exit code")
    after = json.loads((tmp_path / "secrets.json").read_text())
    assert list(before["keys"]) == ["key-0"]
    assert list(after["keys"]) == [after["inUse"]]
    assert after["inUse"] != "key-0"
    assert "rotateKey webhooks: succeeded" in said("git log --first-parent")
    assert re.search(r"alice +bob +signature +Rotated", said("capsule log"))
    reader.type("capsule reconcile --once")
    assert json.loads((tmp_path / "secrets.json").read_text()) == after
