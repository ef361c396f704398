"""`capsule policy signers`: the list of who may sign, as agents learn it, signed by an owner.

Rules kept: agents believe this list, so nothing is signed into it that follows from an audit which was not
proved in this clone; the owner sees who comes in and who goes before signing. Called by capsule.cli.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from capsule.commands.errors import CommandError, RefusedByPolicy
from capsule.commands.repository import Repository
from capsule.commands.signing import Identity
from capsule.commands.writing import commit_as, file_at, move_branch
from capsule.documents.paths import MAIN, SIGNERS, SIGNERS_FOLDER
from capsule.store.api import PushRefused
from capsule.trust.key_validity import policy_at
from capsule.trust.policy import OWNERS, people
from capsule.trust.published import signers_document
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import SignerEntry, Signers, decode

REASONS: dict[str, str] = {
    "AuditNotProved": "What is to be signed follows from times or reviews that audit tells, and nobody "
    "proved audit in this clone. `capsule audit verify` does, and remembers it.",
}


@dataclass(frozen=True, slots=True)
class SignerChange:
    """What the new list says otherwise of a principal: powers (\"may approve\") and keys, by fingerprint."""

    principal: str
    gains: tuple[str, ...]
    loses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignersReview:
    """The list that is to be signed, and how it differs from the one in force; maybe `signed` by this key."""

    document: bytes
    serial: int
    changes: tuple[SignerChange, ...]
    signed: bool


@dataclass(frozen=True, slots=True)
class SignedList:
    """The list of signers on main: its serial, who signed it, and the commit."""

    serial: int
    commit: str
    signed_by: str
    note: str = ""


def review_signers(repository: Repository, identity: Identity, now: datetime) -> SignersReview:
    """The list that the policy in force asks for; the one on main where that says the same.

    Raises RefusedByPolicy for anyone but an owner, and CommandError where audit must be proved first.
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
    wanted = _wanted(repository, state, now, known.serial if known else 1)
    _require_proved(repository, wanted, now)
    if known and known.principals == wanted.principals and state.signers:
        document, serial = state.signers.document, known.serial
    else:
        serial = (known.serial if known else 0) + 1
        document = _wanted(repository, state, now, serial).to_json()
    return SignersReview(
        document,
        serial,
        tuple(_changes(known.principals if known else {}, wanted.principals)),
        _has_signed(repository, identity, document),
    )


def _wanted(repository: Repository, state: MainState, now: datetime, serial: int) -> Signers:
    return signers_document(state.policy.document, repository.root, serial, now)


def _require_proved(repository: Repository, wanted: Signers, now: datetime) -> None:
    """Raises CommandError where the list follows from times or reviews that nobody proved here."""
    if not repository.belief.leans and repository.belief.doubt is None:
        return
    if _wanted(repository, repository.proved_state(), now, wanted.serial) != wanted:
        raise CommandError(
            "AuditNotProved",
            "who may sign follows from times or reviews that audit tells, and audit is not proved here",
            "capsule audit verify",
        )


def _changes(before: Mapping[str, SignerEntry], after: Mapping[str, SignerEntry]) -> Iterator[SignerChange]:
    for name in sorted(before.keys() | after.keys()):
        had, has = _facts(before.get(name)), _facts(after.get(name))
        if had != has:
            yield SignerChange(
                name,
                tuple(fact for fact in has if fact not in had),
                tuple(fact for fact in had if fact not in has),
            )


def _facts(entry: SignerEntry | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    keys = (f"key {sshsig.PublicKey.parse(text).fingerprint}" for text in entry.keys)
    return (*(f"may {power}" for power in entry.may), *keys)


def _has_signed(repository: Repository, identity: Identity, document: bytes) -> bool:
    """Whether main holds this list with a signature by the key that would sign it now."""
    main = repository.main
    signature = file_at(repository, main, _signature_path(identity))
    if signature is None or file_at(repository, main, SIGNERS) != document:
        return False
    try:
        sshsig.verify(
            document, signature.decode("ascii", "replace"), sshsig.SIGNERS, [identity.signer.public]
        )
    except sshsig.BadSignature:
        return False
    return True


def _signature_path(identity: Identity) -> str:
    return f"{SIGNERS_FOLDER}/{identity.principal}.sig"


def sign_signers(
    repository: Repository, identity: Identity, review: SignersReview, now: datetime
) -> SignedList:
    """Sign the list as an owner, commit it to main (or to a branch where main is protected)."""
    main, serial = repository.main, review.serial
    signature = identity.signer.sign(review.document, sshsig.SIGNERS).encode()
    edits: dict[str, bytes | None] = {SIGNERS: review.document, _signature_path(identity): signature}
    commit = commit_as(
        repository, identity, (main,), edits, f"Sign the list of signers (serial {serial})\n", now
    )
    judged = repository.judge(commit)
    if judged.signers is None or judged.signers.document != review.document:
        raise CommandError("SignersUntrusted", "the signed list would not be taken over from main")
    try:
        note = move_branch(repository, MAIN, main, commit)
    except PushRefused as error:
        branch = f"refs/heads/signers-{serial}"
        move_branch(repository, branch, None, commit)
        note = f"main is protected: open a pull request from signers-{serial} ({error})"
    return SignedList(serial, commit, identity.principal, note)
