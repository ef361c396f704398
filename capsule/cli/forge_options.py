"""The options that say how the forge is reached, and where its webhooks are received.

Rules kept: secrets stand in files, which alone are named. Called by request, approval, reconcile and up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from capsule.cli.daemon_options import address
from capsule.cli.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

_file = click.Path(path_type=Path, dir_okay=False)
_token: Callable[[Any], Any] = click.option(
    "--forge-token-file", type=_file, envvar="CAPSULE_FORGE_TOKEN_FILE", metavar="FILE",
    help="File with a token for the forge's API and the address it is for (CAPSULE_FORGE_TOKEN_FILE).",
)  # fmt: skip
_webhook: Callable[[Any], Any] = click.option(
    "--webhook", type=address, metavar="HOST:PORT",
    help="Receive the forge's webhooks there, at /webhook/github, gitlab, gitea or forgejo (off by default).",
)  # fmt: skip
_secret: Callable[[Any], Any] = click.option(
    "--webhook-secret-file", type=_file, metavar="FILE",
    help="File with the secret that was given to the forge; for --webhook.",
)  # fmt: skip


def forge_token_option(function: F) -> F:
    """`--forge-token-file`."""
    wrapped: F = _token(function)
    return wrapped


def webhook_secret_option(function: F) -> F:
    """`--webhook-secret-file`."""
    wrapped: F = _secret(function)
    return wrapped


def forge_options(function: F) -> F:
    """`--forge-token-file`, `--webhook`, `--webhook-secret-file`."""
    wrapped: F = _token(_webhook(_secret(function)))
    return wrapped


@contextmanager
def receiving(
    where: tuple[str, int] | None, secret_file: Path | None, ring: Callable[[], object]
) -> Iterator[None]:
    """Receive webhooks at `where` until left; each genuine one calls `ring`, a few times a second at most."""
    from capsule.daemon import Bell, serve_webhooks
    from capsule.forge.api import ForgeError
    from capsule.forge.credential import secret_in

    if where is None:
        yield
        return
    if secret_file is None:
        raise click.UsageError("--webhook needs --webhook-secret-file: anybody could wake the reconciler.")
    secret = secret_in(secret_file)
    try:
        secret()
    except ForgeError as error:
        raise click.UsageError(f"--webhook-secret-file: {error}") from None
    bell = Bell(ring)
    try:
        served = serve_webhooks(secret, bell, *where)
    except OSError:
        bell.close()
        raise
    try:
        Screen(err=True).line(f"Webhooks: {served.address}webhook/")
        yield
    finally:
        served.close()
        bell.close()
