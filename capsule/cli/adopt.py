"""`capsule import`: a team with thirty adapters starts in minutes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.run import ca_file
from capsule.cli.screen import Column, Screen
from capsule.cli.shared import duration, now, opened, pair, yes_option
from capsule.cli.ssh_options import ssh_access, ssh_options
from capsule.commands.errors import FINDINGS, CommandError, WrongUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capsule.commands.adopt import Found

_MANY = 8


@click.command("import")
@click.option(
    "--from", "sources", metavar="URL|FILE", multiple=True, required=True,
    help="An agent's endpoint, or a file with one a line; may be repeated.",
)  # fmt: skip
@click.option(
    "--label", "-l", "labels", type=pair, metavar="KEY=VALUE", multiple=True,
    help="A label for every document; may be repeated.",
)  # fmt: skip
@click.option(
    "--dir", "directory", metavar="FOLDER", default="services", show_default=True,
    help="Where the documents go, in the repository.",
)  # fmt: skip
@click.option("--timeout", type=duration, default="5s", show_default=True, help="Longest wait for one agent.")
@click.option("--no-keys", is_flag=True, help="Take over no agent's key: all are observed only.")
@click.option(
    "--insecure", is_flag=True, help="Allow plain http beyond loopback, and say so in the document."
)
@click.option(
    "--ca", type=ca_file, metavar="NAME=FILE", help="A private CA of https agents, by the name services use."
)
@ssh_options
@yes_option
@click.pass_context
def import_(
    ctx: click.Context,
    sources: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    directory: str,
    timeout: timedelta,
    no_keys: bool,
    insecure: bool,
    ca: tuple[str, Path] | None,
    ssh_keys: tuple[Path, ...],
    ssh_config: Path | None,
    known_hosts: tuple[Path, ...],
    yes: bool,
) -> None:
    """Write services/ documents from agents that run already.

    Each agent is asked for its report. Name, endpoint and pins come from it; the key that signed it is shown
    for you to compare with the one on its host, and written only if you say so. No file is overwritten, and
    nothing is committed. Exit code 1 when an agent could not be imported.

    \b
    capsule import --from https://10.0.3.4:7070 --from unix:/run/mail.sock --label env=prod
    capsule import --from agents.txt --dir services/search
    """
    from capsule.commands import adopt
    from capsule.commands.reconcile import make_transport

    options: Globals = ctx.obj
    urls, files = _sources(sources)
    agents = adopt.addresses(urls, files, insecure=insecure, ca=ca[0] if ca else None)
    chosen = adopt.labels_of(labels)
    with opened(options) as repository:
        folder = adopt.folder_for(repository.location, directory)
        state = repository.state
        in_force = {name: each.document.spec.agent.endpoint for name, each in state.services.items()}
        access = ssh_access(ssh_keys, ssh_config, known_hosts)
        transport = make_transport(dict([ca] if ca else []), access)
        try:
            with _progress(len(agents)) as done:
                answers = adopt.ask(agents, transport, timeout.total_seconds(), done)
        finally:
            transport.close()
        found = adopt.without_those_taken(answers, repository.location, in_force)
        _show(found)
        written = _write_all(found, folder, chosen, no_keys=no_keys, yes=yes)
        _next_steps(written, options.directory)
    if len(written) < len(found):
        ctx.exit(FINDINGS)


def _sources(texts: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Endpoints, and files with endpoints: what names a file that exists is one."""
    files = [Path(text) for text in texts if "://" not in text and not text.startswith("unix:")]
    return [text for text in texts if Path(text) not in files], files


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where there are many and somebody looks."""
    if total < _MANY or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        asking = bar.add_task("Asking agents", total=total)
        yield lambda: bar.advance(asking)


def _show(found: Sequence[Found]) -> None:
    screen = Screen()
    screen.table(
        [
            Column("SERVICE"), Column("ENDPOINT"), Column("VERSION"), Column("HEALTH"), Column("KEY"),
            Column("PINS", whole=False), Column("NOT IMPORTED", whole=False),
        ],
        [
            (
                each.name or "?", each.address.endpoint, each.version, each.health,
                each.key.fingerprint if each.key else "none: observed only" if each.usable else "",
                ", ".join(f"{name}={value}" for name, value in (each.pins or {}).items()),
                f"{each.reason}: {each.message}" if each.reason else "",
            )
            for each in found
        ],
    )  # fmt: skip
    for each in found:
        if each.left_out:
            screen.line(f"{each.name}: not pinned: {', '.join(each.left_out)}")
    screen.line()


def _write_all(
    found: Sequence[Found], folder: Path, labels: Mapping[str, str], *, no_keys: bool, yes: bool
) -> list[Path]:
    from capsule.commands.adopt import write

    usable = [each for each in found if each.usable]
    keyed = [each for each in usable if each.key and not no_keys]
    _explain_keys(keyed)
    if keyed and not yes and not sys.stdin.isatty():
        raise WrongUsage(
            "NobodyToAsk",
            "there is no terminal to ask on, and nothing was written",
            "Add --yes if you have compared the keys, or --no-keys to observe only.",
        )
    written = []
    for each in usable:
        with_key = each in keyed and (yes or _agreed(each))
        try:
            written.append(write(each, folder, labels, with_key=with_key, now=now()))
        except CommandError as error:
            Screen(err=True).problem(error.reason, str(error))
    return written


def _explain_keys(keyed: Sequence[Found]) -> None:
    if keyed:
        screen = Screen()
        screen.line("A report proves that its sender has the key, not whose agent it is: compare each key on")
        screen.line("the agent's own host, where  ssh-keygen -lf KEYFILE  prints the fingerprint, such as")
        screen.line("  ssh-keygen -lf /etc/capsule/agent_ed25519")
        screen.line()


def _agreed(each: Found) -> bool:
    assert each.key is not None  # only who has one is asked about
    return click.confirm(f"Is {each.key.fingerprint} the key of {each.name}? (no: observe only)")


def _next_steps(written: Sequence[Path], directory: Path) -> None:
    screen = Screen()
    if not written:
        screen.line("Nothing was written.")
        return
    many = "document" if len(written) == 1 else "documents"
    screen.line(f"{len(written)} {many} written, nothing committed. Next:", bold=True)
    there = f"git -C {shlex.quote(str(directory))}" if directory != Path() else "git"
    capsule = f"capsule -C {shlex.quote(str(directory))}" if directory != Path() else "capsule"
    screen.line(f"  {capsule} check")
    screen.line(f"  {there} switch -c import-services")
    screen.line(f"  {there} add services && {there} commit -m 'Import services'")
    screen.line(f"  {capsule} propose")


COMMANDS = {"import": import_}
