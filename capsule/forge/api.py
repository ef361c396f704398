"""What every forge does: tell the merged pull request of a commit, and open one.

Rules kept: what a forge says is raw: it is judged by trust, never here; people are numeric ids, logins are
for eyes; a forge that is away (EvidenceUnavailable) is asked again, one that refuses (ForgeRefused) waits for
a person. Implementations: forge.github, forge.gitlab, forge.gitea and testing.memory_forge; all pass
tests/contract/test_forge.py. Called by the reconciler and by commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

ReviewState = Literal["approved", "changes_requested", "dismissed", "commented"]
MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of one answer of a forge."""
LONGEST_WAIT = 3600.0
"""Seconds after which a forge is asked again, whatever it says."""


class ForgeError(Exception):
    """Base: a forge did not do what was asked. Neither `reason` nor the text ever holds a token."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EvidenceUnavailable(ForgeError):
    """The forge is away, busy, or answers nonsense: ask again, not before `retry_after` seconds if given."""

    def __init__(self, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class ForgeRefused(ForgeError):
    """The forge said no: a person must act (token, rights, address) before it makes sense to ask again."""


@dataclass(frozen=True, slots=True)
class RawReview:
    """One review as the forge tells it. `commit` is the head it was given for, None where that is unknown;
    `submitted_at` is in UTC, to the second. What the forge calls stale or dismissed is `dismissed`. `id` is 0
    where the forge gives none."""

    id: int
    user: int
    login: str
    state: ReviewState
    commit: str | None
    submitted_at: datetime
    bot: bool


@dataclass(frozen=True, slots=True)
class RawPull:
    """A pull request: the commit of main it became (None while it is open), its last head, who opened it (a
    numeric id), and its reviews, oldest first."""

    number: int
    merged: str | None
    head: str
    author: int
    reviews: tuple[RawReview, ...]


@dataclass(frozen=True, slots=True)
class OpenedPull:
    """An open pull request; `unasked` are the ids of reviewers that the forge did not ask."""

    number: int
    address: str
    unasked: tuple[int, ...] = ()


class Forge(Protocol):
    """One repository at a forge. Safe to call from several threads; every call is bounded in time."""

    def find(self, commit: str) -> RawPull | None:
        """The pull request by which `commit` (40 hex digits) came to main; None when there is none.

        Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def pull(self, number: int) -> RawPull | None:
        """The pull request into main with this number, as it stands; None when there is none.

        Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def blob_ids(self, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
        """The blob id of each of these files in `commit`; a file that is not there is left out.

        Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def open_pull(self, branch: str, title: str, body: str, reviewers: Sequence[int]) -> OpenedPull:
        """Open a pull request of `branch` (a short name) into main, or find the one that is open already.

        `body` is Markdown; `reviewers` are numeric ids. Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
