"""The state repository on a server: everybody has a clone of their own, and the command does the rest.

Stock git is the server: behind sshd, behind `git http-backend`, and as a path.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.installation import CAPSULE, House, Ran, invoked, run, wait_for
from tests.git_servers import assert_sound, bare_repository, hook, http_git, sshd

TOKEN = "correct-horse-battery-staple"


@dataclass
class Office:
    """A house whose repository is on a server; `said` is all that any command printed."""

    house: House
    url: str
    bare: Path
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    said: str = ""

    def capsule(self, who: str, *arguments: str, at: Path | None = None) -> Ran:
        """The command in the clone of `who`, with what only they have in their environment."""
        ran = run([*CAPSULE, "-C", str(at or self.clone_of(who)), *arguments], self.environment(who))
        self.said += ran.out + ran.err
        return ran

    def environment(self, who: str) -> dict[str, str]:
        return {**self.house.environment(who), **self.variables.get(who, {})}

    def clone_of(self, who: str) -> Path:
        return self.house.state if who == "alice" else self.house.folder / f"clone-of-{who}"

    def join(self, who: str, *options: str) -> Ran:
        """Give `who` a clone."""
        place = str(self.clone_of(who))
        return self.capsule(
            who, "clone", self.url, place, "--root", self.house.root, *options, at=self.house.folder
        )

    def ask(self) -> str:
        ran = self.capsule("alice", "request", "reload", "openai-chat", "--reason", "OPS-1", "-p", "depth=3")
        assert ran.code == 0, ran.err
        (name,) = self.branches("request/")
        return name

    def reconcile(self) -> Ran:
        key = self.house.state / ".git" / "capsule" / "reconciler_ed25519"
        return self.capsule("reconciler", "reconcile", "--once", "--key", str(key))

    def phase(self, who: str, name: str) -> str:
        shown = invoked(["-C", str(self.clone_of(who)), "show", name, "--json"], self.environment(who))
        return str(json.loads(shown.out)["phase"])

    def branches(self, prefix: str) -> list[str]:
        """What the server itself has."""
        listed = self.house.git(
            "for-each-ref", "--format=%(refname)", f"refs/heads/{prefix}", at=self.bare
        ).split()
        return [name.removeprefix(f"refs/heads/{prefix}") for name in listed]

    def configure(self, who: str, name: str, value: str) -> None:
        """A setting of `who`'s own git."""
        self.house.git("config", "--global", "--add", name, value, person=who)


PEOPLE = ("alice", "bob", "carol", "reconciler", "auditor")


@contextmanager
def _office(house: House, kind: str, folder: Path) -> Iterator[Office]:
    for who in ("reconciler", "auditor"):
        (folder / "home" / who).mkdir()
    bare = bare_repository(folder / "served" / "state.git")
    with ExitStack() as stack:
        if kind == "ssh":
            server = stack.enter_context(sshd(folder / "sshd"))
            office = Office(house, server.url(bare), bare)
            for who in PEOPLE:
                office.configure(who, "capsule.remote.knownHosts", str(server.known_hosts))
                office.configure(who, "capsule.remote.sshKey", str(server.key))
        elif kind == "http":
            web = stack.enter_context(http_git(folder / "served"))
            web.login = ("capsule", TOKEN)
            office = Office(house, web.url("state.git"), bare)
            _hand_out_the_token(office, folder)
        else:
            office = Office(house, str(bare), bare)
        house.git("push", "--quiet", str(bare), "main")
        house.git("remote", "add", "origin", office.url)
        yield office


def _hand_out_the_token(office: Office, folder: Path) -> None:
    """A setting, the environment, and a credential helper: each works."""
    file = folder / "token"
    file.write_text(TOKEN + "\n")
    for who in ("alice", "auditor"):
        office.configure(who, "capsule.remote.tokenFile", str(file))
    office.variables["reconciler"] = {"CAPSULE_TOKEN_FILE": str(file)}
    stored = folder / "home" / "bob" / ".git-credentials"
    stored.write_text(office.url.replace("http://", f"http://capsule:{TOKEN}@") + "\n")
    office.configure("bob", "credential.helper", f"store --file {stored}")


@pytest.fixture(
    params=["ssh", pytest.param("http", marks=pytest.mark.soak), pytest.param("path", marks=pytest.mark.soak)]
)
def office(house: House, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Office]:
    with _office(house, request.param, tmp_path) as made:
        yield made


