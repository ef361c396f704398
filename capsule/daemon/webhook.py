"""The receiver of forges' webhooks: a merge is acted on within a second, not at the next poll.

Rules kept: a hook only wakes the loop, which then fetches and proves everything itself, so that a forged or
replayed one costs a fetch and nothing else; its body is checked against the secret and never read; bodies,
connections and wakes are bounded; polling goes on whether hooks come or not. Called by the command line.

| forge | header | what it holds |
|---|---|---|
| github | `X-Hub-Signature-256` | `sha256=` and the HMAC-SHA256 of the body, in hex |
| gitea, forgejo | `X-Gitea-Signature`, `X-Forgejo-Signature` | the HMAC-SHA256 of the body, in hex |
| gitlab | `X-Gitlab-Token` | the secret itself |
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from capsule.daemon.serving import Served, serve
from capsule.forge.api import ForgeError

log = logging.getLogger("capsule.daemon")
MOST_BYTES = 1024 * 1024
MOST_CONNECTIONS = 50
SILENCE_SECONDS = 15
"""Seconds after which a connection on which nothing moves is closed."""
GAP_SECONDS = 0.5
"""Seconds between two wakes, however many hooks come."""
_THREADS = 2
_QUIET_SECONDS = 60.0
_PREFIX = "/webhook/"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Environ = dict[str, Any]


class Bell:
    """Calls `wake` from a thread of its own, at most every `gap` seconds; rings meanwhile are one."""

    def __init__(self, wake: Callable[[], object], gap: float = GAP_SECONDS) -> None:
        self._wake = wake
        self._gap = gap
        self._rung = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook-bell", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """Wake soon; never blocks."""
        self._rung.set()

    def close(self) -> None:
        """Ring no more, and wait until the thread is gone."""
        self._closed.set()
        self._rung.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._rung.wait()
            if self._closed.is_set():
                return
            self._rung.clear()
            try:
                self._wake()
            except Exception:
                log.exception("a webhook's wake failed; polling goes on")
            self._closed.wait(self._gap)


class Webhooks:
    """The WSGI application. `secret` gives the shared secret, anew for each hook; `ring` must not block."""

    def __init__(self, secret: Callable[[], str], ring: Callable[[], object]) -> None:
        self._secret = secret
        self._ring = ring
        self._told = float("-inf")

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one hook."""
        path = environ.get("PATH_INFO", "")
        genuine = _GENUINE.get(path.removeprefix(_PREFIX)) if path.startswith(_PREFIX) else None
        if genuine is None:
            return _answer(start, "404 Not Found", f"expected {_PREFIX} and one of {', '.join(_GENUINE)}")
        if environ["REQUEST_METHOD"] != "POST":
            return _answer(start, "405 Method Not Allowed", "POST alone", ("Allow", "POST"))
        body = _body(environ)
        if body is None:
            return _answer(start, "413 Content Too Large", f"at most {MOST_BYTES} bytes")
        try:
            secret = self._secret().encode()
        except ForgeError as error:
            self._warn(f"{error.reason}: {error}")
            return _answer(start, "503 Service Unavailable", "the receiver has no secret to check with")
        if not genuine(environ, body, secret):
            self._warn("a webhook was not signed with our secret, and was ignored")
            return _answer(start, "403 Forbidden", "not signed with the secret")
        self._ring()
        return _answer(start, "202 Accepted", "")

    def _warn(self, text: str) -> None:
        """Once a minute: whoever sends rubbish fills no disk."""
        now = time.monotonic()
        if now - self._told >= _QUIET_SECONDS:
            self._told = now
            log.warning("%s", text)


def serve_webhooks(secret: Callable[[], str], bell: Bell, host: str, port: int) -> Served:
    """Answer at `host` and `port` (0 takes a free one). Raises AddressTaken."""
    return serve(
        Webhooks(secret, bell.ring),
        host,
        port,
        name="webhook",
        threads=_THREADS,
        option="--webhook",
        max_request_body_size=MOST_BYTES,
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=SILENCE_SECONDS,
        cleanup_interval=SILENCE_SECONDS // 3,
    )


def _body(environ: Environ) -> bytes | None:
    """The body; None when it is larger than any hook may be."""
    data: bytes = environ["wsgi.input"].read(MOST_BYTES + 1)
    return data if len(data) <= MOST_BYTES else None


def _github(environ: Environ, body: bytes, secret: bytes) -> bool:
    return _same(environ.get("HTTP_X_HUB_SIGNATURE_256", ""), f"sha256={_mac(secret, body)}")


def _gitea(environ: Environ, body: bytes, secret: bytes) -> bool:
    return _same(environ.get("HTTP_X_GITEA_SIGNATURE", ""), _mac(secret, body))


def _forgejo(environ: Environ, body: bytes, secret: bytes) -> bool:
    return _same(environ.get("HTTP_X_FORGEJO_SIGNATURE", ""), _mac(secret, body))


def _gitlab(environ: Environ, _body: bytes, secret: bytes) -> bool:
    return _same(environ.get("HTTP_X_GITLAB_TOKEN", ""), secret.decode())


_GENUINE: dict[str, Callable[[Environ, bytes, bytes], bool]] = {
    "github": _github,
    "gitlab": _gitlab,
    "gitea": _gitea,
    "forgejo": _forgejo,
}


def _mac(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    """Whether a header is what it should be, in a time that tells nothing."""
    return hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())


def _answer(start: StartResponse, status: str, text: str, *more: tuple[str, str]) -> Iterable[bytes]:
    body = f"{text}\n".encode() if text else b""
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(status, [*headers, ("X-Content-Type-Options", "nosniff"), *more])
    return [body]
