"""The three calls of the wire contract, free of any server: name and body in, status and body out.

Rules kept: a body is bounded and hostile until read; whoever is not proved a reconciler gets a problem
(RFC 9457), never a signed receipt; no traceback and no secret leaves. Called by wsgi, asgi and server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from capsule_agent.protocol.messages import Envelope, ReportCall, decode
from capsule_agent.protocol.strict_json import InvalidMessage
from capsule_agent.refusal import Untrusted
from capsule_agent.sensitive import log

MAX_BODY = 1024 * 1024
NAMES = ("report", "order", "query")
_PATH = re.compile(r"(?:/[^?#]*)?/capsule/v1/(report|order|query)")
_EXACT = frozenset(f"/capsule/v1/{name}" for name in NAMES)
_TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, before any server writes it."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def status_line(self) -> str:
        """Such as "200 OK"."""
        return f"{self.status} {_TITLES.get(self.status, 'OK')}"


def call_name(path: str) -> str | None:
    """Which call a full path means, under whatever prefix the agent is mounted; None for others."""
    match = _PATH.fullmatch(path)
    return match and match[1]


def is_call(path: str) -> bool:
    """Whether the path is exactly one of the contract's own: these pass the guard of a disabled agent."""
    return path in _EXACT


def is_ours(path: str) -> bool:
    """Whether the path lies where only the contract's calls may be."""
    return path.startswith("/capsule/v1/")


def ok(body: str) -> Answer:
    """A signed answer."""
    return _answer(200, "application/json", body.encode())


def problem(status: int, reason: str, detail: str, *extra: tuple[str, str]) -> Answer:
    """A problem document (RFC 9457) with a reason code."""
    title = _TITLES[status]
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "reason": reason}
    return _answer(status, "application/problem+json", json.dumps(body).encode(), *extra)


def _answer(status: int, content_type: str, body: bytes, *extra: tuple[str, str]) -> Answer:
    headers = (
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )
    return Answer(status, body, headers + extra)


def disabled(reason: str) -> Answer:
    """What traffic gets while the service is disabled."""
    detail = "this service is disabled" + (f" ({reason})" if reason else "")
    return problem(503, "Disabled", detail, ("Retry-After", "30"))


def check_head(method: str, path: str, content_type: str, length: str | None) -> Answer | int:
    """The length of the body to read, or the answer that refuses the call."""
    if call_name(path) is None:
        return problem(404, "NoSuchCall", "expected POST /capsule/v1/report, order or query")
    if method != "POST":
        return problem(405, "MethodNotAllowed", "expected POST", ("Allow", "POST"))
    if content_type and content_type.split(";", maxsplit=1)[0].strip().lower() != "application/json":
        return problem(415, "NotJson", "expected Content-Type: application/json")
    if length is None or not length.isascii() or not length.isdigit():
        return problem(411, "LengthMissing", "expected a Content-Length")
    if len(length) > 9 or int(length) > MAX_BODY:
        return problem(413, "BodyTooLarge", f"expected at most {MAX_BODY} bytes")
    return int(length)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one agent. `order` and `query` are None for an agent that only observes."""

    report: Callable[[str], str]
    order: Callable[[Envelope], str] | None
    query: Callable[[Envelope], str] | None

    def answer(self, path: str, body: bytes) -> Answer:
        """Answer the call that `path` names; never raises."""
        try:
            return self._answer(call_name(path) or "", body)
        except InvalidMessage as error:
            return problem(400, "MessageInvalid", str(error))
        except Untrusted as refusal:
            log.warning("a call was refused: %s: %s", refusal.reason, refusal)
            return problem(403, refusal.reason, str(refusal))
        except Exception as error:
            log.error("a call failed: %s", type(error).__name__, exc_info=_without_values(error))
            return problem(500, "InternalError", "the agent failed; its own log says why")

    def _answer(self, name: str, body: bytes) -> Answer:
        if name == "report":
            return ok(self.report(_nonce(body)))
        run = self.order if name == "order" else self.query
        if run is None:
            return problem(403, "ObserveOnly", "this agent only reports; give it keys to let it act")
        return ok(run(decode(Envelope, body, max_bytes=MAX_BODY)))


def _nonce(body: bytes) -> str:
    nonce = decode(ReportCall, body, max_bytes=4096).nonce
    if not nonce.isascii() or not nonce.isprintable() or len(nonce) > 64:
        raise InvalidMessage("nonce: expected at most 64 printable ASCII characters")
    return nonce


def _without_values(error: Exception) -> Exception | None:
    """Errors of the journal may be logged whole; those of adapter code were logged, redacted, before."""
    return error if type(error).__module__ in ("sqlite3", "capsule_agent.journal") else None
