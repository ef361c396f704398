"""Gitea and Forgejo, by their REST API.

Rules kept: a pull request counts as found only when it was merged into main; a review that the forge calls
dismissed or stale is dismissed. Format: the server's own description (/swagger.v1.json), Gitea 1.22, Forgejo
7 or newer. Made by forge.choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated
from urllib.parse import quote

from pydantic import Field, TypeAdapter

from capsule.forge.api import ForgeRefused, OpenedPull, PullHead, RawPull, RawReview, RawWriter, ReviewState
from capsule.forge.contents import blob_ids_at
from capsule.forge.rest import NotTaken, NotThere, Rest
from capsule.forge.shapes import (
    MAIN,
    Address,
    CommitId,
    Login,
    Number,
    Shape,
    When,
    escaped,
    owner_and_name,
    whole,
)
from capsule.forge.telling import COMMENTS, Writer, comment, own_account, set_status
from capsule.forge.writers import writers_of

_STATES: dict[str, ReviewState] = {
    "APPROVED": "approved",
    "REQUEST_CHANGES": "changes_requested",
    "COMMENT": "commented",
}


class _User(Shape):
    id: int  # below 1 for accounts that are no people: the ghost, and the forge's own actions
    login: Login


class _Base(Shape):
    ref: Annotated[str, Field(max_length=300)]


class _Head(Shape):
    sha: CommitId


class _Pull(Shape):
    number: Number
    html_url: Address
    merged: bool
    merge_commit_sha: CommitId | None
    user: _User | None
    head: _Head
    base: _Base


class _Forked(Shape):
    merge_base: CommitId


class _Review(Shape):
    id: Number
    user: _User | None = None
    state: Annotated[str, Field(max_length=40)]
    commit_id: Annotated[str, Field(pattern=r"^([0-9a-f]{40})?$")] = ""
    stale: bool
    dismissed: bool
    submitted_at: When


class _Opened(Shape):
    number: Number
    html_url: Address


class _Open(Shape):
    number: Number
    head: _Head
    base: _Base


class _People(Shape):
    data: tuple[_User, ...]


_PULL = TypeAdapter(_Pull)
_FORKED = TypeAdapter(_Forked)
_REVIEWS = TypeAdapter(list[_Review])
_OPENED = TypeAdapter(_Opened)
_HEADS = TypeAdapter(list[_Open])
_PEOPLE = TypeAdapter(_People)
_ANYTHING = TypeAdapter(Shape | list[Shape])
_REPOSITORY = TypeAdapter(Shape)


class Gitea:
    """The Forge at `server`. `token` is asked for at each call."""

    def __init__(self, server: str, repository: str, token: Callable[[], str]) -> None:
        owner, name = owner_and_name(repository)
        self._here = f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}"
        self._rest = Rest(f"{server.rstrip('/')}/api/v1", lambda: {"Authorization": f"token {token()}"})

    def find(self, commit: str) -> RawPull | None:
        """See Forge.find."""
        try:
            pull = self._rest.get(_PULL, f"{self._here}/commits/{commit}/pull")
        except NotThere:
            self._rest.get(_REPOSITORY, self._here)  # no pull request, or no right to see the repository?
            return None
        return self._raw(pull) if pull.merged and pull.merge_commit_sha else None

    def pull(self, number: int) -> RawPull | None:
        """See Forge.pull."""
        try:
            return self._raw(self._rest.get(_PULL, f"{self._here}/pulls/{number}"))
        except NotThere:
            return None

    def _raw(self, pull: _Pull) -> RawPull | None:
        if pull.base.ref != MAIN or pull.user is None or pull.user.id < 1:
            return None
        reviews = self._rest.pages(_REVIEWS, f"{self._here}/pulls/{pull.number}/reviews", size="limit")
        raw = [found for each in reviews if (found := _review(each))]
        raw.sort(key=lambda each: (each.submitted_at, each.id))
        merged = pull.merge_commit_sha if pull.merged else None
        return RawPull(pull.number, merged, pull.head.sha, pull.user.id, tuple(raw))

    def writers(self, number: int) -> Sequence[RawWriter]:
        """See Forge.writers."""
        return writers_of(self._rest, self._here, number, size="limit")

    def base(self, number: int) -> str:
        """See Forge.base."""
        return self._rest.get(_FORKED, f"{self._here}/pulls/{number}").merge_base

    def blob_ids(self, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
        """See Forge.blob_ids."""
        return blob_ids_at(self._rest, self._here, commit, paths)

    def open_pull(self, branch: str, title: str, body: str, reviewers: Sequence[int]) -> OpenedPull:
        """See Forge.open_pull."""
        text = {"title": title, "body": body, "head": branch, "base": MAIN}
        try:
            opened = self._rest.post(_OPENED, f"{self._here}/pulls", text)
        except NotTaken:
            opened = self._rest.get(_OPENED, f"{self._here}/pulls/{MAIN}/{escaped(branch)}")
        unasked = tuple(each for each in reviewers if not self._ask(opened.number, each))
        return OpenedPull(opened.number, opened.html_url, unasked)

    def account(self) -> str:
        """See Forge.account."""
        own = own_account(self._rest)
        return own.login if own else ""

    def open_pulls(self) -> Sequence[PullHead]:
        """See Forge.open_pulls."""
        listed = self._rest.pages(_HEADS, f"{self._here}/pulls", {"state": "open"}, size="limit")
        return [PullHead(each.number, each.head.sha) for each in listed if each.base.ref == MAIN]

    def comment(self, number: int, text: str) -> None:
        """See Forge.comment. A job's token belongs to an account that is no person, numbered below 1."""
        own = own_account(self._rest)

        def is_own(writer: Writer) -> bool:
            return writer.id < 1 if own is None else writer.id == own.id

        known = self._rest.get(COMMENTS, f"{self._here}/issues/{number}/comments")  # all on one page
        comment(self._rest, self._here, number, text, known, is_own)

    def set_check(self, pull: PullHead, passed: bool, text: str) -> None:
        """See Forge.set_check."""
        set_status(self._rest, self._here, pull.head, passed, text)

    def close(self) -> None:
        """Let go of connections."""
        self._rest.close()

    def _ask(self, number: int, reviewer: int) -> bool:
        """Ask one person for a review: one who may not be asked must not stop the others."""
        try:
            people = self._rest.get(_PEOPLE, "/users/search", {"uid": reviewer}).data
            login = next((each.login for each in people if each.id == reviewer), None)
            if login is None:
                return False
            path = f"{self._here}/pulls/{number}/requested_reviewers"
            self._rest.post(_ANYTHING, path, {"reviewers": [login]})
        except ForgeRefused:
            return False
        return True


def _review(each: _Review) -> RawReview | None:
    """None for what is no review (PENDING, REQUEST_REVIEW), and for accounts that are gone or no people."""
    state = _STATES.get(each.state)
    if state is None or each.user is None or each.user.id < 1:
        return None
    if each.dismissed or each.stale:
        state = "dismissed"
    return RawReview(
        each.id,
        each.user.id,
        each.user.login,
        state,
        each.commit_id or None,
        whole(each.submitted_at),
        bot=False,
    )
