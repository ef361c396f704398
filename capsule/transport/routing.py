"""Chooses the transport of an endpoint by its scheme; makes one that costs time to load when it is needed.

Rules kept: exactly one transport per scheme; an unknown scheme is an error with the known ones named.
Called by the reconciler, which sees one Transport.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from capsule.documents.types import AgentAddress
from capsule.transport.api import CallName, Transport, TransportError


class Transports:
    """A Transport made of others: `by_scheme` maps "https", "ssh", … to who carries such calls."""

    def __init__(self, by_scheme: Mapping[str, Transport]) -> None:
        self._by_scheme = dict(by_scheme)

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` by the transport of the endpoint's scheme; see Transport.call."""
        scheme = address.endpoint.partition(":")[0]
        transport = self._by_scheme.get(scheme)
        if transport is None:
            known = ", ".join(sorted(self._by_scheme))
            raise TransportError(
                "EndpointInvalid",
                f"nothing here speaks {scheme[:20]!r}; endpoints begin with {known}",
                kind="stalled",
                sent=False,
            )
        return transport.call(address, name, body, timeout=timeout)

    def close(self) -> None:
        """Close all of them, each once."""
        for transport in {id(each): each for each in self._by_scheme.values()}.values():
            transport.close()


class MadeWhenNeeded:
    """A Transport that `make` gives at the first call: who has no such endpoint pays nothing for it.

    `make` may raise TransportError; it is then asked again at the next call.
    """

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._made: Transport | None = None
        self._lock = threading.Lock()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` by the transport, made now if this is the first call; see Transport.call."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            made = self._made
        return made.call(address, name, body, timeout=timeout)

    def close(self) -> None:
        """Close the transport, if there ever was one."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()
