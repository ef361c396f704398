"""A thief with a reconciler's key invents or removes reviews of changes in the past; honest reconcilers stop.

Signatures alone do not tell when a review was recorded: what others record of them has to prove.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from capsule.documents.codec import emit, load_as
from capsule.documents.paths import AUDIT, MAIN, ChangeFolder
from capsule.documents.types import ChangeAttestation
from capsule.reconciler import PassReport, Reconciler
from capsule.reconciler.inquiries import EVERY
from capsule.reconciler.watching import PROVED, SEEN
from capsule.store.api import Draft, Person, RefUpdate
from capsule.trust.objects import parse_commit
from capsule_agent.protocol.sshsig import COMMIT
from tests.agent_fixtures import key
from tests.integration.test_changes_by_forge import SERVICE, Place, blob_id

THIEF = "reconciler-2"
EVIL = "EVIL"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.town.close()


def _pushed(place: Place, edits: Mapping[str, bytes | None]) -> str:
    """A step of main that nobody signed or reviewed."""
    town = place.town
    old = town.tip()
    assert old is not None
    mallory = Person("mallory", "mallory@example.com")
    made = town.store.write(Draft(old, edits, [old], "push\n", mallory, town.clock.now()))
    town.store.publish([RefUpdate(MAIN, old, made)])
    return made


def _stolen(place: Place, edits: Mapping[str, bytes | None]) -> str:
    """A commit on audit, well signed with the key of a reconciler; returns where audit was."""
    town = place.town
    old = town.tip(AUDIT)
    assert old is not None
    revision = parse_commit(town.store.read(old)[1]).trailers["Capsule-Revision"][-1]
    person = Person(THIEF, f"{THIEF}@reconciler.invalid")
    draft = Draft(
        base=old,
        edits=edits,
        parents=[old],
        message=f"x\n\nCapsule-Revision: {revision}\n",
        author=person,
        at=town.clock.now(),
        sign=lambda data: key(THIEF).sign(data, COMMIT),
    )
    made = town.store.write(draft)
    town.store.publish([RefUpdate(AUDIT, old, made)])
    return old


def _invented(place: Place, step: str, genuine: str) -> ChangeAttestation:
    """Bob's approval of what that step brought, which he never gave, after the one he gave for another."""
    text = place.told(genuine)
    assert text is not None
    told = load_as(ChangeAttestation, text, "records")
    lies = {
        "revision": step,
        "steps": (step,),
        "merged": step,
        "paths": {SERVICE: blob_id(place.text(EVIL))},
        "bases": {SERVICE: blob_id(place.text("m2"))},
        "reconciler": THIEF,
        "observed_at": place.town.clock.now(),
    }
    assert lies.keys() <= type(told.spec).model_fields.keys()
    return told.model_copy(update={"spec": told.spec.model_copy(update=lies)})


def _later(place: Place, reconciler: Reconciler) -> PassReport:
    """Some passes, a minute between them, so that whatever is due is done."""
    for _ in range(4):
        place.town.clock.advance(minutes=1)
        report = reconciler.one_pass(patience=1.0)
    return report


def _reverted(place: Place, reconciler: Reconciler) -> tuple[str, bytes]:
    """Evil bytes were pushed and reverted to m2, and audit has taken in both: the step that brought them, and
    an approval of it that was never given."""
    genuine = place.squash({SERVICE: place.text("m2")})
    place.review(genuine)
    place.passes(reconciler)
    step = _pushed(place, {SERVICE: place.text(EVIL)})
    place.passes(reconciler)
    _pushed(place, {SERVICE: place.text("m2")})
    place.passes(reconciler)
    assert place.model(reconciler) == "m2"
    assert place.proof().holds
    return step, emit(_invented(place, step, genuine))


