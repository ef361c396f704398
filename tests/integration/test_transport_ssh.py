"""Calls through Debian's own sshd: who the host is, who we are, how it is reached, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import capsule_agent
from capsule.documents.types import AgentAddress
from capsule.transport.api import MAX_ANSWER, TransportError
from capsule.transport.ssh import SshTransport
from capsule_agent.protocol.frames import FrameReader
from tests.sshd import USER, Sshd, certify, keygen, relay_command
from tests.transport_peers import HttpAgent, wait_until


class Place:
    """One sshd with an agent behind it, and the reconciler's key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[bytes] = []
        self.answer = b"{}"
        self.key = keygen(folder / "key")
        self.known_hosts = folder / "known_hosts"
        self.command = relay_command("--socket", f"{folder}/agent.sock")
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(contextlib.closing(HttpAgent(self.handle, unix_path=folder / "agent.sock")))

    def handle(self, name: str, body: bytes) -> bytes:
        self.seen.append(body)
        return self.answer

    def sshd(self, *settings: str, name: str = "sshd", authorized: bool = True, **kwargs: Any) -> Sshd:
        sshd = self._stack.enter_context(contextlib.closing(Sshd(self.folder / name, settings, **kwargs)))
        if authorized:
            sshd.authorize(self.key, self.command)
        return sshd

    def transport(self, **options: Any) -> SshTransport:
        given = {"keys": [self.folder / "key"], "known_hosts": [self.known_hosts], "user": USER, **options}
        return self._stack.enter_context(contextlib.closing(SshTransport(**given)))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with contextlib.closing(Place(tmp_path)) as place:
        yield place


def call(transport: SshTransport, endpoint: str, *, timeout: float = 15, **fields: Any) -> bytes:
    return transport.call(AgentAddress(endpoint=endpoint, **fields), "report", b"body", timeout=timeout)


def refused(transport: SshTransport, endpoint: str, *, timeout: float = 15, **fields: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        call(transport, endpoint, timeout=timeout, **fields)
    assert str(caught.value).isprintable()
    return caught.value


# ---- who the host is --------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_with_the_line_to_add(place: Place) -> None:
    sshd = place.sshd()
    transport = place.transport()
    error = refused(transport, sshd.endpoint)
    assert (error.reason, error.kind, error.sent) == ("HostKeyUnknown", "stalled", False)
    assert sshd.known_hosts_line in str(error)
    assert str(place.known_hosts) in str(error)
    assert not place.known_hosts.exists()
    assert "Accepted" not in sshd.log()

    place.known_hosts.write_text(sshd.known_hosts_line + "\n")
    assert call(transport, sshd.endpoint) == b"{}"


def test_a_changed_host_key_is_refused_before_anything_is_said(place: Place) -> None:
    sshd = place.sshd()
    other = keygen(place.folder / "other")
    transport = place.transport()
    place.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    for fields in ({}, {"host_key": other}):
        error = refused(transport, sshd.endpoint, **fields)
        assert (error.reason, error.kind, error.sent) == ("HostKeyChanged", "stalled", False)
    assert place.seen == []
    assert "Accepted" not in sshd.log()


def test_a_pinned_key_makes_known_hosts_irrelevant(place: Place) -> None:
    sshd = place.sshd()
    place.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {keygen(place.folder / 'other')}\n")
    assert call(place.transport(), sshd.endpoint, host_key=sshd.host_key + " a comment") == b"{}"
    assert (
        refused(place.transport(), sshd.endpoint, host_key="ssh-ed25519 nonsense").reason == "HostKeyInvalid"
    )


def test_the_key_type_that_is_known_is_asked_for(place: Place) -> None:
    folder = place.folder / "sshd"
    folder.mkdir()
    rsa = keygen(folder / "host_rsa", "-b", "2048", key_type="rsa")
    ecdsa = keygen(folder / "host_ecdsa", key_type="ecdsa")
    sshd = place.sshd(f"HostKey {folder}/host_rsa", f"HostKey {folder}/host_ecdsa")
    for key in (rsa, ecdsa, sshd.host_key):
        assert call(place.transport(), sshd.endpoint, host_key=key) == b"{}"


@pytest.mark.parametrize("form", ["hashed", "list", "wildcard", "negated", "revoked"])
def test_lines_of_known_hosts(place: Place, form: str) -> None:
    sshd = place.sshd()
    name = f"[127.0.0.1]:{sshd.port}"
    lines = {
        "hashed": f"{name} {sshd.host_key}",
        "list": f"# a comment\n\nbroken\nother,{name},10.0.0.1 {sshd.host_key} note",
        "wildcard": f"[127.0.0.?]:* {sshd.host_key}",
        "negated": f"*,!{name} {sshd.host_key}",
        "revoked": f"{name} {sshd.host_key}\n@revoked * {sshd.host_key}",
    }
    place.known_hosts.write_text(lines[form] + "\n")
    if form == "hashed":
        subprocess.run(["ssh-keygen", "-H", "-f", str(place.known_hosts)], check=True, capture_output=True)
        assert "127.0.0.1" not in place.known_hosts.read_text()
    expected = {"negated": "HostKeyUnknown", "revoked": "HostKeyRevoked"}.get(form)
    if expected is None:
        assert call(place.transport(), sshd.endpoint) == b"{}"
    else:
        assert refused(place.transport(), sshd.endpoint).reason == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("-h", "-n", "127.0.0.1"), None),
        (("-h", "-n", "127.0.*"), None),
        (("-h", "-n", "127.0.0.9"), "not for 127.0.0.1"),
        (("-h", "-n", "127.0.0.1", "-V", "20200101:20200102"), "not valid now"),
        (("-n", "127.0.0.1"), "for users"),
    ],
)
def test_a_host_key_signed_by_a_host_ca(place: Place, options: tuple[str, ...], problem: str | None) -> None:
    folder = place.folder / "sshd"
    folder.mkdir()
    ca = keygen(place.folder / "ca")
    keygen(folder / "host_ed25519")
    certificate = certify(place.folder / "ca", folder / "host_ed25519.pub", *options)
    if problem == "for users":
        # sshd itself shows no certificate that is not for hosts; ours alone is asked.
        from capsule.transport import ssh_hosts
        from capsule.transport.dial import HostPort
        from tests.sshd import blob_of

        place.known_hosts.write_text(f"@cert-authority 127.0.0.1 {ca}\n")
        trust = ssh_hosts.known([place.known_hosts], HostPort("127.0.0.1", 22))
        with pytest.raises(TransportError, match=problem) as caught:
            trust.check(blob_of(certificate.read_text()), now=time.time())
        assert caught.value.reason == "HostCertificateInvalid"
        return
    sshd = place.sshd(host_certificate=certificate)
    place.known_hosts.write_text(f"@cert-authority 127.0.0.* {ca}\n")
    if problem is None:
        assert call(place.transport(), sshd.endpoint) == b"{}"
    else:
        error = refused(place.transport(), sshd.endpoint)
        assert (error.reason, error.kind, error.sent) == ("HostCertificateInvalid", "stalled", False)
        assert problem in str(error)


