"""Whether the key a host showed is that host's: pinned, in known_hosts, or signed by a host CA.

Rules kept: no key is accepted on first sight; a pinned key is the only one accepted; `@revoked` wins over
everything; a certificate must be for hosts, name this host, be valid now and carry no critical option. The
file format is that of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT; a line that cannot be read means nothing, as in
OpenSSH. Called by transport.ssh_link.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
from cryptography.hazmat.primitives.serialization import (
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from capsule.transport.api import TransportError
from capsule.transport.dial import HostPort

_MAX_FILE = 16 * 1024 * 1024
_CERTIFICATE = "-cert-v01@openssh.com"


@dataclass(frozen=True, slots=True)
class HostTrust:
    """What is known of one host. `keys`, `authorities`, `revoked` hold key blobs (the base64 part, decoded).

    `pinned`: the one key comes from the service's document. `files`: where a line would be added.
    """

    host: str
    keys: tuple[bytes, ...] = ()
    authorities: tuple[bytes, ...] = ()
    revoked: frozenset[bytes] = frozenset()
    pinned: bool = False
    files: tuple[str, ...] = ()

    def key_types(self) -> tuple[str, ...]:
        """The types of the known keys, such as "ssh-ed25519": the host is asked for one of them."""
        return tuple(dict.fromkeys(key_type(blob) for blob in self.keys))

    def check(self, shown: bytes, *, now: float) -> None:
        """Accept the key or certificate blob that the host showed, at Unix time `now`.

        Raises TransportError HostKeyUnknown, HostKeyChanged, HostKeyRevoked or HostCertificateInvalid.
        """
        plain, certificate = _read_shown(shown)
        if {plain, shown} & self.revoked:
            raise _stalled(
                "HostKeyRevoked", f"the key of {self.host} ({fingerprint(plain)}) is marked @revoked"
            )
        if plain in self.keys:
            return
        if certificate is not None and not self.pinned:
            authority = _authority(certificate)
            if authority in self.authorities and authority not in self.revoked:
                _check_certificate(certificate, self.host, now)
                return
        raise self._changed(plain) if self.keys else self._unknown(plain)

    def _unknown(self, plain: bytes) -> TransportError:
        where = self.files[0] if self.files else "the known_hosts file"
        return _stalled(
            "HostKeyUnknown",
            f"the key of {self.host} is not known. Compare {fingerprint(plain)} with what `ssh-keygen -lf` "
            "says on the host itself; if it is the same, add this line to "
            f"{where}: {self.host} {_text(plain)} "
            "(or the line without the host as spec.agent.hostKey)",
        )

    def _changed(self, plain: bytes) -> TransportError:
        known = ", ".join(fingerprint(blob) for blob in self.keys[:4])
        where = "spec.agent.hostKey" if self.pinned else ", ".join(self.files)
        return _stalled(
            "HostKeyChanged",
            f"{self.host} showed another key ({key_type(plain)} {fingerprint(plain)}) than the one in "
            f"{where} ({known}): somebody may be in between, or the host was set up anew; nothing was sent. "
            "Ask who runs it, and change the known key only then",
        )


def pinned(text: str, where: HostPort) -> HostTrust:
    """Trust in exactly the key `text` ("ssh-ed25519 AAAA…"). Raises TransportError HostKeyInvalid."""
    fields = text.split()
    blob = _decode(fields[1]) if len(fields) >= 2 else None
    if blob is None or key_type(blob) != fields[0]:
        raise _stalled(
            "HostKeyInvalid",
            'spec.agent.hostKey is no key: expected "ssh-ed25519 AAAA…", without a host before',
        )
    return HostTrust(host_name(where), keys=(blob,), pinned=True)


def known(files: Sequence[Path], where: HostPort) -> HostTrust:
    """What the known_hosts `files` say of `where`; a file that does not exist says nothing.

    Raises TransportError KnownHostsUnreadable.
    """
    name = host_name(where)
    keys: list[bytes] = []
    authorities: list[bytes] = []
    revoked: set[bytes] = set()
    for line in _lines(files):
        marker, patterns, blob = line
        if marker == "@revoked" and _matches(patterns, name, where.host):
            revoked.add(blob)
        elif marker == "@cert-authority" and _matches(patterns, name, where.host):
            authorities.append(blob)
        elif marker == "" and _matches(patterns, name):
            keys.append(blob)
    return HostTrust(
        name, tuple(keys), tuple(authorities), frozenset(revoked), files=tuple(str(file) for file in files)
    )


def host_name(where: HostPort) -> str:
    """The name of a host as known_hosts has it: "host", or "[host]:port" for a port other than 22."""
    host = where.host.lower()
    return host if where.port == 22 else f"[{host}]:{where.port}"


def key_type(blob: bytes) -> str:
    """The type a key blob names itself, or "" for no blob."""
    length = int.from_bytes(blob[:4], "big")
    name = blob[4 : 4 + length]
    return name.decode("ascii") if 0 < length <= 64 and len(name) == length and name.isascii() else ""


def fingerprint(blob: bytes) -> str:
    """As ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _text(blob: bytes) -> str:
    return f"{key_type(blob)} {base64.b64encode(blob).decode()}"


