"""The ninety days of a service: on its page in words and as a picture, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.paths import AUDIT
from capsule.trust.objects import find, first_parents, read_commit
from capsule.web import picture
from capsule.web.app import create_app
from tests.web.chronicle import Chronicle, service_text

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PATH = "services/openai-chat.yaml"
ADDRESS = "/api/v1/services/openai-chat/history"


def _record(story: Chronicle, days_ago: float, status: str, reason: str, **more: object) -> None:
    story.now = NOW - timedelta(days=days_ago)
    story.record(story.status(PATH, status, reason, **more), f"openai-chat: {status}")


@pytest.fixture
def story() -> Chronicle:
    text = service_text("openai-chat", labels={"env": "prod"}, pins={"version": "1"})
    story = Chronicle(NOW - timedelta(days=50), {PATH: text})
    _record(story, 40, "HEALTHY", "HealthUp")
    _record(story, 3, "OFFLINE", "AgentTimeout", message="<b>no answer</b>")
    _record(story, 2.75, "HEALTHY", "HealthUp")
    story.now = NOW
    story.beat({})
    return story


def test_the_page_says_it_in_words_and_shows_every_day(story: Chronicle) -> None:
    page = (
        create_app(lambda: story.store, story.root, lambda: story.now)
        .test_client()
        .get("/services/openai-chat")
    )
    text = page.text
    assert "100 %" in text
    assert "1 incident, longest 6 hours" in text
    assert 'aria-label="The last 90 days: 40 without trouble, 1 with trouble, 49 not known.' in text
    assert "Latest trouble: 2026-11-20: " in text
    assert text.count("<title>2026-") == 90
    assert "<title>2026-11-20: " in text
    assert "<b>no answer</b>" not in text
    assert "<code>AgentTimeout</code>" in text


def test_the_same_as_json(story: Chronicle) -> None:
    client = create_app(lambda: story.store, story.root, lambda: story.now).test_client()
    answer = client.get(ADDRESS)
    value = answer.get_json()
    assert (value["kind"], value["readBackTo"], value["item"]["service"]) == ("History", None, "openai-chat")
    assert [each["uptime"] for each in value["item"]["windows"][:1]] == [1.0]
    (incident,) = value["item"]["incidents"]
    assert (incident["status"], incident["duration"], incident["reason"]) == ("OFFLINE", "6h", "AgentTimeout")
    assert client.get(ADDRESS, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    story.now += timedelta(minutes=1)
    assert client.get(ADDRESS, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 200
    assert client.get("/api/v1/services/nobody/history").status_code == 404


def test_time_without_a_living_reconciler_is_not_known(story: Chronicle) -> None:
    story.now = NOW + timedelta(hours=12)
    client = create_app(lambda: story.store, story.root, lambda: story.now).test_client()
    day = client.get(ADDRESS).get_json()["item"]["windows"][0]
    assert (day["up"], day["unknown"], day["uptime"]) == ("12h", "12h", 1.0)


def test_a_long_history_is_read_in_parts_and_says_so(
    story: Chronicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "HISTORY_STEP", 1)
    client = create_app(lambda: story.store, story.root, lambda: story.now).test_client()
    assert client.get(ADDRESS).get_json()["readBackTo"] == "2026-11-20T18:00:00Z"
    story.now += timedelta(minutes=1)
    assert "The history is being read" in client.get("/services/openai-chat").text
    story.now += timedelta(minutes=1)
    assert client.get(ADDRESS).get_json()["readBackTo"] is None


def test_a_history_that_cannot_be_read_hides_nothing_else(story: Chronicle) -> None:
    client = create_app(lambda: story.store, story.root, lambda: story.now).test_client()
    before = first_parents(story.store, story.ref(AUDIT), story.root)
    tree = read_commit(story.store, list(before)[1]).tree
    old = find(story.store, tree, "status/openai-chat.yaml")
    assert old is not None
    story.store.remove([old.oid])
    page = client.get("/services/openai-chat")
    assert page.status_code == 200
    assert "The history cannot be read now." in page.text
    assert client.get(ADDRESS).get_json()["reason"] == "RepositoryUnreadable"
