"""Our verdicts beside those of stock `git verify-commit` and `ssh-keygen -Y verify`, on the same bytes.

Rules kept: where they refuse, we refuse, without exception; where they accept and we refuse, it is one of the
differences that docs/adr lists, each asserted here from both sides, so that it is noticed when it goes. The
list of signers is the one that Capsule makes of a policy. `git` and `ssh-keygen` run beside each other, a
process for each verdict.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ecdsa
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from capsule.trust.objects import BadObject, parse_commit, read_commit
from capsule.trust.policy import signer_of
from capsule.trust.policy_checks import load_policy
from capsule.trust.published import allowed_signers
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.sshsig import BadSignature
from tests.trust_history import History, key, policy_text

ADR = Path(__file__).parents[2] / "docs" / "adr" / "0015-where-git-and-we-differ.md"
POLICY = load_policy(policy_text(), "policy.yaml")
TREE = b"4b825dc642cb6eb9a060e54bf8d69288fbee4904"
SOMEONE = b"Someone <someone@example.com> 1764547200 +0000"
AUTHOR, COMMITTER = b"author " + SOMEONE + b"\n", b"committer " + SOMEONE + b"\n"
PARENT = b"parent " + b"a" * 40 + b"\n"
BOB = key("bob")
GENERATED = 90


def run(*words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(words, input=data, capture_output=True, env=clean, timeout=60)


# ---- commits ------------------------------------------------------------------------------------


def head(
    *,
    tree: bytes = b"tree " + TREE + b"\n",
    parents: bytes = b"",
    people: bytes = AUTHOR + COMMITTER,
    more: bytes = b"",
) -> bytes:
    """The headers of a commit before its signature."""
    return tree + parents + people + more


def sealed(
    before: bytes = b"",
    after: bytes = b"\nstep\n",
    *,
    armor: Callable[[str], str] = lambda armored: armored,
    by: sshsig.PrivateKey = BOB,
    namespace: str = sshsig.COMMIT,
    header: bytes = b"gpgsig",
) -> bytes:
    """A commit signed over exactly these bytes; `armor` spoils the text of the signature."""
    before = before or head()
    text = armor(by.sign(before + after, namespace)).rstrip("\n").replace("\n", "\n ")
    return before + header + b" " + text.encode() + b"\n" + after


def by_author(person: bytes) -> bytes:
    """A signed commit by that author."""
    return sealed(head(people=b"author " + person + b"\n" + COMMITTER))


def lines_of(change: Callable[[list[str]], Iterable[str]]) -> Callable[[str], str]:
    return lambda armored: "\n".join([*change(armored.rstrip("\n").split("\n")), ""])


def other_padding(armored: str) -> str:
    """The same bytes in base64 for those who do not look at the last bits."""
    at = armored.index("=") - 1
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return armored[:at] + alphabet[alphabet.index(armored[at]) + 1] + armored[at + 1 :]


GOOD = sealed()
SPOILED = BOB.sign(b"something else", sshsig.COMMIT).rstrip("\n").replace("\n", "\n ").encode()

ALIKE: Mapping[str, bytes] = {
    "signed": GOOD,
    "signed by each person": sealed(by=key("alice")),
    "signed by a person in no team": sealed(by=key("mallory")),
    "signed by a machine": sealed(by=key("reconciler-1")),
    "signed, with parents": sealed(head(parents=PARENT + b"parent " + b"b" * 40 + b"\n")),
    "signed, with an encoding": sealed(head(more=b"encoding ISO-8859-1\n")),
    "signed, with a header nobody knows": sealed(head(more=b"HG:extra branch:default\n")),
    "signed, with a tag merged that is signed itself": sealed(
        head(more=b"mergetag object " + b"a" * 40 + b"\n type commit\n tag v1\n gpgsig x\n \n -----BEGIN\n")
    ),
    "signed, a header behind the signature": sealed().replace(b"\n\nstep", b"\nx-after y\n\nstep"),
    "signed, no message": sealed(after=b"\n"),
    "signed, no blank line": sealed(after=b""),
    "signed, no newline at the end": sealed(after=b"\nstep"),
    "signed, blanks at the end": sealed(after=b"\nstep \t\n\n\n"),
    "signed, carriage returns": sealed(after=b"\nstep\r\n\r\n"),
    "signed, a signature in the message": sealed(after=b"\ngpgsig -----BEGIN SSH SIGNATURE-----\n"),
    "armor in one line": sealed(armor=lines_of(lambda ls: [ls[0], "".join(ls[1:-1]), ls[-1]])),
    "armor in lines of one character": sealed(armor=lines_of(lambda ls: [ls[0], *"".join(ls[1:-1]), ls[-1]])),
    "armor with a blank line inside": sealed(armor=lines_of(lambda ls: [*ls[:2], "", *ls[2:]])),
    "armor with a blank line before": sealed(armor=lambda text: "\n" + text),
    "armor with a blank before": sealed(armor=lambda text: " " + text),
    "armor with text before": sealed(armor=lambda text: "hello\n" + text),
    "armor with CRLF": sealed(armor=lambda text: text.replace("\n", "\r\n")),
    "armor with a blank behind BEGIN": sealed(armor=lines_of(lambda ls: [ls[0] + " ", *ls[1:]])),
    "armor without line breaks": sealed(armor=lambda text: text.replace("\n", "")),
    "armor with END behind base64": sealed(armor=lines_of(lambda ls: [*ls[:-2], ls[-2] + ls[-1]])),
    "armor without END": sealed(armor=lines_of(lambda ls: ls[:-1])),
    "armor without padding": sealed(armor=lambda text: text.replace("=", "")),
    "armor with other bits behind the last byte": sealed(armor=other_padding),
    "armor of another kind": sealed(armor=lambda text: text.replace("SSH SIGN", "PGP SIGN")),
    "armor cut off": sealed(armor=lines_of(lambda ls: [*ls[:-2], ls[-1]])),
    "armor empty": sealed(armor=lambda _text: "\n"),
    "unsigned": head() + b"\nstep\n",
    "signed by a stranger": sealed(by=key("stranger")),
    "signed in the namespace of approvals": sealed(namespace=sshsig.APPROVAL),
    "signed in no namespace": sealed(namespace=""),
    "signed in a namespace with capitals": sealed(namespace="Git"),
    "signed in a namespace with a NUL": sealed(namespace="git\0"),
    "signature of other bytes": sealed(armor=lambda _text: BOB.sign(b"something else", sshsig.COMMIT)),
    "signature under the name of SHA-256 repositories": sealed(header=b"gpgsig-sha256"),
    "message changed": GOOD.replace(b"\nstep\n", b"\nstap\n"),
    "author changed": GOOD.replace(b"author Someone", b"author Anybody"),
    "parent added": GOOD.replace(b"author", PARENT + b"author", 1),
    "header added": GOOD.replace(b"gpgsig", b"x-new y\ngpgsig", 1),
    "blank added at the end": GOOD + b" ",
    "newline gone from the end": GOOD[:-1],
    "signed twice, one over the other": sealed(sealed(after=b"")),
    "no committer": sealed(head(people=AUTHOR)),
    "parent that is no id": sealed(head(parents=b"parent " + b"z" * 40 + b"\n")),
    "no tree": sealed(head(tree=b"")),
}  # fmt: skip
"""Commits that git and we judge alike, whether good or bad."""

NO_PERSON = "expected author as"
NO_COMMITTER = "expected committer as"
NO_PLACE = "at a place where it must not be"

STRICTER: Mapping[str, tuple[bytes, str]] = {
    "a second author": (sealed(head(more=AUTHOR)), f"'author' {NO_PLACE}"),
    "a first author before the author": (
        sealed(head(people=AUTHOR + AUTHOR + COMMITTER)),
        "expected committer",
    ),
    "no author": (sealed(head(people=COMMITTER)), "expected the author"),
    "a second committer": (sealed(head(more=COMMITTER)), f"'committer' {NO_PLACE}"),
    "a second encoding": (sealed(head(more=b"encoding a\nencoding b\n")), f"'encoding' {NO_PLACE}"),
    "a parent behind the author": (sealed(head(more=PARENT)), f"'parent' {NO_PLACE}"),
    "a second tree": (sealed(head(tree=b"tree " + TREE + b"\ntree " + TREE + b"\n")), "expected the author"),
    "the same parent twice": (sealed(head(parents=PARENT * 2)), "the same parent stands twice"),
    "an id in capitals": (sealed(head(tree=b"tree " + TREE.upper() + b"\n")), "expected 40 hex digits"),
    "a second signature": (
        GOOD.replace(b"\n\nstep", b"\ngpgsig " + SPOILED + b"\n\nstep"),
        f"'gpgsig' {NO_PLACE}",
    ),
    "a signature for SHA-256 beside": (
        GOOD.replace(b"gpgsig ", b"gpgsig-sha256 x\n y\ngpgsig ", 1),
        f"'gpgsig-sha256' {NO_PLACE}",
    ),
    "a header without a value": (sealed(head(more=b"thing\n")), "expected a header"),
    "a header that goes on from the committer": (
        sealed(head(more=b" and more\n")),
        "goes on in the next one",
    ),
    "an author without an address": (
        by_author(b"Someone 5 +0000"),
        NO_PERSON,
    ),
    "an author with two addresses": (
        by_author(b"A <a> <b> 5 +0000"),
        NO_PERSON,
    ),
    "a date before 1970": (by_author(b"A <a> -5 +0000"), NO_PERSON),
    "a date beyond the calendar": (
        by_author(b"A <a> 99999999999999999999 +0000"),
        NO_PERSON,
    ),
    "a NUL byte in the message": (sealed(after=b"\nst\0ep\n"), "a NUL byte"),
    "a NUL byte in a header": (sealed(head(more=b"x a\0b\n")), "a NUL byte"),
    "text behind the armor": (sealed(armor=lambda text: text + "hello\n"), "not an armored"),
    "blanks behind END": (sealed(armor=lines_of(lambda ls: [*ls[:-1], ls[-1] + " x"])), "not an armored"),
    "two armors": (sealed(armor=lambda text: text + text), "not base64"),
    "blanks behind a line of base64": (
        sealed(armor=lines_of(lambda ls: [ls[0], ls[1] + " \t", *ls[2:]])),
        "not base64",
    ),
}
"""What git accepts and we refuse: name, bytes, and what we say. Each is a row of the decision record."""

OF_OBJECTS = ("a replaced commit",)
OF_KEYS = ("another kind of key that is listed",)
OUR_WORDS = re.compile(
    "|".join(sorted({re.escape(words) for _, words in STRICTER.values()})) + "|expected committer as"
)


PIECES = [
    b"\n",
    b" ",
    b"\0",
    b"\r",
    AUTHOR,
    COMMITTER,
    PARENT,
    b"gpgsig x\n",
    b"gpgsig-sha256 x\n",
    b"encoding x\n",
]
PIECES += [b"=", b"\n\n", b"<", b"0"]


def edited(data: bytes, chance: random.Random) -> bytes:
    """`data` after an edit of one of its rows or bytes."""
    rows = data.split(b"\n")
    at, place = chance.randrange(len(rows)), chance.randrange(len(data))
    edit = chance.choice(("row twice", "row gone", "rows swapped", "insert", "insert", "flip", "cut"))
    if edit == "row twice":
        return b"\n".join([*rows[: at + 1], *rows[at:]])
    if edit == "row gone":
        return b"\n".join([*rows[:at], *rows[at + 1 :]])
    if edit == "rows swapped":
        return b"\n".join([*rows[:at], *reversed(rows[at : at + 2]), *rows[at + 2 :]])
    if edit == "insert":
        start = chance.choice((place, data.rfind(b"\n", 0, place) + 1))
        return data[:start] + chance.choice(PIECES) + data[start:]
    if edit == "flip":
        return data[:place] + bytes([data[place] ^ chance.choice((1, 32))]) + data[place + 1 :]
    return data[:place] + data[place + chance.choice((1, 1, 30)) :]


def generated() -> dict[str, bytes]:
    """Commits with one or two edits at random places, made before or after signing; the same in every run."""
    chance = random.Random(20261123)
    bases = [GOOD, sealed(by=key("carol")), sealed(head(parents=PARENT, more=b"encoding UTF-8\n"))]
    made = {}
    for number in range(GENERATED):
        signed_after = number % 2 == 1
        data = head(parents=PARENT) + b"\nstep\n" if signed_after else chance.choice(bases)
        for _ in range(chance.choice((1, 1, 2))):
            data = edited(data, chance)
        before, blank, after = data.partition(b"\n\n")
        signs = signed_after and blank
        made[f"generated {number}"] = sealed(before + b"\n", b"\n" + after) if signs else data
    return made


COMMITS = {**ALIKE, **{name: raw for name, (raw, _) in STRICTER.items()}, **generated()}


@dataclass
class Repository:
    """A bare repository whose objects are written as they are, well-formed or not."""

    folder: Path
    signers: Path

    def put(self, kind: str, data: bytes) -> str:
        raw = f"{kind} {len(data)}\0".encode() + data
        oid = hashlib.sha1(raw).hexdigest()
        path = self.folder / "objects" / oid[:2] / oid[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(raw))
        return oid

    def git(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        options = ["-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={self.signers}"]
        return run("git", "-C", str(self.folder), *options, *words)

    def accepts(self, raw: bytes) -> bool:
        return self.git("verify-commit", self.put("commit", raw)).returncode == 0


@pytest.fixture(scope="module")
def repository() -> Iterable[Repository]:
    with TemporaryDirectory() as folder:
        made = Repository(Path(folder) / "repo.git", Path(folder) / "allowed_signers")
        made.signers.write_text(allowed_signers(POLICY))
        assert run("git", "init", "-q", "--bare", str(made.folder)).returncode == 0
        made.put("tree", b"")
        yield made


@pytest.fixture(scope="module")
def git_accepts(repository: Repository) -> Mapping[str, bool]:
    """The verdict of `git verify-commit` on each commit."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(COMMITS, pool.map(repository.accepts, COMMITS.values()), strict=True))


