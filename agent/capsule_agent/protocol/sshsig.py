"""OpenSSH Ed25519 keys and SSHSIG signatures: the one key format and one signature format at every hop.

Format: PROTOCOL.sshsig of OpenSSH; keys: RFC 8709, text form of authorized_keys. Rules kept: Ed25519
alone, sha256 or sha512 alone, the exact namespace, no trailing byte. `ssh-keygen -Y verify` accepts what
`sign` writes, and `verify` accepts what `ssh-keygen -Y sign` writes. Called by agents, trust and store.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

REQUEST = "capsule-request@v1"
APPROVAL = "capsule-approval@v1"
SIGNERS = "capsule-signers@v1"
ORDER = "capsule-order@v1"
RECEIPT = "capsule-receipt@v1"
REPORT = "capsule-report@v1"
HEARTBEAT = "capsule-heartbeat@v1"
COMMIT = "git"

_MAGIC = b"SSHSIG"
_KEY_TYPE = b"ssh-ed25519"
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"
_MAX_ARMOR = 4096


class BadKey(ValueError):
    """Text that is not one OpenSSH Ed25519 key; the text says what was expected."""


class BadSignature(ValueError):
    """A signature that does not verify; the text says why, never with key material."""


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """An Ed25519 public key; equal when the 32 bytes are, whatever the comment said."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `ssh-ed25519 AAAA… [comment]`. Raises BadKey."""
        words = text.split(None, 2)
        if len(words) < 2 or words[0] != "ssh-ed25519" or "\n" in text.strip():
            raise BadKey('expected one key in the form "ssh-ed25519 AAAA…"')
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            raise BadKey("the key is not base64") from None
        return cls._from_blob(blob)

    @classmethod
    def _from_blob(cls, blob: bytes) -> PublicKey:
        reader = _Reader(blob, BadKey)
        if reader.string() != _KEY_TYPE:
            raise BadKey("expected a key of type ssh-ed25519")
        raw = reader.string()
        reader.end()
        if len(raw) != 32:
            raise BadKey("an Ed25519 key has 32 bytes")
        return cls(raw)

    @property
    def blob(self) -> bytes:
        """The key as SSH sends it (RFC 8709)."""
        return _string(_KEY_TYPE) + _string(self.raw)

    @property
    def text(self) -> str:
        """The key as in authorized_keys, without a comment."""
        return f"ssh-ed25519 {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` as `ssh-keygen -l` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


class Signer(Protocol):
    """What signs: a key in a file, or ssh-keygen in front of an agent."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes, namespace: str) -> str:
        """The armored SSHSIG of `message` in `namespace`."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """An Ed25519 private key held in memory; its repr shows the public half alone."""

    _key: Ed25519PrivateKey

    @classmethod
    def from_seed(cls, seed: bytes) -> PrivateKey:
        """A key from 32 secret bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_openssh(cls, data: bytes) -> PrivateKey:
        """Read an unencrypted OpenSSH private key file. Raises BadKey (never with the key in it)."""
        try:
            key = load_ssh_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise BadKey("expected an OpenSSH private key without a passphrase") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKey("expected a private key of type ssh-ed25519")
        return cls(key)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, message: bytes, namespace: str) -> str:
        """The armored SSHSIG of `message` in `namespace`, as `ssh-keygen -Y sign` writes it."""
        signed = _signed_data(namespace.encode(), b"sha512", hashlib.sha512(message).digest())
        signature = _string(_KEY_TYPE) + _string(self._key.sign(signed))
        blob = (
            _MAGIC
            + (1).to_bytes(4, "big")
            + _string(self.public.blob)
            + _string(namespace.encode())
            + _string(b"")
            + _string(b"sha512")
            + _string(signature)
        )
        return armor(blob)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.fingerprint})"


def verify(message: bytes, signature: str, namespace: str, keys: Iterable[PublicKey]) -> PublicKey:
    """Which of `keys` signed `message` in `namespace`.

    Raises BadSignature when none did, or when the armor, the format, the key's type, the hash or the
    namespace is not exactly the expected one.
    """
    reader = _Reader(dearmor(signature), BadSignature)
    if reader.take(6) != _MAGIC or reader.take(4) != b"\0\0\0\1":
        raise BadSignature("not an SSHSIG signature of version 1")
    try:
        key = PublicKey._from_blob(reader.string())
    except BadKey as error:
        raise BadSignature(f"signed with another kind of key: {error}") from None
    found = reader.string()
    if found != namespace.encode():
        raise BadSignature(f"signed in namespace {found[:64]!r}, expected {namespace!r}")
    if reader.string():
        raise BadSignature("the reserved field is not empty")
    name = reader.string()
    if name not in (b"sha256", b"sha512"):
        raise BadSignature("the hash is not sha256 or sha512")
    inner = _Reader(reader.string(), BadSignature)
    reader.end()
    if inner.string() != _KEY_TYPE:
        raise BadSignature("expected a signature of type ssh-ed25519")
    raw = inner.string()
    inner.end()
    if key not in set(keys):
        raise BadSignature(f"signed by {key.fingerprint}, a key not listed here")
    digest = hashlib.new(name.decode(), message).digest()
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(raw, _signed_data(found, name, digest))
    except InvalidSignature:
        raise BadSignature("the signature does not fit these bytes") from None
    return key


def claimed_key(signature: str) -> PublicKey:
    """The key an armored signature says it was made with; only `verify` proves it. Raises BadSignature."""
    reader = _Reader(dearmor(signature), BadSignature)
    if reader.take(6) != _MAGIC or reader.take(4) != b"\0\0\0\1":
        raise BadSignature("not an SSHSIG signature of version 1")
    try:
        return PublicKey._from_blob(reader.string())
    except BadKey as error:
        raise BadSignature(f"signed with another kind of key: {error}") from None


def armor(blob: bytes) -> str:
    """The PEM-like text of a signature blob, 70 columns wide as ssh-keygen writes it."""
    text = base64.b64encode(blob).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def dearmor(text: str) -> bytes:
    """The blob inside of an armored signature, as exactly as ssh-keygen reads it. Raises BadSignature."""
    if len(text) > _MAX_ARMOR:
        raise BadSignature(f"the signature is longer than {_MAX_ARMOR} characters")
    lines = text.rstrip("\n").split("\n")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise BadSignature("not an armored SSH signature")
    inside = "".join(lines[1:-1])
    try:
        blob = base64.b64decode(inside, validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("the armored signature is not base64") from None
    if base64.b64encode(blob).decode() != inside:
        raise BadSignature("the armored signature is not the base64 text of its bytes")
    return blob


def _signed_data(namespace: bytes, hash_name: bytes, digest: bytes) -> bytes:
    return _MAGIC + _string(namespace) + _string(b"") + _string(hash_name) + _string(digest)


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class _Reader:
    """Bounded reader of SSH wire strings (RFC 4251, section 5)."""

    def __init__(self, data: bytes, error: type[ValueError]) -> None:
        self._data = data
        self._at = 0
        self._error = error

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise self._error("ends too early")
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))

    def end(self) -> None:
        if self._at != len(self._data):
            raise self._error("has bytes behind its end")
