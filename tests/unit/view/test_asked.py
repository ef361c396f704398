"""What a request asked for that nobody has on a branch any more: told from audit, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from capsule.documents.paths import AUDIT
from capsule.lifecycle import read_records
from capsule.trust.objects import MissingObject, ObjectKind, parents_of, raw_commit
from capsule.view.asked import with_words_on_audit
from capsule.view.model import RequestRow
from capsule.view.requests import request_row
from tests.web.chronicle import Chronicle, service_text

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
CHAT = "services/chat.yaml"


@pytest.fixture
def story() -> Chronicle:
    return Chronicle(NOW, {CHAT: service_text("chat", labels={"env": "prod"}, pins={"model": "m"})})


def _claimed(story: Chronicle, name: str = "gone", *, taken_in: bool = True) -> RequestRow:
    """The row, from records alone, of a request that was claimed from its branch."""
    asked = story.request(
        name, "rotateKey", ("chat",), reason="Quarterly", params={"grace": "24h"}, branch=True
    )
    branches = [story.ref(f"refs/heads/request/{name}")] if taken_in else []
    trailers = {"Capsule-Request": name, "Capsule-Service": "chat"}
    story.record(story.claim(asked, "chat"), "claimed", trailers, branches=branches)
    story.record(story.status(CHAT, "HEALTHY", "Up"), "status")
    return request_row(None, read_records(story.store, story.ref(AUDIT)).of(name))


def _told(story: Chronicle, row: RequestRow, search: int = 100) -> RequestRow:
    return with_words_on_audit(story.store, story.ref(AUDIT), story.root, row, search)


def test_a_request_that_is_gone_is_told_in_its_own_words(story: Chronicle) -> None:
    gone = _claimed(story)
    assert (gone.why, gone.params, gone.expires) == ("", {}, None)
    found = _told(story, gone)
    assert (found.why, found.params, found.targets) == ("Quarterly", {"grace": "24h"}, ("chat",))
    assert (found.requested_by, found.action, found.phase) == ("alice", "rotateKey", gone.phase)
    assert [(each.why, each.params) for each in found.operations] == [("Quarterly", {"grace": "24h"})]
    assert _told(story, found) is found


def test_it_is_looked_for_only_so_far(story: Chronicle) -> None:
    gone = _claimed(story)
    assert _told(story, gone, 1) is gone
    assert _told(story, gone, 2).why == "Quarterly"


def test_what_audit_never_took_in_stays_untold(story: Chronicle) -> None:
    gone = _claimed(story, taken_in=False)
    assert _told(story, gone) is gone
    assert with_words_on_audit(story.store, None, story.root, gone, 100) is gone


def test_a_history_that_ends_too_early_hides_nothing_else(story: Chronicle) -> None:
    gone = _claimed(story)
    lost = parents_of(raw_commit(story.store, story.ref(AUDIT)))[0]

    class Cut:
        def read(self, oid: str) -> tuple[ObjectKind, bytes]:
            if oid == lost:
                raise MissingObject(oid)
            return story.store.read(oid)

    assert with_words_on_audit(Cut(), story.ref(AUDIT), story.root, gone, 100) is gone


def test_a_damaged_request_is_not_told(story: Chronicle) -> None:
    """Its bytes are those of the record, and no request: whoever claimed it is damaged, too."""
    gone = _claimed(story)
    path = "requests/2026/11/odd/request.yaml"
    damaged = story.commit({path: "?"}, "Break it")
    odd = _claimed(story, "odd", taken_in=False)
    digest = "sha256:" + __import__("hashlib").sha256(b"?").hexdigest()
    from dataclasses import replace

    story.record({}, "x", {"Capsule-Request": "odd"}, branches=[damaged])
    assert _told(story, replace(odd, digest=digest)).why == ""
    assert gone.name == "gone"
