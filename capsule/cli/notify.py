"""The verb of notifications: notify list, notify test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import Subverbs, json_option, now, opened
from capsule.commands.errors import FINDINGS

F = TypeVar("F", bound=Callable[..., Any])


def notify_dir_option(function: F) -> F:
    """`--notify-dir DIR`."""
    option: Callable[[F], F] = click.option(
        "--notify-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="CAPSULE_NOTIFY_DIR",
        metavar="DIR",
        help="Folder with a file of apprise addresses for each receiver (CAPSULE_NOTIFY_DIR).",
    )
    return option(function)


@click.group(cls=Subverbs)
def notify() -> None:
    """Who is told of what, by the routes in capsule.yaml."""


@notify.command("list")
@json_option
@click.pass_obj
def notify_list(options: Globals, as_json: bool) -> None:
    """What is true now, and whom the routes name for it.

    Whether somebody was told already is known only to the reconciler.
    """
    from capsule.commands.notify import listed
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        rows = listed(repository, now())
    screen = Screen()
    if as_json:
        screen.json([{**value_of(row.event), "to": list(row.to)} for row in rows])
        return
    if not rows:
        screen.line("Nothing to tell anybody.")
    for row in rows:
        screen.line(f"{row.event.kind}  {row.event.title}", bold=True)
        for line in row.event.lines:
            screen.line(f"  {line}")
        to = f"to {', '.join(row.to)}" if row.to else "no route is about it"
        screen.line(f"  {to}", style="green" if row.to else "yellow")


@notify.command("test")
@click.argument("name", metavar="NAME")
@notify_dir_option
@json_option
@click.pass_context
def notify_test(ctx: click.Context, name: str, notify_dir: Path | None, as_json: bool) -> None:
    """Send a test message to the receiver NAME.

    Exit code 1 when one of its addresses did not take it. Run it as the user the reconciler runs as.
    """
    from capsule.commands.errors import WrongUsage
    from capsule.commands.notify import send_test
    from capsule.view.model import as_json as value_of

    if notify_dir is None:
        raise WrongUsage(
            "WrongUsage", "no folder of receivers is named", "--notify-dir DIR, or CAPSULE_NOTIFY_DIR"
        )
    options: Globals = ctx.obj
    with opened(options) as repository:
        title = repository.state.settings.document.spec.title
    sent = send_test(notify_dir, name, title)
    screen = Screen()
    if as_json:
        screen.json([value_of(each) for each in sent])
    else:
        for each in sent:
            said = f"not taken: {each.message} [{each.reason}]" if each.reason else "taken"
            screen.line(f"{name}, address {each.number}: {said}", style="red" if each.reason else "green")
    if any(each.reason for each in sent):
        ctx.exit(FINDINGS)


COMMANDS = {"notify": notify}
