"""The verbs that run until they are stopped: reconcile, dashboard, up, demo."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.daemon_options import (
    address,
    keep_running,
    kept_up,
    log_options,
    monitoring_options,
    set_up_logs,
    watched,
)
from capsule.cli.forge_options import forge_options, receiving
from capsule.cli.notify import notify_dir_option
from capsule.cli.screen import Screen
from capsule.cli.shared import opened
from capsule.cli.ssh_options import ssh_access, ssh_options
from capsule.commands.errors import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from capsule.commands.demo import SshServer, Story
    from capsule.commands.repository import Repository
    from capsule.reconciler import PassReport
    from capsule.web.server import Dashboard


def ca_file(text: str) -> tuple[str, Path]:
    """A private CA as name=file."""
    name, sign, file = text.partition("=")
    if not sign or not Path(file).is_file():
        raise click.BadParameter(f"{text!r} is not of the form name=file with a file that exists")
    return name, Path(file)


_key = click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), envvar="CAPSULE_RECONCILER_KEY", metavar="FILE",
    help="The reconciler's private key (CAPSULE_RECONCILER_KEY; the one init made by default).",
)  # fmt: skip
_name = click.option("--name", metavar="NAME", help="The reconciler's principal (found by its key).")
_ca = click.option(
    "--ca",
    "cas",
    type=ca_file,
    metavar="NAME=FILE",
    multiple=True,
    help="A private CA by the name services use.",
)
_bind = click.option(
    "--bind",
    type=address,
    metavar="HOST:PORT",
    default="127.0.0.1:8000",
    show_default=True,
    help="Where to listen.",
)


@click.command()
@click.option("--once", is_flag=True, help="Until nothing is left to do, then stop.")
@_key
@_name
@_ca
@ssh_options
@forge_options
@notify_dir_option
@monitoring_options
@log_options
@click.pass_obj
def reconcile(
    options: Globals,
    once: bool,
    key: Path | None,
    name: str | None,
    cas: tuple[tuple[str, Path], ...],
    ssh_keys: tuple[Path, ...],
    ssh_config: Path | None,
    known_hosts: tuple[Path, ...],
    forge_token_file: Path | None,
    webhook: tuple[str, int] | None,
    webhook_secret_file: Path | None,
    notify_dir: Path | None,
    metrics: tuple[str, int] | None,
    metrics_beyond_loopback: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Execute what is approved, once, and record the outcome on `audit`.

    Runs until SIGTERM or Ctrl-C, which finish what is under way. Without a terminal, SIGHUP reads the key,
    the CAs and the SSH access again. A repository has one owner on a machine.
    """
    from capsule.commands.notify import telling
    from capsule.commands.reconcile import Files, ready, rhythm
    from capsule.commands.reconcile import once as run_once
    from capsule.daemon import Wishes, follow_signals

    set_up_logs(log_format, log_level)
    access = ssh_access(ssh_keys, ssh_config, known_hosts)
    files = Files(key, dict(cas), access, forge_token_file)
    wishes = Wishes()
    with opened(options) as repository:
        if once:
            with ready(repository, files, name=name) as made, telling(repository, notify_dir):
                _tell(run_once(made.reconciler))
            return
        with (
            follow_signals(wishes, rereads=not sys.stdin.isatty()),
            watched(metrics, metrics_beyond_loopback, rhythm(repository)) as watching,
            ready(repository, files, name=name, watcher=watching.metrics) as made,
            receiving(webhook, webhook_secret_file, made.reconciler.ring),
        ):
            keep_running(made, repository, watching, wishes, notify_dir)


def _tell(report: PassReport) -> None:
    Screen(err=True).line(
        f"audit is at {(report.audit or 'nothing')[:12]}"
        + (f"; {report.under_way} still under way" if report.under_way else "")
        + (f"; nothing is acted on: {report.stalled}" if report.stalled else "")
    )
    if report.stalled or report.under_way:
        click.get_current_context().exit(FINDINGS)


