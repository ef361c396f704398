"""Serving the dashboard from a thread of this process, with waitress.

Rules kept: slow clients block nobody (waitress reads and writes from one loop); with a remote, a second
thread fetches, so that no page waits for the network; closing waits for both. Called by
`capsule dashboard`, `capsule up` and the demo.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from flask import Flask

from capsule.daemon.serving import AddressTaken, Served, serve
from capsule.web.guard import Hosts
from capsule.web.picture import Picture, RepositoryUnreadable

__all__ = ["AddressTaken", "Dashboard", "serve_dashboard"]

_LOG = logging.getLogger("capsule.web")
_THREADS = 4
_REFRESH_SECONDS = 15.0


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that is being served at `address`, such as http://127.0.0.1:8000/."""

    address: str
    port: int
    _served: Served
    _refreshing: threading.Thread
    _closing: threading.Event
    _picture: Picture

    def close(self) -> None:
        """Stop answering, and wait until the threads are gone."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._served.close()
        self._refreshing.join()
        self._picture.close()


def serve_dashboard(app: Flask, host: str, port: int) -> Dashboard:
    """Serve `app`, made by `create_app`, at `host` and `port` (0 takes a free one).

    Raises AddressTaken. The app answers under `host` from now on.
    """
    hosts: Hosts = app.extensions["capsule.hosts"]
    picture: Picture = app.extensions["capsule.picture"]
    hosts.allow(host)
    served = serve(app, host, port, name="dashboard", threads=_THREADS, option="--bind")
    closing = threading.Event()
    refreshing = threading.Thread(
        target=_refresh, args=(picture, closing), name="dashboard-refresh", daemon=True
    )
    refreshing.start()
    return Dashboard(served.address, served.port, served, refreshing, closing, picture)


def _refresh(picture: Picture, closing: threading.Event) -> None:
    while not closing.wait(_REFRESH_SECONDS):
        try:
            picture.refresh()
        except RepositoryUnreadable as error:
            _LOG.warning("fetching for the dashboard failed: %s", error)
