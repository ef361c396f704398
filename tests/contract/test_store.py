"""What holds for every store, checked for each of them by the same tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from capsule.store import git as git_stores
from capsule.store.api import (
    LOCAL_PREFIX,
    Draft,
    InvalidDraft,
    Person,
    RefMoved,
    RefUpdate,
    RemoteUnreachable,
    Store,
    StoreError,
)
from capsule.store.beats import HEARTBEAT_FILE
from capsule.store.objects import commit_links, is_object_id, object_id, parse_tree
from capsule.testing.memory_store import MemoryRemote, MemoryStore
from capsule.trust.objects import MissingObject, ObjectKind
from capsule.trust.raw import parse_commit
from capsule.view import heartbeat
from capsule_agent.protocol import sshsig
from tests.git_servers import assert_sound, bare_repository, git, http_git

ALICE = Person("Alice Ångström", "alice@example.com")
ROBOT = Person("reconciler-1", "reconciler@example.com")
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MAIN = "refs/heads/main"
AUDIT = "refs/heads/audit"


@dataclass
class World:
    """One authority; `another()` is a store on it, as another process or machine would have it."""

    another: Callable[[], Store]
    repositories: list[Path] = field(default_factory=list)


def _local(stack: ExitStack, path: Path, *, bare: bool) -> World:
    git_stores.init(path, bare=bare).close()

    def another() -> Store:
        store = git_stores.open_store(path)
        stack.callback(store.close)
        return store

    return World(another, [path])


def _cloned(stack: ExitStack, url: str, origin: Path, folder: Path) -> World:
    repositories = [origin]

    def another() -> Store:
        path = folder / f"clone-{len(repositories)}"
        repositories.append(path)
        store = git_stores.clone(url, path, bare=True)
        stack.callback(store.close)
        return store

    return World(another, repositories)


def _in_memory(*, with_remote: bool) -> World:
    if not with_remote:
        only = MemoryStore()
        return World(lambda: only)
    remote = MemoryRemote()
    return World(lambda: MemoryStore(remote))


def _world(kind: str, stack: ExitStack, folder: Path) -> World:
    if kind.startswith("memory"):
        return _in_memory(with_remote=kind == "memory-remote")
    if not kind.endswith("remote"):
        return _local(stack, folder / "state", bare=kind == "bare")
    origin = bare_repository(folder / "origin.git")
    if kind == "path-remote":
        return _cloned(stack, str(origin), origin, folder)
    server = stack.enter_context(http_git(folder))
    return _cloned(stack, server.url("origin.git"), origin, folder)


@pytest.fixture(params=["memory", "memory-remote", "bare", "files", "path-remote", "http-remote"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        world = _world(request.param, stack, tmp_path)
        yield world
        for path in world.repositories:
            assert_sound(path)


@pytest.fixture
def store(world: World) -> Store:
    return world.another()


@pytest.fixture(params=["memory", "bare"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """For what writing alone decides: there remotes make no difference."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield MemoryStore()
        else:
            yield _local(stack, tmp_path / "state", bare=True).another()
            assert_sound(tmp_path / "state")


def draft(
    store_base: str | None,
    edits: Mapping[str, bytes | None],
    *,
    parents: tuple[str, ...] | None = None,
    message: str = "a change",
    at: datetime = NOON,
    overlay: str | None = None,
    modes: Mapping[str, int] | None = None,
) -> Draft:
    known = (store_base,) if store_base and parents is None else parents or ()
    return Draft(store_base, edits, known, message, ALICE, at, None, overlay, ROBOT, modes or {})


def files(store: Store, commit: str) -> dict[str, bytes]:
    """Every file of a commit by path."""
    found: dict[str, bytes] = {}

    def walk(tree: str, at: str) -> None:
        for name, entry in parse_tree(store.read(tree)[1]).items():
            path = at + name.decode()
            if entry.is_folder:
                walk(entry.oid, path + "/")
            else:
                found[path] = store.read(entry.oid)[1]

    walk(commit_links(store.read(commit)[1]).tree, "")
    return found


