"""The git store against stock git: durability, locks, signatures, cost, and what shortcuts may not do."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from capsule.store import git as git_stores
from capsule.store import git_locks, git_objects
from capsule.store.api import (
    LOCAL_PREFIX,
    DamagedObject,
    Draft,
    NotARepository,
    Person,
    RefMoved,
    RefUpdate,
    RepositoryBusy,
    StoreError,
)
from capsule.store.git import GitStore
from capsule.store.git_refs import LocalRefs
from capsule.store.objects import commit_links, object_id, parse_tree
from capsule.trust.objects import MissingObject
from capsule_agent.protocol import sshsig
from tests.git_servers import assert_sound, git, hook, until

ME = Person("reconciler-1", "reconciler@example.com")
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MAIN = "refs/heads/main"
AUDIT = "refs/heads/audit"


def draft(base: str | None, edits: dict[str, bytes | None], *, at: datetime = NOON) -> Draft:
    return Draft(base, edits, (base,) if base else (), "a change", ME, at)


def advance(store: GitStore, name: str, edits: dict[str, bytes | None]) -> str:
    """One more commit on a branch."""
    old = store.refs().get(name)
    new = store.write(draft(old, edits))
    store.publish([RefUpdate(name, old, new)])
    return new


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    git_stores.init(tmp_path / "state.git", bare=True).close()
    return tmp_path / "state.git"


@pytest.fixture
def store(bare: Path) -> Iterator[GitStore]:
    store = git_stores.open_store(bare)
    yield store
    store.close()
    assert_sound(bare)


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process. Gives its pid; the child never returns."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return status


# --- durability -----------------------------------------------------------------------------------------


def _step(path: Path, number: int) -> None:
    """What a reconciler does again and again: a small commit, now and then a larger one, and a branch."""
    store = git_stores.open_store(path)
    many = 40 if number % 3 == 2 else 2
    advance(store, AUDIT, {f"records/{number}/{each}": os.urandom(40) for each in range(many)})
    tip = store.refs()[AUDIT]
    store.publish([RefUpdate(f"refs/heads/request/{number}", None, tip)])
    store.publish([RefUpdate(f"refs/heads/request/{number}", tip, None)])
    store.close()


def _check_and_go_on(path: Path, number: int) -> None:
    git(path, "fsck", "--connectivity-only", "--no-dangling")
    _step(path, number)
    assert not list((path / "refs").rglob("*.lock"))


_TOUCHES_THE_DISK = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY  # a folder is opened to be synced


def _touches(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        return not isinstance(path, int) and isinstance(flags, int) and bool(flags & _WRITING)
    return event in _TOUCHES_THE_DISK


def _die_at(count: int, path: Path, number: int) -> None:
    """Do a step and be killed just before its `count`-th touch of the disk (if there are so many)."""
    left = count

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if _touches(event, arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    _step(path, number)


def test_a_writer_killed_at_every_touch_of_the_disk_leaves_a_sound_repository(bare: Path) -> None:
    _step(bare, 0)
    killed = 0
    for count in range(1, 400):
        status = ended(in_child(partial(_die_at, count, bare, 3 * count + 1)))
        if status == 0:
            break
        assert os.WIFSIGNALED(status)
        killed += 1
        if count % 6 == 0:
            _check_and_go_on(bare, 3 * count + 2)
    assert killed > 20
    _check_and_go_on(bare, 5)
    assert_sound(bare)


def test_a_writer_killed_at_random_leaves_a_sound_repository(bare: Path) -> None:
    choose = random.Random(20261123)
    _step(bare, 0)

    def write_on(turn: int) -> None:
        for number in range(1, 10_000):
            _step(bare, turn * 10_000 + number)

    for turn in range(20):
        pid = in_child(partial(write_on, turn))
        threading.Event().wait(choose.uniform(0.005, 0.08))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(ended(pid))
        _check_and_go_on(bare, 1_000_000 + turn)
    assert_sound(bare)


def test_objects_are_synced_before_the_ref_that_names_them(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = git_stores.open_store(bare)
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def note_sync(fd: int) -> None:
        sync(fd)
        done.append(f"sync {_place(os.readlink(f'/proc/self/fd/{fd}'))}")

    def note_replace(old: str, new: str) -> None:
        rename(old, new)
        done.append(f"move {_place(os.fsdecode(new))}")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    old = advance(store, MAIN, {"a": b"1"})
    assert done.index("move ref") > max(at for at, what in enumerate(done) if "object" in what)
    assert done.count("sync object file") == 3
    assert done.count("sync object folder") == 4, "one for each object, and the one that holds these"
    assert done[-3:].count("sync ref folder") >= 1
    done.clear()
    store.write(draft(old, {f"m/{each}": b"%d" % each for each in range(100)}))
    assert done == ["sync object file", "sync object file", "sync object folder"], "pack, index, folder"
    store.close()


def _place(path: str) -> str:
    kind = "object" if "/objects" in path else "ref"
    if path.endswith("main"):
        return "ref"
    return f"{kind} folder" if Path(path).is_dir() else f"{kind} file"


def test_an_object_that_is_there_is_synced_and_made_young(store: GitStore, bare: Path) -> None:
    oid = git(bare, "hash-object", "-w", "--stdin", stdin=b"left by stock git").strip()
    path = bare / "objects" / oid[:2] / oid[2:]
    os.utime(path, (1, 1))
    advance(store, MAIN, {"a": b"left by stock git"})
    assert path.stat().st_mtime > 1_000_000


def test_a_stale_object_lock_of_another_tool_stops_nobody(store: GitStore, bare: Path) -> None:
    oid = object_id("blob", b"x")
    folder = bare / "objects" / oid[:2]
    folder.mkdir(exist_ok=True)
    (folder / f"{oid[2:]}.lock").touch()
    advance(store, MAIN, {"a": b"x"})
    assert store.read(oid) == ("blob", b"x")
    (folder / f"{oid[2:]}.lock").unlink()


def test_a_full_disk_is_an_error_that_says_so(store: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = advance(store, MAIN, {"a": b"1"})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    for count in (1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(git_objects.os, "fsync", full)
            with pytest.raises(StoreError, match="No space left") as caught:
                store.write(draft(tip, {f"x{each}": b"%d" % each for each in range(count)}))
            assert "nothing was published" in caught.value.hint
    assert not list((store.git_folder / "objects").rglob("tmp_*"))
    advance(store, MAIN, {"a": b"2"})


# --- locks ----------------------------------------------------------------------------------------------


@pytest.fixture
def refs(store: GitStore) -> LocalRefs:
    advance(store, MAIN, {"a": b"1"})
    return LocalRefs(store.git_folder, store.git_folder / "capsule", lock_seconds=0.3)


def test_a_held_ref_lock_is_waited_for(store: GitStore, bare: Path) -> None:
    tip = advance(store, MAIN, {"a": b"1"})
    lock = bare / f"{MAIN}.lock"
    lock.touch()
    timer = threading.Timer(0.2, lock.unlink)
    timer.start()
    advance(store, MAIN, {"a": b"2"})
    timer.join()
    assert store.refs()[MAIN] != tip


def test_a_lock_nobody_explains_is_left_and_named(store: GitStore, refs: LocalRefs) -> None:
    tip = store.refs()[MAIN]
    lock = store.git_folder / f"{MAIN}.lock"
    lock.write_text("somebody else's\n")
    with pytest.raises(RepositoryBusy, match=re.escape(str(lock))) as caught:
        refs.move(RefUpdate(MAIN, tip, None))
    assert "remove that file" in caught.value.hint
    assert lock.exists()
    lock.unlink()


@pytest.mark.parametrize("content", ["", "part", "whole"])
def test_the_lock_of_a_dead_writer_is_cleared(store: GitStore, refs: LocalRefs, content: str) -> None:
    tip = store.refs()[MAIN]
    new = store.write(draft(tip, {"a": b"2"}))
    lock = store.git_folder / f"{MAIN}.lock"
    (store.git_folder / "capsule" / "refs.lock").write_bytes(git_locks.Intent({MAIN: f"{new}\n"}).dump())
    lock.write_text({"": "", "part": new[:7], "whole": f"{new}\n"}[content])
    LocalRefs(store.git_folder, store.git_folder / "capsule").move(RefUpdate(MAIN, tip, new))
    assert store.refs()[MAIN] == new


def test_a_dead_writers_note_clears_no_foreign_lock(store: GitStore, refs: LocalRefs) -> None:
    tip = store.refs()[MAIN]
    lock = store.git_folder / f"{MAIN}.lock"
    for note in (git_locks.Intent({MAIN: "f" * 40 + "\n"}).dump(), b"{", b"[1]", b'{"locks": 3}'):
        (store.git_folder / "capsule" / "refs.lock").write_bytes(note)
        lock.write_text("0" * 40 + "\n")
        with pytest.raises(RepositoryBusy):
            refs.move(RefUpdate(MAIN, tip, None))
        assert lock.exists()
    lock.unlink()


def test_a_repository_has_one_owner(store: GitStore, bare: Path) -> None:
    reading, writing = os.pipe()

    def own() -> None:
        other = git_stores.open_store(bare)
        with other.owner_lock():
            os.write(writing, b"x")
            signal.pause()

    pid = in_child(own)
    os.read(reading, 1)
    with pytest.raises(RepositoryBusy, match=f"pid {pid}"), store.owner_lock():
        pytest.fail("both own it")
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    tip = advance(store, MAIN, {"a": b"1"})
    (bare / f"{MAIN}.lock").write_text(f"{tip}\n")
    (bare / "capsule" / "refs.lock").write_bytes(git_locks.Intent({MAIN: f"{tip}\n"}).dump())
    with store.owner_lock():
        assert not (bare / f"{MAIN}.lock").exists(), "what a dead writer left is cleared"
    os.close(reading)
    os.close(writing)


def _race(path: Path, start: int, tip: str, new: str) -> None:
    os.read(start, 1)
    try:
        git_stores.open_store(path).publish([RefUpdate(AUDIT, tip, new)])
    except RefMoved:
        os._exit(7)


def test_of_two_processes_one_wins(bare: Path) -> None:
    _step(bare, 0)
    store = git_stores.open_store(bare)
    for turn in range(10):
        tip = store.refs()[AUDIT]
        mine = [store.write(draft(tip, {"claim": b"%d %d" % (turn, each)})) for each in range(2)]
        reading, writing = os.pipe()

        pids = [in_child(partial(_race, bare, reading, tip, new)) for new in mine]
        os.write(writing, b"go")
        codes = [os.waitstatus_to_exitcode(ended(pid)) for pid in pids]
        os.close(reading)
        os.close(writing)
        assert sorted(codes) == [0, 7]
        assert store.refs()[AUDIT] == mine[codes.index(0)]
    store.close()


def test_refs_survive_stock_gits_maintenance_beside_writers(store: GitStore, bare: Path) -> None:
    advance(store, MAIN, {"a": b"1"})
    stop = threading.Event()

    def maintain() -> None:
        while not stop.is_set():
            git(bare, "pack-refs", "--all")
            git(bare, "repack", "-d", "-q")

    keeper = threading.Thread(target=maintain)
    keeper.start()
    try:
        for number in range(25):
            tip = advance(store, AUDIT, {"n": b"%d" % number})
            assert store.refs()[AUDIT] == tip
    finally:
        stop.set()
        keeper.join()
    assert int(git(bare, "rev-list", "--count", AUDIT)) == 25


@pytest.mark.parametrize("packed", [True, False])
def test_a_packed_ref_is_deleted_with_its_peers_kept(store: GitStore, bare: Path, packed: bool) -> None:
    old = advance(store, MAIN, {"a": b"1"})
    store.publish([RefUpdate("refs/heads/request/x", None, old), RefUpdate("refs/heads/y", None, old)])
    git(bare, "-c", "user.name=x", "-c", "user.email=x@y", "tag", "-a", "-m", "t", "v1", old)
    git(bare, "pack-refs", "--all")
    if not packed:
        new = store.write(draft(old, {"a": b"2"}))
        store.publish([RefUpdate("refs/heads/request/x", old, new)])
        old = new
    store.publish([RefUpdate("refs/heads/request/x", old, None)])
    assert set(store.refs()) == {MAIN, "refs/heads/y", "refs/tags/v1"}
    assert git(bare, "rev-parse", "refs/tags/v1^{commit}") == git(bare, "rev-parse", MAIN)
    store.publish([RefUpdate("refs/heads/request/x", None, old)])


# --- what git's shortcuts may not change -----------------------------------------------------------------


def test_replace_refs_and_grafts_change_nothing(store: GitStore, bare: Path) -> None:
    first = advance(store, MAIN, {"a": b"1"})
    second = advance(store, MAIN, {"a": b"2"})
    git(bare, "replace", second, first)
    (bare / "info").mkdir(exist_ok=True)
    (bare / "info" / "grafts").write_text(f"{second}\n")
    again = git_stores.open_store(bare)
    assert commit_links(again.read(second)[1]).parents == (first,)
    assert again.write(draft(second, {"a": b"3"})) == store.write(draft(second, {"a": b"3"}))
    again.close()
    git(bare, "replace", "-d", second)
    (bare / "info" / "grafts").unlink()


def test_a_symbolic_ref_is_not_followed(store: GitStore, bare: Path) -> None:
    tip = advance(store, MAIN, {"a": b"1"})
    git(bare, "symbolic-ref", AUDIT, MAIN)
    assert AUDIT not in store.refs()
    new = store.write(draft(tip, {"a": b"2"}))
    for old in (tip, None):
        with pytest.raises(StoreError, match="symbolic"):
            store.publish([RefUpdate(AUDIT, old, new)])
    assert store.refs()[MAIN] == tip
    git(bare, "symbolic-ref", "--delete", AUDIT)


@pytest.mark.parametrize("damage", ["other bytes", "cut", "not zlib", "empty"])
def test_damaged_objects_are_never_believed(bare: Path, damage: str) -> None:
    store = git_stores.open_store(bare)
    advance(store, MAIN, {"a": b"good"})
    oid = object_id("blob", b"good")
    path = bare / "objects" / oid[:2] / oid[2:]
    whole = path.read_bytes()
    path.chmod(0o644)
    other = zlib.compress(b"blob 4\0evil")
    path.write_bytes({"other bytes": other, "cut": whole[:-6], "not zlib": b"???", "empty": b""}[damage])
    with pytest.raises(DamagedObject, match=oid):
        store.read(oid)
    store.close()


def test_objects_are_found_after_stock_git_repacked(store: GitStore, bare: Path) -> None:
    tips = [advance(store, MAIN, {f"f{each}": b"%d" % each}) for each in range(5)]
    git(bare, "gc", "--quiet", "--prune=now")
    other = git_stores.open_store(bare)
    other.read(tips[0])
    git(bare, "repack", "-a", "-d", "-f", "-q", "--depth=1")
    shutil.rmtree(bare / "logs", ignore_errors=True)
    for tip in tips:
        assert other.read(tip)[0] == store.read(tip)[0] == "commit"
    other.close()


# --- signatures, cost, layout ----------------------------------------------------------------------------


def test_stock_git_verifies_what_is_signed(store: GitStore, bare: Path, tmp_path: Path) -> None:
    key = sshsig.PrivateKey.from_seed(b"r" * 32)
    tip: str | None = None
    for number, message in enumerate(
        ["one line", "subject\n\nBody ünï\n\nCapsule-Request: r-1\n", "x\n\n\n"]
    ):
        new = store.write(
            Draft(
                tip,
                {"records/x": b"%d" % number},
                (tip,) if tip else (),
                message,
                ME,
                NOON + timedelta(minutes=number),
                lambda data: key.sign(data, sshsig.COMMIT),
            )
        )
        store.publish([RefUpdate(AUDIT, tip, new)])
        tip = new
    signers = tmp_path / "allowed_signers"
    signers.write_text(f'reconciler-1 namespaces="git" {key.public.text}\n')
    configured = ("-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={signers}")
    assert git(bare, *configured, "log", "--format=%G? %GS", AUDIT).split("\n") == ["G reconciler-1"] * 3 + [
        ""
    ]
    git(bare, *configured, "verify-commit", AUDIT)
    assert (
        git(bare, "log", "-1", "--format=%(trailers:key=Capsule-Request)", f"{AUDIT}~1")
        .strip()
        .endswith("r-1")
    )


def test_stock_git_makes_the_same_commit(store: GitStore, bare: Path) -> None:
    ours = advance(store, MAIN, {"a/b": b"1", "c": b"2"})
    tree = git(bare, "rev-parse", f"{ours}^{{tree}}").strip()
    environment = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (
            ("NAME", ME.name),
            ("EMAIL", ME.email),
            ("DATE", f"{int(NOON.timestamp())} +0000"),
        )
    }
    done = subprocess.run(
        ["git", "commit-tree", tree, "-m", "a change"],
        cwd=bare,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ours


def _objects(bare: Path) -> int:
    lines = git(bare, "count-objects", "-v").splitlines()
    counts = {key: int(value) for key, _, value in (line.partition(": ") for line in lines)}
    return counts["count"] + counts["in-pack"]


def test_one_change_among_ten_thousand_files_writes_its_path_alone(store: GitStore, bare: Path) -> None:
    tip = advance(
        store, MAIN, {f"services/{each % 100}/s{each}.yaml": b"%d" % each for each in range(10_000)}
    )
    assert len(list((bare / "objects" / "pack").glob("*.pack"))) == 1
    before = _objects(bare)
    advance(store, MAIN, {"services/7/s7.yaml": b"changed"})
    assert _objects(bare) - before == 5, "file, three trees, commit"
    before = _objects(bare)
    advance(store, MAIN, {f"services/{each % 100}/s{each}.yaml": b"again %d" % each for each in range(50)})
    assert _objects(bare) - before == 50 + 50 + 2 + 1
    assert len(list((bare / "objects" / "pack").glob("*.pack"))) == 2, "a larger commit is one pack"
    assert len(parse_tree(store.read(commit_links(store.read(tip)[1]).tree)[1])) == 1


def test_a_repository_is_made_for_safe_work(bare: Path) -> None:
    wanted = {
        "gc.auto": "0",
        "core.commitgraph": "false",
        "core.fsync": "all",
        "gc.writecommitgraph": "false",
    }
    config = dict(line.split("=", 1) for line in git(bare, "config", "--local", "--list").splitlines())
    assert {name: config.get(name) for name in wanted} == wanted
    assert (bare / "HEAD").read_text() == "ref: refs/heads/main\n"


def test_maintenance_packs_and_loses_nothing(store: GitStore, bare: Path) -> None:
    for number in range(10):
        advance(store, AUDIT, {f"records/{number}": b"%d" % number})
    kept = store.write(draft(store.refs()[AUDIT], {"waiting": b"for its ref"}))
    store.maintenance()
    assert store.refs() == store.local_refs()
    assert not (bare / "objects" / "info" / "commit-graph").exists()
    assert store.read(kept)[0] == "commit", "what is young waits for its ref"
    store.publish([RefUpdate(AUDIT, store.refs()[AUDIT], kept)])
    with pytest.raises(MissingObject):
        store.read("5" * 40)


def test_maintenance_waits_until_there_is_enough_to_pack(store: GitStore, bare: Path) -> None:
    tip = advance(store, AUDIT, {"records/1": b"1"})
    store.maintenance(when_due=True)
    assert packs(bare) == 0
    for number in range(9_000):  # git looks at one folder of 256 and infers the others
        data = b"blob 4\0%04d" % number
        oid = hashlib.sha1(data).hexdigest()
        path = bare / "objects" / oid[:2] / oid[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(data, 0))
    store.maintenance(when_due=True)
    assert packs(bare) == 1
    assert store.read(tip)[0] == "commit"


def test_maintenance_is_broken_off_without_loss(store: GitStore, bare: Path) -> None:
    tip = advance(store, AUDIT, {"records/1": b"1"})
    ending = threading.Event()
    ending.set()
    store.maintenance(ending=ending)
    assert store.read(tip)[0] == "commit"
    store.maintenance()
    assert packs(bare) == 1, "nothing of the first keeps the second from its work"


def test_maintenance_that_git_refuses_is_told_with_its_words(store: GitStore, bare: Path) -> None:
    (bare / "gc.pid").write_text(f"{os.getpid()} {socket.gethostname()}")
    with pytest.raises(StoreError, match="already running"):
        store.maintenance()


def packs(bare: Path) -> int:
    """How many packs git reads: one without an index was broken off, and counts for nothing."""
    return len(list((bare / "objects" / "pack").glob("*.idx")))


# --- opening, and the working tree -----------------------------------------------------------------------


def test_it_is_found_from_a_folder_inside(tmp_path: Path) -> None:
    made = git_stores.init(tmp_path / "state")
    inner = tmp_path / "state" / "services" / "prod"
    inner.mkdir(parents=True)
    found = git_stores.open_store(inner)
    assert found.path == tmp_path / "state"
    assert (found.has_remote(), found.remote_shown) == (False, None)
    found.close()
    made.close()


def test_what_is_no_repository_is_refused_with_words(tmp_path: Path) -> None:
    with pytest.raises(NotARepository, match="no git repository") as caught:
        git_stores.open_store(tmp_path)
    assert "capsule init" in caught.value.hint
    git_stores.init(tmp_path / "twice").close()
    with pytest.raises(StoreError, match="already"):
        git_stores.init(tmp_path / "twice")
    git(tmp_path, "init", "-q", "--object-format=sha256", "other")
    with pytest.raises(NotARepository):
        git_stores.open_store(tmp_path / "other")
    git_stores.init(tmp_path / "newer").close()
    git(tmp_path / "newer", "config", "core.repositoryformatversion", "1")
    git(tmp_path / "newer", "config", "extensions.refStorage", "reftable")
    with pytest.raises(NotARepository):
        git_stores.open_store(tmp_path / "newer")


@pytest.fixture
def worked(tmp_path: Path) -> Iterator[GitStore]:
    store = git_stores.init(tmp_path / "work")
    advance(store, MAIN, {"services/a.yaml": b"one\n", "b": b"b\n"})
    yield store
    store.close()
    assert_sound(tmp_path / "work")


def test_the_files_of_the_checked_out_branch_follow(worked: GitStore) -> None:
    assert (worked.path / "services" / "a.yaml").read_text() == "one\n"
    (worked.path / "b").write_text("edited\n")
    (worked.path / "untracked").write_text("mine\n")
    advance(worked, MAIN, {"services/a.yaml": b"two\n", "services/c.yaml": b"new\n"})
    assert worked.files_left_behind is None
    assert (worked.path / "services" / "a.yaml").read_text() == "two\n"
    assert (worked.path / "b").read_text() == "edited\n"
    assert git(worked.path, "status", "--porcelain").splitlines() == [" M b", "?? untracked"]


def test_edited_files_are_never_overwritten(worked: GitStore) -> None:
    (worked.path / "b").write_text("edited\n")
    new = advance(worked, MAIN, {"b": b"theirs\n"})
    assert (worked.path / "b").read_text() == "edited\n"
    assert worked.refs()[MAIN] == new
    assert worked.files_left_behind is not None
    assert "git reset" in worked.files_left_behind


def test_other_branches_leave_the_files_alone(worked: GitStore) -> None:
    tip = worked.refs()[MAIN]
    other = worked.write(draft(tip, {"b": b"audit\n"}))
    worked.publish([RefUpdate(AUDIT, None, other)])
    assert git(worked.path, "status", "--porcelain") == ""
    with pytest.raises(StoreError, match="checked out"):
        worked.publish([RefUpdate(MAIN, tip, None)])


def test_a_hooks_environment_does_not_mislead(worked: GitStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent")
    hook(worked.git_folder, "post-index-change", "touch hook-ran")
    advance(worked, MAIN, {"b": b"moved\n"})
    assert worked.files_left_behind is None
    assert not (worked.path / "hook-ran").exists()
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")


def test_revisions_are_resolved_without_gits_guesses(worked: GitStore) -> None:
    tip = worked.refs()[MAIN]
    other = worked.write(draft(tip, {"b": b"x"}))
    git(worked.path, "update-ref", "refs/tags/main", other)
    for revision in (tip, "HEAD", MAIN, "main"):
        assert worked.resolve(revision) == tip
    for revision in ("nothing", "0" * 40, tip[:12], "-x", ""):
        assert worked.resolve(revision) is None
    git(worked.path, "checkout", "-q", "--detach", other)
    assert worked.resolve("HEAD") == other
    git(worked.path, "checkout", "-q", "main", "--")


def test_configuration_is_read_and_written(worked: GitStore) -> None:
    assert worked.config("capsule.root") is None
    worked.set_config("capsule.root", "f" * 40)
    again = git_stores.open_store(worked.path)
    assert again.config("capsule.root") == "f" * 40
    assert again.config("remote.origin.url") is None
    again.close()


def test_linked_work_trees_share_the_refs(worked: GitStore, tmp_path: Path) -> None:
    git(worked.path, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    side = git_stores.open_store(tmp_path / "side")
    new = advance(side, "refs/heads/side", {"b": b"side\n"})
    assert (tmp_path / "side" / "b").read_text() == "side\n"
    assert worked.refs()["refs/heads/side"] == new
    side.publish([RefUpdate(LOCAL_PREFIX + "x", None, new)])
    assert worked.refs(LOCAL_PREFIX) == {LOCAL_PREFIX + "x": new}
    side.close()
    until(lambda: git(worked.path, "status", "--porcelain") == "")
