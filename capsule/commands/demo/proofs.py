"""What stock programs say of the demo's repository: nothing here trusts Capsule's own word."""

from __future__ import annotations

import subprocess
from pathlib import Path

from capsule.commands.demo.stage import Stage

_NAMESPACE = "capsule-approval@v1"


def every_commit_good(stage: Stage) -> bool:
    """Whether `git log --format=%G?` says G for every commit of audit, under the policy's allowed_signers."""
    signers = stage.capsule("policy", "allowed-signers")
    file = stage.folder / "allowed_signers"
    file.write_text(signers.answer, encoding="utf-8")
    ran = stage.git(
        "-c",
        f"gpg.ssh.allowedSignersFile={file}",
        "log",
        "--first-parent",
        "--format=%G?",
        "refs/heads/audit",
    )
    marks = ran.output.split()
    return signers.code == 0 and ran.code == 0 and bool(marks) and set(marks) == {"G"}


def approval_verifies(stage: Stage, request: str, person: str) -> bool:
    """Whether `ssh-keygen -Y verify` accepts the person's approval of `request`, as it lies on main."""
    listed = stage.git("ls-tree", "-r", "--name-only", "refs/heads/main").output.splitlines()
    found = [path for path in listed if path.endswith(f"/{request}/approvals/{person}.json")]
    if len(found) != 1:
        return False
    signature = stage.folder / "approval.sig"
    signature.write_text(stage.git("show", f"refs/heads/main:{found[0]}.sig").answer, encoding="utf-8")
    document = subprocess.run(
        ["git", "-C", str(stage.state), "show", f"refs/heads/main:{found[0]}"], capture_output=True
    ).stdout
    done = subprocess.run(
        [
            *("ssh-keygen", "-Y", "verify", "-f", str(stage.folder / "allowed_signers")),
            *("-I", person, "-n", _NAMESPACE, "-s", str(signature)),
        ],
        input=document,
        capture_output=True,
    )
    return done.returncode == 0


def tampering_is_noticed(stage: Stage) -> tuple[bool, str]:
    """Change one byte of a result in a copy, commit it on audit, verify: noticed, and naming the commit?"""
    copy = stage.folder / "tampered"
    stage.git("clone", "--quiet", "--branch", "audit", str(stage.state), str(copy))
    results = sorted((copy / "records").rglob("result.yaml"))
    if not results:
        return False, "there is no record to change"
    data = bytearray(results[0].read_bytes())
    data[len(data) // 2] ^= 1
    results[0].write_bytes(bytes(data))
    identity = (
        "-c",
        "user.name=mallory",
        "-c",
        "user.email=mallory@example.com",
        "-c",
        "commit.gpgsign=false",
    )
    stage.git(*identity, "commit", "--quiet", "--all", "-m", "Nothing to see here", at=copy)
    forged = stage.git("rev-parse", "HEAD", at=copy).output.strip()
    stage.git("remote", "remove", "origin", at=copy)
    stage.git("branch", "--quiet", "main", stage.git("rev-parse", "main").output.strip(), at=copy)
    ran = stage.capsule("audit", "verify", "--root", stage.root, at=copy)
    return ran.code == 1 and forged in ran.output, ran.output.rstrip()


def no_secret_in(stage: Stage, secrets: list[str]) -> bool:
    """Whether no object of the repository, reachable or not, holds one of `secrets` or a private key."""
    done = subprocess.run(
        ["git", "-C", str(stage.state), "cat-file", "--batch", "--batch-all-objects"], capture_output=True
    )
    private = [_body(stage.key(person)) for person in ("alice", "bob", "login")]
    private += [_body(stage.folder / "services" / name / "agent.key") for name in stage.services]
    forbidden = [*(secret.encode() for secret in secrets), *private, b"PRIVATE KEY-----"]
    return done.returncode == 0 and bool(done.stdout) and not any(each in done.stdout for each in forbidden)


def _body(file: Path) -> bytes:
    """A line of a private key file that no other file has (the first lines are the same in all)."""
    return file.read_bytes().splitlines()[-3]
