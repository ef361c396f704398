"""The git store against stock git servers: path, git://, HTTP and SSH, and every way they can fail."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from capsule.store import git as git_stores
from capsule.store.api import (
    Draft,
    Person,
    PushRefused,
    PushUnclear,
    RefMoved,
    RefUpdate,
    RemoteUnreachable,
    StoreError,
)
from capsule.store.git import GitStore, HttpSettings, RemoteSettings, SshSettings
from capsule.store.git_url import RemoteUrl
from capsule.testing.memory_store import MemoryRemote, MemoryStore
from tests.git_servers import (
    HttpGit,
    Sshd,
    assert_sound,
    bare_repository,
    git,
    git_daemon,
    hook,
    http_git,
    sshd,
    until,
)

ME = Person("reconciler-1", "reconciler@example.com")
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MAIN = "refs/heads/main"
QUICK = RemoteSettings(timeout=5.0, whole=20.0, contention=0.3)


def draft(base: str | None, edits: dict[str, bytes | None]) -> Draft:
    return Draft(base, edits, (base,) if base else (), "a change", ME, NOON)


def advance(store: GitStore, edits: dict[str, bytes | None], name: str = MAIN) -> str:
    old = store.refs().get(name)
    new = store.write(draft(old, edits))
    store.publish([RefUpdate(name, old, new)])
    return new


@dataclass
class Origin:
    """A stock repository, how it is reached, and with what settings."""

    path: Path
    url: str
    settings: RemoteSettings


@pytest.fixture(scope="module")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def ssh_settings(server: Sshd) -> RemoteSettings:
    keys = SshSettings((server.key,), (server.known_hosts,), agent=False, config=Path(os.devnull))
    return replace(QUICK, ssh=keys)


@pytest.fixture(params=["path", "file", "git", "http", "ssh"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Origin]:
    path = bare_repository(tmp_path / "origin.git")
    with ExitStack() as stack:
        if request.param == "path":
            yield Origin(path, str(path), QUICK)
        elif request.param == "file":
            yield Origin(path, f"file://{path}", QUICK)
        elif request.param == "git":
            yield Origin(path, stack.enter_context(git_daemon(tmp_path)) + "/origin.git", QUICK)
        elif request.param == "http":
            yield Origin(path, stack.enter_context(http_git(tmp_path)).url("origin.git"), QUICK)
        else:
            server: Sshd = request.getfixturevalue("ssh_server")
            yield Origin(path, server.url(path), ssh_settings(server))
        assert_sound(path)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Callable[[Origin], GitStore]]:
    with ExitStack() as stack:
        made: list[Path] = []

        def make(origin: Origin) -> GitStore:
            path = tmp_path / f"clone-{len(made)}"
            made.append(path)
            store = git_stores.clone(origin.url, path, bare=True, settings=origin.settings)
            stack.callback(store.close)
            return store

        yield make
        for path in made:
            assert_sound(path)


Cloner = Callable[[Origin], GitStore]


def test_what_one_pushes_another_fetches(origin: Origin, clone: Cloner) -> None:
    one, two = clone(origin), clone(origin)
    assert one.has_remote()
    first = advance(one, {f"services/{each}.yaml": b"%d" % each for each in range(50)})
    second = advance(one, {"services/7.yaml": b"changed"})
    two.refresh()
    assert two.refs() == {MAIN: second}
    third = advance(two, {"services/8.yaml": b"changed"})
    assert git(origin.path, "rev-parse", MAIN).strip() == third
    assert git(origin.path, "rev-list", "--count", MAIN).strip() == "3"
    one.refresh()
    assert one.refs() == {MAIN: third}
    with pytest.raises(RefMoved):
        one.publish([RefUpdate(MAIN, second, first)])
    one.publish([RefUpdate("refs/heads/request/x", None, first)])
    one.publish([RefUpdate("refs/heads/request/x", first, None)])
    one.publish([RefUpdate(MAIN, third, first)])
    assert git(origin.path, "for-each-ref", "--format=%(refname) %(objectname)").split() == [MAIN, first]


def test_of_two_pushers_one_wins(origin: Origin, clone: Cloner) -> None:
    stores = [clone(origin), clone(origin)]
    tip = advance(stores[0], {"a": b"0"})
    for turn in range(2):
        for store in stores:
            store.refresh()
        mine = [
            store.write(draft(tip, {"a": b"%d" % turn, "by": b"%d" % n})) for n, store in enumerate(stores)
        ]
        calls = [partial(_try, store, tip, new) for store, new in zip(stores, mine, strict=True)]
        outcomes = _together(calls)
        assert sorted(outcomes) == ["lost", "won"]
        tip = mine[outcomes.index("won")]
        assert git(origin.path, "rev-parse", MAIN).strip() == tip


def _try(store: GitStore, old: str, new: str) -> str:
    try:
        store.publish([RefUpdate(MAIN, old, new)])
    except RefMoved:
        return "lost"
    return "won"


def _together(calls: list[Callable[[], str]]) -> list[str]:
    start = threading.Barrier(len(calls))
    outcomes = [""] * len(calls)

    def run(number: int) -> None:
        start.wait(30)
        outcomes[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return outcomes


@pytest.mark.parametrize("name", ["pre-receive", "update"])
def test_a_hook_that_refuses_is_heard(origin: Origin, clone: Cloner, name: str) -> None:
    store = clone(origin)
    tip = advance(store, {"a": b"1"})
    hook(origin.path, name, 'printf "not on a \\033[2JFriday\\n" >&2; exit 1')
    new = store.write(draft(tip, {"a": b"2"}))
    with pytest.raises(PushRefused, match="hook declined") as caught:
        store.publish([RefUpdate(MAIN, tip, new)])
    assert "Friday" in str(caught.value)
    assert "\033" not in str(caught.value)
    assert "branch protection" in caught.value.hint
    store.refresh()
    assert store.refs() == {MAIN: tip}


def test_a_protected_branch_refuses_a_rewind(origin: Origin, clone: Cloner) -> None:
    store = clone(origin)
    first = advance(store, {"a": b"1"})
    second = advance(store, {"a": b"2"})
    git(origin.path, "config", "receive.denyNonFastForwards", "true")
    git(origin.path, "config", "receive.denyDeletes", "true")
    for new in (first, None):
        with pytest.raises(PushRefused):
            store.publish([RefUpdate(MAIN, second, new)])
    assert git(origin.path, "rev-parse", MAIN).strip() == second


def test_no_repository_there(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(RemoteUnreachable) as caught:
        git_stores.clone(
            origin.url.replace("origin.git", "nothing.git"), tmp_path / "x", settings=origin.settings
        )
    assert "nothing.git" in str(caught.value)


@pytest.fixture
def plain(tmp_path: Path) -> Origin:
    path = bare_repository(tmp_path / "origin.git")
    return Origin(path, str(path), QUICK)


def test_a_push_sends_what_is_new_alone(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    advance(store, {f"services/{each % 10}/{each}.yaml": b"%d" % each for each in range(300)})
    for number in range(8):
        advance(store, {"n": b"%d" % number})
    git(plain.path, "repack", "-a", "-d", "-q")
    git(plain.path, "config", "transfer.unpackLimit", "1")
    before = set((plain.path / "objects" / "pack").glob("*.pack"))
    advance(store, {"services/3/3.yaml": b"new"})
    (sent,) = set((plain.path / "objects" / "pack").glob("*.pack")) - before
    listed = git(plain.path, "verify-pack", "-v", str(sent)).splitlines()
    assert len([line for line in listed if len(line.split()) >= 4 and len(line.split()[0]) == 40]) == 5


def test_a_branch_from_long_ago_sends_what_is_new_alone(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    old = advance(store, {"a": b"1"})
    for number in range(12):
        tip = store.refs()[MAIN]
        later = Draft(tip, {"n": b"%d" % number}, (tip,), "on", ME, NOON.replace(minute=number + 1))
        store.publish([RefUpdate(MAIN, tip, store.write(later))])
    git(plain.path, "config", "transfer.unpackLimit", "1")
    before = set((plain.path / "objects" / "pack").glob("*.pack"))
    branch = store.write(Draft(old, {"r": b"r"}, (old,), "request", ME, NOON.replace(minute=50)))
    store.publish([RefUpdate("refs/heads/request/r", None, branch)])
    (sent,) = set((plain.path / "objects" / "pack").glob("*.pack")) - before
    assert git(plain.path, "verify-pack", "-v", str(sent)).count(" commit ") == 1


def test_a_fetch_takes_what_is_new_alone(plain: Origin, clone: Cloner) -> None:
    one, two = clone(plain), clone(plain)
    advance(one, {f"services/{each}.yaml": b"%d" % each for each in range(300)})
    two.refresh()
    packs = two.git_folder / "objects" / "pack"
    before = set(packs.glob("*.idx"))
    two.refresh()
    assert set(packs.glob("*.idx")) == before, "nothing new, nothing written"
    tip = advance(one, {"services/3.yaml": b"new"})
    two.refresh()
    (new,) = set(packs.glob("*.idx")) - before
    names = {
        line.split()[0] for line in git(plain.path, "rev-list", "--objects", tip, f"^{tip}~1").splitlines()
    }
    listed = {line.split()[1] for line in _show_index(new).splitlines()}
    assert names <= listed
    assert len(listed) <= 2 * len(names), "new ones, and what their deltas stand on"


def _show_index(path: Path) -> str:
    done = subprocess.run(["git", "show-index"], input=path.read_bytes(), capture_output=True, check=True)
    return done.stdout.decode()


def test_a_remote_that_dropped_old_objects_gets_them_again(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    first = advance(store, {"a": b"1"})
    side = store.write(draft(first, {"side": b"x" * 100}))
    store.publish([RefUpdate("refs/heads/side", None, side)])
    git(plain.path, "update-ref", "-d", "refs/heads/side")
    git(plain.path, "reflog", "expire", "--expire=now", "--all")
    git(plain.path, "gc", "--quiet", "--prune=now")
    new = store.write(Draft(side, {"more": b"y"}, (side,), "on top", ME, NOON))
    store.publish([RefUpdate("refs/heads/again", None, new)])
    assert git(plain.path, "rev-parse", "refs/heads/again").strip() == new


def test_an_incomplete_history_is_not_taken(plain: Origin, clone: Cloner) -> None:
    one = clone(plain)
    first = advance(one, {"a": b"1", "b": b"2"})
    store = clone(plain)
    tree, lost = (git(plain.path, "rev-parse", f"{first}{what}").strip() for what in ("^{tree}", ":a"))
    other = git(plain.path, "hash-object", "-w", "--stdin", stdin=b"new").strip()
    listing = f"100644 blob {other}\tc\n100644 blob {'e' * 40}\tgone\n".encode()
    broken = git(plain.path, "mktree", "--missing", stdin=listing).strip()
    identity = ("-c", "user.name=x", "-c", "user.email=x@y")
    commit = git(plain.path, *identity, "commit-tree", "-m", "broken", "-p", first, broken).strip()
    (plain.path / MAIN).write_text(f"{commit}\n")
    for _ in range(2):
        with pytest.raises(RemoteUnreachable):
            store.refresh()
        assert store.refs() == {MAIN: first}
    (plain.path / MAIN).write_text(f"{first}\n")
    store.refresh()
    assert (tree, lost) != (broken, other)


def test_a_stale_lock_at_the_remote_is_refused_in_time(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    tip = advance(store, {"a": b"1"})
    lock = plain.path / f"{MAIN}.lock"
    lock.touch()
    new = store.write(draft(tip, {"a": b"2"}))
    began = time.monotonic()
    with pytest.raises(PushRefused):
        store.publish([RefUpdate(MAIN, tip, new)])
    assert time.monotonic() - began < 15
    lock.unlink()
    store.publish([RefUpdate(MAIN, tip, new)])


def test_a_push_waits_for_a_lock_that_is_let_go(plain: Origin, clone: Cloner) -> None:
    store = clone(replace(plain, settings=RemoteSettings(timeout=10.0, contention=10.0)))
    tip = advance(store, {"a": b"1"})
    lock = plain.path / f"{MAIN}.lock"
    lock.touch()
    timer = threading.Timer(0.3, lock.unlink)
    timer.start()
    new = advance(store, {"a": b"2"})
    timer.join()
    assert git(plain.path, "rev-parse", MAIN).strip() == new != tip


def test_a_push_overtaken_at_once_was_still_done(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    tip = advance(store, {"a": b"1"})
    # After our push the hook puts a commit on top of ours, before we can look.
    identity = "-c user.name=x -c user.email=x@y"
    hook(
        plain.path,
        "post-receive",
        f"new=$(git {identity} commit-tree -m on -p {MAIN} {MAIN}^{{tree}})\ngit update-ref {MAIN} $new",
    )
    new = store.write(draft(tip, {"a": b"2"}))
    store.publish([RefUpdate(MAIN, tip, new)])
    assert git(plain.path, "rev-parse", f"{MAIN}~1").strip() == new
    assert store.refs()[MAIN] == git(plain.path, "rev-parse", MAIN).strip()


def test_a_push_that_was_said_ok_and_dropped_is_lost(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    tip = advance(store, {"a": b"1"})
    hook(plain.path, "post-receive", f"git update-ref refs/heads/main {tip}")
    new = store.write(draft(tip, {"a": b"2"}))
    with pytest.raises(RefMoved):
        store.publish([RefUpdate(MAIN, tip, new)])


def test_a_local_branch_follows_its_remote(plain: Origin, tmp_path: Path) -> None:
    maker = git_stores.clone(plain.url, tmp_path / "maker", bare=True)
    advance(maker, {"a": b"1\n"})
    maker.close()
    store = git_stores.clone(plain.url, tmp_path / "work")
    assert (tmp_path / "work" / "a").read_text() == "1\n"
    new = advance(store, {"a": b"2\n"})
    assert store.local_refs()[MAIN] == store.local_refs()["refs/remotes/origin/main"] == new
    assert (tmp_path / "work" / "a").read_text() == "2\n"
    assert git(tmp_path / "work", "status", "--porcelain") == ""
    own = store.write(draft(new, {"mine": b"x"}))
    git(tmp_path / "work", "update-ref", MAIN, own)
    newer = store.write(draft(new, {"theirs": b"x"}))
    store.publish([RefUpdate(MAIN, new, newer)])
    assert store.local_refs()[MAIN] == own, "a branch with work of its own stays"
    assert store.resolve("origin/main") == newer
    store.close()


def test_refs_that_are_not_ours_are_not_taken(plain: Origin, clone: Cloner) -> None:
    store = clone(plain)
    tip = advance(store, {"a": b"1"})
    blob = git(plain.path, "rev-parse", f"{tip}:a").strip()
    for name in ("refs/tags/main", "refs/notes/x", "refs/capsule/local/x"):
        git(plain.path, "update-ref", name, tip)
    git(plain.path, "update-ref", "refs/capsule/blob", blob)
    other = clone(plain)
    assert other.refs() == {MAIN: tip}
    with pytest.raises(StoreError, match="cannot be published"):
        store.publish([RefUpdate("refs/tags/x", None, tip)])


def test_a_shallow_clone_reads_and_fetches(plain: Origin, clone: Cloner, tmp_path: Path) -> None:
    store = clone(plain)
    for number in range(5):
        advance(store, {"n": b"%d" % number})
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{plain.path}", "shallow")
    shallow = git_stores.open_store(tmp_path / "shallow", settings=QUICK)
    new = advance(store, {"n": b"9"})
    shallow.refresh()
    assert shallow.refs() == {MAIN: new}
    assert git(tmp_path / "shallow", "rev-list", "--count", "origin/main").strip() == "2"
    shallow.close()


def test_several_ways_to_name_a_remote(plain: Origin, tmp_path: Path) -> None:
    git_stores.init(tmp_path / "work").close()
    git(tmp_path / "work", "config", "url." + str(tmp_path) + "/.insteadOf", "forge:")
    git(tmp_path / "work", "remote", "add", "upstream", "forge:origin.git")
    for remote in ("upstream", "../origin.git", str(plain.path)):
        store = git_stores.open_store(tmp_path / "work", remote=remote)
        store.refresh()
        assert store.has_remote()
        store.close()
    store = git_stores.open_store(tmp_path / "work")
    assert not store.has_remote()
    store.close()


# --- HTTP -----------------------------------------------------------------------------------------------


@pytest.fixture
def web(plain: Origin, tmp_path: Path) -> Iterator[HttpGit]:
    with http_git(tmp_path) as server:
        yield server


def over_http(web: HttpGit, plain: Origin, http: HttpSettings | None = None) -> Origin:
    return Origin(plain.path, web.url("origin.git"), replace(QUICK, http=http or HttpSettings(helper=False)))


def test_a_push_that_broke_after_its_effect_is_found_done(web: HttpGit, plain: Origin, clone: Cloner) -> None:
    store = clone(over_http(web, plain))
    tip = advance(store, {"a": b"1"})
    new = store.write(draft(tip, {"a": b"2"}))
    web.drop = "after"
    store.publish([RefUpdate(MAIN, tip, new)])
    assert git(plain.path, "rev-parse", MAIN).strip() == new
    assert sum("POST" in each and "receive-pack" in each for each in web.requests) == 2, "never sent twice"


def test_a_push_that_broke_before_its_effect_is_unclear(web: HttpGit, plain: Origin, clone: Cloner) -> None:
    store = clone(over_http(web, plain))
    tip = advance(store, {"a": b"1"})
    new = store.write(draft(tip, {"a": b"2"}))
    web.drop = "before"
    with pytest.raises(PushUnclear, match="may have moved") as caught:
        store.publish([RefUpdate(MAIN, tip, new)])
    assert "read the remote" in caught.value.hint
    store.refresh()
    assert store.refs() == {MAIN: tip}
    store.publish([RefUpdate(MAIN, tip, new)])


def test_a_login_comes_from_a_file_a_call_or_a_helper(
    web: HttpGit, plain: Origin, clone: Cloner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.login = ("capsule", "s3cret-token")
    token = tmp_path / "token"
    token.write_text("s3cret-token\n")
    for http in (HttpSettings(token_file=token), HttpSettings(token=lambda: "s3cret-token")):
        assert advance(clone(over_http(web, plain, http)), {"a": os.urandom(4)})
    helper = tmp_path / "gitconfig"
    helper.write_text(
        '[credential]\n\thelper = "!f() { echo username=capsule; echo password=s3cret-token; }; f"\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(helper))
    assert advance(clone(over_http(web, plain, HttpSettings())), {"a": os.urandom(4)})


def test_a_refused_login_shows_no_secret(
    web: HttpGit, plain: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.login = ("capsule", "right")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for number, http in enumerate(
        (HttpSettings(token=lambda: "wr0ng"), HttpSettings(), HttpSettings(helper=False))
    ):
        with pytest.raises(RemoteUnreachable, match="login") as caught:
            git_stores.clone(
                web.url("origin.git"), tmp_path / f"x{number}", settings=replace(QUICK, http=http)
            )
        assert "wr0ng" not in f"{caught.value} {caught.value.hint} {http!r}"
    missing = HttpSettings(token_file=tmp_path / "no-such-file")
    with pytest.raises(RemoteUnreachable, match="no-such-file"):
        git_stores.clone(web.url("origin.git"), tmp_path / "y", settings=replace(QUICK, http=missing))


def test_a_secret_is_never_sent_without_tls(tmp_path: Path) -> None:
    settings = replace(QUICK, http=HttpSettings(token=lambda: "s3cret"))
    with pytest.raises(RemoteUnreachable, match="without TLS"):
        git_stores.clone("http://192.0.2.1/x.git", tmp_path / "x", settings=settings)


def test_a_password_in_the_address_is_shown_to_nobody(tmp_path: Path) -> None:
    url = "https://alice:hunter2@example.invalid/x.git?token=hunter3"
    with pytest.raises(StoreError, match="password") as caught:
        git_stores.clone(url, tmp_path / "x")
    assert "hunter" not in str(caught.value)
    parsed = RemoteUrl.parse(url, tmp_path)
    assert parsed.password == "hunter2"
    assert "hunter" not in repr(parsed)
    made = git_stores.init(tmp_path / "y")
    made.set_config("remote.origin.url", url)
    made.close()
    store = git_stores.open_store(tmp_path / "y", settings=replace(QUICK, timeout=3.0))
    assert store.remote_shown == "https://example.invalid/x.git"
    with pytest.raises(RemoteUnreachable) as unreachable:
        store.refresh()
    assert "hunter" not in str(unreachable.value)
    store.close()


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"),
        (200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, b"ffffjunk"),
        (200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, b""),
        (302, {"Location": "http://127.0.0.1:9/elsewhere/info/refs?service=git-upload-pack"}, b""),
        (403, {}, b""),
        (500, {}, b"\x1b[2J"),
    ],
)
def test_what_is_no_git_server_is_refused_with_words(
    web: HttpGit, tmp_path: Path, answer: tuple[int, dict[str, str], bytes]
) -> None:
    web.answer = answer
    with pytest.raises(RemoteUnreachable) as caught:
        git_stores.clone(web.url("origin.git"), tmp_path / "x", settings=QUICK)
    assert str(caught.value).isprintable()


def test_an_answer_that_says_no_is_a_refusal(web: HttpGit, plain: Origin, clone: Cloner) -> None:
    store = clone(over_http(web, plain))
    tip = advance(store, {"a": b"1"})
    git(plain.path, "config", "http.receivepack", "false")
    new = store.write(draft(tip, {"a": b"2"}))
    with pytest.raises(RemoteUnreachable, match="403"):
        store.publish([RefUpdate(MAIN, tip, new)])
    store.refresh()
    assert store.refs() == {MAIN: tip}


def test_a_silent_server_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for number, scheme in enumerate(("http", "git", "ssh")):
            known = tmp_path / "known_hosts"
            known.write_text(f"[127.0.0.1]:{port} ssh-ed25519 {'A' * 24 + 'C3NzaC1lZDI1NTE5'}\n")
            began = time.monotonic()
            with pytest.raises(RemoteUnreachable):
                git_stores.clone(
                    f"{scheme}://127.0.0.1:{port}/x.git",
                    tmp_path / f"x{number}",
                    settings=RemoteSettings(
                        timeout=0.4, whole=2.0, ssh=SshSettings((), (known,), agent=False)
                    ),
                )
            assert time.monotonic() - began < 5


def test_a_dripping_server_is_not_borne_for_ever(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def drip() -> None:
            connection, _ = slow.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"1")
                    threading.Event().wait(0.05)

        thread = threading.Thread(target=drip)
        thread.start()
        settings = RemoteSettings(timeout=1.0, whole=0.6)
        with pytest.raises(RemoteUnreachable):
            git_stores.clone(f"git://127.0.0.1:{slow.getsockname()[1]}/x", tmp_path / "x", settings=settings)
        thread.join(5)
        assert not thread.is_alive()


def test_a_server_program_that_hangs_is_ended(plain: Origin, clone: Cloner) -> None:
    store = clone(replace(plain, settings=RemoteSettings(timeout=0.8, whole=3.0, contention=0.2)))
    tip = advance(store, {"a": b"1"})
    hook(plain.path, "pre-receive", "exec sleep 30")
    new = store.write(draft(tip, {"a": b"2"}))
    with pytest.raises(PushUnclear):
        store.publish([RefUpdate(MAIN, tip, new)])


# --- SSH ------------------------------------------------------------------------------------------------


def _over_ssh(server: Sshd, plain: Origin, **changes: Any) -> Origin:
    settings = ssh_settings(server)
    return Origin(plain.path, server.url(plain.path), replace(settings, ssh=replace(settings.ssh, **changes)))


def test_ssh_uses_one_connection_for_many_calls(ssh_server: Sshd, plain: Origin, clone: Cloner) -> None:
    log = ssh_server.key.parent / "log"
    store = clone(_over_ssh(ssh_server, plain))
    before = log.read_text().count("Accepted publickey")
    for number in range(3):
        advance(store, {"a": b"%d" % number})
    assert log.read_text().count("Accepted publickey") == before


def test_a_connection_that_died_is_made_anew(ssh_server: Sshd, plain: Origin, clone: Cloner) -> None:
    store = clone(_over_ssh(ssh_server, plain))
    advance(store, {"a": b"1"})
    remote = store._remote
    assert remote is not None
    (connector,) = remote._clients._ssh.values()
    transport = connector._transport
    assert transport is not None
    transport.sock.close()
    until(lambda: not transport.is_active())
    advance(store, {"a": b"2"})


@pytest.mark.parametrize("trouble", ["unknown", "changed", "revoked", "no key", "wrong key"])
def test_ssh_is_strict(ssh_server: Sshd, plain: Origin, tmp_path: Path, trouble: str) -> None:
    place = f"[127.0.0.1]:{ssh_server.port}"
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    strange = " ".join(Path(f"{other}.pub").read_text().split()[:2])
    known = tmp_path / "known"
    known.write_text(
        {
            "unknown": f"elsewhere {ssh_server.host_key}\n",
            "changed": f"{place} {strange}\n",
            "revoked": f"{place} {ssh_server.host_key}\n@revoked {place} {ssh_server.host_key}\n",
        }.get(trouble, f"{place} {ssh_server.host_key}\n")
    )
    keys = {"no key": (tmp_path / "none",), "wrong key": (other,)}.get(trouble, (ssh_server.key,))
    origin = _over_ssh(ssh_server, plain, known_hosts=(known,), keys=keys)
    words = {
        "unknown": "not in known_hosts",
        "changed": "another key",
        "revoked": "revoked",
        "no key": "accepted none of 0 keys",
        "wrong key": "accepted none of 1 keys",
    }
    with pytest.raises(RemoteUnreachable, match=words[trouble]):
        git_stores.clone(origin.url, tmp_path / "x", settings=origin.settings)


def test_known_hosts_is_read_line_by_line(ssh_server: Sshd, plain: Origin, tmp_path: Path) -> None:
    known = tmp_path / "known"
    place = f"[127.0.0.1]:{ssh_server.port}"
    known.write_text(
        f"# comment\n@cert-authority *.example.com {ssh_server.host_key}\nbroken line\n"
        f"@revoked other {ssh_server.host_key}\nx ssh-ed25519 %%%\na,{place} {ssh_server.host_key} note\n"
    )
    origin = _over_ssh(ssh_server, plain, known_hosts=(known,))
    git_stores.clone(origin.url, tmp_path / "x", settings=origin.settings).close()
    known.write_text(f"{place} {ssh_server.host_key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    assert place not in known.read_text()
    git_stores.clone(origin.url, tmp_path / "y", settings=origin.settings).close()


def test_the_ssh_agent_and_the_ssh_config_are_used(
    ssh_server: Sshd, plain: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host forge\n  HostName 127.0.0.1\n  Port {ssh_server.port}\n  User {ssh_server.user}\n"
        f"  IdentityFile {ssh_server.key}\n  UserKnownHostsFile {ssh_server.known_hosts}\n"
    )
    settings = replace(QUICK, ssh=SshSettings(agent=False, config=config))
    git_stores.clone(f"forge:{plain.path}", tmp_path / "x", bare=True, settings=settings).close()
    config.write_text("Host forge\n  ProxyJump elsewhere\n")
    with pytest.raises(RemoteUnreachable, match="ProxyJump"):
        git_stores.clone(f"forge:{plain.path}", tmp_path / "y", settings=settings)
    place = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    try:
        until(place.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        subprocess.run(["ssh-add", "-q", str(ssh_server.key)], check=True)
        by_agent = _over_ssh(ssh_server, plain, keys=(tmp_path / "none",), agent=True)
        git_stores.clone(by_agent.url, tmp_path / "z", settings=by_agent.settings).close()
    finally:
        agent.terminate()
        agent.wait()


def test_a_path_cannot_break_out_of_its_command(ssh_server: Sshd, plain: Origin, tmp_path: Path) -> None:
    origin = _over_ssh(ssh_server, plain)
    evil = f"{tmp_path}/x'; touch {tmp_path}/pwned; '"
    with pytest.raises(RemoteUnreachable):
        git_stores.clone(
            f"{ssh_server.url(Path('/'))}{evil}".replace(" ", "%20"), tmp_path / "x", settings=origin.settings
        )
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c true", "ftp://x/y", "https://", "ssh://-oProxyCommand=x/y", "http://[::1/x", "gopher://a"],
)
def test_strange_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError):
        git_stores.clone(url, tmp_path / "x", settings=QUICK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git@forge.example:team/state.git", ("ssh", "forge.example", None, "git", "team/state.git")),
        ("forge:/srv/x", ("ssh", "forge", None, None, "/srv/x")),
        ("[::1]:x", ("ssh", "::1", None, None, "x")),
        ("ssh://git@h:2222/~/x", ("ssh", "h", 2222, "git", "~/x")),
        ("https://u@h/a%20b.git", ("https", "h", None, "u", "/a b.git")),
        ("git://h/x", ("git", "h", None, None, "/x")),
        ("file:///a%20b", ("path", "", None, None, "/a b")),
    ],
)
def test_addresses_are_read_as_git_reads_them(
    tmp_path: Path, text: str, expected: tuple[str, str, int | None, str | None, str]
) -> None:
    url = RemoteUrl.parse(text, tmp_path)
    assert (url.scheme, url.host, url.port, url.user, url.path) == expected


# --- the twin in memory ---------------------------------------------------------------------------------


@pytest.fixture
def twin() -> tuple[MemoryRemote, MemoryStore, str, str]:
    remote = MemoryRemote()
    store = MemoryStore(remote)
    first = store.write(draft(None, {"a": b"1"}))
    store.publish([RefUpdate(MAIN, None, first)])
    return remote, store, first, store.write(draft(first, {"a": b"2"}))


def test_the_twin_loses_a_race_when_told(twin: tuple[MemoryRemote, MemoryStore, str, str]) -> None:
    remote, store, first, new = twin
    rival = MemoryStore(remote)
    rival.refresh()
    won = rival.write(draft(first, {"a": b"rival"}))
    remote.lose_next_push(lambda: rival.publish([RefUpdate(MAIN, first, won)]))
    with pytest.raises(RefMoved):
        store.publish([RefUpdate(MAIN, first, new)])
    store.refresh()
    assert store.refs() == {MAIN: won}


@pytest.mark.parametrize(
    ("effect", "reachable"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_the_twin_breaks_as_a_real_remote_does(
    twin: tuple[MemoryRemote, MemoryStore, str, str], effect: bool, reachable: bool
) -> None:
    remote, store, first, new = twin
    remote.break_next_push(effect=effect, reachable_after=reachable)
    if effect and reachable:
        store.publish([RefUpdate(MAIN, first, new)])
    else:
        with pytest.raises(PushUnclear):
            store.publish([RefUpdate(MAIN, first, new)])
    remote.unreachable = False
    store.refresh()
    assert store.refs() == {MAIN: new if effect else first}


def test_the_twin_refuses_and_vanishes(twin: tuple[MemoryRemote, MemoryStore, str, str]) -> None:
    remote, store, first, new = twin
    remote.refusal = "protected"
    with pytest.raises(PushRefused, match="protected"):
        store.publish([RefUpdate(MAIN, first, new)])
    remote.refusal, remote.unreachable = None, True
    for call in (store.refresh, lambda: store.publish([RefUpdate(MAIN, first, new)])):
        with pytest.raises(RemoteUnreachable):
            call()
    remote.unreachable = False
    store.publish([RefUpdate(MAIN, first, new)])
    assert remote.all_refs() == {MAIN: new}
    assert remote.pushes == 3
