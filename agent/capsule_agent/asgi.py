"""The agent as an ASGI 3 application, and the guard that refuses traffic while disabled.

Rules kept: the journal and adapter code block, so they run in a thread, never in the event loop. Called by
the ASGI server of an adapter: Starlette, FastAPI, uvicorn, whatever speaks ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from capsule_agent.calls import Answer, Calls, check_head, disabled, is_call, is_ours, problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi_app(calls: Calls, started: Callable[[], None]) -> AsgiApp:
    """The application; `started` is called before each call, for work that belongs to the process."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            started()
            await _send(await _answer(calls, scope, receive), send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return app


def guard(app: AsgiApp, why_disabled: Callable[[], str | None]) -> AsgiApp:
    """`app`, answering 503 while `why_disabled` gives a reason; the contract's own calls pass."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_call(_path(scope)):
            await app(scope, receive, send)
            return
        reason = await asyncio.to_thread(why_disabled)
        if reason is None:
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await _send(disabled(reason), send)
        else:
            await send({"type": "websocket.close", "code": 1013})

    return guarded


def in_front(agent: AsgiApp, app: AsgiApp) -> AsgiApp:
    """What lies below /capsule/v1/ to `agent`, everything else to `app`."""

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = agent if scope["type"] == "http" and is_ours(_path(scope)) else app
        await chosen(scope, receive, send)

    return both


async def _answer(calls: Calls, scope: Scope, receive: Receive) -> Answer:
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    path = _path(scope)
    length = check_head(
        scope["method"], path, headers.get(b"content-type", ""), headers.get(b"content-length")
    )
    if isinstance(length, Answer):
        return length
    body = await _body(receive, length)
    if len(body) != length:
        return problem(400, "BodyCutOff", f"{length} bytes were announced, {len(body)} came")
    return await asyncio.to_thread(calls.answer, path, body)


async def _body(receive: Receive, length: int) -> bytes:
    body = bytearray()
    while len(body) <= length:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _path(scope: Scope) -> str:
    """The full path: servers and frameworks differ on whether `path` holds `root_path` already."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return path if path == root or path.startswith(root + "/") else root + path


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _send(answer: Answer, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
