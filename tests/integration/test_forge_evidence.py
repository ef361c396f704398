"""Reviews at a forge, from the question to the attestation on audit to the executed request."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, RequestFolder
from capsule.documents.types import Attestation, ForgeSettings
from capsule.forge.api import EvidenceUnavailable, ForgeRefused, RawPull, RawReview, ReviewState
from capsule.lifecycle import read_records
from capsule.reconciler import Reconciler
from capsule.reconciler.evidence import EVERY, FIRST_PAUSE, LONGEST_PAUSE, _blob_id
from capsule.testing.memory_forge import Lie, MemoryForge
from capsule.trust.audit import verify_audit
from tests.agent_fixtures import key
from tests.town import POLICY, START, Town

ALICE, BOB, HEAD = 11, 583231, "b" * 40
NAME = "check-1"
FORGE = {"kind": "github", "server": "https://forge.example", "repository": "acme/state"}


def policy() -> dict[str, Any]:
    """That of the town, where bob's reviews at the forge approve health checks."""
    people: Mapping[str, Any] = POLICY["principals"]
    rule = {
        "match": {"action": "runHealthCheck"},
        "mayRequest": ("operators",),
        "approvals": ({"team": "reviewers", "count": 1},),
        "evidence": "forge",
    }
    return {
        **POLICY,
        "principals": {
            **people,
            "alice": {**people["alice"], "forge": {"github": ALICE}},
            "bob": {**people["bob"], "forge": {"github": BOB}},
        },
        "rules": (rule, *POLICY["rules"]),
    }


class Place:
    """A town at a forge, and a request of alice that came to main by her pull request 7."""

    def __init__(self, folder: Path, *lies: Lie) -> None:
        self.town = Town(folder, policy=policy(), settings={"forge": FORGE})
        self.forge = MemoryForge(*lies)
        self.connected: list[ForgeSettings] = []
        self.raw = self.town.request(NAME, action="runHealthCheck", approved_by=())
        self.merged = self.town.tip() or ""
        self.path = RequestFolder("2026/11", NAME).request
        self.forge.merge(
            self.merged, RawPull(7, self.merged, HEAD, ALICE, ()), {self.path: _blob_id(self.raw)}
        )

    def connect(self, settings: ForgeSettings) -> MemoryForge:
        self.connected.append(settings)
        return self.forge

    def reconciler(self, *, token: bool = True) -> Reconciler:
        town = self.town
        return Reconciler(
            town.store,
            town.transport,
            key("reconciler-1"),
            name="reconciler-1",
            root=town.root,
            clock=town.clock,
            connect=self.connect if token else None,
        )

    def review(self, user: int = BOB, state: ReviewState = "approved", minutes: int = 0, **more: Any) -> None:
        values = {"commit": HEAD, "bot": False, "login": "somebody", **more}
        at = START + timedelta(minutes=minutes)
        self.forge.review(self.merged, RawReview(900, user, state=state, submitted_at=at, **values))

    def passes(self, reconciler: Reconciler, most: int = 12) -> None:
        """Passes until nothing happens any more; the clock stands still."""
        for _ in range(most):
            if reconciler.one_pass(patience=1.0).quiet:
                return
            reconciler.landed.wait(0.5)

    def attestations(self) -> tuple[Attestation, ...]:
        found = read_records(self.town.store, self.town.tip(AUDIT)).of(NAME)
        return found.attestations if found else ()

    def outcome(self) -> str | None:
        found = read_records(self.town.store, self.town.tip(AUDIT)).of(NAME)
        operation = found.operations.get("openai-chat") if found else None
        return operation.result.spec.outcome if operation and operation.result else None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_review_is_recorded_and_the_request_executed_and_audit_proves_it(place: Place) -> None:
    place.review()
    reconciler = place.reconciler()
    place.passes(reconciler)
    (told,) = place.attestations()
    assert (told.spec.number, told.spec.merged, told.spec.head) == (7, place.merged, HEAD)
    assert [(each.user, each.state, each.commit) for each in told.spec.reviews] == [(BOB, "approved", HEAD)]
    assert place.outcome() == "succeeded"
    assert place.town.audit_subjects()[0].startswith(f"{NAME}: reviews of github pull request 7 recorded")
    verdict = verify_audit(
        place.town.store, place.town.root, place.town.tip() or "", place.town.tip(AUDIT) or ""
    )
    assert verdict.holds, verdict
    reconciler.close()


def test_a_review_that_comes_after_the_merge_is_seen_at_the_next_question_or_ring(place: Place) -> None:
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.attestations() == ()
    asked = len(place.forge.asked)
    place.review()
    place.passes(reconciler)
    assert len(place.forge.asked) == asked
    place.town.clock.advance(seconds=3)
    reconciler.ring()
    assert reconciler.landed.is_set()
    place.passes(reconciler)
    assert place.outcome() == "succeeded"
    reconciler.close()


def test_the_forge_is_not_asked_more_often_than_its_interval(place: Place) -> None:
    reconciler = place.reconciler()
    for _ in range(8):
        reconciler.one_pass(patience=0.2)
    assert place.forge.asked.count(f"find {place.merged}") == 1
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert place.forge.asked.count(f"find {place.merged}") == 2
    reconciler.close()


