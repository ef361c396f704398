"""How-tos, followed: the commands of their blocks typed by the people they are for, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks
from tests.e2e.installation import environment
from tests.unit.commands.conftest import Office

DEADLINE = 120


def steps(page: str) -> list[str]:
    """The blocks of commands of a page, in order."""
    return [block.text for block in blocks("sh") if str(block).startswith(f"docs/how-to/{page}.md")]


class Desk:
    """People who type blocks into a shell, in the state repository."""

    def __init__(self, office: Office) -> None:
        self.office = office

    def type(self, text: str, person: str = "alice", at: Path | None = None) -> str:
        for verb in ("approve", "propose", "policy signers"):
            text = text.replace(f"capsule {verb}", f"capsule {verb} --yes")
        settings = environment(self.office.folder, person)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-e", "-c", text],
            cwd=at or self.office.state,
            env={**settings, "PATH": path, "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def policy(self, old: str, new: str, person: str = "alice", other: str = "bob") -> None:
        """A change of the policy, proposed by one owner and approved by another."""
        file = self.office.state / "policy.yaml"
        text = file.read_text()
        serial = next(line for line in text.splitlines() if line.startswith("  serial: "))
        number = int(serial.split()[1])
        assert old in text
        branch = f"policy-{number + 1}"
        self.type(f"git switch -q -c {branch} main", person)
        file.write_text(text.replace(serial, f"  serial: {number + 1}").replace(old, new))
        self.type("capsule check\ngit commit -q -a -m 'Change the policy'\ncapsule propose", person)
        self.type(f"git switch -q main\ncapsule approve {branch}", other)


@pytest.fixture
def desk(office: Office) -> Desk:
    return Desk(office)


def names(desk: Desk) -> str:
    return desk.type("git switch -q main; capsule services")


@pytest.mark.soak
def test_a_service_is_retired_and_another_renamed(desk: Desk) -> None:
    retire, approve_retiring, rename, propose, approve_renaming = steps("rename-or-retire-a-service")
    desk.type(rename)
    desk.type(propose)
    desk.type("git switch -q main\n" + approve_renaming, "bob")
    assert "mailer" in names(desk)
    desk.type(retire)
    desk.type("git switch -q main\n" + approve_retiring, "bob")
    assert "openai-chat" not in names(desk)
    assert "mail-sender" not in names(desk)


@pytest.mark.soak
def test_a_reconciler_gets_a_new_key(desk: Desk) -> None:
    make, sign, switch, _ = steps("rotate-keys")
    new = desk.type(make).strip().splitlines()[-1]
    public = " ".join(new.split()[:2])
    text = (desk.office.state / "policy.yaml").read_text()
    old = text.partition("reconciler-1: {machine: true, keys: [")[2].partition("]")[0]
    desk.policy(old, f'{old}, "{public}"')
    assert "serial 2" in desk.type(sign)
    desk.type(switch)
    assert public in desk.type("ssh-keygen -y -f .git/capsule/reconciler_ed25519")
    desk.policy(f'{old}, "{public}"', f'"{public}"')
    assert "serial 3" in desk.type(sign)
    assert "AuditSignature" not in desk.type("capsule services")
    assert "proved from root" in desk.type(f"capsule audit verify --root {desk.office.root}")


def test_an_owner_gets_a_new_key(desk: Desk) -> None:
    sign = steps("rotate-keys")[3]
    new = desk.office.folder / "keys" / "bob-new"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(new)], check=True)
    public = " ".join(Path(f"{new}.pub").read_text().split()[:2])
    old = " ".join(Path(f"{desk.office.key('bob')}.pub").read_text().split()[:2])
    desk.policy(f'"{old}"', f'"{old}", "{public}"')
    assert "serial 2" in desk.type(f"{sign.strip()} --as-key {new}", "bob")


def test_the_list_of_signers_is_signed_again_only_when_it_differs(desk: Desk) -> None:
    sign, ask = steps("hand-out-the-signers")
    assert "serial 1" in desk.type(sign)
    assert "needs no approval" in desk.type(ask)


@pytest.mark.soak
def test_a_repository_without_a_server_is_backed_up_and_restored(desk: Desk) -> None:
    back_up, restore = steps("back-up-a-reconciler")
    state = desk.office.state
    desk.type("capsule reconcile --once")
    desk.type(back_up)
    key = (state / ".git/capsule/reconciler_ed25519").read_bytes()
    (desk.office.folder / "reconciler_ed25519").write_bytes(key)
    told = desk.type(restore.replace("ROOT", desk.office.root), at=desk.office.folder)
    assert "proved from root" in told
    assert "openai-chat" in desk.type("capsule -C restored services", at=desk.office.folder)
