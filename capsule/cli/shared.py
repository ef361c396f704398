"""What several verbs share: opening the repository, common options, and completion of names.

Called by the modules of the verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from capsule.cli.app import Globals
    from capsule.commands.repository import Repository
    from capsule.commands.signing import Identity

_LONGEST_TEXT = 500
F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, in the dashboard's API format."
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


@contextmanager
def opened(options: Globals) -> Iterator[Repository]:
    """The state repository that `-C` and `--root` name."""
    from capsule.commands.repository import open_repository

    repository = open_repository(options.directory, options.root, token_file=options.token_file)
    try:
        yield repository
    finally:
        repository.close()


def who_signs(repository: Repository, as_key: Path | None) -> Identity:
    """The person of the policy in force whose key this is."""
    from capsule.commands.signing import find_signer, identify

    signer = find_signer(repository.directory, as_key)
    repository.refresh()
    return identify(repository.state.policy.document, signer, repository.directory)


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
    names = [line.removeprefix("request/") for line in _git_lines(ctx, *_BRANCHES)]
    listed = _git_lines(ctx, "ls-tree", "-r", "--name-only", "refs/heads/main", "--", "requests")
    names += [path.split("/")[-2] for path in listed if path.endswith("/request.yaml")]
    return _matching(names, incomplete)


def complete_either(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of services and of requests."""
    return [*complete_services(ctx, param, incomplete), *complete_requests(ctx, param, incomplete)]


_BRANCHES = (
    "for-each-ref",
    "--format=%(refname:lstrip=2)",
    "refs/heads/request/",
    "refs/remotes/origin/request/",
)


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
