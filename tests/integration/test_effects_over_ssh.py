"""One effect per operation, over SSH: real sshd, real agents with journals, orders of a real reconciler.

What goes wrong here goes wrong on the way: the far end is killed, sshd restarts, an order is lost, a host is
silent. The clock and the repository are those of tests.town.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from capsule.decide import decide
from capsule.documents.codec import emit, load_as
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.documents.types import AgentAddress, Result, Service
from capsule.reconciler import Reconciler
from capsule.store.api import Store
from capsule.testing.memory_store import MemoryRemote, MemoryStore
from capsule.transport.api import CallName, Transport
from capsule.transport.ssh import SshTransport
from capsule.trust.audit import verify_audit
from capsule.trust.mainline import judge
from capsule.trust.objects import file_bytes, parse_commit
from capsule_agent import Agent
from tests.agent_fixtures import key
from tests.sshd import SSHD, USER, Sshd, keygen, relay_command
from tests.town import Town, plain
from tests.transport_peers import wait_until

CHAT = "openai-chat"
PAY = "stripe-pay"
CLAIMED = f"rotateKey {CHAT}: claimed"
SUCCEEDED = f"rotateKey {CHAT}: succeeded"


class Host:
    """A host where only SSH is open: sshd, and a forced command that leads to an agent's socket.

    While the file `swallow` exists, the next far end says hello, takes the beginning of a call, and dies.
    """

    def __init__(self, folder: Path, socket: Path, login: str) -> None:
        folder.mkdir()
        self.swallow = folder / "swallow"
        self._relay = folder / "relay.pid"
        self.sshd = Sshd(folder / "sshd")
        hello = f"{relay_command('--socket', '/nowhere')} </dev/null; head -c 64 >/dev/null"
        script = folder / "forced"
        script.write_text(
            "#!/bin/sh\n"
            f"if [ -e {self.swallow} ]; then rm {self.swallow}; {hello}; exit 1; fi\n"
            f"echo $$ > {self._relay}\nexec {relay_command('--socket', shlex.quote(str(socket)))}\n"
        )
        script.chmod(0o755)
        self.sshd.authorize(login, str(script))

    @property
    def logins(self) -> int:
        return self.sshd.log().count("Accepted publickey")

    def kill_relay(self) -> None:
        """As the out-of-memory killer would."""
        os.kill(int(self._relay.read_text()), signal.SIGKILL)

    def stop(self) -> None:
        """End sshd and every session, as a reboot does."""
        self.sshd.process.terminate()
        self.sshd.process.wait(10)
        with suppress(OSError, ValueError):
            self.kill_relay()

    def start(self) -> None:
        """Start sshd again, on the same port and with the same key."""
        before = self.sshd.log().count("Server listening")
        with (self.sshd.folder / "sshd.log").open("ab") as log:
            command = [SSHD, "-D", "-e", "-f", str(self.sshd.folder / "sshd_config")]
            self.sshd.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.sshd.log().count("Server listening") > before)


class SshTown(Town):
    """The town, with every agent on a Unix socket behind an sshd of its own."""

    def __init__(self, folder: Path, store: Store | None = None, services: Sequence[str] = (CHAT,)) -> None:
        login = keygen(folder / "login")
        self._stack = ExitStack()
        self.hosts = {
            name: Host(folder / f"at-{name}", self._socket(folder, name), login) for name in services
        }
        for host in self.hosts.values():
            self._stack.callback(host.sshd.close)
        super().__init__(folder, store, services)

    @staticmethod
    def _socket(folder: Path, name: str) -> Path:
        return folder / f"{name}.sock"

    def service_text(self, name: str, **spec: Any) -> bytes:
        sshd = self.hosts[name].sshd
        agent = {
            "endpoint": sshd.endpoint,
            "hostKey": sshd.host_key,
            "key": key(f"agent {name}").public.text,
        }
        return emit(plain(Service, name, {"agent": agent, "pins": {"model": "m1"}, **spec}, {"env": "prod"}))

    def start_agent(self, name: str, **options: Any) -> Agent:
        agent = super().start_agent(name, **options)
        self._stack.enter_context(agent.serve_unix(self._socket(self.folder, name)))
        return agent

    def way(self) -> SshTransport:
        """A transport with connections of its own, as each reconciler has."""
        return self._stack.enter_context(
            closing(SshTransport(keys=[self.folder / "login"], user=USER, known_hosts=()))
        )

    def reconciler(
        self, name: str = "reconciler-1", transport: Any = None, store: Store | None = None
    ) -> Reconciler:
        return super().reconciler(name, transport or self.way(), store)

    def result(self, request: str = "rotate-1", service: str = CHAT) -> Result:
        tip = self.tip(AUDIT)
        assert tip is not None
        path = RequestFolder("2026/11", request).result(service)
        data = file_bytes(self.store, parse_commit(self.store.read(tip)[1]).tree, path)
        assert data is not None, self.audit_subjects()
        return load_as(Result, data, path)

    def prove(self) -> int:
        """How many operations the record proves; it proves as a whole."""
        main, audit = self.tip(MAIN), self.tip(AUDIT)
        assert main is not None
        assert audit is not None
        verdict = verify_audit(self.store, self.root, main, audit)
        assert verdict.first_bad is None, verdict.first_bad
        return verdict.operations

    def close(self) -> None:
        self._stack.close()
        super().close()


class Recorded:
    """A transport that remembers what it carried."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.carried: list[tuple[AgentAddress, CallName, bytes, bytes]] = []

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        answer = self._inner.call(address, name, body, timeout=timeout)
        self.carried.append((address, name, body, answer))
        return answer

    def close(self) -> None:
        self._inner.close()


