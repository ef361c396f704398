"""The addresses of receivers: files that only their reader may open, one apprise address a line.

Rules kept: secrets come by reference, and stay here: no error quotes a line. Only kinds of addresses that
send a message over the network are taken: none that runs a program, reaches this desktop, or reads a file.
Called by notify.notifier, and by commands for doctor and `notify test`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote_plus

from capsule.notify.reasons import Undeliverable

MOST_BYTES = 16 * 1024
MOST_ADDRESSES = 8
SCHEMES = frozenset(
    {
        *("json", "jsons", "form", "forms", "xml", "xmls", "mailto", "mailtos"),
        *("slack", "discord", "gchat", "mmost", "mmosts", "rocket", "rockets", "webex", "wxteams", "zulip"),
        *("workflow", "workflows", "matrix", "matrixs", "tgram"),
        *("ntfy", "ntfys", "gotify", "gotifys", "pover"),
        *("ilert", "incidentio", "opsgenie", "pagerduty", "signl4", "splunk", "squadcast", "victorops"),
    }
)
"""The kinds of apprise addresses that are taken; docs/how-to/get-notified.md lists them."""

_REFUSED_PARAMETERS = frozenset(
    {"attach", "filename", "pgp", "pgppub", "pgpprv", "redirect", "template", "wkd"}
)
"""What would have apprise read a file, fetch something, or follow the receiver to another place."""


def addresses(folder: Path, name: str) -> tuple[str, ...]:
    """The addresses of the receiver `name`: the lines of `folder`/`name` but for blank ones and `#` comments.

    Raises Undeliverable: the file is missing, open to others, unreadable, or holds what is refused.
    """
    lines = [line.strip() for line in _text(folder / name, name).splitlines()]
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not 0 < len(found) <= MOST_ADDRESSES:
        raise Undeliverable(
            "ReceiverUnreadable",
            f"the file of receiver {name} holds {len(found)} addresses; expected 1 to {MOST_ADDRESSES}",
        )
    for number, line in enumerate(found, 1):
        _check(name, number, line)
    return found


def _text(path: Path, name: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Undeliverable("ReceiverUnreadable", f"{path} of receiver {name} is not a plain file")
            if found.st_mode & 0o077:
                raise Undeliverable(
                    "ReceiverOpen", f"others can read {path} of receiver {name}: chmod 600 {path}"
                )
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise Undeliverable("ReceiverMissing", f"receiver {name} has no file {path}") from None
    except OSError as error:
        raise Undeliverable(
            "ReceiverUnreadable", f"cannot read {path} of receiver {name}: {error.strerror}"
        ) from None
    if len(data) > MOST_BYTES:
        raise Undeliverable(
            "ReceiverUnreadable", f"{path} of receiver {name} is larger than {MOST_BYTES} bytes"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Undeliverable("ReceiverUnreadable", f"{path} of receiver {name} is not UTF-8 text") from None


def _check(name: str, number: int, address: str) -> None:
    scheme, separator, rest = address.partition("://")
    which = f"address {number} of receiver {name}"
    if not separator or scheme.lower() not in SCHEMES:
        raise Undeliverable(
            "ReceiverRefused",
            f"{which} is not of a kind that is taken; taken are {', '.join(sorted(SCHEMES))}",
        )
    for pair in rest.partition("?")[2].replace(";", "&").split("&"):
        key = unquote_plus(pair.partition("=")[0]).strip().lower()
        if key in _REFUSED_PARAMETERS:
            raise Undeliverable("ReceiverRefused", f"{which} has the parameter {key}, which is not taken")
