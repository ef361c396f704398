"""Where a remote is: the forms of a git URL, and how one is shown without its secrets.

Rules kept: what is shown never has a password, token or query in it. Forms: git-clone(1), "GIT URLS".
Called by store.git_remote and its clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from capsule.store.api import StoreError

Scheme = Literal["path", "git", "http", "https", "ssh"]

_SCHEMES: dict[str, Scheme] = {
    "file": "path",
    "git": "git",
    "http": "http",
    "https": "https",
    "ssh": "ssh",
    "git+ssh": "ssh",
    "ssh+git": "ssh",
}
_SCP = re.compile(r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>\[[0-9a-fA-F:.%]+\]|[^/:@\s\[\]]+):(?P<path>[^\0]+)\Z")


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A parsed remote. `text` is what git would be given; `shown` is safe in errors and logs."""

    scheme: Scheme
    path: str
    shown: str
    host: str = ""
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, beside: Path) -> RemoteUrl:
        """Parse a URL or a path; a relative path is meant from `beside`. Raises StoreError."""
        if "://" in text:
            return cls._of_url(text)
        scp = _SCP.match(text)
        if scp and not (beside / text).exists():
            user, host, path = scp["user"], scp["host"].strip("[]"), scp["path"]
            _check_host(host)
            return cls("ssh", path, text, host, None, user, None, text)
        path = str((beside / Path(text).expanduser()).resolve())
        return cls("path", path, path, text=path)

    @classmethod
    def _of_url(cls, text: str) -> RemoteUrl:
        shown = re.sub(r"//[^/]*@", "//", text).split("?", 1)[0].split("#", 1)[0]
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise StoreError(f"the remote's address {shown!r} cannot be read") from None
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            known = ", ".join(f"{name}://" for name in ("ssh", "https", "http", "git", "file"))
            raise StoreError(f"the remote {shown!r} is not one of {known} or a path")
        if scheme == "path":
            return cls("path", unquote(parts.path), shown, text=text)
        host = parts.hostname or ""
        _check_host(host)
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        path = unquote(parts.path)
        if scheme == "ssh":
            path = path[1:] if path.startswith("/~") else path
            shown = text if password is None else shown
        return cls(scheme, path, shown, host, port, user, password, text)


def _check_host(host: str) -> None:
    if not host or host.startswith("-"):
        raise StoreError(f"the remote's host {host!r} is empty or begins with a dash")
