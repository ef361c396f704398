"""Checks of a service's endpoint: a host that can be a host, a port that can be one, nothing readable on
the way. Called by check.tree.

Whether anything answers there is for transport to find out, which reads endpoints by the same rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from capsule.documents.check.sources import Source
from capsule.documents.problems import Problem
from capsule.documents.types import Service

_LOC = ("spec", "agent", "endpoint")
_ENDPOINT = re.compile(r"(?P<scheme>https?|ssh)://(?:[^/@]*@)?(?P<authority>[^/]*)")
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[^\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]*))?")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")


def check_endpoint(source: Source[Service]) -> Iterator[Problem]:
    """Every problem of the endpoint; a path of a socket has none."""
    agent = source.document.spec.agent
    found = _ENDPOINT.match(agent.endpoint)
    if found is None:
        return
    place = _AUTHORITY.fullmatch(found["authority"])
    host = place and _host(place["literal"], place["name"])
    if not place or not host:
        expected = "a host name, an IPv4 address or an IPv6 address in brackets, and perhaps :port"
        yield source.problem(_LOC, "BadEndpoint", "there is no host that can be connected to", expected)
        return
    if place["port"] is not None and not 1 <= int(place["port"][:6] or 0) <= 65535:
        message = f"there is no port {place['port'][:20] or 'after the colon'}"
        yield source.problem(_LOC, "BadEndpoint", message, "a port between 1 and 65535")
    if found["scheme"] == "http" and not agent.insecure and not _stays_here(host):
        message = f"plain http to {host} crosses the network readable, and is refused"
        hint = "or say insecure: true beside it where the network is trusted"
        yield source.problem(_LOC, "InsecureEndpoint", message, "https", hint)


def _host(literal: str | None, name: str) -> str | None:
    if literal is not None:
        return literal if _address(literal) else None
    return name if _HOST.fullmatch(name) else None


def _stays_here(host: str) -> bool:
    address = _address(host)
    inner = getattr(address, "ipv4_mapped", None) or address
    return host.lower() == "localhost" or (inner is not None and inner.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
