"""Tells a service manager what the daemon is doing, in the protocol of sd_notify(3).

Rules kept: without NOTIFY_SOCKET nothing is sent; a manager that does not listen never holds a pass up; the
watchdog is fed by a turn of the loop and by nothing else. Called by the loop; the command line reads the
environment.
"""

from __future__ import annotations

import logging
import socket
import time
from types import TracebackType
from typing import Self

from capsule.daemon.vitals import LONGEST_PAUSE, Turn
from capsule.documents.problems import shown

log = logging.getLogger("capsule.daemon")
LONGEST_STATUS = 200


class Manager:
    """The service manager that listens at `address`: a path, or a name behind `@` in Linux's abstract space.

    None or an address of another kind (AF_VSOCK) is nobody. `watchdog`: seconds without a sign of life after
    which it ends this process. Use it as a context, which closes the socket.
    """

    def __init__(self, address: str | None, *, watchdog: float | None = None) -> None:
        self.longest_pause = LONGEST_PAUSE if not watchdog else min(LONGEST_PAUSE, watchdog / 3)
        self._address = _unix_address(address)
        self._socket: socket.socket | None = None
        self._status = ""
        self._ready = False
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def turned(self, turn: Turn) -> None:
        """A pass ended: feed the watchdog; the first that read the repository makes the service ready."""
        lines = ["WATCHDOG=1"]
        if turn.read and not self._ready:
            self._ready = True
            lines.insert(0, "READY=1")
        self._tell(*lines, status=_status_of(turn))

    def rereading(self) -> None:
        """The files that settings name are being read again; `reread` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reread(self, status: str) -> None:
        """They were read, or are not taken over, as `status` says."""
        self._tell("READY=1", status=status)
        self._ready = True

    def stopping(self) -> None:
        """What is under way is being finished."""
        self._tell("STOPPING=1", status="Finishing what is under way")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str, status: str = "") -> None:
        if self._socket is None or self._address is None:
            return
        text = shown(status)[:LONGEST_STATUS]
        if text and text != self._status:
            self._status = text
            lines = (*lines, f"STATUS={text}")
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("the service manager does not listen: %s", error)


def _unix_address(address: str | None) -> str | None:
    if address and address[0] == "@":
        return "\0" + address[1:]
    return address if address and address[0] == "/" else None


def _status_of(turn: Turn) -> str:
    if turn.report is None:
        return f"The last pass failed: {turn.problem}"
    if turn.result == "stalled":
        return f"Nothing is acted on: {turn.problem}"
    tip = (turn.report.audit or "nothing")[:12]
    return f"audit {tip}" + (f", {turn.report.under_way} under way" if turn.report.under_way else "")