def begin(store: Store, edits: Mapping[str, bytes | None] | None = None) -> str:
    first = store.write(draft(None, edits or {"services/a.yaml": b"a"}))
    store.publish([RefUpdate(MAIN, None, first)])
    return first


def test_a_written_commit_reads_back(store: Store) -> None:
    oid = store.write(draft(None, {"services/a.yaml": b"one", "README": b"\x00binary"}))
    assert files(store, oid) == {"services/a.yaml": b"one", "README": b"\x00binary"}
    kind, data = store.read(oid)
    assert kind == "commit"
    assert hashlib.sha1(b"commit %d\0" % len(data) + data).hexdigest() == oid
    assert data.split(b"\n\n", 1)[0].splitlines()[1:] == [
        "author Alice Ångström <alice@example.com> 1795435200 +0000".encode(),
        b"committer reconciler-1 <reconciler@example.com> 1795435200 +0000",
    ]


def test_a_write_is_named_by_no_ref(store: Store) -> None:
    first = begin(store)
    before = store.refs()
    store.write(draft(first, {"x": b"y"}))
    assert store.refs() == before == {MAIN: first}


@pytest.mark.parametrize("oid", ["0" * 40, "f" * 40, "HEAD", "", "refs/heads/main", "A" * 40, "../../etc/x"])
def test_what_is_not_there_is_missing(writer: Store, oid: str) -> None:
    with pytest.raises(MissingObject):
        writer.read(oid)


def test_edits_touch_nothing_else(store: Store) -> None:
    first = begin(store, {"a/b/c": b"1", "a/d": b"2", "e": b"3"})
    second = store.write(draft(first, {"a/b/c": b"9", "e": None, "f/g/h": b"new"}))
    assert files(store, second) == {"a/b/c": b"9", "a/d": b"2", "f/g/h": b"new"}


def test_a_folder_goes_with_its_last_file(writer: Store) -> None:
    first = begin(writer, {"a/b/c": b"1", "e": b"3"})
    second = writer.write(draft(first, {"a/b/c": None}))
    assert set(parse_tree(writer.read(commit_links(writer.read(second)[1]).tree)[1])) == {b"e"}
    empty = writer.write(draft(second, {"e": None}))
    assert commit_links(writer.read(empty)[1]).tree == object_id("tree", b"")
    assert writer.read(object_id("tree", b"")) == ("tree", b"")


def test_deleting_what_is_not_there_changes_nothing(writer: Store) -> None:
    first = begin(writer, {"a": b"1", "f/g": b"2"})
    second = writer.write(draft(first, {"b": None, "a/below/a/file": None, "f/x/y": None}))
    assert files(writer, second) == {"a": b"1", "f/g": b"2"}


def test_a_file_becomes_a_folder_and_back(writer: Store) -> None:
    first = begin(writer, {"a": b"1"})
    second = writer.write(draft(first, {"a": None, "a/b": b"2"}))
    assert files(writer, second) == {"a/b": b"2"}
    third = writer.write(draft(second, {"a/b": None, "a": b"3"}))
    assert files(writer, third) == {"a": b"3"}


@pytest.mark.parametrize(
    "edits", [{"a/b": b"2"}, {"f": b"2"}, {"f": None}, {"x": b"1", "x/y": b"2"}, {"f/g/h": b"1"}]
)
def test_files_and_folders_are_never_confused(writer: Store, edits: Mapping[str, bytes | None]) -> None:
    first = begin(writer, {"a": b"1", "f/g": b"2"})
    with pytest.raises(InvalidDraft, match=r"folder|file"):
        writer.write(draft(first, edits))


def test_names_sort_as_git_sorts_them(writer: Store) -> None:
    oid = writer.write(draft(None, {"a.b": b"1", "a/x": b"2", "a0": b"3", "a-": b"4"}))
    tree = writer.read(commit_links(writer.read(oid)[1]).tree)[1]
    assert list(parse_tree(tree)) == [b"a-", b"a.b", b"a", b"a0"]


