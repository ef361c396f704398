"""The hashes that bind a signature to what was shown: of bytes, of a target, of a change.

Rules kept: `sha256:` and 64 hex digits; one canonical text for each value (capsule_agent's strict_json).
A new field of `agent`, `labels` or `pins` must default to None, or every approval given before is void.
Called by trust, plan and commands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from capsule.documents.types import ChangedPath, Service
from capsule_agent.protocol import strict_json


def bytes_digest(data: bytes) -> str:
    """The digest of a file: a request is named by the digest of the raw bytes of its request.yaml."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def target_digest(service: Service) -> str:
    """The digest of what an approval of an action binds: the service's name, agent, labels and pins.

    Comments, intervals and `enabled` are not in it: changing them voids no approval.
    """
    return _canonical_digest(
        {
            "name": service.metadata.name,
            "agent": service.spec.agent.model_dump(mode="json", by_alias=True, exclude_none=True),
            "labels": dict(service.metadata.labels),
            "pins": dict(service.spec.pins),
        }
    )


def change_digest(changes: Mapping[str, ChangedPath]) -> str:
    """The digest of a change of documents: each path with its old and its new digest."""
    return _canonical_digest(
        {path: {"old": change.old, "new": change.new} for path, change in changes.items()}
    )


def _canonical_digest(value: Any) -> str:
    return bytes_digest(strict_json.canonical(value))
