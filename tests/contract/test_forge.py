"""What holds for every forge, checked for each client and for the one in memory by the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.types import ForgeSettings
from capsule.forge.api import (
    COMMENT_MARK,
    Forge,
    ForgeRefused,
    PullHead,
    RawPull,
    RawReview,
    RawWriter,
    ReviewState,
)
from capsule.forge.choose import forge_of
from capsule.testing.memory_forge import MemoryForge
from tests.forge_servers import NOBODY, REPOSITORY, TOKEN, Account, Answer, Pull, Review, Site, serve

MERGED, HEAD, OLDER, BLOB = "a" * 40, "b" * 40, "c" * 40, "1" * 40
OTHER_BLOB = "2" * 40
FORKED = f"{7:040x}"
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
            self.memory.merge(MERGED, RawPull(7, MERGED, HEAD, ALICE, ()), {PATH: BLOB}, {PATH: OTHER_BLOB})
            return
        pull = Pull(7, self.site.accounts[ALICE], HEAD, merged=MERGED, pushes=list(PUSHED.items()))
        self.site.add(pull, MERGED)
        pull.forked = FORKED
        self.site.files[HEAD, PATH] = BLOB
        self.site.files[FORKED, PATH] = OTHER_BLOB

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

    def wrote(self, user: int | None, email: str) -> None:
        """A commit of the pull request, by an account that the forge knows behind the e-mail, or none."""
        if self.kind == "memory":
            self.memory.written[7] = [*self.memory.written.get(7, ()), *[RawWriter(user, email)] * 2]
            return
        self.site.pulls[7].written.append((self.site.accounts[user] if user else None, email))

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


def test_who_wrote_the_commits_is_told_by_account_where_the_forge_knows_it(place: Place) -> None:
    place.merge()
    place.wrote(BOB, "bob@example.com")
    place.wrote(None, "ghost@example.com")
    known = None if place.kind == "gitlab" else BOB
    bob, ghost = RawWriter(known, "bob@example.com"), RawWriter(None, "ghost@example.com")
    assert list(place.forge.writers(7)) == [bob, bob, ghost, ghost]


def test_who_committed_is_told_beside_who_wrote_it(place: Place) -> None:
    place.merge()
    if place.kind == "memory":
        return
    place.wrote(BOB, "bob@example.com")
    place.site.pulls[7].committed[0] = (place.site.accounts[CAROL], "carol@example.com", True)
    bob, carol = (BOB, CAROL) if place.kind != "gitlab" else (None, None)
    told = [RawWriter(bob, "bob@example.com"), RawWriter(carol, "carol@example.com")]
    assert list(place.forge.writers(7)) == told


@pytest.mark.parametrize("verified", [True, False])
def test_the_forge_itself_is_left_out_as_a_committer_where_it_verified_its_signature(
    place: Place, verified: bool
) -> None:
    place.merge()
    if place.kind == "memory":
        return
    web = Account(19864447, "web-flow")
    place.wrote(None, "noreply@127.0.0.1")  # as an author it is nobody
    place.site.pulls[7].committed[0] = (web, "noreply@127.0.0.1", verified)
    told = place.forge.writers(7)
    assert len(told) == (1 if verified and place.kind == "github" else 2)


@pytest.mark.parametrize(("written", "claimed"), [(250, None), (400, None), (3, 4), (3, 2), (249, 250)])
def test_commits_that_are_not_all_listed_tell_nothing(
    place: Place, written: int, claimed: int | None
) -> None:
    place.merge()
    if place.kind == "memory" or (claimed and place.kind != "github"):
        return
    for _ in range(written):
        place.wrote(BOB, "bob@example.com")
    place.site.pulls[7].claimed = claimed
    with pytest.raises(ForgeRefused) as caught:
        place.forge.writers(7)
    assert caught.value.reason == "CommitsUntold"
    place.site.pulls[7].written = place.site.pulls[7].written[:249]
    place.site.pulls[7].claimed = None
    assert len(place.forge.writers(7)) == 2 * min(written, 249)


def test_no_commits_at_all_tell_nothing(place: Place) -> None:
    place.merge()
    if place.kind == "memory":
        return
    place.site.fault = lambda _, path: Answer(200, b"[]") if "/commits" in path else None
    with pytest.raises(ForgeRefused) as caught:
        place.forge.writers(7)
    assert caught.value.reason == "CommitsUntold"


def test_where_the_branch_left_main_is_told(place: Place) -> None:
    place.merge()
    assert place.forge.base(7) == FORKED
    assert place.forge.blob_ids(FORKED, [PATH]) == {PATH: OTHER_BLOB}


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


def opened(place: Place) -> PullHead:
    """alice's pull request 7 into main is open at HEAD, and 8 into another branch."""
    if place.kind == "memory":
        place.memory.merge(MERGED, RawPull(7, None, HEAD, ALICE, ()), {})
    else:
        place.site.add(Pull(7, place.site.accounts[ALICE], HEAD))
        place.site.add(Pull(8, place.site.accounts[ALICE], OLDER, base="develop"))
    return PullHead(7, HEAD)


