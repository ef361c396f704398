"""An office for tests of commands: people with keys, a state repository with two services, no agents.

Rules kept: made once, copied for each test; git sees only the settings of the person who acts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capsule.cli import app
from capsule.commands.init import init
from capsule.commands.repository import Repository, open_repository
from capsule.commands.signing import Identity, find_signer, identify
from tests.e2e.installation import POLICY, SERVICE, environment, make_person

SETTINGS = """\
apiVersion: capsule/v1
kind: Capsule
metadata: {name: office}
spec: {title: Office, limits: {maxShare: 100}}
"""
PEOPLE = ("alice", "bob", "carol", "mallory")
AGENT_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB9jJmkNjKoTi0DAbXWyhiuhIYYjZmYnmRqmrYmtMS+p"


def right_now() -> datetime:
    """The present second."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Office:
    """The folder of one test, with what is in it; what is made once and copied is kept on the `shelf`."""

    folder: Path
    state: Path
    root: str
    monkeypatch: pytest.MonkeyPatch
    shelf: Path

    def sit_down(self, person: str) -> None:
        """From here on `person` acts: their git settings, their key."""
        for name, value in environment(self.folder, person).items():
            self.monkeypatch.setenv(name, value)

    def run(self, *arguments: str, person: str = "alice", at: Path | None = None) -> Result:
        """The command line, in this process."""
        self.sit_down(person)
        return CliRunner().invoke(app, ["-C", str(at or self.state), *arguments])

    def git(self, *arguments: str, person: str = "alice", at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", str(at or self.state), *arguments],
            env=environment(self.folder, person),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, person: str) -> Path:
        return self.folder / "keys" / person

    def open(self) -> Repository:
        return open_repository(self.state)

    def identity(self, repository: Repository, person: str) -> Identity:
        signer = find_signer(self.state, self.key(person))
        return identify(repository.state.policy.document, signer, self.state)

    def ask(self, *more: str, action: str = "reload", targets: Sequence[str] = ("openai-chat",)) -> str:
        """A request by alice; its name."""
        before = self.requests()
        done = self.run("request", action, *targets, "--reason", "OPS-1", *more)
        assert done.exit_code == 0, done.output
        (name,) = self.requests() - before
        return name

    def requests(self) -> set[str]:
        """Names of requests on branches, here and as seen at a remote."""
        listed = self.git(
            "for-each-ref", "--format=%(refname)", "refs/heads/request/", "refs/remotes/origin/request/"
        )
        return {name.rpartition("/")[2] for name in listed.split()}

    def refs(self) -> str:
        return self.git("for-each-ref")


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The office as it is copied for each test."""
    folder = tmp_path_factory.mktemp("office")
    keys = {person: make_person(folder, person) for person in PEOPLE}
    service = SERVICE.replace("ENDPOINT", "http://127.0.0.1:9").replace("KEY", AGENT_KEY)
    other = service.replace("openai-chat", "mail-sender").replace("env: prod", "env: test")
    policy = POLICY.replace("BOB", keys["bob"]).replace("CAROL", keys["carol"])
    policy = policy.replace("match: {action: drain}", "match: {action: drain, selector: {team: search}}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder, "alice").items():
            patch.setenv(name, value)
        init(
            folder / "state",
            right_now(),
            files={
                "policy.yaml": policy.encode(),
                "capsule.yaml": SETTINGS.encode(),
                "services/openai-chat.yaml": service.encode(),
                "services/test/mail-sender.yaml": other.encode(),
            },
        )
    for name in ("user.signingkey", "user.name", "user.email"):
        subprocess.run(["git", "-C", str(folder / "state"), "config", "--unset", name], check=True)
    return folder


@pytest.fixture
def office(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A copy of its own."""
    folder = tmp_path / "office"
    shutil.copytree(furnished, folder, symlinks=True)
    state = folder / "state"
    for settings in [*folder.glob("home/*/.gitconfig"), state / ".git" / "config"]:
        settings.write_text(settings.read_text().replace(str(furnished), str(folder)))
    for name in ("CAPSULE_REPO", "CAPSULE_ROOT", "CAPSULE_SIGNING_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    root = subprocess.run(
        ["git", "-C", str(state), "config", "capsule.root"], capture_output=True, text=True
    ).stdout.strip()
    made = Office(folder, state, root, monkeypatch, furnished.with_name("shelf"))
    made.sit_down("alice")
    return made
