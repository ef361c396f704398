"""Checkpoints: small signed statements of where audit stood, kept out of reach of who keeps the repository.

Rules kept: the signature is over the statement's bytes, as they stand, in a namespace of its own; what is
not exactly the expected form is refused. Form: one line of strict JSON, then the armored SSHSIG of that line
with its line's end. `ssh-keygen -Y verify` accepts the two once they are apart. Called by audit and by
`capsule audit checkpoint`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from capsule.documents.scalars import parse_instant
from capsule.trust.published import CHECKPOINT
from capsule_agent.protocol import strict_json
from capsule_agent.protocol.strict_json import InvalidMessage

NAMESPACE = CHECKPOINT
MAX_BYTES = 16 * 1024

REASONS: dict[str, str] = {
    "CheckpointInvalid": "The file is no checkpoint: one line of JSON, and the signature below it.",
    "CheckpointNotOnAudit": "Audit no longer holds, at its place, the commit that a checkpoint names: its "
    "history was rewritten.",
    "CheckpointMainRewritten": "Main no longer holds the commit that a checkpoint names: its history was "
    "rewritten.",
    "CheckpointBadSignature": "A checkpoint is not signed by the key that was given, or by one of the policy "
    "in force at that point.",
    "CheckpointOfAnother": "A checkpoint of another repository: it names another root.",
}

_BEGIN = b"-----BEGIN SSH SIGNATURE-----"
_HEX = re.compile(r"[0-9a-f]{40}")
_FIELDS = {"apiVersion", "kind", "repository", "branch", "commit", "main", "count", "operations", "at"}


class BadCheckpoint(ValueError):
    """A checkpoint that does not hold. `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Statement:
    """That the branch `audit` of `repository` (the root's id) had `commit` as its commit number `count`.

    Counted along first parents from the root, which is number 0; `main` is the tip of main then, and
    `operations` the results proved up to there. `at` is the signer's clock.
    """

    repository: str
    commit: str
    main: str
    count: int
    operations: int
    at: datetime

    def to_line(self) -> bytes:
        """The bytes that are signed."""
        return (
            strict_json.canonical(
                {
                    "apiVersion": "capsule/v1",
                    "kind": "Checkpoint",
                    "repository": self.repository,
                    "branch": "audit",
                    "commit": self.commit,
                    "main": self.main,
                    "count": self.count,
                    "operations": self.operations,
                    "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}",
                }
            )
            + b"\n"
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A statement with the bytes that were signed, and their signature."""

    statement: Statement
    signed: bytes
    signature: str

    @property
    def text(self) -> str:
        """The file."""
        return self.signed.decode() + self.signature


def read_checkpoint(data: bytes) -> Checkpoint:
    """The checkpoint that a file holds; nothing of it is verified yet. Raises BadCheckpoint."""
    data = data.replace(b"\r\n", b"\n")
    at = data.find(_BEGIN)
    if at < 0 or len(data) > MAX_BYTES:
        raise BadCheckpoint("CheckpointInvalid", "expected one line of JSON, and an SSH signature below it")
    signed, signature = data[:at], data[at:].decode("ascii", errors="replace")
    try:
        value = strict_json.parse(signed)
        return Checkpoint(_statement(value), signed, signature)
    except (InvalidMessage, ValueError) as error:
        raise BadCheckpoint("CheckpointInvalid", str(error)) from None


def _statement(value: Any) -> Statement:
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise InvalidMessage(f"expected exactly the fields {', '.join(sorted(_FIELDS))}")
    fixed = (value["apiVersion"], value["kind"], value["branch"])
    if fixed != ("capsule/v1", "Checkpoint", "audit"):
        raise InvalidMessage("expected apiVersion capsule/v1, kind Checkpoint, branch audit")
    repository, commit, main = ids = [value[name] for name in ("repository", "commit", "main")]
    if not all(isinstance(each, str) and _HEX.fullmatch(each) for each in ids):
        raise InvalidMessage("repository, commit and main are ids of 40 hex digits")
    count, operations = counts = [value[name] for name in ("count", "operations")]
    if not all(type(each) is int and each >= 0 for each in counts):
        raise InvalidMessage("count and operations are whole numbers")
    return Statement(repository, commit, main, count, operations, parse_instant(value["at"]))