def in_the_middle_of(town: SshTown, what: Any, step: str = "create", service: str = CHAT) -> None:
    """Do `what` once, while the agent is at `step` of its rotation: the order arrived, no answer left."""
    store = town.keys[service]

    def strike(now: str) -> None:
        if now == step:
            store.before = lambda _: None
            what()

    store.before = strike


@pytest.fixture
def town(tmp_path: Path) -> Iterator[SshTown]:
    with closing(SshTown(tmp_path)) as made:
        yield made


def test_a_rotation_over_ssh_is_executed_once_and_proves(town: SshTown) -> None:
    town.request()
    reconciler = town.reconciler()
    town.settle(reconciler)
    assert town.keys[CHAT].history == ["key-1"]
    assert town.audit_subjects() == [f"status {CHAT}: HEALTHY (HealthUp)", CLAIMED, SUCCEEDED]
    assert (town.result().spec.outcome, town.prove()) == ("succeeded", 1)
    assert town.hosts[CHAT].logins == 1  # probe and order went over one connection


def test_the_far_end_killed_between_order_and_answer(town: SshTown) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    in_the_middle_of(town, town.hosts[CHAT].kill_relay)
    town.settle(reconciler)
    assert town.keys[CHAT].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert (town.result().spec.outcome, town.prove()) == ("succeeded", 1)
    assert town.hosts[CHAT].logins == 2


def test_sshd_restarted_in_the_middle(town: SshTown) -> None:
    host = town.hosts[CHAT]
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    in_the_middle_of(town, host.stop, step="verify")
    for _ in range(3):
        reconciler.one_pass(patience=5.0)
        town.clock.advance(seconds=1)
    assert SUCCEEDED not in town.audit_subjects()
    host.start()
    town.settle(reconciler)
    assert town.keys[CHAT].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert (town.result().spec.outcome, town.prove()) == ("succeeded", 1)


