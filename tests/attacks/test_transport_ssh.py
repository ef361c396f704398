"""Peers on an SSH port that are weak, silent, endless or no SSH at all; endpoints that mean to be options."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.documents.types import AgentAddress
from capsule.transport.api import MAX_ANSWER, TransportError
from capsule.transport.ssh import SshTransport
from capsule_agent.protocol.frames import MAGIC, MAX_BODY, MAX_NOISE, Frame, FrameError, FrameReader, frame
from capsule_agent.stdio import authorize
from tests.sshd import USER, Sshd, keygen, public_text, relay_command
from tests.transport_peers import HttpAgent, RawServer, raw_server

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKN8gZZQOvrqyeKa3KAf6a5KQtnwQ9hCPc9rjSzRmGEx"


def fails(
    endpoint: str, *, timeout: float = 5.0, keys: tuple[Path, ...] = (), host_key: str = KEY
) -> TransportError:
    began = time.monotonic()
    address = AgentAddress.model_construct(endpoint=endpoint, host_key=host_key)
    with contextlib.closing(SshTransport(keys=keys)) as transport, pytest.raises(TransportError) as caught:
        transport.call(address, "order", b"secret-body", timeout=timeout)
    assert time.monotonic() - began < timeout + 3
    assert str(caught.value).isprintable()
    assert "secret-body" not in str(caught.value)
    return caught.value


def at(server: RawServer) -> str:
    return f"ssh://bob@127.0.0.1:{server.port}"


# ---- before the host has proved who it is -----------------------------------------------------------


def test_a_host_that_never_answers() -> None:
    with raw_server(RawServer.hang, read_request=False) as server:
        error = fails(at(server), timeout=0.5)
    assert (error.reason, error.kind, error.sent) == ("AgentTimeout", "transient", False)


def endless_lines(server: RawServer, peer: socket.socket) -> None:
    while not server.closing.is_set():
        peer.sendall(b"welcome, please wait\r\n" * 100)


def endless_line(server: RawServer, peer: socket.socket) -> None:
    while not server.closing.is_set():
        peer.sendall(b"\x1b[2J" * 10_000)


def endless_packet(server: RawServer, peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-flood\r\n" + struct.pack(">I", 2**31))
    endless_line(server, peer)


@pytest.mark.parametrize("script", [endless_lines, endless_line, endless_packet])
def test_a_host_that_talks_for_ever(script: Callable[[RawServer, socket.socket], None]) -> None:
    with raw_server(script, read_request=False) as server:
        error = fails(at(server), timeout=5)
    assert error.sent is False
    assert error.reason in ("AnswerMalformed", "AgentUnreachable")


def test_a_host_that_drips_its_greeting() -> None:
    def drip(server: RawServer, peer: socket.socket) -> None:
        server.drip(peer, b"x" * 1000, 0.05)

    with raw_server(drip, read_request=False) as server:
        assert fails(at(server), timeout=0.6).reason == "AgentTimeout"


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"", "SshBusy"),
        (b"Exceeded MaxStartups\r\n", "SshBusy"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "SshBusy"),
        (b"SSH-1.5-old\r\n", "WeakPeer"),
        (b"SSH-2.0-ends\r\n", "AgentUnreachable"),
        (b"SSH-2.0-\x1b[2J\r\n" + b"\x00" * 64, "AgentUnreachable"),
    ],
)
def test_a_host_that_greets_wrongly(greeting: bytes, reason: str) -> None:
    with raw_server(lambda _, peer: peer.sendall(greeting), read_request=False) as server:
        error = fails(at(server))
    assert (error.reason, error.sent) == (reason, False)


# ---- weak peers, played by an SSH server in this process --------------------------------------------


class Accepting(paramiko.ServerInterface):
    def __init__(self) -> None:
        self.logins = 0

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.logins += 1
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return True


class SshServer:
    """An SSH server of paramiko's whose transport a test can weaken, and whose channels it plays."""

    def __init__(
        self,
        *,
        weaken: Callable[[paramiko.Transport], None] = lambda transport: None,
        play: Callable[[paramiko.Channel], None] = lambda channel: None,
        strict: bool = True,
    ) -> None:
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(self._private()))
        self.host_key = f"ssh-ed25519 {self._key.get_base64()}"
        self.interface = Accepting()
        self._weaken, self._play, self._strict = weaken, play, strict
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"ssh://bob@127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _private(self) -> str:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return (
            Ed25519PrivateKey.generate()
            .private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
            .decode()
        )

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection, strict_kex=self._strict)
            self._weaken(transport)
            transport.add_server_key(self._key)
            self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=self.interface)
                channel = None
                while channel is None and transport.is_active():
                    channel = transport.accept(0.1)
                if channel is not None:
                    self._play(channel)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()
        self._thread.join(10)
        for transport in self._transports:
            transport.join(10)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keygen(tmp_path / "key")
    return tmp_path / "key"


