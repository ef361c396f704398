"""A new state repository: whole or not at all, its root signed, its machine's key where no commit reaches."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from capsule.commands import init as init_module
from tests.unit.commands.conftest import Office


@pytest.mark.parametrize("bare", [False, True])
def test_a_new_repository_is_signed_pinned_and_sound(office: Office, bare: bool) -> None:
    fresh = office.folder / "fresh"
    done = office.run("init", str(fresh), *(["--bare"] if bare else []))
    assert done.exit_code == 0, done.output
    git_dir = fresh if bare else fresh / ".git"
    root = office.git("rev-list", "--max-parents=0", "main", at=fresh).strip()
    assert root in done.output
    assert office.git("config", "capsule.root", at=fresh).strip() == root
    assert set(office.git("log", "--format=%G? %GS", "main", at=fresh).splitlines()) == {"G alice"}
    office.git("fsck", "--strict", at=fresh)
    assert office.run("check", at=fresh).exit_code == 0
    key = git_dir / "capsule" / "reconciler_ed25519"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    objects = subprocess.run(
        ["git", "-C", str(fresh), "cat-file", "--batch", "--batch-all-objects"], capture_output=True
    ).stdout
    assert b"PRIVATE KEY" not in objects
    assert key.with_name(f"{key.name}.pub").read_text().split()[1].encode() in objects
    if not bare:
        assert office.git("status", "--porcelain", at=fresh) == ""


def test_names_and_keys_may_be_given(office: Office) -> None:
    fresh = office.folder / "fresh"
    options = ("--principal", "robert", "--email", "bob@example.com", "--key", str(office.key("bob")))
    assert office.run("init", str(fresh), *options, person="mallory").exit_code == 0
    policy = (fresh / "policy.yaml").read_text()
    assert '"robert"' in policy
    assert office.key("bob").with_name("bob.pub").read_text().split()[1] in policy
    assert "mallory" not in policy


def test_a_folder_with_something_in_it_is_left_alone(office: Office) -> None:
    full = office.folder / "full"
    full.mkdir()
    (full / "precious").write_text("x")
    done = office.run("init", str(full))
    assert (done.exit_code, "NotEmpty" in done.output) == (2, True)
    assert [file.name for file in full.iterdir()] == ["precious"]
    again = office.run("init", str(office.state))
    assert (again.exit_code, "AlreadyThere" in again.output) == (2, True)
    (office.folder / "file").write_text("x")
    assert office.run("init", str(office.folder / "file")).exit_code == 2


def test_an_interrupted_init_leaves_nothing(office: Office) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    office.monkeypatch.setattr(init_module, "_settings", interrupted)
    before = sorted(os.listdir(office.folder))
    done = office.run("init", str(office.folder / "fresh"))
    assert done.exit_code != 0
    assert sorted(os.listdir(office.folder)) == before


@pytest.mark.parametrize("name", ["Alice", "-alice", "a b", "reconciler-1", "x" * 64])
def test_a_name_that_cannot_be_a_principal_is_refused(office: Office, name: str) -> None:
    assert office.run("init", str(office.folder / "fresh"), "--principal", name).exit_code == 2
    assert not (office.folder / "fresh").exists()


def test_without_a_key_or_an_address_the_commands_that_mend_it_are_printed(
    office: Office, tmp_path: Path
) -> None:
    office.monkeypatch.chdir(tmp_path)
    office.git("config", "--global", "--unset", "user.email")
    done = office.run("init", str(office.folder / "fresh"))
    assert (done.exit_code, "git config --global user.email" in done.output) == (3, True)
    office.git("config", "--global", "--unset", "user.signingkey")
    done = office.run("init", str(office.folder / "fresh"))
    assert (done.exit_code, "ssh-keygen -t ed25519" in done.output) == (3, True)