def test_asked_approved_executed_and_proved_from_four_clones(office: Office) -> None:
    name = office.ask()
    for who in ("bob", "reconciler"):
        joined = office.join(who)
        assert joined.code == 0, joined.err
    assert office.phase("bob", name) == "Proposed"
    approved = office.capsule("bob", "approve", name, "--yes")
    assert approved.code == 0, approved.err
    executed = office.reconcile()
    assert (executed.code, office.house.adapter.effects) == (0, ["reload 3"]), executed.err

    assert office.join("auditor").code == 0
    proved = office.capsule("auditor", "audit", "verify", "--root", office.house.root)
    assert proved.code == 0, proved.out + proved.err
    assert "1 operation proved" in proved.out
    assert office.phase("auditor", name) == "Succeeded"
    assert_sound(office.bare)
    assert office.branches("audit") == [""]
    kept = [office.clone_of(who) / ".git" / "config" for who in PEOPLE if office.clone_of(who).exists()]
    assert TOKEN not in office.said + "".join(file.read_text() for file in kept)


def _move_main_during_the_next_push(office: Office) -> str:
    """The server itself moves main, between bob's look at it and his push; gives the commit it moves to."""
    house = office.house
    house.git("switch", "--quiet", "-c", "notes")
    (house.state / "NOTES.md").write_text("Somebody else was first.\n")
    house.git("add", "NOTES.md")
    house.git("commit", "--quiet", "-m", "Write a note")
    house.git("push", "--quiet", str(office.bare), "notes")
    house.git("switch", "--quiet", "main")
    other = house.git("rev-parse", "notes").strip()
    race = office.bare / "race"
    race.touch()
    hook(
        office.bare,
        "pre-receive",
        f"test -e {race} && grep -q refs/heads/main || exit 0\n"
        f"rm {race}; unset GIT_QUARANTINE_PATH; git update-ref refs/heads/main {other}",
    )
    return other


def test_an_approval_that_loses_the_race_is_built_again_on_the_new_tip(house: House, tmp_path: Path) -> None:
    with _office(house, "path", tmp_path) as office:
        name = office.ask()
        assert office.join("bob").code == 0
        other = _move_main_during_the_next_push(office)
        approved = office.capsule("bob", "approve", name, "--yes")
        assert approved.code == 0, approved.err
        assert not (office.bare / "race").exists()
        parents = house.git("rev-list", "--parents", "-1", "refs/heads/main", at=office.bare).split()[1:]
        assert parents[0] == other
        assert len(parents) == 2
        assert office.phase("bob", name) == "Approved"


def test_a_key_that_only_an_agent_holds(house: House, tmp_path: Path) -> None:
    with (
        _office(house, "ssh", tmp_path) as office,
        _ssh_agent(tmp_path, tmp_path / "sshd" / "client") as sock,
    ):
        house.git("config", "--global", "--unset-all", "capsule.remote.sshKey", person="bob")
        refused = office.join("bob")
        assert (refused.code, "RemoteUnreachable" in refused.err) == (3, True), refused.err
        assert not office.clone_of("bob").exists()
        office.variables["bob"] = {"SSH_AUTH_SOCK": str(sock)}
        joined = office.join("bob")
        assert joined.code == 0, joined.err


@contextmanager
def _ssh_agent(folder: Path, key: Path) -> Iterator[Path]:
    sock = folder / "agent.sock"
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=log, stderr=log)
    try:
        wait_for(sock.exists)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
        subprocess.run(["ssh-add", str(key)], env=environment, check=True, capture_output=True)
        yield sock
    finally:
        process.terminate()
        process.wait()


def test_a_token_that_is_refused_is_never_shown(house: House, tmp_path: Path) -> None:
    with _office(house, "http", tmp_path) as office:
        wrong = tmp_path / "wrong"
        wrong.write_text("hunter2-hunter2")
        refused = office.capsule(
            "carol", "--token-file", str(wrong), "clone", office.url, str(tmp_path / "x"), at=tmp_path
        )
        assert refused.code == 3
        assert "the login was refused" in refused.err or "asks for a login" in refused.err
        assert "hunter2" not in refused.out + refused.err
        assert not (tmp_path / "x").exists()


def test_a_clone_of_another_repository_than_the_one_named_is_not_kept(house: House, tmp_path: Path) -> None:
    with _office(house, "path", tmp_path) as office, closing(house.adapter):
        place = tmp_path / "other"
        ran = office.capsule("bob", "clone", office.url, str(place), "--root", "0" * 40, at=tmp_path)
        assert (ran.code, "BadRoot" in ran.err) == (3, True), ran.err
        assert not place.exists()
        assert [file for file in tmp_path.iterdir() if file.name.startswith(".other")] == []
