"""Secrets in files: the token for a forge's API beside the address it is for, and the secret of webhooks.

Rules kept: a file is read anew at each call, so that it may be exchanged; others may not read it; no error
holds what is in it. A token leaves for the very address that its owner wrote beside it, and for nothing else,
whatever the settings of the repository say by now. Called by commands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from capsule.documents.types import ForgeSettings
from capsule.forge.api import ForgeRefused

MOST_BYTES = 4096
_PORTS = {"https": 443, "http": 80}
_FORM = "TOKEN ADDRESS on one line, such as: github_pat_… https://github.com/acme/state"


def token_in(file: Path, settings: ForgeSettings) -> Callable[[], str]:
    """What reads the token for the forge of `settings` from `file`.

    The file holds the token, a blank, and the address that the token is for: a server, or a repository there.
    It raises ForgeRefused: ForgeTokenUnreadable, or ForgeServerChanged where `settings` name a place that is
    neither that address nor below it.
    """
    place = f"{settings.server.rstrip('/')}/{settings.repository}"

    def read() -> str:
        words = _text(file).split()
        if len(words) != 2:
            raise ForgeRefused("ForgeTokenUnreadable", f"the token file {file} does not hold {_FORM}")
        token, address = words
        if not _is_below(_parts(place), _parts(address)):
            raise ForgeRefused(
                "ForgeServerChanged",
                f"the settings name {place}, and the token in {file} is for another address: it is not sent. "
                f"If you mean that forge, write its address behind a token for it",
            )
        return token

    return read


def secret_in(file: Path) -> Callable[[], str]:
    """What reads the one word in `file`, such as the secret of webhooks. It raises ForgeRefused."""

    def read() -> str:
        words = _text(file).split()
        if len(words) != 1:
            raise ForgeRefused("ForgeTokenUnreadable", f"the file {file} does not hold one word")
        return words[0]

    return read


def _text(file: Path) -> str:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o007:
                raise ForgeRefused("ForgeTokenUnreadable", f"others can read {file}: chmod 600 {file}")
            text = stream.read(MOST_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise ForgeRefused("ForgeTokenUnreadable", f"the file {file} cannot be read") from None
    if len(text) > MOST_BYTES or not text.isprintable():
        raise ForgeRefused("ForgeTokenUnreadable", f"the file {file} holds more than one line of text")
    return text


def _parts(address: str) -> tuple[str, ...] | None:
    """Scheme, host, port and the segments of the path, read by the parser that calls are made with; None for
    what could be read in two ways."""
    try:
        url = parse_url(address)
    except LocationParseError:
        return None
    if url.auth or url.query or url.fragment or not url.host or url.scheme not in _PORTS:
        return None
    path = url.path or ""
    if "%" in path:
        return None
    segments = tuple(part for part in path.split("/") if part)
    return (url.scheme, url.host, str(url.port or _PORTS[url.scheme]), *segments)


def _is_below(place: tuple[str, ...] | None, allowed: tuple[str, ...] | None) -> bool:
    return place is not None and allowed is not None and place[: len(allowed)] == allowed
