"""Git objects judged by their raw bytes: commits and trees, walked without trusting any of git's shortcuts.

Rules kept: an id is the SHA-1 of the bytes it names; duplicate headers, symlinks, submodules, `.git`-like
and colliding names are errors; replace refs and grafts do not exist here. Object formats: gitformat-pack
and the git book's chapter on objects. Called by trust and view; every store is an `ObjectReader`.
"""

from __future__ import annotations

from typing import Literal, Protocol

ObjectKind = Literal["commit", "tree", "blob", "tag"]


class MissingObject(LookupError):
    """An object that this repository does not have, for example in a shallow clone."""


class ObjectReader(Protocol):
    """Where objects come from. Implementations check that the bytes hash to the id."""

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        """Kind and raw bytes of the object `oid` (40 hex digits). Raises MissingObject."""
        ...
