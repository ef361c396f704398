"""`/metrics`, `/healthz` and `/readyz`: what machines ask a daemon.

Rules kept: GET and HEAD alone; on loopback unless a person says otherwise, and there only under loopback's
own names, so that no web page reads along by rebinding its name; answers hold no value of a document.
Called by the command line.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import make_wsgi_app

from capsule.daemon.metrics import Metrics
from capsule.daemon.serving import Served, serve
from capsule.daemon.vitals import Vitals

_THREADS = 2
_LOCAL_NAMES = frozenset({"localhost", "localhost."})
_PATHS = "/metrics, /healthz, /readyz\n"

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Environ = dict[str, Any]


class BeyondLoopback(ValueError):
    """The address can be reached from other machines, and nobody said that this is wanted."""


def serve_monitoring(
    metrics: Metrics, vitals: Vitals, host: str, port: int, *, beyond_loopback: bool = False
) -> Served:
    """Answer at `host` and `port` (0 takes a free one). Raises BeyondLoopback, AddressTaken."""
    if not beyond_loopback and not is_loopback(host):
        raise BeyondLoopback(
            f"{host} can be reached from other machines, and the endpoints ask nobody who they are"
        )
    app = Monitoring(metrics, vitals, local=not beyond_loopback)
    return serve(app, host, port, name="monitoring", threads=_THREADS, option="--metrics")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine to itself alone."""
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Monitoring:
    """The WSGI application. `local`: answer only under names of loopback."""

    def __init__(self, metrics: Metrics, vitals: Vitals, *, local: bool) -> None:
        self._metrics = make_wsgi_app(metrics.registry)
        self._vitals = vitals
        self._local = local

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", "GET and HEAD alone\n", ("Allow", "GET, HEAD"))
        if self._local and not is_loopback(_host(environ.get("HTTP_HOST", "localhost"))):
            return _plain(start, "421 Misdirected Request", "not the name of this server\n")
        match environ.get("PATH_INFO"):
            case "/metrics":
                answer: Iterable[bytes] = self._metrics(environ, start)
                return answer
            case "/healthz":
                hung = self._vitals.hung()
                return _state(start, "alive", [hung] if hung else [])
            case "/readyz":
                return _state(start, "ready", self._vitals.unready())
            case _:
                return _plain(start, "404 Not Found", _PATHS)


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _state(start: StartResponse, word: str, reasons: list[str]) -> Iterable[bytes]:
    body = (json.dumps({word: not reasons, "reasons": reasons}) + "\n").encode()
    status = "503 Service Unavailable" if reasons else "200 OK"
    return _answer(start, status, "application/json", body)


def _plain(start: StartResponse, status: str, text: str, *more: tuple[str, str]) -> Iterable[bytes]:
    return _answer(start, status, "text/plain; charset=utf-8", text.encode(), *more)


def _answer(
    start: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]
) -> Iterable[bytes]:
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    start(status, [*headers, ("X-Content-Type-Options", "nosniff"), *more])
    return [body]