def test_modes_are_kept_and_set(writer: Store) -> None:
    first = begin(writer)
    second = writer.write(draft(first, {"run": b"#!", "plain": b""}, modes={"run": 0o100755}))
    third = writer.write(draft(second, {"run": b"#!2"}))
    tree = parse_tree(writer.read(commit_links(writer.read(third)[1]).tree)[1])
    assert (tree[b"run"].mode, tree[b"plain"].mode) == (0o100755, 0o100644)


@pytest.mark.parametrize(
    ("edits", "modes"),
    [({"a": b""}, {"a": 0o120000}), ({"a": b""}, {"a": 0o160000}), ({"a": b""}, {"b": 0o100644})],
)
def test_other_modes_are_refused(writer: Store, edits: Mapping[str, bytes], modes: Mapping[str, int]) -> None:
    with pytest.raises(InvalidDraft, match="mode"):
        writer.write(draft(None, edits, modes=modes))


def test_an_overlay_replaces_all_but_the_machines_folders(store: Store) -> None:
    root = begin(store, {"services/a.yaml": b"old", "policy.yaml": b"p"})
    audit = store.write(draft(root, {"status/a.yaml": b"up", "records/2026/x": b"r", "stray": b"s"}))
    main = store.write(
        draft(root, {"services/a.yaml": b"new", "status/a.yaml": b"forged", "records/y": b"forged"})
    )
    merge = store.write(
        draft(audit, {"status/b.yaml": b"down"}, parents=(audit, main), overlay=main, message="take main in")
    )
    assert commit_links(store.read(merge)[1]).parents == (audit, main)
    assert files(store, merge) == {
        "services/a.yaml": b"new",
        "policy.yaml": b"p",
        "status/a.yaml": b"up",
        "status/b.yaml": b"down",
        "records/2026/x": b"r",
    }


def test_an_overlay_over_nothing(writer: Store) -> None:
    main = begin(writer, {"services/a.yaml": b"a", "status/x": b"forged"})
    first = writer.write(draft(None, {}, parents=(main,), overlay=main))
    assert files(writer, first) == {"services/a.yaml": b"a"}


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "../a", "a/../b"),
        *(".git/config", "a/.git/hooks/x", ".GIT/config", ".git", "git~1/config", ".git./x", ".git /x"),
        *(".g\u200cit/config", ".git::$INDEX_ALLOCATION/x", "\uff0egit/x"),
        *("a\\b", "a\0b", "a\nb", "\x1b[2J", "a" * 256, "a/" * 64 + "a", "\ud800"),
    ],
)
def test_hostile_paths_are_refused(writer: Store, path: str) -> None:
    with pytest.raises(InvalidDraft):
        writer.write(draft(None, {path: b""}))
    with pytest.raises(InvalidDraft):
        writer.write(draft(None, {path: None}))


@pytest.mark.parametrize(
    "path", ["dienste/ÄÖÜ.yaml", "服务/模型.yaml", "e\u0301/x", ".gitignore", ".github/x", "git", "a b/c'd\""]
)
def test_unusual_honest_paths_are_fine(writer: Store, path: str) -> None:
    oid = writer.write(draft(None, {path: b"x"}))
    writer.publish([RefUpdate(MAIN, None, oid)])
    assert files(writer, oid) == {path: b"x"}


@pytest.mark.parametrize("message", ["", " \n", "a\0b", "\ud800"])
def test_bad_messages_are_refused(writer: Store, message: str) -> None:
    with pytest.raises(InvalidDraft, match="message"):
        writer.write(draft(None, {"a": b""}, message=message))


@pytest.mark.parametrize(
    "person",
    [
        *(Person("", "a@b"), Person("a", ""), Person("a<b", "a@b"), Person("a", "a@b>")),
        *(Person("a\nparent x", "a@b"), Person(" a", "a@b"), Person("a", "a b"), Person("a\0", "a@b")),
    ],
)
def test_bad_people_are_refused(writer: Store, person: Person) -> None:
    for author, committer in ((person, ROBOT), (ROBOT, person)):
        with pytest.raises(InvalidDraft):
            writer.write(Draft(None, {"a": b""}, (), "m", author, NOON, committer=committer))


