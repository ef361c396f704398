"""The verb `approval`: the check `capsule/approval` of CI definitions."""

from __future__ import annotations

from pathlib import Path

import click

from capsule.cli.app import Globals
from capsule.cli.forge_options import forge_token_option
from capsule.cli.shared import now, opened
from capsule.commands.errors import FINDINGS


@click.command()
@click.argument("target", metavar="BASE..HEAD", default="main..HEAD")
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown"]), default="text", show_default=True,
    help="Text, or a table for a job's summary.",
)  # fmt: skip
@click.option(
    "--pull", type=click.IntRange(1), metavar="NUMBER",
    help="Count the reviews of this pull request too; needs a token for the forge.",
)  # fmt: skip
@forge_token_option
@click.pass_context
def approval(
    ctx: click.Context, target: str, form: str, pull: int | None, forge_token_file: Path | None
) -> None:
    """What approval a branch still needs before its merge counts.

    Exit code 0 when the policy would be satisfied by merging BASE..HEAD (main..HEAD), 1 when something is
    missing or refused. Nothing is signed or published.
    """
    from capsule.commands.approval import approval as judge
    from capsule.commands.approval import as_markdown, as_text
    from capsule.commands.errors import WrongUsage
    from capsule.commands.forge_access import connector

    options: Globals = ctx.obj
    if pull is not None and forge_token_file is None:
        raise WrongUsage("ForgeTokenMissing", "--pull needs a token for the forge", "--forge-token-file FILE")
    with opened(options) as repository:
        found = judge(repository, target, now(), pull=pull, connect=connector(forge_token_file))
    click.echo(as_markdown(found) if form == "markdown" else as_text(found), nl=False)
    if not all(each.satisfied for each in found):
        ctx.exit(FINDINGS)


COMMANDS = {"approval": approval}
