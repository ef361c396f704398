"""`capsule-agent stdio`: the far end of an SSH connection, made for a forced command in authorized_keys.

Carries frames between standard input and output and the agent's own server on a Unix socket (pump); where
another HTTP server listens there, takes the calls out of the frames and gives it each as a request. With
`--actions FILE.py` it hosts the agent that the file declares itself, for services that embed nothing.
`authorize` makes the line of authorized_keys that allows exactly this to one key.

Rules kept: only frames reach standard output, whatever the service prints; calls run beside each other; a
call is sent to the agent at most once; every wait is bounded. The relay imports the standard library alone.
Called by sshd, through cli or `python -m capsule_agent.stdio`; `relay` by server, for frames it gets itself.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple, Protocol

from capsule_agent import spare_threads
from capsule_agent.protocol.frames import MAX_BODY, Frame, FrameReader, frame
from capsule_agent.pump import pump

MAX_CALLS = 32
MAX_SECONDS = 3600.0
_MAX_HEADERS = 64 * 1024
_CALLS = ("report", "order", "query")
_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com"
    r"|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]+={0,2}( [ -~]{0,200})?"
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n|$)", re.IGNORECASE)
_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([!-~]{1,200})", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: |\r\n|$)")

Forward = Callable[[str, bytes, float], "Answered"]


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Answered(NamedTuple):
    """What the agent answered over HTTP."""

    status: int
    content_type: str
    body: bytes


class CallFailed(Exception):
    """A call that brought no answer; `sent` is False when the agent certainly has not seen it."""

    def __init__(self, reason: str, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.sent = sent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `stdio` or `authorize`; the exit code (0 fine, 2 usage, 3 environment)."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "authorize":
            sys.stdout.write(authorize(options.key, _forced_command(options), source=options.source) + "\n")
            return 0
        if options.socket and pump(options.socket):
            return 0
        with _own_output() as (source, sink):
            if options.socket:
                relay(source, sink, unix_forward(options.socket))
            else:
                with _hosted(options.actions) as path:
                    relay(source, sink, unix_forward(path))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"capsule-agent: {error}\n")
        return 3
    return 0


def authorize(key: str, command: str, *, source: str | None = None) -> str:
    """The line of authorized_keys that lets `key` (OpenSSH public key) run `command` and nothing else.

    `source` limits where from: addresses or networks with commas between. Raises ValueError.
    """
    if not _KEY.fullmatch(key.strip()):
        raise ValueError('expected one public key such as "ssh-ed25519 AAAA… comment"')
    if not command.isprintable():
        raise ValueError("expected a command without control characters")
    options = ['command="{}"'.format(command.replace('"', '\\"')), "restrict"]
    if source is not None:
        if not re.fullmatch(r"[0-9A-Fa-f.:/,*!]{1,500}", source):
            raise ValueError("expected addresses or networks with commas between, such as 10.0.0.0/8")
        options.append(f'from="{source}"')
    return f"{','.join(options)} {key.strip()}"


def socket_command(path: str) -> str:
    """The forced command that leads to the agent's Unix socket `path` through this installation."""
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forced_command.py")
    return shlex.join((sys.executable, "-I", "-S", file, "stdio", "--socket", path))


def relay(source: _HasFileno, sink: Callable[[bytes], None], forward: Forward) -> None:
    """Answer the calls that come as frames from `source` until it ends; at most MAX_CALLS run at once.

    Raises FrameError for bytes that are no frame.
    """
    sink(frame({"kind": "hello"}))
    reader = FrameReader()
    free = threading.BoundedSemaphore(MAX_CALLS)
    while data := os.read(source.fileno(), 65536):
        for one in reader.feed(data):
            number = one.head.get("id")
            if one.head["kind"] == "ping":
                sink(frame({"kind": "pong", "id": number}))
            elif not free.acquire(blocking=False):
                sink(_failure(number, CallFailed("AgentBusy", f"{MAX_CALLS} calls are running", sent=False)))
            else:
                spare_threads.run(partial(_answer_call, one, number, sink, forward, free))


def unix_forward(path: str) -> Forward:
    """Gives calls to the HTTP server on the Unix socket `path`."""

    def forward(call: str, body: bytes, timeout: float) -> Answered:
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect(path)
            except OSError as error:
                text = f"cannot connect to the agent's socket: {error.strerror or error}"
                raise CallFailed("AgentUnreachable", text, sent=False) from None
            try:
                return _exchange(sock, call, body, deadline)
            except TimeoutError:
                raise CallFailed("AgentTimeout", "the agent did not answer in time", sent=True) from None
            except OSError as error:
                raise CallFailed("AgentUnreachable", str(error.strerror or error), sent=True) from None

    return forward


def _answer_call(
    one: Frame, number: Any, sink: Callable[[bytes], None], forward: Forward, free: threading.BoundedSemaphore
) -> None:
    try:
        answer = _forward_call(one, forward)
        head = {"kind": "answer", "id": number, "status": answer.status, "type": answer.content_type}
        data = frame(head, answer.body)
    except CallFailed as failure:
        data = _failure(number, failure)
    finally:
        free.release()
    # Whoever asked may be gone; then there is nobody to tell.
    with suppress(OSError):
        sink(data)


