"""A whole installation for tests of the command: people with keys and git settings of their own, a state
repository, an agent that really answers, and the installed `capsule` as a process.

Rules kept: nothing outside of the test's folder is read or written; whatever is started is ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from capsule.cli import app
from capsule_agent import Agent, Health

POLICY = """\
apiVersion: capsule/v1
kind: Policy
metadata:
  name: policy
spec:
  serial: 1
  principals:
    alice: {email: alice@example.com, keys: ["{{key}}"]}
    bob: {email: bob@example.com, keys: ["BOB"]}
    carol: {email: carol@example.com, keys: ["CAROL"]}
    reconciler-1: {machine: true, keys: ["{{reconciler_key}}"]}
  teams:
    owners: [alice, bob]
    operators: [alice]
    reviewers: [bob, carol]
  rules:
    - match: {action: runHealthCheck}
      mayRequest: [operators]
      approvals: []
    - match: {action: reload, selector: {env: prod}}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
    - match: {action: drain}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 2}]
    - match: {action: cancel}
      mayRequest: [operators]
      approvals: []
    - match: {change: service}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
    - match: {change: settings}
      mayRequest: [operators]
      approvals: [{team: reviewers, count: 1}]
    - match: {change: policy}
      mayRequest: [owners]
      approvals: [{team: owners, count: 1}]
"""
SERVICE = """\
apiVersion: capsule/v1
kind: Service
metadata:
  name: openai-chat
  labels: {env: prod, team: search}
spec:
  agent:
    endpoint: "ENDPOINT"
    key: "KEY"
  pins: {version: "1.8.2", model: "gpt-5.1"}
  health: {interval: 1s, timeout: 5s}
"""


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    code: int
    out: str
    err: str


@dataclass
class Adapter:
    """An integration service with its agent, in this process. `effects` are what really happened; `hold`
    keeps the effect from ending until the file exists."""

    folder: Path
    owners: Path
    gate: Path | None = None
    _closing: list[Callable[[], None]] = field(default_factory=list)
    endpoint: str = ""

    @property
    def effects(self) -> list[str]:
        """One line for each time the action ran."""
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []

    def start(self) -> None:
        agent = Agent(
            "openai-chat",
            version="1.8.2",
            journal=self.folder / "agent.db",
            owners=self.owners,
            key=self.folder / "agent_key",
            answer_within=5.0,
        )
        agent.config("model", lambda: "gpt-5.1")
        agent.health(lambda: Health("UP", "\x1b[2Jall good"))

        @agent.action("reload", approvals=1)
        def reload(order: object, depth: int = 1) -> None:
            with (self.folder / "effects").open("a") as file:
                file.write(f"reload {depth}\n")
            wait_for(lambda: self.gate is None or self.gate.exists())

        handle = agent.serve()
        self.endpoint = handle.address
        self._closing += [handle.close, agent.close]

    def close(self) -> None:
        for close in self._closing:
            close()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll until `condition` holds; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass(frozen=True)
class House:
    """Everything of one test."""

    folder: Path
    state: Path
    root: str
    adapter: Adapter

    def environment(self, person: str = "alice") -> dict[str, str]:
        return environment(self.folder, person)

    def capsule(self, *arguments: str, person: str = "alice", at: Path | None = None) -> Ran:
        """The installed command, as `person`."""
        return run([*CAPSULE, "-C", str(at or self.state), *arguments], self.environment(person))

    def told(self, *arguments: str, person: str = "alice", at: Path | None = None) -> Ran:
        """What the command says and does, in this process."""
        return invoked(["-C", str(at or self.state), *arguments], self.environment(person))

    def reconciling(self) -> subprocess.Popen[bytes]:
        """`capsule reconcile` as a process; the caller ends it."""
        log = (self.folder / "reconcile.log").open("ab")
        with log:
            return subprocess.Popen(
                [*CAPSULE, "-C", str(self.state), "reconcile"], env=self.environment(), stdout=log, stderr=log
            )

    def git(self, *arguments: str, person: str = "alice", at: Path | None = None) -> str:
        done = run(["git", "-C", str(at or self.state), *arguments], self.environment(person))
        assert done.code == 0, done.err
        return done.out

    def key(self, person: str) -> Path:
        return self.folder / "keys" / person

    def requests(self) -> list[str]:
        """Names of requests on branches."""
        listed = self.git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/heads/request/")
        return listed.split()


CAPSULE = (sys.executable, "-m", "capsule")


def run(command: list[str], environment: dict[str, str], stdin: str = "") -> Ran:
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=90)
    return Ran(done.returncode, done.stdout, done.stderr)


def invoked(arguments: Sequence[str], environment: dict[str, str]) -> Ran:
    """What the command says and does, in this process: where the start of one is beside the point."""
    cleared: dict[str, str | None] = dict.fromkeys(os.environ.keys() - environment.keys())
    done = CliRunner().invoke(app, arguments, env={**cleared, **environment})
    return Ran(done.exit_code, done.stdout, done.stderr)


def environment(folder: Path, person: str) -> dict[str, str]:
    """A person's environment: their own git settings, and nothing of this process's git or capsule."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CAPSULE_", "SSH_"))
    }
    return {
        **kept,
        "HOME": str(folder / "home" / person),
        "GIT_CONFIG_GLOBAL": str(folder / "home" / person / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
    }


def make_person(folder: Path, person: str) -> str:
    """A key and git settings; the public key's text."""
    key = folder / "keys" / person
    key.parent.mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person, "-f", str(key)], check=True)
    home = folder / "home" / person
    home.mkdir(parents=True)
    (home / ".gitconfig").write_text(
        f"[user]\n\tname = {person.capitalize()}\n\temail = {person}@example.com\n\tsigningkey = {key}.pub\n"
        "[gpg]\n\tformat = ssh\n[init]\n\tdefaultBranch = main\n"
    )
    return public_text(key)


def public_text(key: Path) -> str:
    """The public half of `key`, without its comment."""
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def make_house(folder: Path, init: Callable[[Path, dict[str, bytes]], str]) -> House:
    """Make everything; `init(state, files)` makes the repository and gives its root."""
    keys = {person: make_person(folder, person) for person in ("alice", "bob", "carol", "mallory")}
    owners = folder / "owners"
    owners.mkdir()
    (owners / "alice.pub").write_text(keys["alice"] + "\n")
    adapter_folder = folder / "adapter"
    adapter_folder.mkdir()
    agent_key = adapter_folder / "agent_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(agent_key)], check=True)
    adapter = Adapter(adapter_folder, owners)
    adapter.start()
    policy = POLICY.replace("BOB", keys["bob"]).replace("CAROL", keys["carol"])
    service = SERVICE.replace("ENDPOINT", adapter.endpoint).replace("KEY", public_text(agent_key))
    files = {"policy.yaml": policy.encode(), "services/openai-chat.yaml": service.encode()}
    state = folder / "state"
    return House(folder, state, init(state, files), adapter)