def _stalled(reason: str, message: str) -> TransportError:
    return TransportError(reason, message, kind="stalled", sent=False)


def _lines(files: Iterable[Path]) -> Iterable[tuple[str, list[str], bytes]]:
    """Marker, host patterns and key blob of each line that can be read."""
    for file in files:
        for line in _read(file).splitlines():
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if (
                len(fields) < 3
                or fields[0].startswith("#")
                or marker not in ("", "@revoked", "@cert-authority")
            ):
                continue
            blob = _decode(fields[2])
            if blob is not None and key_type(blob) == fields[1]:
                yield marker, fields[0].split(","), blob


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_FILE:
            raise _stalled("KnownHostsUnreadable", f"{file} is larger than {_MAX_FILE} bytes")
        return file.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _stalled("KnownHostsUnreadable", f"cannot read {file}: {error.strerror}") from None


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _matches(patterns: Sequence[str], *names: str) -> bool:
    """Whether a pattern fits one of `names` and no `!pattern` fits any."""
    found = False
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        if any(_fits(plain, name.lower()) for name in names):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _fits(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        _, _, salt, digest = [*pattern.split("|"), "", ""][:4]
        key, wanted = _decode(salt), _decode(digest)
        if not key or not wanted:
            return False
        # SHA-1 is the format's; it only hides names here.
        return hmac.compare_digest(hmac.new(key, name.encode(), "sha1").digest(), wanted)
    return re.fullmatch(_expression(pattern.lower()), name) is not None


def _expression(pattern: str) -> str:
    return "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)


def _read_shown(shown: bytes) -> tuple[bytes, SSHCertificate | None]:
    """The plain key blob of what a host showed, and its certificate if that is what it showed."""
    if not key_type(shown).endswith(_CERTIFICATE):
        return shown, None
    try:
        certificate = load_ssh_public_identity(_text(shown).encode())
    except (ValueError, UnsupportedAlgorithm):
        certificate = None
    if not isinstance(certificate, SSHCertificate):
        raise _stalled("HostCertificateInvalid", "the host showed a certificate that cannot be read")
    key = certificate.public_key().public_bytes(KeyEncoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(key.split()[1]), certificate


def _authority(certificate: SSHCertificate) -> bytes:
    key = certificate.signature_key().public_bytes(KeyEncoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(key.split()[1])


def _check_certificate(certificate: SSHCertificate, name: str, now: float) -> None:
    host = re.sub(r"^\[(.*)\]:[0-9]+$", r"\1", name)
    principals = [principal.decode("utf-8", "replace").lower() for principal in certificate.valid_principals]
    try:
        certificate.verify_cert_signature()
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        problem = "its signature is not the CA's"
    else:
        if certificate.type is not SSHCertificateType.HOST:
            problem = "it is for users, not for hosts"
        elif not any(_fits(principal, host) for principal in principals if not principal.startswith("|")):
            problem = f"it is not for {host}"
        elif not certificate.valid_after <= now < certificate.valid_before:
            problem = "it is not valid now"
        elif certificate.critical_options:
            problem = "it carries a critical option, which hosts have none of"
        else:
            return
    raise _stalled(
        "HostCertificateInvalid", f"the host certificate of {name} is not accepted: {problem}; sign it anew"
    )
