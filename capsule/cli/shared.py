"""What several verbs share: opening the repository, common options, and completion of names.

Called by the modules of the verbs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from capsule.cli.screen import Screen

if TYPE_CHECKING:
    from capsule.cli.app import Globals
    from capsule.commands.repository import Repository
    from capsule.commands.signing import Identity

_LONGEST_TEXT = 500
_YOUNG = timedelta(minutes=1)
F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, in the dashboard's API format."
)
offline_option = click.option(
    "--offline",
    is_flag=True,
    envvar="CAPSULE_OFFLINE",
    help="Fetch nothing: show what this clone has (CAPSULE_OFFLINE).",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask; needed where there is no terminal.")


def as_key_option(function: F) -> F:
    """`--as-key FILE`: sign with another key than git's."""
    option: Callable[[F], F] = click.option(
        "--as-key",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="CAPSULE_SIGNING_KEY",
        metavar="FILE",
        help="Sign with this key file instead of git's user.signingkey (CAPSULE_SIGNING_KEY).",
    )
    return option(function)


def now() -> datetime:
    """The clock: the one place where the command line reads it."""
    return datetime.now(UTC).replace(microsecond=0)


class Subverbs(click.Group):
    """A group of verbs whose list shows each one's whole first sentence; click's own cuts it off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(200)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@contextmanager
def opened(options: Globals, *, offline: bool = True) -> Iterator[Repository]:
    """The state repository that `-C` and `--root` name, with the remote's news unless `offline`."""
    from capsule.commands.repository import open_repository

    repository = open_repository(options.directory, options.root, token_file=options.token_file)
    repository.now = now()
    try:
        if not offline:
            _tell_away(repository)
        yield repository
    finally:
        repository.close()


def _tell_away(repository: Repository) -> None:
    from capsule.commands.freshness import get_news

    why = get_news(repository, now())
    if why:
        Screen(err=True).line(f"Shown as last fetched: {why}".split("\n")[0], style="yellow")


def who_signs(repository: Repository, as_key: Path | None) -> Identity:
    """The person of the policy in force whose key this is."""
    from capsule.commands.signing import find_signer, identify

    signer = find_signer(repository.directory, as_key)
    repository.refresh()
    return identify(repository.policy, signer, repository.directory, repository.state.policy.document)


def ago(then: datetime, at: datetime) -> str:
    """How long ago, in one unit, rounded to the nearest, such as "3h ago"; below two days in hours."""
    seconds = max(0, int((at - then).total_seconds()))
    for size, unit, below in ((1, "s", 60), (60, "m", 60), (3600, "h", 48)):
        if round(seconds / size) < below:
            return f"{round(seconds / size)}{unit} ago"
    return f"{round(seconds / 86400)}d ago"


def tell_fetched(repository: Repository, *, to_people: bool) -> None:
    """Say to people, on standard error, how old the picture is, where it comes from a remote and is old."""
    if not to_people or not repository.store.has_remote():
        return
    at = repository.store.fetched_at()
    if at and now() - at < _YOUNG:
        return
    told = ago(at, now()) if at else "at an unknown time"
    Screen(err=True).line(f"As fetched {told}; `git fetch` gets what is new.", dim=True)


def pair(text: str) -> tuple[str, str]:
    """A value of the form key=value."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{text!r} is not of the form key=value")
    return key, value


def duration(text: str) -> timedelta:
    """A duration such as 30s, 5m, 24h or 7d."""
    from capsule.documents.scalars import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


def instant_or_duration(text: str) -> datetime | timedelta:
    """A time in UTC such as 2026-11-24T02:00:00Z, or a duration from now such as 2h."""
    from capsule.documents.scalars import parse_duration, parse_instant

    for parse in (parse_instant, parse_duration):
        try:
            return parse(text)
        except ValueError:
            continue
    raise click.BadParameter(
        f'{text!r}: expected a time in UTC such as "2026-11-24T02:00:00Z", or a duration such as "2h"'
    )


def plain_text(text: str) -> str:
    """Text for people, without characters that no document may hold."""
    from capsule.documents.problems import FORBIDDEN

    stripped = text.strip()
    if not stripped:
        raise click.BadParameter("say it in a few words")
    if FORBIDDEN.search(stripped) or "\n" in stripped or len(stripped) > _LONGEST_TEXT:
        raise click.BadParameter(
            f"one line of at most {_LONGEST_TEXT} characters, without control or invisible ones"
        )
    return stripped


def complete_services(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of services on main; nothing where they cannot be read."""
    return _matching(_file_stems(ctx, "services"), incomplete)


