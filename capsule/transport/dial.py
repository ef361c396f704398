"""Connects to the host of an endpoint: the address is checked, the time is bounded.

Rules kept: a host name is looked up once and the address that was checked is the address connected to, so
a second answer of the name server changes nothing; link-local and metadata addresses are refused, for a
document must not make the reconciler speak to its cloud's credential service; every wait ends at the
deadline, the name server's too. Called by transport.http and transport.ssh.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from capsule.transport.api import TransportError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T", bound=socket.socket)

_HOST = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})$")
_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_METADATA = (
    ipaddress.ip_network("100.100.100.200/32"),  # Alibaba Cloud
    ipaddress.ip_network("fd00:ec2::/32"),  # AWS over IPv6
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where to connect: a DNS name or a literal address (without brackets), and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_host_port(text: str, *, default_port: int, endpoint: str) -> HostPort:
    """Read "host", "host:port", "[::1]" or "[::1]:port".

    Raises TransportError EndpointInvalid, which names `endpoint`.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", text)
    host = (match[1] or match[2]) if match else ""
    port = int(match[3]) if match and match[3] else default_port
    literal = bool(match and match[1])
    if (_literal(host) is None) if literal else (not _HOST.match(host)):
        raise invalid(endpoint, "a host name, an IPv4 address or an IPv6 address in brackets")
    if not 1 <= port <= 65535:
        raise invalid(endpoint, "a port between 1 and 65535")
    return HostPort(host, port)


def invalid(endpoint: str, expected: str) -> TransportError:
    """The error for an endpoint that cannot be read."""
    return TransportError(
        "EndpointInvalid",
        f"{endpoint[:300]!r} is no endpoint: expected {expected}; mend spec.agent.endpoint of the service",
        kind="stalled",
        sent=False,
    )


def remaining(deadline: float, *, doing: str, sent: bool) -> float:
    """Seconds left until `deadline` (time.monotonic). Raises TransportError AgentTimeout when none are."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise timed_out(doing, sent=sent)
    return left


def timed_out(doing: str, *, sent: bool) -> TransportError:
    """The error for a deadline that passed while `doing`."""
    return TransportError("AgentTimeout", f"the time for the call ran out while {doing}", sent=sent)


def unreachable(where: object, why: object) -> TransportError:
    """The error for an agent that cannot be connected to."""
    return TransportError("AgentUnreachable", f"cannot connect to {where}: {why}", sent=False)


def is_loopback(address: str) -> bool:
    """Whether a literal address never leaves this host."""
    found = _literal(address)
    return found is not None and _inner(found).is_loopback


def may_be_plain(host: str) -> bool:
    """Whether `host` says in itself that it is this host: a loopback address, or the name localhost.

    Any other name that happens to resolve to loopback today may not tomorrow, so it does not count.
    """
    return host.lower() == "localhost" or is_loopback(host)


def dial(
    where: HostPort,
    *,
    deadline: float,
    make: Callable[[int, int], T],
    loopback_only: bool = False,
) -> T:
    """A connected TCP socket, made by `make(family, type)`, without delay of small packets.

    With `loopback_only`, only an address of this host is connected to. Addresses are tried in the name
    server's order, each with its share of the time. Raises TransportError AddressRefused, AgentUnreachable,
    AgentTimeout, InsecureRefused.
    """
    addresses = _look_up(where, deadline)
    allowed = [address for address in addresses if refusal(address) is None]
    if not allowed:
        raise TransportError(
            "AddressRefused",
            f"{where} is {addresses[0]}, {refusal(addresses[0])}; an agent has an address of its own",
            kind="stalled",
            sent=False,
        )
    if loopback_only and not all(is_loopback(address) for address in allowed):
        raise insecure(where)
    failure: Exception | None = None
    for at, address in enumerate(allowed):
        left = remaining(deadline, doing=f"connecting to {where}", sent=False)
        try:
            return _connect(address, where.port, left / (len(allowed) - at), make)
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError) and time.monotonic() >= deadline:
        raise timed_out(f"connecting to {where}", sent=False)
    raise unreachable(where, failure) from None


def insecure(where: HostPort) -> TransportError:
    """The error for plain text that would leave this host."""
    return TransportError(
        "InsecureRefused",
        f"plain http to {where} would cross the network readable; use https, or say insecure: true in "
        "spec.agent if the network is trusted",
        kind="stalled",
        sent=False,
    )


def refusal(address: str) -> str | None:
    """Why an address is never connected to, in words; None when it may be."""
    found = _literal(address)
    if found is None:
        return "not an address"
    inner = _inner(found)
    if inner.is_link_local:
        return "a link-local address, where clouds keep their metadata service"
    if any(inner in network for network in _METADATA if network.version == inner.version):
        return "a cloud's metadata service"
    if inner.is_unspecified or inner.is_multicast or str(inner) == "255.255.255.255":
        return "not the address of one host"
    return None


def _inner(address: IpAddress) -> IpAddress:
    """The IPv4 address within an IPv6 one, where a router or the kernel would unwrap it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _literal(text: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _look_up(where: HostPort, deadline: float) -> list[str]:
    if _literal(where.host) is not None:
        return [where.host]
    found: list[str] = []
    failure: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except (OSError, UnicodeError) as error:
            failure.append(error)

    # getaddrinfo knows no timeout: a thread that waits for a dead name server is left behind.
    thread = threading.Thread(target=ask, name="capsule-lookup", daemon=True)
    thread.start()
    thread.join(remaining(deadline, doing=f"looking up {where.host}", sent=False))
    if thread.is_alive():
        raise timed_out(f"looking up {where.host}", sent=False)
    if failure or not found:
        raise unreachable(where, failure[0] if failure else "the name has no address")
    return found


def _connect(address: str, port: int, timeout: float, make: Callable[[int, int], T]) -> T:
    sock = make(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect((address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with contextlib.suppress(OSError):
            for option, value in _ALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        sock.close()
        raise
    return sock
