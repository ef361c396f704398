"""What stands before every page: method, Host header, and the headers of every answer.

Rules kept: GET and HEAD alone; a name that was not configured is refused, which stops DNS rebinding
(a page elsewhere that resolves its own name to this address); no inline script or style is ever allowed,
so markup that slipped through does nothing. Called by web.app.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
METHODS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Hosts:
    """The names under which the dashboard answers; loopback names always are among them."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(LOOPBACK)
        self._any_address = False
        for name in names:
            self.allow(name)

    def allow(self, name: str) -> None:
        """Answer under `name` too. The address of all interfaces stands for every literal address:
        those cannot be rebound."""
        plain = name.strip("[]").lower().rstrip(".")
        if plain in ("0.0.0.0", "::", ""):  # noqa: S104 (compared with, not bound to)
            self._any_address = True
        else:
            self._names.add(plain)

    def allows(self, header: str | None) -> bool:
        """Whether a request with this Host header may be answered."""
        name = host_of(header or "")
        return bool(name) and (name in self._names or (self._any_address and _is_address(name)))


def host_of(header: str) -> str:
    """The host of a Host header, without its port, in lower case; empty when it is not one."""
    if header.startswith("["):
        name, bracket, port = header[1:].partition("]")
        port = port.removeprefix(":") if bracket else "x"
    else:
        name, _, port = header.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
