"""The demo's story on a terminal: chapters, commands with their output, checks. Readable without colour."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from capsule.cli.screen import Screen


class Narration:
    """Prints the story as it happens."""

    def __init__(self) -> None:
        self._screen = Screen()
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """A new part begins."""
        self._chapters += 1
        heading = f"{self._chapters}. {title}"
        self._screen.line(
            f"\n{heading}\n{'─' * len(heading)}" if self._screen.unicode else f"\n{heading}", bold=True
        )
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A sentence or two."""
        self._screen.line(text)
        sys.stdout.flush()

    def command(self, text: str, output: str) -> None:
        """A command that was run, and what it printed."""
        self._screen.line(f"\n  $ {text}", style="cyan")
        for line in output.split("\n"):
            self._screen.line(f"  | {line}", dim=True)
        sys.stdout.flush()

    def check(self, text: str, held: bool) -> None:
        """Something that was checked, and whether it held."""
        mark = ("✓" if held else "✗") if self._screen.unicode else ("ok" if held else "FAILED")
        self._screen.line(f"  {mark} {text}", style="green" if held else "red", bold=not held)
        sys.stdout.flush()

    def summary(self, facts: Mapping[str, str], passed: int, failed: int) -> None:
        """How it ended."""
        total = passed + failed
        if failed:
            self._screen.line(f"\n{failed} of {total} checks did not hold.", style="red", bold=True)
        else:
            self._screen.line(f"\nAll {total} checks held.", style="green", bold=True)
        self._screen.facts(facts.items())
        sys.stdout.flush()
