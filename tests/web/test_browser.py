"""The dashboard in a real Chromium: no complaint, readable by everybody, alive, and fine without scripts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.web.conftest import PHONE, Complaints, Served
from tests.web.integration_services import ROLLOUT, ROTATE_OPENAI, ROTATE_TWO, SALESFORCE, probes

Open = Callable[..., tuple[Page, Complaints]]
PAGES = {
    "services": "/",
    "service": "/services/openai-chat",
    "drifted": "/services/embeddings",
    "requests": "/requests",
    "proposed": f"/requests/{ROTATE_TWO}",
    "rollout": f"/requests/{ROLLOUT}",
    "audit": "/audit",
}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": TAGS}}
CONTRAST = {"resultTypes": ["violations"], "runOnly": {"type": "rule", "values": ["color-contrast"]}}


@pytest.mark.parametrize("path", [*PAGES.values(), "/?q=nothing", "/nowhere"])
def test_everybody_can_read_it_by_day_and_by_night(served: Served, open_page: Open, path: str) -> None:
    # axe is injected past the policy of the page, which itself allows no foreign script.
    page, _ = open_page(served.at(path), color_scheme="light", bypass_csp=True)
    assert _violations(page, RULES) == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 22, 24)"
    assert _violations(page, CONTRAST) == []


def _violations(page: Page, options: dict) -> list:
    found = Axe().run(page, options=options).response["violations"]
    return [(item["id"], [node["target"] for node in item["nodes"]]) for item in found]


@pytest.mark.parametrize("path", PAGES.values())
def test_the_browser_has_nothing_to_complain_about_and_nothing_scrolls_sideways(
    served: Served, open_page: Open, path: str
) -> None:
    page, complaints = open_page(served.at(path), viewport=PHONE, has_touch=True, is_mobile=True)
    assert page.evaluate("getComputedStyle(document.querySelector('.top')).borderBottomStyle") == "solid"
    assert page.evaluate("document.styleSheets.length") == 1
    for width in (PHONE["width"], 320, 800, 1280):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints.all == []


def test_words_of_the_table_stay_whole(served: Served, open_page: Open) -> None:
    page, _ = open_page(served.at("/"), viewport={"width": 1280, "height": 740})
    lines = page.eval_on_selector_all(
        "td[data-label=Drift] .quiet", "found => found.map(each => each.getClientRects().length)"
    )
    assert lines
    assert set(lines) == {1}
    assert page.evaluate("document.querySelector('td[data-label=Upstream]').clientWidth") >= 120


def test_a_script_that_slipped_in_would_not_run(served: Served, open_page: Open) -> None:
    page, complaints = open_page(served.at("/"))
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = true';"
        " document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in complaints.all)


def test_on_a_phone_rows_are_cards(served: Served, open_page: Open) -> None:
    page, _ = open_page(served.at("/"), viewport=PHONE)
    card = page.locator("tbody tr").first
    assert (
        card.locator("td").first.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Status"'
    )
    assert card.bounding_box()["height"] > 150


def test_on_a_phone_the_filter_is_folded_and_elsewhere_it_is_not(served: Served, open_page: Open) -> None:
    page, complaints = open_page(served.at("/"), viewport=PHONE)
    expect(page.get_by_label("Find")).not_to_be_visible()
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("Find").fill("stripe")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Find")).to_be_visible()
    page.goto(served.at("/requests"))
    page.set_viewport_size({"width": 1280, "height": 740})
    expect(page.get_by_label("Find")).to_be_visible()
    expect(page.get_by_text("Filter", exact=True)).not_to_be_visible()
    assert complaints.all == []


def test_on_a_phone_a_pin_has_a_line_of_its_own(served: Served, open_page: Open) -> None:
    page, _ = open_page(served.at("/services/embeddings"), viewport=PHONE)
    table = page.locator("table.compare").bounding_box()
    for pin in page.locator(".compare tbody th").all():
        assert pin.bounding_box()["width"] > table["width"] - 4


def test_the_keyboard_reaches_the_content_first(served: Served, open_page: Open) -> None:
    page, _ = open_page(served.at("/"))
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_it_works_without_scripts(served: Served, open_page: Open) -> None:
    page, complaints = open_page(served.at("/"), java_script_enabled=False)
    page.get_by_label("Find").fill("openai-chat")
    page.get_by_role("button", name="Show").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="openai-chat", exact=True).click()
    assert page.get_by_role("heading", level=1).text_content() == "openai-chat"
    page.get_by_role("link", name=ROTATE_OPENAI).click()
    assert "Quarterly rotation" in page.locator("main").text_content()
    page.get_by_role("link", name="Audit trail").click()
    assert "rotateKey openai-chat: succeeded" in page.locator("main").text_content()
    page.get_by_role("link", name="Requests", exact=True).click()
    page.get_by_role("navigation", name="Phase").get_by_role("link", name="Proposed").click()
    assert page.locator("tbody tr").count() == 1
    assert complaints.all == []


def test_filter_as_you_type(served: Served, open_page: Open) -> None:
    page, complaints = open_page(served.at("/"))
    page.get_by_label("Find").press_sequentially("stripe")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.url.endswith("/?q=stripe")
    expect(page.get_by_label("Find")).to_be_focused()
    expect(page.locator("#announce")).to_have_text("1 found")
    page.get_by_label("Find").fill("")
    expect(page.locator("tbody tr")).to_have_count(8)
    assert complaints.all == []


def _look_again(page: Page) -> None:
    """What the page does by itself every 15 seconds, and whenever it is shown again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_an_open_page_follows_the_repository(living: Served, open_page: Open) -> None:
    page, complaints = open_page(living.at("/"))
    row = page.locator("tr", has_text="salesforce-sync")
    expect(row).to_contain_text("Offline")
    page.get_by_role("link", name="salesforce-sync", exact=True).focus()
    living.story.now += timedelta(seconds=5)
    living.story.record(
        living.story.status(SALESFORCE, "HEALTHY", "HealthUp", version="0.14.3"), "salesforce-sync: HEALTHY"
    )
    _look_again(page)
    expect(row).to_contain_text("Healthy")
    expect(page.get_by_role("link", name="salesforce-sync", exact=True)).to_be_focused()
    assert complaints.all == []


def test_an_open_page_says_that_the_reconciler_died(living: Served, open_page: Open) -> None:
    page, _ = open_page(living.at("/"))
    expect(page.locator(".pulse")).to_contain_text("alive")
    living.story.now += timedelta(minutes=6)
    _look_again(page)
    expect(page.locator(".pulse")).to_contain_text("silent for 6 minutes")
    expect(page.locator("tbody .pill").first).to_have_text("Stale")
    living.story.beat(probes(living.story))
    _look_again(page)
    expect(page.locator(".pulse")).to_contain_text("alive, just now")


def test_an_open_page_says_when_the_dashboard_is_gone(living: Served, open_page: Open) -> None:
    page, _ = open_page(living.at("/"))
    living.dashboard.close()
    _look_again(page)
    expect(page.get_by_role("alert")).to_be_visible()