def test_a_host_ca_that_is_not_ours_or_revoked(place: Place) -> None:
    folder = place.folder / "sshd"
    folder.mkdir()
    ca = keygen(place.folder / "ca")
    keygen(folder / "host_ed25519")
    other = keygen(place.folder / "other")
    certificate = certify(place.folder / "ca", folder / "host_ed25519.pub", "-h", "-n", "127.0.0.1")
    sshd = place.sshd(host_certificate=certificate)
    for lines in (f"@cert-authority * {other}", f"@cert-authority * {ca}\n@revoked * {ca}"):
        place.known_hosts.write_text(lines + "\n")
        assert refused(place.transport(), sshd.endpoint).reason == "HostKeyUnknown"


# ---- who we are -------------------------------------------------------------------------------------


def test_a_key_that_is_not_authorized(place: Place) -> None:
    sshd = place.sshd(authorized=False)
    error = refused(place.transport(), sshd.endpoint, host_key=sshd.host_key)
    assert (error.reason, error.kind, error.sent) == ("LoginRefused", "stalled", False)
    assert "capsule-agent authorize" in str(error)


def test_keys_that_cannot_be_used_are_named(place: Place) -> None:
    sshd = place.sshd()
    locked = place.folder / "locked"
    keygen(locked)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(locked)],
        check=True,
        capture_output=True,
    )
    (place.folder / "garbage").write_text("no key")
    files = [place.folder / name for name in ("locked", "garbage", "missing")]
    transport = place.transport(keys=files, agent_socket=place.folder / "none.sock")
    text = str(refused(transport, sshd.endpoint, host_key=sshd.host_key))
    for part in (
        "locked has a passphrase",
        "garbage is no private key",
        "missing does not exist",
        "none.sock",
    ):
        assert part in text
    assert "secret" not in text
    usable = place.transport(keys=[*files, place.folder / "key"])
    assert call(usable, sshd.endpoint, host_key=sshd.host_key) == b"{}"


