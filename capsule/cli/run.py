"""The verbs that run until they are stopped: reconcile, dashboard, up, demo."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capsule.cli.app import Globals
from capsule.cli.screen import Screen, clean
from capsule.cli.shared import opened
from capsule.cli.ssh_options import ssh_access, ssh_options
from capsule.commands.errors import FINDINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from capsule.commands.demo import SshServer, Story
    from capsule.commands.repository import Repository
    from capsule.web.server import Dashboard

_QUIET = ("urllib3", "waitress", "werkzeug", "paramiko", "dulwich")


def ca_file(text: str) -> tuple[str, Path]:
    """A private CA as name=file."""
    name, sign, file = text.partition("=")
    if not sign or not Path(file).is_file():
        raise click.BadParameter(f"{text!r} is not of the form name=file with a file that exists")
    return name, Path(file)


def address(text: str) -> tuple[str, int]:
    """An address as host:port; port 0 takes a free one."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is not of the form host:port, such as 127.0.0.1:8000")
    return host.strip("[]"), int(port)


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
_log = click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.command()
@click.option("--once", is_flag=True, help="Until nothing is left to do, then stop.")
@_key
@_name
@_ca
@ssh_options
@_log
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
    log_format: str,
) -> None:
    """Execute what is approved, once, and record the outcome on `audit`.

    Runs until SIGTERM or Ctrl-C, which finish what is under way. A repository has one owner on a machine.
    """
    from capsule.commands.reconcile import keep_reconciling, ready
    from capsule.commands.reconcile import once as run_once
    from capsule.daemon import stop_on_signals

    _logging(log_format)
    access = ssh_access(ssh_keys, ssh_config, known_hosts)
    with (
        opened(options) as repository,
        ready(repository, key=key, name=name, ca_files=dict(cas), ssh=access) as reconciler,
    ):
        if once:
            report = run_once(reconciler)
            Screen(err=True).line(
                f"audit is at {(report.audit or 'nothing')[:12]}"
                + (f"; {report.under_way} still under way" if report.under_way else "")
                + (f"; nothing is acted on: {report.stalled}" if report.stalled else "")
            )
            if report.stalled or report.under_way:
                click.get_current_context().exit(FINDINGS)
            return
        stop = threading.Event()
        with stop_on_signals(stop):
            keep_reconciling(reconciler, repository, stop)


@click.command()
@_bind
@_log
@click.pass_obj
def dashboard(options: Globals, bind: tuple[str, int], log_format: str) -> None:
    """Serve the dashboard: everything about the repository, read only. Stop it with Ctrl-C."""
    from capsule.daemon import stop_on_signals

    _logging(log_format)
    stop = threading.Event()
    with opened(options) as repository, serving(repository, bind), stop_on_signals(stop):
        stop.wait()


@click.command()
@_bind
@_key
@_name
@_ca
@ssh_options
@_log
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
    log_format: str,
) -> None:
    """Reconciler and dashboard in one process: all a small team runs. Stop it with Ctrl-C."""
    from capsule.commands.reconcile import keep_reconciling, ready
    from capsule.daemon import stop_on_signals

    _logging(log_format)
    stop = threading.Event()
    access = ssh_access(ssh_keys, ssh_config, known_hosts)
    with (
        opened(options) as repository,
        ready(repository, key=key, name=name, ca_files=dict(cas), ssh=access) as reconciler,
        serving(repository, bind),
        stop_on_signals(stop),
    ):
        keep_reconciling(reconciler, repository, stop)


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
        ),
        *bind,
    )
    try:
        Screen().line(f"Dashboard: {board.address}", bold=True)
        sys.stdout.flush()
        yield board
    finally:
        board.close()


def _logging(form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Plain())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Plain(logging.Formatter):
    """One line: time, level, text; a traceback of a defect follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        line = f"{when:%Y-%m-%dT%H:%M:%SZ} {record.levelname.lower():7} {clean(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


COMMANDS = {"reconcile": reconcile, "dashboard": dashboard, "up": up, "demo": demo}
