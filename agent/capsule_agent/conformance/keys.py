"""The keys of everybody in a conformance test: owner, people and reconciler, in a folder of its own.

Rules kept: made once and kept, so that the agent under test can be started with them; private files have mode
0600. The folder: `owners/owner.pub` (what the agent pins), `keys/NAME`, `repository` (the id). Called by
command and by the checks.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Message, SignedText, SignerEntry, Signers, SignersList
from capsule_agent.protocol.sshsig import BadKey, PrivateKey

FILLERS = ("dave", "erin", "frank")
"""Approvers who always sign rightly, for an agent that needs more approvals than a vector is about."""
ROLES: Mapping[str, tuple[str, ...]] = {
    "alice": ("request",),
    "bob": ("approve", "request"),
    "carol": ("approve",),
    **dict.fromkeys(FILLERS, ("approve",)),
    "reconciler-1": ("order",),
}
STRANGERS = ("mallory",)
MOST_APPROVALS = 1 + len(FILLERS)


class BadFolder(ValueError):
    """The folder of keys cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The private keys by name, and the id of the state repository that the test pretends to be."""

    folder: Path
    repository: str
    keys: Mapping[str, PrivateKey]

    @property
    def owners(self) -> Path:
        """The folder of public keys that the agent under test must be started with."""
        return self.folder / "owners"

    def sign(self, document: bytes, name: str, namespace: str) -> SignedText:
        """A document signed by `name`."""
        return SignedText(document.decode(), self.keys[name].sign(document, namespace))

    def entry(self, name: str, *may: str) -> SignerEntry:
        """How `name` is listed; without `may` with the rights of ROLES."""
        rights = may or ROLES[name]
        return SignerEntry((self.keys[name].public.text,), tuple(rights))  # type: ignore[arg-type]  # from ROLES

    def signers(
        self, serial: int, *, by: str = "owner", without: str = "", repository: str = ""
    ) -> SignersList:
        """The list of everybody but `without`, signed by an owner or by another."""
        entries = {name: self.entry(name) for name in ROLES if name != without}
        return self.seal_signers(Signers(repository or self.repository, serial, entries), by)

    def seal_signers(self, signers: Message, by: str = "owner") -> SignersList:
        """A list signed by `by`."""
        signed = self.sign(signers.to_json(), by, sshsig.SIGNERS)
        return SignersList(signed.document, (signed.signature,))


def make_keys(folder: Path) -> KeyRing:
    """Make the folder with new keys. Raises BadFolder when it exists and is not empty, or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadFolder(f"{folder} is not empty and holds no keys of this test; give another folder")
        (folder / "owners").mkdir()
        (folder / "keys").mkdir(mode=0o700)
        for name in ("owner", *ROLES, *STRANGERS):
            _write_key(folder / "keys" / name)
        owner = PrivateKey.from_openssh((folder / "keys" / "owner").read_bytes())
        (folder / "owners" / "owner.pub").write_text(f"{owner.public.text} owner\n", "utf-8")
        (folder / "repository").write_text(secrets.token_hex(20) + "\n", "utf-8")
    except OSError as error:
        raise BadFolder(f"{folder}: {error.strerror}") from None
    return read_keys(folder)


def read_keys(folder: Path) -> KeyRing:
    """The keys in the folder. Raises BadFolder."""
    try:
        repository = (folder / "repository").read_text("utf-8").strip()
        names = ("owner", *ROLES, *STRANGERS)
        keys = {name: PrivateKey.from_openssh((folder / "keys" / name).read_bytes()) for name in names}
    except OSError as error:
        raise BadFolder(f"{error.filename}: {error.strerror}") from None
    except BadKey as error:
        raise BadFolder(f"{folder / 'keys'}: {error}") from None
    return KeyRing(folder, repository, keys)


def _write_key(path: Path) -> None:
    data = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
