"""The verbs by which people ask and decide: request, approve, reject, cancel, propose."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.act_pages import (
    show_asked,
    show_change,
    show_change_decided,
    show_decided,
    show_review,
)
from capsule.cli.app import Globals
from capsule.cli.screen import Screen
from capsule.cli.shared import (
    as_key_option,
    complete_requests,
    complete_services,
    duration,
    now,
    opened,
    pair,
    plain_text,
    who_signs,
    yes_option,
)

if TYPE_CHECKING:
    from capsule.commands.change import Decision
    from capsule.commands.decision import Word
    from capsule.commands.repository import Repository
    from capsule.commands.signing import Identity
    from capsule.documents.types import Scalar


@click.command()
@click.argument("action")
@click.argument("services", nargs=-1, metavar="SERVICE...", shell_complete=complete_services)
@click.option(
    "--selector",
    "-l",
    type=pair,
    metavar="KEY=VALUE",
    multiple=True,
    help="Every service with this label; needs --at-most.",
)
@click.option("--at-most", type=click.IntRange(1), metavar="N", help="Refuse when the selector matches more.")
@click.option(
    "-p",
    "--param",
    "params",
    type=pair,
    metavar="KEY=VALUE",
    multiple=True,
    help="A parameter of the action; numbers, true and false as such, "
    "anything else is text ('k=\"5\"' is text too).",
)
@click.option(
    "--reason", type=plain_text, metavar="TEXT", required=True, help="Why, for reviewers and auditors."
)
@click.option(
    "--expires",
    type=duration,
    metavar="DURATION",
    default="7d",
    show_default=True,
    help="Nothing is begun after this.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 1000), default=1, show_default=True, help="Services at once."
)
@click.option(
    "--on-failure",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="What a failure means for services not yet begun.",
)
@as_key_option
@click.pass_obj
def request(
    options: Globals,
    action: str,
    services: tuple[str, ...],
    selector: tuple[tuple[str, str], ...],
    at_most: int | None,
    params: tuple[tuple[str, str], ...],
    reason: str,
    expires: timedelta,
    parallel: int,
    on_failure: str,
    as_key: Path | None,
) -> None:
    """Ask for ACTION on services, signed by you.

    Writes the request on a branch of its own, `request/<name>`, pushes it where there is a remote, and shows
    what a reviewer will see.

    \b
    capsule request rotateKey openai-chat -p grace=24h --reason "Quarterly rotation, OPS-1234"
    capsule request runHealthCheck -l env=prod --at-most 20 --reason "After the incident"
    """
    from capsule.commands.request import Wish
    from capsule.commands.request import request as ask
    from capsule.documents.types import Rollout

    wish = Wish(
        action=action,
        reason=reason,
        services=services,
        selector=dict(selector),
        at_most=at_most,
        params={name: scalar(value) for name, value in params},
        expires_in=expires,
        rollout=Rollout(parallel=parallel, on_failure="stop" if on_failure == "stop" else "continue"),
    )
    with opened(options) as repository:
        asked = ask(repository, who_signs(repository, as_key), wish, now())
        show_asked(repository, asked)


@click.command()
@click.argument("request", shell_complete=complete_requests)
@click.option(
    "--reason", type=plain_text, metavar="TEXT", required=True, help="Why, for reviewers and auditors."
)
@as_key_option
@click.pass_obj
def cancel(options: Globals, request: str, reason: str, as_key: Path | None) -> None:
    """Ask to call off REQUEST. This is a request too, judged by the rules for the action `cancel`."""
    from capsule.commands.request import cancel as ask

    with opened(options) as repository:
        asked = ask(repository, who_signs(repository, as_key), request, reason, now())
        show_asked(repository, asked)


@click.command()
@click.argument("name", metavar="REQUEST|BRANCH", shell_complete=complete_requests)
@click.option("--reason", type=plain_text, metavar="TEXT", help="A word for the record.")
@yes_option
@as_key_option
@click.pass_obj
def approve(options: Globals, name: str, reason: str | None, yes: bool, as_key: Path | None) -> None:
    """See exactly what will happen, then sign your approval.

    REQUEST is the name of a request; BRANCH one with a change of services, settings or policy. Merges into
    main when the policy is satisfied.
    """
    _decide(options, name, "approve", reason or "", yes, as_key)


@click.command()
@click.argument("name", metavar="REQUEST|BRANCH", shell_complete=complete_requests)
@click.option(
    "--reason", type=plain_text, metavar="TEXT", required=True, help="Why not, for the one who asked."
)
@yes_option
@as_key_option
@click.pass_obj
def reject(options: Globals, name: str, reason: str, yes: bool, as_key: Path | None) -> None:
    """Say no to a request, or to a change on a branch, and why."""
    _decide(options, name, "reject", reason, yes, as_key)


@click.command()
@click.argument("branch", required=False)
@click.option("--reason", type=plain_text, metavar="TEXT", help="Why, for reviewers and auditors.")
@yes_option
@as_key_option
@click.pass_obj
def propose(options: Globals, branch: str | None, reason: str | None, yes: bool, as_key: Path | None) -> None:
    """Sign, as its author, a change of services, settings or policy on BRANCH (the one checked out).

    Edit and commit on a branch of your own first. Merges into main when the policy asks for no approval.
    """
    from capsule.commands.change import find_branch

    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        _decide_change(repository, identity, find_branch(repository, branch), "propose", reason or "", yes)


def scalar(text: str) -> Scalar:
    """A parameter's value: a number, true or false, or text (in quotes if it looks like one of those)."""
    if text in ("true", "false"):
        return text == "true"
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 16 and (digits == "0" or digits[0] != "0"):
        return int(text)
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text