def test_a_user_certificate_is_offered(place: Place) -> None:
    keygen(place.folder / "ca")
    certify(place.folder / "ca", place.folder / "key.pub", "-n", USER)
    sshd = place.sshd(
        f"TrustedUserCAKeys {place.folder}/ca.pub", f"ForceCommand {place.command}", authorized=False
    )
    assert call(place.transport(), sshd.endpoint, host_key=sshd.host_key) == b"{}"
    assert "ED25519-CERT" in sshd.log()


def test_keys_of_an_ssh_agent(place: Place) -> None:
    sshd = place.sshd()
    sock = place.folder / "ssh-agent.sock"
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(sock.exists)
        subprocess.run(
            ["ssh-add", "-q", str(place.folder / "key")],
            check=True,
            capture_output=True,
            env={**os.environ, "SSH_AUTH_SOCK": str(sock)},
        )
        transport = place.transport(keys=[], agent_socket=sock)
        assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    finally:
        agent.terminate()
        agent.wait(10)


# ---- how it is reached ------------------------------------------------------------------------------


def test_names_of_ssh_config_and_a_jump_host(place: Place) -> None:
    inner = place.sshd(name="inner")
    jump = place.sshd(name="jump", authorized=False)
    jump.authorized_keys.write_text(f"restrict,port-forwarding {place.key}\n")
    place.known_hosts.write_text(f"{inner.known_hosts_line}\n{jump.known_hosts_line}\n")
    config = place.folder / "config"
    config.write_text(
        f"Host chat\n HostName 127.0.0.1\n Port {inner.port}\n User {USER}\n ProxyJump bastion\n"
        f"Host bastion\n HostName 127.0.0.1\n Port {jump.port}\n"
        f"Host *\n IdentityFile {place.folder}/key\n IdentityFile {place.folder}/none\n"
    )
    transport = place.transport(keys=[], config=config)
    for _ in range(3):
        assert call(transport, "ssh://chat") == b"{}"
    assert inner.log().count("Accepted publickey") == jump.log().count("Accepted publickey") == 1

    place.answer = b"x" * MAX_ANSWER
    for _ in range(20):  # more than one connection may send while nobody looks
        assert len(call(transport, "ssh://chat")) == MAX_ANSWER

    place.known_hosts.write_text(inner.known_hosts_line + "\n")
    error = refused(place.transport(keys=[], config=config), "ssh://chat")
    assert error.reason == "HostKeyUnknown"
    assert str(jump.port) in str(error)


def test_a_jump_host_that_forwards_nothing(place: Place) -> None:
    inner = place.sshd(name="inner")
    jump = place.sshd(name="jump")
    place.known_hosts.write_text(f"{inner.known_hosts_line}\n{jump.known_hosts_line}\n")
    config = place.folder / "config"
    config.write_text(
        f"Host 127.0.0.1\n ProxyJump 127.0.0.2:{jump.port}\n"
        "Host 127.0.0.2\n HostName 127.0.0.1\n ProxyJump none\n"
    )
    error = refused(place.transport(config=config), inner.endpoint)
    assert (error.reason, error.sent) == ("SshRefused", False)


@pytest.mark.parametrize(
    "text",
    [
        "Host *\n ProxyCommand nc %h %p\n",
        'Match host * exec "touch /tmp/never"\n User x\n',
        "Host *\n Port many\n",
        "Host a\n ProxyJump b\nHost b\n ProxyJump a\n",
        "Match\n",
    ],
)
def test_a_config_that_would_execute_or_lead_nowhere(place: Place, text: str) -> None:
    config = place.folder / "config"
    config.write_text(text)
    with pytest.raises(TransportError) as caught:
        call(place.transport(config=config), "ssh://a")
    assert (caught.value.reason, caught.value.kind, caught.value.sent) == (
        "SshConfigInvalid",
        "stalled",
        False,
    )


# ---- kept connections -------------------------------------------------------------------------------


def test_many_callers_share_one_connection(place: Place) -> None:
    sshd = place.sshd()
    transport = place.transport()
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call, transport, sshd.endpoint, host_key=sshd.host_key) for _ in range(200)]
        assert {each.result() for each in calls} == {b"{}"}
    assert sshd.log().count("Accepted publickey") == 1


def test_more_endpoints_than_may_be_kept(place: Place) -> None:
    first, second = place.sshd(name="first"), place.sshd(name="second")
    transport = place.transport(max_connections=1)
    for sshd in (first, second, first):
        assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    assert first.log().count("Accepted publickey") == 2


