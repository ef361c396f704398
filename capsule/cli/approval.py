"""The verb `approval`: the check `capsule/approval` of CI definitions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.forge_options import forge_token_option
from capsule.cli.screen import Screen
from capsule.cli.shared import json_option, now, opened
from capsule.commands.errors import FINDINGS, WrongUsage

if TYPE_CHECKING:
    from capsule.commands.approval import Verdict
    from capsule.commands.approval_posts import Posted
    from capsule.commands.forge_access import Connect


@click.command()
@click.argument("target", metavar="[BASE..HEAD]", required=False)
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown"]), default="text", show_default=True,
    help="Text, or a table for a job's summary.",
)  # fmt: skip
@click.option(
    "--pull", type=click.IntRange(1), metavar="NUMBER",
    help="Count the reviews of this pull request too. Without BASE..HEAD its head is fetched and judged.",
)  # fmt: skip
@click.option("--open", "every", is_flag=True, help="Judge every open pull request into main.")
@click.option(
    "--post", is_flag=True,
    help="With --pull or --open: keep one comment on the pull request, and set its check capsule/approval.",
)  # fmt: skip
@forge_token_option
@json_option
@click.pass_context
def approval(
    ctx: click.Context,
    target: str | None,
    form: str,
    pull: int | None,
    every: bool,
    post: bool,
    forge_token_file: Path | None,
    as_json: bool,
) -> None:
    """What approval a branch still needs before its merge counts.

    Exit code 0 when the policy would be satisfied by merging BASE..HEAD (main..HEAD), 1 when something is
    missing or refused. With --post the check says that, and the exit code is 0 unless it could not be set.
    Nothing is signed, merged or checked out.
    """
    from capsule.commands.approval import approval as judge
    from capsule.commands.forge_access import connector

    options: Globals = ctx.obj
    if every and (pull or target):
        raise click.UsageError("--open judges every pull request: give neither --pull nor BASE..HEAD")
    if post and (target or not (pull or every)):
        raise click.UsageError("--post is for --pull NUMBER or --open, without BASE..HEAD")
    connect = connector(forge_token_file)
    if (pull or every) and connect is None:
        raise WrongUsage("ForgeTokenMissing", "reviews need a token for the forge", "--forge-token-file FILE")
    if connect and not target and (pull or every):
        if as_json:
            ctx.exit(_pulls_as_json(options, pull, connect, post=post))
        ctx.exit(_of_pulls(options, pull, connect, form=form, post=post))
    with opened(options) as repository:
        found = judge(repository, target or "main..HEAD", now(), pull=pull, connect=connect)
    if as_json:
        Screen().json(_values(found))
    else:
        _print(found, form)
    if not all(each.satisfied for each in found):
        ctx.exit(FINDINGS)


def _of_pulls(options: Globals, number: int | None, connect: Connect, *, form: str, post: bool) -> int:
    """Judge and print pull requests as they come; the exit code that the worst of them asks for."""
    from capsule.commands.approval_posts import judge_pulls

    worst = 0
    with opened(options) as repository:
        for found in judge_pulls(repository, number, now(), connect, post=post):
            heading = f"Pull request {found.number}"
            click.echo(f"## {heading}\n" if form == "markdown" else f"{heading}:")
            worst = max(worst, _tell(found, form, post=post))
    return worst


def _pulls_as_json(options: Globals, number: int | None, connect: Connect, *, post: bool) -> int:
    """The same as one JSON list."""
    from capsule.commands.approval_posts import judge_pulls

    with opened(options) as repository:
        found = list(judge_pulls(repository, number, now(), connect, post=post))
    Screen().json(
        [
            {
                "number": each.number,
                "satisfied": each.satisfied,
                "verdicts": _values(each.verdicts),
                "problem": {"reason": each.problem.reason, "message": each.problem.message}
                if each.problem
                else None,
                "commentNotWritten": each.silent or None,
            }
            for each in found
        ]
    )
    return max((_exit_code(each, post=post) for each in found), default=0)


def _values(verdicts: tuple[Verdict, ...]) -> list[object]:
    from capsule.view.model import as_json

    return [as_json(each) for each in verdicts]


def _tell(found: Posted, form: str, *, post: bool) -> int:
    """Print what was found; the exit code that it asks for."""
    screen = Screen(err=True)
    if found.problem is None or found.verdicts:
        _print(found.verdicts, form)
    if found.silent:
        screen.line(f"The comment on {found.number} was not written: {found.silent}", style="yellow")
    if found.problem:
        screen.problem(found.problem.reason, found.problem.message, found.problem.hint)
    return _exit_code(found, post=post)


def _exit_code(found: Posted, *, post: bool) -> int:
    if found.problem:
        return found.problem.exit_code
    return 0 if post or found.satisfied else FINDINGS


def _print(found: tuple[Verdict, ...], form: str) -> None:
    from capsule.commands.approval import as_markdown, as_text

    click.echo(as_markdown(found) if form == "markdown" else as_text(found), nl=False)


COMMANDS = {"approval": approval}
