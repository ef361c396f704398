"""How commands reach the forge that the settings name.

Rules kept: a token comes from a file; without one nothing is asked of a forge. Called by reconcile,
pull_request and approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from capsule.commands.errors import CommandError, SetUpProblem
from capsule.documents.types import ForgeSettings
from capsule.forge.api import EvidenceUnavailable, Forge, ForgeError
from capsule.forge.choose import forge_of, token_in

Connect = Callable[[ForgeSettings], Forge]


def connector(token_file: Path | None) -> Connect | None:
    """What makes the client of a forge with the token in `token_file`; None without one."""
    if token_file is None:
        return None
    token = token_in(token_file)
    return lambda settings: forge_of(settings, token)


@contextmanager
def reaching(connect: Connect, settings: ForgeSettings) -> Iterator[Forge]:
    """The forge of `settings`, until left. Whatever it does not do becomes a SetUpProblem."""
    forge: Forge | None = None
    try:
        forge = connect(settings)
        yield forge
    except ForgeError as error:
        raise _told(error, settings) from None
    finally:
        if forge:
            forge.close()


def _told(error: ForgeError, settings: ForgeSettings) -> CommandError:
    hint = (
        "It may only be busy: try again in a moment."
        if isinstance(error, EvidenceUnavailable)
        else "See docs/how-to/use-a-forge.md for the rights that the token needs."
    )
    return SetUpProblem(error.reason, f"{settings.kind} at {settings.server}: {error}", hint)