class Relay:
    """A far end that leaves its process id, so that a test can end or stop it."""

    def __init__(self, place: Place) -> None:
        self._file = place.folder / "relay.pid"
        place.command = f"echo $$ > {self._file}; exec {place.command}"

    def signal(self, number: int) -> None:
        os.kill(int(self._file.read_text()), number)


def test_a_connection_that_ended_while_idle_is_made_anew(place: Place) -> None:
    relay = Relay(place)
    sshd = place.sshd()
    transport = place.transport()
    assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    relay.signal(signal.SIGKILL)
    wait_until(lambda: "Disconnected" in sshd.log() or "Close session" in sshd.log())
    slot = next(iter(transport._slots.values()))
    wait_until(lambda: slot.channel is None or not slot.channel.alive)
    assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    assert len(place.seen) == 2
    assert sshd.log().count("Accepted publickey") == 2


def test_a_dead_far_end_is_found_within_the_timeout_and_the_connection_given_up(place: Place) -> None:
    relay = Relay(place)
    sshd = place.sshd()
    transport = place.transport()
    assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    relay.signal(signal.SIGSTOP)
    stopped = int((place.folder / "relay.pid").read_text())
    try:
        began = time.monotonic()
        error = refused(transport, sshd.endpoint, host_key=sshd.host_key, timeout=0.8)
        assert (error.reason, error.sent) == ("AgentTimeout", True)
        assert time.monotonic() - began < 2
        assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
    finally:
        os.kill(stopped, signal.SIGKILL)


def test_a_slow_agent_is_not_taken_for_a_dead_far_end(place: Place) -> None:
    over = threading.Event()
    sshd = place.sshd()
    handle = place.handle
    agent_blocks = threading.Event()

    def slow(name: str, body: bytes) -> bytes:
        if name == "order":
            agent_blocks.set()
            over.wait(20)
        return handle(name, body)

    place.folder.joinpath("agent.sock").unlink()
    with contextlib.closing(HttpAgent(slow, unix_path=place.folder / "agent.sock")):
        transport = place.transport()
        address = AgentAddress(endpoint=sshd.endpoint, host_key=sshd.host_key)
        with pytest.raises(TransportError) as caught:
            transport.call(address, "order", b"", timeout=1)
        assert caught.value.reason == "AgentTimeout"
        assert agent_blocks.is_set()
        assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"
        over.set()
    assert sshd.log().count("Accepted publickey") == 1


