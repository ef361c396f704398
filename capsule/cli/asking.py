"""The verb `request`, and the options of all verbs that ask."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from capsule.cli.act_pages import show_asked, show_left_out
from capsule.cli.app import Globals
from capsule.cli.forge_options import forge_token_option
from capsule.cli.pull_requests import PullRequests
from capsule.cli.screen import Screen
from capsule.cli.shared import (
    as_key_option,
    ask_for_consent,
    complete_actions,
    complete_requests,
    complete_services,
    duration,
    instant_or_duration,
    now,
    opened,
    pair,
    plain_text,
    who_signs,
)

if TYPE_CHECKING:
    from capsule.commands.request import Wish
    from capsule.documents.types import Scalar

F = TypeVar("F", bound=Callable[..., Any])
_ELSE = {"as_key", "earlier", "reason", "expires", "push", "forge_token_file"}
"""What may stand beside --continue."""

selector_option = click.option(
    "--selector",
    "-l",
    type=pair,
    metavar="KEY=VALUE",
    multiple=True,
    help="Every service with this label; needs --at-most.",
)
at_most_option = click.option(
    "--at-most", type=click.IntRange(1), metavar="N", help="Refuse when the selector matches more."
)
expires_option = click.option(
    "--expires",
    type=duration,
    metavar="DURATION",
    default="7d",
    show_default=True,
    help="Nothing is begun after this.",
)
anyway_option = click.option(
    "--anyway", is_flag=True, help="Ask even for what agents did not offer when they were last seen."
)
reason_option = click.option(
    "--reason", type=plain_text, metavar="TEXT", required=True, help="Why, for reviewers and auditors."
)


def _rollout_options(function: F) -> F:
    """How the targets of a request are worked through."""
    for option in reversed(
        (
            click.option(
                "--parallel",
                type=click.IntRange(1, 1000),
                default=1,
                show_default=True,
                help="Services at once: the size of a batch.",
            ),
            click.option(
                "--pause",
                type=duration,
                metavar="DURATION",
                default="0s",
                help="Wait so long between the end of a batch and the next one.",
            ),
            click.option(
                "--health-check",
                is_flag=True,
                help="Begin the next batch only when the services of the last one are healthy again.",
            ),
            click.option(
                "--on-failure",
                type=click.Choice(["stop", "continue"]),
                default="stop",
                show_default=True,
                help="What a failure means for services not yet begun.",
            ),
        )
    ):
        function = option(function)
    return function


@click.command()
@click.argument("action", required=False, shell_complete=complete_actions)
@click.argument("services", nargs=-1, metavar="SERVICE...", shell_complete=complete_services)
@selector_option
@at_most_option
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
    "--reason",
    type=plain_text,
    metavar="TEXT",
    help="Why, for reviewers and auditors; needed but with --continue.",
)
@expires_option
@click.option(
    "--not-before",
    type=instant_or_duration,
    metavar="TIME",
    help="Nothing is begun before: a time in UTC (2026-11-24T02:00:00Z), or how long from now (2h).",
)
@_rollout_options
@click.option(
    "--leaked",
    is_flag=True,
    help="With rotateKey: the key leaked, so the old one is revoked right after the switch (grace 0s).",
)
@click.option(
    "--break-glass",
    is_flag=True,
    help="Act at once, without approvals, where the rule lets your team: marked until acknowledged.",
)
@anyway_option
@click.option(
    "--continue",
    "earlier",
    metavar="REQUEST",
    shell_complete=complete_requests,
    help="Ask anew for what REQUEST did not begin, or what failed: same action, parameters and rollout.",
)
@click.option(
    "--push",
    is_flag=True,
    help="Open the pull request at the forge, where a token is given; else print where you open it.",
)
@forge_token_option
@as_key_option
@click.pass_context
def request(
    ctx: click.Context,
    action: str | None,
    services: tuple[str, ...],
    selector: tuple[tuple[str, str], ...],
    at_most: int | None,
    params: tuple[tuple[str, str], ...],
    reason: str | None,
    expires: timedelta,
    not_before: datetime | timedelta | None,
    parallel: int,
    pause: timedelta,
    health_check: bool,
    on_failure: str,
    leaked: bool,
    break_glass: bool,
    anyway: bool,
    earlier: str | None,
    push: bool,
    forge_token_file: Path | None,
    as_key: Path | None,
) -> None:
    """Ask for ACTION on services, signed by you.

    Writes the request on a branch of its own, `request/<name>`, pushes it where there is a remote, and shows
    what a reviewer will see.

    \b
    capsule request rotateKey openai-chat -p grace=24h --reason "Quarterly rotation, OPS-1234"
    capsule request rotateKey openai-chat --leaked --reason "Key in a public log, OPS-1300"
    capsule request rotateKey openai-chat --break-glass --reason "Key in a public log at 3 am, OPS-1300"
    capsule request runHealthCheck -l env=prod --at-most 20 --reason "After the incident"
    capsule request --continue 20261123-rotate-key-4-services-k3f9
    """
    from capsule.commands.request import Wish
    from capsule.commands.request import leaked as of_a_leak
    from capsule.documents.types import Rollout

    options: Globals = ctx.obj
    pulls = PullRequests(push, forge_token_file)
    if earlier is not None:
        _refuse_beside_continue(ctx)
        _ask_for_rest(options, earlier, reason or "", expires, as_key, pulls)
        return
    if action is None:
        raise click.UsageError("Missing argument 'ACTION' (or --continue REQUEST).", ctx)
    if reason is None:
        raise click.UsageError("Missing option '--reason'.", ctx)
    at = now()
    wish = Wish(
        action=action,
        reason=reason,
        services=services,
        selector=dict(selector),
        at_most=at_most,
        params={name: scalar(value) for name, value in params},
        expires_in=expires,
        not_before=at + not_before if isinstance(not_before, timedelta) else not_before,
        rollout=Rollout(
            parallel=parallel,
            on_failure="stop" if on_failure == "stop" else "continue",
            pause=pause,
            health_check=health_check,
        ),
        break_glass=break_glass,
        anyway=anyway,
    )
    _ask(options, of_a_leak(wish) if leaked else wish, as_key, at, pulls)


def _ask(options: Globals, wish: Wish, as_key: Path | None, at: datetime, pulls: PullRequests) -> None:
    from capsule.commands.errors import Doubtful
    from capsule.commands.request import request as ask

    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        pulls.check(repository)
        try:
            asked = ask(repository, identity, wish, at)
        except Doubtful as doubt:
            if not sys.stdin.isatty():
                raise
            Screen(err=True).line(f"{doubt} [{doubt.reason}]", style="yellow")
            ask_for_consent("Ask all the same?", yes=False)
            asked = ask(repository, identity, replace(wish, anyway=True), at)
        show_asked(repository, asked)
        pulls.open(repository, asked.judged)


def _ask_for_rest(
    options: Globals,
    earlier: str,
    reason: str,
    expires: timedelta,
    as_key: Path | None,
    pulls: PullRequests,
) -> None:
    from capsule.commands.follow_up import ask_for_rest

    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        pulls.check(repository)
        done = ask_for_rest(repository, identity, earlier, reason, expires, now())
        show_asked(repository, done.asked)
        show_left_out(done.doubtful)
        pulls.open(repository, done.asked.judged)


def _refuse_beside_continue(ctx: click.Context) -> None:
    """What is asked for stands in the earlier request."""
    given = sorted(
        name
        for name in ctx.params
        if name not in _ELSE and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
    if given:
        words = ", ".join("-".join(name.split("_")) for name in given)
        raise click.UsageError(
            f"--continue takes action, services, parameters and rollout from the request: leave out {words}.",
            ctx,
        )


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


COMMANDS = {"request": request}
