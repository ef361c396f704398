"""The small values that documents are made of: names, durations, instants, digests, paths.

Each is a type with one text form. Called by the document types; the schemas are published from them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
WORD = r"^[A-Za-z][A-Za-z0-9]{0,62}$"
DURATION = r"^(0|[1-9][0-9]{0,9})(s|m|h|d)$"
MAX_DURATION = timedelta(days=36500)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
INSTANT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$"
LOCAL_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"


def parse_duration(text: Any) -> timedelta:
    """Read "90d", "24h", "5m" or "30s". Raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(DURATION, text) if isinstance(text, str) else None
    if not match:
        raise ValueError('expected a duration such as "30s", "5m", "24h" or "90d"')
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_DURATION.total_seconds():
        raise ValueError(f"expected a duration of at most {duration_text(MAX_DURATION)}")
    return timedelta(seconds=seconds)


def duration_text(value: timedelta) -> str:
    """The shortest text of a duration in whole seconds."""
    seconds = int(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def parse_instant(text: Any) -> datetime:
    """Read an RFC 3339 time in UTC such as "2026-11-30T00:00:00Z". Raises ValueError."""
    if isinstance(text, datetime):
        return text
    if not isinstance(text, str) or not re.fullmatch(INSTANT, text):
        raise ValueError('expected a time in UTC such as "2026-11-30T00:00:00Z"')
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError("no such day or time in the calendar") from None


def instant_text(value: datetime) -> str:
    """The RFC 3339 text of an instant, to the second unless it has a fraction."""
    text = value.astimezone(UTC).isoformat(timespec="microseconds" if value.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def parse_local(text: Any) -> datetime:
    """Read a local time such as "2026-12-20T00:00", whose zone stands beside it. Raises ValueError."""
    if isinstance(text, datetime):
        return text
    if not isinstance(text, str) or not re.fullmatch(LOCAL_TIME, text):
        raise ValueError('expected a local time such as "2026-12-20T00:00"')
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("no such day or time in the calendar") from None


def local_text(value: datetime) -> str:
    """The text of a local time, to the minute unless it has seconds."""
    return value.isoformat(timespec="seconds" if value.second else "minutes")


Name = Annotated[str, Field(pattern=NAME, description="ASCII DNS label (RFC 1123), at most 63 characters")]
Word = Annotated[
    str, Field(pattern=WORD, description="A word of ASCII letters and digits, such as rotateKey")
]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="SHA-256 of the exact bytes")]
CommitId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="Id of a git commit")]
BlobPath = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._/-]{1,200}$", description="Path of a file in the repository"),
]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
Line = Annotated[str, Field(max_length=500, description="One line of text for people")]
Text = Annotated[str, Field(max_length=4000)]
KeyText = Annotated[
    str,
    Field(pattern=r"^ssh-ed25519 [A-Za-z0-9+/]{68}( .{0,200})?$", description="OpenSSH Ed25519 public key"),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": DURATION, "description": 'Such as "30s", "5m", "24h", "90d"'}
    ),
]
Instant = Annotated[
    datetime,
    BeforeValidator(parse_instant),
    PlainSerializer(instant_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": INSTANT, "description": "RFC 3339 time in UTC"}),
]
LocalTime = Annotated[
    datetime,
    BeforeValidator(parse_local),
    PlainSerializer(local_text, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": LOCAL_TIME, "description": "Local time; the zone stands beside it"}
    ),
]