def test_an_order_lost_on_its_way_is_asked_about_then_sent_again(
    town: SshTown, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "capsule.reconciler")
    host, way = town.hosts[CHAT], town.way()
    recorded = Recorded(way)
    reconciler = town.reconciler(transport=recorded)
    town.settle(reconciler)
    town.request()
    host.swallow.touch()
    host.kill_relay()
    (slot,) = way._slots.values()
    wait_until(lambda: slot.channel is None or not slot.channel.alive)
    town.settle(reconciler)
    assert not host.swallow.exists()
    names = [name for _, name, _, _ in recorded.carried if name != "report"]
    assert names == ["query", "order"]  # of the first order nothing came back
    assert "AgentUnreachable" in caplog.text
    assert town.keys[CHAT].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 1
    assert (town.result().spec.outcome, town.prove()) == ("succeeded", 1)


def test_the_same_order_again_gives_the_stored_receipt(town: SshTown) -> None:
    recorded = Recorded(town.way())
    town.request()
    town.settle(town.reconciler(transport=recorded))
    ((address, name, body, answer),) = [each for each in recorded.carried if each[1] == "order"]
    for _ in range(3):
        assert town.way().call(address, name, body, timeout=15) == answer
    assert town.keys[CHAT].created == 1


def test_two_reconcilers_at_once_rotate_once(tmp_path: Path) -> None:
    remote = MemoryRemote()
    with closing(SshTown(tmp_path, MemoryStore(remote))) as town:
        town.request()
        first = town.reconciler()
        second = town.reconciler("reconciler-2", store=MemoryStore(remote))
        for _ in range(6):
            first.one_pass(patience=5.0)
            second.one_pass(patience=5.0)
            town.clock.advance(seconds=1)
        town.store.refresh()
        assert town.keys[CHAT].history == ["key-1"]
        assert town.audit_subjects().count(CLAIMED) == 1
        assert town.prove() == 1


def test_a_silent_reconciler_is_taken_over(town: SshTown) -> None:
    first = town.reconciler()
    town.settle(first)
    town.request()
    in_the_middle_of(town, town.hosts[CHAT].stop)
    while CLAIMED not in town.audit_subjects():
        first.one_pass(patience=5.0)
    first.close()
    town.hosts[CHAT].start()
    second = town.reconciler("reconciler-2")
    town.settle(second)
    assert SUCCEEDED not in town.audit_subjects()
    town.clock.advance(minutes=6)
    town.settle(second)
    assert town.keys[CHAT].history == ["key-1"]
    assert town.audit_subjects().count(CLAIMED) == 2
    assert town.result().spec.outcome == "succeeded"
    assert town.prove() == 1


def test_a_silent_host_delays_no_other_and_its_request_is_held(tmp_path: Path) -> None:
    with closing(SshTown(tmp_path, services=(CHAT, PAY))) as town:
        reconciler = town.reconciler()
        silent = town.hosts[CHAT].sshd.process
        silent.send_signal(signal.SIGSTOP)  # its kernel accepts connections, nobody speaks
        try:
            town.request("rotate-chat")
            town.request("rotate-pay", targets=(PAY,))
            began = time.monotonic()
            while f"rotateKey {PAY}: succeeded" not in town.audit_subjects():
                report = reconciler.one_pass(patience=0.2)
                town.clock.advance(seconds=0.2)
            assert time.monotonic() - began < 4, "the probe of the silent host takes 5 s"
            assert report.under_way
            while reconciler.one_pass(patience=0.2).under_way:
                town.clock.advance(seconds=0.2)
            state = judge(town.store, town.root, town.tip() or "")
            held = {hold.request.name: hold.reason for hold in decide(reconciler.world(state)).hold}
            assert held == {"rotate-chat": "AgentNotSeen"}
            assert CLAIMED not in town.audit_subjects()
        finally:
            silent.send_signal(signal.SIGCONT)
        town.clock.advance(minutes=3)
        town.settle(reconciler)
        assert town.keys[CHAT].history == ["key-1"]
        assert town.prove() == 2