# ---- deciding -----------------------------------------------------------------------------------


def _decide(options: Globals, name: str, word: Word, reason: str, yes: bool, as_key: Path | None) -> None:
    from capsule.commands.decision import decide, review

    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        branch = _change_branch(repository, name)
        if branch is not None:
            _decide_change(repository, identity, branch, word, reason, yes)
            return
        seen = review(repository, identity, name, word, now())
        show_review(seen)
        ending = " and merge it into main" if seen.completes else ""
        _ask_for_consent(f"{word.capitalize()} as {identity.principal}{ending}?", yes)
        show_decided(seen, decide(repository, identity, seen, word, reason, now()), word)


def _change_branch(repository: Repository, name: str) -> str | None:
    """The full name of a branch with a change; None when `name` is to be read as a request."""
    from capsule.commands.change import find_branch
    from capsule.commands.errors import WrongUsage

    short = name.removeprefix("refs/heads/")
    if short.startswith("request/") or f"refs/heads/request/{short}" in repository.refs:
        return None
    try:
        return find_branch(repository, name)
    except WrongUsage:
        return None


def _decide_change(
    repository: Repository, identity: Identity, branch: str, decision: Decision, reason: str, yes: bool
) -> None:
    from capsule.commands.change import decide_change, review_change

    seen = review_change(repository, identity, branch, decision, now())
    show_change(seen)
    _ask_for_consent(f"{decision.capitalize()} this change as {identity.principal}?", yes)
    show_change_decided(seen, decide_change(repository, identity, seen, decision, reason, now()), decision)


def _ask_for_consent(question: str, yes: bool) -> None:
    """Goes on only for a yes. Raises Exit (1) for a no, Abort for Ctrl-C, WrongUsage without a terminal."""
    from capsule.commands.errors import FINDINGS, WrongUsage

    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(
            "NobodyToAsk", "there is no terminal to ask on", "Add --yes if you have read the above."
        )
    try:
        agreed = click.confirm(question)
    except click.Abort:
        Screen(err=True).line("\nNothing was signed.")
        raise
    if not agreed:
        Screen(err=True).line("Nothing was signed.")
        raise click.exceptions.Exit(FINDINGS)


COMMANDS = {"request": request, "approve": approve, "reject": reject, "cancel": cancel, "propose": propose}
