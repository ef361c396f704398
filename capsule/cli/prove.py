"""The verbs that prove: check, audit verify, policy."""

from __future__ import annotations

from pathlib import Path

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import as_key_option, json_option, now, opened, who_signs
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
    if done.failed:
        ctx.exit(FINDINGS)


@click.group()
def audit() -> None:
    """Prove the whole history again, offline."""


@audit.command("verify")
@click.option("--root", metavar="ID", help="Id of the first commit, obtained from somewhere else.")
@json_option
@click.pass_context
def audit_verify(ctx: click.Context, root: str | None, as_json: bool) -> None:
    """Prove every step, signature, approval, receipt and record, from this clone alone.

    Exit code 1 when anything does not hold, naming the commit; also without a root of your own knowledge:
    then the verdict is at best "consistent, origin unproved".
    """
    from dataclasses import replace

    from capsule.commands.audit import in_words, verify
    from capsule.view.model import as_json as value_of

    options: Globals = ctx.obj
    with opened(replace(options, root=root or options.root)) as repository:
        verdict = verify(repository)
    screen = Screen()
    if as_json:
        screen.json({**value_of(verdict), "holds": verdict.holds})
    else:
        bad = verdict.first_bad
        if bad:
            screen.line(f"commit {bad.commit}: {bad.message} [{bad.reason}]", style="red")
        for finding in verdict.findings:
            screen.line(f"note: {finding.message} [{finding.reason}]", style="yellow")
        style = "red" if bad else "green" if verdict.origin_proved else "yellow"
        screen.line(in_words(verdict), style=style)
        if not verdict.origin_proved:
            screen.line("Give the root that an owner told you: capsule audit verify --root ID")
    if not (verdict.holds and verdict.origin_proved):
        ctx.exit(FINDINGS)


@click.group()
def policy() -> None:
    """What the policy in force says, for git, ssh-keygen and agents."""


@policy.command("allowed-signers")
@click.option("--install", is_flag=True, help="Write it into the git directory, and have git use it here.")
@click.pass_obj
def allowed_signers(options: Globals, install: bool) -> None:
    """Print the OpenSSH allowed_signers file: people and machines, each with their namespaces.

    \b
    capsule policy allowed-signers --install && git log --show-signature
    """
    from capsule.commands.policy import allowed_signers_file, install_allowed_signers

    with opened(options) as repository:
        if install:
            Screen().line(f"git uses {install_allowed_signers(repository)} in this repository.")
        else:
            click.echo(allowed_signers_file(repository), nl=False)


@policy.command("signers")
@as_key_option
@click.pass_obj
def signers(options: Globals, as_key: Path | None) -> None:
    """Write the list of who may sign, as agents learn it, and sign it as an owner.

    Needed after a change of the policy's principals or keys; `capsule doctor` says when.
    """
    from capsule.commands.policy import sign_signers

    with opened(options) as repository:
        done = sign_signers(repository, who_signs(repository, as_key), now())
    screen = Screen()
    if done.commit is None:
        screen.line(f"The list of signers (serial {done.serial}) is already signed by {done.signed_by}.")
    else:
        screen.line(
            f"Signed by {done.signed_by}: list of signers, serial {done.serial} ({done.commit[:12]}).",
            style="green",
        )
    if done.note:
        screen.line(done.note, style="yellow")


COMMANDS = {"check": check, "audit": audit, "policy": policy}
