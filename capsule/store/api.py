"""What every store does: read objects, write durable commits, move refs by compare-and-swap.

Rules kept: objects are durable before a ref names them; a lost race is an error and never a silent
overwrite; with a remote, the remote is the authority and a ref moves there first. Implementations:
store.git (dulwich) and testing.memory_store; both pass tests/contract/test_store.py. Called by the
reconciler and by commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from capsule.trust.objects import ObjectReader


class StoreError(Exception):
    """Base: the repository could not do what was asked. `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotARepository(StoreError):
    """No state repository at the given place."""


class RepositoryBusy(StoreError):
    """Another process owns this repository, or a lock in it was not let go in time."""


class InvalidDraft(StoreError):
    """A commit that must not be written: a path, message, person or time that git would misread."""


class DamagedObject(StoreError):
    """An object whose bytes are not what its id or its kind says."""


class RefMoved(StoreError):
    """Another writer was first: the ref is not what the caller built on. Start again from the new tip."""


class RemoteUnreachable(StoreError):
    """The remote did not answer, or refused to let us in. Nothing was changed there."""


class PushUnclear(StoreError):
    """The connection broke during a push: it may have happened or not. Read the remote."""


class PushRefused(StoreError):
    """The remote said no (a hook, branch protection, permissions)."""


LOCAL_PREFIX = "refs/capsule/local/"
"""Refs below this belong to one repository alone: they are read and moved here, never fetched or pushed."""


@dataclass(frozen=True, slots=True)
class Person:
    """Author or committer of a commit."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A commit to be written: `edits` (path → bytes, None deletes) on top of `base` (a commit, or None)."""

    base: str | None
    edits: Mapping[str, bytes | None]
    parents: Sequence[str]
    message: str
    author: Person
    at: datetime
    sign: Callable[[bytes], str] | None = None
    overlay: str | None = None
    """Commit whose whole tree replaces everything outside of status/ and records/ (merging main in)."""
    committer: Person | None = None
    modes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """Move `name` (a full ref name) from `old` to `new`; None means absent."""

    name: str
    old: str | None
    new: str | None


class Store(ObjectReader, Protocol):
    """A state repository."""

    def refs(self, prefix: str = "refs/") -> dict[str, str]:
        """Full ref names below `prefix`, with the ids they name, as last seen of the authority.

        With a remote these are its branches and its refs/capsule/, besides LOCAL_PREFIX of our own.
        """
        ...

    def refresh(self) -> None:
        """Fetch what is new at the remote (nothing without one). Raises RemoteUnreachable."""
        ...

    def write(self, draft: Draft) -> str:
        """Write the commit and all it needs, durable, named by no ref. Returns its id.

        Raises InvalidDraft, DamagedObject, MissingObject (of trust.objects: a base, overlay or parent that
        is not here).
        """
        ...

    def publish(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs by compare-and-swap, at the authority first. Each update stands for itself unless
        there is one only; on the first loss nothing further is moved.

        Raises RefMoved, RemoteUnreachable, PushUnclear, PushRefused.
        """
        ...

    def discard(self, commit: str, keep: Sequence[str] = ()) -> None:
        """Let go of a replaced heartbeat that this store wrote, and of what it alone needed.

        Does nothing for any other commit, nor for one that a ref or `keep` names; `keep` names commits
        whose objects stay besides those of refs. Objects already packed are left to maintenance.
        """
        ...

    def has_remote(self) -> bool:
        """Whether another repository is the authority."""
        ...

    def history_cut(self) -> frozenset[str]:
        """Commits whose parents were left out when this repository was cloned; none in a whole one."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
