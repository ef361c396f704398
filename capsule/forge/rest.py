"""One bounded call to a forge's REST API, and its lists page by page.

Rules kept: certificates are checked; no redirect is followed and no address in an answer is ever called; the
token is read anew for each call, goes over TLS or to this machine alone, and stands in no error; answers,
pages and time are bounded. Called by the clients beside it.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

import urllib3
from pydantic import TypeAdapter, ValidationError

from capsule.forge.api import LONGEST_WAIT, MAX_ANSWER, EvidenceUnavailable, ForgeError, ForgeRefused

T = TypeVar("T")
PAGE = 50
"""Entries of a page: the most that each of the forges gives by default."""
MOST_PAGES = 40
CALL_SECONDS = 30.0
"""Seconds for one call, however slowly it is answered."""
SILENCE_SECONDS = 10.0
_CHUNK = 64 * 1024
_MISSING = 404
_RESETS = ("X-RateLimit-Reset", "RateLimit-Reset")
_REMAINING = ("X-RateLimit-Remaining", "RateLimit-Remaining")


class NotThere(ForgeRefused):
    """The forge says 404: there is no such thing, or the token may not see it."""


class NotTaken(ForgeRefused):
    """The forge says 409 or 422: what was asked cannot be done as things stand."""


class Rest:
    """Calls below `base`, such as https://api.github.com. `headers` gives those with the token.

    Raises ForgeRefused (ForgeInsecure) for plain http beyond this machine.
    """

    def __init__(self, base: str, headers: Callable[[], Mapping[str, str]]) -> None:
        parts = urlsplit(base)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise ForgeRefused("ForgeInsecure", f"no token is sent to {base} without TLS; use https://")
        self._base = base.rstrip("/")
        self._headers = headers
        self._pool = urllib3.PoolManager(
            num_pools=2,
            maxsize=4,
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ssl_context=_tls() if parts.scheme == "https" else None,
        )

    def get(self, kind: TypeAdapter[T], path: str, query: Mapping[str, str | int] | None = None) -> T:
        """The answer to GET `path` as a `kind`. Raises EvidenceUnavailable, ForgeRefused, NotThere."""
        return _read(kind, self._call("GET", path, query, None), path)

    def pages(
        self,
        kind: TypeAdapter[list[T]],
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        size: str = "per_page",
    ) -> list[T]:
        """All entries of a list, asked for until a page is empty; `size` is what the forge calls that of a
        page. Raises EvidenceUnavailable, ForgeRefused, NotThere."""
        found: list[T] = []
        for number in range(1, MOST_PAGES + 1):
            page = self.get(kind, path, {**(query or {}), size: PAGE, "page": number})
            if not page:
                return found
            if page[0] in found:
                raise EvidenceUnavailable("ForgeAnswerMalformed", f"the pages of {path} repeat themselves")
            found += page
        raise EvidenceUnavailable("ForgeAnswerTooLarge", f"{path} has more than {MOST_PAGES} pages")

    def post(self, kind: TypeAdapter[T], path: str, body: Mapping[str, Any]) -> T:
        """The answer to POST `path` as a `kind`. Raises EvidenceUnavailable, ForgeRefused, NotTaken."""
        return _read(kind, self._call("POST", path, None, json.dumps(body).encode()), path)

    def change(self, method: Literal["PATCH", "PUT"], path: str, body: Mapping[str, Any]) -> None:
        """Change what is at `path`; the answer is not read. Raises EvidenceUnavailable, ForgeRefused."""
        self._call(method, path, None, json.dumps(body).encode())

    def close(self) -> None:
        """Let go of connections."""
        self._pool.clear()

    def _call(
        self, method: str, path: str, query: Mapping[str, str | int] | None, body: bytes | None
    ) -> bytes:
        address = f"{self._base}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"User-Agent": "capsule", "Accept": "application/json", **self._headers()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        ends = time.monotonic() + CALL_SECONDS
        try:
            answer = self._pool.request(
                method,
                address,
                headers=headers,
                body=body,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=SILENCE_SECONDS, read=SILENCE_SECONDS),
            )
            try:
                data = _bounded(answer, ends, path)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except urllib3.exceptions.SSLError as error:
            raise EvidenceUnavailable(
                "ForgeUntrusted", f"TLS with {self._base} failed: {_why(error)}"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise EvidenceUnavailable(
                "ForgeUnreachable", f"{self._base} did not answer: {_why(error)}"
            ) from None
        if answer.status < 300:
            return data
        raise _failure(answer.status, answer.headers, path)


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _bounded(answer: urllib3.BaseHTTPResponse, ends: float, path: str) -> bytes:
    found = bytearray()
    while piece := answer.read1(_CHUNK):
        found += piece
        if len(found) > MAX_ANSWER:
            raise EvidenceUnavailable(
                "ForgeAnswerTooLarge", f"the answer to {path} is above {MAX_ANSWER} bytes"
            )
        if time.monotonic() > ends:
            raise EvidenceUnavailable("ForgeUnreachable", f"the answer to {path} took too long")
    return bytes(found)


def _read(kind: TypeAdapter[T], data: bytes, path: str) -> T:
    try:
        return kind.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvidenceUnavailable(
            "ForgeAnswerMalformed", f"the answer to {path} is not as described: {where} {first['type']}"
        ) from None


def _failure(status: int, headers: Mapping[str, str], path: str) -> ForgeError:
    if status == 429 or (status == 403 and _is_limit(headers)):
        pause = _wait(headers)
        return EvidenceUnavailable("ForgeRateLimited", f"the forge wants no calls for {pause:.0f} s", pause)
    if status >= 500:
        wait = _wait(headers) if "Retry-After" in headers else None
        return EvidenceUnavailable("ForgeFailed", f"the forge answered {path} with status {status}", wait)
    if status == 401:
        return ForgeRefused("ForgeTokenRefused", "the forge does not take the token")
    if status == _MISSING:
        return NotThere("ForgeNotAllowed", f"the forge says that there is no {path}, or not for this token")
    if status in (409, 422):
        return NotTaken("ForgeRefusedCall", f"the forge does not take {path} as things stand")
    if 300 <= status < 400:
        return ForgeRefused("ForgeRedirects", f"the forge redirects {path}: was the repository renamed?")
    reason = "ForgeNotAllowed" if status == 403 else "ForgeRefusedCall"
    return ForgeRefused(reason, f"the forge refuses {path} with status {status}")


def _is_limit(headers: Mapping[str, str]) -> bool:
    return "Retry-After" in headers or any(headers.get(name) == "0" for name in _REMAINING)


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds until the forge wants to be asked again; a minute when it does not say."""
    said = headers.get("Retry-After", "")
    if said.isdecimal():
        return min(float(said), LONGEST_WAIT)
    for name in _RESETS:
        at = headers.get(name, "")
        if at.isdecimal() and len(at) < 16:
            return min(max(float(at) - time.time(), 1.0), LONGEST_WAIT)
    return 60.0


def _why(error: Exception) -> str:
    """The kind of what went wrong, and no more: texts of connections may hold an address with a query."""
    cause = getattr(error, "reason", None)
    return type(cause if isinstance(cause, Exception) else error).__name__


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
