"""A service that must take no traffic: its adapter is a process with Flask, its reconciler is `capsule
reconcile`, and the measure is what callers of the adapter get."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from capsule.commands.init import init
from tests.e2e.installation import (
    POLICY,
    SERVICE,
    Adapter,
    House,
    make_person,
    public_text,
    wait_for,
)
from tests.unit.commands.conftest import right_now

DOCUMENT = "services/openai-chat.yaml"
ADAPTER = """\
import sys
from flask import Flask
from werkzeug.serving import make_server
from capsule_agent import Agent, Health

folder, owners, port = sys.argv[1:]
agent = Agent("openai-chat", version="1.8.2", journal=f"{folder}/agent.db", owners=owners,
              key=f"{folder}/agent_key")
agent.config("model", lambda: "gpt-5.1")
agent.health(lambda: Health("UP", ""))
adapter = Flask("openai-chat")

@adapter.get("/answer")
def answer():
    return "42"

adapter.wsgi_app = agent.wsgi(adapter.wsgi_app)
make_server("127.0.0.1", int(port), adapter, threaded=True).serve_forever()
"""
AT_ONCE = """\
    - match: {action: disable}
      mayRequest: [operators]
      approvals: []
    - match: {action: enable}
      mayRequest: [operators]
      approvals: []
"""


@dataclass
class Shop:
    """A house whose adapter and reconciler are processes."""

    house: House
    port: int
    adapter: subprocess.Popen[bytes] | None = None
    reconciler: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        folder, owners = self.house.adapter.folder, self.house.adapter.owners
        with (folder / "log").open("ab") as log:
            self.adapter = subprocess.Popen(
                [sys.executable, str(folder / "adapter.py"), str(folder), str(owners), str(self.port)],
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self.answer() != 0)

    def answer(self) -> int:
        """What a caller of the adapter gets: 200, 503, or 0 for nothing."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as caller:
            try:
                caller.request("GET", "/answer")
                return caller.getresponse().status
            except OSError:
                return 0

    def reconcile(self) -> None:
        self.reconciler = self.house.reconciling()

    def crash(self) -> None:
        """The reconciler is killed, as by the machine's death."""
        if self.reconciler:
            self.reconciler.send_signal(signal.SIGKILL)
            self.reconciler.wait(10)
            self.reconciler = None

    def shut(self) -> None:
        if self.adapter:
            self.adapter.kill()
            self.adapter.wait(10)

    def merge(self, enabled: bool) -> float:
        """Alice merges the choice into main; when that was."""
        file = self.house.state / DOCUMENT
        other = "false" if enabled else "true"
        file.write_text(file.read_text().replace(f"enabled: {other}", f"enabled: {str(enabled).lower()}"))
        self.house.git("commit", "-qS", "-am", f"Set enabled: {str(enabled).lower()}")
        return time.monotonic()

    def story(self) -> list[str]:
        return self.house.git("log", "--first-parent", "--format=%s", "audit").splitlines()


def within(seconds: float, since: float, condition: Callable[[], bool]) -> float:
    """How long after `since` the condition held; fails after `seconds`."""
    wait_for(condition, since + seconds - time.monotonic())
    return time.monotonic() - since


def told(action: str, story: list[str]) -> bool:
    """Whether the document's order is over: the newest line comes first."""
    ordered, done = f"{action} openai-chat: ordered", f"{action} openai-chat: succeeded"
    return ordered in story and done in story[: story.index(ordered)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    keys = {person: make_person(tmp_path, person) for person in ("alice", "bob", "carol")}
    adapter, owners, port = tmp_path / "adapter", tmp_path / "owners", free_port()
    for folder in (adapter, owners):
        folder.mkdir()
    (owners / "alice.pub").write_text(keys["alice"] + "\n")
    (adapter / "adapter.py").write_text(ADAPTER)
    agent_key = adapter / "agent_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(agent_key)], check=True)
    policy = POLICY.replace("BOB", keys["bob"]).replace("CAROL", keys["carol"])
    policy = policy.replace("  rules:\n", "  rules:\n" + AT_ONCE, 1)
    of_services = "match: {change: service}\n      mayRequest: [operators]\n      approvals: "
    policy = policy.replace(of_services + "[{team: reviewers, count: 1}]", of_services + "[]")
    service = SERVICE.replace("ENDPOINT", f"http://127.0.0.1:{port}").replace("KEY", public_text(agent_key))
    files = {
        "policy.yaml": policy.encode(),
        DOCUMENT: service.replace("spec:\n", "spec:\n  enabled: true\n").encode(),
    }
    state = tmp_path / "state"
    made = init(
        state,
        right_now(),
        principal="alice",
        email="alice@example.com",
        key=tmp_path / "keys" / "alice",
        files=files,
    )
    for name in ("user.signingkey", "user.name", "user.email"):
        subprocess.run(["git", "-C", str(state), "config", "--unset", name], check=True)
    shop = Shop(House(tmp_path, state, made.root, Adapter(adapter, owners)), port)
    try:
        shop.open()
        shop.reconcile()
        wait_for(lambda: (state / ".git/refs/heads/audit").exists() and "HEALTHY" in shop.story()[0])
        yield shop
    finally:
        shop.crash()
        shop.shut()
    assert shop.house.capsule("audit", "verify").code == 0


def test_enabled_false_merged_takes_the_traffic_within_two_seconds_and_for_good(shop: Shop) -> None:
    assert shop.answer() == 200
    merged = shop.merge(enabled=False)
    took = within(2.0, merged, lambda: shop.answer() == 503)
    assert took < 2.0
    wait_for(lambda: "disable openai-chat: succeeded" in shop.story())
    shop.shut()
    shop.open()
    assert shop.answer() == 503, "a restart of the adapter changes nothing"
    shop.crash()
    assert shop.answer() == 503, "nor does the death of the reconciler"
    shop.reconcile()
    within(10.0, shop.merge(enabled=True), lambda: shop.answer() == 200)


def test_a_person_disables_at_once_and_it_holds_until_a_document_settles_it(shop: Shop) -> None:
    asked = time.monotonic()
    done = shop.house.capsule("disable", "openai-chat", "--reason", "Key in a public log, OPS-1300")
    assert done.code == 0, done.err
    assert "It needs no approval" in done.out
    assert "It holds until it is settled" in done.out
    within(10.0, asked, lambda: shop.answer() == 503)
    wait_for(lambda: any("DISABLED (DisabledByRequest)" in line for line in shop.story()))
    assert shop.answer() == 503, "though the document says enabled: true"
    refused = shop.house.capsule("enable", "openai-chat", "--reason", "Rotated", person="bob")
    assert (refused.code, "NotEntitled" in refused.err) == (4, True)
    shop.merge(enabled=False)
    wait_for(lambda: told("disable", shop.story()))
    denied = shop.house.capsule("enable", "openai-chat", "--reason", "Rotated")
    assert (denied.code, "DisabledBySpec" in denied.err) == (4, True)
    within(10.0, shop.merge(enabled=True), lambda: shop.answer() == 200)
