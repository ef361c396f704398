"""What every transport does: carry one call to one agent and bring back the bytes of its answer.

Rules kept: a transport reads nothing of what it carries; every wait is bounded; the answer is bounded;
an error says its kind and never holds a secret. Implementations: transport.http, transport.ssh,
testing.memory_transport, and transport.routing that chooses between them; all pass
tests/contract/test_transport.py. Called by the reconciler.
"""

from __future__ import annotations

from typing import Literal, Protocol

from capsule.documents.types import AgentAddress

CallName = Literal["report", "order", "query"]
MAX_ANSWER = 1024 * 1024
ErrorKind = Literal["stalled", "waiting", "transient"]


class TransportError(Exception):
    """A call that brought no answer.

    `reason` is a code of the reference (AgentUnreachable, AgentTimeout, AnswerTooLarge, AgentRedirects,
    CertificateUntrusted, InsecureRefused, AgentRejectedCall, HostKeyUnknown, HostKeyChanged, …). `kind`:
    stalled (a person must act), waiting (later), transient (again soon). `sent` says whether the agent
    may have seen the call: False only when it certainly did not. `agent_reason` is the reason code the agent
    itself gave with a refusal (AgentRejectedCall) or a failure (AgentFailed), a plain word or empty.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        kind: ErrorKind = "transient",
        sent: bool = True,
        agent_reason: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = kind
        self.sent = sent
        self.agent_reason = agent_reason


class Transport(Protocol):
    """Carries calls for the endpoints of its schemes. Safe to call from many threads."""

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` (JSON) to the agent at `address`; the body of its answer (at most MAX_ANSWER bytes).

        `timeout` bounds the whole call, in seconds. Raises TransportError.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
