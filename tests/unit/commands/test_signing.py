"""Signing as a person: every form of git's signing key, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsule.commands.errors import CommandError, RefusedByPolicy, SetUpProblem
from capsule.commands.signing import find_signer, identify
from capsule_agent.protocol.sshsig import verify
from tests.e2e.installation import wait_for
from tests.unit.commands.conftest import Office


@pytest.fixture
def ssh_agent(office: Office, tmp_path: Path) -> Iterator[None]:
    """An ssh-agent of its own."""
    address = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL)
    try:
        wait_for(address.exists)
        office.monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
        yield
    finally:
        process.terminate()
        process.wait()


def _configure(office: Office, value: str) -> None:
    office.git("config", "--global", "user.signingkey", value)


def _signs(office: Office) -> None:
    signer = find_signer(office.state)
    message = b"a message of several\nlines\0"
    signature = signer.sign(message, "capsule-request@v1")
    verify(message, signature, "capsule-request@v1", [signer.public])
    (office.folder / "sig").write_text(signature)
    signers = office.folder / "signers"
    signers.write_text(f"alice {signer.public.text}\n")
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "alice", "-n", "capsule-request@v1"]
    subprocess.run([*command, "-s", office.folder / "sig"], input=message, check=True, capture_output=True)


def test_a_private_key_file(office: Office) -> None:
    _configure(office, str(office.key("alice")))
    _signs(office)


def test_a_private_key_file_without_its_public_half(office: Office) -> None:
    office.key("alice").with_name("alice.pub").unlink()
    _configure(office, str(office.key("alice")))
    _signs(office)


def test_a_public_key_file_beside_its_private_half(office: Office) -> None:
    _configure(office, f"{office.key('alice')}.pub")
    _signs(office)


def test_a_path_below_the_home_folder(office: Office) -> None:
    home = Path(os.environ["HOME"])
    for file in ("alice", "alice.pub"):
        (home / file).write_bytes((office.folder / "keys" / file).read_bytes())
    (home / "alice").chmod(0o600)
    _configure(office, "~/alice.pub")
    _signs(office)


@pytest.mark.parametrize("prefix", ["key::", ""])
@pytest.mark.usefixtures("ssh_agent")
def test_a_key_given_as_text_whose_private_half_the_agent_holds(office: Office, prefix: str) -> None:
    subprocess.run(["ssh-add", "-q", str(office.key("alice"))], check=True, capture_output=True)
    _configure(office, prefix + office.key("alice").with_name("alice.pub").read_text().strip())
    office.key("alice").unlink()
    _signs(office)


def test_no_key_at_all_is_answered_with_the_commands_that_make_one(office: Office) -> None:
    office.git("config", "--global", "--unset", "user.signingkey")
    with pytest.raises(SetUpProblem) as caught:
        find_signer(office.state)
    assert caught.value.reason == "NoSigningKey"
    assert "git config --global user.signingkey" in caught.value.hint
    done = office.run("request", "reload", "openai-chat", "--reason", "x")
    assert (done.exit_code, "ssh-keygen -t ed25519" in done.output) == (3, True)


@pytest.mark.parametrize(
    "value", ["/nowhere/key", "ABCDEF0123456789", "key::ssh-ed25519 AAAA", "key::ssh-rsa AAAA"]
)
def test_a_key_that_is_none_is_a_problem_of_the_set_up(office: Office, value: str) -> None:
    _configure(office, value)
    with pytest.raises(SetUpProblem):
        find_signer(office.state)


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"ssh-rsa AAAA alice", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"]
)
def test_a_public_key_file_with_something_else_in_it(office: Office, text: bytes) -> None:
    file = office.folder / "odd.pub"
    file.write_bytes(text)
    with pytest.raises(SetUpProblem):
        find_signer(office.state, file)
    private = office.folder / "odd"
    private.write_bytes(text)
    file.unlink()
    with pytest.raises(SetUpProblem):
        find_signer(office.state, private)


def test_a_passphrase_that_nobody_can_type_is_said(office: Office) -> None:
    file = office.folder / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret words", "-f", str(file)], check=True)
    # Without a terminal and without a helper ssh-keygen has nobody to ask.
    office.monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
    office.monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    signer = find_signer(office.state, file)
    with pytest.raises(SetUpProblem) as caught:
        signer.sign(b"x", "git")
    assert caught.value.reason == "CannotSign"


def test_two_halves_that_do_not_belong_together_are_noticed(office: Office) -> None:
    bob = office.key("bob").with_name("bob.pub").read_text()
    office.key("alice").with_name("alice.pub").write_text(bob)
    with pytest.raises(CommandError) as caught:
        find_signer(office.state, office.key("alice")).sign(b"x", "git")
    assert caught.value.reason in ("WrongKeyPair", "CannotSign")


def test_who_signs_is_who_the_policy_says_and_not_who_git_says(office: Office) -> None:
    repository = office.open()
    try:
        policy = repository.state.policy.document
        bob = identify(policy, find_signer(office.state, office.key("bob")), office.state)
        assert (bob.principal, bob.person.name, bob.person.email) == ("bob", "bob", "bob@example.com")
        alice = identify(policy, find_signer(office.state), office.state)
        assert (alice.principal, alice.person.name) == ("alice", "Alice")
        with pytest.raises(RefusedByPolicy) as caught:
            identify(policy, find_signer(office.state, office.key("mallory")), office.state)
    finally:
        repository.close()
    assert "ssh-ed25519 AAAA" in caught.value.hint


def test_a_slip_in_a_keys_name_is_answered_with_the_file_that_was_meant(office: Office) -> None:
    meant = office.key("alice")
    done = office.run(
        "request", "reload", "openai-chat", "--reason", "OPS-1", "--as-key", f"{meant}.pubb", person="alice"
    )
    assert (done.exit_code, f"Did you mean {meant}.pub?" in done.output) == (3, True), done.output
    assert "ssh-keygen" not in done.output