def ours(raw: bytes) -> str | None:
    """Why we refuse a commit; None when a principal signed it."""
    try:
        info = parse_commit(raw)
        if info.signature is None:
            return "unsigned"
        signer_of(POLICY, info.signed_payload, info.signature, sshsig.COMMIT)
    except (BadObject, BadSignature) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ALIKE)
def test_git_and_we_judge_a_commit_alike(git_accepts: Mapping[str, bool], name: str) -> None:
    assert git_accepts[name] == (ours(ALIKE[name]) is None), ours(ALIKE[name])


@pytest.mark.parametrize("name", STRICTER)
def test_git_accepts_what_two_readers_read_differently_and_we_do_not(
    git_accepts: Mapping[str, bool], name: str
) -> None:
    raw, words = STRICTER[name]
    assert git_accepts[name], "git refuses it now: take it from the list and the decision record"
    assert words in (ours(raw) or "accepted")


def test_what_git_refuses_we_refuse_without_exception(git_accepts: Mapping[str, bool]) -> None:
    assert [name for name, raw in COMMITS.items() if ours(raw) is None and not git_accepts[name]] == []


def test_what_git_accepts_of_generated_commits_we_accept_or_refuse_for_a_known_reason(
    git_accepts: Mapping[str, bool],
) -> None:
    refused = [ours(raw) for name, raw in generated().items() if git_accepts[name]]
    assert [why for why in refused if why is not None and not OUR_WORDS.search(why)] == []