def complete_requests(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of requests on their branches and on main."""
    return _matching([name for _, name in _requests(ctx)], incomplete)


def complete_open_requests(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of requests that were not refused and have not come to their end."""
    asked = _requests(ctx)
    finished = _finished(ctx, {month for month, _ in asked if month})
    return _matching([name for _, name in asked if name not in finished], incomplete)


def complete_either(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of services and of requests."""
    return [*complete_services(ctx, param, incomplete), *complete_requests(ctx, param, incomplete)]


def complete_actions(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the actions that agents offered when they were last seen, as audit records it; where nothing
    is on record, of those that agents usually have."""
    for audit in _AUDITS:
        listed = _git_lines(ctx, "grep", "--no-color", "-h", "-E", "^    - [A-Za-z][A-Za-z0-9]*$", audit)
        if listed:
            return _matching([line.strip(" -") for line in listed], incomplete)
    return _matching(["disable", "enable", "rotateKey", "runHealthCheck"], incomplete)


_BRANCHES = ("for-each-ref", "--format=%(refname)", "refs/heads/request/", "refs/remotes/origin/request/")
_AUDITS = ("refs/remotes/origin/audit", "refs/heads/audit")


def _requests(ctx: click.Context) -> list[tuple[str, str]]:
    """The month's folder and the name of each request; those on branches tell their month by their name."""
    found = [line.partition("/request/")[2] for line in _git_lines(ctx, *_BRANCHES)]
    asked = [(f"{name[:4]}/{name[4:6]}" if name[:8].isdigit() else "", name) for name in found]
    listed = _git_lines(ctx, "ls-tree", "-r", "--name-only", "refs/heads/main", "--", "requests")
    parts = [path.split("/") for path in listed if path.endswith("/request.yaml")]
    return asked + [("/".join(each[1:3]), each[-2]) for each in parts]


def _finished(ctx: click.Context, months: set[str]) -> set[str]:
    """Requests of these months that audit says were refused, or have a result for each claim."""
    if not months:
        return set()
    folders = [f"records/{month}/" for month in sorted(months)]
    for audit in _AUDITS:
        listed = _git_lines(ctx, "ls-tree", "-r", "--name-only", audit, "--", *folders)
        if listed:
            parts = [path.split("/") for path in listed]
            refused = {each[3] for each in parts if each[-1] == "refusal.yaml"}
            claimed = {tuple(each[3:5]) for each in parts if each[-1].startswith("claim-")}
            ended = {tuple(each[3:5]) for each in parts if each[-1] == "result.yaml"}
            running = {name for name, _ in claimed - ended}
            return refused | {name for name, _ in ended} - running
    return set()


def _matching(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def _file_stems(ctx: click.Context, folder: str) -> list[str]:
    listed = _git_lines(ctx, "ls-tree", "-r", "--name-only", "refs/heads/main", "--", folder)
    return [path.rsplit("/", 1)[-1].removesuffix(".yaml") for path in listed if path.endswith(".yaml")]


def _git_lines(ctx: click.Context, *arguments: str) -> list[str]:
    from capsule.commands.errors import CommandError
    from capsule.commands.git_program import GitFailed, run_git

    directory = ctx.find_root().params.get("directory") or Path()
    try:
        return run_git(Path(directory), *arguments).splitlines()
    except (GitFailed, CommandError):
        return []


def ask_for_consent(question: str, yes: bool) -> None:
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
