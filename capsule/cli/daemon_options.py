"""The options of what runs until it is stopped: its log, and what monitoring asks it.

Rules kept: the environment is read here, nowhere below, and what a service manager put there for this process
is taken out, so that no child (git, ssh) speaks in its name. Called by reconcile, dashboard and up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from capsule.cli.screen import Screen

if TYPE_CHECKING:
    from capsule.commands.reconcile import Ready
    from capsule.commands.repository import Repository
    from capsule.daemon import Manager, Metrics, Turn, Wishes

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("human", "json")
LEVELS = ("debug", "info", "warning", "error")


def address(text: str) -> tuple[str, int]:
    """An address as host:port; port 0 takes a free one."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is not of the form host:port, such as 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def monitored_address(text: str) -> tuple[str, int]:
    """As `address`; a port alone is one of loopback."""
    return address(text if ":" in text else f"127.0.0.1:{text}")


_format: Callable[[Any], Any] = click.option(
    "--log-format", type=click.Choice(FORMATS), default="human", show_default=True,
    help="One line for people, or one JSON object, for each record; both on standard error.",
)  # fmt: skip
_level: Callable[[Any], Any] = click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="From which level up."
)
_metrics: Callable[[Any], Any] = click.option(
    "--metrics", type=monitored_address, metavar="[HOST:]PORT",
    help="Answer /metrics, /healthz and /readyz there, such as 9464 or 127.0.0.1:9464 (off by default).",
)  # fmt: skip
_beyond: Callable[[Any], Any] = click.option(
    "--metrics-beyond-loopback", is_flag=True,
    help="Let --metrics name an address that other machines reach; nobody is asked who they are.",
)  # fmt: skip


def log_options(function: F) -> F:
    """`--log-format`, `--log-level`."""
    wrapped: F = _format(_level(function))
    return wrapped


def monitoring_options(function: F) -> F:
    """`--metrics`, `--metrics-beyond-loopback`."""
    wrapped: F = _metrics(_beyond(function))
    return wrapped


def set_up_logs(form: str, level: str) -> None:
    """The log of this process goes to standard error."""
    from capsule.daemon import set_up_logs as set_up

    set_up(sys.stderr, form, level)


@dataclass(frozen=True, slots=True)
class Watched:
    """A daemon as the service manager and monitoring see it. `metrics` is None when nobody asks for any."""

    manager: Manager
    metrics: Metrics | None = None
    turned: Sequence[Callable[[Turn], None]] = ()


@contextmanager
def watched(where: tuple[str, int] | None, beyond_loopback: bool, rhythm: float) -> Iterator[Watched]:
    """Listen for monitoring at `where`, and speak to the service manager that started this process.

    `rhythm`: seconds between two passes.
    """
    from capsule.daemon import BeyondLoopback, Metrics, Vitals, serve_monitoring

    with ExitStack() as stack:
        manager = stack.enter_context(_manager())
        if where is None:
            yield Watched(manager)
            return
        metrics, vitals = Metrics(), Vitals(rhythm)
        try:
            served = serve_monitoring(metrics, vitals, *where, beyond_loopback=beyond_loopback)
        except BeyondLoopback as error:
            raise click.UsageError(
                f"--metrics: {error}; add --metrics-beyond-loopback if that is meant"
            ) from None
        stack.callback(served.close)
        Screen(err=True).line(f"Monitoring: {served.address}metrics")
        yield Watched(manager, metrics, (vitals.turned, metrics.turned))


def _manager() -> Manager:
    from capsule.daemon import Manager

    socket = os.environ.pop("NOTIFY_SOCKET", None)
    watchdog, process = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    ours = watchdog.isdigit() and process in ("", str(os.getpid()))
    return Manager(socket, watchdog=int(watchdog) / 1_000_000 if ours else None)


def keep_running(
    made: Ready, repository: Repository, watching: Watched, wishes: Wishes, notify_dir: Path | None
) -> None:
    """Passes until there is a wish to stop; people are told by way of the receivers in `notify_dir`."""
    from capsule.commands.notify import telling
    from capsule.commands.reconcile import keep_reconciling

    if watching.metrics:
        watching.metrics.count_with(made.reconciler.standing)
        made = replace(made, reread=watching.metrics.counting(made.reread))
    with kept_up(repository), telling(repository, notify_dir) as after_pass:
        turned = (*watching.turned, after_pass)
        keep_reconciling(made, repository, wishes, manager=watching.manager, turned=turned)


def kept_up(repository: Repository) -> AbstractContextManager[None]:
    """What is left loose by commits and fetches is packed from time to time, in the background."""
    from capsule.daemon import upkeep

    return upkeep(lambda ending: repository.store.maintenance(when_due=True, ending=ending))
