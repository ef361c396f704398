"""Answers: conditional ones with a strong ETag, and problems for people (HTML) or programs (RFC 9457).

Rules kept: a tag is made from everything that the bytes depend on, so a 304 never hides a change, least
of all a dead reconciler; a problem says what, why and what next, never a traceback. Called by web.app.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from flask import Response, jsonify, make_response, render_template, request

from capsule import __version__

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Way:
    """A page that may have been meant."""

    text: str
    address: str


@dataclass(frozen=True)
class Problem(Exception):
    """Why a page cannot be shown. `near` are names that exist, for `endpoint`; `ways` are any pages."""

    status: int
    reason: str
    title: str
    detail: str
    hint: str = ""
    near: Sequence[str] = ()
    endpoint: str = "services"
    headers: dict[str, str] = field(default_factory=dict)
    ways: Sequence[Way] = ()


@cache
def build() -> str:
    """A digest of everything that is shipped with the pages: a new version is a new page."""
    digest = hashlib.sha256(__version__.encode())
    for folder in ("templates", "static"):
        for part in sorted(files("capsule.web").joinpath(folder).iterdir(), key=lambda item: item.name):
            digest.update(part.name.encode() + b"\0" + part.read_bytes())
    return digest.hexdigest()[:16]


def conditional(facts: Sequence[str], render: Callable[[], Response]) -> Response:
    """The answer of `render` under a strong tag made of `facts` and the address; 304 when it is known.

    `render` is not called for a 304.
    """
    text = "\0".join((build(), request.path, request.query_string.decode("latin-1"), *facts))
    tag = hashlib.sha256(text.encode()).hexdigest()[:40]
    known = request.if_none_match.contains_weak(tag)
    answer = Response(status=304) if known else render()
    answer.set_etag(tag)
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer


def problem(found: Problem) -> Response:
    """The answer that says what is wrong."""
    if request.path == API or request.path.startswith(f"{API}/"):
        body = {
            "type": "about:blank",
            "title": found.title,
            "status": found.status,
            "detail": found.detail,
            "reason": found.reason,
        }
        answer = jsonify(body | ({"hint": found.hint} if found.hint else {}))
        answer.mimetype = "application/problem+json"
    else:
        answer = make_response(
            render_template(
                "problem.html",
                status=found.status,
                reason=found.reason,
                title=found.title,
                detail=found.detail,
                hint=found.hint,
                near=found.near,
                endpoint=found.endpoint,
                ways=found.ways,
            )
        )
    answer.status_code = found.status
    answer.headers["Cache-Control"] = "no-store"
    answer.headers.update(found.headers)
    return answer