def test_times_need_a_zone_and_are_written_in_utc(writer: Store) -> None:
    with pytest.raises(InvalidDraft, match="time zone"):
        writer.write(draft(None, {"a": b""}, at=NOON.replace(tzinfo=None)))
    with pytest.raises(InvalidDraft, match="1970"):
        writer.write(draft(None, {"a": b""}, at=datetime(1960, 1, 1, tzinfo=UTC)))
    berlin = NOON.astimezone(timezone(timedelta(hours=1)))
    assert writer.write(draft(None, {"a": b""}, at=berlin)) == writer.write(draft(None, {"a": b""}))


def test_parents_and_bases_must_be_commits_that_are_here(writer: Store) -> None:
    first = begin(writer)
    tree = commit_links(writer.read(first)[1]).tree
    for broken in (
        draft(first, {}, parents=("0" * 40,)),
        draft("1" * 40, {}),
        draft(None, {}, overlay="2" * 40),
    ):
        with pytest.raises(MissingObject):
            writer.write(broken)
    for broken in (
        draft(first, {}, parents=(tree,)),
        draft(tree, {}),
        draft(first, {}, parents=(first, first)),
    ):
        with pytest.raises(InvalidDraft):
            writer.write(broken)


def test_the_signature_covers_the_commit_without_it(store: Store) -> None:
    key = sshsig.PrivateKey.from_seed(b"k" * 32)
    seen: list[bytes] = []

    def sign(message: bytes) -> str:
        seen.append(message)
        return key.sign(message, sshsig.COMMIT)

    unsigned = store.write(draft(None, {"a": b"1"}, message="signed\n\nTrailer: x"))
    signed = store.write(Draft(None, {"a": b"1"}, (), "signed\n\nTrailer: x", ALICE, NOON, sign, None, ROBOT))
    assert seen == [store.read(unsigned)[1]]
    head, _, body = store.read(signed)[1].partition(b"\n\n")
    head, _, folded = head.partition(b"\ngpgsig ")
    assert head + b"\n\n" + body == seen[0]
    assert (
        sshsig.verify(seen[0], folded.decode().replace("\n ", "\n"), sshsig.COMMIT, [key.public])
        == key.public
    )


@pytest.mark.parametrize("text", ["", "no armor", "-----BEGIN SSH SIGNATURE-----\n\nparent x"])
def test_what_is_no_signature_is_not_written(writer: Store, text: str) -> None:
    with pytest.raises(InvalidDraft, match="signature"):
        writer.write(Draft(None, {"a": b"1"}, (), "m", ALICE, NOON, lambda _: text))


def test_every_store_writes_the_same_bytes(store: Store) -> None:
    twin = MemoryStore()
    ids = [_history(store), _history(twin)]
    assert ids[0] == ids[1]
    assert [store.read(oid) for oid in ids[0]] == [twin.read(oid) for oid in ids[1]]


def _history(store: Store) -> list[str]:
    key = sshsig.PrivateKey.from_seed(b"s" * 32)
    first = store.write(draft(None, {"services/ä.yaml": b"a", "x/y/z": b"1", "x/y": None} | {}))
    bulk = store.write(draft(first, {f"many/{each % 7}/{each}": b"%d" % each for each in range(60)}))
    main = store.write(draft(first, {"services/b.yaml": b"b"}))
    signed = Draft(bulk, {"status/x": b"s", "many/0/0": None}, (bulk, main), "m\n", ALICE, NOON, overlay=main)
    last = store.write(
        Draft(
            *(signed.base, signed.edits, signed.parents, signed.message, signed.author, signed.at),
            sign=lambda data: key.sign(data, sshsig.COMMIT),
            overlay=main,
        )
    )
    return [first, bulk, main, store.write(signed), last]