def _approved_twice(place: Place, reconciler: Reconciler) -> str:
    """m2, then m3 were reviewed and taken over; the step that brought m3."""
    for number, model in ((7, "m2"), (8, "m3")):
        step = place.squash({SERVICE: place.text(model)}, number=number)
        place.review(step)
        place.passes(reconciler)
        assert place.model(reconciler) == model
    assert place.proof().holds
    return step


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_review_invented_in_the_past_brings_no_reverted_bytes_in_force(
    place: Place, restarted: bool
) -> None:
    honest = place.reconciler()
    step, lie = _reverted(place, honest)
    if restarted:
        honest.close()
    good = _stolen(place, {ChangeFolder(step).attestation(1): lie})
    forged = place.town.tip(AUDIT)
    if restarted:
        honest = place.reconciler()
    report = _later(place, honest)
    assert report.stalled.startswith("AuditUntrusted")
    assert "AttestationMismatch" in report.stalled
    assert place.model(honest) == "m2"
    assert place.town.tip(AUDIT) == forged
    honest.close()
    again = place.reconciler()
    assert _later(place, again).stalled.startswith("AuditUntrusted")
    assert place.model(again) == "m2"
    place.town.store.publish([RefUpdate(AUDIT, forged, good)])
    assert not _later(place, again).stalled
    assert place.model(again) == "m2"
    again.close()


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_review_deleted_in_the_past_takes_nothing_out_of_force(place: Place, restarted: bool) -> None:
    honest = place.reconciler()
    step = _approved_twice(place, honest)
    if restarted:
        honest.close()
    _stolen(place, {ChangeFolder(step).attestation(1): None})
    if restarted:
        honest = place.reconciler()
    report = _later(place, honest)
    assert "RecordDeleted" in report.stalled
    assert place.model(honest) == "m3"
    honest.close()
    again = place.reconciler()
    assert "RecordDeleted" in _later(place, again).stalled
    assert place.model(again) == "m3"
    again.close()


def test_a_review_rewritten_or_hidden_among_good_commits_is_found(place: Place) -> None:
    honest = place.reconciler()
    step = _approved_twice(place, honest)
    path = ChangeFolder(step).attestation(1)
    text = place.told(step)
    assert text is not None
    _stolen(place, {path: None})
    _stolen(place, {path: text})
    _stolen(place, {"status/openai-chat.yaml": b"x"})
    assert "RecordDeleted" in _later(place, honest).stalled
    assert place.model(honest) == "m3"
    honest.close()


def test_what_was_seen_signed_counts_as_proved_for_nobody(place: Place) -> None:
    honest = place.reconciler()
    step, lie = _reverted(place, honest)
    honest.close()
    _stolen(place, {ChangeFolder(step).attestation(1): lie})
    store = place.town.store
    seen, proved, forged = store.refs(SEEN)[SEEN], store.refs(PROVED)[PROVED], place.town.tip(AUDIT)
    assert seen == proved
    # As a reconciler left it that proved signatures alone, and kept nothing of what it proved.
    store.publish([RefUpdate(SEEN, seen, forged), RefUpdate(PROVED, proved, None)])
    for _ in range(2):
        again = place.reconciler()
        assert "AttestationMismatch" in _later(place, again).stalled
        assert place.model(again) == "m1"  # where nothing is proved, no review is heard
        again.close()
    assert PROVED not in store.refs(PROVED)


def test_reviews_that_another_honest_reconciler_recorded_are_proved_and_heard(place: Place) -> None:
    first, second = place.reconciler(), place.reconciler("reconciler-2")
    place.passes(first)
    place.passes(second)
    for number, model, writer, reader in ((7, "m2", first, second), (8, "m3", second, first)):
        step = place.squash({SERVICE: place.text(model)}, number=number)
        place.passes(writer)
        place.review(step)
        place.town.clock.advance(seconds=EVERY + 1)
        place.passes(writer)
        found = place.told(step, 2)
        assert found is not None
        told = load_as(ChangeAttestation, found, "records")
        assert told.spec.reconciler == ("reconciler-1" if writer is first else "reconciler-2")
        assert not _later(place, reader).stalled
        assert place.model(reader) == place.model(writer) == model
        assert place.town.store.refs(PROVED)[PROVED] == place.town.store.refs(SEEN)[SEEN]
    # What is gone on from is a proof all the same: the next lie is found.
    _stolen(place, {ChangeFolder(step).attestation(1): None})
    for each in (first, second):
        assert "RecordDeleted" in _later(place, each).stalled
        each.close()
