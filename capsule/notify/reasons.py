"""The one error of this room, and its reason codes. Raised and shown here and by commands."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "ReceiverMissing": "A route names a receiver for which there is no file in the folder of receivers.",
    "ReceiverOpen": "Others can read the file of a receiver, which holds secrets: chmod 600.",
    "ReceiverUnreadable": "The file of a receiver cannot be read, is too large, or holds no address.",
    "ReceiverRefused": "The address of a receiver is of a kind, or has a parameter, that is not allowed, or "
    "apprise cannot read it.",
    "ReceiverFailed": "The receiver could not be reached in time, or did not take the message.",
}


class Undeliverable(Exception):
    """A message cannot go to a receiver. Neither `reason` nor the text ever holds its address."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
