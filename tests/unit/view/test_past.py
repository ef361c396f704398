"""The past of statuses: read backwards once, kept, and brought forward with each new commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.codec import emit
from capsule.documents.paths import AUDIT
from capsule.documents.types import ServiceStatus
from capsule.trust.objects import BadObject, MissingObject, ObjectKind
from capsule.view.past import StatusPast
from tests.web.chronicle import Chronicle, service_text

BEGUN = datetime(2026, 11, 1, tzinfo=UTC)
LONG_AGO = BEGUN - timedelta(days=90)
A, B = "services/a.yaml", "services/b.yaml"


def _service(name: str) -> str:
    return service_text(name, labels={"env": "prod"}, pins={"version": "1"})


@pytest.fixture
def story() -> Chronicle:
    return Chronicle(BEGUN, {A: _service("a"), B: _service("b")})


class Counting:
    """Reads from a store, and counts."""

    def __init__(self, story: Chronicle) -> None:
        self.story = story
        self.seen: list[ObjectKind] = []

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        found = self.story.store.read(oid)
        self.seen.append(found[0])
        return found


def _bring(story: Chronicle, past: StatusPast, since: datetime = LONG_AGO, limit: int = 1000) -> StatusPast:
    past.bring_to(story.store, story.store.refs().get(AUDIT), story.root, since, limit)
    return past


def _go(story: Chronicle, hours: float, path: str, status: str, reason: str = "Why", **more: object) -> None:
    story.now += timedelta(hours=hours)
    story.record(story.status(path, status, reason, **more), f"{path} {status}")


def _told(story: Chronicle, past: StatusPast, name: str) -> list[tuple[float, str | None]]:
    found = past.moments(story.store, name)
    return [((each.start - BEGUN) / timedelta(hours=1), each.status) for each in found]


def test_nothing_before_the_first_pass(story: Chronicle) -> None:
    past = _bring(story, StatusPast())
    assert (past.complete, past.names(), past.moments(story.store, "a")) == (True, frozenset(), ())


def test_each_service_has_its_moments_by_its_own_since(story: Chronicle) -> None:
    _go(story, 1, A, "UNKNOWN")
    _go(story, 1, B, "HEALTHY")
    _go(story, 1, A, "HEALTHY")
    _go(story, 1, B, "OFFLINE", since=(BEGUN + timedelta(hours=3.5)).isoformat()[:19] + "Z")
    past = _bring(story, StatusPast())
    assert past.complete
    assert past.names() == {"a", "b"}
    assert _told(story, past, "a") == [(1, "UNKNOWN"), (3, "HEALTHY")]
    assert _told(story, past, "b") == [(2, "HEALTHY"), (3.5, "OFFLINE")]


def test_a_new_tip_costs_what_is_new(story: Chronicle) -> None:
    for at in range(20):
        _go(story, 1, A, "OFFLINE" if at % 2 else "HEALTHY")
    past = _bring(story, StatusPast())
    assert len(past.moments(story.store, "a")) == 20
    _go(story, 1, B, "HEALTHY")
    reader = Counting(story)
    past.bring_to(reader, story.ref(AUDIT), story.root, LONG_AGO, 1000)
    past.moments(reader, "a")
    assert len(reader.seen) < 8
    assert _told(story, past, "b") == [(21, "HEALTHY")]
    again = Counting(story)
    past.bring_to(again, story.ref(AUDIT), story.root, LONG_AGO, 1000)
    assert again.seen == []


def test_documents_are_read_only_of_the_service_that_is_looked_at(story: Chronicle) -> None:
    for at in range(6):
        _go(story, 1, A if at % 2 else B, "OFFLINE" if at % 4 > 1 else "HEALTHY")
    reader = Counting(story)
    past = StatusPast()
    past.bring_to(reader, story.ref(AUDIT), story.root, LONG_AGO, 1000)
    assert "blob" not in reader.seen
    past.moments(reader, "a")
    assert reader.seen.count("blob") == 3


def test_a_long_history_is_read_in_parts_and_told_as_far_as_it_is_read(story: Chronicle) -> None:
    for at in range(10):
        _go(story, 1, A, "OFFLINE" if at % 2 else "HEALTHY")
    past = _bring(story, StatusPast(), limit=4)
    assert (past.complete, past.reached) == (False, BEGUN + timedelta(hours=7))
    # The document before the oldest commit read says itself since when it was so.
    assert _told(story, past, "a")[0] == (6, "OFFLINE")
    while not past.complete:
        _bring(story, past, limit=4)
    assert _told(story, past, "a") == _told(story, _bring(story, StatusPast()), "a")


def test_reading_ends_before_the_window_and_one_wrong_clock_does_not_end_it(story: Chronicle) -> None:
    for at in range(30):
        _go(story, 1, A, "OFFLINE" if at % 2 else "HEALTHY")
    now = story.now
    story.now = datetime(1971, 1, 1, tzinfo=UTC)
    story.record(story.status(B, "HEALTHY", "Why"), "a clock that was reset")
    story.now = now
    _go(story, 1, A, "HEALTHY", "HealthUp")
    past = _bring(story, StatusPast(), since=BEGUN + timedelta(hours=25))
    assert past.complete
    assert past.reached == BEGUN + timedelta(hours=9)  # sixteen commits in a row were older
    assert _told(story, past, "a")[-2:] == [(30, "OFFLINE"), (31, "HEALTHY")]


def test_what_has_left_the_window_is_let_go(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    past = _bring(story, StatusPast())
    for at in range(10):
        _go(story, 24, A, "HEALTHY" if at % 2 else "OFFLINE")
        _bring(story, past, since=story.now - timedelta(hours=30))
    assert len(_told(story, past, "a")) < 5


def test_same_word_same_reason_is_no_new_moment_and_a_new_reason_is_one(story: Chronicle) -> None:
    since = {"since": "2026-11-01T01:00:00Z"}
    _go(story, 1, A, "UNHEALTHY", "HealthDown")
    _go(story, 1, A, "UNHEALTHY", "HealthDown", version="2", **since)
    _go(story, 1, A, "UNHEALTHY", "HealthDegraded", **since)
    found = _bring(story, StatusPast()).moments(story.store, "a")
    assert [(each.start.hour, each.reason) for each in found] == [(1, "HealthDown"), (3, "HealthDegraded")]


def test_a_since_from_the_future_counts_from_its_commit(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY", since="2030-01-01T00:00:00Z")
    _go(story, 1, A, "OFFLINE", since="2030-01-01T00:00:00Z")
    _go(story, 1, A, "HEALTHY", since="1999-01-01T00:00:00Z")
    assert _told(story, _bring(story, StatusPast()), "a") == [(1, "HEALTHY"), (2, "OFFLINE"), (3, "HEALTHY")]


def test_a_service_that_moves_is_the_same_and_one_that_is_retired_is_not_known(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    story.now += timedelta(hours=1)
    moved = story.status("services/prod/a.yaml", "HEALTHY", "Why", since="2026-11-01T01:00:00Z")
    story.record({"status/a.yaml": None, **moved}, "a moved")
    _go(story, 1, "services/prod/a.yaml", "OFFLINE")
    past = _bring(story, StatusPast())
    story.now += timedelta(hours=1)
    story.record({"status/prod/a.yaml": None}, "a was retired")
    story.record({"status/gone.yaml": b"no document"}, "damaged")
    story.record({"status/gone.yaml": None}, "and gone")
    for each in (_bring(story, past), _bring(story, StatusPast())):
        assert _told(story, each, "a") == [(1, "HEALTHY"), (3, "OFFLINE"), (4, None)]
        assert _told(story, each, "gone") == []


def test_a_status_that_cannot_be_read_is_not_known(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    story.now += timedelta(hours=1)
    story.record({"status/a.yaml": b"no document"}, "damaged")
    story.record({"status/a.yaml": b"none either"}, "again")
    assert _told(story, _bring(story, StatusPast()), "a") == [(1, "HEALTHY"), (2, None)]


def test_an_audit_that_was_replaced_is_read_anew(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    past = _bring(story, StatusPast())
    other = Chronicle(BEGUN, {A: _service("a")})
    other.record(other.status(A, "OFFLINE", "Why"), "another story")
    _bring(other, past)
    assert _told(other, past, "a") == [(0, "OFFLINE")]
    past.bring_to(other.store, None, other.root, LONG_AGO, 1000)
    assert past.names() == frozenset()


def test_a_clone_that_ends_early_tells_what_it_has(story: Chronicle) -> None:
    commits = []
    for at in range(6):
        _go(story, 1, A, "OFFLINE" if at % 2 else "HEALTHY")
        commits.append(story.ref(AUDIT))
    whole = _bring(story, StatusPast())
    story.store.remove(commits[:3])
    past = _bring(story, StatusPast())
    assert past.complete
    # What its oldest commit changed is not known, but its document says since when it was so.
    assert _told(story, past, "a") == [(4, "OFFLINE"), (5, "HEALTHY"), (6, "OFFLINE")]
    lost = StatusPast()
    lost.tip = commits[0]
    _bring(story, lost)
    assert _told(story, lost, "a") == _told(story, past, "a")
    story.store.remove([story.ref(AUDIT)])
    with pytest.raises(MissingObject):
        _bring(story, StatusPast())
    assert len(_told(story, whole, "a")) == 6


def test_memory_is_bounded(story: Chronicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsule.view.past._KEPT_DOCUMENTS", 2)
    monkeypatch.setattr("capsule.view.past._KEPT_TREES", 2)
    for at in range(6):
        _go(story, 1, A, "OFFLINE" if at % 2 else "HEALTHY")
    assert len(_told(story, _bring(story, StatusPast()), "a")) == 6


@pytest.mark.parametrize(
    "message", ["", "no answer within 5s (timeout)", 'it\'s: "odd" #1', "ends with a space "]
)
def test_what_is_read_fast_is_what_the_codec_reads(story: Chronicle, message: str) -> None:
    more = {"message": message} if message else {}
    _go(story, 1, A, "OFFLINE", "AgentTimeout", **more)
    (only,) = _bring(story, StatusPast()).moments(story.store, "a")
    assert (only.status, only.reason, only.message) == ("OFFLINE", "AgentTimeout", message)


@pytest.mark.parametrize(("old", "new"), [(b"HEALTHY", b"HEALTHIER"), (b"2026-11-01", b"2026-99-01")])
def test_a_status_that_is_almost_one_is_none(story: Chronicle, old: bytes, new: bytes) -> None:
    (document,) = story.status(A, "HEALTHY", "Why").values()
    assert isinstance(document, ServiceStatus)
    story.record({"status/a.yaml": emit(document).replace(old, new)}, "almost")
    assert _told(story, _bring(story, StatusPast()), "a") == []


def test_a_history_that_is_no_tree_is_refused(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    good = story.ref(AUDIT)
    for broken in (b"100644 a.yaml\0too short", b""):
        kind: ObjectKind = "tree" if broken else "blob"
        inner = story.store.put(kind, broken)
        tree = story.store.put("tree", b"40000 status\0" + bytes.fromhex(inner))
        lines = story.store.read(good)[1].split(b"\n")
        author = next(line for line in lines if line.startswith(b"author "))
        body = b"\n".join(
            [
                b"tree " + tree.encode(),
                b"parent " + good.encode(),
                author,
                author.replace(b"author", b"committer"),
            ]
        )
        past = _bring(story, StatusPast())
        with pytest.raises(BadObject):
            past.bring_to(
                story.store, story.store.put("commit", body + b"\n\nodd\n"), story.root, LONG_AGO, 9
            )


def test_a_tree_that_unfolds_beyond_measure_is_refused(story: Chronicle) -> None:
    _go(story, 1, A, "HEALTHY")
    past = _bring(story, StatusPast())
    deep = "/".join(["d"] * 20)
    story.now += timedelta(hours=1)
    story.record({f"status/{deep}/{deep}/a.yaml": b"x"}, "deep")
    with pytest.raises(BadObject):
        _bring(story, past)