def test_a_ref_is_made_moved_and_deleted(world: World) -> None:
    store, other = world.another(), world.another()
    first = begin(store)
    other.refresh()
    assert other.refs() == {MAIN: first}
    second = other.write(draft(first, {"x": b"2"}))
    other.publish([RefUpdate(MAIN, first, second), RefUpdate("refs/heads/request/r-1", None, first)])
    store.refresh()
    assert store.refs() == {MAIN: second, "refs/heads/request/r-1": first}
    assert store.refs("refs/heads/request/") == {"refs/heads/request/r-1": first}
    assert files(store, second)["x"] == b"2"
    store.publish([RefUpdate("refs/heads/request/r-1", first, None)])
    other.refresh()
    assert store.refs() == other.refs() == {MAIN: second}


def test_a_lost_race_is_an_error_and_overwrites_nothing(world: World) -> None:
    store, rival = world.another(), world.another()
    first = begin(store)
    rival.refresh()
    won = rival.write(draft(first, {"winner": b"1"}))
    rival.publish([RefUpdate(MAIN, first, won)])
    mine = store.write(draft(first, {"loser": b"1"}))
    for lost in (
        RefUpdate(MAIN, first, mine),
        RefUpdate(MAIN, None, mine),
        RefUpdate(MAIN, first, None),
        RefUpdate("refs/heads/other", first, mine),
        RefUpdate("refs/heads/other", first, None),
    ):
        with pytest.raises(RefMoved, match="another writer was first") as caught:
            store.publish([lost])
        assert caught.value.hint
    store.refresh()
    assert store.refs() == {MAIN: won}


def test_the_first_loss_stops_the_rest(store: Store) -> None:
    first = begin(store)
    second = store.write(draft(first, {"x": b"2"}))
    moves = [
        RefUpdate("refs/heads/a", None, second),
        RefUpdate(MAIN, second, first),
        RefUpdate("refs/heads/b", None, second),
    ]
    with pytest.raises(RefMoved):
        store.publish(moves)
    store.refresh()
    assert store.refs() == {MAIN: first, "refs/heads/a": second}


def test_a_move_to_where_it_is_checks_and_changes_nothing(store: Store) -> None:
    first = begin(store)
    store.publish([RefUpdate(MAIN, first, first)])
    assert store.refs() == {MAIN: first}


def test_history_may_be_replaced_where_it_is_asked_for(store: Store) -> None:
    first = begin(store)
    beat = "refs/capsule/heartbeat/one"
    old = store.write(draft(None, {"beat": b"1"}, parents=()))
    new = store.write(draft(None, {"beat": b"2"}, parents=()))
    store.publish([RefUpdate(beat, None, old)])
    store.publish([RefUpdate(beat, old, new)])
    assert store.refs("refs/capsule/") == {beat: new}
    assert store.refs("refs/heads/") == {MAIN: first}


@pytest.fixture(params=["memory-remote", "path-remote"])
def rude(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Rude]]:
    """A store on a remote, and somebody who puts there what no honest writer makes."""
    with ExitStack() as stack:
        if request.param == "memory-remote":
            remote = MemoryRemote()
            yield MemoryStore(remote), Rude(remote)
        else:
            origin = bare_repository(tmp_path / "origin.git")
            store = git_stores.clone(str(origin), tmp_path / "clone", bare=True)
            stack.callback(store.close)
            yield store, Rude(origin)


@dataclass
class Rude:
    """Puts any objects and refs into a remote."""

    remote: MemoryRemote | Path

    def put(self, kind: ObjectKind, data: bytes) -> str:
        if isinstance(self.remote, MemoryRemote):
            return self.remote.put(kind, data)
        return git(self.remote, "hash-object", "-wt", kind, "--literally", "--stdin", stdin=data).strip()

    def set_ref(self, name: str, oid: str | None) -> None:
        if isinstance(self.remote, MemoryRemote):
            self.remote.set_ref(name, oid)
        elif oid is None:
            git(self.remote, "update-ref", "-d", name)
        else:
            git(self.remote, "update-ref", name, oid)

    def pack_refs(self) -> None:
        if isinstance(self.remote, Path):
            git(self.remote, "pack-refs", "--all")

    def commit(self, tree: bytes, parent: str) -> str:
        who = b"m <m@example.com> 1795435200 +0000"
        lines = [b"tree " + self.put("tree", tree).encode(), b"parent " + parent.encode()]
        return self.put("commit", b"\n".join([*lines, b"author " + who, b"committer " + who, b"", b"m\n"]))


