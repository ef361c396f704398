"""What `--push` of the verbs that ask does after the request lies on its branch. Called by cli.asking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capsule.cli.screen import Screen

if TYPE_CHECKING:
    from capsule.commands.repository import Repository
    from capsule.trust.state import JudgedRequest


@dataclass(frozen=True, slots=True)
class PullRequests:
    """Whether a pull request is wanted, and the file with the token to open it."""

    wanted: bool
    token_file: Path | None

    def check(self, repository: Repository) -> None:
        """Raises SetUpProblem where no pull request could be opened, before anything is written."""
        from capsule.commands.pull_request import require_forge

        if self.wanted:
            require_forge(repository)

    def open(self, repository: Repository, judged: JudgedRequest) -> None:
        """Open it, or say where a person does. Raises SetUpProblem; the request stays on its branch then."""
        from capsule.commands.forge_access import connector
        from capsule.commands.pull_request import push

        if not self.wanted or judged.verdict == "approved":
            return
        done = push(repository, judged, connector(self.token_file))
        screen = Screen()
        if not done.opened:
            screen.line(f"Open the pull request: {done.address}")
            return
        screen.line(f"Pull request {done.number}: {done.address}", style="green")
        if done.unasked:
            screen.line(f"Not asked there: {', '.join(done.unasked)}. Tell them yourself.", style="yellow")
