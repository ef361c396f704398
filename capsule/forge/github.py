"""GitHub and GitHub Enterprise Server, by their REST API.

Rules kept: a pull request counts as found only when it was merged into main of this very repository; an
account that is not plainly a user is a bot. Format: GitHub's OpenAPI description (api.github.com), version
2022-11-28. Made by forge.choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import Field, TypeAdapter

from capsule.forge.api import ForgeRefused, OpenedPull, PullHead, RawPull, RawReview, RawWriter, ReviewState
from capsule.forge.contents import blob_ids_at
from capsule.forge.rest import NotTaken, NotThere, Rest
from capsule.forge.shapes import (
    MAIN,
    AccountId,
    Address,
    CommitId,
    Login,
    Number,
    Shape,
    When,
    owner_and_name,
    whole,
)
from capsule.forge.telling import COMMENTS, Writer, comment, own_account, set_status
from capsule.forge.writers import writers_of

VERSION = "2022-11-28"
_STATES: dict[str, ReviewState] = {
    "APPROVED": "approved",
    "CHANGES_REQUESTED": "changes_requested",
    "DISMISSED": "dismissed",
    "COMMENTED": "commented",
}


class _User(Shape):
    id: AccountId
    login: Login
    type: Annotated[str, Field(max_length=40)]


class _Repository(Shape):
    id: Number
    full_name: Annotated[str, Field(max_length=300)]


class _Base(Shape):
    ref: Annotated[str, Field(max_length=300)]
    repo: _Repository


class _Head(Shape):
    sha: CommitId


class _Listed(Shape):
    number: Number
    merged_at: When | None
    base: _Base


class _Pull(Shape):
    number: Number
    html_url: Address
    merged: bool
    merge_commit_sha: CommitId | None
    user: _User | None
    head: _Head
    base: _Base


class _Size(Shape):
    commits: Annotated[int, Field(ge=0)]


class _Ends(Shape):
    head: _Head
    base: _Head


class _Comparison(Shape):
    merge_base_commit: _Head


class _Review(Shape):
    id: Number
    user: _User | None
    state: Annotated[str, Field(max_length=40)]
    commit_id: CommitId | None = None
    submitted_at: When | None = None


_LISTED = TypeAdapter(list[_Listed])
_PULL = TypeAdapter(_Pull)
_SIZE = TypeAdapter(_Size)
_ENDS = TypeAdapter(_Ends)
_COMPARISON = TypeAdapter(_Comparison)
_REVIEWS = TypeAdapter(list[_Review])
_USER = TypeAdapter(_User)


class _Opened(Shape):
    number: Number
    html_url: Address


class _Open(Shape):
    number: Number
    head: _Head


_OPENED = TypeAdapter(_Opened)
_HEADS = TypeAdapter(list[_Open])
_OPEN = TypeAdapter(list[_Opened])


class GitHub:
    """The Forge at `server`, such as https://github.com. `token` is asked for at each call."""

    def __init__(self, server: str, repository: str, token: Callable[[], str]) -> None:
        owner, name = owner_and_name(repository)
        self._owner = owner
        self._web = f"noreply@{urlsplit(server).hostname}"
        self._name = repository.lower()
        self._here = f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}"
        self._rest = Rest(
            api_base(server),
            lambda: {
                "Authorization": f"Bearer {token()}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": VERSION,
            },
        )

    def find(self, commit: str) -> RawPull | None:
        """See Forge.find."""
        try:
            listed = self._rest.pages(_LISTED, f"{self._here}/commits/{commit}/pulls")
        except NotTaken:  # 422: no such commit there, yet
            return None
        for each in listed:
            if each.merged_at is not None and self._is_main(each.base):
                pull = self._rest.get(_PULL, f"{self._here}/pulls/{each.number}")
                if pull.merged and pull.merge_commit_sha and pull.user and self._is_main(pull.base):
                    return self._raw(pull, pull.merge_commit_sha, pull.user)
        return None

    def pull(self, number: int) -> RawPull | None:
        """See Forge.pull."""
        try:
            pull = self._rest.get(_PULL, f"{self._here}/pulls/{number}")
        except NotThere:
            return None
        if pull.user is None or not self._is_main(pull.base):
            return None
        return self._raw(pull, pull.merge_commit_sha if pull.merged else None, pull.user)

    def writers(self, number: int) -> Sequence[RawWriter]:
        """See Forge.writers."""
        claimed = self._rest.get(_SIZE, f"{self._here}/pulls/{number}").commits
        return writers_of(self._rest, self._here, number, claimed=claimed, web=self._web)

    def base(self, number: int) -> str:
        """See Forge.base. The second page of a comparison tells no files."""
        ends = self._rest.get(_ENDS, f"{self._here}/pulls/{number}")
        path = f"{self._here}/compare/{ends.base.sha}...{ends.head.sha}"
        return self._rest.get(_COMPARISON, path, {"per_page": 1, "page": 2}).merge_base_commit.sha

    def blob_ids(self, commit: str, paths: Sequence[str]) -> Mapping[str, str]:
        """See Forge.blob_ids."""
        return blob_ids_at(self._rest, self._here, commit, paths)

    def open_pull(self, branch: str, title: str, body: str, reviewers: Sequence[int]) -> OpenedPull:
        """See Forge.open_pull."""
        text = {"title": title, "body": body, "head": branch, "base": MAIN}
        try:
            opened = self._rest.post(_OPENED, f"{self._here}/pulls", text)
        except NotTaken:
            query = {"state": "open", "base": MAIN, "head": f"{self._owner}:{branch}"}
            known = self._rest.get(_OPEN, f"{self._here}/pulls", query)
            if not known:
                raise
            opened = known[0]
        unasked = tuple(each for each in reviewers if not self._ask(opened.number, each))
        return OpenedPull(opened.number, opened.html_url, unasked)

    def account(self) -> str:
        """See Forge.account."""
        own = own_account(self._rest)
        return own.login if own else ""

    def open_pulls(self) -> Sequence[PullHead]:
        """See Forge.open_pulls."""
        listed = self._rest.pages(_HEADS, f"{self._here}/pulls", {"state": "open", "base": MAIN})
        return [PullHead(each.number, each.head.sha) for each in listed]

    def comment(self, number: int, text: str) -> None:
        """See Forge.comment. Who a job's token belongs to is not told: its comments are those of a bot."""
        own = own_account(self._rest)

        def is_own(writer: Writer) -> bool:
            return writer.type == "Bot" if own is None else writer.id == own.id

        known = self._rest.pages(COMMENTS, f"{self._here}/issues/{number}/comments")
        comment(self._rest, self._here, number, text, known, is_own)

    def set_check(self, pull: PullHead, passed: bool, text: str) -> None:
        """See Forge.set_check."""
        set_status(self._rest, self._here, pull.head, passed, text)

    def close(self) -> None:
        """Let go of connections."""
        self._rest.close()

    def _is_main(self, base: _Base) -> bool:
        return base.ref == MAIN and base.repo.full_name.lower() == self._name

    def _raw(self, pull: _Pull, merged: str | None, author: _User) -> RawPull:
        reviews = self._rest.pages(_REVIEWS, f"{self._here}/pulls/{pull.number}/reviews")
        raw = [found for each in reviews if (found := _review(each))]
        raw.sort(key=lambda each: (each.submitted_at, each.id))
        return RawPull(pull.number, merged, pull.head.sha, author.id, tuple(raw))

    def _ask(self, number: int, reviewer: int) -> bool:
        """Ask one person for a review: one who may not be asked must not stop the others."""
        try:
            login = self._rest.get(_USER, f"/user/{reviewer}").login
            path = f"{self._here}/pulls/{number}/requested_reviewers"
            self._rest.post(_OPENED, path, {"reviewers": [login]})
        except ForgeRefused:
            return False
        return True


def api_base(server: str) -> str:
    """Where the API of `server` is: beside github.com, and below every other server."""
    parts = urlsplit(server)
    if parts.hostname == "github.com":
        return "https://api.github.com"
    return f"{server.rstrip('/')}/api/v3"


def _review(each: _Review) -> RawReview | None:
    """None for what is no review yet (PENDING), and for accounts that are gone."""
    state = _STATES.get(each.state)
    if state is None or each.user is None or each.submitted_at is None:
        return None
    bot = each.user.type != "User" or each.user.login.endswith("[bot]")
    return RawReview(
        each.id, each.user.id, each.user.login, state, each.commit_id, whole(each.submitted_at), bot
    )
