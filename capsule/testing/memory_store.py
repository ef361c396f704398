"""A state repository in memory, with a remote whose failures can be ordered.

Rules kept: those of store.api, proved by the same contract tests as store.git; commits are byte-identical
to those of a GitStore, for both build them with store.objects. Faults happen where a test orders them,
once, unless said otherwise. Called by tests, here and in projects that build on Capsule.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from capsule.store.api import (
    LOCAL_PREFIX,
    Draft,
    PushRefused,
    PushUnclear,
    RefMoved,
    RefUpdate,
    RemoteUnreachable,
)
from capsule.store.beats import Beats
from capsule.store.graph import new_objects
from capsule.store.incoming import Incoming
from capsule.store.objects import (
    REMOTE_PREFIXES,
    build_commit,
    check_room,
    check_update,
    is_object_id,
    object_id,
)
from capsule.trust.objects import MissingObject, ObjectKind


class _Repository:
    """Objects and refs, moved by compare-and-swap under a lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, tuple[ObjectKind, bytes]] = {}
        self._refs: dict[str, str] = {}

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes. Raises MissingObject."""
        with self._lock:
            try:
                return self._objects[oid]
            except KeyError:
                raise MissingObject(f"object {oid} is not in this repository") from None

    def put(self, kind: ObjectKind, data: bytes) -> str:
        """Store any bytes as an object, also such as no honest writer makes. Returns the id."""
        oid = object_id(kind, data)
        with self._lock:
            self._objects[oid] = (kind, data)
        return oid

    def objects(self) -> list[tuple[ObjectKind, bytes]]:
        """Every object that is here, named by a ref or not: for tests that look for what must be nowhere."""
        with self._lock:
            return list(self._objects.values())

    def set_ref(self, name: str, oid: str | None) -> None:
        """Set or delete a ref without any check: what a hostile or careless writer could do."""
        with self._lock:
            if oid is None:
                self._refs.pop(name, None)
            else:
                self._refs[name] = oid

    def all_refs(self) -> dict[str, str]:
        """Every ref by full name."""
        with self._lock:
            return dict(sorted(self._refs.items()))

    def swap(self, update: RefUpdate) -> None:
        """Compare and swap. Raises RefMoved, StoreError."""
        with self._lock:
            current = self._refs.get(update.name)
            if current != update.old:
                raise RefMoved(
                    f"{update.name} is at {current or 'nothing'}, expected {update.old or 'nothing'}: "
                    "another writer was first",
                    "read the new tip and start again from it",
                )
            if update.new is not None and current is None:
                check_room(update.name, self._refs)
            self.set_ref(update.name, update.new)

    def remove(self, oids: Sequence[str]) -> None:
        """Remove objects."""
        with self._lock:
            for oid in oids:
                self._objects.pop(oid, None)


class MemoryRemote(_Repository):
    """The authority of MemoryStores. `unreachable` and `refusal` last until they are reset."""

    def __init__(self) -> None:
        super().__init__()
        self.unreachable = False
        self.refusal: str | None = None
        self.pushes = 0
        self._rival: Callable[[], object] | None = None
        self._break: tuple[bool, bool] | None = None

    def lose_next_push(self, rival: Callable[[], object]) -> None:
        """Run `rival` (a publish by another store) just before the next push is compared."""
        self._rival = rival

    def break_next_push(self, *, effect: bool, reachable_after: bool = True) -> None:
        """Break the connection in the next push, with or without its effect having happened.

        With `reachable_after` false the remote stays unreachable, so that nobody can look.
        """
        self._break = (effect, reachable_after)

    def check_reachable(self) -> None:
        """Raises RemoteUnreachable while `unreachable`."""
        if self.unreachable:
            raise RemoteUnreachable("cannot reach the remote in memory", "reset its `unreachable`")

    def receive(self, update: RefUpdate, objects: dict[str, tuple[ObjectKind, bytes]]) -> None:
        """Take a push. Raises what a push to a real remote raises."""
        self.check_reachable()
        self.pushes += 1
        rival, self._rival = self._rival, None
        if rival is not None:
            rival()
        if self.refusal is not None:
            raise PushRefused(f"the remote in memory refused to move {update.name}: {self.refusal}")
        broken, self._break = self._break, None
        if broken is None or broken[0]:
            with self._lock:
                self.swap(update)
                self._objects.update(objects)
        if broken is not None:
            self.unreachable = not broken[1]
            self._settle(update)

    def _settle(self, update: RefUpdate) -> None:
        if self.unreachable or self._refs.get(update.name) != update.new:
            raise PushUnclear(
                f"the connection broke while {update.name} was pushed; it may have moved",
                "read the remote again before anything else is done",
            )


class MemoryStore(_Repository):
    """A Store without a disk; with `remote`, that one is the authority. Safe for threads."""

    def __init__(self, remote: MemoryRemote | None = None) -> None:
        super().__init__()
        self._remote = remote
        self._seen: dict[str, str] = {}
        self._beats = Beats()
        self._incoming = Incoming(self.read, self._objects.__contains__, "the remote in memory")

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes. Raises MissingObject."""
        if not is_object_id(oid):
            raise MissingObject(f"{oid[:80]!r} is not an object id (40 lower-case hex digits)")
        return super().read(oid)

    def refs(self, prefix: str = "refs/") -> dict[str, str]:
        """Refs of the authority as last seen."""
        with self._lock:
            if self._remote is None:
                found = self.all_refs()
            else:
                own = {name: oid for name, oid in self._refs.items() if name.startswith(LOCAL_PREFIX)}
                found = dict(sorted({**own, **self._seen}.items()))
        return {name: oid for name, oid in found.items() if name.startswith(prefix)}

    def refresh(self) -> None:
        """Take in what is new at the remote. Raises RemoteUnreachable."""
        if self._remote is None:
            return
        self._remote.check_reachable()
        with self._remote._lock:
            refs = {
                name: oid
                for name, oid in self._remote._refs.items()
                if name.startswith(REMOTE_PREFIXES) and not name.startswith(LOCAL_PREFIX)
            }
            objects = dict(self._remote._objects)
        with self._lock:
            self._objects |= objects
            self._seen, left_out = self._incoming.sort_out(refs, self._named(), ())
        self._incoming.note_skipped(left_out)

    @property
    def skipped(self) -> dict[str, str]:
        """Refs of the remote that the last refresh left out, by full name, with the reason."""
        return dict(self._incoming.skipped)

    def write(self, draft: Draft) -> str:
        """Write the commit and all it needs, named by no ref."""
        oid, objects = build_commit(self.read, draft)
        with self._lock:
            self._beats.note(draft, objects, self._objects.__contains__, self._named)
            self._objects.update((each.oid, (each.kind, each.data)) for each in objects)
        return oid

    def publish(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs by compare-and-swap, at the authority first; stops at the first loss."""
        for update in updates:
            check_update(update, self.read, shared=self._remote is not None)
        for update in updates:
            if self._remote is None or update.name.startswith(LOCAL_PREFIX):
                self.swap(update)
            else:
                self._push(self._remote, update)

    def _push(self, remote: MemoryRemote, update: RefUpdate) -> None:
        sent: dict[str, tuple[ObjectKind, bytes]] = {}
        if update.new is not None:
            had = remote.all_refs().values()
            sent = {oid: self.read(oid) for _, oid in new_objects(self.read, [update.new], had)}
        remote.receive(update, sent)
        with self._lock:
            if update.new is None:
                self._seen.pop(update.name, None)
            else:
                self._seen[update.name] = update.new

    def discard(self, commit: str, keep: Sequence[str] = ()) -> None:
        """Remove a replaced heartbeat of our own; see store.beats for what stays."""
        with self._lock:
            self.remove(self._beats.removable(self.read, commit, self._named(), keep))

    def _named(self) -> set[str]:
        return {*self._refs.values(), *self._seen.values()}

    def has_remote(self) -> bool:
        """Whether another repository is the authority."""
        return self._remote is not None

    def history_cut(self) -> frozenset[str]:
        """None: a repository in memory is always whole."""
        return frozenset()

    def close(self) -> None:
        """Nothing to let go of."""
