"""Real Chromium in front of the dashboard as it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from capsule.web.app import create_app
from capsule.web.server import Dashboard, serve_dashboard
from tests.web.chronicle import Chronicle
from tests.web.integration_services import integration_services

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 740}


@dataclass
class Served:
    """A history with a dashboard in front of it."""

    story: Chronicle
    dashboard: Dashboard

    def at(self, path: str) -> str:
        """The whole address of a page."""
        return self.dashboard.address.rstrip("/") + path


@dataclass
class Complaints:
    """Everything a browser complained about: console, page errors, CSP, failed requests."""

    all: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Collect the complaints of `page`."""
        page.on(
            "console", lambda said: self.all.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.all.append(str(error)))
        page.on("requestfailed", lambda request: self.all.append(f"{request.url}: {request.failure}"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file, no longer: until it ends, no other test of this thread can use asyncio."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield chromium
        chromium.close()


def _serve() -> Served:
    story = integration_services()
    app = create_app(lambda: story.store, story.root, lambda: story.now)
    return Served(story, serve_dashboard(app, "127.0.0.1", 0))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A dashboard that no test changes."""
    found = _serve()
    yield found
    found.dashboard.close()


@pytest.fixture
def living() -> Iterator[Served]:
    """A dashboard whose history goes on during the test."""
    found = _serve()
    yield found
    found.dashboard.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., tuple[Page, Complaints]]]:
    """Opens pages in a fresh profile; `options` are those of a browser context."""
    contexts: list[BrowserContext] = []

    def open_one(address: str, **options: object) -> tuple[Page, Complaints]:
        context = browser.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        complaints = Complaints()
        complaints.listen(page)
        page.goto(address)
        return page, complaints

    yield open_one
    for context in contexts:
        context.close()