def _skipped(store: Store) -> dict[str, str]:
    assert isinstance(store, MemoryStore | git_stores.GitStore)
    return store.skipped


def _broken_tree(rude: Rude, which: str) -> bytes:
    blob = bytes.fromhex(rude.put("blob", b"x"))
    return b"100644 a/b\0" + blob if which == "slashed" else (b"100644 a\0" + blob) * 2


def test_a_branch_becomes_a_folder_of_branches_and_back(rude: tuple[Store, Rude]) -> None:
    store, other = rude
    first = begin(store)
    before = None
    for name in ("a/b", "a", "a/b/c", "a"):
        if before is not None:
            other.set_ref(before, None)
        before = f"refs/heads/request/{name}"
        other.set_ref(before, first)
        other.pack_refs()
        store.refresh()
        assert store.refs() == {MAIN: first, before: first}
        assert _skipped(store) == {}


@pytest.mark.parametrize("name", ["refs/heads/request/\udcff\udcfe", "refs/capsule/heartbeat/\udc80"])
def test_a_name_that_is_not_unicode_is_left_out_alone(rude: tuple[Store, Rude], name: str) -> None:
    store, other = rude
    first = begin(store)
    other.set_ref(name, first)
    other.set_ref("refs/heads/request/fine", first)
    store.refresh()
    assert store.refs() == {MAIN: first, "refs/heads/request/fine": first}
    assert list(_skipped(store)) == [name]
    second = store.write(draft(first, {"x": b"1"}))
    store.publish([RefUpdate(MAIN, first, second)])


