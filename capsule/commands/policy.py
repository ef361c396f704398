"""`capsule policy`: what the policy in force says, for git and ssh-keygen, and for agents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from capsule.commands.errors import CommandError, RefusedByPolicy
from capsule.commands.git_program import write_setting
from capsule.commands.init import write_allowed_signers
from capsule.commands.policy_words import PolicyShown, policy_shown
from capsule.commands.repository import Repository
from capsule.commands.signing import Identity
from capsule.commands.writing import commit_as, file_at, move_branch
from capsule.documents.paths import MAIN, POLICY, SIGNERS, SIGNERS_FOLDER
from capsule.store.api import PushRefused
from capsule.trust.key_validity import policy_at
from capsule.trust.policy import OWNERS, people
from capsule.trust.published import allowed_signers, signers_document
from capsule_agent.protocol.messages import Signers, decode
from capsule_agent.protocol.sshsig import SIGNERS as NAMESPACE


@dataclass(frozen=True, slots=True)
class SignedList:
    """The list of signers on main: its serial, who signed it, and the commit (None when nothing changed)."""

    serial: int
    commit: str | None
    signed_by: str
    note: str = ""


def show_policy(repository: Repository, now: datetime) -> PolicyShown:
    """The policy in force in words, with what a person should know of it."""
    state = repository.state
    notes = [f"Main is suspended: {state.suspended.message}"] if state.suspended else []
    notes += [
        f"A change of it is not in force: {change.message} [{change.reason}]"
        for change in state.pending
        if change.path == POLICY
    ]
    policy = policy_at(state.policy.document, now)
    known = decode(Signers, state.signers.document) if state.signers else None
    if known and signers_document(policy, repository.root, known.serial).principals != known.principals:
        notes.append("Agents know other signers or keys: an owner types `capsule policy signers`.")
    return policy_shown(state.policy.document, state.policy.since, now, tuple(notes))


def allowed_signers_file(repository: Repository) -> str:
    """The policy in force as an OpenSSH allowed_signers file."""
    return allowed_signers(repository.state.policy.document)


def install_allowed_signers(repository: Repository) -> Path:
    """Write that file into the git directory, and have git use it in this repository."""
    file = write_allowed_signers(repository.location.git_dir, repository.state.policy.document)
    write_setting(repository.directory, "gpg.ssh.allowedSignersFile", str(file))
    return file


def sign_signers(repository: Repository, identity: Identity, now: datetime) -> SignedList:
    """Write the list of who may sign from the policy in force, sign it as an owner, commit it to main.

    When main already has the list the policy asks for, only the missing signature is added. Raises
    RefusedByPolicy for anyone but an owner.
    """
    repository.require_pinned()
    repository.refresh()
    state = repository.state
    policy = policy_at(state.policy.document, now)
    if identity.principal not in people(policy, [OWNERS]):
        raise RefusedByPolicy(
            "NotAnOwner",
            f"{identity.principal} is no owner: agents accept the list of signers from owners alone",
            f"Owners: {', '.join(sorted(people(policy, [OWNERS])))}.",
        )
    known = decode(Signers, state.signers.document) if state.signers else None
    wanted = signers_document(policy, repository.root, known.serial if known else 1)
    if known and known.principals == wanted.principals and state.signers:
        document = state.signers.document
    else:
        document = signers_document(policy, repository.root, (known.serial if known else 0) + 1).to_json()
    return _publish(repository, identity, document, now)


def _publish(repository: Repository, identity: Identity, document: bytes, now: datetime) -> SignedList:
    serial = decode(Signers, document).serial
    signature_path = f"{SIGNERS_FOLDER}/{identity.principal}.sig"
    signature = identity.signer.sign(document, NAMESPACE).encode()
    main = repository.main
    edits: dict[str, bytes | None] = {SIGNERS: document, signature_path: signature}
    if all(file_at(repository, main, path) == data for path, data in edits.items()):
        return SignedList(serial, None, identity.principal)
    commit = commit_as(
        repository, identity, (main,), edits, f"Sign the list of signers (serial {serial})\n", now
    )
    judged = repository.judge(commit)
    if judged.signers is None or judged.signers.document != document:
        raise CommandError("SignersUntrusted", "the signed list would not be taken over from main")
    try:
        note = move_branch(repository, MAIN, main, commit)
    except PushRefused as error:
        branch = f"refs/heads/signers-{serial}"
        move_branch(repository, branch, None, commit)
        note = f"main is protected: open a pull request from signers-{serial} ({error})"
    return SignedList(serial, commit, identity.principal, note)
