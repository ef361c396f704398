"""Frames: how calls and answers share one stream, such as the standard input and output of a command.

A frame is MAGIC (8 bytes), the length of its head and of its body (4 bytes each, big endian), the head (a
JSON object), the body (bytes, not looked at). Rules kept: lengths are bounded; what a login shell prints
before the first frame is skipped within a bound; between frames not one byte may stand. Imports the standard
library alone, for the far end starts anew for every connection. Called by stdio there and by
capsule.transport.ssh_channel.

Heads from Capsule: {"kind": "call", "id": 7, "call": "order", "timeout": 30.0} with the message as body, and
{"kind": "ping", "id": 8}. Heads from the far end: {"kind": "hello"} once, before anything is sent to it;
{"kind": "answer", "id": 7, "status": 200, "type": "application/json"} with the body of the HTTP answer;
{"kind": "failure", "id": 7, "reason": "AgentUnreachable", "message": "…", "sent": false};
{"kind": "pong", "id": 8}.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAGIC = b"\x01CAPSUL1"
MAX_HEAD = 8 * 1024
MAX_BODY = 1024 * 1024
MAX_NOISE = 64 * 1024
_LENGTHS = struct.Struct(">II")
_START = len(MAGIC) + _LENGTHS.size


class FrameError(ValueError):
    """Bytes that are no frame; the text says what was expected."""


class Frame(NamedTuple):
    """One frame: `head` is a JSON object, `body` any bytes."""

    head: dict[str, Any]
    body: bytes


def frame(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """The bytes of one frame. Raises FrameError when it would be too large."""
    text = json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode()
    if len(text) > MAX_HEAD or len(body) > MAX_BODY:
        raise FrameError(f"a frame holds at most {MAX_BODY} bytes, not {len(body)}")
    return b"".join((MAGIC, _LENGTHS.pack(len(text), len(body)), text, body))


class FrameReader:
    """Cuts a stream into frames. `noise` is how many bytes may stand before the first one."""

    def __init__(self, *, noise: int = 0) -> None:
        self._noise_left = noise
        self._begun = noise == 0
        self._buffer = bytearray()
        self.skipped = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole once `data` has come in. Raises FrameError; nothing can be read then."""
        self._buffer += data
        if not self._begun:
            self._skip_noise()
        while self._begun and (found := self._next()) is not None:
            yield found

    def _skip_noise(self) -> None:
        at = self._buffer.find(MAGIC)
        # The last bytes may be the beginning of a magic number.
        length = at if at >= 0 else max(0, len(self._buffer) - len(MAGIC) + 1)
        self.skipped = (self.skipped + bytes(self._buffer[:length]))[-1000:]
        del self._buffer[:length]
        self._noise_left -= length
        self._begun = at >= 0
        if self._noise_left < 0:
            raise FrameError("too much output before the first frame")

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if not MAGIC.startswith(buffer[: len(MAGIC)]):
            raise FrameError("output between frames")
        if len(buffer) < _START:
            return None
        head_length, body_length = _LENGTHS.unpack_from(buffer, len(MAGIC))
        if head_length > MAX_HEAD or body_length > MAX_BODY:
            raise FrameError("a frame larger than allowed")
        end = _START + head_length + body_length
        if len(buffer) < end:
            return None
        head = _read_head(bytes(buffer[_START : _START + head_length]))
        body = bytes(buffer[_START + head_length : end])
        del buffer[:end]
        return Frame(head, body)


def _read_head(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError("the head of a frame is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise FrameError("the head of a frame has no kind")
    return found
