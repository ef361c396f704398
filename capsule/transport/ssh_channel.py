"""Calls over one kept channel of an SSH connection: `capsule-agent stdio` at the other end.

Rules kept: nothing is sent before the far end said hello in a frame, so a login shell never sees a call; each
call is sent once; callers wait for their own answer alone, and whichever of them is free to reads for all;
half way to its timeout a caller without news pings; when that stays unanswered too the connection is dead.
Called by transport.ssh.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import paramiko

from capsule.transport.answers import judge, malformed, too_large
from capsule.transport.api import MAX_ANSWER, CallName, TransportError
from capsule.transport.dial import remaining, timed_out
from capsule.transport.peer_text import quoted, word
from capsule.transport.ssh_link import Link, ending_at, telling
from capsule_agent.protocol.frames import MAX_BODY, MAX_NOISE, Frame, FrameError, FrameReader, frame

_SLICE = 0.5  # longest uninterrupted wait for bytes, in seconds; shorter where something is due before
_FAR_REASONS = {
    "AgentUnreachable",
    "AgentTimeout",
    "AnswerTooLarge",
    "AnswerMalformed",
    "AgentBusy",
    "CallUnknown",
}


class ChannelGone(Exception):
    """The channel turned out dead before anything of the call was sent."""


class StdioChannel:
    """A channel with the far end running in it. Safe to call from many threads."""

    def __init__(self, link: Link, channel: paramiko.Channel) -> None:
        self._link = link
        self._channel = channel
        self._where = str(link.target)
        self._reader = FrameReader(noise=MAX_NOISE)
        self._answers: dict[int, Frame | None] = {}
        self._last_id = 0
        self._heard = 0.0
        self._reading = False
        self._broken: TransportError | None = None
        self._stderr = b""
        self._news = threading.Condition()
        self._sending = threading.Lock()

    @classmethod
    def open(cls, link: Link, command: str, *, deadline: float) -> StdioChannel:
        """Start `command` in a new channel and wait for its hello. Raises TransportError with sent=False."""
        doing = f"starting {command!r} at {link.target}"
        left = remaining(deadline, doing=doing, sent=False)
        with (
            ending_at(deadline, link.close),
            telling(link.target, link.transport, link.stream, deadline, doing),
        ):
            channel = link.transport.open_session(timeout=left)
            channel.settimeout(_SLICE)
            channel.exec_command(command)
            found = cls(link, channel)
            found._await_hello(deadline, doing)
        return found

    @property
    def alive(self) -> bool:
        """Whether the next call may be tried on it."""
        return self._broken is None and self._link.alive and not self._channel.closed

    def call(self, name: CallName, body: bytes, *, deadline: float) -> bytes:
        """One call; see Transport.call. Raises ChannelGone when it must be made on another channel."""
        if len(body) > MAX_BODY:
            raise TransportError(
                "CallTooLarge",
                f"a call holds at most {MAX_BODY} bytes, not {len(body)}",
                kind="stalled",
                sent=False,
            )
        began = time.monotonic()
        doing = f"waiting for {self._where}"
        left = remaining(deadline, doing=doing, sent=False)
        number = self._begin()
        try:
            self._send(frame({"kind": "call", "id": number, "call": name, "timeout": left}, body), deadline)
            answer = self._await(number, began, deadline, doing)
        finally:
            with self._news:
                self._answers.pop(number, None)
        return self._judge(answer)

    def close(self) -> None:
        """End the channel and its connection; calls in progress fail."""
        self._break(TransportError("AgentUnreachable", f"the connection to {self._where} was closed"))

    # ---- waiting and reading --------------------------------------------------------------------------

    def _begin(self) -> int:
        with self._news:
            self._last_id += 1
            self._answers[self._last_id] = None
            return self._last_id

    def _await(self, number: int, began: float, deadline: float, doing: str) -> Frame:
        """Wait for the answer to `number`, reading for all callers whenever nobody else does."""
        ping_at = began + (deadline - began) / 2
        while True:
            with self._news:
                found = self._answers[number]
                if found is not None:
                    return found
                if self._broken is not None:
                    raise _again(self._broken)
                now = time.monotonic()
                if now >= deadline:
                    break
                leading = not self._reading
                if leading:
                    self._reading = True
                else:
                    self._news.wait(min(deadline, max(ping_at, now + _SLICE)) - now)
            if leading:
                self._read_some(min(_SLICE, (deadline if now >= ping_at else ping_at) - now))
            if time.monotonic() >= ping_at and self._heard < began:
                ping_at = deadline
                self._ping(deadline)
        if self._heard < began:
            self._break(
                TransportError(
                    "AgentUnreachable", f"{self._where} no longer answers; the connection was ended"
                )
            )
        raise timed_out(doing, sent=True)

    def _read_some(self, wait: float) -> None:
        """Read once, at most for `wait` seconds, and hand out the answers that came."""
        frames: list[Frame] = []
        try:
            self._channel.settimeout(wait)
            data = self._receive()
            frames = list(self._reader.feed(data)) if data else []
        except FrameError as error:
            self._break(malformed(self._where, f"{error} on the channel"))
        finally:
            with self._news:
                self._reading = False
                if frames:
                    self._heard = time.monotonic()
                for one in frames:
                    number = one.head.get("id")
                    # An answer that nobody waits for any more is dropped.
                    if type(number) is int and number in self._answers and one.head["kind"] != "pong":
                        self._answers[number] = one
                self._news.notify_all()

    def _receive(self) -> bytes:
        """What came; b"" when nothing did within a moment. The end of the channel breaks it."""
        self._drain_stderr()
        try:
            data = self._channel.recv(64 * 1024)
        except TimeoutError:
            return b""
        except (OSError, EOFError):
            data = b""
        self._link.stream.allow()
        if not data:
            self._drain_stderr()
            said = quoted(self._stderr, 200)
            told = f": it said {said!r}" if said else ""
            self._break(
                TransportError(
                    "AgentUnreachable", f"{self._where} closed the channel before its answer was whole{told}"
                )
            )
        return data

    def _drain_stderr(self) -> None:
        """Keep the end of what is printed there for errors; left unread it would block the channel."""
        while self._channel.recv_stderr_ready():
            with contextlib.suppress(OSError):
                self._stderr = (self._stderr + self._channel.recv_stderr(64 * 1024))[-400:]

    def _await_hello(self, deadline: float, doing: str) -> None:
        while True:
            remaining(deadline, doing=doing, sent=False)
            try:
                for one in self._reader.feed(self._receive()):
                    self._heard = time.monotonic()
                    if one.head["kind"] == "hello":
                        return
            except FrameError as error:
                raise _again(malformed(self._where, str(error)), sent=False) from None
            if self._broken is not None:
                remaining(deadline, doing=doing, sent=False)
                raise self._no_relay()

    def _no_relay(self) -> TransportError:
        said = quoted(self._stderr or self._reader.skipped, 200) or "nothing"
        return TransportError(
            "RelayMissing",
            f"the command at {self._where} ended without speaking Capsule's frames; it said {said!r}; put "
            "the line that `capsule-agent authorize` prints into authorized_keys",
            kind="stalled",
            sent=False,
        )

    # ---- sending --------------------------------------------------------------------------------------

    def _send(self, data: bytes, deadline: float) -> None:
        """Send a whole frame. Half of one makes the channel useless, so then it is given up."""
        doing = f"sending to {self._where}"
        if not self._sending.acquire(timeout=remaining(deadline, doing=doing, sent=False)):
            raise timed_out(doing, sent=False)
        self._link.stream.send_by = deadline
        sent = 0
        try:
            while sent < len(data):
                # paramiko drops what is given to a dead connection without a word: look first.
                if sent == 0 and not self.alive:
                    raise ChannelGone
                if time.monotonic() >= deadline:
                    raise timed_out(doing, sent=sent > 0)
                with contextlib.suppress(TimeoutError):
                    sent += self._channel.send(data[sent : sent + 32768])
        except (OSError, EOFError, paramiko.SSHException):
            error = TransportError("AgentUnreachable", f"{self._where} closed the channel during a call")
            self._break(error)
            raise error from None
        finally:
            self._link.stream.send_by = math.inf
            self._sending.release()
            if 0 < sent < len(data):
                self.close()

    def _ping(self, deadline: float) -> None:
        with contextlib.suppress(TransportError, ChannelGone):
            self._send(frame({"kind": "ping", "id": 0}), deadline)

    def _break(self, error: TransportError) -> None:
        with self._news:
            if self._broken is None:
                self._broken = error
            self._news.notify_all()
        self._link.close()

    # ---- answers --------------------------------------------------------------------------------------

    def _judge(self, answer: Frame) -> bytes:
        head = answer.head
        if head["kind"] == "failure":
            raise self._failure(head)
        status = head.get("status")
        if head["kind"] != "answer" or type(status) is not int:
            raise malformed(self._where, "a frame that is neither answer nor failure")
        return judge(self._where, status, str(head.get("type", "")), _reads(answer.body, self._where))

    def _failure(self, head: dict[str, Any]) -> TransportError:
        reason = word(head.get("reason"))
        # Only an explicit false is believed to mean that the agent has not seen the call.
        return TransportError(
            reason if reason in _FAR_REASONS else "AgentFailed",
            f"{self._where}: {quoted(str(head.get('message', '')))}",
            kind="waiting" if reason == "AgentBusy" else "transient",
            sent=head.get("sent") is not False,
        )


def _reads(body: bytes, where: str) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        if len(body) > min(limit, MAX_ANSWER):
            raise too_large(where)
        return body

    return read


def _again(error: TransportError, *, sent: bool = True) -> TransportError:
    """The same error for another caller: an exception object belongs to one thread."""
    return TransportError(error.reason, str(error), kind=error.kind, sent=sent)
