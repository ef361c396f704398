"""A transport without a network: endpoints are given straight to functions of the same process.

Rules kept: it passes the same contract tests as the real ones; faults are injected per endpoint and say when
they strike, before the agent saw the call or after. For tests of reconcilers and of adapters.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from capsule.documents.types import AgentAddress
from capsule.transport.api import MAX_ANSWER, CallName, TransportError

Fault = Literal[
    "unreachable",
    "timeout before effect",
    "timeout after effect",
    "garbage answer",
    "huge answer",
    "rejected",
]


class Handler(Protocol):
    """What answers calls, such as `capsule_agent.Agent.handle`."""

    def __call__(self, name: CallName, body: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Carried:
    """One call that reached an agent."""

    endpoint: str
    name: CallName
    body: bytes


class MemoryTransport:
    """Carries calls to functions. Safe to call from many threads.

    `connect` puts an agent at an endpoint, `fail` makes its next calls go wrong, `carried` tells what
    arrived. What a handler raises is passed on; one that returns later than the timeout has timed out.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._lock = threading.Lock()
        self.carried: list[Carried] = []

    def connect(self, endpoint: str, handle: Handler) -> None:
        """Let `handle(name, body)` answer the calls to `endpoint`."""
        with self._lock:
            self._handlers[endpoint] = handle

    def disconnect(self, endpoint: str) -> None:
        """Make `endpoint` unreachable."""
        with self._lock:
            self._handlers.pop(endpoint, None)

    def fail(self, endpoint: str, *faults: Fault) -> None:
        """Let the next calls to `endpoint` meet `faults`, one each, in order; later calls work again."""
        with self._lock:
            self._faults[endpoint].extend(faults)

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Give `body` to the handler of the endpoint and bring back what it returns; see Transport.call."""
        endpoint = address.endpoint
        with self._lock:
            handle = self._handlers.get(endpoint)
            fault = self._faults[endpoint].popleft() if self._faults[endpoint] else None
        if handle is None or fault == "unreachable":
            raise TransportError("AgentUnreachable", f"cannot connect to {endpoint}", sent=False)
        if fault == "timeout before effect":
            raise _timeout(endpoint)
        if fault == "rejected":
            raise TransportError("AgentRejectedCall", f"{endpoint} rejected the call", kind="stalled")
        with self._lock:
            self.carried.append(Carried(endpoint, name, body))
        answer = _within(timeout, endpoint, lambda: handle(name, body))
        if fault == "timeout after effect":
            raise _timeout(endpoint)
        if fault == "garbage answer":
            return b"<html>\x1b[2J not an answer"
        if fault == "huge answer" or len(answer) > MAX_ANSWER:
            raise TransportError(
                "AnswerTooLarge", f"the answer of {endpoint} is larger than {MAX_ANSWER} bytes"
            )
        return answer

    def close(self) -> None:
        """Nothing to let go of."""


def _timeout(endpoint: str) -> TransportError:
    return TransportError("AgentTimeout", f"the time for the call ran out while waiting for {endpoint}")


def _within(timeout: float, endpoint: str, work: Callable[[], bytes]) -> bytes:
    """Run `work` in a thread of its own, so that a handler that hangs cannot hang the caller."""
    found: list[bytes] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # the handler is the user's; whatever it raises belongs to the caller
            failure.append(error)

    deadline = time.monotonic() + timeout
    thread = threading.Thread(target=run, name="capsule-memory-call", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise _timeout(endpoint)
    if failure:
        raise failure[0]
    return found[0]
