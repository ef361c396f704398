"""Which forge a repository lies at: its client, its token's file, and the page where a person opens a pull.

Rules kept: a token stands in a file that nobody else reads, and is read anew at each call, so that it may be
exchanged; addresses are made from the settings, never from what a forge answers. Called by commands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from capsule.documents.types import ForgeSettings
from capsule.forge.api import Forge, ForgeRefused
from capsule.forge.gitea import Gitea
from capsule.forge.github import GitHub
from capsule.forge.gitlab import GitLab
from capsule.forge.shapes import MAIN

MOST_TOKEN_BYTES = 4096
_CLIENTS: dict[str, Callable[[str, str, Callable[[], str]], Forge]] = {
    "github": GitHub,
    "gitlab": GitLab,
    "gitea": Gitea,
}


def forge_of(settings: ForgeSettings, token: Callable[[], str]) -> Forge:
    """The client for the forge that `settings` name. Raises ForgeRefused for an address that is not safe."""
    return _CLIENTS[settings.kind](settings.server, settings.repository, token)


def token_in(file: Path) -> Callable[[], str]:
    """What reads the token from `file`, which holds it and nothing else. It raises ForgeRefused."""

    def read() -> str:
        try:
            with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
                found = os.fstat(stream.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o007:
                    raise ForgeRefused(
                        "ForgeTokenUnreadable", f"others can read the token file {file}: chmod 600 {file}"
                    )
                text = stream.read(MOST_TOKEN_BYTES + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ForgeRefused("ForgeTokenUnreadable", f"the token file {file} cannot be read") from None
        if not text or len(text) > MOST_TOKEN_BYTES or not text.isprintable() or " " in text:
            raise ForgeRefused("ForgeTokenUnreadable", f"the token file {file} holds no token on one line")
        return text

    return read


def web_address(settings: ForgeSettings, branch: str) -> str:
    """The page on which a person opens the pull request of `branch` (a short name) by hand."""
    base = f"{settings.server.rstrip('/')}/{quote(settings.repository, safe='/')}"
    if settings.kind == "gitlab":
        query = {"merge_request[source_branch]": branch, "merge_request[target_branch]": MAIN}
        return f"{base}/-/merge_requests/new?{urlencode(query)}"
    compared = f"{base}/compare/{MAIN}...{quote(branch, safe='/')}"
    return f"{compared}?expand=1" if settings.kind == "github" else compared
