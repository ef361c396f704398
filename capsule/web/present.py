"""How values look on a page: relative times, words and icons of states, harmless text.

Rules kept: pure; every value that reaches a template passes `printable`, so a control or bidirectional
character in a document shows as its code and does nothing; a state is always a word, an icon and a
colour, never a colour alone. Called by the templates through `web.app`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from capsule.documents.problems import FORBIDDEN
from capsule.documents.scalars import instant_text
from capsule.view.model import ServiceRow
from capsule.view.uptime import KINDS, DayRow, HistoryRow, percent

TONES: Mapping[str, tuple[str, str]] = {
    "HEALTHY": ("good", "check"),
    "UNHEALTHY": ("bad", "alert"),
    "OFFLINE": ("bad", "cross"),
    "STALE": ("old", "clock"),
    "UNKNOWN": ("old", "question"),
    "DISABLING": ("quiet", "pause"),
    "DISABLED": ("quiet", "pause"),
    "Proposed": ("wait", "pen"),
    "Approved": ("wait", "check"),
    "Held": ("wait", "pause"),
    "Running": ("wait", "clock"),
    "Succeeded": ("good", "check"),
    "Failed": ("bad", "alert"),
    "Stopped": ("bad", "stop"),
    "Rejected": ("quiet", "cross"),
    "Expired": ("quiet", "clock"),
    "Cancelled": ("quiet", "cross"),
    "Unknown": ("old", "question"),
    "running": ("wait", "clock"),
    "succeeded": ("good", "check"),
    "failed": ("bad", "alert"),
    "refused": ("bad", "cross"),
    "unknown": ("old", "question"),
    "cancelled": ("quiet", "cross"),
}
_MINUTE = timedelta(minutes=1)
_UNITS = (
    (_MINUTE, "minute", 60),
    (timedelta(hours=1), "hour", 48),
    (timedelta(days=1), "day", 100),
    (timedelta(days=365.25) / 12, "month", 24),
)
"""Units of time, each used for fewer than so many of it; what is longer is told in years."""


def printable(value: Any) -> Any:
    """The value with every invisible or direction-changing character written as its code."""
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return FORBIDDEN.sub(_code, value)
    return value


def _code(match: re.Match[str]) -> str:
    return f"\\u{{{ord(match[0]):x}}}"


def minute(now: datetime) -> datetime:
    """The minute that relative times are told against: within it a page does not change by itself."""
    return now.replace(second=0, microsecond=0)


def relative(when: datetime, now: datetime) -> str:
    """Such as "3 hours ago" or "in 12 days"."""
    distance = abs(now - when)
    if distance < _MINUTE:
        return "just now"
    return f"{_length(distance)} ago" if when < now else f"in {_length(distance)}"


def lasting(when: datetime, now: datetime) -> str:
    """How long something has been so, such as "3 hours"."""
    return _length(now - when)


def _length(distance: timedelta) -> str:
    """A length in one unit, rounded to the nearest: what is due in 6 days and 23 hours is due in 7 days."""
    if distance < _MINUTE:
        return "less than a minute"
    for size, unit, below in _UNITS:
        count = round(distance / size)
        if count < below:
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{round(distance / timedelta(days=365.25))} years"


def exact(when: datetime) -> str:
    """The instant for people, in UTC, to the second."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_time(when: datetime) -> str:
    """The instant for the `datetime` attribute."""
    return instant_text(when)


def day(when: datetime) -> str:
    """The day of an instant in UTC, for the headings of the trail."""
    return when.astimezone(UTC).strftime("%A, %-d %B %Y")


def word(state: str) -> str:
    """A state as a word of a sentence: HEALTHY becomes Healthy."""
    return state[:1].upper() + state[1:].lower()


def tone(state: str) -> str:
    """Which of the six colours a state has."""
    return TONES.get(state, ("quiet", "dot"))[0]


def icon(state: str) -> str:
    """Which icon a state has."""
    return TONES.get(state, ("quiet", "dot"))[1]


def plain(value: str | int | bool | None) -> str:
    """A scalar as it is written in a document."""
    if value is None:
        return "not reported"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def web_address(text: str) -> str | None:
    """The text when it is an address that a person may safely follow, else None."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    return text if parts.scheme in ("http", "https") and parts.netloc and not FORBIDDEN.search(text) else None


def sentence(text: str) -> str:
    """The text with a stop at its end, so that another sentence may follow."""
    ended = text.rstrip()
    return ended if not ended or ended[-1] in ".!?…" else f"{ended}."


def lasted(length: timedelta) -> str:
    """How long something took, for people, such as "3 hours"."""
    return _length(length)


def lost_height(day: DayRow) -> int:
    """How much of a bar of 40 is lost on a day with trouble: what can be seen, however short it was."""
    return max(4, min(40, round((1 - (day.uptime or 0)) * 40)))


def day_in_words(day: DayRow) -> str:
    """One day of a history, such as "99.30 % up, down for 10 minutes"."""
    if day.kind == "down":
        return f"{percent(day.uptime)} up, down for {_length(day.down)}"
    return {"up": "up", "excluded": "disabled", "unknown": "not known"}[day.kind]


def days_in_words(row: HistoryRow) -> str:
    """What the picture of ninety days shows."""
    counts = Counter(day.kind for day in row.days)
    words = zip(KINDS, ("without trouble", "with trouble", "disabled", "not known"), strict=True)
    told = ", ".join(f"{counts[kind]} {text}" for kind, text in words if counts[kind])
    last = [day for day in reversed(row.days) if day.kind == "down"][:5]
    trouble = "; ".join(f"{day.day}: {day_in_words(day)}" for day in last)
    return f"The last {len(row.days)} days: {told}." + (f" Latest trouble: {trouble}." if trouble else "")


def condition_texts(row: ServiceRow) -> list[str]:
    """What the conditions of a service say, each once, and not what its status says already."""
    texts = dict.fromkeys(item.message or item.reason for item in row.conditions)
    return [text for text in texts if row.status == "HEALTHY" or text != row.message]


def sort_text(text: str) -> str:
    """Text as searched: case and compatibility forms do not matter."""
    return unicodedata.normalize("NFKC", text).casefold()


def bare(address: str) -> str:
    """An address without its scheme, for narrow columns."""
    return address.removeprefix("https://")


def breakable(text: str) -> Markup:
    """The text, harmless, with places where a narrow column may break it."""
    parts = re.split(r"(?<=[./_-])(?=[^./_-])", printable(text))
    return Markup("<wbr>").join(parts)
