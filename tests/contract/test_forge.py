"""What holds for every forge, checked for each client and for the one in memory by the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.types import ForgeSettings
from capsule.forge.api import Forge, RawPull, RawReview, ReviewState
from capsule.forge.choose import forge_of
from capsule.testing.memory_forge import MemoryForge
from tests.forge_servers import REPOSITORY, TOKEN, Account, Pull, Review, Site, serve

MERGED, HEAD, OLDER, BLOB = "a" * 40, "b" * 40, "c" * 40, "1" * 40
PATH = "requests/2026/11/ask ä#1/request.yaml"
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PUSHED = {OLDER: AT - timedelta(hours=2), HEAD: AT - timedelta(hours=1)}
ALICE, BOB, CAROL = 11, 583231, 77
WORDS: dict[str, ReviewState] = {
    "approved": "approved",
    "changes": "changes_requested",
    "dismissed": "dismissed",
    "commented": "commented",
}


@dataclass
class Place:
    """A forge, and how a test puts things there."""

    kind: str
    forge: Forge
    site: Site = field(default_factory=Site)

    @property
    def memory(self) -> MemoryForge:
        assert isinstance(self.forge, MemoryForge)
        return self.forge

    def merge(self) -> None:
        """alice's pull request 7 became MERGED; its head was HEAD, after OLDER."""
        if self.kind == "memory":
            self.memory.merge(MERGED, RawPull(7, MERGED, HEAD, ALICE, ()), {PATH: BLOB})
            return
        pull = Pull(7, self.site.accounts[ALICE], HEAD, merged=MERGED, pushes=list(PUSHED.items()))
        self.site.add(pull, MERGED)
        self.site.files[HEAD, PATH] = BLOB

    def review(self, user: int, word: str, commit: str = HEAD, minutes: int = 0) -> None:
        """A review, given while `commit` was the head."""
        at = (AT if commit == HEAD else PUSHED[OLDER] + timedelta(minutes=30)) + timedelta(minutes=minutes)
        account = self.site.accounts[user]
        if self.kind == "memory":
            bot = account.kind == "Bot"
            self.memory.review(MERGED, RawReview(1, user, account.login, WORDS[word], commit, at, bot))
            return
        reviews = self.site.pulls[7].reviews
        reviews.append(Review(900 + len(reviews), account, word, commit, at))

    def found(self) -> RawPull:
        pull = self.forge.find(MERGED)
        assert pull is not None
        return pull


@pytest.fixture(params=["memory", "github", "gitlab", "gitea"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind, site = request.param, Site()
    for number, login in ((1, "robot"), (ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")):
        site.account(number, login)
    if kind == "memory":
        yield Place(kind, MemoryForge(), site)
        return
    with serve(kind, site) as server:
        forge = forge_of(ForgeSettings(kind=kind, server=server, repository=REPOSITORY), lambda: TOKEN)
        try:
            yield Place(kind, forge, site)
        finally:
            forge.close()


def test_the_pull_request_of_a_commit_is_found_with_head_and_author(place: Place) -> None:
    place.merge()
    assert place.found() == RawPull(7, MERGED, HEAD, ALICE, ())


def test_a_pull_request_is_told_by_its_number(place: Place) -> None:
    place.merge()
    place.review(BOB, "approved")
    assert place.forge.pull(7) == place.found()
    assert place.forge.pull(8) is None


def test_a_commit_that_came_by_no_pull_request_has_none(place: Place) -> None:
    place.merge()
    assert place.forge.find("9" * 40) is None


def test_a_review_is_told_by_number_and_bound_to_the_head_it_was_given_for(place: Place) -> None:
    place.merge()
    place.review(BOB, "approved")
    (review,) = place.found().reviews
    assert (review.user, review.login, review.state) == (BOB, "bob", "approved")
    assert (review.commit, review.submitted_at, review.bot) == (HEAD, AT, False)


def test_a_review_from_before_a_push_is_not_one_of_the_head(place: Place) -> None:
    place.merge()
    place.review(BOB, "approved", OLDER)
    assert place.found().reviews[0].commit == OLDER


def test_a_request_for_changes_is_told(place: Place) -> None:
    place.merge()
    place.review(BOB, "changes")
    assert [each.state for each in place.found().reviews] == ["changes_requested"]


def test_reviews_are_told_oldest_first(place: Place) -> None:
    place.merge()
    place.review(CAROL, "approved")
    place.review(BOB, "approved", minutes=1)
    assert [each.user for each in place.found().reviews] == [CAROL, BOB]


def test_a_bot_is_told_as_one(place: Place) -> None:
    place.merge()
    place.site.account(4, "robot", "Bot")
    if place.kind == "gitea":  # it has no such word: a bot is an account that no policy lists
        place.site.accounts[4] = Account(-2, "gitea-actions")
        place.review(4, "approved")
        assert place.found().reviews == ()
        return
    place.review(4, "approved")
    assert place.found().reviews[0].bot


def test_blob_ids_are_those_at_the_commit_that_is_named(place: Place) -> None:
    place.merge()
    assert place.forge.blob_ids(HEAD, [PATH, "requests/none.yaml"]) == {PATH: BLOB}
    assert place.forge.blob_ids(OLDER, [PATH]) == {}


def test_a_pull_request_is_opened_once_and_found_again(place: Place) -> None:
    place.merge()
    opened = place.forge.open_pull("request/one", "Ask", "| a |", [BOB])
    again = place.forge.open_pull("request/one", "Ask", "| a |", [])
    assert (again.number, again.address) == (opened.number, opened.address)
    assert opened.unasked == ()
    if place.kind != "memory":
        pull = place.site.pulls[opened.number]
        assert (pull.title, pull.body, pull.reviewers) == ("Ask", "| a |", [BOB])
