"""Any bytes as a commit, a tree, a signature or a key: a value, or the one documented error."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import strategies as st

from capsule.documents.problems import InvalidDocument
from capsule.trust import objects
from capsule.trust.objects import BadObject, parse_commit, parse_tree
from capsule.trust.policy import signer_of
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule.trust.published import allowed_signers
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.sshsig import BadKey, BadSignature, PrivateKey, PublicKey
from tests.fuzz.fuzzing import fuzz, spoiled
from tests.trust_history import History, key, policy_text

POLICY = load_policy(policy_text(), "policy.yaml")
HISTORY = History()
TREE = HISTORY.tree({"a.yaml": b"a", "b/c": b"c", "é/ü": b"x", "z.lock": b""})
TREES = [data for kind, data in HISTORY.objects.values() if kind == "tree"]
OTHER_HEADERS = b"encoding UTF-8\nmergetag object " + b"a" * 40 + b"\n type commit\n tag x\n"


def commit(**options: object) -> bytes:
    return HISTORY.objects[HISTORY.raw_commit(TREE, ["a" * 40], **options)][1]  # type: ignore[arg-type]  # as named


def documented(error: Exception) -> None:
    """The error tells its reason, and repeats little of what it was given."""
    assert getattr(error, "reason", None) in (*objects.REASONS, None)
    assert len(str(error)) < 500


SIGNED = commit(by=key("bob"))
COMMITS = [
    SIGNED,
    commit(),
    commit(by=key("carol"), headers=OTHER_HEADERS),
    commit(message="rotateKey x: succeeded\n\nCapsule-Request: r1\nRequested-by: alice"),
]
HEADERS = [
    *(
        b"\nauthor ",
        b"\ncommitter ",
        b"\ngpgsig ",
        b"\ngpgsig-sha256 ",
        b"\nparent ",
        b"\ntree ",
        b"\nencoding ",
    ),
    *(
        b"\nmergetag ",
        b"\n ",
        b"\n\n",
        b" <",
        b"> ",
        b" +0000",
        b"-----BEGIN SSH SIGNATURE-----",
        b"\n -----END",
    ),
]


@fuzz(data=spoiled(COMMITS, HEADERS) | st.binary(max_size=200))
def test_any_bytes_are_a_commit_or_a_bad_object(data: bytes) -> None:
    for part in (objects.tree_of, objects.parents_of):
        try:
            part(data)
        except BadObject as error:
            documented(error)
    try:
        info = parse_commit(data)
    except BadObject as error:
        documented(error)
        return
    assert (info.tree, info.parents) == (objects.tree_of(data), objects.parents_of(data))
    head = info.signed_payload.partition(b"\n\n")[0]
    assert b"\ngpgsig " not in head
    assert b"\ngpgsig-sha256 " not in head


@fuzz(data=spoiled([SIGNED], HEADERS))
def test_what_is_signed_is_what_is_read(data: bytes) -> None:
    """Whoever changes a signed commit at will changes nothing that is read from it."""
    try:
        info = parse_commit(data)
        if info.signature is None:
            return
        signer_of(POLICY, info.signed_payload, info.signature, sshsig.COMMIT)
    except (BadObject, BadSignature):
        return
    honest = parse_commit(SIGNED)
    assert (info.signed_payload, info.tree, info.parents) == (
        honest.signed_payload,
        honest.tree,
        honest.parents,
    )
    assert (info.author, info.message) == (honest.author, honest.message)


@fuzz(
    data=spoiled(TREES, [b"40000 ", b"100644 ", b"120000 ", b"160000 ", b".git\0", b"\0", b"../"])
    | st.binary()
)
def test_any_bytes_are_a_tree_or_a_bad_object(data: bytes) -> None:
    try:
        found = parse_tree(data)
    except BadObject as error:
        documented(error)
        return
    written = b"".join(f"{each.mode:o} {each.name}\0".encode() + bytes.fromhex(each.oid) for each in found)
    assert written == data
    assert len({each.name.casefold() for each in found}) == len(found)


@fuzz(trees=st.lists(spoiled(TREES, [b"40000 ", b"100644 "]), min_size=2, max_size=5))
def test_a_store_of_spoiled_trees_is_walked_or_refused(trees: list[bytes]) -> None:
    """Trees that name each other's ids, which are those of other bytes: as from a store that lies."""
    held = {oid: pair for oid, pair in HISTORY.objects.items() if pair[0] != "tree"}
    named = [oid for oid, pair in HISTORY.objects.items() if pair[0] == "tree"]
    held |= {oid: ("tree", data) for oid, data in zip(named, trees, strict=False)}
    store = History(objects=held)
    try:
        paths = [path for path, _ in objects.files(store, TREE)]
    except (BadObject, objects.MissingObject):
        return
    assert len(paths) < 10_000


ARMORED = [key("bob").sign(b"message", name).encode() for name in (sshsig.COMMIT, sshsig.APPROVAL)]
BLOBS = [sshsig.dearmor(text.decode()) for text in ARMORED]
PIECES = [
    b"SSHSIG",
    b"ssh-ed25519",
    b"ssh-rsa",
    b"sha256",
    b"sha512",
    b"md5",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\1",
]


def verdict(text: str) -> PublicKey | None:
    """Whose signature it is of `message` as a commit; any other error than BadSignature is a bug."""
    try:
        sshsig.claimed_key(text)
    except BadSignature as error:
        documented(error)
    try:
        return sshsig.verify(b"message", text, sshsig.COMMIT, [key("bob").public])
    except BadSignature as error:
        documented(error)
        return None


