"""The verbs that ask for actions every repository knows: disable, enable, cancel, abort, acknowledge."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.act_pages import show_asked, show_switched
from capsule.cli.app import Globals
from capsule.cli.asking import anyway_option, at_most_option, expires_option, reason_option, selector_option
from capsule.cli.shared import (
    F,
    as_key_option,
    complete_open_requests,
    complete_requests,
    complete_services,
    now,
    opened,
    who_signs,
)

if TYPE_CHECKING:
    from capsule.commands.switch import Switch


def _on_services(function: F) -> F:
    """What `disable` and `enable` take: services, by name or label, and why."""
    argument = click.argument("services", nargs=-1, metavar="SERVICE...", shell_complete=complete_services)
    wrapped: F = argument(
        selector_option(at_most_option(reason_option(expires_option(anyway_option(as_key_option(function))))))
    )
    return wrapped


@click.command()
@_on_services
@click.pass_obj
def disable(
    options: Globals,
    services: tuple[str, ...],
    selector: tuple[tuple[str, str], ...],
    at_most: int | None,
    reason: str,
    expires: timedelta,
    anyway: bool,
    as_key: Path | None,
) -> None:
    """Take all traffic from services, now: their adapters answer 503 until it is settled.

    This is a request too, judged by the rule for the action `disable`: at once, without a merge, where the
    rule asks for no approval. It holds, whatever the document says, until a merged `enabled: false` makes it
    the document's own, or a request `enable` ends it.

    \b
    capsule disable openai-chat --reason "Key in a public log, OPS-1300"
    """
    _switch(options, "disable", services, dict(selector), at_most, reason, expires, anyway, as_key)


@click.command()
@_on_services
@click.pass_obj
def enable(
    options: Globals,
    services: tuple[str, ...],
    selector: tuple[tuple[str, str], ...],
    at_most: int | None,
    reason: str,
    expires: timedelta,
    anyway: bool,
    as_key: Path | None,
) -> None:
    """Give services their traffic back after a `disable` by request.

    This is a request too, judged by the rule for the action `enable`. It is refused where the document says
    `enabled: false`: change that, and merge it.
    """
    _switch(options, "enable", services, dict(selector), at_most, reason, expires, anyway, as_key)


def _switch(
    options: Globals,
    action: Switch,
    services: tuple[str, ...],
    selector: dict[str, str],
    at_most: int | None,
    reason: str,
    expires: timedelta,
    anyway: bool,
    as_key: Path | None,
) -> None:
    from capsule.commands.switch import switch

    with opened(options) as repository:
        asked = switch(
            repository,
            who_signs(repository, as_key),
            action,
            reason,
            now(),
            services=services,
            selector=selector,
            at_most=at_most,
            expires_in=expires,
            anyway=anyway,
        )
        show_asked(repository, asked)
        show_switched(asked, action)


@click.command()
@click.argument("request", shell_complete=complete_open_requests)
@reason_option
@as_key_option
@click.pass_obj
def cancel(options: Globals, request: str, reason: str, as_key: Path | None) -> None:
    """Ask to call off REQUEST. This is a request too, judged by the rules for the action `cancel`.

    What was ordered and not begun never will be. To let what runs go on, `capsule abort`.
    """
    from capsule.commands.follow_up import cancel as ask

    with opened(options) as repository:
        show_asked(repository, ask(repository, who_signs(repository, as_key), request, reason, now()))


@click.command()
@click.argument("request", shell_complete=complete_open_requests)
@reason_option
@as_key_option
@click.pass_obj
def abort(options: Globals, request: str, reason: str, as_key: Path | None) -> None:
    """Ask that nothing further of REQUEST is begun; what runs goes on to its end.

    This is a request too, judged by the rules for the action `abort`. For the rest, later:
    `capsule request --continue REQUEST`.
    """
    from capsule.commands.follow_up import abort as ask

    with opened(options) as repository:
        show_asked(repository, ask(repository, who_signs(repository, as_key), request, reason, now()))


@click.command()
@click.argument("services", nargs=-1, metavar="SERVICE...", shell_complete=complete_services)
@click.option(
    "--condition",
    metavar="TYPE",
    help="CorrectionStopped: correct drift again. KeyChangedOutsideCapsule: somebody looked into it.",
)
@click.option(
    "--request",
    metavar="REQUEST",
    shell_complete=complete_requests,
    help="That you, a reviewer, know of a request for which somebody broke the glass.",
)
@reason_option
@as_key_option
@click.pass_obj
def acknowledge(
    options: Globals,
    services: tuple[str, ...],
    condition: str | None,
    request: str | None,
    reason: str,
    as_key: Path | None,
) -> None:
    """Say that you know of what stays until somebody says so: a condition of services, or a broken glass.

    This is a request too, judged by the rules for the action `acknowledge`.

    \b
    capsule acknowledge openai-chat --condition CorrectionStopped --reason "Deployment fixed, OPS-1310"
    capsule acknowledge --request 20261123-rotate-key-openai-chat-k3f9 --reason "Looked into it, OPS-1301"
    """
    from capsule.commands.follow_up import acknowledge as ask
    from capsule.commands.follow_up import acknowledge_glass

    if (condition is None) == (request is None) or bool(services) != bool(condition):
        raise click.UsageError("Give either SERVICE... with --condition TYPE, or --request REQUEST alone.")
    with opened(options) as repository:
        identity = who_signs(repository, as_key)
        if request is not None:
            asked = acknowledge_glass(repository, identity, request, reason, now())
        else:
            asked = ask(repository, identity, services, condition or "", reason, now())
        show_asked(repository, asked)


COMMANDS = {
    "disable": disable,
    "enable": enable,
    "cancel": cancel,
    "abort": abort,
    "acknowledge": acknowledge,
}
