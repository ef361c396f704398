"""`capsule protect` and what `capsule hook` is given: refusals that leave a repository as it was."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from capsule.commands import hook
from capsule.commands.errors import CommandError
from capsule.trust.pushes import Push
from tests.unit.commands.conftest import Office

ROOT = "a" * 40
TIP = "b" * 40
NOTHING = "0" * 40


@pytest.fixture
def bare(office: Office) -> Path:
    folder = office.folder / "state.git"
    office.git("init", "--quiet", "--bare", "--initial-branch=main", str(folder), at=office.folder)
    return folder


def settings(office: Office, bare: Path) -> dict[str, str]:
    listed = office.git("config", "--local", "--list", at=bare).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in listed)}


def test_a_bare_repository_is_protected_and_that_can_be_repeated(office: Office, bare: Path) -> None:
    done = office.run("protect", str(bare), "--root", ROOT)
    assert done.exit_code == 0, done.output
    assert "It has no main yet" in done.output
    script = bare / "hooks" / "pre-receive"
    shebang, line = script.read_text().splitlines()
    assert shebang == "#!/bin/sh"
    assert shlex.split(line) == [
        *("exec", sys.executable, "-P", "-m", "capsule", "-C", ".", "hook", "pre-receive")
    ]
    assert os.access(script, os.X_OK)
    found = settings(office, bare)
    assert found["capsule.root"] == ROOT
    assert found["transfer.hiderefs"] == "refs/capsule/local"
    for name in ("denydeletes", "denynonfastforwards", "fsckobjects"):
        assert found[f"receive.{name}"] == "true"
    again = office.run("protect", at=bare)
    assert again.exit_code == 0, again.output
    assert settings(office, bare) == found


def test_a_new_repository_may_be_protected_from_the_start(office: Office) -> None:
    fresh = office.folder / "fresh.git"
    done = office.run("init", str(fresh), "--bare", "--protect")
    assert done.exit_code == 0, done.output
    assert (fresh / "hooks" / "pre-receive").is_file()
    assert settings(office, fresh)["gc.auto"] == "6700"
    assert "no main yet" not in office.run("protect", at=fresh).output
    other = office.run("protect", "--root", ROOT, at=fresh)
    assert (other.exit_code, "[BadRoot]" in other.output) == (3, True)
    assert settings(office, fresh)["capsule.root"] != ROOT


def test_a_repository_with_files_is_not_a_servers(office: Office) -> None:
    done = office.run("protect")
    assert (done.exit_code, "[NotBare]" in done.output) == (2, True)
    done = office.run("init", str(office.folder / "fresh"), "--protect")
    assert (done.exit_code, "--bare" in done.output) == (2, True)
    assert not (office.folder / "fresh").exists()


def test_without_a_root_nothing_can_be_judged(office: Office, bare: Path) -> None:
    before = settings(office, bare)
    done = office.run("protect", at=bare)
    assert (done.exit_code, "[RootNotPinned]" in done.output) == (3, True)
    done = office.run("protect", "--root", "main", at=bare)
    assert (done.exit_code, "[BadRoot]" in done.output) == (2, True)
    assert settings(office, bare) == before


def test_the_hook_of_somebody_else_is_left_alone(office: Office, bare: Path) -> None:
    script = bare / "hooks" / "pre-receive"
    script.write_text("#!/bin/sh\nexec /usr/local/bin/ours\n")
    before = settings(office, bare)
    done = office.run("protect", "--root", ROOT, at=bare)
    assert (done.exit_code, "[HookThere]" in done.output) == (2, True)
    assert "capsule -C . hook pre-receive" in done.output
    assert (script.read_text(), settings(office, bare)) == ("#!/bin/sh\nexec /usr/local/bin/ours\n", before)


def test_the_lines_of_git_are_read() -> None:
    lines = [f"{NOTHING} {TIP} refs/heads/main\n", f"{TIP} {NOTHING} refs/tags/a\n"]
    assert hook.read_pushes(lines) == (
        Push("refs/heads/main", None, TIP),
        Push("refs/tags/a", TIP, None),
    )
    assert hook.read_pushes([]) == ()


@pytest.mark.parametrize(
    "line", ["", f"{TIP} refs/heads/main", f"x {TIP} refs/heads/main", f"{TIP} {TIP} HEAD"]
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(CommandError, match="OLD NEW REF"):
        hook.read_pushes([line])


def test_so_many_refs_and_no_more_are_judged_at_once() -> None:
    line = f"{NOTHING} {TIP} refs/heads/x\n"
    assert len(hook.read_pushes([line] * hook.MAX_REFS)) == hook.MAX_REFS
    with pytest.raises(CommandError, match="more than 1000 refs"):
        hook.read_pushes([line] * (hook.MAX_REFS + 1))


def test_folders_of_objects_come_from_the_environment_that_git_sets(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    environment = {
        "GIT_QUARANTINE_PATH": str(one),
        "GIT_OBJECT_DIRECTORY": str(one),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": f"{two}{os.pathsep}{tmp_path / 'gone'}",
    }
    assert hook.object_folders(environment) == (one, two)
    assert hook.object_folders({}) == ()