def test_a_peer_without_strict_key_exchange_gets_no_login(key: Path) -> None:
    with contextlib.closing(SshServer(strict=False)) as server:
        error = fails(server.endpoint, keys=(key,), host_key=server.host_key)
        assert (error.reason, error.kind, error.sent) == ("WeakPeer", "stalled", False)
        assert "CVE-2023-48795" in str(error)
        assert server.interface.logins == 0


@pytest.mark.parametrize(
    ("option", "names"),
    [("ciphers", ("3des-cbc",)), ("ciphers", ("aes128-cbc",)), ("digests", ("hmac-md5", "hmac-sha1"))],
)
def test_a_peer_with_old_ciphers_alone_gets_no_login(key: Path, option: str, names: tuple[str, ...]) -> None:
    def weaken(transport: paramiko.Transport) -> None:
        transport.get_security_options().ciphers = ("aes128-ctr",)
        setattr(transport.get_security_options(), option, names)

    with contextlib.closing(SshServer(weaken=weaken)) as server:
        error = fails(server.endpoint, keys=(key,), host_key=server.host_key)
        assert (error.reason, error.kind, error.sent) == ("WeakPeer", "stalled", False)
        assert server.interface.logins == 0


def test_tracebacks_of_connection_threads_reach_nobody(
    key: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), contextlib.closing(SshServer(strict=False)) as server:
        fails(server.endpoint, keys=(key,), host_key=server.host_key)
        with raw_server(lambda _, peer: peer.sendall(b"SSH-2.0-x\r\nnonsense"), read_request=False) as raw:
            fails(at(raw), timeout=2)
    assert "Traceback" not in capfd.readouterr().err + caplog.text


# ---- a host that is who it should be, and lies ------------------------------------------------------


def hello_then(*pieces: bytes) -> Callable[[paramiko.Channel], None]:
    """Say hello, wait for the call, then send `pieces`."""

    def play(channel: paramiko.Channel) -> None:
        channel.sendall(frame({"kind": "hello"}))
        channel.recv(65536)
        for piece in pieces:
            channel.sendall(piece)

    return play


def head(**values: Any) -> bytes:
    return frame(values)


ANSWER: dict[str, Any] = {"kind": "answer", "id": 1, "status": 200, "type": "application/json"}


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((b"garbage",), "AnswerMalformed"),
        ((MAGIC + struct.pack(">II", 10, MAX_BODY + 1),), "AnswerMalformed"),
        ((MAGIC + struct.pack(">II", 2**31, 0),), "AnswerMalformed"),
        ((MAGIC + struct.pack(">II", 2, 0) + b"[]",), "AnswerMalformed"),
        ((MAGIC + struct.pack(">II", 5000, 0) + b"[" * 5000,), "AnswerMalformed"),
        ((head(**{**ANSWER, "status": "200"}),), "AnswerMalformed"),
        ((head(**{**ANSWER, "status": True}),), "AnswerMalformed"),
        ((head(**{**ANSWER, "kind": "other"}),), "AnswerMalformed"),
        ((head(**{**ANSWER, "type": "text/html"}),), "AnswerMalformed"),
        ((head(**{**ANSWER, "status": 302}),), "AgentRedirects"),
        ((head(**{**ANSWER, "status": 500}),), "AgentFailed"),
        ((head(kind="failure", id=1, reason="\x1b[2J", message="\x1b[2J\u202e" * 100),), "AgentFailed"),
        ((head(kind="failure", id=1, reason="HostKeyUnknown", message="x"),), "AgentFailed"),
        ((head(**{**ANSWER, "id": [1]}), head(**{**ANSWER, "id": 2})), "AgentTimeout"),
    ],
)
def test_a_far_end_that_answers_wrongly(key: Path, pieces: tuple[bytes, ...], reason: str) -> None:
    with contextlib.closing(SshServer(play=hello_then(*pieces))) as server:
        error = fails(server.endpoint, keys=(key,), host_key=server.host_key, timeout=1.5)
    assert (error.reason, error.sent) == (reason, True)


def test_a_far_end_that_sends_a_gigabyte_into_the_void(key: Path) -> None:
    def flood(channel: paramiko.Channel) -> None:
        hello_then()(channel)
        block = frame({**ANSWER, "id": 99}, b"x" * 60_000)
        for _ in range(20_000):
            channel.sendall(block)

    with contextlib.closing(SshServer(play=flood)) as server:
        error = fails(server.endpoint, keys=(key,), host_key=server.host_key, timeout=1)
    assert (error.reason, error.sent) == ("AgentTimeout", True)


# ---- where endpoints lead ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "ssh://-oProxyCommand=touch%20never",
        "ssh://-oProxyCommand=x/",
        "ssh://bob@-oProxyCommand=touch",
        "ssh://-oProxyCommand=touch@host",
        "ssh://bob@host;touch never",
        "ssh://bob@$(touch never)",
        "ssh://bob@host:22;x",
        "ssh://bob@host:0",
        "ssh://bob@host:99999",
        "ssh://bob:password@host",
        "ssh://bob@alice@host",
        "ssh://bob@hóst",
        "ssh://bob@host\r\nX",
        "ssh://",
        "ssh:host",
    ],
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    error = fails(endpoint)
    assert (error.reason, error.kind, error.sent) == ("EndpointInvalid", "stalled", False)
    assert not Path("never").exists()


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]"])
def test_link_local_and_metadata_addresses_are_refused(host: str) -> None:
    error = fails(f"ssh://bob@{host}")
    assert (error.reason, error.kind, error.sent) == ("AddressRefused", "stalled", False)


