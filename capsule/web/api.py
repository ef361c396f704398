"""The same pages as JSON under /api/v1/: the values of view.model through `as_json`.

Rules kept: nothing here but a history depends on the minute, only on the snapshot's revision and the address;
a list says how many there are and where the next page is. The format is written down in
docs/reference/api.md. Called by web.app.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, jsonify, request, url_for

from capsule.view.model import RequestRow, ServiceRow, Snapshot, as_json
from capsule.view.summary import summary
from capsule.web.answers import API, conditional
from capsule.web.listing import Page, RequestQuery, ServiceQuery, TrailQuery, page_of
from capsule.web.pages import named
from capsule.web.picture import Picture
from capsule.web.present import minute


def add_api(app: Flask, picture: Picture) -> None:
    """Give `app` the JSON form of its pages."""

    @app.get(API)
    def api_index() -> Response:
        snapshot = picture.look()
        return _answer(snapshot, "Index", lambda: _index(snapshot))

    @app.get(f"{API}/services")
    def api_services() -> Response:
        query = ServiceQuery.of(request.args)
        snapshot = picture.look()

        def content() -> Mapping[str, Any]:
            page = page_of(query.of_status(query.chosen(snapshot.services)), request.args)
            return _list(page, [_brief(row) for row in page.items])

        return _answer(snapshot, "ServiceList", content)

    @app.get(f"{API}/services/<name>")
    def api_service(name: str) -> Response:
        snapshot = picture.look()
        row = named(snapshot.services, name, "service")
        return _answer(snapshot, "Service", lambda: {"item": as_json(row)})

    @app.get(f"{API}/services/<name>/history")
    def api_history(name: str) -> Response:
        snapshot = picture.look()
        row = named(snapshot.services, name, "service")

        def content() -> Mapping[str, Any]:
            found = picture.history(snapshot, row.name)
            return {"readBackTo": as_json(found.read_back_to), "item": as_json(found.row)}

        # Windows move with the clock: the answer holds for a minute.
        return _answer(snapshot, "History", content, (minute(snapshot.now).isoformat(),))

    @app.get(f"{API}/requests")
    def api_requests() -> Response:
        query = RequestQuery.of(request.args)
        snapshot = picture.look()

        def content() -> Mapping[str, Any]:
            page = page_of(query.of_phase(query.chosen(snapshot.requests)), request.args)
            return _list(page, [_brief(row) for row in page.items])

        return _answer(snapshot, "RequestList", content)

    @app.get(f"{API}/requests/<name>")
    def api_request_page(name: str) -> Response:
        snapshot = picture.look()
        row = named(snapshot.requests, name, "request")
        return _answer(snapshot, "Request", lambda: {"item": as_json(picture.in_own_words(snapshot, row))})

    @app.get(f"{API}/audit")
    def api_audit() -> Response:
        query = TrailQuery.of(request.args, picture.now())
        snapshot = picture.look()

        def content() -> Mapping[str, Any]:
            page = picture.trail(snapshot.audit, query)
            following = _with("before", page.following) if page.following else None
            return {"searched": page.searched, "next": following, "items": as_json(page.rows)}

        # A relative `since` moves with the clock, and with it the end of the list.
        moving = (query.since.isoformat(),) if query.since else ()
        return _answer(snapshot, "Trail", content, moving)


def _answer(
    snapshot: Snapshot, kind: str, content: Callable[[], Mapping[str, Any]], facts: tuple[str, ...] = ()
) -> Response:
    def render() -> Response:
        head = {"apiVersion": "capsule/v1", "kind": kind, "repository": _repository(snapshot)}
        return jsonify(head | dict(content()))

    return conditional((snapshot.revision, *facts), render)


def _repository(snapshot: Snapshot) -> Mapping[str, Any]:
    return {
        "root": snapshot.root,
        "title": snapshot.title,
        "main": snapshot.main,
        "audit": snapshot.audit,
        "suspended": snapshot.suspended,
        "heartbeats": as_json(snapshot.heartbeats),
        "conditions": as_json(snapshot.conditions),
    }


def _index(snapshot: Snapshot) -> Mapping[str, Any]:
    return {
        "summary": summary(snapshot),
        "services": len(snapshot.services),
        "requests": len(snapshot.requests),
        "links": {
            "services": url_for("api_services"),
            "requests": url_for("api_requests"),
            "audit": url_for("api_audit"),
        },
    }


def _brief(row: ServiceRow | RequestRow) -> Mapping[str, Any]:
    """A row of a list: operations are on the page of the one."""
    value: dict[str, Any] = as_json(row)
    value["operations"] = len(row.operations)
    return value


def _list(page: Page[Any], items: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    following = _with("page", page.number + 1) if page.number < page.pages else None
    return {"total": page.total, "next": following, "items": items}


def _with(name: str, value: str | int) -> str:
    kept = request.args.to_dict(flat=False) | {name: [str(value)]}
    return url_for(str(request.endpoint), **kept)  # type: ignore[arg-type]  # lists repeat a parameter
