"""A change of a service that was approved by a click and merged in the web page is taken over."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands.repository import open_repository
from capsule.documents.paths import AUDIT, MAIN, ChangeFolder
from capsule.documents.types import ForgeSettings
from capsule.forge.api import EvidenceUnavailable, RawPull, RawReview, RawWriter, ReviewState
from capsule.reconciler import Reconciler
from capsule.reconciler.inquiries import EVERY
from capsule.store.api import Draft, Person, RefUpdate
from capsule.store.git import open_store
from capsule.testing.memory_forge import MemoryForge
from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.objects import file_bytes, parse_commit
from capsule.view.build import snapshot
from tests.agent_fixtures import key
from tests.town import POLICY, START, Town

ALICE, BOB, CAROL = 11, 583231, 77
HEAD = "b" * 40
FORGE = {"kind": "github", "server": "https://forge.example", "repository": "acme/state"}
SERVICE = "services/openai-chat.yaml"


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def policy() -> dict[str, Any]:
    """That of the town, where reviews at the forge let changes of services and settings in."""
    people: Mapping[str, Any] = POLICY["principals"]
    numbers = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    asked = {"mayRequest": ("operators",), "approvals": ({"team": "reviewers", "count": 1},)}
    changes = tuple(
        {"match": {"change": kind}, **asked, "evidence": "forge"} for kind in ("service", "settings")
    )
    return {
        **POLICY,
        "principals": {
            **people,
            **{who: {**people[who], "forge": {"github": number}} for who, number in numbers.items()},
        },
        "rules": (*(rule for rule in POLICY["rules"] if "change" not in rule["match"]), *changes),
    }


class Place:
    """A town at a forge. People change documents by pull requests; nobody of them signs anything."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.town = Town(folder, policy=policy(), settings={"forge": FORGE}, **options)
        self.forge = MemoryForge()
        self.connected = 0

    def connect(self, settings: ForgeSettings) -> MemoryForge:
        self.connected += 1
        return self.forge

    def reconciler(self, name: str = "reconciler-1") -> Reconciler:
        town = self.town
        return Reconciler(
            town.store,
            town.transport,
            key(name),
            name=name,
            root=town.root,
            clock=town.clock,
            connect=self.connect,
        )

    def text(self, model: str) -> bytes:
        return self.town.service_text("openai-chat", pins={"model": model})

    def squash(self, edits: Mapping[str, bytes | None], *, number: int = 7, author: int = ALICE) -> str:
        """The forge's own commit, signed by nobody that the policy knows, and what it knows of it."""
        town = self.town
        old = town.tip()
        assert old is not None
        draft = Draft(
            base=old,
            edits=edits,
            parents=[old],
            message=f"Change (#{number})\n",
            author=Person("Alice", "11+alice@users.noreply.forge.example"),
            at=town.clock.now(),
        )
        made = town.store.write(draft)
        town.store.publish([RefUpdate(MAIN, old, made)])
        blobs = {path: blob_id(data) for path, data in edits.items() if data is not None}
        tree = parse_commit(town.store.read(old)[1]).tree
        held = {path: file_bytes(town.store, tree, path) for path in edits}
        before = {path: blob_id(data) for path, data in held.items() if data is not None}
        self.forge.merge(made, RawPull(number, made, HEAD, author, ()), blobs, before)
        return made

    def review(
        self,
        merged: str,
        user: int = BOB,
        state: ReviewState = "approved",
        *,
        minutes: int = 0,
        head: str = HEAD,
    ) -> None:
        at = START + timedelta(minutes=minutes)
        self.forge.review(merged, RawReview(900 + minutes, user, "somebody", state, head, at, bot=False))

    def passes(self, reconciler: Reconciler, most: int = 12) -> None:
        """Passes until nothing happens any more; the clock stands still."""
        for _ in range(most):
            if reconciler.one_pass(patience=1.0).quiet:
                return
            reconciler.landed.wait(0.5)

    def model(self, reconciler: Reconciler) -> object:
        state = reconciler.in_force
        assert state is not None
        return state.services["openai-chat"].document.spec.pins["model"]

    def proof(self) -> AuditVerdict:
        town = self.town
        return verify_audit(town.store, town.root, town.tip() or "", town.tip(AUDIT))

    def told(self, revision: str, number: int = 1) -> bytes | None:
        tip = self.town.tip(AUDIT)
        tree = parse_commit(self.town.store.read(tip)[1]).tree if tip else ""
        return file_bytes(self.town.store, tree, ChangeFolder(revision).attestation(number))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.town.close()


def test_a_squash_merge_that_bob_approved_is_taken_over_and_a_plain_clone_proves_it(tmp_path: Path) -> None:
    git = tmp_path / "state.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(git)], check=True, timeout=60)
    with closing(open_store(git)) as store:
        place = Place(tmp_path, store=store)
        merged = place.squash({SERVICE: place.text("m2")})
        place.review(merged)
        reconciler = place.reconciler()
        place.passes(reconciler)
        assert place.model(reconciler) == "m2"
        assert place.told(merged) is not None
        assert "change by github pull request 7: reviews recorded" in " ".join(place.town.audit_subjects())
        reconciler.close()
        place.town.close()
        root = place.town.root
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(git), str(clone)], check=True, timeout=60)
    done = CliRunner().invoke(app, ["-C", str(clone), "audit", "verify", "--root", root, "--json"])
    proved = json.loads(done.stdout)
    assert (proved["holds"], proved["originProved"], proved["mainSteps"]) == (True, True, 2), proved
    repository = open_repository(clone, root)
    state = repository.state
    repository.close()
    assert state.services["openai-chat"].document.spec.pins["model"] == "m2"
    assert (state.services["openai-chat"].approved_by, state.findings) == (("bob",), ())