# ---- the others are not delayed ---------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path, key: Path) -> Iterator[AgentAddress]:
    with (
        contextlib.closing(HttpAgent(lambda name, body: b"{}", unix_path=tmp_path / "agent.sock")),
        contextlib.closing(Sshd(tmp_path / "sshd")) as sshd,
    ):
        sshd.authorize(public_text(key), relay_command("--socket", f"{tmp_path}/agent.sock"))
        yield AgentAddress(endpoint=sshd.endpoint, host_key=sshd.host_key)


def test_no_bad_host_delays_a_good_one(good: AgentAddress, key: Path) -> None:
    with contextlib.ExitStack() as stack:
        bad = [
            stack.enter_context(raw_server(script, read_request=False))
            for script in (RawServer.hang, endless_lines, endless_line)
        ]
        weak = stack.enter_context(contextlib.closing(SshServer(strict=False)))
        pool = stack.enter_context(ThreadPoolExecutor(32))
        transport = stack.enter_context(contextlib.closing(SshTransport(keys=[key], user=USER)))
        addresses = [AgentAddress(endpoint=at(server), host_key=KEY) for server in bad for _ in range(5)]
        addresses += [AgentAddress(endpoint=weak.endpoint, host_key=weak.host_key) for _ in range(3)]
        calls = [pool.submit(transport.call, each, "report", b"{}", timeout=4) for each in addresses]
        began = time.monotonic()
        for _ in range(5):
            assert transport.call(good, "report", b"{}", timeout=10) == b"{}"
        assert time.monotonic() - began < 3.5
        assert all(isinstance(each.exception(), TransportError) for each in calls)


# ---- frames -----------------------------------------------------------------------------------------

heads = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20), max_size=4)


@given(
    noise=st.binary(max_size=200).filter(lambda data: MAGIC not in data),
    sent=st.lists(st.tuples(heads, st.binary(max_size=300)), min_size=1, max_size=4),
    cut=st.integers(min_value=1, max_value=50),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    noise: bytes, sent: list[tuple[dict[str, Any], bytes]], cut: int
) -> None:
    data = noise + b"".join(frame({**values, "kind": "x"}, body) for values, body in sent)
    reader = FrameReader(noise=1000)
    found: list[Frame] = []
    for start in range(0, len(data), cut):
        found.extend(reader.feed(data[start : start + cut]))
    assert found == [({**values, "kind": "x"}, body) for values, body in sent]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_frames_or_an_error(data: bytes) -> None:
    reader = FrameReader(noise=100)
    try:
        for one in reader.feed(data + frame({"kind": "x"})):
            json.dumps(one.head)
    except FrameError:
        pass


def test_noise_is_bounded_and_not_allowed_later() -> None:
    assert [one.head for one in FrameReader(noise=10).feed(b"a" * 10 + frame({"kind": "x"}))] == [
        {"kind": "x"}
    ]
    with pytest.raises(FrameError, match="before the first frame"):
        list(FrameReader(noise=10).feed(b"a" * 11 + frame({"kind": "x"})))
    with pytest.raises(FrameError, match="before the first frame"):
        list(FrameReader(noise=MAX_NOISE).feed(b"a" * (MAX_NOISE + 100)))
    reader = FrameReader(noise=10)
    assert len(list(reader.feed(frame({"kind": "x"})))) == 1
    with pytest.raises(FrameError, match="between frames"):
        list(reader.feed(b" "))


def test_a_frame_too_large_is_not_made() -> None:
    assert MAX_BODY == MAX_ANSWER
    with pytest.raises(FrameError, match="at most"):
        frame({"kind": "x"}, b"x" * (MAX_BODY + 1))


@pytest.mark.parametrize(
    ("key_text", "command", "source"),
    [
        ("ssh-ed25519 AAAA\nssh-ed25519 BBBB", "x", None),
        ('command="sh" ssh-ed25519 AAAA', "x", None),
        ("ssh-ed25519", "x", None),
        (KEY, "x\ny", None),
        (KEY, "x", '10.0.0.0/8",command="sh'),
    ],
)
def test_a_line_of_authorized_keys_cannot_be_made_to_say_more(
    key_text: str, command: str, source: str | None
) -> None:
    with pytest.raises(ValueError, match="expected"):
        authorize(key_text, command, source=source)


def test_quotes_in_a_forced_command_stay_inside_of_it() -> None:
    line = authorize(KEY + " me", "run '/a \"b'", source="10.0.0.0/8,!10.1.0.0/16")
    assert line == f'command="run \'/a \\"b\'",restrict,from="10.0.0.0/8,!10.1.0.0/16" {KEY} me'
