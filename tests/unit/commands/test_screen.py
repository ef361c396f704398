"""What reaches a terminal: nothing that could repaint it, whole ids, no colour where none is wanted."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.cli.screen import Column, Screen, clean


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_whatever_a_document_says_only_printing_characters_are_shown(text: str) -> None:
    assert all(
        unicodedata.category(char)[0] not in "CZ" or char in " \u00a0\u3000" or char.isspace()
        for char in clean(text)
    )
    assert not {"\x1b", "\r", "\n", "\x9b", "\u202e", "\u2028"} & set(clean(text))


def test_plain_text_is_left_alone() -> None:
    assert clean("Größe 漢字 ✓ £") == "Größe 漢字 ✓ £"
    assert clean("\x1b[2J\u202e\U000e0041") == "\\x1b[2J\\u202e\\U000e0041"


def test_a_table_has_whole_rows_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(
        [Column("NAME"), Column("EMPTY"), Column("WHY", whole=False)],
        [("a" * 60, "", "word " * 100), ("b\x1b[31m", "", "x")],
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "WHY"]
    assert lines[1].startswith("a" * 60)
    assert "\\x1b[31m" in lines[2]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(("no_colour", "coloured"), [(None, True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, no_colour: str | None, coloured: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", no_colour)
    screen = Screen()
    screen.line("well", style="green")
    screen.table(
        [Column("REQUEST"), Column("PHASE"), Column("WHY", whole=False)],
        [("20261123-rotate-key-openai-chat-k3f9", "Succeeded", "because it was asked for and agreed to")],
    )
    assert ("\x1b[" in terminal.getvalue()) is coloured
    assert "20261123-rotate-key-openai-chat-k3f9" in terminal.getvalue()


def test_json_is_ascii_so_that_no_terminal_is_painted(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().json({"name": "\x9b\u202eü"})
    assert capsys.readouterr().out == '{\n  "name": "\\u009b\\u202e\\u00fc"\n}\n'


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_table_too_wide_for_the_terminal_becomes_records_and_cuts_no_name(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    name, other = "a-service-with-a-very-long-name-indeed", "20261123-rotate-key-openai-chat-k3f9"
    wide = [Column("SERVICE"), Column("REQUEST"), Column("EMPTY"), Column("WHY", whole=False)]
    Screen().table(wide, [(name, other, "", "because it was asked for and agreed to by two people")])
    text = terminal.getvalue()
    assert name in text
    assert other in text
    assert ("request  " in text) is (columns < 92)
    assert "empty" not in text.lower()


@pytest.mark.parametrize(("columns", "left_out"), [(59, None), (70, ["D", "C"]), (90, ["C"]), (120, [])])
def test_columns_that_can_be_spared_make_room_and_are_named(
    monkeypatch: pytest.MonkeyPatch, columns: int, left_out: list[str] | None
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = [Column("NAME"), Column("D", spare=2), Column("C", spare=1), Column("WHY", whole=False)]
    row = ("n" * 40, "d" * 20, "c" * 20, "because it was asked for and agreed to by two people")
    Screen().table(shown, [row, row])
    lines = terminal.getvalue().splitlines()
    if left_out is None:  # too narrow for any table: records, a blank line between them
        assert lines[0] == "n" * 40
        assert lines.count("") == 1
        return
    assert lines[0].split() == [title for title in ("NAME", "D", "C", "WHY") if title not in left_out]
    assert all(len(line) <= columns for line in lines[:-1])
    told = [line for line in lines if line.startswith("No room here for ")]
    assert told == (
        [f"No room here for {', '.join(left_out)}: make the window wider, or use --json."] if left_out else []
    )


def test_a_table_that_fits_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    Screen().table([Column("NAME"), Column("WHY", whole=False)], [("short", "word " * 40)])
    lines = terminal.getvalue().splitlines()
    assert lines[0].split() == ["NAME", "WHY"]
    assert all(len(line) <= 60 for line in lines)
