"""Making key pairs for machines, in files that only their owner reads. Called by init and demo."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capsule_agent.protocol.sshsig import PublicKey


def make_key_pair(file: Path, comment: str) -> PublicKey:
    """Write an OpenSSH Ed25519 private key to `file` (mode 0600) and the public half to `file`.pub.

    Raises FileExistsError rather than replace a key.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Ed25519PrivateKey.generate()
    public = PublicKey(private.public_key().public_bytes_raw())
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(text)
    file.with_name(file.name + ".pub").write_text(f"{public.text} {comment}\n", encoding="utf-8")
    return public
