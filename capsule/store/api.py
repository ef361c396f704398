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


class RefMoved(StoreError):
    """Another writer was first: the ref is not what the caller built on. Start again from the new tip."""


class RemoteUnreachable(StoreError):
    """The remote did not answer, or refused to let us in. Nothing was changed there."""


class PushUnclear(StoreError):
    """The connection broke during a push: it may have happened or not. Read the remote."""


class PushRefused(StoreError):
    """The remote said no (a hook, branch protection, permissions)."""


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
        """Full ref names below `prefix`, with the ids they name, as last seen of the authority."""
        ...

    def refresh(self) -> None:
        """Fetch what is new at the remote (nothing without one). Raises RemoteUnreachable."""
        ...

    def write(self, draft: Draft) -> str:
        """Write the commit and all it needs, durable, named by no ref. Returns its id."""
        ...

    def publish(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs by compare-and-swap, at the authority first. Each update stands for itself unless
        there is one only; on the first loss nothing further is moved.

        Raises RefMoved, RemoteUnreachable, PushUnclear, PushRefused.
        """
        ...

    def has_remote(self) -> bool:
        """Whether another repository is the authority."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