def test_a_host_that_drops_connections_above_max_startups_is_tried_again(place: Place) -> None:
    sshd = place.sshd("MaxStartups 2:100:2")
    others = [socket.create_connection(("127.0.0.1", sshd.port)) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(call, place.transport(), sshd.endpoint, host_key=sshd.host_key)
        wait_until(lambda: "MaxStartups" in sshd.log() or "drop connection" in sshd.log())
        for other in others:
            other.close()
        assert waiting.result() == b"{}"


# ---- the far end ------------------------------------------------------------------------------------


def test_what_a_login_prints_before_the_first_frame_is_skipped(place: Place) -> None:
    place.command = f"seq 1 5000; echo -e '\\x01CAPSUL'; {place.command}"
    sshd = place.sshd()
    assert call(place.transport(), sshd.endpoint, host_key=sshd.host_key) == b"{}"


@pytest.mark.parametrize("noise", ["yes", "cat /dev/zero", "head -c 100000 /dev/zero; cat"])
def test_a_login_that_talks_for_ever_is_an_error(place: Place, noise: str) -> None:
    place.command = noise
    sshd = place.sshd()
    error = refused(place.transport(), sshd.endpoint, host_key=sshd.host_key)
    assert (error.reason, error.sent) == ("AnswerMalformed", False)


def test_a_login_that_says_nothing_costs_the_timeout(place: Place) -> None:
    place.command = "exec cat > /dev/null"
    sshd = place.sshd()
    error = refused(place.transport(), sshd.endpoint, host_key=sshd.host_key, timeout=1)
    assert (error.reason, error.sent) == ("AgentTimeout", False)


def test_output_between_frames_ends_the_connection(place: Place) -> None:
    place.command = f"{place.command} | {{ dd bs=1 count=32 status=none; echo oops; cat; }}"
    sshd = place.sshd()
    error = refused(place.transport(), sshd.endpoint, host_key=sshd.host_key)
    assert (error.reason, error.sent) == ("AnswerMalformed", True)
    assert "between frames" in str(error)


def test_a_host_without_the_far_end_is_told_how_to_get_it(place: Place) -> None:
    sshd = place.sshd(authorized=False)
    sshd.authorized_keys.write_text(f"{place.key}\n")
    error = refused(
        place.transport(command="capsule-agent-is-not-here stdio"), sshd.endpoint, host_key=sshd.host_key
    )
    assert (error.reason, error.kind, error.sent) == ("RelayMissing", "stalled", False)
    assert "not found" in str(error)
    assert place.seen == []


def test_what_fills_standard_error_blocks_nothing(place: Place) -> None:
    place.command = f"head -c 3000000 /dev/zero >&2 & {place.command}"
    sshd = place.sshd()
    transport = place.transport()
    for _ in range(5):
        assert call(transport, sshd.endpoint, host_key=sshd.host_key) == b"{}"


ACTIONS = """
import os
print("printed while the file is read")
from capsule_agent import Agent, Health
agent = Agent("cron-backup", version="1.0", journal={journal!r}, observe=True)
@agent.health
def health():
    print("printed by the service")
    os.write(1, b"written to descriptor 1")
    os.system("echo printed by a child")
    return Health("UP", "fine")
"""


def test_actions_of_a_file_are_hosted_without_a_service(place: Place) -> None:
    file = place.folder / "actions.py"
    file.write_text(ACTIONS.format(journal=str(place.folder / "agent.db")))
    place.command = relay_command("--actions", str(file))
    sshd = place.sshd()
    transport = place.transport()
    address = AgentAddress(endpoint=sshd.endpoint, host_key=sshd.host_key)
    for nonce in ("one", "two"):
        answer = transport.call(address, "report", json.dumps({"nonce": nonce}).encode(), timeout=15)
        report = json.loads(json.loads(answer)["payload"])
        assert (report["service"], report["nonce"]) == ("cron-backup", nonce)
    with pytest.raises(TransportError) as caught:
        transport.call(address, "order", b"{}", timeout=15)
    assert (caught.value.reason, caught.value.agent_reason) == ("AgentRejectedCall", "ObserveOnly")


def test_the_authorized_line_lets_the_key_do_this_and_nothing_else(place: Place) -> None:
    sshd = place.sshd(authorized=False)
    arguments = f"authorize --from 127.0.0.0/8 --socket {place.folder}/agent.sock".split()
    command = Path(sys.executable).with_name("capsule-agent")
    line = subprocess.run(
        [command, *arguments, "--key", place.key, "--program", f"{place.folder}/bin dir/capsule-agent"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    program = place.folder / "bin dir" / "capsule-agent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m capsule_agent.stdio "$@"\n')
    program.chmod(0o755)
    sshd.authorized_keys.write_text(line)
    assert call(place.transport(command="touch never"), sshd.endpoint, host_key=sshd.host_key) == b"{}"
    assert not Path("never").exists()


def test_the_line_for_this_installation_needs_nothing_of_the_environment(place: Place) -> None:
    sshd = place.sshd(authorized=False)
    arguments = ["authorize", "--socket", f"{place.folder}/agent.sock", "--key", place.key]
    command = Path(sys.executable).with_name("capsule-agent")
    line = subprocess.run([command, *arguments], check=True, capture_output=True, text=True).stdout
    assert re.match(
        r'command="\S+ -I -S \S+/forced_command.py stdio --socket \S+",restrict ssh-ed25519 ', line
    )
    sshd.authorized_keys.write_text(line)
    assert call(place.transport(command="touch never"), sshd.endpoint, host_key=sshd.host_key) == b"{}"
    assert not Path("never").exists()


def test_the_pump_imports_what_a_bare_interpreter_has_loaded() -> None:
    """Every module more is paid for by every connection."""
    code = "import sys; import capsule_agent.pump; print(*sorted(sys.modules))"
    environment = {"PYTHONPATH": str(Path(capsule_agent.__file__).parents[1])}
    shown, bare = (
        subprocess.run(
            [sys.executable, "-S", "-c", text], check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
        for text in (code, "import os, sys; print(*sorted(sys.modules))")
    )
    assert set(shown) - set(bare) == {"__future__", "_socket", "capsule_agent", "capsule_agent.pump"}


def test_the_far_end_imports_the_standard_library_alone() -> None:
    """Started without site-packages, so that it could not import anything else."""
    shown = subprocess.run(
        [sys.executable, "-S", "-m", "capsule_agent.stdio", "stdio", "--socket", "/nowhere"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={"PYTHONPATH": str(Path(capsule_agent.__file__).parents[1])},
    )
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert [one.head for one in FrameReader().feed(shown.stdout)] == [{"kind": "hello"}]
