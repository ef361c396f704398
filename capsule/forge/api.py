"""What every forge does: tell pull requests and their reviews, open one, and say there what Capsule judges.

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

CHECK = "capsule/approval"
"""The name of the commit status (of the job, on GitLab) that says whether a pull request may be merged."""
COMMENT_MARK = f"<!-- {CHECK} -->"
"""First line of the one comment that Capsule keeps on a pull request; no forge shows it."""
MOST_COMMENT = 60_000
"""Characters of a comment that every forge takes."""
MOST_STATUS = 140
"""Characters of the text beside a commit status."""
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
class RawWriter:
    """An author or a committer of a commit of a pull request: the account that the forge knows behind the
    e-mail (None: none), and that e-mail as the commit says it, which anybody may write."""

    user: int | None
    email: str


@dataclass(frozen=True, slots=True)
class PullHead:
    """An open pull request into main, and its head."""

    number: int
    head: str


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

    def writers(self, number: int) -> Sequence[RawWriter]:
        """Author and committer of each commit of the pull request with this number, as far as the forge
        tells; the forge itself, where it signed for what people did in its web page, is left out.

        Raises EvidenceUnavailable, ForgeRefused (CommitsUntold where it does not list every commit).
        """
        ...

    def base(self, number: int) -> str:
        """The commit that the reviewers of the pull request with this number saw its difference to: where
        its branch left main. Raises EvidenceUnavailable, ForgeRefused.
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

    def account(self) -> str:
        """The login of the account whose token is used, for eyes; empty where the forge does not say.

        Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def open_pulls(self) -> Sequence[PullHead]:
        """Every open pull request into main. Raises EvidenceUnavailable, ForgeRefused."""
        ...

    def comment(self, number: int, text: str) -> None:
        """Let the one comment of this account on a pull request say `text` (Markdown, at most MOST_COMMENT
        characters): made once, then changed in place. Comments of others are never touched.

        Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def set_check(self, pull: PullHead, passed: bool, text: str) -> None:
        """Let the check CHECK of the head of `pull` be green or red; `text` says why, in one line.

        Where only its own pipeline may say that (GitLab), the job of that name is run again if it said
        something else. Raises EvidenceUnavailable, ForgeRefused.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
