"""The verb `check`; `audit` is in capsule.cli.audit, `policy` in capsule.cli.policies."""

from __future__ import annotations

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import now
from capsule.commands.errors import FINDINGS


@click.command()
@click.argument("target", required=False, metavar="[PATH|REV|BASE..HEAD]")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_context
def check(ctx: click.Context, target: str | None, form: str, as_json: bool) -> None:
    """Every problem of the documents, with file, line and column.

    Without an argument, the files of the work tree as they are. BASE..HEAD tells what that range brings in.
    Exit code 1 when anything is wrong; warnings and hints alone are fine.
    """
    from capsule.commands.check import check as run_check
    from capsule.documents import formats

    options: Globals = ctx.obj
    done = run_check(options.directory, target, options.root, now())
    write = {"text": formats.as_text, "json": formats.as_json, "github": formats.as_github}
    click.echo(write["json" if as_json else form](done.problems), nl=False)
    if done.uncommitted and not done.failed:
        first, more = done.uncommitted[0], len(done.uncommitted) - 1
        others = f" (and {more} more)" if more else ""
        Screen(err=True).line(
            f"Not committed yet: {first}{others}. On a branch: git add, git commit, then capsule propose.",
            dim=True,
        )
    if done.failed:
        ctx.exit(FINDINGS)


COMMANDS = {"check": check}
