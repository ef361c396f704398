"""Whether a list of signers is one that this agent may judge by.

Rules kept: pure; the agent trusts the owners' keys it was given, nothing else: the list of who may sign is
signed by an owner, belongs to this agent's repository, and is not older than one seen before; nobody may both
order and approve. Called by execute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Signers, SignersList, decode
from capsule_agent.protocol.sshsig import BadKey, BadSignature, PublicKey
from capsule_agent.protocol.strict_json import InvalidMessage
from capsule_agent.refusal import Untrusted

MAX_SIGNATURES = 64
MAX_SIGNERS_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Trusted:
    """A verified list of signers, and the text it was read from."""

    signers: Signers
    text: SignersList


def trusted_signers(
    carried: SignersList | None,
    stored: SignersList | None,
    stored_serial: int,
    owners: Iterable[PublicKey],
    repository: str | None,
) -> Trusted:
    """The list to judge by: the carried one, or else the stored one.

    `stored_serial` and `repository` are those accepted before. Raises Untrusted.
    """
    text = carried or stored
    if text is None:
        raise Untrusted("SignersMissing", "no list of signers was ever sent; send it with the order")
    signers = _owner_signed(text, tuple(owners))
    _check_signers_repository(signers, repository)
    _check_serial(signers, text, stored, stored_serial)
    return Trusted(signers, text)


@lru_cache(maxsize=8)
def _owner_signed(text: SignersList, owners: tuple[PublicKey, ...]) -> Signers:
    """The list that `text` holds. The same list comes with every order: what held of these very bytes and
    these very owners holds again. Failures are not remembered."""
    _check_owner_signed(text, owners)
    signers = _read_signers(text)
    _check_keys_distinct(signers)
    _check_roles_apart(signers)
    return signers


def _check_owner_signed(text: SignersList, owners: tuple[PublicKey, ...]) -> None:
    for signature in text.signatures[:MAX_SIGNATURES]:
        try:
            sshsig.verify(text.document.encode(), signature, sshsig.SIGNERS, owners)
        except BadSignature:
            continue
        return
    raise Untrusted("SignersNotOwnerSigned", "no owner known to this agent signed the list of signers")


def _read_signers(text: SignersList) -> Signers:
    try:
        return decode(Signers, text.document.encode(), max_bytes=MAX_SIGNERS_BYTES)
    except InvalidMessage as error:
        raise Untrusted("SignersInvalid", f"the list of signers: {error}") from None


def _check_signers_repository(signers: Signers, repository: str | None) -> None:
    if repository is not None and signers.repository != repository:
        raise Untrusted("SignersOfOtherRepository", f"this agent belongs to repository {repository}")


def _check_serial(
    signers: Signers, text: SignersList, stored: SignersList | None, stored_serial: int
) -> None:
    if signers.serial < stored_serial:
        raise Untrusted("SignersOutdated", f"serial {signers.serial}, this agent has seen {stored_serial}")
    if signers.serial == stored_serial and stored is not None and stored.document != text.document:
        raise Untrusted("SignersSerialReused", f"another list with serial {signers.serial} came before")


def _check_keys_distinct(signers: Signers) -> None:
    holder: dict[PublicKey, str] = {}
    for name, entry in signers.principals.items():
        for key in keys_of(entry.keys):
            if holder.setdefault(key, name) != name:
                raise Untrusted("SignersShareKey", f"{name} and {holder[key]} are listed with one key")


def _check_roles_apart(signers: Signers) -> None:
    for name, entry in signers.principals.items():
        if {"order", "approve"} <= set(entry.may):
            raise Untrusted("SignersMixRoles", f"{name} may order, and so may not approve")


@lru_cache(maxsize=256)
def keys_of(texts: tuple[str, ...]) -> tuple[PublicKey, ...]:
    """The keys that a list of signers names for one principal. Raises Untrusted."""
    try:
        return tuple(PublicKey.parse(text) for text in texts)
    except BadKey as error:
        raise Untrusted("SignersInvalid", f"the list of signers: {error}") from None
