"""The agent as a WSGI application (PEP 3333), and the guard that refuses traffic while disabled.

Called by the WSGI server of an adapter: Flask, Django, waitress, gunicorn, whatever speaks PEP 3333.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from capsule_agent.calls import Answer, Calls, check_head, disabled, is_call, is_ours, problem

Environ = dict[str, Any]


class StartResponse(Protocol):
    """The second argument of a WSGI application."""

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = ..., /
    ) -> Callable[[bytes], object]: ...


WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


def wsgi_app(calls: Calls, started: Callable[[], None]) -> WsgiApp:
    """The application; `started` is called before each call, for work that belongs to the process."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started()
        return _send(_answer(calls, environ), start_response)

    return app


def guard(app: WsgiApp, why_disabled: Callable[[], str | None]) -> WsgiApp:
    """`app`, answering 503 while `why_disabled` gives a reason; the contract's own calls pass."""

    def guarded(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        reason = why_disabled()
        if reason is None or is_call(_path(environ)):
            return app(environ, start_response)
        return _send(disabled(reason), start_response)

    return guarded


def in_front(agent: WsgiApp, app: WsgiApp) -> WsgiApp:
    """What lies below /capsule/v1/ to `agent`, everything else to `app`."""

    def both(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        chosen = agent if is_ours(_path(environ)) else app
        return chosen(environ, start_response)

    return both


def _answer(calls: Calls, environ: Environ) -> Answer:
    path = _path(environ)
    length = check_head(
        str(environ.get("REQUEST_METHOD", "")),
        path,
        str(environ.get("CONTENT_TYPE") or ""),
        environ.get("CONTENT_LENGTH") or None,
    )
    if isinstance(length, Answer):
        return length
    body = environ["wsgi.input"].read(length)
    if len(body) != length:
        return problem(400, "BodyCutOff", f"{length} bytes were announced, {len(body)} came")
    return calls.answer(path, body)


def _path(environ: Environ) -> str:
    return str(environ.get("SCRIPT_NAME", "")) + str(environ.get("PATH_INFO", ""))


def _send(answer: Answer, start_response: StartResponse) -> list[bytes]:
    start_response(answer.status_line, list(answer.headers))
    return [answer.body]
