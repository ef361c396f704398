"""The pages for people: services, one service, requests, one request, the trail, and the assets.

Rules kept: a page is a function of the snapshot's revision, the minute and the address, which make its
ETag. Called by web.app.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from flask import Flask, Response, make_response, render_template, request, url_for

from capsule.lifecycle.status import REASONS
from capsule.view.model import Drift, RequestRow, ServiceRow, Snapshot
from capsule.view.summary import summary
from capsule.web.answers import Problem, conditional
from capsule.web.listing import (
    OPEN_PHASES,
    PHASES,
    STATUSES,
    RequestQuery,
    ServiceQuery,
    TrailQuery,
    count_phases,
    count_statuses,
    page_of,
)
from capsule.web.picture import History, Picture, RepositoryUnreadable
from capsule.web.present import minute, word

STATUS_CHOICES = (("", "All"), ("attention", "Needs attention"), *((name, word(name)) for name in STATUSES))
PHASE_CHOICES = (("", "All"), ("open", "Open"), *((name, name) for name in PHASES))
ASSETS = {
    "capsule.css": "text/css; charset=utf-8",
    "capsule.js": "text/javascript; charset=utf-8",
    "capsule.svg": "image/svg+xml",
}
_LABEL_CHOICES = 200

Row = TypeVar("Row", ServiceRow, RequestRow)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One value that is pinned, reported, or both."""

    pin: str
    pinned: bool
    desired: str | int | bool | None
    reported: bool
    observed: str | int | bool | None
    drift: Drift | None

    @property
    def same(self) -> bool:
        return self.pinned and self.reported and self.desired == self.observed


def add_pages(app: Flask, picture: Picture) -> None:
    """Give `app` the pages and the assets."""

    @app.get("/")
    def services() -> Response:
        query = ServiceQuery.of(request.args)
        snapshot = picture.look()
        return _page(snapshot, "services", "services", lambda: _services(snapshot, query))

    @app.get("/services/<name>")
    def service(name: str) -> Response:
        snapshot = picture.look()
        row = named(snapshot.services, name, "service")
        return _page(
            snapshot,
            "service",
            "services",
            lambda: {
                "row": row,
                "comparison": compare(row),
                "reasons": REASONS,
                "past": _past(picture, snapshot, row.name),
            },
            name=name,
        )

    @app.get("/requests")
    def requests() -> Response:
        query = RequestQuery.of(request.args)
        snapshot = picture.look()
        return _page(snapshot, "requests", "requests", lambda: _requests(snapshot, query))

    @app.get("/requests/<name>")
    def request_page(name: str) -> Response:
        snapshot = picture.look()
        found = named(snapshot.requests, name, "request")

        def content() -> dict[str, Any]:
            row = picture.in_own_words(snapshot, found)
            begun = {operation.service for operation in row.operations}
            return {"row": row, "waiting": [target for target in row.targets if target not in begun]}

        return _page(snapshot, "request", "requests", content, name=name)

    @app.get("/audit")
    def audit() -> Response:
        query = TrailQuery.of(request.args, picture.now())
        snapshot = picture.look()
        kept = _kept(service=query.service, action=query.action, since=query.since_text)
        return _page(
            snapshot,
            "audit",
            "audit",
            lambda: {"query": query, "page": picture.trail(snapshot.audit, query), "kept": kept},
        )

    @app.get("/assets/<name>")
    def asset(name: str) -> Response:
        return _asset(name)

    @app.get("/favicon.ico")
    def favicon() -> Response:
        return _asset("capsule.svg")


def _past(picture: Picture, snapshot: Snapshot, name: str) -> History | None:
    """The history of a service; None when it cannot be read, which hides nothing else of the page."""
    try:
        return picture.history(snapshot, name)
    except RepositoryUnreadable:
        return None


