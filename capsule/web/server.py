"""Serving the dashboard from a thread of this process, with waitress.

Rules kept: slow clients block nobody (waitress reads and writes from one loop); with a remote, a second
thread fetches, so that no page waits for the network; closing waits for both. Called by
`capsule dashboard`, `capsule up` and the demo.
"""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

from capsule.web.guard import Hosts
from capsule.web.picture import Picture, RepositoryUnreadable

_LOG = logging.getLogger("capsule.web")
_THREADS = 4
_REFRESH_SECONDS = 15.0


class AddressTaken(OSError):
    """The address cannot be listened on; the text says which, and why."""


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that is being served at `address`, such as http://127.0.0.1:8000/."""

    address: str
    port: int
    _server: Any
    _sockets: dict[int, Any]
    _threads: tuple[threading.Thread, ...]
    _closing: threading.Event
    _picture: Picture

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
        for thread in self._threads:
            thread.join()
        self._server.task_dispatcher.shutdown()
        self._picture.close()


def serve_dashboard(app: Flask, host: str, port: int) -> Dashboard:
    """Serve `app`, made by `create_app`, at `host` and `port` (0 takes a free one).

    Raises AddressTaken. The app answers under `host` from now on.
    """
    hosts: Hosts = app.extensions["capsule.hosts"]
    picture: Picture = app.extensions["capsule.picture"]
    listening = _listen(host, port)
    hosts.allow(host)
    taken = int(listening.getsockname()[1])
    sockets: dict[int, Any] = {}
    server = create_server(app, map=sockets, sockets=[listening], threads=_THREADS, ident="capsule")
    # Waitress warns of every request that waits a moment for one of its threads.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    closing = threading.Event()
    threads = (
        threading.Thread(target=server.run, name="dashboard", daemon=True),
        threading.Thread(target=_refresh, args=(picture, closing), name="dashboard-refresh", daemon=True),
    )
    for thread in threads:
        thread.start()
    shown = f"[{host}]" if ":" in host else host
    return Dashboard(f"http://{shown}:{taken}/", taken, server, sockets, threads, closing, picture)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        why = error.strerror or str(error)
        raise AddressTaken(
            f"cannot listen on {host} port {port}: {why}; choose another with --bind"
        ) from None
    listening.setblocking(False)
    return listening


def _refresh(picture: Picture, closing: threading.Event) -> None:
    while not closing.wait(_REFRESH_SECONDS):
        try:
            picture.refresh()
        except RepositoryUnreadable as error:
            _LOG.warning("fetching for the dashboard failed: %s", error)