@fuzz(
    text=spoiled(ARMORED, [b"-----BEGIN SSH SIGNATURE-----\n", b"=", b"\r"]).map(
        lambda data: data.decode("latin-1")
    )
    | st.text()
)
def test_any_armor_verifies_what_was_signed_or_is_a_bad_signature(text: str) -> None:
    if verdict(text):
        assert text.replace("\n", "") == ARMORED[0].decode().replace("\n", "")


@fuzz(blob=spoiled(BLOBS, PIECES) | st.binary(max_size=300))
def test_any_blob_verifies_what_was_signed_or_is_a_bad_signature(blob: bytes) -> None:
    if verdict(sshsig.armor(blob)):
        assert blob == BLOBS[0]


KEYS = [key("bob").public.text.encode(), key("bob").public.text.encode() + b" bob@example.com"]
RSA = b"ssh-rsa " + base64.b64encode(b"\0\0\0\7ssh-rsa" + b"\0\0\0\3\1\0\1" * 2)


@fuzz(
    text=spoiled([*KEYS, RSA], [b"ssh-ed25519 ", b"=", b"\t", b"cert-authority "]).map(
        lambda d: d.decode("latin-1")
    )
    | st.text()
)
def test_any_line_is_a_key_or_a_bad_key(text: str) -> None:
    try:
        found = PublicKey.parse(text)
    except BadKey as error:
        documented(error)
        return
    assert PublicKey.parse(found.text) == found
    assert len(found.text.split()) == 2


OPENSSH = [
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + base64.encodebytes(b"openssh-key-v1\0" + b"\0\0\0\4none" * 2 + bytes(200))
    + b"-----END OPENSSH PRIVATE KEY-----\n",
    b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(bytes(48)) + b"-----END PRIVATE KEY-----\n",
]


@fuzz(data=spoiled(OPENSSH) | st.binary(max_size=200))
def test_any_file_is_a_private_key_or_a_bad_key(data: bytes) -> None:
    try:
        PrivateKey.from_openssh(data)
    except BadKey as error:
        documented(error)


POLICIES = [
    policy_text(),
    policy_text(2, principals={"alice": ["a", "b"], "bob": ["bob"], "carol": ["c"], "dave": ["d"]}),
]
WORDS = [
    b"email: ",
    b'"',
    b"*",
    b",",
    b'"x y"',
    b"namespaces=",
    b"cert-authority",
    b"machine: true, ",
    b"\\",
    b"#",
    b"\t",
]


@fuzz(data=spoiled(POLICIES, WORDS))
def test_any_policy_gives_a_list_of_signers_that_says_exactly_what_it_says(data: bytes) -> None:
    """Each line: names without a pattern, our namespaces, one key; no policy adds a line or an option."""
    try:
        policy = load_policy(data, "policy.yaml")
    except (InvalidDocument, InvalidPolicy):
        return
    lines = allowed_signers(policy).splitlines()
    assert len(lines) == sum(len(principal.keys) for principal in policy.spec.principals.values())
    for line in lines:
        names, options, kind, blob = line.split(" ")
        assert names.split(",")[0] in policy.spec.principals
        assert not set(names) & set('*?!"#')
        assert options.startswith('namespaces="')
        assert "*" not in options
        assert PublicKey.parse(f"{kind} {blob}").text == f"{kind} {blob}"


def test_openssh_reads_the_list_of_every_awkward_policy(tmp_path: Path) -> None:
    """One bad line would make ssh-keygen refuse the file as a whole."""
    made = [
        load_policy(text, "policy.yaml")
        for text in (*POLICIES, POLICIES[0].replace(b"bob@example.com", b'"b,o*b@example.com"'))
    ]
    for number, policy in enumerate(made):
        path = tmp_path / str(number)
        path.write_text(allowed_signers(policy))
        for who in ("alice", "bob"):
            seed = {"alice": "a", "bob": "bob"}[who] if number == 1 else who
            (tmp_path / "sig").write_text(key(seed).sign(b"message", "git"))
            words = [
                "ssh-keygen",
                "-Y",
                "verify",
                "-f",
                str(path),
                "-I",
                who,
                "-n",
                "git",
                "-s",
                str(tmp_path / "sig"),
            ]
            done = subprocess.run(words, input=b"message", capture_output=True, timeout=30)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [sshsig._MAX_ARMOR + 1, 10_000_000])
def test_a_long_signature_is_not_decoded(size: int) -> None:
    with pytest.raises(BadSignature, match="longer than"):
        sshsig.dearmor("-----BEGIN SSH SIGNATURE-----\n" + "A" * size)


def test_the_samples_are_right() -> None:
    assert verdict(ARMORED[0].decode()) == key("bob").public
    assert all(parse_commit(data) for data in COMMITS)
    assert all(parse_tree(data) for data in TREES)
    assert (
        hashlib.sha1(b"tree %d\0" % len(HISTORY.objects[TREE][1]) + HISTORY.objects[TREE][1]).hexdigest()
        == TREE
    )


@pytest.mark.parametrize(
    "name", [b"a" * 100_000, b".git" + b"." * 100_000, b"\xff" * 100_000, b"a/" * 50_000]
)
@pytest.mark.parametrize("mode", [b"140000 ", b"100644 "])
def test_a_long_name_is_not_repeated_whole(mode: bytes, name: bytes) -> None:
    """What the long run once found."""
    with pytest.raises(BadObject) as caught:
        parse_tree(mode + name + b"\0" + b"\1" * 20 + b"100644 A\0" + b"\1" * 20)
    documented(caught.value)