def test_what_is_not_approved_waits_and_is_taken_over_when_the_review_comes(place: Place) -> None:
    merged = place.squash({SERVICE: place.text("m2")})
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.model(reconciler) == "m1"
    state = reconciler.in_force
    assert state is not None
    (change,) = state.pending
    assert (change.reason, change.authors) == ("ApprovalsMissing", ("alice",))
    place.review(merged)
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert place.model(reconciler) == "m2"
    assert place.told(merged, 2) is not None
    assert place.proof().holds
    reconciler.close()


def test_the_same_facts_are_recorded_once_and_a_dismissal_after_taking_over_changes_nothing(
    place: Place,
) -> None:
    merged = place.squash({SERVICE: place.text("m2")})
    place.review(merged, 99)
    reconciler = place.reconciler()
    for _ in range(3):
        place.passes(reconciler)
        place.town.clock.advance(seconds=EVERY + 1)
    assert place.told(merged) is not None
    assert place.told(merged, 2) is None
    place.review(merged, minutes=1)
    place.passes(reconciler)
    assert place.model(reconciler) == "m2"
    place.review(merged, state="dismissed", minutes=2)
    asked = len(place.forge.asked)
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert len(place.forge.asked) == asked
    assert place.told(merged, 3) is None
    assert place.model(reconciler) == "m2"
    assert place.proof().holds
    reconciler.close()


def test_main_that_went_on_meanwhile_keeps_what_was_said_and_is_judged_alike_by_a_new_reconciler(
    place: Place,
) -> None:
    merged = place.squash({SERVICE: place.text("m2")})
    place.review(merged)
    reconciler = place.reconciler()
    place.passes(reconciler)
    place.squash({"README.md": b"x"}, number=8)
    place.passes(reconciler)
    other = place.reconciler("reconciler-2")
    place.passes(other)
    assert place.model(other) == place.model(reconciler) == "m2"
    assert place.proof().holds
    reconciler.close()
    other.close()


def test_a_forge_that_is_away_is_told_with_the_change_and_asked_again(place: Place) -> None:
    merged = place.squash({SERVICE: place.text("m2")})
    place.review(merged)
    place.forge.fail(EvidenceUnavailable("ForgeUnreachable", "away"))
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.model(reconciler) == "m1"
    (why,) = [why for path, why in reconciler._evidence.waits().items() if path == SERVICE]
    assert why.startswith("EvidenceUnavailable: ForgeUnreachable")
    shown = snapshot(place.town.store, place.town.store.refs(), place.town.root, now=place.town.clock.now())
    (row,) = [each for each in shown.conditions if each.type == "ReviewsAwaited"]
    assert "services/openai-chat.yaml: EvidenceUnavailable" in row.message
    place.town.clock.advance(seconds=EVERY + 1)
    place.passes(reconciler)
    assert place.model(reconciler) == "m2"
    reconciler.close()


def test_an_answer_that_no_document_may_hold_is_told_and_recorded_nowhere(place: Place) -> None:
    merged = place.squash({SERVICE: place.text("m2")}, author=0)
    place.review(merged)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.told(merged) is None
    assert "ForgeAnswerMalformed" in reconciler._evidence.waits()[SERVICE]
    reconciler.close()


def test_a_change_of_settings_is_taken_over_and_what_is_asked_next_is_judged_by_it(place: Place) -> None:
    text = place.town.file("capsule.yaml").replace(b"maxShare: 100", b"maxShare: 90")
    merged = place.squash({"capsule.yaml": text})
    place.review(merged)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert reconciler.in_force is not None
    assert reconciler.in_force.settings.document.spec.limits.max_share == 90
    assert place.proof().holds
    reconciler.close()


def test_who_wrote_a_commit_of_it_does_not_approve_it(place: Place) -> None:
    merged = place.squash({SERVICE: place.text("m2")})
    place.forge.written[7] = [RawWriter(BOB, "x@example.com"), RawWriter(None, "carol@example.com")]
    place.review(merged)
    place.review(merged, CAROL, minutes=1)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.model(reconciler) == "m1"
    assert reconciler.in_force is not None
    assert "SelfReview" in reconciler.in_force.pending[0].message
    assert place.proof().holds
    reconciler.close()


def test_a_pull_request_that_became_several_steps_brings_what_they_changed_together(place: Place) -> None:
    first = place.squash({SERVICE: place.text("m2")})
    last = place.squash({SERVICE: place.text("m3")})
    blobs = {SERVICE: blob_id(place.text("m3"))}
    for step in (first, last):
        before = {SERVICE: blob_id(place.text("m1"))}
        place.forge.merge(step, RawPull(7, last, HEAD, ALICE, ()), blobs, before)
    for step in (first, last):
        place.review(step)
    reconciler = place.reconciler()
    place.passes(reconciler)
    assert place.model(reconciler) == "m3"
    assert place.proof().holds
    reconciler.close()


def test_an_order_is_never_claimed_by_what_reviews_of_this_very_pass_changed(place: Place) -> None:
    place.town.request("rotate-2", approved_by=("bob",))
    merged = place.squash({SERVICE: place.text("m2")})
    place.review(merged)
    reconciler = place.reconciler()
    place.passes(reconciler, most=30)
    assert place.model(reconciler) == "m2"
    verdict = place.proof()
    assert verdict.holds, verdict.first_bad
    reconciler.close()
