"""Digests and ids of the wire contract: what names an operation does not depend on time.

Rules kept: an id is the hash of what the operation is about, in canonical JSON, so that asking twice is
asking for the same thing. Called by the agent, and by Capsule's decide, trust and reconciler.
"""

from __future__ import annotations

import hashlib

from capsule_agent.protocol import strict_json


def request_digest(data: bytes) -> str:
    """`sha256:…` of a document's bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def operation_id(repository: str, request: str, digest: str, service: str) -> str:
    """The id of one action on one service: no clock, no attempt number."""
    return _hash_of("operation", repository, request, digest, service)


def desired_state_id(repository: str, service: str, digest: str, generation: int) -> str:
    """The id of a desired-state order: it has no request, and `generation` only ever rises."""
    return _hash_of("desired-state", repository, service, digest, str(generation))


def _hash_of(*parts: str) -> str:
    return hashlib.sha256(strict_json.canonical(list(parts))).hexdigest()
