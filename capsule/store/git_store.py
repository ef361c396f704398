"""A state repository in git, as a Store.

Rules kept: those of store.api. Objects are durable before a ref names them; refs move by compare-and-swap,
at the remote first where there is one; no checkout is needed, and where a branch that moves is checked
out, its files follow if nothing is overwritten. With a remote, what was last seen there is kept in
refs/remotes/<name>/ (as stock git does) and, for refs/capsule/, below refs/capsule/local/seen/. Opened by
store.git.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from dulwich.objects import ObjectID
from dulwich.pack import UnpackedObject
from dulwich.repo import Repo

from capsule.store.api import (
    LOCAL_PREFIX,
    Draft,
    RefMoved,
    RefUpdate,
    RemoteUnreachable,
    RepositoryBusy,
    StoreError,
)
from capsule.store.beats import Beats
from capsule.store.git_locks import owner_lock
from capsule.store.git_objects import TYPE_NUMBERS, ObjectDatabase
from capsule.store.git_process import checked_out_branch, follow_move, maintain, run_git
from capsule.store.git_refs import LocalRefs, moved
from capsule.store.git_remote import Fetched, GitRemote, Overtaken, PackData
from capsule.store.graph import is_ancestor, new_objects
from capsule.store.incoming import ESSENTIAL, Incoming, well_named
from capsule.store.objects import REMOTE_PREFIXES, build_commit, check_update, is_object_id
from capsule.trust.objects import ObjectKind

_SEEN_PREFIX = LOCAL_PREFIX + "seen/"


class GitStore:
    """A git repository as a Store; safe for threads. See store.api for the methods of the protocol."""

    def __init__(self, repo: Repo, remote: GitRemote | None = None, remote_name: str = "origin") -> None:
        self._repo = repo
        self._git_folder = Path(repo.controldir()).resolve()
        common = Path(repo.commondir()).resolve()
        self._common = common
        self._private = common / "capsule"
        self._db = ObjectDatabase(common / "objects", repo.object_store)
        self._local = LocalRefs(common, self._private)
        self._remote = remote
        self._seen_heads = f"refs/remotes/{remote_name}/"
        self._files = threading.Lock()
        self._beats = Beats()
        self._incoming = Incoming(self._db.read, self._db.has, remote.shown if remote else "")
        # dulwich complains loudly, at the end of the program, of packs that nobody closed.
        self._closing = weakref.finalize(self, _close, remote, self._db, repo)
        self._fetched = self._git_folder / "FETCH_HEAD"  # git writes it at each fetch, too
        self.files_left_behind: str | None = None
        """Why the files of the checked-out branch could not follow its last move; None if they did."""

    @property
    def path(self) -> Path:
        """The working directory, or the git folder of a bare repository."""
        return Path(self._repo.path)

    @property
    def git_folder(self) -> Path:
        """The git folder itself."""
        return self._git_folder

    @property
    def remote_shown(self) -> str | None:
        """The remote's address without secrets, for people."""
        return self._remote.shown if self._remote else None

    def has_remote(self) -> bool:
        """Whether another repository is the authority."""
        return self._remote is not None

    @property
    def skipped(self) -> dict[str, str]:
        """Refs of the remote that the last refresh left out, by full name, with the reason."""
        return dict(self._incoming.skipped)

    def history_cut(self) -> frozenset[str]:
        """Commits whose parents were left out when this repository was cloned."""
        return frozenset(self._shallow())

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes, hash checked. Raises MissingObject, DamagedObject."""
        return self._db.read(oid)

    def refs(self, prefix: str = "refs/") -> dict[str, str]:
        """Refs of the authority as last seen."""
        if self._remote is None:
            return self._local.all(prefix)
        own = self._local.all(LOCAL_PREFIX)
        found = {name: oid for name, oid in own.items() if not name.startswith(_SEEN_PREFIX)}
        found |= self._seen()
        return {name: oid for name, oid in sorted(found.items()) if name.startswith(prefix)}

    def local_refs(self, prefix: str = "refs/") -> dict[str, str]:
        """Refs of this repository itself, whatever the authority has."""
        return self._local.all(prefix)

    def resolve(self, revision: str) -> str | None:
        """The id that a person means by a full id, HEAD, a full ref name, a branch, or remote/branch."""
        if is_object_id(revision):
            return revision if self._db.has(revision) else None
        if revision == "HEAD":
            branch = checked_out_branch(self._git_folder)
            if branch is not None:
                return self._local.all(branch).get(branch)
            detached = (self._git_folder / "HEAD").read_text("ascii", "replace").strip()
            return detached if is_object_id(detached) else None
        refs = self._local.all()
        for name in (revision, f"refs/heads/{revision}", f"refs/remotes/{revision}"):
            if name in refs:
                return refs[name]
        return self.refs().get(f"refs/heads/{revision}")

    def _seen(self) -> dict[str, str]:
        heads = self._local.all(self._seen_heads)
        others = self._local.all(_SEEN_PREFIX)
        found = {f"refs/heads/{name.removeprefix(self._seen_heads)}": oid for name, oid in heads.items()}
        found.update((f"refs/capsule/{name.removeprefix(_SEEN_PREFIX)}", oid) for name, oid in others.items())
        return found

    def _seen_as(self, name: str) -> str:
        if name.startswith("refs/heads/"):
            return self._seen_heads + name.removeprefix("refs/heads/")
        return _SEEN_PREFIX + name.removeprefix("refs/capsule/")

    def refresh(self) -> None:
        """Fetch what is new at the remote and complete; see `skipped`. Raises RemoteUnreachable."""
        if self._remote is not None:
            commits, left_out = self._fetch(self._remote, REMOTE_PREFIXES)
            self._remember(commits, left_out)
            self._incoming.note_skipped(left_out)
            self._fetched.touch()

    def fetched_at(self) -> datetime | None:
        """When this repository last fetched, by git or by us; None when nobody knows, or without a remote."""
        if self._remote is None:
            return None
        try:
            return datetime.fromtimestamp(self._fetched.stat().st_mtime, UTC)
        except OSError:
            return None

    def begin_shallow(self, ref: str) -> None:
        """In a fresh clone, before the first refresh: take the newest commit of `ref` without its parents.

        They are left out for good (see history_cut); what other refs hold comes whole with the refresh. One
        commit, never more: with two, a parent could be a commit of another ref, which would be cut there.
        Raises RemoteUnreachable.
        """
        if self._remote is None or self._seen():
            raise StoreError("only a fresh clone can begin shallow")
        for name, oid in self._fetch(self._remote, (ref,), depth=1)[0].items():
            if name == ref:
                self._note_seen(RefUpdate(name, None, oid))

    def _fetch(
        self, remote: GitRemote, prefixes: Sequence[str], depth: int | None = None
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The commits that refs below `prefixes` name there, here now, and why other refs are left out."""
        tips = self._tips()
        fetched = Fetched({}, frozenset(), frozenset())

        def take(file: BinaryIO) -> None:
            nonlocal fetched
            fetched = remote.fetch(prefixes, tips, self._shallow(), self._lacking, file, depth)

        self._db.take_pack(take)
        if fetched.cut or fetched.mended:
            self._repo.update_shallow(_object_ids(fetched.cut), _object_ids(fetched.mended))
        return self._incoming.sort_out(_ours(fetched.refs), tips, self._shallow())

    def _lacking(self, offered: dict[str, str]) -> list[str]:
        return sorted({oid for oid in well_named(_ours(offered)).values() if not self._db.has(oid)})

    def _shallow(self) -> set[str]:
        return {oid.decode("ascii") for oid in self._repo.get_shallow()}

    def _tips(self) -> list[str]:
        """Commits that are here with all their history, the likeliest to be built on first."""
        refs = self._local.all()
        first = [self._seen_heads + "audit", self._seen_heads + "main"]
        order = sorted(
            refs, key=lambda name: (name not in first, not name.startswith(self._seen_heads), name)
        )
        return list(dict.fromkeys(refs[name] for name in order))

    def _remember(self, refs: dict[str, str], left_out: dict[str, str]) -> None:
        before = self._seen()
        differing = [name for name in sorted({*before, *refs}) if before.get(name) != refs.get(name)]
        # What is gone goes first: `request/a` finds no room while `request/a/b` is still noted.
        for name in sorted(differing, key=lambda name: name in refs):
            try:
                self._note_seen(RefUpdate(name, before.get(name), refs.get(name)))
            except RepositoryBusy:
                raise
            except StoreError as error:
                if name in ESSENTIAL:
                    raise
                left_out[name] = str(error)

    def _note_seen(self, update: RefUpdate) -> None:
        try:
            self._local.move(RefUpdate(self._seen_as(update.name), update.old, update.new))
        except RefMoved:
            return  # another thread or process saw something newer in the meantime

    def write(self, draft: Draft) -> str:
        """Write the commit and all it needs, durable, named by no ref."""
        oid, objects = build_commit(self.read, draft)
        self._beats.note(draft, objects, self._db.has, lambda: self._local.all().values())
        self._db.write(objects)
        return oid

    def publish(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs by compare-and-swap, at the authority first; stops at the first loss."""
        for update in updates:
            check_update(update, self._db.read, shared=self._remote is not None)
        for update in updates:
            if self._remote is None or update.name.startswith(LOCAL_PREFIX):
                self._move_local(update)
            else:
                self._push(self._remote, update)

    def _move_local(self, update: RefUpdate) -> None:
        checked_out = self._is_checked_out(update.name)
        if checked_out and update.new is None:
            current = self._local.get(update.name)
            if current != update.old:
                raise moved(update, current)
            raise StoreError(f"{update.name} is checked out in {self.path} and cannot be deleted")
        self._local.move(update)
        if checked_out and update.new is not None:
            with self._files:
                self.files_left_behind = follow_move(self._git_folder, self.path, update.old, update.new)

    def _is_checked_out(self, name: str) -> bool:
        return not self._repo.bare and checked_out_branch(self._git_folder) == name

    def _push(self, remote: GitRemote, update: RefUpdate) -> None:
        try:
            remote.push(update, lambda advertised, careful: self._pack(update, advertised, careful))
        except Overtaken as overtaken:
            self._settle_overtaken(update, overtaken.current)
            return
        self._note_pushed(update)
        self._follow_locally(update)

    def _note_pushed(self, update: RefUpdate) -> None:
        if self._seen().get(update.name) == update.old:
            self._note_seen(update)
            return
        try:
            self.refresh()  # we knew less, or another thread knows more: only the remote can tell
        except RemoteUnreachable:
            return

    def _pack(self, update: RefUpdate, advertised: set[str], careful: bool) -> PackData:
        assert update.new is not None
        had = advertised if careful else advertised | set(self._seen().values())
        found = list(new_objects(self.read, [update.new], had, self._shallow()))
        return len(found), self._unpacked(found)

    def _unpacked(self, found: Sequence[tuple[ObjectKind, str]]) -> Iterator[UnpackedObject]:
        for kind, oid in found:
            yield UnpackedObject(
                TYPE_NUMBERS[kind], sha=bytes.fromhex(oid), decomp_chunks=[self.read(oid)[1]]
            )

    def _settle_overtaken(self, update: RefUpdate, current: str | None) -> None:
        """The remote said ok and shows another value: either built on ours, or our push was dropped."""
        self.refresh()
        seen = self.refs().get(update.name)
        if (
            update.new is None
            or seen is None
            or not is_ancestor(self.read, update.new, seen, self._shallow())
        ):
            raise moved(update, current)

    def _follow_locally(self, update: RefUpdate) -> None:
        """Take a local branch along that stood where the remote's did, as `git pull` would."""
        if self._local.all(update.name).get(update.name) != update.old or update.old is None:
            return
        if update.new is None and self._is_checked_out(update.name):
            return
        try:
            self._move_local(update)
        except RefMoved:
            return  # its owner moved it meanwhile; the authority has what was published

    def start_branch(self, branch: str) -> None:
        """Make the local branch of a fresh clone where the remote's is, with its files. No-op otherwise."""
        name = f"refs/heads/{branch}"
        seen = self.refs().get(name)
        if self._repo.bare or seen is None or name in self._local.all(name):
            return
        self._move_local(RefUpdate(name, None, seen))

    def discard(self, commit: str, keep: Sequence[str] = ()) -> None:
        """Remove the loose objects of a replaced heartbeat of our own; see store.beats for what stays."""
        refs = self._local.all().values()
        self._db.remove_loose(self._beats.removable(self.read, commit, refs, keep, self._shallow()))

    def config(self, name: str) -> str | None:
        """A value of git's configuration by its dotted name (`capsule.root`), or None."""
        section, _, key = name.rpartition(".")
        first, _, rest = section.partition(".")
        parts = (first.encode(), rest.encode()) if rest else (first.encode(),)
        try:
            return self._repo.get_config_stack().get(parts, key.encode()).decode("utf-8", "replace")
        except KeyError:
            return None

    def set_config(self, name: str, value: str) -> None:
        """Write a value into this repository's own configuration. Raises StoreError."""
        run_git(self._git_folder, "config", "--local", name, value)

    def owner_lock(self) -> AbstractContextManager[None]:
        """Own this repository until left; a second owner gets RepositoryBusy."""
        return owner_lock(self._private, self._common)

    def maintenance(self, *, when_due: bool = False, ending: threading.Event | None = None) -> None:
        """Let stock git pack refs and objects and drop old garbage; safe beside our own writers.

        `when_due`: only if there is enough of either, as git judges. Set `ending` to break it off: nothing is
        lost by that. Raises StoreError.
        """
        maintain(self._git_folder, when_due=when_due, ending=ending)

    def close(self) -> None:
        """Let go of files and connections."""
        self._closing()


def _close(remote: GitRemote | None, db: ObjectDatabase, repo: Repo) -> None:
    if remote is not None:
        remote.close()
    db.close()
    repo.close()


def _ours(refs: dict[str, str]) -> dict[str, str]:
    return {name: oid for name, oid in refs.items() if not name.startswith(LOCAL_PREFIX)}


def _object_ids(ids: Iterable[str]) -> set[ObjectID]:
    return {ObjectID(each.encode()) for each in ids}
