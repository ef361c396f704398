"""Commits and trees by their raw bytes; walking without git's shortcuts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.trust import objects
from capsule.trust.objects import (
    BadObject,
    Change,
    MissingObject,
    NotDescended,
    changes,
    files,
    find,
    first_parents,
    parse_commit,
    parse_tree,
    trailers,
)
from capsule_agent.protocol import sshsig
from tests.trust_history import History, key

TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
WHO = b"A <a@example.com> 1764547200 +0100"
PLAIN = b"tree " + TREE.encode() + b"\nauthor " + WHO + b"\ncommitter " + WHO + b"\n\nsubject\n"


def bad(data: bytes) -> str:
    with pytest.raises(BadObject) as caught:
        parse_commit(data)
    return str(caught.value)


def test_a_plain_commit() -> None:
    info = parse_commit(PLAIN)
    assert (info.tree, info.parents, info.signature) == (TREE, (), None)
    assert (info.author.name, info.author.email, info.author.at) == ("A", "a@example.com", 1764547200)
    assert info.message == "subject\n"
    assert info.signed_payload == PLAIN


def test_a_signed_commit_gives_the_bytes_that_were_signed() -> None:
    history = History()
    oid = history.raw_commit(history.tree({"a": b"b"}), ["a" * 40, "b" * 40], by=key("alice"))
    info = objects.read_commit(history, oid)
    assert info.parents == ("a" * 40, "b" * 40)
    assert info.signature is not None
    sshsig.verify(info.signed_payload, info.signature, "git", [key("alice").public])


def test_headers_that_git_tools_write_are_let_through() -> None:
    extra = b"encoding UTF-8\nmergetag object x\n type commit\nmergetag object y\nchange-id abc\n"
    assert parse_commit(PLAIN.replace(b"\n\n", b"\n" + extra + b"\n", 1)).message == "subject\n"


def test_a_commit_without_a_message() -> None:
    assert parse_commit(PLAIN.partition(b"\n\n")[0] + b"\n").message == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"tree x\n" + PLAIN.partition(b"\n")[2],
        b"tree " + TREE.encode() + b" \n",
        PLAIN.replace(b"author", b"auth0r", 1),
        PLAIN.replace(b"committer", b"commiter", 1),
        PLAIN.replace(b"author", b"parent " + b"a" * 40 + b"\nparent " + b"a" * 40 + b"\nauthor", 1),
        PLAIN.replace(b"<a@", b"<<a@", 1),
        PLAIN.replace(b"1764547200", b"01764547200", 1),
        PLAIN.replace(b"+0100", b"0100", 1),
        PLAIN.replace(b"subject", b"sub\0ject"),
        PLAIN.partition(b"\n\n")[0],
        b"tree " + TREE.encode() + b"\nauthor " + WHO + b"\n\nx",
        PLAIN.replace(b"\n\n", b"\n continued\n\n", 1),
        PLAIN.replace(b"\n\n", b"\nbroken\n\n", 1),
        PLAIN.replace(b"\n\n", b"\n\xff\xff header\n\n", 1),
        PLAIN.replace(b"\n\n", b"\ngpgsig a\n b\ngpgsig c\n\n", 1),
        PLAIN.replace(b"\n\n", b"\nencoding a\nencoding b\n\n", 1),
        PLAIN.replace(b"\n\n", b"\ngpgsig \xff\n\n", 1),
        PLAIN + b"x" * objects.MAX_FILES,
    ],
)
def test_malformed_commits(data: bytes) -> None:
    assert bad(data)


def test_trailers() -> None:
    assert trailers("s\n\nA: 1\nB-c: 2\nA: 3\n") == {"A": ("1", "3"), "B-c": ("2",)}
    assert trailers("A: 1\n") == {}
    assert trailers("s\n\nA: 1\nnot one\n") == {}
    assert trailers("s\n\nA: 1\n\nbody\n") == {}


def test_a_newline_that_a_value_smuggles_in_starts_no_trailer_of_its_own_elsewhere() -> None:
    assert "Approved-by" not in trailers("s\n\nApproved-by: bob\n\nCapsule-Request: r1\n")
    assert trailers("s\n\nA: 1\u2028B: 2\rC: 3") == {"A": ("1\u2028B: 2\rC: 3",)}


def entry(name: bytes, mode: bytes = b"100644") -> bytes:
    return mode + b" " + name + b"\0" + b"\1" * 20


def test_a_plain_tree() -> None:
    found = parse_tree(entry(b"a") + entry(b"b", b"40000") + entry(b"c\xc3\xa9", b"100755"))
    assert [(each.name, each.is_folder) for each in found] == [("a", False), ("b", True), ("cé", False)]
    assert parse_tree(b"") == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (entry(b"a")[:-1], "MalformedTree"),
        (b"100644a\0" + b"\1" * 20, "MalformedTree"),
        (b"100644 a", "MalformedTree"),
        (entry(b"b") + entry(b"a"), "MalformedTree"),
        (entry(b"a") + entry(b"a"), "MalformedTree"),
        (entry(b"a", b"40000") + entry(b"a.b"), "MalformedTree"),
        (entry(b"a", b"040000"), "ForbiddenMode"),
        (entry(b"a", b"120000"), "ForbiddenMode"),
        (entry(b"a", b"160000"), "ForbiddenMode"),
        (entry(b"a", b"100600"), "ForbiddenMode"),
        (entry(b""), "ForbiddenName"),
        (entry(b"."), "ForbiddenName"),
        (entry(b".."), "ForbiddenName"),
        (entry(b"a/b"), "ForbiddenName"),
        (entry(b"a\\b"), "ForbiddenName"),
        (entry(b"a\x1b"), "ForbiddenName"),
        (entry(b"a\x7f"), "ForbiddenName"),
        (entry(b"\xff"), "ForbiddenName"),
        (entry("a\u202e".encode()), "ForbiddenName"),
        (entry("a\u2028".encode()), "ForbiddenName"),
        (entry(b".git"), "ForbiddenName"),
        (entry(b".Git. "), "ForbiddenName"),
        (entry(b".git::$INDEX_ALLOCATION"), "ForbiddenName"),
        (entry(b"git~1"), "ForbiddenName"),
        (entry("．git".encode()), "ForbiddenName"),
        (entry(b"A") + entry(b"a"), "CollidingNames"),
        (entry("e\u0301".encode()) + entry("\u00e9".encode()), "CollidingNames"),
        (entry("ß".encode()) + entry("ẞ".encode()), "CollidingNames"),
        (entry(b"a") + entry(b"a.", b"100644") + entry(b"a", b"40000"), "CollidingNames"),
    ],
)
def test_trees_that_are_errors(data: bytes, reason: str) -> None:
    with pytest.raises(BadObject) as caught:
        parse_tree(data)
    assert caught.value.reason == reason


def test_harmless_names_near_git_s_own() -> None:
    names = [b".gitattributes", b".github", b"digit", b"git", b"git~x"]
    assert len(parse_tree(b"".join(entry(name) for name in names))) == len(names)


def test_find_and_files() -> None:
    history = History()
    tree = history.tree({"a/b/c": b"1", "a/d": b"2", "e": b"3"})
    assert find(history, tree, "a/b/c") is not None
    assert find(history, tree, "e/x") is None
    assert find(history, tree, "a/x") is None
    assert objects.file_bytes(history, tree, "a/d") == b"2"
    assert objects.file_bytes(history, tree, "a") is None
    assert objects.folder(history, tree, "a/d") is None
    assert objects.folder(history, None, "a") is None
    assert sorted(path for path, _ in files(history, tree)) == ["a/b/c", "a/d", "e"]
    assert sorted(path for path, _ in files(history, tree, "a")) == ["a/b/c", "a/d"]
    assert list(files(history, tree, "nowhere")) == []


def test_changes_do_not_read_equal_subtrees() -> None:
    history = History()
    before = {f"same/{at}/x": str(at).encode() for at in range(50)}
    old = history.tree({**before, "a": b"1", "b/c": b"2", "d": b"file", "f/g": b"folder"})
    new = history.tree({**before, "a": b"2", "b/e": b"3", "d/h": b"folder", "f": b"file"})
    history.reads = 0
    found = {change.path: change for change in changes(history, old, new)}
    assert set(found) == {"a", "b/c", "b/e", "d", "d/h", "f", "f/g"}
    assert found["b/c"].new is None
    assert found["d"].new is None
    assert isinstance(found["a"], Change)
    assert history.reads < 10
    assert list(changes(history, old, old)) == []


def test_trees_that_unfold_beyond_all_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    tree = history.tree({"x": b"1"})
    for _ in range(objects.MAX_DEPTH + 2):
        tree = history.raw_tree([(b"40000", b"d", tree)])
    with pytest.raises(BadObject) as deep:
        list(changes(history, None, tree))
    assert deep.value.reason == "TooLarge"
    monkeypatch.setattr(objects, "MAX_FILES", 1000)
    bomb = history.tree({"x": b"1"})
    for _ in range(6):
        bomb = history.raw_tree([(b"40000", str(at).encode(), bomb) for at in range(10)])
    with pytest.raises(BadObject) as wide:
        list(changes(history, None, bomb))
    assert wide.value.reason == "TooLarge"


def test_first_parents() -> None:
    history = History.begun()
    first = history.step(merge=True)
    second = history.step()
    assert list(first_parents(history, second, history.root)) == [second, first]
    assert list(first_parents(history, second, second)) == []
    with pytest.raises(NotDescended):
        list(first_parents(history, first, second))
    with pytest.raises(MissingObject):
        list(first_parents(history, "f" * 40, history.root))


def test_a_tag_is_no_commit_and_a_commit_no_tree() -> None:
    history = History.begun()
    tag = history.put("tag", b"object x")
    for read in (
        lambda: objects.read_commit(history, tag),
        lambda: objects.entries(history, history.tip),
        lambda: objects.read_blob(history, history.tip),
    ):
        with pytest.raises(BadObject) as caught:
            read()
        assert caught.value.reason == "WrongKind"


_history = History()
_SEED = _history.objects[_history.raw_commit(TREE, ["a" * 40], by=key("alice"))][1]
_TREE_SEED = entry(b"a") + entry(b"b", b"40000") + entry(b"c")


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8) | st.sampled_from(_PIECES))
    return bytes(data)


_PIECES = [
    b"\n",
    b"\n ",
    b"\0",
    b"gpgsig ",
    b"author ",
    b"\nparent ",
    b"40000 ",
    b"100644 ",
    b"\xff",
    b"<",
    b" ",
]


@settings(max_examples=300, deadline=None)
@given(mutated(_SEED) | st.binary(max_size=200))
def test_fuzz_any_bytes_are_a_commit_or_a_bad_object(data: bytes) -> None:
    try:
        info = parse_commit(data)
    except BadObject:
        return
    assert len(info.tree) == 40
    if info.signature is not None:
        assert len(info.signed_payload) < len(data)
        assert b"\ngpgsig " not in info.signed_payload.partition(b"\n\n")[0]


@settings(max_examples=300, deadline=None)
@given(mutated(_TREE_SEED) | st.binary(max_size=100))
def test_fuzz_any_bytes_are_a_tree_or_a_bad_object(data: bytes) -> None:
    try:
        found = parse_tree(data)
    except BadObject:
        return
    again = b"".join(f"{each.mode:o} {each.name}\0".encode() + bytes.fromhex(each.oid) for each in found)
    assert again == data


_ARMORED = key("alice").sign(b"message", "git").encode()


@settings(max_examples=300, deadline=None)
@given(mutated(_ARMORED) | st.binary(max_size=300))
def test_fuzz_no_changed_signature_verifies(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        sshsig.verify(b"message", text, "git", [key("alice").public])
    except sshsig.BadSignature:
        return
    assert sshsig.dearmor(text) == sshsig.dearmor(_ARMORED.decode())


def test_headers_that_do_not_end_are_no_commit() -> None:
    assert bad(PLAIN.partition(b"\n\n")[0] + b"\nx-after y") == "the headers do not end"
