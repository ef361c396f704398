"""The verbs of a server without a forge: protect, and the hook that it installs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import Subverbs, now
from capsule.commands.errors import FINDINGS, CommandError

if TYPE_CHECKING:
    from capsule.trust.pushes import Push


@click.command()
@click.argument(
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="[DIR]",
    required=False,
)
@click.option(
    "--root", metavar="ID", help="Id of the first commit of main, now or to come; else the one pinned there."
)
@click.pass_obj
def protect(options: Globals, directory: Path | None, root: str | None) -> None:
    """Make the bare repository DIR refuse pushes that the policy does not authorise.

    Installs a pre-receive hook that calls this installation, and git's own protections against deletion,
    rewinding, malformed objects and loss of power. Again after Capsule was moved or the root was wrong.
    """
    from capsule.commands.protect import protect as install

    done = install(directory or options.directory, root or options.root)
    screen = Screen()
    screen.line(f"Protected {done.directory}", bold=True)
    screen.facts([("root", done.root), ("hook", done.hook)])
    if not done.begun:
        screen.line("It has no main yet. Push one that begins with this root: git push origin main")


@click.group(cls=Subverbs)
def hook() -> None:
    """What git asks on a server before it takes a push.

    Not for people: `capsule protect` installs it. Exit code 1 refuses the push.
    """


@hook.command("pre-receive")
@click.pass_obj
def pre_receive(options: Globals) -> None:
    """Judge a whole push, from the lines that git writes: OLD NEW REF."""
    from capsule.commands.hook import read_pushes

    _judge(options, lambda: read_pushes(sys.stdin), "Nothing of this push was taken.")


@hook.command("update")
@click.argument("ref")
@click.argument("old")
@click.argument("new")
@click.pass_obj
def update(options: Globals, ref: str, old: str, new: str) -> None:
    """Judge one ref of a push. Prefer pre-receive, which takes all of a push or nothing."""
    from capsule.commands.hook import push_of

    _judge(options, lambda: (push_of(ref, old, new),), f"{ref} was left alone.")


def _judge(options: Globals, pushes: Callable[[], tuple[Push, ...]], outcome: str) -> None:
    """Tell the pusher what is refused; whatever goes wrong here refuses too, and says so."""
    screen = Screen(err=True)
    try:
        from capsule.commands.hook import object_folders, refusals

        refused = refusals(options.directory, pushes(), object_folders(os.environ), now())
    except CommandError as error:
        screen.problem(error.reason, error.message, error.hint)
    except Exception as error:  # a hook that cannot judge refuses
        screen.problem(
            "HookFailed",
            f"the server could not judge this push: {type(error).__name__}",
            "Push again; if it stays so, tell whoever runs the server. There: capsule doctor",
        )
    else:
        for each in refused:
            screen.problem(each.reason, f"{each.ref}: {each.message}", each.advice)
        if not refused:
            return
    screen.line(outcome)
    raise click.exceptions.Exit(FINDINGS)


COMMANDS = {"protect": protect, "hook": hook}
