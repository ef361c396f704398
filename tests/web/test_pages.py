"""The dashboard as a client sees it: headers, tags, refusals, and that nothing a document says can act."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from capsule.store.api import NotARepository, RefUpdate, Store
from capsule.web.app import create_app
from tests.web.chronicle import POLICY_TEXT, Chronicle, service_text
from tests.web.integration_services import NOW, ROTATE_OPENAI, ROTATE_TWO, integration_services, probes

PAGES = (
    "/",
    "/?q=openai&label=team%3Dsearch&status=attention",
    "/services/openai-chat",
    "/services/embeddings",
    "/requests",
    "/requests?phase=open",
    f"/requests/{ROTATE_OPENAI}",
    f"/requests/{ROTATE_TWO}",
    "/audit",
    "/audit?service=openai-chat&since=30d",
)
JSON_PAGES = (
    "/api/v1",
    "/api/v1/services",
    "/api/v1/services/openai-chat",
    "/api/v1/services/openai-chat/history",
    "/api/v1/requests",
    f"/api/v1/requests/{ROTATE_OPENAI}",
    "/api/v1/audit",
)


class Desk:
    """A dashboard over a history that can go on, with a clock that tests move."""

    def __init__(self, story: Chronicle) -> None:
        self.story = story
        self.app = create_app(lambda: story.store, story.root, lambda: story.now)
        self.client: FlaskClient = self.app.test_client()

    def get(self, path: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(path, headers=named)


@pytest.fixture(scope="module")
def settled() -> Desk:
    """A dashboard that no test changes."""
    return Desk(integration_services())


@pytest.fixture
def desk() -> Desk:
    """A dashboard for tests that go on with the history."""
    return Desk(integration_services())


# ---- every answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*PAGES, *JSON_PAGES, "/assets/capsule.css", "/assets/capsule.js", "/favicon.ico"]
)
def test_every_answer_is_sealed_and_tagged(settled: Desk, path: str) -> None:
    answer = settled.get(path)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert not answer.headers["ETag"].startswith("W/")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", [*PAGES, *JSON_PAGES])
def test_the_same_picture_is_not_sent_twice(settled: Desk, path: str) -> None:
    tag = settled.get(path).headers["ETag"]
    again = settled.get(path, If_None_Match=tag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    assert again.headers["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/services/openai-chat", "/api/v1/services", "/nowhere"])
def test_nothing_can_be_changed(settled: Desk, method: str, path: str) -> None:
    answer = settled.client.open(path, method=method)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_head_is_get_without_its_body(settled: Desk) -> None:
    get, head = settled.client.get("/"), settled.client.head("/")
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == get.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/api/v1/services", "/assets/capsule.css"])
def test_a_name_that_was_rebound_to_this_address_is_refused(settled: Desk, path: str) -> None:
    answer = settled.get(path, Host="evil.example:8000")
    assert answer.status_code == 421
    assert b"openai-chat" not in answer.data


def test_a_versioned_asset_may_be_kept_for_ever(settled: Desk) -> None:
    assert "immutable" in settled.get("/assets/capsule.css?v=1").headers["Cache-Control"]
    assert settled.get("/assets/capsule.css").headers["Cache-Control"] == "private, no-cache"
    assert settled.get("/assets/..%2fapp.py").status_code == 404


# ---- what changes the tag -------------------------------------------------------------------------


def _changes(desk: Desk, path: str) -> bool:
    """Whether the page was sent anew since it was last looked at."""
    tag = desk.client.environ_base.get("tag", "")
    answer = desk.get(path, If_None_Match=tag)
    desk.client.environ_base["tag"] = answer.headers["ETag"]
    return answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/services/openai-chat", "/api/v1/services"])
def test_a_new_commit_on_either_branch_or_a_heartbeat_is_a_new_page(desk: Desk, path: str) -> None:
    assert _changes(desk, path)
    assert not _changes(desk, path)
    desk.story.commit({"README.md": "hello\n"}, "Say hello")
    assert _changes(desk, path)
    desk.story.record({}, "take in main")
    assert _changes(desk, path)
    desk.story.beat(probes(desk.story), interval=11)
    assert _changes(desk, path)
    assert not _changes(desk, path)


def test_a_new_request_branch_is_a_new_page(desk: Desk) -> None:
    assert _changes(desk, "/requests")
    desk.story.request("20261123-new-a1b2", "rotateKey", ("embeddings",), reason="New", branch=True)
    assert _changes(desk, "/requests")
    assert b"20261123-new-a1b2" in desk.get("/requests").data


@pytest.mark.parametrize("path", ["/", "/api/v1/services"])
def test_a_dead_reconciler_never_hides_behind_a_304(desk: Desk, path: str) -> None:
    desk.story.now = NOW.replace(second=0)
    desk.story.beat(probes(desk.story))
    tag = desk.get(path).headers["ETag"]
    desk.story.now += timedelta(seconds=91)
    answer = desk.get(path, If_None_Match=tag)
    assert answer.status_code == 200
    rows = desk.get("/api/v1/services").json
    assert {row["status"] for row in rows["items"]} == {"STALE"}
    assert [beat["alive"] for beat in rows["repository"]["heartbeats"]] == [False]
    assert b"silent for" in desk.get("/").data


def test_json_does_not_move_with_the_clock_alone(desk: Desk) -> None:
    tag = desk.get("/api/v1/services").headers["ETag"]
    desk.story.now += timedelta(seconds=60)
    assert desk.get("/api/v1/services", If_None_Match=tag).status_code == 304


def test_a_request_that_expires_is_a_new_page(desk: Desk) -> None:
    tag = desk.get("/api/v1/requests").headers["ETag"]
    desk.story.now += timedelta(days=7)
    answer = desk.get("/api/v1/requests", If_None_Match=tag)
    assert answer.status_code == 200
    phases = {row["name"]: row["phase"] for row in answer.json["items"]}
    assert phases[ROTATE_TWO] == "Expired"


# ---- what the pages say ---------------------------------------------------------------------------


def test_the_list_answers_the_question_it_is_for(settled: Desk) -> None:
    text = settled.get("/").text.replace("<wbr>", "")
    assert "4 of 8 services need attention, 3 are fine, 1 is switched off." in text
    for part in (
        "gpt-5.1",
        "1.8.2",
        "api.openai.com/v1",
        "by <b>alice</b>, approved by <b>bob</b>",
        "reconciler-1 alive",
    ):
        assert part in text
    assert text.index("salesforce-sync") < text.index(">anthropic-messages<")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=OPENAI+prod", {"openai-chat"}),
        ("label=team%3Dsearch", {"openai-chat", "anthropic-messages", "embeddings"}),
        ("label=team%3Dsearch&label=env%3Dprod", {"openai-chat", "anthropic-messages"}),
        ("status=OFFLINE", {"salesforce-sync"}),
        ("status=attention", {"salesforce-sync", "zendesk-tickets", "embeddings", "maps-geocoder"}),
        ("q=nothing-like-this", set()),
    ],
)
def test_filters_show_the_same_in_both_forms(settled: Desk, query: str, names: set[str]) -> None:
    answer = settled.get(f"/api/v1/services?{query}").json
    assert {row["name"] for row in answer["items"]} == names
    assert answer["total"] == len(names)
    text = settled.get(f"/?{query}").text
    for name in ("openai-chat", "salesforce-sync", "maps-geocoder"):
        assert (f'href="/services/{name}"' in text) == (name in names)
    assert ("No service fits" in text) == (not names)


def test_a_service_shows_desired_beside_observed_and_what_was_done(settled: Desk) -> None:
    text = settled.get("/services/embeddings").text
    assert "text-embedding-4-large" in text
    assert "text-embedding-4-small" in text
    assert "the new key was refused by the upstream" in text
    assert "Vendor advisory 2026-118" in text
    item = settled.get("/api/v1/services/openai-chat").json["item"]
    assert item["lastRotation"]["requestedBy"] == "alice"
    assert item["lastRotation"]["approvedBy"] == ["bob"]
    assert item["operations"][0]["outputs"]["keyId"] == "key_7Qm2"


def test_a_proposed_request_says_what_is_missing_and_who_can_give_it(settled: Desk) -> None:
    text = settled.get(f"/requests/{ROTATE_TWO}").text
    assert "<b>1 approval</b> of team <b>reviewers</b>" in text
    assert "<b>bob</b> and <b>carol</b> may give it" in text
    assert f"capsule approve {ROTATE_TWO}" in text
    assert f"capsule reject {ROTATE_TWO} --reason" in text
    assert "SEC-77" in text


def test_an_approved_request_shows_its_evidence(settled: Desk) -> None:
    item = settled.get(f"/api/v1/requests/{ROTATE_OPENAI}").json["item"]
    assert item["phase"] == "Succeeded"
    assert item["approvals"] == [
        {
            "principal": "bob",
            "decision": "approve",
            "counts": True,
            "evidence": "signature",
            "reason": "",
            "message": "",
        }
    ]


@pytest.mark.parametrize(
    "path", ["/services/openai-chatt", "/requests/nope", "/nowhere", "/api/v1/services/x", "/api/v1/nowhere"]
)
def test_what_does_not_exist_has_a_page_of_its_own(settled: Desk, path: str) -> None:
    answer = settled.get(path)
    assert answer.status_code == 404
    if path.startswith("/api/"):
        assert answer.mimetype == "application/problem+json"
        assert answer.json["reason"]
    else:
        assert "Traceback" not in answer.text
    if path.endswith("chatt"):
        assert 'href="/services/openai-chat"' in answer.text


@pytest.mark.parametrize(
    "path",
    ["/?status=HAPPY", "/?page=zero", "/requests?phase=x", "/audit?since=soon", "/api/v1/services?label=x"],
)
def test_a_question_nobody_can_answer_says_what_was_expected(settled: Desk, path: str) -> None:
    answer = settled.get(path)
    assert answer.status_code == 400
    assert "xpected" in answer.text or "name=value" in answer.text


# ---- the trail --------------------------------------------------------------------------------------


def test_the_trail_is_newest_first_and_filters(settled: Desk) -> None:
    rows = settled.get("/api/v1/audit").json["items"]
    assert rows[0]["subject"] == "take in main"
    assert rows == sorted(rows, key=lambda row: row["at"], reverse=True)
    of_service = settled.get("/api/v1/audit?service=openai-chat&action=rotateKey").json["items"]
    assert [row["subject"] for row in of_service] == [
        "rotateKey openai-chat: succeeded",
        "claim rotateKey openai-chat",
    ]
    assert not settled.get("/api/v1/audit?service=nobody").json["items"]
    assert "Nothing fits" in settled.get("/audit?service=nobody").text
    recent = settled.get("/api/v1/audit?since=2026-11-22").json["items"]
    assert 0 < len(recent) < len(rows)


def test_the_trail_goes_on_page_by_page(desk: Desk) -> None:
    for at in range(250):
        desk.story.now += timedelta(seconds=1)
        desk.story.record({f"status/filler/{at}.txt": b"x"}, f"fact {at}")
    seen: list[str] = []
    address: str | None = "/api/v1/audit"
    while address:
        page = desk.get(address).json
        seen += [row["commit"] for row in page["items"]]
        address = page["next"]
    assert len(seen) == len(set(seen)) > 250
    assert "Older" in desk.get("/audit").text
    # Another process, or this one started again, was never handed that commit.
    fresh = Desk(desk.story)
    assert fresh.get(f"/api/v1/audit?before={seen[100]}").json["items"][0]["commit"] == seen[100]


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/opanai-chat", "/services/openai-chat"),
        ("/service/embeddings/", "/services/embeddings"),
        ("/reqests", "/requests"),
        (f"/{ROTATE_TWO}", f"/requests/{ROTATE_TWO}"),
    ],
)
def test_a_wrong_address_leads_on(settled: Desk, path: str, address: str) -> None:
    answer = settled.get(path)
    assert (answer.status_code, "There is no page at this address" in answer.text) == (404, True)
    assert f'Did you mean <a href="{address}">' in answer.text
    assert '<a href="/audit">the audit trail</a>' in answer.text


def test_a_wrong_address_is_told_even_where_the_repository_cannot_be_read() -> None:
    def broken() -> Store:
        raise NotARepository("gone")

    answer = create_app(broken, "f" * 40, lambda: NOW).test_client().get("/nowhere")
    assert (answer.status_code, "Did you mean" in answer.text) == (404, False)


def test_a_wrong_address_of_the_api_names_its_index(settled: Desk) -> None:
    assert settled.get("/api/v1/nowhere").json["hint"] == "/api/v1 lists what there is."


@pytest.mark.parametrize("path", ["/", "/requests", "/services/stripe-payments"])
def test_an_active_freeze_is_shown_until_it_ends(desk: Desk, path: str) -> None:
    told = "team=billing is frozen until 2026-12-01 00:00 UTC: Month end"
    tag = desk.get("/api/v1/services").headers["ETag"]
    assert told in desk.get(path).text
    desk.story.now += timedelta(days=8)
    assert told not in desk.get(path).text
    assert desk.get("/api/v1/services", If_None_Match=tag).status_code == 200


def test_a_service_that_is_switched_otherwise_needs_attention_and_says_why_once(desk: Desk) -> None:
    why = "the vendor is down"
    condition = {
        "type": "DisabledByRequest", "reason": "DisabledByRequest", "message": why,
        "since": "2026-11-23T14:00:00Z",
    }  # fmt: skip
    path = "services/llm/openai-chat.yaml"
    status = desk.story.status(
        path, "DISABLED", "DisabledByRequest", enabled=False, message=why, conditions=[condition]
    )
    desk.story.record(status, "openai-chat: DISABLED")
    desk.story.beat({**probes(desk.story), "openai-chat": desk.story.probe(3, enabled=False)})
    text = desk.get("/").text
    assert "5 of 8 services need attention" in text
    assert text.count(why) == 1
    assert "<b>enabled</b> false, not true" in text
    assert text.index(">openai-chat<") < text.index(">anthropic-messages<")


def test_a_broken_glass_is_no_failed_approval() -> None:
    service = service_text("chat", labels={"env": "prod"}, pins={"version": "1"})
    policy = POLICY_TEXT.replace(
        "approvals: [{team: reviewers, count: 1}]",
        "breakGlass: {team: operators}\n      approvals: [{team: reviewers, count: 1}]",
        1,
    )
    desk = Desk(Chronicle(NOW, {"policy.yaml": policy, "services/chat.yaml": service}))
    desk.story.request(
        "20261123-rotate-chat-a1b2", "rotateKey", ("chat",), reason="Nobody else is awake now", branch=True,
        approvals={"alice": "break-glass"}, more={"breakGlass": True},
    )  # fmt: skip
    desk.story.beat({})
    text = desk.get("/requests").text
    assert 'class="vote break-glass"' in text
    assert ">break-glass</span> by <b>alice</b>" in text
    assert "signature</span>" not in text
    assert "acted without approvals" in desk.get("/requests/20261123-rotate-chat-a1b2").text


def test_a_commit_of_another_branch_is_never_shown_as_the_trail(desk: Desk) -> None:
    elsewhere = desk.story.commit({"README.md": "hello\n"}, "rotateKey openai-chat: succeeded", who="alice")
    answer = desk.get(f"/audit?before={elsewhere}")
    assert answer.status_code == 404
    assert "NotOnTrail" in answer.text


# ---- hostile documents ------------------------------------------------------------------------------

MARKUP = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


def test_markup_and_escapes_in_any_field_do_nothing(desk: Desk) -> None:
    story = desk.story
    story.record(
        story.status(
            "services/llm/openai-chat.yaml",
            "UNHEALTHY",
            "HealthDown",
            message=MARKUP,
            version=MARKUP,
            values={"model": MARKUP, "upstream": "javascript:alert(1)"},
            health={"status": "DOWN", "detail": MARKUP, "since": "2026-11-23T00:00:00Z"},
        ),
        f"{MARKUP} \x1b]0;owned\x07 \u202egnp.exe",
        {"Capsule-Service": MARKUP, "Requested-by": MARKUP, "Capsule-Outcome": MARKUP},
    )
    story.request(
        "20261123-markup-x1y2", "rotateKey", ("embeddings",), reason=MARKUP, params={"grace": MARKUP}
    )
    for path in (
        "/",
        "/services/openai-chat",
        "/requests",
        "/requests/20261123-markup-x1y2",
        "/audit",
        f"/?q={MARKUP[:50]}",
    ):
        text = desk.get(path).text
        assert "<script>alert" not in text
        assert "<img" not in text
        for char in ("\x1b", "\x07", "\u202e"):
            assert char not in text
    assert "\\u{1b}" in desk.get("/audit").text
    raw = desk.get("/api/v1/audit").data
    assert raw.isascii()
    assert b"\x1b" not in raw


# ---- when there is nothing to show ----------------------------------------------------------------------


def test_only_what_can_be_ordered_is_suggested() -> None:
    """A service that is only observed takes no order: its page does not say that it would."""
    document = service_text("webhooks", labels={}, pins={})
    keyless = re.sub(', key: "[^"]*"', "", document)
    for text, actions, said in (
        (document, ["reload"], "capsule request reload webhooks"),
        (document, ["reload", "runHealthCheck"], "capsule request runHealthCheck webhooks"),
        (document, [], "only observed"),
        (keyless, ["reload"], "only observed"),
    ):
        story = Chronicle(NOW, {"services/webhooks.yaml": text})
        story.record(story.status("services/webhooks.yaml", "HEALTHY", "HealthUp", actions=actions), "seen")
        for page in ("/requests", "/services/webhooks"):
            shown = Desk(story).get(page).text
            assert (said in shown, "capsule request" in shown) == (True, said != "only observed"), shown


def test_a_request_whose_branch_is_gone_keeps_its_words() -> None:
    text = service_text("chat", labels={}, pins={})
    story = Chronicle(NOW, {"services/chat.yaml": text})
    name = "20261123-disable-chat-a1b2"
    asked = story.request(
        name, "disable", ("chat",), reason="Key in a log", params={"reason": "r1"}, branch=True
    )
    ref = f"refs/heads/request/{name}"
    tip = story.ref(ref)
    trailers = {"Capsule-Request": name, "Capsule-Service": "chat"}
    story.record(story.claim(asked, "chat"), "claimed", trailers, branches=[tip])
    story.store.publish([RefUpdate(ref, tip, None)])
    desk = Desk(story)
    shown = desk.get(f"/requests/{name}").text
    assert "Key in a log" in shown
    item = desk.get(f"/api/v1/requests/{name}").json["item"]
    assert (item["why"], item["params"]) == ("Key in a log", {"reason": "r1"})


def test_without_services_it_says_what_to_type() -> None:
    empty = Desk(Chronicle(NOW, {}))
    assert "$EDITOR services/openai-chat.yaml" in empty.get("/").text
    assert "capsule request runHealthCheck" in empty.get("/requests").text
    assert "capsule reconcile --once" in empty.get("/audit").text
    assert empty.get("/api/v1/services").json["items"] == []
    assert "No reconciler seen" in empty.get("/").text


def test_a_repository_that_cannot_be_read_is_a_page_and_mends_itself() -> None:
    story = integration_services()
    broken = [True]

    def open_store() -> Store:
        if broken[0]:
            raise NotARepository("/srv/state is no git repository", "run `capsule init`")
        return story.store

    client = create_app(open_store, story.root, lambda: story.now).test_client()
    for path in ("/", "/audit", "/api/v1/services"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "no git repository" in answer.text
        assert "capsule init" in answer.text
        assert "Traceback" not in answer.text
    broken[0] = False
    assert client.get("/").status_code == 200


def test_a_root_that_is_not_in_the_repository_is_said() -> None:
    story = integration_services()
    client = create_app(lambda: story.store, "f" * 40, lambda: story.now).test_client()
    answer = client.get("/")
    assert answer.status_code == 503
    assert "ffffffff" in answer.text


def test_a_fault_of_the_dashboard_itself_is_a_page_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = integration_services()

    def clock() -> Any:
        raise RuntimeError("the clock fell off the wall")

    answer = create_app(lambda: story.store, story.root, clock).test_client().get("/")
    assert answer.status_code == 500
    assert "clock fell" not in answer.text
    assert "clock fell" in caplog.text


# ---- ten thousand services --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd() -> Desk:
    files = {
        f"services/{at // 100:03}/service-{at:05}.yaml": service_text(
            f"service-{at:05}",
            labels={"team": f"team-{at % 7}"},
            pins={"version": "1.0.0", "model": "gpt-5.1"},
        )
        for at in range(1000)
    }
    return Desk(Chronicle(NOW, files))


def test_a_long_list_comes_in_pages(crowd: Desk) -> None:
    first = crowd.get("/api/v1/services").json
    assert (first["total"], len(first["items"])) == (1000, 200)
    assert first["next"] == "/api/v1/services?page=2"
    last = crowd.get("/api/v1/services?page=5").json
    assert (len(last["items"]), last["next"]) == (200, None)
    text = crowd.get("/?page=2&q=service").text
    assert "201 to 400 of 1,000" in text
    assert "page=3" in text
    assert text.count('href="/services/') == 200
