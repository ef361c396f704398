"""The dashboard as it is served: over a socket, in a thread, until it is closed."""

from __future__ import annotations

import logging
import socket
import threading
import time
from urllib.request import urlopen

import pytest

from capsule.testing.memory_store import MemoryRemote, MemoryStore
from capsule.web import server
from capsule.web.app import create_app
from capsule.web.picture import Picture, RepositoryUnreadable
from capsule.web.server import AddressTaken, serve_dashboard
from tests.web.chronicle import Chronicle
from tests.web.integration_services import NOW, integration_services


@pytest.fixture(scope="module")
def story() -> Chronicle:
    return integration_services()


def test_it_answers_until_it_is_closed(story: Chronicle) -> None:
    before = threading.active_count()
    dashboard = serve_dashboard(create_app(lambda: story.store, story.root, lambda: NOW), "127.0.0.1", 0)
    with urlopen(dashboard.address + "api/v1", timeout=10) as answer:
        assert answer.status == 200
        assert b"openai" not in answer.read()
    dashboard.close()
    dashboard.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", dashboard.port), timeout=10)
    assert _settles(lambda: threading.active_count() <= before)


def test_half_a_request_from_many_clients_blocks_nobody(story: Chronicle) -> None:
    dashboard = serve_dashboard(create_app(lambda: story.store, story.root, lambda: NOW), "127.0.0.1", 0)
    slow = [socket.create_connection(("127.0.0.1", dashboard.port), timeout=10) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with urlopen(dashboard.address, timeout=10) as answer:
            assert answer.status == 200
    finally:
        for connection in slow:
            connection.close()
        dashboard.close()


def test_over_ipv6(story: Chronicle) -> None:
    dashboard = serve_dashboard(create_app(lambda: story.store, story.root, lambda: NOW), "::1", 0)
    assert dashboard.address == f"http://[::1]:{dashboard.port}/"
    with urlopen(dashboard.address, timeout=10) as answer:
        assert answer.status == 200
    dashboard.close()


def test_a_taken_port_is_said(story: Chronicle) -> None:
    app = create_app(lambda: story.store, story.root, lambda: NOW)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            AddressTaken, match=f"port {port} of 127.0.0.1 is taken by another program.*--bind"
        ):
            serve_dashboard(app, "127.0.0.1", port)


def test_a_host_that_is_not_ours_is_said(story: Chronicle) -> None:
    app = create_app(lambda: story.store, story.root, lambda: NOW)
    with pytest.raises(AddressTaken, match="cannot listen on"):
        serve_dashboard(app, "name.invalid", 8000)


def test_with_a_remote_the_picture_follows_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_REFRESH_SECONDS", 0.01)
    caplog.set_level(logging.WARNING)
    remote = MemoryRemote()
    writer = integration_services(MemoryStore(remote))
    reader = MemoryStore(remote)
    reader.refresh()
    app = create_app(lambda: reader, writer.root, lambda: NOW)
    dashboard = serve_dashboard(app, "127.0.0.1", 0)
    picture: Picture = app.extensions["capsule.picture"]
    try:
        made = writer.commit({"README.md": "hello\n"}, "Say hello")
        assert _settles(lambda: picture.look().main == made)
        remote.unreachable = True
        assert _settles(lambda: "fetching for the dashboard failed" in caplog.text)
        assert picture.look().main == made
    finally:
        dashboard.close()


def test_refreshing_without_a_remote_does_nothing(story: Chronicle) -> None:
    picture = Picture(lambda: story.store, story.root, lambda: NOW)
    picture.refresh()
    picture.close()


def test_a_damaged_repository_is_opened_anew_every_time() -> None:
    story = integration_services()
    opened = []

    def open_store() -> MemoryStore:
        opened.append(1)
        return story.store

    picture = Picture(open_store, story.root, lambda: NOW)
    story.store.set_ref("refs/heads/main", "f" * 40)
    for _ in range(2):
        with pytest.raises(RepositoryUnreadable, match="ffffffff") as caught:
            picture.look()
        assert "capsule doctor" in caught.value.hint
    assert len(opened) == 2


def _settles(condition, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        threading.Event().wait(0.01)
    return False
