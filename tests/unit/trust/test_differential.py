"""Our verdicts beside those of stock OpenSSH and git, on the same bytes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capsule.trust.objects import BadObject, parse_commit
from capsule.trust.policy import signer_of
from capsule.trust.policy_checks import load_policy
from capsule.trust.published import allowed_signers
from capsule_agent.protocol import sshsig
from tests.trust_history import History, key, policy_text

POLICY = load_policy(policy_text(), "policy.yaml")


def run(*words: str, data: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", **env}
    return subprocess.run(words, input=data, capture_output=True, env=clean, timeout=30)


@pytest.fixture
def signers(tmp_path: Path) -> Path:
    path = tmp_path / "allowed_signers"
    path.write_text(allowed_signers(POLICY))
    return path


def key_file(folder: Path, who: str) -> Path:
    private = Ed25519PrivateKey.from_private_bytes(who.encode().ljust(32, b"!"))
    path = folder / who
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("who", ["bob", "reconciler-1"])
@pytest.mark.parametrize("namespace", [sshsig.COMMIT, sshsig.APPROVAL, sshsig.ORDER, "file"])
def test_ssh_keygen_verifies_what_we_sign_in_the_namespaces_we_allow(
    tmp_path: Path, signers: Path, who: str, namespace: str
) -> None:
    seal = tmp_path / "x.sig"
    seal.write_text(key(who).sign(b"message", namespace))
    for identity in [who, f"{who}@example.com"] if who == "bob" else [who]:
        verify = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", identity, "-n", namespace]
        stock = run(*verify, "-s", str(seal), data=b"message").returncode == 0
        mine = (
            namespace
            in {
                "bob": (sshsig.COMMIT, sshsig.APPROVAL),
                "reconciler-1": (sshsig.COMMIT, sshsig.ORDER),
            }[who]
        )
        assert stock == mine
        assert run(*verify, "-s", str(seal), data=b"massage").returncode != 0


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_we_verify_what_ssh_keygen_signs(tmp_path: Path, hash_name: str) -> None:
    data = tmp_path / "bob.json"
    data.write_bytes(b"{}\n")
    private = key_file(tmp_path, "bob")
    sign = ["ssh-keygen", "-Y", "sign", "-n", sshsig.APPROVAL, "-O", f"hashalg={hash_name}"]
    made = run(*sign, "-f", str(private), str(data))
    assert made.returncode == 0, made.stderr
    armored = (tmp_path / "bob.json.sig").read_text()
    assert signer_of(POLICY, b"{}\n", armored, sshsig.APPROVAL) == "bob"


@pytest.fixture
def repository(tmp_path: Path, signers: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    folder = tmp_path / "repo.git"
    assert run("git", "init", "-q", "--bare", str(folder)).returncode == 0

    def git(*words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        settings: Mapping[str, str] = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": str(signers)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return run("git", "-C", str(folder), "--no-replace-objects", *options, *words, data=data)

    return git


def commits() -> Sequence[tuple[str, bytes, bool]]:
    """Name, raw bytes and whether stock git is expected to differ from us (and why, in the ADR)."""
    history = History()
    tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

    def made(**options: object) -> bytes:
        return history.objects[history.raw_commit(tree, [], **options)][1]  # type: ignore[arg-type]  # as named

    good = made(by=key("bob"))
    twice = b"author Mallory <m@example.com> 1764547200 +0000\n"
    return [
        ("signed", good, False),
        ("unsigned", made(), False),
        ("by a machine", made(by=key("reconciler-1")), False),
        ("by a stranger", made(by=key("stranger")), False),
        ("wrong namespace", made(by=key("bob"), namespace=sshsig.APPROVAL), False),
        ("message changed", good.replace(b"step", b"stap"), False),
        ("author changed", good.replace(b"Someone", b"Anybody"), False),
        ("broken armor", good.replace(b"BEGIN SSH", b"BEGIN XXX"), False),
        (
            "not base64",
            made(signature="-----BEGIN SSH SIGNATURE-----\n!!\n-----END SSH SIGNATURE-----\n"),
            False,
        ),
        ("empty signature", made(signature="\n"), False),
        ("header after committer", made(by=key("bob"), headers=b"encoding UTF-8\n"), False),
        ("two authors", made(by=key("bob"), headers=twice), True),
    ]


@pytest.mark.parametrize(("name", "raw", "differs"), commits(), ids=[name for name, _, _ in commits()])
def test_our_verdict_on_a_commit_is_that_of_git(
    repository: Callable[..., subprocess.CompletedProcess[bytes]], name: str, raw: bytes, differs: bool
) -> None:
    assert repository("mktree").returncode == 0
    written = repository("hash-object", "-t", "commit", "-w", "--literally", "--stdin", data=raw)
    assert written.returncode == 0, written.stderr
    stock = repository("verify-commit", written.stdout.decode().strip()).returncode == 0
    assert ours(raw) == (stock and not differs), name
    assert stock or not differs


def ours(raw: bytes) -> bool:
    try:
        info = parse_commit(raw)
        if info.signature is None:
            return False
        return bool(signer_of(POLICY, info.signed_payload, info.signature, sshsig.COMMIT))
    except (BadObject, sshsig.BadSignature):
        return False


def test_git_itself_signs_commits_that_we_verify(
    tmp_path: Path, repository: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    tree = repository("mktree").stdout.decode().strip()
    private = key_file(tmp_path, "alice")
    person = [
        "-c",
        "user.name=Alice",
        "-c",
        "user.email=alice@example.com",
        "-c",
        f"user.signingkey={private}",
    ]
    made = repository(*person, "commit-tree", tree, "-S", "-m", "by git")
    assert made.returncode == 0, made.stderr
    raw = repository("cat-file", "commit", made.stdout.decode().strip()).stdout
    assert ours(raw)
    assert parse_commit(raw).author.name == "Alice"
