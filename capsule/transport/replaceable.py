"""A transport that can be exchanged for another while calls are under way.

Rules kept: a call ends on the transport it began on; the old one is closed when its last call has ended, and
not before. Called by the reconciler, which sees one Transport; exchanged when files are read again.
"""

from __future__ import annotations

import threading

from capsule.documents.types import AgentAddress
from capsule.transport.api import CallName, Transport


class Replaceable:
    """A Transport in front of `transport`, until `replace` puts another there."""

    def __init__(self, transport: Transport) -> None:
        self._lock = threading.Lock()
        self._current = _Counted(transport)

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` by the present transport; see Transport.call."""
        with self._lock:
            counted = self._current
            counted.calls += 1
        try:
            return counted.transport.call(address, name, body, timeout=timeout)
        finally:
            with self._lock:
                counted.calls -= 1
                over = counted.left and counted.calls == 0
            if over:
                counted.transport.close()

    def replace(self, transport: Transport) -> None:
        """Carry every call from now on by `transport`."""
        with self._lock:
            old, self._current = self._current, _Counted(transport)
            old.left = True
            idle = old.calls == 0
        if idle:
            old.transport.close()

    def close(self) -> None:
        """Close the present transport; one before it closes by itself."""
        self._current.transport.close()


class _Counted:
    """A transport, the calls under way on it, and whether it was left for another."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.calls = 0
        self.left = False
