"""Log lines: one record, one line (and indented lines for a traceback), for people or as JSON.

Rules kept: every line says which request, service and revision it is about, where that is known; text from
peers can neither begin a line nor paint a terminal; what looks like a credential is never written. Set up
by the command line.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import TextIO

from capsule.documents.problems import shown
from capsule.documents.secrets import redacted
from capsule.reconciler.context import known

FORMATS = ("human", "json")
LEVELS = ("debug", "info", "warning", "error")
QUIET = ("urllib3", "waitress", "werkzeug", "paramiko", "dulwich")
"""Libraries that say much of what they do; they are heard from `warning` up."""

_HIDDEN = "[hidden]"
_CREDENTIALS = (
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # https://user:secret@host; ssh://user@host loses its user
    re.compile(r"(?i)(?<=authorization: )\S+( \S+)?"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)


def set_up_logs(stream: TextIO, form: str = "human", level: str = "info") -> None:
    """Write the log of this process to `stream`, in one of FORMATS, from one of LEVELS up."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else HumanLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def without_credentials(text: str) -> str:
    """`text` with everything hidden that looks like a credential: a last line of defence."""
    for pattern in _CREDENTIALS:
        text = pattern.sub(_HIDDEN, text)
    return redacted(text)


class HumanLines(logging.Formatter):
    """`time level text (request …, service …, revision …)`; a traceback follows behind bars."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        about = known()
        message = shown(without_credentials(record.getMessage()))
        facts = [f"{name} {shown(_short(name, value))}" for name, value in about.items()]
        line = f"{_at(record)} {record.levelname.lower():7} {message}" + (
            f" ({', '.join(facts)})" if facts else ""
        )
        return "\n".join([line, *(f"  | {shown(each)}" for each in self._traceback(record))])

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return without_credentials(self.formatException(record.exc_info)).splitlines()


class JsonLines(logging.Formatter):
    """One JSON object a line: at, level, logger, message, request, service, revision, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        entry = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_credentials(record.getMessage()),
            **known(),
        }
        if record.exc_info:
            entry["exception"] = without_credentials(self.formatException(record.exc_info))
        return json.dumps(entry)


def _at(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(name: str, value: str) -> str:
    return value[:12] if name == "revision" else value
