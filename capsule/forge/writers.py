"""Who wrote the commits of a pull request, as far as forges tell. Called by the clients.

Rules kept: an account is what the forge itself found behind an e-mail; the e-mail is whatever the commit
says; of every commit both author and committer are told, and of all commits or of none. The one committer
left out is the forge's own for what people did in its web page, and only where the forge itself verified that
commit's signature: a mere name would be anybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter

from capsule.forge.api import ForgeRefused, RawWriter
from capsule.forge.rest import Rest
from capsule.forge.shapes import CommitId, Shape

MOST_COMMITS = 249
"""GitHub lists 250 at most, and does not say that there are more."""
_Email = Annotated[str, Field(max_length=10_000)]


class _Account(Shape):
    id: int | None = None  # below 1 for Gitea's ghost, and none at all in an empty object of GitHub


class _Name(Shape):
    email: _Email = ""


class _Verification(Shape):
    verified: bool = False


class _Told(Shape):
    author: _Name | None = None
    committer: _Name | None = None
    verification: _Verification | None = None


class _Commit(Shape):
    sha: CommitId
    author: _Account | None = None
    committer: _Account | None = None
    commit: _Told


_COMMITS = TypeAdapter(list[_Commit])


def writers_of(
    rest: Rest,
    repository: str,
    number: int,
    *,
    size: str = "per_page",
    claimed: int | None = None,
    web: str | None = None,
) -> Sequence[RawWriter]:
    """Those of the pull request `number`, at GitHub and at Gitea; `repository` is its path in the API.

    `claimed` is how many commits the forge says there are, `web` the e-mail by which it commits itself.
    Raises EvidenceUnavailable, ForgeRefused (CommitsUntold).
    """
    commits = rest.pages(_COMMITS, f"{repository}/pulls/{number}/commits", size=size)
    check_all_told(number, len(commits), claimed)
    return [writer for each in commits for writer in _writers(each, web)]


def check_all_told(number: int, listed: int, claimed: int | None = None) -> None:
    """Whether these are all commits of a pull request. Raises ForgeRefused."""
    if not 0 < listed <= MOST_COMMITS or (claimed is not None and claimed != listed):
        of = "" if claimed is None else f" of {claimed}"
        raise ForgeRefused(
            "CommitsUntold",
            f"the forge lists {listed}{of} commits of pull request {number}, "
            f"expected all of them, 1 to {MOST_COMMITS}",
        )


def _writers(each: _Commit, web: str | None) -> Iterator[RawWriter]:
    told = each.commit
    yield _writer(each.author, told.author)
    committer = _writer(each.committer, told.committer)
    verified = told.verification is not None and told.verification.verified
    if web is None or not verified or committer.email != web:
        yield committer


def _writer(account: _Account | None, name: _Name | None) -> RawWriter:
    user = account.id if account else None
    return RawWriter(user if user and user > 0 else None, name.email if name else "")
