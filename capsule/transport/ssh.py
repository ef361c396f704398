"""Calls to agents behind sshd: `ssh://user@host:port`.

Rules kept: one connection with one channel per endpoint, kept and shared by its callers; few handshakes at
once per host, as sshd's MaxStartups wants it; a call that certainly was not sent is made again on a new
connection, no other ever is; one dead host delays no other. Called through transport.routing by the
reconciler.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from capsule.documents.types import AgentAddress
from capsule.transport.api import CallName, TransportError
from capsule.transport.dial import HostPort, remaining, timed_out
from capsule.transport.peer_text import quoted
from capsule.transport.ssh_channel import ChannelGone, StdioChannel
from capsule.transport.ssh_link import Identity, Link, open_link
from capsule.transport.ssh_login import LoginKeys
from capsule.transport.ssh_target import SshConfig, SshTarget

_log = logging.getLogger(__name__)
_HANDSHAKES_PER_HOST = 5  # sshd begins to drop above 10 (MaxStartups), and others log in as well
_HANDSHAKES = 50
_CALLS_PER_CHANNEL = 16
_TRIES = 4

Path_ = str | os.PathLike[str]


@dataclass(slots=True)
class _Slot:
    """The kept channel of one endpoint. `opening` is held by whoever makes a new one."""

    channel: StdioChannel | None = None
    opening: threading.Lock = field(default_factory=threading.Lock)
    calls: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_CALLS_PER_CHANNEL)
    )
    used: float = 0.0
    callers: int = 0


class SshTransport:
    """Carries calls to `ssh:` endpoints. Safe to call from many threads.

    `keys`: private key files, with certificates beside as `<file>-cert.pub`. `agent_socket`: an ssh-agent's.
    `known_hosts`: files to look hosts up in; the first is named where a line is missing. `config`: an
    ssh_config file. `user`: who logs in where nothing else says. `command`: what to run where no forced
    command decides. `max_connections`: most endpoints kept open while idle.
    Raises TransportError SshConfigInvalid.
    """

    def __init__(
        self,
        *,
        keys: Iterable[Path_] = (),
        agent_socket: Path_ | None = None,
        known_hosts: Iterable[Path_] = (),
        config: Path_ | None = None,
        user: str = "capsule",
        command: str = "capsule-agent stdio",
        max_connections: int = 512,
    ) -> None:
        _quiet_paramiko()
        files = tuple(Path(file) for file in keys)
        login = LoginKeys(files, Path(agent_socket) if agent_socket is not None else None)
        self._identity = Identity(login, tuple(Path(file) for file in known_hosts))
        self._config = SshConfig(Path(config) if config is not None else None, user)
        self._command = command
        self._most = max_connections
        self._slots: dict[tuple[str, str | None], _Slot] = {}
        self._jumps: dict[SshTarget, Link] = {}
        self._jump_locks: dict[SshTarget, threading.Lock] = {}
        self._per_host: dict[HostPort, threading.BoundedSemaphore] = {}
        self._handshakes = threading.BoundedSemaphore(_HANDSHAKES)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        """Send `body` to the agent behind `address` and bring back its answer; see Transport.call."""
        deadline = time.monotonic() + timeout
        target = self._config.target(address.endpoint)
        with (
            self._slot(address) as slot,
            _within(slot.calls, deadline, f"waiting for other calls to {target}"),
        ):
            for _ in range(_TRIES):
                channel = self._channel(slot, target, address.host_key, deadline)
                try:
                    return channel.call(name, body, deadline=deadline)
                except ChannelGone:
                    continue
        raise TransportError("AgentUnreachable", f"{target} closes every connection at once", sent=False)

    def close(self) -> None:
        """Let go of connections; calls in progress fail."""
        self._closed.set()
        with self._lock:
            slots = list(self._slots.values())
            jumps = list(self._jumps.values())
            self._slots.clear()
            self._jumps.clear()
        for slot in slots:
            if slot.channel is not None:
                slot.channel.close()
        for link in jumps:
            link.close()

    # ---- kept channels --------------------------------------------------------------------------------

    @contextmanager
    def _slot(self, address: AgentAddress) -> Iterator[_Slot]:
        """The slot of an endpoint, which is not given up while somebody is within."""
        with self._lock:
            if self._closed.is_set():
                raise TransportError("AgentUnreachable", "this transport was closed", sent=False)
            slot = self._slots.setdefault((address.endpoint, address.host_key), _Slot())
            slot.callers += 1
        try:
            yield slot
        finally:
            with self._lock:
                slot.callers -= 1
                slot.used = time.monotonic()
                surplus = self._surplus()
            if surplus is not None:
                surplus.close()

    def _surplus(self) -> StdioChannel | None:
        """The channel used longest ago, taken out, when more are kept than may be."""
        idle = [key for key, slot in self._slots.items() if slot.callers == 0]
        if len(self._slots) <= self._most or not idle:
            return None
        return self._slots.pop(min(idle, key=lambda key: self._slots[key].used)).channel

    def _channel(
        self, slot: _Slot, target: SshTarget, pinned_key: str | None, deadline: float
    ) -> StdioChannel:
        channel = slot.channel
        if channel is not None and channel.alive:
            return channel
        with _within(slot.opening, deadline, f"waiting for a connection to {target}"):
            if slot.channel is not None and slot.channel.alive:
                return slot.channel
            if slot.channel is not None:
                slot.channel.close()
                slot.channel = None
            slot.channel = self._open(target, pinned_key, deadline)
            return slot.channel

    def _open(self, target: SshTarget, pinned_key: str | None, deadline: float) -> StdioChannel:
        link = self._link(target, pinned_key, deadline)
        try:
            return StdioChannel.open(link, self._command, deadline=deadline)
        except BaseException:
            link.close()
            raise

    # ---- connections ----------------------------------------------------------------------------------

    def _link(self, target: SshTarget, pinned_key: str | None, deadline: float) -> Link:
        """A new connection to `target`; tried again when sshd drops it before a word, as MaxStartups does."""
        through = self._jump(target.via, deadline) if target.via is not None else None
        with self._lock:
            per_host = self._per_host.setdefault(
                target.where, threading.BoundedSemaphore(_HANDSHAKES_PER_HOST)
            )
        pause = 0.1
        for last in (*[False] * (_TRIES - 1), True):
            doing = f"waiting for other connections to {target.where}"
            try:
                with (
                    _within(per_host, deadline, doing),
                    _within(self._handshakes, deadline, doing),
                ):
                    return open_link(target, self._identity, pinned_key, through=through, deadline=deadline)
            except TransportError as error:
                if last or error.reason != "SshBusy" or time.monotonic() + pause >= deadline:
                    raise
            # Not for secrecy: so that those that were dropped together do not come back together.
            self._closed.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311 (jitter, no secret)
            pause *= 3
        raise AssertionError("unreachable: the last try returns or raises")

    def _jump(self, target: SshTarget, deadline: float) -> Link:
        """The kept connection to a jump host, which all hosts behind it share."""
        with self._lock:
            lock = self._jump_locks.setdefault(target, threading.Lock())
        with _within(lock, deadline, f"waiting for a connection to {target}"):
            link = self._jumps.get(target)
            if link is None or not link.alive:
                link = self._link(target, None, deadline)
                # What goes through is bounded per channel by the hosts behind it.
                link.stream.allow(sys.maxsize)
                with self._lock:
                    self._jumps[target] = link
            return link


@contextmanager
def _within(lock: threading.Lock | threading.Semaphore, deadline: float, doing: str) -> Iterator[None]:
    """Hold `lock`, waiting for it no longer than to `deadline`."""
    if not lock.acquire(timeout=remaining(deadline, doing=doing, sent=False)):
        raise timed_out(doing, sent=False)
    try:
        yield
    finally:
        lock.release()


class _OneLine(logging.Handler):
    """Takes paramiko's log, which holds tracebacks and text of peers, into ours: one printable line each."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("paramiko: %s", quoted(record.getMessage()))


def _quiet_paramiko() -> None:
    """Without a handler paramiko's connection threads print tracebacks to standard error."""
    logger = logging.getLogger("paramiko")
    if not any(isinstance(handler, _OneLine) for handler in logger.handlers):
        logger.addHandler(_OneLine())
        logger.propagate = False
