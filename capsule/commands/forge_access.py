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
from capsule.forge.choose import forge_of
from capsule.forge.credential import token_in

_ABOUT_THE_FILE = ("ForgeServerChanged", "ForgeTokenUnreadable")
Connect = Callable[[ForgeSettings], Forge]


def connector(token_file: Path | None) -> Connect | None:
    """What makes the client of a forge with the token in `token_file`, if it is for that forge; None without
    a file."""
    if token_file is None:
        return None
    return lambda settings: forge_of(settings, token_in(token_file, settings))


@contextmanager
def reaching(connect: Connect, settings: ForgeSettings) -> Iterator[Forge]:
    """The forge of `settings`, until left. Whatever it does not do becomes a SetUpProblem."""
    forge: Forge | None = None
    try:
        forge = connect(settings)
        yield forge
    except ForgeError as error:
        raise told(error, settings) from None
    finally:
        if forge:
            forge.close()


def told(error: ForgeError, settings: ForgeSettings) -> CommandError:
    """What a person is told of a call that failed, and what to do next."""
    if isinstance(error, EvidenceUnavailable):
        hint = "It may only be busy: try again in a moment."
    elif error.reason in _ABOUT_THE_FILE:
        hint = f"The file holds one line: TOKEN {settings.server.rstrip('/')}/{settings.repository}"
    else:
        hint = "See docs/how-to/use-a-forge.md for the rights that the token needs."
    return SetUpProblem(error.reason, f"{settings.kind} at {settings.server}: {error}", hint)
