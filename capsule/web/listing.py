"""Filters and paging of the lists: what the query string asks for, bounded and checked.

Rules kept: pure; an unknown word in a query is an error that names the known ones; the work is one pass
over rows that are already in memory. Called by web.pages and web.api.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar, get_args

from werkzeug.datastructures import MultiDict

from capsule.documents.scalars import parse_duration, parse_instant
from capsule.documents.types import EffectiveStatus
from capsule.lifecycle import Phase
from capsule.view.model import RequestRow, ServiceRow, needs_attention
from capsule.web.present import sort_text

PAGE_SIZE = 200
MAX_TEXT = 200
MAX_LABELS = 8
STATUSES: tuple[str, ...] = get_args(EffectiveStatus)
PHASES: tuple[str, ...] = get_args(Phase)
OPEN_PHASES = ("Proposed", "Approved", "Held", "Running")
_LABEL = re.compile(r"^[a-z0-9-]{1,63}=[A-Za-z0-9._-]{1,63}$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")

T = TypeVar("T")


class BadQuery(ValueError):
    """A query string that cannot be answered; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `number` counts from 1."""

    items: Sequence[T]
    number: int
    pages: int
    total: int
    first: int


@dataclass(frozen=True, slots=True)
class ServiceQuery:
    """Which services to show: all of the conditions must hold."""

    text: str = ""
    status: str = ""
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: MultiDict[str, str]) -> ServiceQuery:
        """Read `q`, `status` and any number of `label`. Raises BadQuery."""
        labels = tuple(label for label in args.getlist("label") if label)
        if len(labels) > MAX_LABELS:
            raise BadQuery(f"at most {MAX_LABELS} labels at once")
        for label in labels:
            if not _LABEL.match(label):
                raise BadQuery('a label is written as name=value, such as "team=search"')
        return cls(_text(args), _one_of(args, "status", ("attention", *STATUSES)), labels)

    def chosen(self, rows: Sequence[ServiceRow]) -> list[ServiceRow]:
        """The rows that text and labels let through, those that need attention first, then by name."""
        words = sort_text(self.text).split()
        pairs = [label.split("=", 1) for label in self.labels]
        found = [
            row
            for row in rows
            if all(row.labels.get(name) == value for name, value in pairs)
            and all(part in _service_text(row) for part in words)
        ]
        return sorted(found, key=lambda row: (not needs_attention(row), row.name))

    def of_status(self, rows: Sequence[ServiceRow]) -> list[ServiceRow]:
        """Those of `rows` with the status asked for."""
        if self.status == "attention":
            return [row for row in rows if needs_attention(row)]
        return [row for row in rows if not self.status or row.status == self.status]


@dataclass(frozen=True, slots=True)
class RequestQuery:
    """Which requests to show."""

    text: str = ""
    phase: str = ""

    @classmethod
    def of(cls, args: MultiDict[str, str]) -> RequestQuery:
        """Read `q` and `phase`. Raises BadQuery."""
        return cls(_text(args), _one_of(args, "phase", ("open", *PHASES)))

    def chosen(self, rows: Sequence[RequestRow]) -> list[RequestRow]:
        """The rows that the text lets through."""
        words = sort_text(self.text).split()
        return [row for row in rows if all(part in _request_text(row) for part in words)]

    def of_phase(self, rows: Sequence[RequestRow]) -> list[RequestRow]:
        """Those of `rows` in the phase asked for."""
        if self.phase == "open":
            return [row for row in rows if row.phase in OPEN_PHASES]
        return [row for row in rows if not self.phase or row.phase == self.phase]


@dataclass(frozen=True, slots=True)
class TrailQuery:
    """Which part of the trail to show; `before` is a commit of the trail, the first to be shown."""

    service: str = ""
    action: str = ""
    since: datetime | None = None
    since_text: str = ""
    before: str | None = None

    @classmethod
    def of(cls, args: MultiDict[str, str], now: datetime) -> TrailQuery:
        """Read `service`, `action`, `since` (a day, an instant, or "30d") and `before`. Raises BadQuery."""
        before = args.get("before", "")
        if before and not _COMMIT.match(before):
            raise BadQuery("before: expected the id of a commit, 40 hexadecimal digits")
        text = args.get("since", "").strip()
        return cls(
            _bounded(args, "service"),
            _bounded(args, "action"),
            _since(text, now) if text else None,
            text,
            before or None,
        )


def count_statuses(rows: Sequence[ServiceRow]) -> Mapping[str, int]:
    """How many rows each choice of the status filter would show; the empty word is all of them."""
    counts = Counter[str](row.status for row in rows)
    counts["attention"] = sum(needs_attention(row) for row in rows)
    counts[""] = len(rows)
    return counts


def count_phases(rows: Sequence[RequestRow]) -> Mapping[str, int]:
    """How many rows each choice of the phase filter would show; the empty word is all of them."""
    counts = Counter[str](row.phase for row in rows)
    counts["open"] = sum(row.phase in OPEN_PHASES for row in rows)
    counts[""] = len(rows)
    return counts


def page_of(rows: Sequence[T], args: MultiDict[str, str], size: int = PAGE_SIZE) -> Page[T]:
    """The page that `page` asks for. Raises BadQuery."""
    text = args.get("page", "1")
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 6 or text.startswith("0"):
        raise BadQuery("page: expected a number from 1")
    pages = max(1, -(-len(rows) // size))
    number = min(int(text), pages)
    first = (number - 1) * size
    return Page(rows[first : first + size], number, pages, len(rows), first + 1 if rows else 0)


def _service_text(row: ServiceRow) -> str:
    pins = (str(value) for value in row.pins.values())
    labels = (f"{name}={value}" for name, value in row.labels.items())
    shown = (row.model or "", row.version or "", row.upstream or "", row.owner, row.status)
    return sort_text("\n".join((row.name, *shown, *pins, *labels)))


def _request_text(row: RequestRow) -> str:
    return sort_text("\n".join((row.name, row.action, row.requested_by, row.why, row.phase, *row.targets)))


def _text(args: MultiDict[str, str]) -> str:
    return _bounded(args, "q").strip()


def _bounded(args: MultiDict[str, str], name: str) -> str:
    text = args.get(name, "")
    if len(text) > MAX_TEXT:
        raise BadQuery(f"{name}: at most {MAX_TEXT} characters")
    return text


def _one_of(args: MultiDict[str, str], name: str, known: Sequence[str]) -> str:
    text = args.get(name, "")
    if text and text not in known:
        raise BadQuery(f"{name}: expected one of {', '.join(known)}")
    return text


def _since(text: str, now: datetime) -> datetime:
    try:
        return parse_instant(f"{text}T00:00:00Z" if len(text) == 10 else text)
    except ValueError:
        pass
    try:
        return now - parse_duration(text)
    except (ValueError, OverflowError):
        raise BadQuery('since: expected a day such as "2026-11-23" or an age such as "30d"') from None
