"""Keys and signatures at the edge of what is one: each bound exactly, and nothing beside it."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capsule_agent.protocol import sshsig
from capsule_agent.protocol.sshsig import BadKey, BadSignature, PrivateKey, PublicKey
from tests.trust_history import key

ALICE = key("alice")


def wire(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def test_a_signature_may_have_so_many_characters_and_not_one_more() -> None:
    armored = ALICE.sign(b"x", "git")
    longest = armored + "\n" * (4096 - len(armored))
    assert sshsig.verify(b"x", longest, "git", [ALICE.public]) == ALICE.public
    with pytest.raises(BadSignature, match="longer than 4096"):
        sshsig.dearmor(longest + "\n")


def test_a_frame_around_nothing_is_no_signature() -> None:
    begin, *_, end = ALICE.sign(b"x", "git").rstrip("\n").split("\n")
    with pytest.raises(BadSignature, match="not an armored SSH signature"):
        sshsig.dearmor(f"{begin}\n{end}\n")


def test_a_private_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    data = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with pytest.raises(BadKey, match="of type ssh-ed25519"):
        PrivateKey.from_openssh(data)


@pytest.mark.parametrize("between", ["\n", " a comment\n"])
def test_two_lines_are_not_one_key(between: str) -> None:
    with pytest.raises(BadKey, match="one key"):
        PublicKey.parse(ALICE.public.text + between + key("bob").public.text)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    blob = wire(b"ssh-ed25519") + wire(b"x" * length)
    with pytest.raises(BadKey, match="32 bytes"):
        PublicKey.parse(f"ssh-ed25519 {base64.b64encode(blob).decode()}")


@pytest.mark.parametrize("more", [1, 1000])
def test_a_field_that_ends_too_early_is_not_filled_up(more: int) -> None:
    blob = ALICE.public.blob
    cut_off = b"SSHSIG\0\0\0\1" + (len(blob) + more).to_bytes(4, "big") + blob
    with pytest.raises(BadSignature, match="ends too early"):
        sshsig.claimed_key(sshsig.armor(cut_off))


def test_a_field_may_fill_all_that_is_left() -> None:
    whole = b"SSHSIG\0\0\0\1" + wire(ALICE.public.blob)
    assert sshsig.claimed_key(sshsig.armor(whole)) == ALICE.public


# ---- each part of a signature by itself ----


def blob(
    message: bytes = b"x", *, hash_name: bytes = b"sha512", outer: bytes = b"", inner: bytes = b""
) -> bytes:
    """A signature by alice in namespace git, made by hand; honest unless told otherwise."""
    digest = hashlib.new(hash_name.decode(), message).digest()
    signed = b"SSHSIG" + wire(b"git") + wire(b"") + wire(hash_name) + wire(digest)
    raw = Ed25519PrivateKey.from_private_bytes(b"alice".ljust(32, b"!")).sign(signed)
    head = b"SSHSIG\0\0\0\1" + wire(ALICE.public.blob) + wire(b"git") + wire(b"") + wire(hash_name)
    return head + wire(wire(b"ssh-ed25519") + wire(raw) + inner) + outer


def refused(armored: str) -> str:
    with pytest.raises(BadSignature) as caught:
        sshsig.verify(b"x", armored, "git", [ALICE.public])
    return str(caught.value)


@pytest.mark.parametrize("hash_name", [b"sha256", b"sha512"])
def test_control_a_signature_made_by_hand_verifies(hash_name: bytes) -> None:
    armored = sshsig.armor(blob(hash_name=hash_name))
    assert sshsig.verify(b"x", armored, "git", [ALICE.public]) == ALICE.public


@pytest.mark.parametrize("hash_name", [b"sha1", b"md5", b"sha384"])
def test_another_hash_is_refused_even_where_the_signature_fits(hash_name: bytes) -> None:
    assert refused(sshsig.armor(blob(hash_name=hash_name))) == "the hash is not sha256 or sha512"


def test_bytes_behind_the_end_are_refused() -> None:
    assert refused(sshsig.armor(blob(outer=b"\0"))) == "has bytes behind its end"
    assert refused(sshsig.armor(blob(inner=b"\0"))) == "has bytes behind its end"
    longer = base64.b64encode(ALICE.public.blob + b"\0").decode()
    with pytest.raises(BadKey, match="behind its end"):
        PublicKey.parse(f"ssh-ed25519 {longer}")


def test_the_frame_is_whole_and_its_text_may_stand_on_one_line() -> None:
    text = base64.b64encode(blob()).decode()
    begin, *_, end = ALICE.sign(b"x", "git").rstrip("\n").split("\n")
    armored = f"{begin}\n{text}\n{end}\n"
    assert sshsig.verify(b"x", armored, "git", [ALICE.public]) == ALICE.public
    for other in (armored.replace(begin, "-----BEGIN-----"), armored.replace(end, "-----END-----")):
        assert refused(other) == "not an armored SSH signature"


def test_the_text_is_the_one_that_its_bytes_have() -> None:
    made = blob(hash_name=b"sha256") + b"\0" * 2  # two bytes over a group of three leave bits unused
    made = made[: len(made) - len(made) % 3 + 1]
    begin, *_, end = ALICE.sign(b"x", "git").rstrip("\n").split("\n")
    text = base64.b64encode(made).decode()
    assert text.endswith("A==")
    assert refused(f"{begin}\n{text[:-3]}B==\n{end}\n").endswith("not the base64 text of its bytes")


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-rsa AAAA"])
def test_text_that_is_no_key(text: str) -> None:
    with pytest.raises(BadKey, match="one key in the form"):
        PublicKey.parse(text)


def test_a_key_under_the_name_of_another_kind_is_refused() -> None:
    with pytest.raises(BadKey, match="one key in the form"):
        PublicKey.parse(ALICE.public.text.replace("ssh-ed25519", "ssh-rsa", 1))


def test_a_signature_by_another_key_for_another_purpose_or_of_other_bytes() -> None:
    assert refused(ALICE.sign(b"x", "capsule-order@v1")).startswith("signed in namespace")
    assert refused(key("bob").sign(b"x", "git")).endswith("a key not listed here")
    assert refused(ALICE.sign(b"y", "git")) == "the signature does not fit these bytes"