def test_the_generated_commits_are_of_every_kind(git_accepts: Mapping[str, bool]) -> None:
    kinds = {(git_accepts[name], ours(raw) is None) for name, raw in generated().items()}
    assert kinds == {(True, True), (True, False), (False, False)}


def test_git_judges_the_replacement_and_we_the_commit_itself(repository: Repository) -> None:
    """The known difference 'a replaced commit'."""
    bad, good = repository.put("commit", ALIKE["unsigned"]), repository.put("commit", GOOD)
    assert repository.git("update-ref", f"refs/replace/{bad}", good).returncode == 0
    assert repository.git("verify-commit", bad).returncode == 0
    assert repository.git("--no-replace-objects", "verify-commit", bad).returncode != 0
    assert ours(repository.git("--no-replace-objects", "cat-file", "commit", bad).stdout) == "unsigned"


def test_a_signed_tag_is_no_signed_commit_to_both(repository: Repository) -> None:
    text = b"object " + b"a" * 40 + b"\ntype commit\ntag v1\ntagger " + SOMEONE + b"\n\nv1\n"
    tag = text + BOB.sign(text, sshsig.COMMIT).encode()
    assert repository.git("verify-tag", repository.put("tag", tag)).returncode == 0
    assert repository.git("verify-commit", repository.put("tag", tag)).returncode != 0
    history = History()
    with pytest.raises(BadObject, match="is a tag"):
        read_commit(history, history.put("tag", tag))


