"""Which forge a repository lies at: its client, its refs, and the page where a person opens a pull request.

Rules kept: addresses are made from the settings, never from what a forge answers. Called by commands.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlencode

from capsule.documents.types import ForgeSettings
from capsule.forge.api import Forge
from capsule.forge.gitea import Gitea
from capsule.forge.github import GitHub
from capsule.forge.gitlab import GitLab
from capsule.forge.shapes import MAIN

_CLIENTS: dict[str, Callable[[str, str, Callable[[], str]], Forge]] = {
    "github": GitHub,
    "gitlab": GitLab,
    "gitea": Gitea,
}


def forge_of(settings: ForgeSettings, token: Callable[[], str]) -> Forge:
    """The client for the forge that `settings` name. Raises ForgeRefused for an address that is not safe."""
    return _CLIENTS[settings.kind](settings.server, settings.repository, token)


def head_ref(settings: ForgeSettings, number: int) -> str:
    """The ref under which the forge serves the head of a pull request, also of one from a fork."""
    kind = "merge-requests" if settings.kind == "gitlab" else "pull"
    return f"refs/{kind}/{number}/head"


def web_address(settings: ForgeSettings, branch: str) -> str:
    """The page on which a person opens the pull request of `branch` (a short name) by hand."""
    base = f"{settings.server.rstrip('/')}/{quote(settings.repository, safe='/')}"
    if settings.kind == "gitlab":
        query = {"merge_request[source_branch]": branch, "merge_request[target_branch]": MAIN}
        return f"{base}/-/merge_requests/new?{urlencode(query)}"
    compared = f"{base}/compare/{MAIN}...{quote(branch, safe='/')}"
    return f"{compared}?expand=1" if settings.kind == "github" else compared
