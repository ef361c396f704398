"""One HTTP call to the agent under test: over HTTP, HTTPS, or a Unix socket.

Rules kept: a connection of its own for each call; every wait is bounded; an answer is read up to a bound.
Called by session.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWER = 2 * 1024 * 1024
_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


class BadAddress(ValueError):
    """The address cannot be called; the text says what was expected."""


class NoAnswer(Exception):
    """The agent did not answer; the text says what happened."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Status, content type without its parameters, and body."""

    status: int
    content_type: str
    body: bytes

    @property
    def reason(self) -> str:
        """The reason code of a problem document; empty when it is none."""
        try:
            found: Any = json.loads(self.body)
        except ValueError:
            return ""
        code = found.get("reason") if isinstance(found, dict) else None
        return code if isinstance(code, str) and self.content_type == "application/problem+json" else ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls one agent. `address`: http://…, https://… or unix:/path, with the agent's prefix, if any."""

    address: str
    seconds: float = 60.0
    ca: str | None = None

    def __post_init__(self) -> None:
        """Raises BadAddress."""
        if self.address.startswith("unix:/"):
            return
        try:
            parts = urlsplit(self.address)
            fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            fine = False
        if not fine:
            raise BadAddress(f"{self.address!r}: expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")

    def call(self, name: str, body: bytes) -> Answered:
        """POST `body` to the call `name`. Raises NoAnswer."""
        return self.send("POST", f"/capsule/v1/{name}", body, _JSON)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """One request as it is given. Raises NoAnswer."""
        connection, prefix = self._connection()
        try:
            connection.request(method, prefix + path, body, dict(headers or {}))
            answer = connection.getresponse()
            content_type = (answer.getheader("Content-Type") or "").partition(";")[0].strip().lower()
            return Answered(answer.status, content_type, answer.read(MAX_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.address}: {error or type(error).__name__}") from None
        finally:
            connection.close()

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"), self.seconds), ""
        parts = urlsplit(self.address)
        host, prefix = parts.hostname or "", parts.path.rstrip("/")
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=self.seconds), prefix
        context = ssl.create_default_context(cafile=self.ca)
        return http.client.HTTPSConnection(host, parts.port, timeout=self.seconds, context=context), prefix


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
