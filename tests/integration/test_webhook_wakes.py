"""A hook of the forge, and a merge is acted on within a second, though the next poll is far away."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import threading
import time
from pathlib import Path

import click
import pytest

from capsule.cli.forge_options import receiving
from capsule.daemon import Bell, Wishes, run, serve_webhooks
from capsule.documents.paths import AUDIT
from capsule.lifecycle import read_records
from tests.integration.test_forge_evidence import NAME, Place

SECRET = "a-secret-of-some-length"
BODY = b'{"action": "submitted", "review": {"state": "approved"}}'


def send(port: int) -> int:
    signature = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/webhook/github", BODY, {"X-Hub-Signature-256": f"sha256={signature}"})
        return connection.getresponse().status
    finally:
        connection.close()


def wait_for(place: Place, count: int, seconds: float = 20.0) -> None:
    """Until the forge was asked so often."""
    deadline = time.monotonic() + seconds
    while len(place.forge.asked) < count:
        assert time.monotonic() < deadline, place.forge.asked
        threading.Event().wait(0.02)


def test_a_hook_wakes_the_loop_long_before_the_next_poll(tmp_path: Path) -> None:
    place, wishes = Place(tmp_path), Wishes()
    reconciler = place.reconciler()
    bell = Bell(reconciler.ring)
    served = serve_webhooks(lambda: SECRET, bell, "127.0.0.1", 0)
    loop = threading.Thread(target=run, args=(reconciler, wishes), kwargs={"poll": 600.0, "finish": 1.0})
    loop.start()
    try:
        wait_for(place, 2)
        place.town.clock.advance(seconds=3)
        place.review()
        began = time.monotonic()
        assert send(served.port) == 202
        wait_for(place, 4)
        assert time.monotonic() - began < 5
        while not place.attestations() and time.monotonic() - began < 20:
            threading.Event().wait(0.02)
        assert place.attestations()
        found = read_records(place.town.store, place.town.tip(AUDIT)).of(NAME)
        assert found is not None
    finally:
        wishes.stop.set()
        reconciler.landed.set()
        loop.join(20)
        served.close()
        bell.close()
    assert not loop.is_alive()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_the_options_of_the_command_line_serve_a_receiver(tmp_path: Path) -> None:
    file, rung = tmp_path / "secret", threading.Event()
    file.write_text(SECRET)
    file.chmod(0o600)
    port = free_port()
    with receiving(("127.0.0.1", port), file, rung.set):
        assert send(port) == 202
        assert rung.wait(5)
    with pytest.raises(click.UsageError, match="webhook-secret-file"), receiving(("::1", 0), None, rung.set):
        pass
    file.chmod(0o644)
    with pytest.raises(click.UsageError, match="chmod 600"), receiving(("::1", 0), file, rung.set):
        pass