# ---- signatures of files ------------------------------------------------------------------------

DATA = b'{"kind": "Approval"}\n'
NAMESPACE = sshsig.APPROVAL


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def blob(
    *,
    magic: bytes = b"SSHSIG\0\0\0\1",
    by: sshsig.PrivateKey = BOB,
    public: bytes | None = None,
    namespace: bytes = NAMESPACE.encode(),
    reserved: bytes = b"",
    hashed: str = "sha512",
    kind: bytes = b"ssh-ed25519",
    tail: bytes = b"",
    inner_tail: bytes = b"",
) -> str:
    """An SSHSIG made by hand (PROTOCOL.sshsig), right unless told otherwise."""
    digest = hashlib.new(hashed, DATA).digest()
    told = string(namespace) + string(reserved) + string(hashed.encode())
    raw = by._key.sign(b"SSHSIG" + told + string(digest))
    public = by.public.blob if public is None else public
    return sshsig.armor(
        magic + string(public) + told + string(string(kind) + string(raw) + inner_tail) + tail
    )


RIGHT = BOB.sign(DATA, NAMESPACE)
FILES: Mapping[str, str] = {
    "right": RIGHT,
    "made by hand": blob(),
    "sha256": blob(hashed="sha256"),
    "no newline at the end": RIGHT.rstrip("\n"),
    "newlines at the end": RIGHT + "\n\n",
    "armor in one line": "\n".join(
        [RIGHT.split("\n")[0], "".join(RIGHT.split("\n")[1:-2]), RIGHT.split("\n")[-2], ""]
    ),
    "sha384": blob(hashed="sha384"),
    "sha1": blob(hashed="sha1"),
    "md5": blob(hashed="md5"),
    "version 2": blob(magic=b"SSHSIG\0\0\0\2"),
    "another magic": blob(magic=b"SSHSIX\0\0\0\1"),
    "something reserved": blob(reserved=b"x"),
    "another namespace": blob(namespace=b"capsule-request@v1"),
    "the namespace of commits": blob(namespace=b"git"),
    "no namespace": blob(namespace=b""),
    "another key": blob(by=key("carol"), public=BOB.public.blob),
    "a stranger's": blob(by=key("stranger")),
    "a machine's": blob(by=key("reconciler-1")),
    "another kind of signature": blob(kind=b"ssh-rsa"),
    "a key of another kind": blob(public=BOB.public.blob.replace(b"ed25519", b"ed25518")),
    "a key that is too short": blob(public=string(b"ssh-ed25519") + string(b"\0" * 31)),
    "bytes behind the key": blob(public=BOB.public.blob + b"x"),
    "bytes behind the end": blob(tail=b"x"),
    "bytes behind the signature": blob(inner_tail=b"x"),
    "CRLF": RIGHT.replace("\n", "\r\n"),
    "a blank line before": "\n" + RIGHT,
    "nothing": "",
    "no base64": RIGHT.replace("U1NIU0lH", "!!!!!!!!"),
}
FILES_STRICTER: Mapping[str, str] = {
    "text behind the armor": RIGHT + "hello\n",
    "blanks behind a line of base64": RIGHT.replace("\n", " \n")
    .replace("BEGIN SSH SIGNATURE----- ", "BEGIN SSH SIGNATURE-----")
    .replace("END SSH SIGNATURE----- ", "END SSH SIGNATURE-----"),
}


