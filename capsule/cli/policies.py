"""The verbs of `capsule policy`: what it says, what another one would, and why a request is where it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Column, Screen
from capsule.cli.shared import (
    Subverbs,
    as_key_option,
    ask_for_consent,
    complete_requests,
    json_option,
    now,
    opened,
    who_signs,
    yes_option,
)
from capsule.commands.errors import FINDINGS

if TYPE_CHECKING:
    from capsule.commands.policy_diff import PolicyDiff
    from capsule.commands.policy_explain import RequestExplained
    from capsule.commands.policy_words import PolicyShown
    from capsule.commands.signers_list import SignersReview


@click.group(cls=Subverbs)
def policy() -> None:
    """What the policy in force says, for people, git, ssh-keygen and agents."""


@policy.command("show")
@json_option
@click.pass_obj
def show(options: Globals, as_json: bool) -> None:
    """The policy in force in words: people, machines and their keys, teams, rules in order, freezes."""
    from capsule.commands.policy import show_policy
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        found = show_policy(repository, now())
    if as_json:
        Screen().json(value_of(found))
    else:
        _show(found)


def _show(found: PolicyShown) -> None:
    from capsule.commands.policy_words import key_words

    screen = Screen()
    screen.line(f"Policy, serial {found.serial}, in force since {found.since[:12]}", bold=True)
    for note in found.notes:
        screen.line(note, style="yellow")
    screen.line()
    screen.table(
        [Column("PRINCIPAL"), Column("IS"), Column("TEAMS"), Column("KEYS", whole=False)],
        [
            (
                each.name,
                "machine" if each.machine else "person",
                ", ".join(each.teams),
                "; ".join(key_words(key) for key in each.keys),
            )
            for each in found.principals
        ],
    )
    screen.line()
    screen.line("Rules: the first that matches decides; what matches none is refused.", bold=True)
    for rule in found.rules:
        mark = "" if rule.satisfiable else "  (nobody can meet it)"
        screen.line(f"  {rule.number}. {rule.words}{mark}", style=None if rule.satisfiable else "red")
    for freeze in found.freezes:
        screen.line(f"Freeze: {freeze}", style="cyan")


@policy.command("add")
@click.argument("name")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Their OpenSSH public key, such as bob.pub. Make sure that it is theirs.",
)
@click.option(
    "--team",
    "teams",
    multiple=True,
    default=("reviewers",),
    show_default=True,
    metavar="TEAM",
    help="A team they join; may be given several times.",
)
@click.option("--email", metavar="ADDRESS", help="Shown in commits.")
@click.pass_obj
def add(options: Globals, name: str, key: Path, teams: tuple[str, ...], email: str | None) -> None:
    """Write NAME and their key into policy.yaml, here in the work tree: what you then propose.

    Raises the serial and keeps your comments. With the first reviewer, the rule that `capsule init` left
    commented out comes into the file: whatever changes a service needs a reviewer.

    \b
    capsule policy add bob --key bob.pub
    """
    from capsule.commands.policy_add import add_person, read_key

    with opened(options) as repository:
        done = add_person(repository, name, read_key(key), teams, email)
    screen = Screen()
    screen.line(f"{done.file}, serial {done.serial}:", bold=True)
    for text in done.said:
        screen.line(f"  {text}")
    for text in done.left:
        screen.line(f"  still: {text}", style="yellow")
    screen.line()
    screen.line("Nothing is in force yet. Look at it with git diff, then:")
    screen.line(f"  git switch -c add-{name} && capsule check && git commit -qam 'Add {name}'")
    screen.line("  capsule propose && git switch main")
    screen.line("  capsule policy signers        # once it is in force: agents learn who may sign")


@policy.command("diff")
@click.argument("revision", metavar="REV")
@json_option
@click.pass_context
def diff(ctx: click.Context, revision: str, as_json: bool) -> None:
    """What the policy at REV would change, what becomes weaker, and who may bring it into force.

    Exit code 1 when something is wrong with it.

    \b
    capsule policy diff policy-change
    """
    from capsule.commands.policy_diff import policy_diff
    from capsule.view.model import as_json as value_of

    options: Globals = ctx.obj
    with opened(options) as repository:
        found = policy_diff(repository, revision, now())
    if as_json:
        Screen().json({**value_of(found), "weakens": found.weakens})
    else:
        _diff(found)
    if found.findings:
        ctx.exit(FINDINGS)


def _diff(found: PolicyDiff) -> None:
    screen = Screen()
    if not found.differences:
        screen.line("It is the policy in force.")
        return
    screen.line(f"Serial {found.serial_before} becomes {found.serial_after}.", bold=True)
    for each in found.differences:
        screen.line(f"  {'WEAKER: ' if each.weaker else ''}{each.text}", style="red" if each.weaker else None)
    for finding in found.findings:
        screen.line(f"wrong: {finding}", style="red")
    screen.line(f"May propose it: {', '.join(found.may_ask) or 'nobody'}.")
    for team, (count, who) in found.may_approve.items():
        screen.line(f"Must approve it: {count} of {team} ({', '.join(who) or 'nobody'}), never its author.")


@policy.command("explain")
@click.argument("request", shell_complete=complete_requests)
@json_option
@click.pass_obj
def explain(options: Globals, request: str, as_json: bool) -> None:
    """Which rule decides about REQUEST, who may still approve it, which approvals do not count, and why."""
    from capsule.commands.policy_explain import explain as why
    from capsule.view.model import as_json as value_of

    with opened(options) as repository:
        found = why(repository, request, now())
    if as_json:
        Screen().json(value_of(found))
    else:
        _explain(found)


def _explain(found: RequestExplained) -> None:
    screen = Screen()
    screen.line(f"{found.name}: {found.phase}", bold=True)
    if found.message:
        screen.line(f"{found.message}{f' [{found.reason}]' if found.reason else ''}")
    if found.evidence == "break-glass":
        screen.line(f"BREAK-GLASS: {found.requested_by} acts without approvals.", style="red")
    for target in found.targets:
        rule = f"rule {target.rule}: " if target.rule else ""
        screen.line(f"  {target.service}: {rule}{target.words}", style=None if target.rule else "red")
        if target.may_approve:
            screen.line(f"    may still approve: {', '.join(target.may_approve)}")
        if target.frozen_until:
            why = f": {target.frozen_why}" if target.frozen_why else ""
            screen.line(f"    frozen until {target.frozen_until:%Y-%m-%d %H:%M} UTC{why}", style="cyan")
    for each in found.approvals:
        note = "counts" if each.counts else f"does not count: {each.message} [{each.reason}]"
        style = None if each.counts else "yellow"
        screen.line(f"  {each.principal}: {each.decision} ({each.evidence}), {note}", style=style)
    for missing in found.missing:
        who = ", ".join(missing.candidates) or "nobody can"
        screen.line(f"  missing: {missing.count} of {missing.team} ({who})", style="yellow")
    for hold in found.holds:
        screen.line(f"  held: {hold}", style="yellow")
    screen.line(f"Next: {found.next_step}")


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
@yes_option
@click.pass_obj
def signers(options: Globals, as_key: Path | None, yes: bool) -> None:
    """Write the list of who may sign, as agents learn it, and sign it as an owner.

    Shows who comes in and who goes, and asks. Needed after a change of the policy's principals or keys;
    `capsule doctor` says when.
    """
    from capsule.commands.signers_list import review_signers, sign_signers

    screen = Screen()
    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        review = review_signers(repository, identity, now())
        if review.signed:
            screen.line(
                f"The list of signers (serial {review.serial}) is already signed by {identity.principal}."
            )
            return
        _show_signers(review)
        ask_for_consent(f"Sign this list as {identity.principal}?", yes)
        done = sign_signers(repository, identity, review, now())
    screen.line(
        f"Signed by {done.signed_by}: list of signers, serial {done.serial} ({done.commit[:12]}).",
        style="green",
    )
    if done.note:
        screen.line(done.note, style="yellow")


def _show_signers(review: SignersReview) -> None:
    screen = Screen()
    screen.line(f"List of signers, serial {review.serial}, in comparison with the one in force:", bold=True)
    if not review.changes:
        screen.line("  the same; only the signature is added")
    for change in review.changes:
        screen.line(f"  {change.principal}")
        for fact in change.gains:
            screen.line(f"    + {fact}", style="green")
        for fact in change.loses:
            screen.line(f"    - {fact}", style="red")


COMMANDS = {"policy": policy}