@pytest.mark.parametrize("which", ["twice", "slashed"])
def test_a_branch_with_a_broken_tree_is_left_out_alone(
    rude: tuple[Store, Rude], which: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = rude
    first = begin(store)
    broken = other.commit(_broken_tree(other, which), first)
    other.set_ref("refs/heads/request/bad", broken)
    other.set_ref("refs/heads/request/on-bad", other.commit(b"", broken))
    other.set_ref("refs/heads/request/fine", other.commit(b"", first))
    for _ in range(2):
        store.refresh()
        assert set(store.refs()) == {MAIN, "refs/heads/request/fine"}
        assert set(_skipped(store)) == {"refs/heads/request/bad", "refs/heads/request/on-bad"}
        assert "repeated or slashed" in _skipped(store)["refs/heads/request/bad"]
    assert caplog.text.count("'refs/heads/request/bad'") == 1, "told once"
    second = store.write(draft(first, {"x": b"1"}))
    store.publish([RefUpdate(MAIN, first, second)])
    other.set_ref("refs/heads/request/bad", first)
    store.refresh()
    assert store.refs()["refs/heads/request/bad"] == first
    assert set(_skipped(store)) == {"refs/heads/request/on-bad"}


@pytest.mark.parametrize("name", [MAIN, AUDIT])
def test_main_and_audit_are_whole_or_nothing_is_taken(rude: tuple[Store, Rude], name: str) -> None:
    store, other = rude
    first = begin(store)
    other.set_ref(name, other.commit(_broken_tree(other, "twice"), first))
    with pytest.raises(RemoteUnreachable, match="incomplete history"):
        store.refresh()
    assert store.refs() == {MAIN: first}


def test_a_ref_to_something_else_does_not_stop_a_push(rude: tuple[Store, Rude]) -> None:
    store, other = rude
    first = begin(store)
    other.set_ref("refs/capsule/odd", other.put("blob", b"no commit"))
    store.refresh()
    assert store.refs() == {MAIN: first}
    second = store.write(draft(first, {"x": b"1"}))
    store.publish([RefUpdate(MAIN, first, second)])
    assert store.refs() == {MAIN: second}


@pytest.mark.parametrize("name", ["main", "refs/heads/", "refs/heads/a..b", "refs/heads/a b", "HEAD", "../x"])
def test_bad_names_are_refused(store: Store, name: str) -> None:
    first = begin(store)
    with pytest.raises(StoreError):
        store.publish([RefUpdate(name, None, first)])
    assert store.refs() == {MAIN: first}


def test_a_ref_never_names_what_is_not_a_commit_here(store: Store) -> None:
    first = begin(store)
    tree = commit_links(store.read(first)[1]).tree
    with pytest.raises(MissingObject):
        store.publish([RefUpdate("refs/heads/x", None, "3" * 40)])
    with pytest.raises(InvalidDraft, match="not a commit"):
        store.publish([RefUpdate("refs/heads/x", None, tree)])
    with pytest.raises(InvalidDraft, match="neither"):
        store.publish([RefUpdate("refs/heads/x", None, None)])
    assert store.refs() == {MAIN: first}


def test_a_ref_cannot_stand_in_for_a_folder(store: Store) -> None:
    first = begin(store)
    with pytest.raises(StoreError):
        store.publish([RefUpdate(f"{MAIN}/below", None, first)])
    assert store.refs() == {MAIN: first}


def test_of_two_racers_one_wins(world: World) -> None:
    racers = [world.another() for _ in range(4)]
    tip = begin(racers[0])
    for turn in range(3):
        for each in racers:
            each.refresh()
        tip = _race(racers, tip, turn)
    racers[1].refresh()
    assert racers[1].refs() == {MAIN: tip}


def _race(racers: list[Store], tip: str, turn: int) -> str:
    start = threading.Barrier(len(racers))

    def run(number: int) -> str | None:
        store = racers[number]
        mine = store.write(draft(tip, {"claim": b"%d of %d" % (number, turn)}))
        start.wait(30)
        try:
            store.publish([RefUpdate(MAIN, tip, mine)])
        except RefMoved:
            return None
        return mine

    with ThreadPoolExecutor(len(racers)) as pool:
        won = [each for each in pool.map(run, range(len(racers))) if each is not None]
    assert len(won) == 1
    return won[0]


def test_one_store_serves_many_threads(store: Store) -> None:
    first = begin(store)

    def work(number: int) -> None:
        name = f"refs/heads/request/{number}"
        oid = store.write(draft(first, {f"requests/{number}": b"x"}))
        store.publish([RefUpdate(name, None, oid)])
        assert store.refs(name) == {name: oid}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert len(store.refs("refs/heads/request/")) == 8


def test_what_is_local_stays_here(world: World) -> None:
    store, other = world.another(), world.another()
    first = begin(store)
    whole = LOCAL_PREFIX + "heartbeat/one"
    store.publish([RefUpdate(whole, None, first)])
    assert store.refs(LOCAL_PREFIX) == {whole: first}
    other.refresh()
    expected = {} if store.has_remote() else {whole: first}
    assert other.refs(LOCAL_PREFIX) == expected
    with pytest.raises(RefMoved):
        store.publish([RefUpdate(whole, None, first)])


def test_a_replaced_heartbeat_can_be_discarded(store: Store) -> None:
    first = begin(store, {"shared": b"kept"})
    beat = LOCAL_PREFIX + "heartbeat/one"
    old = store.write(_beat(b"12:00"))
    new = store.write(_beat(b"12:01"))
    store.publish([RefUpdate(beat, None, old)])
    store.discard(old)
    assert files(store, old), "what a ref names is not discarded"
    store.publish([RefUpdate(beat, old, new)])
    gone = commit_links(store.read(old)[1]).tree
    store.discard(old, keep=[new])
    store.discard(old, keep=[new])
    for oid in (old, gone, object_id("blob", b"12:00")):
        with pytest.raises(MissingObject):
            store.read(oid)
    assert files(store, new) == {HEARTBEAT_FILE: b"12:01"}
    assert files(store, first) == {"shared": b"kept"}


def test_stores_and_views_mean_the_same_file() -> None:
    assert heartbeat.HEARTBEAT_FILE == HEARTBEAT_FILE


def _beat(text: bytes, at: datetime = NOON) -> Draft:
    return draft(None, {HEARTBEAT_FILE: text}, parents=(), at=at)


@pytest.mark.parametrize(
    "others", [{"b": b"2"}, {"heartbeat.json": b"x", "policy.yaml": b"p"}, {"x/heartbeat.json": b"x"}]
)
def test_nothing_but_a_heartbeat_is_ever_discarded(store: Store, others: Mapping[str, bytes]) -> None:
    root = store.write(draft(None, others, parents=()))
    second = store.write(draft(root, {"more": b"1"}))
    store.publish([RefUpdate(MAIN, None, second)])
    unnamed = store.write(draft(None, {"other": b"3"}, parents=()))
    for commit in (root, second, unnamed, "0" * 40):
        store.discard(commit)
        store.discard(commit, keep=[second])
    assert files(store, root) == others
    assert files(store, second) == {**others, "more": b"1"}
    assert files(store, unnamed) == {"other": b"3"}


def test_a_heartbeat_that_another_store_wrote_is_not_discarded(world: World) -> None:
    store, other = world.another(), world.another()
    begin(other)
    foreign = other.write(_beat(b"12:00"))
    name = "refs/capsule/heartbeat/one"
    other.publish([RefUpdate(name, None, foreign)])
    store.refresh()
    other.publish([RefUpdate(name, foreign, None)])
    store.refresh()
    if store is not other:
        store.discard(foreign)
        assert files(store, foreign) == {HEARTBEAT_FILE: b"12:00"}


@pytest.mark.parametrize("shared", ["heartbeat.json", "docs/copy.json", "docs/heartbeat.json"])
def test_what_a_ref_took_over_of_a_heartbeat_stays(world: World, shared: str) -> None:
    store, other = world.another(), world.another()
    first = begin(store)
    old = store.write(_beat(b"12:00"))
    other.refresh()
    taken = other.write(draft(first, {shared: b"12:00"}))
    later = other.write(draft(taken, {shared: None, "x": b"1"}))
    other.publish([RefUpdate(MAIN, first, later)])
    store.refresh()
    store.discard(old)
    assert files(store, taken)[shared] == b"12:00"
    with pytest.raises(MissingObject):
        store.read(old)


def test_what_was_there_before_a_heartbeat_stays(store: Store) -> None:
    first = begin(store, {HEARTBEAT_FILE: b"12:00"})
    old = store.write(_beat(b"12:00", NOON + timedelta(seconds=1)))
    store.discard(old)
    assert files(store, first) == {HEARTBEAT_FILE: b"12:00"}
    with pytest.raises(MissingObject):
        store.read(old)


def test_a_commit_that_readers_would_refuse_is_not_written(writer: Store) -> None:
    first = begin(writer)
    with pytest.raises(InvalidDraft, match="at most 1048576") as caught:
        writer.write(draft(first, {"x": b"1"}, message="m" * 2**20))
    assert caught.value.hint
    most = 2**20 - len(writer.read(writer.write(draft(first, {"x": b"1"}, message="m")))[1]) + 1
    fits = writer.write(draft(first, {"x": b"1"}, message="m" * most))
    assert len(writer.read(fits)[1]) == 2**20
    assert parse_commit(writer.read(fits)[1]).parents == (first,)


def test_the_memory_of_a_store_is_its_authority(world: World) -> None:
    store, other = world.another(), world.another()
    first = begin(store)
    if store.has_remote():
        assert other.refs() == {}, "nothing is known before it is fetched"
    other.refresh()
    assert other.refs() == {MAIN: first}
    assert all(is_object_id(oid) for oid in other.refs().values())
    late = world.another()
    late.refresh()
    assert files(late, late.refs()[MAIN]) == {"services/a.yaml": b"a"}
