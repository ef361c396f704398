"""The verbs by which people decide: approve, reject, propose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.act_pages import (
    show_change,
    show_change_decided,
    show_decided,
    show_review,
)
from capsule.cli.app import Globals
from capsule.cli.shared import (
    as_key_option,
    ask_for_consent,
    complete_open_requests,
    now,
    opened,
    plain_text,
    who_signs,
    yes_option,
)

if TYPE_CHECKING:
    from capsule.commands.change import Decision
    from capsule.commands.decision import Word
    from capsule.commands.repository import Repository
    from capsule.commands.signing import Identity


@click.command()
@click.argument("name", metavar="REQUEST|BRANCH", shell_complete=complete_open_requests)
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
@click.argument("name", metavar="REQUEST|BRANCH", shell_complete=complete_open_requests)
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
        ask_for_consent(f"{word.capitalize()} as {identity.principal}{ending}?", yes)
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
    ask_for_consent(f"{decision.capitalize()} this change as {identity.principal}?", yes)
    show_change_decided(seen, decide_change(repository, identity, seen, decision, reason, now()), decision)


COMMANDS = {"approve": approve, "reject": reject, "propose": propose}
