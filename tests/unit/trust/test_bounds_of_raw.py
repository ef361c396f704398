"""Raw commits and trees at the edge of what is one, and the quick reading of a tree beside the slow one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.trust import raw
from capsule.trust.raw import BadObject, TreeEntry, ordinary_entries, parse_commit, parse_tree
from capsule_agent.protocol import sshsig
from tests.trust_history import History, key

TREE = b"4b825dc642cb6eb9a060e54bf8d69288fbee4904"
WHO = b"A <a@example.com> 1764547200 +0100"
PLAIN = b"tree " + TREE + b"\nauthor " + WHO + b"\ncommitter " + WHO + b"\n\nsubject\n"


def entry(name: bytes, mode: bytes = b"100644") -> bytes:
    return mode + b" " + name + b"\0" + b"\1" * 20


def refused(data: bytes) -> BadObject:
    with pytest.raises(BadObject) as caught:
        parse_tree(data)
    return caught.value


def test_a_commit_may_have_so_many_bytes_and_not_one_more() -> None:
    largest = PLAIN + b"x" * (raw.MAX_COMMIT_BYTES - len(PLAIN))
    assert parse_commit(largest).tree == TREE.decode()
    with pytest.raises(BadObject, match="expected at most"):
        parse_commit(largest + b"x")


@pytest.mark.parametrize("after", [b" ", b"0", b""])
def test_an_id_ends_with_its_line(after: bytes) -> None:
    with pytest.raises(BadObject, match="40 hex digits after 'tree'"):
        parse_commit(PLAIN.replace(TREE + b"\n", TREE + after))
    with pytest.raises(BadObject, match="40 hex digits after 'parent'"):
        parse_commit(PLAIN.replace(b"\n", b"\nparent " + TREE + after, 1))


def test_lines_that_continue_another_header_are_no_part_of_the_signature() -> None:
    history = History()
    data = history.objects[history.raw_commit(TREE.decode(), [], by=key("alice"))][1]
    more = b"mergetag object x\n type commit\n"
    info = parse_commit(data.replace(b"\n\nstep", b"\n" + more + b"\nstep", 1))
    assert info.signature is not None
    assert "type commit" not in info.signature
    with pytest.raises(sshsig.BadSignature, match="does not fit"):
        sshsig.verify(info.signed_payload, info.signature, "git", [key("alice").public])


def test_files_stand_in_the_order_of_their_names() -> None:
    assert [each.name for each in parse_tree(entry(b"a") + entry(b"a.b"))] == ["a", "a.b"]
    assert refused(entry(b"a.b") + entry(b"a")).reason == "MalformedTree"


def test_a_name_without_an_end_is_cut_off_however_long() -> None:
    assert refused(b"100644 " + b"a" * 60).reason == "MalformedTree"
    assert refused(entry(b"a") + b"100644 " + b"b" * 60).reason == "MalformedTree"


def test_a_name_that_ends_before_it_begins_is_cut_off() -> None:
    assert refused(b"1006\0 4a" + b"\1" * 40).reason == "MalformedTree"


def test_no_mode_is_a_forbidden_one() -> None:
    assert refused(b" name\0" + b"\1" * 20).reason == "ForbiddenMode"
    assert refused(entry(b"a") + b" name\0" + b"\1" * 20).reason == "ForbiddenMode"


@pytest.mark.parametrize("name", [b"a\x1b", b"a\x7f", b"\n"])
def test_a_control_character_is_told_as_no_plain_name(name: bytes) -> None:
    assert str(refused(entry(name))).endswith("is no plain file name")


MODES = st.sampled_from([b"40000", b"100644", b"100755", b"120000", b"040000"])
NAMES = st.sampled_from([b"a", b"b", b"A", b"a.b", b"a-b", b".git", b"git", b"x (1)", "é".encode(), b"a0"])
ENTRIES = st.lists(st.tuples(MODES, NAMES), max_size=5)


@given(ENTRIES, st.booleans(), st.integers(0, 3))
def test_read_quickly_or_slowly_a_tree_is_the_same(
    files: list[tuple[bytes, bytes]], in_order: bool, cut: int
) -> None:
    if in_order:
        files = sorted(files, key=lambda each: each[1] + (b"/" if each[0] == b"40000" else b""))
    data = b"".join(entry(name, mode) for mode, name in files)
    data = data[: len(data) - cut]
    quick = ordinary_entries(data)
    if quick is None:
        return
    assert tuple(quick[1]) == read_slowly(data)
    assert quick[0] == [each.name.encode() + (b"/" if each.is_folder else b"") for each in quick[1]]


def read_slowly(data: bytes) -> tuple[TreeEntry, ...]:
    """The same entries behind one whose name keeps the whole tree from being read at once."""
    extra = entry("!é".encode())
    assert ordinary_entries(extra + data) is None
    return parse_tree(extra + data)[1:]


def test_a_commit_without_a_tree_is_none() -> None:
    with pytest.raises(BadObject, match="begins with its tree"):
        parse_commit(PLAIN.partition(b"\n")[2])


def test_what_follows_tree_and_parents_is_the_author_for_who_reads_no_further() -> None:
    data = PLAIN.replace(b"author", b"parent x\nauthor", 1).replace(b"parent x", b"note x")
    for read in (raw.parents_of, raw.tree_of, parse_commit):
        with pytest.raises(BadObject, match="expected the author"):
            read(data)


@pytest.mark.parametrize("name", ["tree", "parent", "author", "committer", "gpgsig-sha256"])
def test_a_header_that_stands_at_its_place_alone_is_refused_behind_the_committer(name: str) -> None:
    with pytest.raises(BadObject, match=f"header '{name}' at a place where it must not be"):
        parse_commit(PLAIN.replace(b"\n\n", b"\n" + name.encode() + b" x\n\n", 1))
