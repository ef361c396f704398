"""An address that nobody knows: what it may have meant. Called by web.app."""

from __future__ import annotations

from difflib import get_close_matches

from flask import url_for

from capsule.web.answers import API, Problem, Way
from capsule.web.picture import Picture, RepositoryUnreadable

_LONGEST = 80
_SEARCHED = 5_000
_MOST = 3
_PAGES = {"services": "services", "requests": "requests", "audit": "audit", "log": "audit", "trail": "audit"}


def lost(picture: Picture, path: str) -> Problem:
    """The problem of a `path` without a page, with pages whose names are near its last part."""
    in_api = path == API or path.startswith(f"{API}/")
    return Problem(
        404,
        "NotFound",
        "There is no page at this address",
        f"Nothing of the dashboard is at “{path[:_LONGEST]}”.",
        f"{API} lists what there is." if in_api else "",
        ways=() if in_api else _ways(picture, path.rstrip("/").rsplit("/", 1)[-1][:_LONGEST]),
    )


def _ways(picture: Picture, word: str) -> tuple[Way, ...]:
    known = {name: url_for(endpoint) for name, endpoint in _PAGES.items()}
    try:
        seen = picture.look()
    except RepositoryUnreadable:
        pass  # the page says no less without it
    else:
        known |= {row.name: url_for("request_page", name=row.name) for row in seen.requests[:_SEARCHED]}
        known |= {row.name: url_for("service", name=row.name) for row in seen.services[:_SEARCHED]}
    found = [word] if word in known else get_close_matches(word, known, _MOST)
    return tuple(Way(name, known[name]) for name in found)
