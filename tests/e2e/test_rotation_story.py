"""From a request to its proof, with the installed command and stock git and ssh-keygen as witnesses."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.installation import House, wait_for


def _ask(house: House, *more: str) -> str:
    before = set(house.requests())
    ran = house.capsule("request", "reload", "openai-chat", "--reason", "OPS-1", *more)
    assert ran.code == 0, ran.err
    (name,) = set(house.requests()) - before
    return name


def _approve(house: House, name: str, person: str = "bob") -> None:
    ran = house.capsule("approve", name, "--yes", person=person)
    assert ran.code == 0, ran.err


def _phase(house: House, name: str) -> str:
    return str(json.loads(house.told("show", name, "--json").out)["phase"])


def _verify_with_ssh_keygen(house: House, branch: str, path: str, person: str, namespace: str) -> int:
    signers = house.folder / "signers"
    signers.write_text(house.told("policy", "allowed-signers").out)
    signature = house.folder / "signature"
    signature.write_text(house.git("show", f"{branch}:{path}.sig"))
    document = house.git("show", f"{branch}:{path}")
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", person, "-n", namespace, "-s", signature],
        input=document.encode(),
        capture_output=True,
    )
    return done.returncode


def test_a_request_is_asked_approved_executed_recorded_and_proved(house: House) -> None:
    name = _ask(house, "-p", "depth=3")
    folder = f"requests/{name[:4]}/{name[4:6]}/{name}"
    branch = f"request/{name}"
    assert (
        _verify_with_ssh_keygen(house, branch, f"{folder}/request.yaml", "alice", "capsule-request@v1") == 0
    )
    _approve(house, name)
    ran = house.capsule("reconcile", "--once")
    assert (ran.code, house.adapter.effects) == (0, ["reload 3"]), ran.err

    log = house.capsule("log", "openai-chat", "--action", "reload").out
    assert "reload openai-chat: succeeded" in log
    assert "alice" in log
    assert "bob" in log
    assert _phase(house, name) == "Succeeded"
    approval = f"{folder}/approvals/bob.json"
    assert _verify_with_ssh_keygen(house, "main", approval, "bob", "capsule-approval@v1") == 0
    house.capsule("policy", "allowed-signers", "--install")
    for branch in ("audit", "main"):
        marks = house.git("log", "--format=%G?", branch).split()
        assert set(marks) == {"G"}
    house.git("fsck", "--strict")
    late = house.capsule("reject", name, "--reason", "Too late", "--yes", person="carol")
    assert (late.code, f"{name} has already succeeded; nothing to reject" in late.err) == (1, True)
    proved = house.capsule("audit", "verify", "--root", house.root)
    assert proved.code == 0, proved.out
    assert "1 operation proved" in proved.out
    assert house.git("status", "--porcelain") == ""  # the files of main followed the merge


@pytest.mark.soak
def test_a_changed_record_is_noticed_in_a_plain_clone(house: House, tmp_path: Path) -> None:
    name = _ask(house)
    _approve(house, name)
    assert house.capsule("reconcile", "--once").code == 0
    clone = tmp_path / "clone"
    house.git("clone", "--quiet", "--branch", "audit", str(house.state), str(clone))
    unproved = house.capsule("audit", "verify", at=clone, person="carol")
    assert unproved.code == 1, unproved.err
    assert "origin unproved" in unproved.out
    assert house.capsule("audit", "verify", "--root", house.root, at=clone).code == 0
    (record,) = (clone / "records").rglob("result.yaml")
    data = bytearray(record.read_bytes())
    data[-2] ^= 1
    record.write_bytes(data)
    house.git("-c", "commit.gpgsign=true", "commit", "-qam", "Nothing to see", at=clone)
    house.git("push", "-q", "origin", "audit", at=clone)
    forged = house.git("rev-parse", "audit").strip()
    told = house.capsule("audit", "verify", "--root", house.root)
    assert told.code == 1
    assert forged in told.out


def test_a_request_written_with_an_editor_git_and_ssh_keygen_alone_is_executed(house: House) -> None:
    name = "20261123-reload-by-hand"
    folder = house.state / "requests" / "2026" / "11" / name
    folder.mkdir(parents=True)
    (folder / "request.yaml").write_text(
        f"""\
apiVersion: capsule/v1
kind: ActionRequest
metadata: {{name: {name}}}   # written by hand
spec:
  requestedBy: alice
  action: reload
  targets: [openai-chat]
  params: {{depth: 7}}
  reason: "Nothing but an editor"
  expires: "2099-01-01T00:00:00Z"
"""
    )
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "capsule-request@v1", "-f", str(house.key("alice"))]
    subprocess.run([*sign, str(folder / "request.yaml")], check=True, capture_output=True)
    house.git("switch", "-q", "-c", f"request/{name}")
    house.git("add", "requests")
    house.git("-c", "commit.gpgsign=false", "commit", "-qm", "Ask by hand")
    house.git("switch", "-q", "main")
    assert _phase(house, name) == "Proposed"
    _approve(house, name)
    assert house.capsule("reconcile", "--once").code == 0
    assert house.adapter.effects == ["reload 7"]


def test_killed_between_claim_and_result_and_started_again_there_is_one_effect(house: House) -> None:
    name = _ask(house)
    _approve(house, name)
    house.adapter.gate = house.folder / "gate"
    process = house.reconciling()
    try:
        wait_for(lambda: len(house.adapter.effects) == 1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    recorded = house.git("ls-tree", "-r", "--name-only", "audit")
    assert "claim-1.yaml" in recorded
    assert "result.yaml" not in recorded
    house.adapter.gate.touch()
    ran = house.capsule("reconcile", "--once")
    assert ran.code == 0, ran.err
    assert _phase(house, name) == "Succeeded"
    assert house.adapter.effects == ["reload 1"]
    assert house.capsule("reconcile", "--once").code == 0
    assert house.adapter.effects == ["reload 1"]
    assert house.capsule("audit", "verify").code == 0


def test_the_daemon_ends_in_order_on_sigterm_and_owns_its_repository(house: House) -> None:
    process = house.reconciling()
    try:
        wait_for(lambda: "audit" in house.git("branch", "--format=%(refname:short)").split())
        second = house.capsule("reconcile", "--once")
        assert second.code == 3
        assert "RepositoryBusy" in second.err
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0
