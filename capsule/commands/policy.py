"""`capsule policy`: what the policy in force says, for git and ssh-keygen, and for agents."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from capsule.commands.git_program import write_setting
from capsule.commands.init import write_allowed_signers
from capsule.commands.policy_words import PolicyShown, policy_shown
from capsule.commands.repository import Repository
from capsule.documents.paths import POLICY
from capsule.trust.key_validity import policy_at
from capsule.trust.published import allowed_signers, signers_document
from capsule_agent.protocol.messages import Signers, decode


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
