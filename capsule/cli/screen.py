"""What people see: lines, tables and problems; and JSON for programs.

Rules kept: every value is cleaned of control characters before it is shown (a document must not be able to
repaint a terminal); no colour unless on a terminal, none under NO_COLOR; ids are never cut or broken over
lines: where a table is too wide for the terminal its texts wrap, then columns that can be spared are left out
and named, and as a last resort, or below 60 columns, it becomes a list of records; what is not for a terminal
has no width limit, so that `grep` and `awk` see whole rows. Called by every verb.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

_GOOD = "green"
_BAD = "red"
_WAIT = "yellow"
_STYLES = {
    **dict.fromkeys(("HEALTHY", "Succeeded", "succeeded", "UP", "ok", "approve"), _GOOD),
    **dict.fromkeys(
        (
            "OFFLINE",
            "UNHEALTHY",
            "DOWN",
            "Failed",
            "failed",
            "Stopped",
            "Rejected",
            "refused",
            "reject",
            "error",
        ),
        _BAD,
    ),
    **dict.fromkeys(
        ("STALE", "UNKNOWN", "Unknown", "unknown", "Held", "Proposed", "DEGRADED", "Running", "warning"),
        _WAIT,
    ),
}
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_UNLIMITED = 100_000
_LEAST_FOLDED = 16
_LEAST_WIDTH = 60
_GAP = 2


def clean(text: object) -> str:
    """`text` with every character that does not simply print written out, such as \\x1b."""
    return "".join(_visible(char) for char in str(text))


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _least_width(column: Column, cells: Iterable[object]) -> int:
    """How many characters a column needs at least: all of its longest cell, or a little of a text."""
    from rich.cells import cell_len

    widest = max([cell_len(column.title), *(cell_len(clean(cell)) for cell in cells)])
    return widest if column.whole else min(widest, _LEAST_FOLDED)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `whole` columns (names, ids) are never broken over lines; `spare` says which is
    left out first where a terminal is too narrow, 1 before 2, and 0 that it never is."""

    title: str
    whole: bool = True
    spare: int = 0


class Screen:
    """One output stream, with the words to write to it."""

    def __init__(self, *, err: bool = False) -> None:
        self._err = err
        self._stream = sys.stderr if err else sys.stdout
        self.colour = self._stream.isatty() and not os.environ.get("NO_COLOR")
        self.unicode = (self._stream.encoding or "").lower().replace("-", "") == "utf8"

    @staticmethod
    def style_of(word: str) -> str:
        """The style of a state's word; none for any other text."""
        return _STYLES.get(word, "")

    def line(
        self, text: str = "", *, style: str | None = None, bold: bool = False, dim: bool = False
    ) -> None:
        """One or more lines; the text's own line breaks are kept, other controls are written out."""
        for part in text.split("\n"):
            shown = clean(part)
            if self.colour and shown:
                shown = click.style(shown, fg=style, bold=bold or None, dim=dim or None)
            click.echo(shown, err=self._err, color=self.colour)

    def heading(self, text: str) -> None:
        """A line that begins a part."""
        self.line(text, bold=True)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one pair a line, values aligned; empty values are left out."""
        shown = [(name, str(value)) for name, value in pairs if value not in ("", None)]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            first, *rest = value.split("\n")
            self.line(f"  {name.ljust(width)}  {first}", style=_STYLES.get(first))
            for part in rest:
                self.line(f"  {' ' * width}  {part}")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
        """A table without lines; columns that are empty in every row are left out."""
        from rich.table import Table
        from rich.text import Text

        kept = full = [at for at in range(len(columns)) if any(str(row[at]) for row in rows)]
        if self._stream.isatty():
            kept = self._fitting(columns, rows, full)
            if not kept:
                self._records(columns, rows)
                return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for at in kept:
            table.add_column(
                columns[at].title,
                no_wrap=columns[at].whole or not self._stream.isatty(),
                overflow="ignore" if columns[at].whole else "fold",
            )
        for row in rows:
            cells = [clean(row[at]) for at in kept]
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
        console = self._console()
        with console.capture() as capture:
            console.print(table, soft_wrap=not self._stream.isatty())
        for line in capture.get().splitlines():
            click.echo(line.rstrip(), err=self._err, color=self.colour)
        spared = [columns[at].title for at in full if at not in kept]
        if spared:
            self.line(
                f"No room here for {', '.join(spared)}: make the window wider, or use --json.", dim=True
            )

    def _fitting(
        self, columns: Sequence[Column], rows: Sequence[Sequence[object]], kept: list[int]
    ) -> list[int]:
        """Those of the columns `kept` for which the terminal has room; none where a table makes no sense."""
        widths = {at: _least_width(columns[at], [row[at] for row in rows]) for at in kept}
        spared = iter(sorted((at for at in kept if columns[at].spare), key=lambda at: columns[at].spare))
        left = list(kept)
        while sum(widths[at] + _GAP for at in left) - _GAP > self.width:
            at = next(spared, None)
            if at is None or self.width < _LEAST_WIDTH:
                return []
            left.remove(at)
        return left

    def _records(self, columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
        """Each row as a name with facts below it, where the terminal is too narrow for a table."""
        for at, row in enumerate(rows):
            if at:
                self.line()
            self.line(clean(row[0]), bold=True)
            self.facts(
                (column.title.lower(), value) for column, value in list(zip(columns, row, strict=True))[1:]
            )

    @property
    def width(self) -> int:
        """How many characters a line of the terminal has."""
        return self._console().width

    def json(self, value: Any) -> None:
        """A value of the view, as JSON."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=True), err=self._err)

    def problem(self, reason: str, message: str, hint: str = "") -> None:
        """What went wrong, its reason code, and what next."""
        self.line(f"capsule: {message} [{reason}]", style=_BAD)
        if hint:
            self.line(hint)

    def _console(self) -> Console:
        from rich.console import Console

        on_terminal = self._stream.isatty()
        return Console(
            file=self._stream,
            no_color=not self.colour,
            force_terminal=on_terminal and self.colour,
            width=None if on_terminal else _UNLIMITED,
            highlight=False,
            markup=False,
            emoji=False,
        )
