"""The dashboard as a WSGI application: made here, served by web.server or any WSGI server.

Rules kept: GET and HEAD alone; everything shown comes from the repository through view; an error is a
page of its own. Called by `capsule dashboard` and `capsule up`, which also give it its clock.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import groupby

from flask import Flask, Response, request, url_for
from werkzeug.exceptions import HTTPException, NotFound

from capsule.documents.scalars import NAME
from capsule.store.api import Store
from capsule.view.model import needs_attention, switched_otherwise
from capsule.view.uptime import percent, thin_record
from capsule.web import present
from capsule.web.answers import Problem, build, problem
from capsule.web.api import add_api
from capsule.web.guard import HEADERS, METHODS, Hosts
from capsule.web.listing import BadQuery
from capsule.web.lost import lost
from capsule.web.pages import add_pages
from capsule.web.picture import NotOnTrail, Picture, RepositoryUnreadable

_LOG = logging.getLogger("capsule.web")
_NAME = re.compile(NAME)
EVIDENCE_WORDS = {
    "signature": "A signed approval document: the strongest evidence",
    "break-glass": "Nobody approved it: somebody broke the glass",
    "forge": "A review at the forge, read from its API",
    "merge": "A merge by another person: trusts the branch protection of main",
}


def create_app(
    open_store: Callable[[], Store],
    root: str,
    clock: Callable[[], datetime],
    hosts: Iterable[str] = (),
    proved: Callable[[], str | None] = lambda: None,
) -> Flask:
    """The dashboard of one repository.

    `open_store` opens the repository (again after an error), `root` is its pinned id, `clock` gives the
    time in UTC, `hosts` are names besides the loopback ones under which it may be asked, and
    `proved` gives the commit of audit that was proved here last.
    """
    app = Flask("capsule.web", static_folder=None)
    app.json.ensure_ascii = True  # type: ignore[attr-defined]  # the default provider has it
    app.url_map.strict_slashes = False
    picture = Picture(open_store, root, clock, proved)
    app.extensions["capsule.picture"] = picture
    app.extensions["capsule.hosts"] = Hosts(hosts)
    _dress(app)
    _guard(app)
    add_pages(app, picture)
    add_api(app, picture)
    _catch(app)
    return app


def _dress(app: Flask) -> None:
    """What the templates may use."""
    env = app.jinja_env
    env.finalize = present.printable
    env.trim_blocks = True
    env.lstrip_blocks = True
    env.filters.update(
        relative=present.relative,
        exact=present.exact,
        machine_time=present.machine_time,
        word=present.word,
        tone=present.tone,
        state_icon=present.icon,
        plain=present.plain,
        bare=present.bare,
        breakable=present.breakable,
        lasting=present.lasting,
        sentence=present.sentence,
        web_address=present.web_address,
        lasted=present.lasted,
        percent=percent,
        thin_record=thin_record,
        condition_texts=present.condition_texts,
        lost_height=present.lost_height,
        day_in_words=present.day_in_words,
        days_in_words=present.days_in_words,
        groupby_day=lambda rows: [
            {"day": day, "rows": list(group)} for day, group in groupby(rows, lambda row: present.day(row.at))
        ],
    )
    env.tests.update(
        troubled=needs_attention,
        switched_otherwise=switched_otherwise,
        documentname=lambda text: bool(_NAME.match(text)),
    )
    env.globals.update(
        asset=lambda name: url_for("asset", name=name, v=build()),
        evidence_words=EVIDENCE_WORDS,
        with_query=lambda kept, name, value: {**kept, name: value} if value else kept,
    )


def _guard(app: Flask) -> None:
    hosts: Hosts = app.extensions["capsule.hosts"]

    @app.before_request
    def refuse() -> Response | None:
        if not hosts.allows(request.environ.get("HTTP_HOST")):
            return problem(
                Problem(
                    421,
                    "HostNotAllowed",
                    "Not under this name",
                    "The dashboard answers under loopback names and the hosts it was told.",
                    "Use the address it printed, or bind it to this name: `--bind NAME:PORT`.",
                )
            )
        if request.method not in METHODS:
            return problem(
                Problem(
                    405,
                    "MethodNotAllowed",
                    "Nothing can be changed here",
                    "The dashboard only reads: GET and HEAD. Changes are made with git and reviewed.",
                    headers={"Allow": ", ".join(METHODS)},
                )
            )
        return None

    @app.after_request
    def seal(answer: Response) -> Response:
        answer.headers.update(HEADERS)
        return answer


def _catch(app: Flask) -> None:
    @app.errorhandler(Problem)
    def known(error: Problem) -> Response:
        return problem(error)

    @app.errorhandler(BadQuery)
    def bad_query(error: BadQuery) -> Response:
        return problem(Problem(400, "BadQuery", "This address asks for something unknown", str(error)))

    @app.errorhandler(NotOnTrail)
    def not_on_trail(error: NotOnTrail) -> Response:
        detail = f"Commit {error} is not among the newest commits of the audit trail."
        return problem(Problem(404, "NotOnTrail", "Not on the trail", detail, "Begin again at its top."))

    @app.errorhandler(RepositoryUnreadable)
    def unreadable(error: RepositoryUnreadable) -> Response:
        _LOG.warning("the repository cannot be read: %s", error)
        return problem(
            Problem(
                503,
                "RepositoryUnreadable",
                "The repository cannot be read",
                str(error),
                error.hint,
                headers={"Retry-After": "15"},
            )
        )

    @app.errorhandler(NotFound)
    def nowhere(_error: NotFound) -> Response:
        return problem(lost(app.extensions["capsule.picture"], request.path))

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        status = error.code or 500
        reason = re.sub(r"[^A-Za-z]", "", error.name.title())
        return problem(Problem(status, reason, error.name, error.description or ""))

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        _LOG.error("a page failed", exc_info=error)
        return problem(
            Problem(
                500,
                "PageFailed",
                "This page failed",
                "It is a fault of the dashboard, not of the repository; the log says more.",
            )
        )
