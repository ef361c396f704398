"""Serving a WSGI application from a thread of this process, with waitress.

Rules kept: slow clients block nobody (waitress reads and writes from one loop); an address that cannot be
listened on is an error that names it; closing waits until the threads are gone. Called by the endpoints
for monitoring and by the dashboard.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from waitress import wasyncore
from waitress.server import create_server


class AddressTaken(OSError):
    """The address cannot be listened on; the text says which, and why."""


@dataclass(frozen=True)
class Served:
    """An application that is being served at `address`, such as http://127.0.0.1:8000/."""

    address: str
    port: int
    _server: Any
    _sockets: dict[int, Any]
    _thread: threading.Thread
    _closing: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Stop answering, and wait until the threads are gone."""
        if self._closing.is_set():
            return
        self._closing.set()
        # Sockets are closed by the thread that polls them: closing them under it is a race. It may be awake
        # already, and the trigger is one of them: it waits until the trigger was pulled.
        pulled = threading.Event()

        def close_all() -> None:
            pulled.wait()
            wasyncore.close_all(self._sockets, ignore_all=True)

        self._server.trigger.pull_trigger(close_all)
        pulled.set()
        self._thread.join()
        self._server.task_dispatcher.shutdown()


def serve(
    app: Callable[..., Any],
    host: str,
    port: int,
    *,
    name: str,
    threads: int,
    option: str,
    **limits: int,
) -> Served:
    """Serve `app` at `host` and `port` (0 takes a free one), from a thread called `name`.

    `option` is the one that chooses the address, for the message of AddressTaken; `limits` are waitress' own,
    such as max_request_body_size (bytes) and channel_timeout (seconds).
    """
    listening = _listen(host, port, option)
    taken = int(listening.getsockname()[1])
    sockets: dict[int, Any] = {}
    server = create_server(app, map=sockets, sockets=[listening], threads=threads, ident="capsule", **limits)
    # Waitress warns of every request that waits a moment for one of its threads.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    thread = threading.Thread(target=server.run, name=name, daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    return Served(f"http://{shown}:{taken}/", taken, server, sockets, thread)


def _listen(host: str, port: int, option: str) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressTaken(
                f"port {port} of {host} is taken by another program, perhaps by a `capsule up` that serves "
                f"this already; choose another with {option}"
            ) from None
        why = error.strerror or str(error)
        raise AddressTaken(
            f"cannot listen on {host} port {port}: {why}; choose another with {option}"
        ) from None
    listening.setblocking(False)
    return listening