@click.command()
@_bind
@log_options
@click.pass_obj
def dashboard(options: Globals, bind: tuple[str, int], log_format: str, log_level: str) -> None:
    """Serve the dashboard: everything about the repository, read only. Stop it with Ctrl-C."""
    from capsule.daemon import Wishes, follow_signals

    set_up_logs(log_format, log_level)
    wishes = Wishes()
    with (
        opened(options) as repository,
        serving(repository, bind),
        kept_up(repository),
        follow_signals(wishes, rereads=False),
    ):
        wishes.stop.wait()


@click.command()
@_bind
@_key
@_name
@_ca
@ssh_options
@forge_options
@notify_dir_option
@monitoring_options
@log_options
@click.pass_obj
def up(
    options: Globals,
    bind: tuple[str, int],
    key: Path | None,
    name: str | None,
    cas: tuple[tuple[str, Path], ...],
    ssh_keys: tuple[Path, ...],
    ssh_config: Path | None,
    known_hosts: tuple[Path, ...],
    forge_token_file: Path | None,
    webhook: tuple[str, int] | None,
    webhook_secret_file: Path | None,
    notify_dir: Path | None,
    metrics: tuple[str, int] | None,
    metrics_beyond_loopback: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Reconciler and dashboard in one process: all a small team runs. Stop it with Ctrl-C."""
    from capsule.commands.reconcile import Files, ready, rhythm
    from capsule.daemon import Wishes, follow_signals

    set_up_logs(log_format, log_level)
    access = ssh_access(ssh_keys, ssh_config, known_hosts)
    files = Files(key, dict(cas), access, forge_token_file)
    wishes = Wishes()
    with (
        opened(options) as repository,
        follow_signals(wishes, rereads=not sys.stdin.isatty()),
        watched(metrics, metrics_beyond_loopback, rhythm(repository)) as watching,
        ready(repository, files, name=name, watcher=watching.metrics) as made,
        receiving(webhook, webhook_secret_file, made.reconciler.ring),
        serving(repository, bind),
    ):
        keep_running(made, repository, watching, wishes, notify_dir)


@click.command()
@click.option("--once", is_flag=True, help="Stop after the last step; exit code 0 only if every check held.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), metavar="D",
    help="Keep everything in D (the state repository is D/state) instead of a temporary folder.",
)  # fmt: skip
@_bind
@click.option(
    "--ssh-server", type=click.Choice(["auto", "openssh", "built-in"]), default="auto", show_default=True,
    help="What the third service is behind: OpenSSH's sshd, a small server in Python, or what works here.",
)  # fmt: skip
@click.pass_context
def demo(
    ctx: click.Context, once: bool, directory: Path | None, bind: tuple[str, int], ssh_server: SshServer
) -> None:
    """See a key rotation from request to proof, on this machine.

    Three real services in front of an AWS that runs here, one of them reached over SSH alone, a fresh state
    repository, alice who asks and bob who approves. Every step is checked against the upstream itself.
    """
    from capsule.cli.narration import Narration
    from capsule.commands.demo import play

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends everything, as Ctrl-C does
    if ctx.get_parameter_source("bind") is click.core.ParameterSource.DEFAULT:
        bind = (bind[0], 0) if once else bind
    story: Story = play(directory, Narration(), bind=bind, stay=not once, ssh_server=ssh_server)
    if not story.held:
        ctx.exit(FINDINGS)


@contextmanager
def serving(repository: Repository, bind: tuple[str, int]) -> Iterator[Dashboard]:
    """A dashboard of `repository`, served in the background; prints its address."""
    from capsule.store.git import open_store
    from capsule.web.app import create_app
    from capsule.web.server import serve_dashboard

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731 (a clock is a value here)
    board = serve_dashboard(
        create_app(
            lambda: open_store(repository.directory, settings=repository.remote_settings),
            repository.root,
            clock,
            proved=repository.proved,
        ),
        *bind,
    )
    try:
        Screen().line(f"Dashboard: {board.address}", bold=True)
        sys.stdout.flush()
        yield board
    finally:
        board.close()


COMMANDS = {"reconcile": reconcile, "dashboard": dashboard, "up": up, "demo": demo}