def said(place: Place) -> list[str]:
    if place.kind == "memory":
        return [f"{COMMENT_MARK}\n{text}" for text in place.memory.comments.values()]
    return [each.body for each in place.site.pulls[7].comments]


def test_open_pull_requests_into_main_are_told_with_their_heads(place: Place) -> None:
    pull = opened(place)
    assert list(place.forge.open_pulls()) == [pull]


def test_who_the_token_belongs_to_is_told(place: Place) -> None:
    assert place.forge.account() == "robot"


def test_one_comment_is_made_and_then_changed_in_place(place: Place) -> None:
    opened(place)
    for text in ("not yet", "not yet", "approved\n\n| a |"):
        place.forge.comment(7, text)
    assert said(place) == [f"{COMMENT_MARK}\napproved\n\n| a |"]
    if place.kind != "memory":
        assert sum(method in ("PATCH", "PUT") for method, _ in place.site.calls) == 1


def test_a_comment_of_somebody_else_is_never_taken_for_the_own_one(place: Place) -> None:
    opened(place)
    if place.kind == "memory":
        return
    hostile = place.site.say(7, place.site.accounts[BOB], f"{COMMENT_MARK}\nall approved, merge me")
    place.forge.comment(7, "not yet")
    place.forge.comment(7, "still not")
    assert said(place) == [hostile.body, f"{COMMENT_MARK}\nstill not"]
    assert hostile.body.endswith("merge me")


def test_a_job_whose_token_is_nobodys_finds_its_comment_again(place: Place) -> None:
    opened(place)
    if place.kind in ("memory", "gitlab"):  # there a job's token writes no comments
        return
    place.site.own = None
    hostile = place.site.say(7, place.site.accounts[BOB], f"{COMMENT_MARK}\nall approved")
    place.site.say(7, NOBODY if place.kind == "github" else Account(-2, "gitea-actions"), "hello")
    first = place.site.pulls[7].comments[-1]
    first.body = f"{COMMENT_MARK}\r\nnot yet\r\n"
    place.forge.comment(7, "not yet")
    assert not any(method == "PATCH" for method, _ in place.site.calls)
    place.forge.comment(7, "approved")
    assert [each.body for each in place.site.pulls[7].comments] == [
        hostile.body,
        f"{COMMENT_MARK}\napproved",
    ]
    assert place.forge.account() == ""


def test_the_check_is_green_or_red_at_the_head(place: Place) -> None:
    pull = opened(place)
    place.forge.set_check(pull, False, "0 of 1 approved")
    place.forge.set_check(pull, True, "x" * 200 if place.kind != "memory" else "1 of 1 approved")
    if place.kind == "memory":
        assert place.memory.checks == {HEAD: (True, "1 of 1 approved")}
    elif place.kind == "gitlab":  # its pipeline holds the merge: the job that failed judges once more
        assert place.site.retried == [502]
    else:
        told = [(commit, body["state"], body["context"]) for commit, body in place.site.statuses]
        assert told == [(HEAD, "failure", "capsule/approval"), (HEAD, "success", "capsule/approval")]


def test_a_job_that_says_so_already_or_still_runs_is_left_alone(place: Place) -> None:
    pull = opened(place)
    if place.kind != "gitlab":
        return
    place.site.jobs[1] = ("capsule/approval", "running")
    place.forge.set_check(pull, True, "")
    place.site.jobs[1] = ("capsule/approval", "success")
    place.forge.set_check(pull, True, "")
    assert place.site.retried == []
    place.forge.set_check(pull, False, "")
    assert place.site.retried == [502]
    for jobs in ([("build", "success")], []):
        place.site.jobs = list(jobs)
        with pytest.raises(ForgeRefused) as caught:
            place.forge.set_check(pull, True, "")
        assert caught.value.reason == "CheckMissing"
