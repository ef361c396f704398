"""Judges what an agent answered: the bytes of its answer, or an error.

Rules kept: at most MAX_ANSWER bytes are ever held; an answer is believed to be one only with status 200 and
type application/json; what a refusal says is quoted bounded and printable. The same for every transport that
carries HTTP answers. Called by transport.http and transport.ssh_channel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from capsule.transport.api import MAX_ANSWER, ErrorKind, TransportError
from capsule.transport.peer_text import quoted, word

_MAX_PROBLEM = 16 * 1024
_LATER = {408, 409, 423, 425, 429}

Read = Callable[[int], bytes]


def judge(where: str, status: int, content_type: str, read: Read) -> bytes:
    """The body of an answer with status 200. Raises TransportError for every other answer.

    `read(limit)` brings the body, and raises TransportError when it is larger than `limit` bytes.
    """
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    if 300 <= status < 400:
        raise TransportError(
            "AgentRedirects",
            f"{where} redirects (status {status}); redirects are not followed: "
            "put the agent's own address into spec.agent.endpoint",
            kind="stalled",
        )
    if status >= 400:
        raise _refusal(where, status, media_type, read)
    if status != 200:
        raise malformed(where, f"status {status}, expected 200")
    if media_type != "application/json":
        raise malformed(where, f"type {quoted(media_type, 60)!r}, expected application/json")
    return read(MAX_ANSWER)


def malformed(where: str, what: str) -> TransportError:
    """The error for an answer that is none of the protocol."""
    return TransportError(
        "AnswerMalformed", f"{where} does not answer as an agent: {what}; check spec.agent.endpoint"
    )


def too_large(where: str) -> TransportError:
    """The error for an answer above MAX_ANSWER."""
    return TransportError(
        "AnswerTooLarge", f"the answer of {where} is larger than {MAX_ANSWER} bytes; the rest was not read"
    )


def _refusal(where: str, status: int, media_type: str, read: Read) -> TransportError:
    said = _problem(media_type, read)
    agent_reason = word(said.get("reason"))
    text = quoted(str(said.get("detail") or said.get("title") or ""))
    told = ": ".join(part for part in (agent_reason, text) if part)
    ending = f": {told}" if told else ""
    if status >= 500:
        return TransportError(
            "AgentFailed", f"{where} failed (status {status}){ending}", agent_reason=agent_reason
        )
    kind: ErrorKind = "waiting" if status in _LATER else "stalled"
    return TransportError(
        "AgentRejectedCall",
        f"{where} rejected the call (status {status}){ending}",
        kind=kind,
        agent_reason=agent_reason,
    )


def _problem(media_type: str, read: Read) -> dict[str, Any]:
    """The problem document (RFC 9457) of a refusal, or nothing when there is none that can be read."""
    if media_type != "application/problem+json":
        return {}
    try:
        found = json.loads(read(_MAX_PROBLEM))
    except (TransportError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
