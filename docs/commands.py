"""Writes docs/reference/commands.md from the commands themselves: what `--help` says, for every command.

Run by `make docs`; `--check` writes nothing and exits 1 when the file is not what the commands say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from capsule.cli import app

FILE = Path(__file__).parent / "reference" / "commands.md"
WIDTH = 100
_HEAD = """# Commands

<!-- Written by docs/commands.py (`make docs`). Change the code, not this file. -->

What `capsule COMMAND --help` says, for every command. Exit codes are 0 fine, 1 findings, 2 wrong usage,
3 something in the set-up, 4 refused by policy; see [settings and exit codes](settings.md). The command on the
host of a service, `capsule-agent`, is described in [write an adapter](../how-to/write-an-adapter.md).
"""


def text() -> str:
    """The whole file."""
    parts = [_HEAD, *(_section(path, context) for path, context in commands())]
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command of the tree that is not hidden, with its full name."""
    yield from _walk("capsule", click.Context(app, info_name="capsule", **_look(app)))


def _walk(path: str, context: click.Context) -> Iterator[tuple[str, click.Context]]:
    yield path, context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _walk(
                    f"{path} {name}", click.Context(child, info_name=name, parent=context, **_look(child))
                )


def _look(command: click.Command) -> dict[str, Any]:
    """One width for every terminal, so that the file does not depend on where it is made."""
    settings = {**command.context_settings}
    return {**settings, "terminal_width": WIDTH, "max_content_width": WIDTH}


def _section(path: str, context: click.Context) -> str:
    depth = "##" if path.count(" ") < 2 else "###"
    lines = (line.rstrip() for line in context.get_help().splitlines())
    return "\n".join([f"{depth} {path}", "", "```text", *lines, "```", ""])


def main(arguments: Sequence[str]) -> int:
    """Write the file, or with `--check` compare it; the exit code."""
    wanted = text()
    if "--check" in arguments:
        if FILE.is_file() and FILE.read_text(encoding="utf-8") == wanted:
            return 0
        sys.stderr.write(f"{FILE.name} is not what the commands say; run `make docs`\n")
        return 1
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
