"""`capsule audit checkpoint`: a small signed statement of where audit stands, to be kept elsewhere.

Rules kept: nothing is stated that was not proved a moment before. Called by capsule.cli.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from capsule.commands.audit import audit_tip, verify
from capsule.commands.errors import CommandError, RefusedByPolicy, SetUpProblem, WrongUsage
from capsule.commands.repository import Repository
from capsule.trust.checkpoints import NAMESPACE, BadCheckpoint, Checkpoint, Statement, read_checkpoint
from capsule.trust.key_validity import policy_at
from capsule.trust.policy import keys_of
from capsule_agent.protocol.sshsig import BadKey, PublicKey, Signer


def make_checkpoint(
    repository: Repository,
    signer: Signer,
    now: datetime,
    progress: Callable[[int, int], None] | None = None,
    *,
    unlisted: bool = False,
) -> Checkpoint:
    """The statement of both tips, proved, and signed by `signer`: a person or machine of the policy in force,
    or with `unlisted` anybody.

    Raises RefusedByPolicy for a key of nobody, CommandError for a bad history.
    """
    repository.require_pinned()
    if not unlisted:
        _check_listed(repository, signer.public, now)
    tip, main = audit_tip(repository), repository.main
    verdict = verify(repository, progress=progress)
    if verdict.first_bad:
        bad = verdict.first_bad
        raise CommandError(
            bad.reason,
            f"this history does not hold, so it is not signed: commit {bad.commit}: {bad.message}",
            "capsule audit verify",
        )
    statement = Statement(repository.root, tip, main, verdict.commits, verdict.operations, now)
    signed = statement.to_line()
    return Checkpoint(statement, signed, signer.sign(signed, NAMESPACE))


def _check_listed(repository: Repository, key: PublicKey, now: datetime) -> None:
    """Raise RefusedByPolicy where a verification by the policy would not take a signature of `key`."""
    if key not in keys_of(policy_at(repository.state.policy.document, now)):
        raise RefusedByPolicy(
            "UnknownKey",
            f"the key {key.fingerprint} speaks for no person and no machine of the policy in force: nobody "
            "could verify the checkpoint by the policy",
            "Sign with a key that it lists (--as-key FILE); or add --unlisted, and give those who verify it "
            "the public key, for --signed-by.",
        )


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises WrongUsage for one that is none, SetUpProblem for no file."""
    try:
        return read_checkpoint(path.read_bytes())
    except OSError as error:
        raise SetUpProblem("CheckpointInvalid", f"{path} cannot be read: {error.strerror}") from None
    except BadCheckpoint as error:
        raise WrongUsage(error.reason, f"{path}: {error}") from None


def load_public_key(path: Path) -> PublicKey:
    """The key of a .pub file. Raises WrongUsage, SetUpProblem."""
    try:
        return PublicKey.parse(path.read_text("utf-8", "replace").strip())
    except OSError as error:
        raise SetUpProblem("BadKey", f"{path} cannot be read: {error.strerror}") from None
    except BadKey as error:
        raise WrongUsage("BadKey", f"{path}: {error}", "Give the .pub file of who signed it.") from None
