"""The audit verbs on a real repository with a long history: proof, memory, checkpoint, export, report."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.histories import write_history
from capsule.cli import app
from capsule.commands import audit_ahead
from capsule.commands.audit import verify
from capsule.commands.repository import open_repository
from capsule_agent.protocol.sshsig import PrivateKey
from tests.e2e.installation import environment, make_person
from tests.trust_history import key


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "state"
    write_history(folder, 64)
    return folder


@pytest.fixture
def state(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which alice sits."""
    make_person(tmp_path, "alice")
    for name, value in environment(tmp_path, "alice").items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "state"
    shutil.copytree(written, folder)
    subprocess.run(["git", "-C", folder, "config", "--unset", "capsule.root"], check=True)
    return folder


def _run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["-C", str(state), "audit", *arguments])


def _root(state: Path) -> str:
    listed = ["git", "-C", state, "rev-list", "--max-parents=0", "main"]
    return subprocess.run(listed, check=True, capture_output=True, text=True).stdout.strip()


def _git(state: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", state, *arguments], check=True, capture_output=True, text=True).stdout


def _proof(state: Path, *options: str) -> dict[str, object]:
    done = _run(state, "verify", "--root", _root(state), "--json", *options)
    assert done.stdout, done.output
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_the_proof_is_the_same_from_memory_from_the_start_and_with_processes(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _proof(state)
    assert (first["holds"], first["originProved"], first["commits"]) == (True, True, 64)
    kept = state / "capsule" / "proved"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert _proof(state) == first == _proof(state, "--from-start")
    monkeypatch.setattr(audit_ahead, "MANY", 1)
    monkeypatch.setattr(audit_ahead, "CHUNK", 24)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert _proof(state, "--from-start") == first


@pytest.mark.parametrize("how", ["open", "link", "damaged", "foreign", "strange"])
def test_a_memory_that_is_not_ones_own_is_not_believed(state: Path, how: str) -> None:
    first = _proof(state)
    kept = state / "capsule" / "proved"
    data = kept.read_bytes()
    if how == "open":
        kept.chmod(0o644)
    elif how == "link":
        kept.rename(kept.with_name("elsewhere"))
        kept.symlink_to("elsewhere")
    elif how == "damaged":
        kept.write_bytes(data[:-100])
    elif how == "foreign":
        kept.write_bytes(b"\0" * 32 + data[32:])
    else:
        kept.write_bytes(data[:32] + b"cos\nsystem\n(S'touch " + bytes(state) + b"/hacked'\ntR.")
    assert _proof(state) == first
    assert not (state / "hacked").exists()


def test_a_rewritten_audit_is_found_by_a_checkpoint(state: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.checkpoint"
    assert _run(state, "checkpoint").exit_code == 3, "the root is not pinned"
    pinned = ["-C", str(state), "--root", _root(state), "audit", "checkpoint", "-o", str(kept)]
    refused = CliRunner().invoke(app, pinned)
    assert (refused.exit_code, "UnknownKey" in refused.output, kept.exists()) == (4, True, False)
    made = CliRunner().invoke(app, [*pinned, "--unlisted"])
    assert made.exit_code == 0, made.output
    public = tmp_path / "alice.pub"
    public.write_text(_signed_with(kept))
    borne_out = _run(state, "verify", "--checkpoint", str(kept), "--signed-by", str(public))
    assert borne_out.exit_code == 0, borne_out.output
    by_policy = _run(state, "verify", "--checkpoint", str(kept))
    assert "CheckpointBadSignature" in by_policy.output, "this alice is not the one of the policy"
    subprocess.run(["git", "-C", state, "update-ref", "refs/heads/audit", "audit~3"], check=True)
    cut = _run(state, "verify", "--root", _root(state), "--checkpoint", str(kept), "--signed-by", str(public))
    assert cut.exit_code == 1
    assert "CheckpointNotOnAudit" in cut.output


@pytest.mark.parametrize("name", ["carol", "reconciler-1"])
def test_a_checkpoint_by_a_person_or_machine_of_the_policy_is_verified_by_ssh_keygen_too(
    state: Path, tmp_path: Path, name: str
) -> None:
    kept, private, allowed = tmp_path / "kept", tmp_path / "key", tmp_path / "allowed"
    private.write_bytes(_openssh(name))
    private.chmod(0o600)
    pinned = ["-C", str(state), "--root", _root(state)]
    made = CliRunner().invoke(
        app, [*pinned, "audit", "checkpoint", "--as-key", str(private), "-o", str(kept)]
    )
    assert made.exit_code == 0, made.output
    assert _run(state, "verify", "--checkpoint", str(kept)).exit_code == 0
    allowed.write_text(CliRunner().invoke(app, [*pinned, "policy", "allowed-signers"]).stdout)
    line, _, signature = kept.read_bytes().partition(b"\n")
    (tmp_path / "sig").write_bytes(signature)
    stock = ["ssh-keygen", "-Y", "verify", "-n", "capsule-checkpoint@v1", "-f", allowed, "-I", name]
    for signed, code in ((line + b"\n", 0), (line.replace(b"1", b"2") + b"\n", 255)):
        done = subprocess.run([*stock, "-s", tmp_path / "sig"], input=signed, capture_output=True, timeout=20)
        assert done.returncode == code, done.stderr


def _openssh(name: str) -> bytes:
    """The file of the key of `name`, as ssh-keygen would write it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"!")).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _signed_with(kept: Path) -> str:
    from capsule.trust.checkpoints import read_checkpoint
    from capsule_agent.protocol.sshsig import claimed_key

    return claimed_key(read_checkpoint(kept.read_bytes()).signature).text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify", "--signed-by", "x"), 2),
        (("verify", "--checkpoint", "missing"), 3),
        (("export", "--since", "1d", "--from", "2026-01-01T00:00:00Z"), 2),
        (("export", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"), 2),
        (("report", "--since", "soon"), 2),
    ],
)
def test_wrong_usage_is_told(state: Path, arguments: Sequence[str], code: int) -> None:
    done = _run(state, *arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output


def test_a_file_that_is_no_checkpoint_or_key_is_told(state: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nothing")
    assert "CheckpointInvalid" in _run(state, "verify", "--checkpoint", str(wrong)).output


def test_exports_and_reports(state: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    done = _run(state, "export", "--action", "rotateKey", "--selector", "env=prod", "-o", str(table))
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert {(row["action"], row["outcome"], row["approvedBy"]) for row in rows} == {
        ("rotateKey", "succeeded", "bob")
    }
    lines = _run(state, "export", "--format", "jsonl").stdout.splitlines()
    assert len([1 for line in lines if json.loads(line)["action"] == "rotateKey"]) == len(rows)
    unproved = _run(state, "report", "--no-verify")
    assert (unproved.exit_code, "NOT PROVED: nobody checked" in unproved.output) == (0, True)
    origin = _run(state, "report", "--format", "html")
    assert (origin.exit_code, "NOT PROVED: consistent, origin unproved" in origin.output) == (1, True)
    proved = CliRunner().invoke(
        app, ["-C", str(state), "--root", _root(state), "audit", "report", "--format", "json"]
    )
    assert json.loads(proved.stdout)["proved"] is True


def test_a_bad_commit_is_the_same_first_one_however_it_is_looked_for(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forge(state, key("stranger"))
    repository = open_repository(state)
    serial = verify(repository, from_start=True)
    monkeypatch.setattr(audit_ahead, "MANY", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    parallel = verify(repository, from_start=True)
    repository.close()
    assert serial.first_bad
    assert serial.first_bad.reason == "AuditBadSignature"
    assert parallel == serial


def _forge(state: Path, by: PrivateKey) -> None:
    """Sign the last commit of audit anew, as somebody else."""
    raw = subprocess.run(
        ["git", "-C", state, "cat-file", "commit", "audit"], check=True, capture_output=True
    ).stdout
    head, _, body = raw.partition(b"\n\n")
    unsigned = b"\n".join(line for line in head.split(b"\n") if not line.startswith((b"gpgsig", b" ")))
    seal = by.sign(unsigned + b"\n\n" + body, "git").rstrip("\n").replace("\n", "\n ").encode()
    forged = unsigned + b"\ngpgsig " + seal + b"\n\n" + body
    made = ["git", "-C", state, "hash-object", "-t", "commit", "-w", "--stdin"]
    oid = subprocess.run(made, input=forged, check=True, capture_output=True).stdout.decode().strip()
    subprocess.run(["git", "-C", state, "update-ref", "refs/heads/audit", oid], check=True)


def test_a_ledger_that_does_not_reach_the_main_that_audit_observed_says_so(state: Path) -> None:
    """The last commit of audit names main's tip and does not take it in: rows would end too early."""
    main = _git(state, "commit-tree", "-p", "main", "-m", "Go on", "main^{tree}").strip()
    _git(state, "update-ref", "refs/heads/main", main)
    message = f"Say so\n\nCapsule-Revision: {main}\n"
    lying = _git(state, "commit-tree", "-p", "audit", "-m", message, "audit^{tree}").strip()
    _git(state, "update-ref", "refs/heads/audit", lying)
    for verb in (("export",), ("report", "--no-verify")):
        done = _run(state, *verb)
        assert done.exit_code == 1, done.output
        assert "[LedgerBehind]" in done.output