def _forward_call(one: Frame, forward: Forward) -> Answered:
    call = one.head.get("call")
    timeout = one.head.get("timeout")
    if one.head["kind"] != "call" or call not in _CALLS:
        raise CallFailed("CallUnknown", "this version knows report, order and query alone", sent=False)
    if not isinstance(timeout, int | float) or not 0 < timeout <= MAX_SECONDS:
        raise CallFailed("CallUnknown", f"a timeout is above 0 and at most {MAX_SECONDS:.0f} s", sent=False)
    return forward(call, one.body, timeout)


def _failure(number: Any, failure: CallFailed) -> bytes:
    message = str(failure)[:500]
    return frame(
        {"kind": "failure", "id": number, "reason": failure.reason, "message": message, "sent": failure.sent}
    )


def _exchange(sock: socket.socket, call: str, body: bytes, deadline: float) -> Answered:
    """One HTTP/1.0 call: such an answer is never chunked, and ends with its length or the connection."""
    head = (
        f"POST /capsule/v1/{call} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept-Encoding: identity\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _MAX_HEADERS:
            raise CallFailed("AnswerTooLarge", "the head of the answer is too large", sent=True)
        _receive(sock, data, deadline, whole=False)
    headers = bytes(data[:end])
    del data[: end + 4]
    status = _STATUS.match(headers)
    if status is None:
        raise CallFailed("AnswerMalformed", "what listens on the agent's socket is no HTTP server", sent=True)
    length = _LENGTH.search(headers)
    wanted = int(length[1]) if length else None
    if wanted is not None and wanted > MAX_BODY:
        raise CallFailed("AnswerTooLarge", f"the answer is larger than {MAX_BODY} bytes", sent=True)
    while wanted is None or len(data) < wanted:
        if not _receive(sock, data, deadline, whole=wanted is None):
            break
        if len(data) > MAX_BODY:
            raise CallFailed("AnswerTooLarge", f"the answer is larger than {MAX_BODY} bytes", sent=True)
    kind = _TYPE.search(headers)
    return Answered(int(status[1]), kind[1].decode("ascii") if kind else "", bytes(data))


def _receive(sock: socket.socket, data: bytearray, deadline: float, *, whole: bool) -> bool:
    """Append what comes next; False at the end. An end before the answer is whole is an error."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
    chunk = sock.recv(65536)
    if not chunk and not whole:
        raise CallFailed("AgentUnreachable", "the agent closed the connection before its answer", sent=True)
    data += chunk
    return bool(chunk)


@contextmanager
def _own_output() -> Iterator[tuple[BinaryIO, Callable[[bytes], None]]]:
    """Standard input and a writer of frames to standard output, both out of anybody else's reach.

    From here on file descriptor 1 is standard error: what a library, a child or the service prints cannot
    come between frames.
    """
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    output = os.dup(1)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    lock = threading.Lock()

    def sink(data: bytes) -> None:
        with lock:
            view = memoryview(data)
            while view:
                view = view[os.write(output, view) :]

    try:
        yield source, sink
    finally:
        source.close()
        # Whoever still holds the lock is writing to a peer that went away.
        os.close(output)


@contextmanager
def _hosted(file: str) -> Iterator[str]:
    """The Unix socket of the agent that the Python file `file` declares as `agent`, served here."""
    import tempfile

    agent: Any = runpy.run_path(file, run_name="capsule_actions").get("agent")
    if not hasattr(agent, "serve_unix"):
        raise ValueError(f"{file} declares no agent: expected a module-level name `agent` that is an Agent")
    with tempfile.TemporaryDirectory(prefix="capsule-agent-") as folder:
        path = os.path.join(folder, "agent.sock")
        with agent.serve_unix(path):
            yield path
        agent.close()


def _forced_command(options: argparse.Namespace) -> str:
    """What sshd runs: by `--program`, or as fast as this installation can start."""
    what = ("--socket", options.socket) if options.socket else ("--actions", options.actions)
    if not os.path.isabs(what[1]):
        raise ValueError(
            f"{what[0]} {what[1]}: expected an absolute path, for sshd starts in the home folder"
        )
    if options.program is None and options.socket:
        return socket_command(options.socket)
    return shlex.join((options.program or "capsule-agent", "stdio", *what))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capsule-agent", description="Reach the agent of a service over SSH.", allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    stdio = verbs.add_parser("stdio", help="carry calls between standard input/output and the agent")
    _add_where(stdio)
    line = verbs.add_parser("authorize", help="print the line of authorized_keys for a reconciler's key")
    _add_where(line)
    line.add_argument("--key", required=True, metavar="KEY", help="the reconciler's OpenSSH public key")
    line.add_argument("--from", dest="source", metavar="NETWORKS", help="accept it from these networks alone")
    line.add_argument(
        "--program", metavar="FILE", help="path of capsule-agent on the host, if it is not this installation"
    )
    return parser


def _add_where(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", help="Unix socket of the agent within the service")
    where.add_argument("--actions", metavar="FILE.py", help="Python file that declares `agent`, hosted here")


if __name__ == "__main__":
    sys.exit(main())