def named(rows: Sequence[Row], name: str, kind: str) -> Row:
    """The row called `name`. Raises Problem, with names that are near."""
    for row in rows:
        if row.name == name:
            return row
    raise Problem(
        404,
        "ServiceNotFound" if kind == "service" else "RequestNotFound",
        f"No {kind} of this name",
        f"The repository has no {kind} called “{name[:80]}”.",
        near=get_close_matches(name[:80], [row.name for row in rows[:5000]], 3),
        endpoint="service" if kind == "service" else "request_page",
    )


def compare(row: ServiceRow) -> list[Comparison]:
    """Every pin beside what the agent reports, pinned values first."""
    drifts = {item.pin: item for item in row.drift}
    names = [*row.pins, *(name for name in row.values if name not in row.pins)]
    observed = dict(row.values)
    if row.version is not None:
        observed.setdefault("version", row.version)
        names = names if "version" in names else [*names, "version"]
    return [
        Comparison(
            name, name in row.pins, row.pins.get(name), name in observed, observed.get(name), drifts.get(name)
        )
        for name in names
    ]


def _page(
    snapshot: Snapshot, template: str, section: str, context: Callable[[], dict[str, Any]], **address: str
) -> Response:
    now = minute(snapshot.now)
    endpoint = {"request": "request_page"}.get(template, template)
    values: dict[str, Any] = {**request.args.to_dict(flat=False), **address}
    json_url = url_for(f"api_{endpoint}", **values)
    return conditional(
        (snapshot.revision, now.isoformat()),
        lambda: make_response(
            render_template(
                f"{template}.html",
                snapshot=snapshot,
                section=section,
                now=now,
                json_url=json_url,
                **context(),
            )
        ),
    )


def _services(snapshot: Snapshot, query: ServiceQuery) -> dict[str, Any]:
    rows = query.chosen(snapshot.services)
    kept = _kept(q=query.text, label=list(query.labels), status=query.status)
    pairs = Counter(f"{name}={value}" for row in snapshot.services for name, value in row.labels.items())
    return {
        "summary": summary(snapshot),
        "query": query,
        "page": page_of(query.of_status(rows), request.args),
        "counts": count_statuses(rows),
        "status_choices": STATUS_CHOICES,
        "label_choices": sorted(label for label, _ in pairs.most_common(_LABEL_CHOICES)),
        "kept": {name: value for name, value in kept.items() if name != "status"},
        "kept_paged": kept,
    }


def _requests(snapshot: Snapshot, query: RequestQuery) -> dict[str, Any]:
    rows = query.chosen(snapshot.requests)
    kept = _kept(q=query.text, phase=query.phase)
    return {
        "summary": _requests_summary(snapshot),
        "query": query,
        "page": page_of(query.of_phase(rows), request.args),
        "counts": count_phases(rows),
        "phase_choices": PHASE_CHOICES,
        "open_phases": OPEN_PHASES,
        "kept": {name: value for name, value in kept.items() if name != "phase"},
        "kept_paged": kept,
    }


def _requests_summary(snapshot: Snapshot) -> str:
    proposed = sum(row.phase == "Proposed" for row in snapshot.requests)
    going = sum(row.phase in OPEN_PHASES for row in snapshot.requests) - proposed
    if not proposed and not going:
        return "Nothing is waiting."
    waits = f"{proposed:,} wait{'s' if proposed == 1 else ''} for approval" if proposed else ""
    runs = f"{going:,} {'is' if going == 1 else 'are'} approved or under way" if going else ""
    return ", ".join(part for part in (waits, runs) if part) + "."


def _kept(**values: str | list[str]) -> dict[str, str | list[str]]:
    return {name: value for name, value in values.items() if value}


@cache
def _asset_bytes(name: str) -> bytes:
    return files("capsule.web").joinpath("static").joinpath(name).read_bytes()


def _asset(name: str) -> Response:
    if name not in ASSETS:
        raise Problem(404, "AssetNotFound", "No such file", "The dashboard has no file of this name.")
    data = _asset_bytes(name)

    def render() -> Response:
        return Response(data, content_type=ASSETS[name])

    answer = conditional((hashlib.sha256(data).hexdigest(),), render)
    if request.args.get("v"):
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return answer
