"""The receiver of webhooks: only what is signed with the secret wakes, and nothing it is sent costs much."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.daemon import webhook
from capsule.daemon.webhook import MOST_BYTES, Bell, Webhooks, serve_webhooks
from capsule.forge.credential import secret_in

SECRET = "a-secret-of-some-length"
BODY = b'{"action": "closed", "pull_request": {"merged": true}}'


def mac(body: bytes = BODY, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def signed(kind: str, body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    """The headers with which a forge sends `body`."""
    return {
        "github": {"X-Hub-Signature-256": f"sha256={mac(body, secret)}"},
        "gitea": {"X-Gitea-Signature": mac(body, secret)},
        "forgejo": {"X-Forgejo-Signature": mac(body, secret)},
        "gitlab": {"X-Gitlab-Token": secret},
    }[kind]


@dataclass
class Receiver:
    """A receiver that is being served."""

    port: int
    wakes: list[float] = field(default_factory=list)
    woken: threading.Event = field(default_factory=threading.Event)

    def wake(self) -> None:
        self.wakes.append(time.monotonic())
        self.woken.set()

    def send(
        self,
        headers: dict[str, str],
        body: bytes = BODY,
        path: str = "/webhook/github",
        method: str = "POST",
    ) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(0)
    bell = Bell(made.wake, gap=0.2)
    served = serve_webhooks(lambda: SECRET, bell, "127.0.0.1", 0)
    made.port = urlsplit(served.address).port or 0
    yield made
    served.close()
    bell.close()


@pytest.mark.parametrize("kind", ["github", "gitlab", "gitea", "forgejo"])
def test_a_hook_with_the_secret_wakes_within_a_second(receiver: Receiver, kind: str) -> None:
    began = time.monotonic()
    assert receiver.send(signed(kind), path=f"/webhook/{kind}") == 202
    assert receiver.woken.wait(5)
    assert receiver.wakes[0] - began < 1


@pytest.mark.parametrize("kind", ["github", "gitlab", "gitea", "forgejo"])
def test_a_hook_without_the_secret_wakes_nobody(receiver: Receiver, kind: str) -> None:
    path = f"/webhook/{kind}"
    other = "gitea" if kind == "github" else "github"
    wrong = [{}, signed(kind, secret="another-secret"), signed(other)]
    if kind != "gitlab":
        wrong += [signed(kind, b"another body"), dict.fromkeys(signed(kind), "é")]
    for headers in wrong:
        assert receiver.send(headers, path=path) == 403
    assert not receiver.woken.wait(0.1)


def test_what_is_too_large_is_not_taken(receiver: Receiver) -> None:
    huge = b"x" * (MOST_BYTES + 1)
    with contextlib.suppress(ConnectionError, http.client.HTTPException):  # closed while it is still sent
        assert receiver.send(signed("github", huge), huge) == 413
    chunked = {**signed("github"), "Content-Length": str(10**15)}
    assert receiver.send(chunked) == 413
    assert not receiver.woken.is_set()


def test_many_hooks_and_replays_are_few_wakes(receiver: Receiver) -> None:
    began = time.monotonic()
    for _ in range(60):
        assert receiver.send(signed("github")) == 202
    assert receiver.woken.wait(5)
    assert 1 <= len(receiver.wakes) <= (time.monotonic() - began) / 0.2 + 2


def test_a_hook_during_a_wake_is_not_lost() -> None:
    began, go_on, wakes = threading.Semaphore(0), threading.Semaphore(0), []

    def wake() -> None:
        wakes.append(1)
        began.release()
        assert go_on.acquire(timeout=5)

    bell = Bell(wake, gap=0.0)
    bell.ring()
    assert began.acquire(timeout=5)
    for _ in range(5):
        bell.ring()
    go_on.release()
    assert began.acquire(timeout=5)
    go_on.release()
    bell.close()
    assert len(wakes) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/webhook/github", 405),
        ("POST", "/webhook/sourceforge", 404),
        ("POST", "/webhook/", 404),
        ("POST", "/", 404),
        ("POST", "/webhook/github/..", 404),
    ],
)
def test_other_paths_and_methods_are_refused(receiver: Receiver, method: str, path: str, status: int) -> None:
    assert receiver.send(signed("github"), path=path, method=method) == status
    assert not receiver.woken.is_set()


def test_half_sent_hooks_keep_nobody_else_waiting(receiver: Receiver) -> None:
    half = b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nab"
    slow = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(20)]
    try:
        for each in slow:
            each.sendall(half)
        began = time.monotonic()
        assert receiver.send(signed("github")) == 202
        assert receiver.woken.wait(5)
        assert time.monotonic() - began < 3
    finally:
        for each in slow:
            each.close()


def test_a_missing_secret_is_said_and_wakes_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rung: list[int] = []
    app = Webhooks(secret_in(tmp_path / "none"), lambda: rung.append(1))
    for _ in range(3):
        assert call(app, signed_environ()) == "503 Service Unavailable"
    assert not rung
    assert len(caplog.records) == 1
    assert "ForgeTokenUnreadable" in caplog.text


def test_a_wake_that_fails_stops_no_later_one(caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Semaphore(0)

    def wake() -> None:
        called.release()
        raise RuntimeError("boom")

    bell = Bell(wake, gap=0.0)
    for _ in range(2):
        bell.ring()
        assert called.acquire(timeout=5)
    bell.close()
    assert "polling goes on" in caplog.text


class Input:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        return self.data[:size]


def signed_environ(body: bytes = BODY) -> dict[str, object]:
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/webhook/github",
        "HTTP_X_HUB_SIGNATURE_256": f"sha256={mac(body)}",
        "wsgi.input": Input(body),
    }


def call(app: Webhooks, environ: dict[str, object]) -> str:
    told: list[str] = []
    list(app(environ, lambda status, _headers: told.append(status)))
    return told[0]


def test_a_body_longer_than_it_says_is_cut_off_here_too() -> None:
    app = Webhooks(lambda: SECRET, lambda: None)
    assert call(app, signed_environ(b"x" * (webhook.MOST_BYTES + 1))).startswith("413")


@given(
    path=st.sampled_from(["/webhook/github", "/webhook/gitlab", "/webhook/gitea", "/webhook/forgejo"])
    | st.text(),
    header=st.text(st.characters(max_codepoint=255)),
    body=st.binary(max_size=200),
)
def test_whatever_is_sent_it_is_answered_and_wakes_only_with_the_secret(
    path: str, header: str, body: bytes
) -> None:
    rung: list[int] = []
    app = Webhooks(lambda: SECRET, lambda: rung.append(1))
    names = ("HUB_SIGNATURE_256", "GITLAB_TOKEN", "GITEA_SIGNATURE", "FORGEJO_SIGNATURE")
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "wsgi.input": Input(body)}
    assert call(app, {**environ, **{f"HTTP_X_{name}": header for name in names}})[:3] in ("403", "404", "202")
    assert not rung or header in (SECRET, mac(body), f"sha256={mac(body)}")
