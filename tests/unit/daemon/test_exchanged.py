"""What is exchanged while calls are under way: the transport, the key; and who may read a key."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from capsule.commands.reconcile import ExchangeableKey, others_read
from capsule.documents.types import AgentAddress
from capsule.transport.api import CallName, TransportError
from capsule.transport.replaceable import Replaceable
from capsule_agent.protocol import sshsig
from tests.agent_fixtures import key

ADDRESS = AgentAddress(endpoint="http://one.invalid")


class Line:
    """A transport that answers with its name once `gate` is open."""

    def __init__(self, name: bytes, *, open_gate: bool = True) -> None:
        self.name = name
        self.gate = threading.Event()
        self.called = threading.Event()
        self.closed = 0
        if open_gate:
            self.gate.set()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        self.called.set()
        assert self.gate.wait(timeout)
        assert not self.closed, "closed under a call"
        if body == b"fail":
            raise TransportError("AgentTimeout", "silent")
        return self.name

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("body", [b"", b"fail"])
def test_a_call_ends_where_it_began_and_closes_what_was_left(body: bytes) -> None:
    old, new = Line(b"old", open_gate=False), Line(b"new")
    transport = Replaceable(old)
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(transport.call, ADDRESS, "order", body, timeout=5) for _ in range(2)]
        assert old.called.wait(5)
        while old.closed == 0 and sum(call.running() for call in under_way) < 2:
            pass
        transport.replace(new)
        assert transport.call(ADDRESS, "order", b"", timeout=5) == b"new"
        assert old.closed == 0
        old.gate.set()
        for call in under_way:
            if body:
                assert isinstance(call.exception(5), TransportError)
            else:
                assert call.result(5) == b"old"
    assert (old.closed, new.closed) == (1, 0)
    transport.close()
    assert (old.closed, new.closed) == (1, 1)


def test_an_idle_transport_is_closed_at_once() -> None:
    old, new = Line(b"old"), Line(b"new")
    transport = Replaceable(old)
    assert transport.call(ADDRESS, "report", b"", timeout=5) == b"old"
    transport.replace(new)
    assert (old.closed, new.closed) == (1, 0)


def test_signatures_are_by_the_present_key() -> None:
    signer = ExchangeableKey(key("reconciler-1"))
    first = signer.sign(b"text", sshsig.ORDER)
    signer.exchange(key("reconciler-2"))
    assert signer.public == key("reconciler-2").public
    old, new = key("reconciler-1").public, key("reconciler-2").public
    assert sshsig.verify(b"text", first, sshsig.ORDER, [old, new]) == old
    second = signer.sign(b"text", sshsig.ORDER)
    assert sshsig.verify(b"text", second, sshsig.ORDER, [old, new]) == new


@pytest.mark.parametrize(
    ("mode", "owner", "user", "open_to_others"),
    [
        (0o400, 1000, 1000, False),
        (0o600, 1000, 1000, False),
        (0o640, 1000, 1000, True),
        (0o604, 1000, 1000, True),
        (0o440, 0, 1000, False),  # a credential that systemd hands out: the group bits are an access list's
        (0o444, 0, 1000, True),
        (0o440, 0, 0, True),
    ],
)
def test_a_key_is_for_its_user_alone(mode: int, owner: int, user: int, open_to_others: bool) -> None:
    status = os.stat_result((0o100000 | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    assert others_read(status, user) is open_to_others
