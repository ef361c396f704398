"""The demo, as it is installed: every step checked, the repository sound in the eyes of stock programs."""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.installation import CAPSULE, Ran, environment, invoked, run, wait_for


def _git(state: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(state), *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace")


def test_the_demo_once_proves_everything_it_says(tmp_path: Path) -> None:
    (tmp_path / "home" / "visitor").mkdir(parents=True)
    place = tmp_path / "D"
    settings = environment(tmp_path, "visitor")  # nobody has set up git here: no name, no key
    told = run([*CAPSULE, "demo", "--once", "--dir", str(place)], settings)
    assert told.code == 0, told.out + told.err
    assert "\x1b" not in told.out
    assert "✗" not in told.out
    assert re.search(r"All \d\d checks held\.", told.out)
    assert "it is reached over SSH alone (OpenSSH's sshd)" in told.out
    assert "✓ it was executed over SSH, and succeeded" in told.out
    root = re.search(r"^  root +([0-9a-f]{40})$", told.out, re.MULTILINE)
    assert root
    state = place / "state"

    def capsule(*arguments: str) -> Ran:
        return invoked(["-C", str(state), *arguments], settings)

    _git(state, "fsck", "--strict")
    signers = tmp_path / "allowed_signers"
    signers.write_text(capsule("policy", "allowed-signers").out)
    config = ("-c", f"gpg.ssh.allowedSignersFile={signers}")
    assert set(_git(state, *config, "log", "--first-parent", "--format=%G?", "audit").split()) == {"G"}
    assert _git(state, "rev-list", "--max-parents=0", "main").strip() == root[1]
    proved = capsule("audit", "verify", "--root", root[1])
    assert (proved.code, "2 operations proved" in proved.out) == (0, True), proved.out

    used = [
        file.read_text() for file in place.glob("services/*/*") if file.name in ("credentials", "key-admin")
    ]
    secrets = [line.partition("= ")[2] for text in used for line in text.splitlines() if "secret" in line]
    assert len(secrets) == 6
    objects = subprocess.run(
        ["git", "-C", str(state), "cat-file", "--batch", "--batch-all-objects"], capture_output=True
    ).stdout
    assert not [secret for secret in secrets if secret.encode() in objects]
    assert b"PRIVATE KEY" not in objects

    _a_changed_byte_is_named(state, capsule, root[1])
    _its_ssh_server_was_real(place, state)


def _its_ssh_server_was_real(place: Path, state: Path) -> None:
    """sshd's own log has the login, the document pins its host key, the key was let do one thing alone."""
    door = place / "services" / "archive-worker" / "ssh"
    log = (door / "log").read_text()
    assert "Server listening on 127.0.0.1" in log
    assert len(re.findall(r"Accepted publickey for \S+ from 127\.0\.0\.1 .* ED25519", log)) >= 2
    document = _git(state, "show", "main:services/archive-worker.yaml")
    assert f'hostKey: "{" ".join((door / "host_key.pub").read_text().split()[:2])}"' in document
    assert re.search(r'endpoint: "ssh://\S+@127\.0\.0\.1:\d+"', document)
    line = (door / "authorized_keys").read_text()
    assert re.fullmatch(r'command="\S*capsule-agent stdio --socket \S+",restrict ssh-ed25519 .*\n', line)


def _a_changed_byte_is_named(state: Path, capsule: object, root: str) -> None:
    assert callable(capsule)
    _git(state, "switch", "--quiet", "audit")
    records = [path for path in _git(state, "ls-files", "records").splitlines() if not path.endswith(".sig")]
    assert len(records) >= 3  # claim, receipt, result
    tip = _git(state, "rev-parse", "HEAD").strip()
    for record in records:
        data = bytearray((state / record).read_bytes())
        data[len(data) // 3] ^= 1
        (state / record).write_bytes(data)
        identity = ("-c", "user.name=m", "-c", "user.email=m@example.com", "-c", "commit.gpgsign=false")
        _git(state, *identity, "commit", "--quiet", "--all", "-m", "Nothing to see here")
        forged = _git(state, "rev-parse", "HEAD").strip()
        verdict = capsule("audit", "verify", "--root", root)
        assert (verdict.code, forged in verdict.out) == (1, True), record
        _git(state, "reset", "--quiet", "--hard", tip)
    assert capsule("audit", "verify", "--root", root).code == 0


@pytest.mark.parametrize(
    ("number", "server", "said"),
    [
        (signal.SIGINT, "openssh", "(OpenSSH's sshd)"),
        (signal.SIGTERM, "built-in", "(a small SSH server in Python)"),
    ],
)
def test_the_demo_ends_all_its_processes_when_it_is_interrupted(
    tmp_path: Path, number: signal.Signals, server: str, said: str
) -> None:
    (tmp_path / "home" / "visitor").mkdir(parents=True)
    place = tmp_path / "D"
    output = tmp_path / "output"
    with output.open("wb") as told:
        process = subprocess.Popen(
            [*CAPSULE, "demo", "--dir", str(place), "--bind", "127.0.0.1:0", "--ssh-server", server],
            env={**environment(tmp_path, "visitor"), "TMPDIR": str(tmp_path)},
            stdout=told,
            stderr=told,
        )
    try:
        wait_for(lambda: said in output.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, output.read_text()
    finally:
        process.send_signal(number)
        code = process.wait(30)
    assert code == 130, output.read_text()
    assert "Traceback" not in output.read_text()
    assert f"archive-worker listens on no port: it is reached over SSH alone {said}." in output.read_text()
    mentioned = [line for line in _command_lines() if str(place) in line]
    assert mentioned == []


def _command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_the_demo_leaves_a_folder_with_something_in_it_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    told = run([*CAPSULE, "demo", "--once", "--dir", str(tmp_path)], environment(tmp_path, "visitor"))
    assert (told.code, "NotEmpty" in told.err) == (2, True), told.err
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]
