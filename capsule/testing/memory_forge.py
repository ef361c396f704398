"""A forge without a network, honest or lying: what a reconciler asks is answered from values of this process.

Rules kept: it passes the same contract tests as the clients of real forges; each lie is one that a forge, or
whoever holds it, could tell. For tests of reconcilers and commands.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from capsule.forge.api import ForgeError, OpenedPull, PullHead, RawPull, RawReview, RawWriter

Lie = Literal["other head", "other people", "bots are people", "dismissed counts", "other files"]
OTHER_COMMIT = "e" * 40


@dataclass(frozen=True, slots=True)
class Merged:
    """A pull request that was merged: what the honest forge tells of it, and the files at its head and
    where its branch left main."""

    pull: RawPull
    files: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)


class MemoryForge:
    """A Forge. `merge` puts a merged pull request there, `fail` makes the next calls go wrong, `lies` says
    how answers are false, `asked`, `opened`, `comments` and `checks` tell what arrived; `written` says
    who wrote the commits of a pull request."""

    def __init__(self, *lies: Lie) -> None:
        self.lies = frozenset(lies)
        self.asked: list[str] = []
        self.opened: dict[str, tuple[str, str, tuple[int, ...]]] = {}
        self.comments: dict[int, str] = {}
        self.written: dict[int, Sequence[RawWriter]] = {}
        self.checks: dict[str, tuple[bool, str]] = {}
        self.cannot_be_asked: set[int] = set()
        self._merged: dict[str, Merged] = {}
        self._errors: deque[ForgeError] = deque()
        self._lock = threading.Lock()

    def merge(
        self, commit: str, pull: RawPull, files: Mapping[str, str], before: Mapping[str, str] | None = None
    ) -> None:
        """`commit` came to main by `pull`, whose head holds `files` (path: blob id); main held `before` where
        its branch left it."""
        with self._lock:
            self._merged[commit] = Merged(pull, files, before or {})

    def review(self, commit: str, *reviews: RawReview) -> None:
        """Add reviews to the pull request by which `commit` came to main."""
        with self._lock:
            known = self._merged[commit]
            pull = replace(known.pull, reviews=(*known.pull.reviews, *reviews))
            self._merged[commit] = replace(known, pull=pull)

    def fail(self, *errors: ForgeError) -> None:
        """Let the next calls raise these, one each."""
        with self._lock:
            self._errors.extend(errors)

    def find(self, commit: str) -> RawPull | None:
        """See Forge.find."""
        with self._lock:
            self._begin(f"find {commit}")
            known = self._merged.get(commit)
            return self._told(known.pull) if known else None

    def pull(self, number: int) -> RawPull | None:
        """See Forge.pull."""
        with self._lock:
            self._begin(f"pull {number}")
            known = [each.pull for each in self._merged.values() if each.pull.number == number]
            return self._told(known[0]) if known else None

    def writers(self, number: int) -> Sequence[RawWriter]:
        """See Forge.writers."""
        with self._lock:
            self._begin(f"writers {number}")
            opened = (each.pull.author for each in self._merged.values() if each.pull.number == number)
            return self.written.get(number, [RawWriter(author, "") for author in opened])

    def base(self, number: int) -> str:
        """See Forge.base."""
        with self._lock:
            self._begin(f"base {number}")
            return f"{number:040x}"

    def blob_ids(self, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
        """See Forge.blob_ids."""
        with self._lock:
            self._begin(f"files {commit}")
            if "other files" in self.lies:
                return dict.fromkeys(paths, OTHER_COMMIT)
            held = {f"{known.pull.number:040x}": known.before for known in self._merged.values()}
            held |= {known.pull.head: known.files for known in self._merged.values()}
            files = held.get(commit, {})
            return {path: files[path] for path in paths if path in files}

    def open_pull(self, branch: str, title: str, body: str, reviewers: Sequence[int]) -> OpenedPull:
        """See Forge.open_pull."""
        with self._lock:
            self._begin(f"open {branch}")
            self.opened.setdefault(branch, (title, body, tuple(reviewers)))
            number = 1 + list(self.opened).index(branch)
            unasked = tuple(each for each in reviewers if each in self.cannot_be_asked)
            return OpenedPull(number, f"https://forge.example/pull/{number}", unasked)

    def account(self) -> str:
        """See Forge.account."""
        with self._lock:
            self._begin("account")
            return "robot"

    def open_pulls(self) -> Sequence[PullHead]:
        """See Forge.open_pulls."""
        with self._lock:
            self._begin("open pulls")
            pulls = (each.pull for each in self._merged.values())
            return [PullHead(each.number, each.head) for each in pulls if each.merged is None]

    def comment(self, number: int, text: str) -> None:
        """See Forge.comment."""
        with self._lock:
            self._begin(f"comment {number}")
            self.comments[number] = text

    def set_check(self, pull: PullHead, passed: bool, text: str) -> None:
        """See Forge.set_check."""
        with self._lock:
            self._begin(f"check {pull.head}")
            self.checks[pull.head] = (passed, text)

    def close(self) -> None:
        """Nothing is open."""

    def _begin(self, call: str) -> None:
        self.asked.append(call)
        if self._errors:
            raise self._errors.popleft()

    def _told(self, pull: RawPull) -> RawPull:
        if "other head" in self.lies:
            pull = replace(pull, head=OTHER_COMMIT)
        return replace(pull, reviews=tuple(self._lied(each) for each in pull.reviews))

    def _lied(self, review: RawReview) -> RawReview:
        if "other people" in self.lies:
            review = replace(review, user=review.user + 1_000_000)
        if "bots are people" in self.lies:
            review = replace(review, bot=False)
        if "dismissed counts" in self.lies and review.state == "dismissed":
            review = replace(review, state="approved")
        return review
