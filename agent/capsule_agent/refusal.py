"""What a check raises that an order does not pass. Called by verify, signers_list and approvals."""

from __future__ import annotations


class Refusal(Exception):
    """A check that failed: `reason` is a code, the text is for people and holds no secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Untrusted(Refusal):
    """The caller is not known to be a reconciler: it gets no signed answer."""