def test_a_forge_that_is_away_is_asked_again_with_growing_pauses_and_the_request_waits(place: Place) -> None:
    place.review()
    place.forge.fail(*[EvidenceUnavailable("ForgeUnreachable", "away\x1b[2J") for _ in range(3)])
    reconciler = place.reconciler()
    for pause in (FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4):
        place.passes(reconciler)
        (why,) = reconciler._evidence.waits().values()
        assert why.startswith("EvidenceUnavailable: ForgeUnreachable")
        assert "\x1b" not in why
        asked = len(place.forge.asked)
        place.town.clock.advance(seconds=pause - 1)
        place.passes(reconciler)
        assert len(place.forge.asked) == asked
        place.town.clock.advance(seconds=2)
    place.passes(reconciler)
    assert place.outcome() == "succeeded"
    assert reconciler._evidence.waits() == {}
    reconciler.close()


def test_a_forge_that_says_when_is_not_asked_before(place: Place) -> None:
    place.review()
    place.forge.fail(EvidenceUnavailable("ForgeRateLimited", "busy", 900.0))
    reconciler = place.reconciler()
    place.passes(reconciler)
    place.town.clock.advance(seconds=890)
    reconciler.ring()
    place.passes(reconciler)
    assert place.outcome() is None
    place.town.clock.advance(seconds=20)
    place.passes(reconciler)
    assert place.outcome() == "succeeded"
    reconciler.close()


def test_a_refusal_waits_for_a_person_and_is_asked_again_all_the_same(place: Place) -> None:
    place.review()
    place.forge.fail(ForgeRefused("ForgeTokenRefused", "no"))
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert list(reconciler._evidence.waits().values()) == ["ForgeTokenRefused: no"]
    place.town.clock.advance(seconds=LONGEST_PAUSE + 1)
    place.passes(reconciler)
    assert place.outcome() == "succeeded"
    reconciler.close()


def test_a_slow_forge_delays_no_pass(place: Place) -> None:
    gate = threading.Event()
    find = place.forge.find

    def slow(commit: str) -> RawPull | None:
        assert gate.wait(20)
        return find(commit)

    place.forge.find = slow  # type: ignore[method-assign]  # a forge that hangs
    place.review()
    place.town.request("rotate-2", approved_by=("bob",))
    reconciler = place.reconciler()
    for _ in range(6):
        reconciler.one_pass(patience=0.5)
    found = read_records(place.town.store, place.town.tip(AUDIT)).of("rotate-2")
    assert found is not None
    assert found.operations["openai-chat"].result is not None
    assert place.outcome() is None
    gate.set()
    place.passes(reconciler)
    assert place.outcome() == "succeeded"
    reconciler.close()


def test_without_a_token_the_request_waits_and_says_so(place: Place) -> None:
    place.review()
    reconciler = place.reconciler(token=False)
    place.passes(reconciler)
    assert place.outcome() is None
    assert next(iter(reconciler._evidence.waits().values())).startswith("ForgeTokenMissing")
    reconciler.close()


def test_nothing_is_recorded_twice_and_comments_alone_are_not_recorded(place: Place) -> None:
    place.review(99)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert len(place.attestations()) == 1
    for minutes in (1, 2):
        place.review(98, "commented", minutes)
        place.town.clock.advance(seconds=EVERY + 1)
        place.passes(reconciler)
    assert len(place.attestations()) == 1
    place.review(BOB, minutes=3)
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert [len(each.spec.reviews) for each in place.attestations()] == [1, 2]
    assert place.outcome() == "succeeded"
    reconciler.close()


@pytest.mark.parametrize(
    "review",
    [
        {"user": ALICE},
        {"user": 99, "login": "bob"},  # a login that was given up and taken by somebody else
        {"bot": True},
        {"commit": "c" * 40},
        {"commit": None},
        {"state": "dismissed"},
        {"state": "commented"},
        {"state": "changes_requested"},
    ],
)
def test_what_is_no_approval_of_bob_at_the_head_executes_nothing(
    place: Place, review: dict[str, Any]
) -> None:
    place.review(**review)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.outcome() is None
    reconciler.close()


@pytest.mark.parametrize("lie", ["other head", "other people", "other files"])
def test_a_forge_that_lies_executes_nothing(tmp_path: Path, lie: Lie) -> None:
    place = Place(tmp_path, lie)
    place.review()
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.outcome() is None
    reconciler.close()


def test_what_rests_on_reviews_is_not_begun_where_the_last_look_at_them_failed(place: Place) -> None:
    """Held, approved, and the forge away: the approval may be dismissed by now."""
    place.review()
    place.town.transport.fail("http://openai-chat.invalid", *["unreachable"] * 3)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert len(place.attestations()) == 1
    assert place.outcome() is None
    # The agent answers again long before the forge does: nothing but the failed look holds the request.
    place.forge.fail(*[EvidenceUnavailable("ForgeUnreachable", "away")] * 5)
    place.town.clock.advance(seconds=EVERY + 1)
    for _ in range(30):
        place.passes(reconciler)
        assert place.outcome() is None
        place.town.clock.advance(seconds=4)
    place.review(BOB, "dismissed", 1)
    place.town.clock.advance(seconds=LONGEST_PAUSE)
    place.passes(reconciler)
    assert len(place.attestations()) == 2
    assert place.outcome() is None
    reconciler.close()


def test_an_approval_that_is_dismissed_before_it_is_acted_on_is_void(place: Place) -> None:
    place.review()
    place.town.transport.fail("http://openai-chat.invalid", *["unreachable"] * 40)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert len(place.attestations()) == 1
    place.review(BOB, "dismissed", 1)
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert len(place.attestations()) == 2
    assert place.outcome() is None
    reconciler.close()