def keygen_accepts(signers: Path, folder: Path, armored: str, identity: str = "bob") -> bool:
    path = folder / f"{hashlib.sha256(armored.encode()).hexdigest()}.sig"
    path.write_bytes(armored.encode())
    words = ["-Y", "verify", "-f", str(signers), "-I", identity, "-n", NAMESPACE, "-s", str(path)]
    return run("ssh-keygen", *words, data=DATA).returncode == 0


@pytest.fixture(scope="module")
def keygen_verdicts(repository: Repository) -> Mapping[str, bool]:
    """The verdict of `ssh-keygen -Y verify` on each signature."""
    folder = repository.signers.parent
    every = {**FILES, **FILES_STRICTER}
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda text: keygen_accepts(repository.signers, folder, text), every.values())
        return dict(zip(every, found, strict=True))


def signed_by_bob(armored: str) -> bool:
    try:
        return signer_of(POLICY, DATA, armored, NAMESPACE) == "bob"
    except BadSignature:
        return False


@pytest.mark.parametrize("name", FILES)
def test_ssh_keygen_and_we_judge_a_signature_alike(keygen_verdicts: Mapping[str, bool], name: str) -> None:
    assert keygen_verdicts[name] == signed_by_bob(FILES[name])


@pytest.mark.parametrize("name", FILES_STRICTER)
def test_ssh_keygen_accepts_an_armor_that_we_do_not(keygen_verdicts: Mapping[str, bool], name: str) -> None:
    assert keygen_verdicts[name]
    assert not signed_by_bob(FILES_STRICTER[name])


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys_are_refused_by_us_even_where_ssh_keygen_is_told_to_take_them(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    """The known difference 'another kind of key that is listed': our list never names one."""
    made = generate_rsa(65537, 2048) if kind == "rsa" else generate_ecdsa(SECP256R1())
    private = tmp_path / "key"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    private.chmod(0o600)
    data = tmp_path / "data"
    data.write_bytes(DATA)
    assert run("ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(private), str(data)).returncode == 0
    armored = (tmp_path / "data.sig").read_text()
    assert not keygen_accepts(repository.signers, tmp_path, armored)
    assert not signed_by_bob(armored)
    listed = tmp_path / "listed"
    public = made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    listed.write_text(f"{allowed_signers(POLICY)}bob {public}\n")
    assert keygen_accepts(listed, tmp_path, armored)


# ---- the decision record ------------------------------------------------------------------------


def test_the_decision_record_lists_exactly_the_known_differences() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| ", ADR.read_text(), re.MULTILINE)
    told = {row for row in rows if row not in ("difference", "---")}
    assert told == {*STRICTER, *OF_OBJECTS, *FILES_STRICTER, *OF_KEYS}
