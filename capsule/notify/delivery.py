"""One message to one address, by apprise.

Rules kept: apprise is imported when the first message leaves, for it is slow to import; it follows no
redirect, reads and writes no file, and nothing it logs (addresses among it) goes anywhere. Called by
notify.mailbox, and by commands for `notify test`.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass

from capsule.notify.reasons import Undeliverable

_HTTP_STATUS = re.compile(r"error[=: ]+([1-5][0-9]{2})\b")
_import = threading.Lock()


@dataclass(frozen=True, slots=True)
class Message:
    """What a receiver is told. `urgent` is shown by receivers that know a difference."""

    title: str
    body: str
    urgent: bool


def deliver(address: str, message: Message) -> None:
    """Give `message` to the receiver at `address`; blocks for a few seconds at most (apprise's
    own limits to connect and between two pieces of an answer), unless the receiver dribbles on purpose.

    Raises Undeliverable, which says nothing of the address.
    """
    try:
        why = _sent(address, message)
    except Undeliverable:
        raise
    except Exception as error:  # a plugin's defect; its text may hold the address
        raise Undeliverable("ReceiverFailed", f"sending failed with {type(error).__name__}") from None
    if why:
        raise Undeliverable("ReceiverFailed", why)


def _sent(address: str, message: Message) -> str:
    """Why the message was not taken; empty when it was."""
    with _import:
        import apprise

        _silence()
    asset = apprise.AppriseAsset(
        app_id="Capsule",
        app_desc="Capsule",
        app_url="",
        async_mode=False,
        http_redirects=False,
        secure_logging=True,
        pgp_autogen=False,
        pem_autogen=False,
        interpret_escapes=False,
        interpret_emojis=False,
        allow_templates=False,
        storage_mode="memory",
        service_timeout=0,  # a limit would make threads that hold up the end of the process
    )
    receiver = apprise.Apprise.instantiate(address, asset=asset)
    if receiver is None:
        raise Undeliverable("ReceiverRefused", "apprise cannot read the address")
    sender = apprise.Apprise(asset=asset)
    sender.add(receiver)
    result = sender.notify(
        title=message.title,
        body=message.body,
        body_format=apprise.NotifyFormat.TEXT,
        notify_type=apprise.NotifyType.WARNING if message.urgent else apprise.NotifyType.INFO,
    )
    if result:
        return ""
    codes = [found[1] for entry in result.logs() if (found := _HTTP_STATUS.search(entry.message))]
    if codes:
        return f"the receiver answered with HTTP status {codes[-1]}"
    return "the receiver could not be reached, or did not take the message in time"


def _silence() -> None:
    """Keep what apprise and its connections say of addresses (tokens, paths) out of every log."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not any(isinstance(each, _StatusAlone) for each in logger.filters):
        logger.addFilter(_StatusAlone())
    connections = logging.getLogger("urllib3")
    if connections.getEffectiveLevel() < logging.INFO:
        connections.setLevel(logging.INFO)  # at debug it tells the path of each address


class _StatusAlone(logging.Filter):
    """Leaves nothing of a record but the HTTP status that a receiver answered with."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = _HTTP_STATUS.search(record.getMessage())
        record.msg, record.args, record.exc_info = found[0] if found else "", (), None
        return found is not None
