"""What GitHub and Gitea share in being told a verdict: the comment and the commit status. Called by both.

Rules kept: a comment is changed only if this very account wrote it, whatever mark another one bears; one that
says the same already is left alone. Formats: "Issue comments" and "Commit statuses" of either API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field, TypeAdapter

from capsule.forge.api import CHECK, COMMENT_MARK, MOST_STATUS, ForgeRefused
from capsule.forge.rest import Rest
from capsule.forge.shapes import Login, Number, Shape


class Writer(Shape):
    """Who wrote a comment; `type` is said by GitHub alone."""

    id: int
    login: Login
    type: Annotated[str, Field(max_length=40)] = "User"


class Comment(Shape):
    """A comment on a pull request."""

    id: Number
    user: Writer | None
    body: str | None = None


COMMENTS = TypeAdapter(list[Comment])
_SELF = TypeAdapter(Writer)
_ANYTHING = TypeAdapter(Shape)


def own_account(rest: Rest) -> Writer | None:
    """The account whose token is used; None where the forge does not say (the token of a job is
    nobody's). Raises EvidenceUnavailable, ForgeRefused."""
    try:
        return rest.get(_SELF, "/user")
    except ForgeRefused as error:
        if error.reason != "ForgeNotAllowed":
            raise
        return None


def comment(
    rest: Rest, where: str, number: int, text: str, known: Iterable[Comment], is_own: Callable[[Writer], bool]
) -> None:
    """See Forge.comment; `where` is the repository in the API, `known` are the comments that are there."""
    body = f"{COMMENT_MARK}\n{text}"
    for each in known:
        written = each.body or ""
        if each.user and is_own(each.user) and written.startswith(COMMENT_MARK):
            if not says(written, body):
                rest.change("PATCH", f"{where}/issues/comments/{each.id}", {"body": body})
            return
    rest.post(_ANYTHING, f"{where}/issues/{number}/comments", {"body": body})


def says(written: str, text: str) -> bool:
    """Whether a comment says `text` already: forges change the ends of lines."""
    return written.replace("\r\n", "\n").strip() == text.strip()


def set_status(rest: Rest, where: str, commit: str, passed: bool, text: str) -> None:
    """See Forge.set_check."""
    state = "success" if passed else "failure"
    body = {"state": state, "context": CHECK, "description": text[:MOST_STATUS]}
    rest.post(_ANYTHING, f"{where}/statuses/{commit}", body)
