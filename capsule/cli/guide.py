"""`capsule` without a verb: where one stands and what to type next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from capsule.cli.screen import Screen
from capsule.cli.shared import now

if TYPE_CHECKING:
    from capsule.cli.app import Globals


def show_guide(options: Globals) -> None:
    """Print the guide for the directory that the options name."""
    from capsule.commands.guide import guide

    key = os.environ.get("CAPSULE_SIGNING_KEY")
    offline = os.environ.get("CAPSULE_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    found = guide(options.directory, options.root, Path(key) if key else None, now(), offline=offline)
    screen = Screen()
    for at, line in enumerate(found.lines):
        screen.line(line, bold=at == 0)
    screen.line()
    width = max(len(step.command) for step in found.steps)
    for step in found.steps:
        screen.line(f"  {step.command.ljust(width)}  {step.purpose}")
