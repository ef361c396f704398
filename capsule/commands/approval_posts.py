"""The verdicts on open pull requests, and posting them there: one comment, and the check `capsule/approval`.

Rules kept: what a pull request holds is fetched and read, never checked out or run; every text of people is
escaped and of bounded size; a comment that cannot be written changes no verdict. Called by `capsule
approval`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from capsule.commands.approval import PullAnswer, Verdict, as_markdown, commit_named, judged_range
from capsule.commands.errors import CommandError, SetUpProblem
from capsule.commands.forge_access import Connect, reaching, told
from capsule.commands.git_program import GitFailed, run_git
from capsule.commands.pull_request import bounded
from capsule.commands.repository import Repository
from capsule.documents.types import ForgeSettings
from capsule.forge.api import CHECK, Forge, ForgeError, PullHead
from capsule.forge.choose import head_ref


@dataclass(frozen=True, slots=True)
class Posted:
    """One pull request. `problem`: why it could not be judged, or its check not set; `silent`: why the
    comment was not written, empty when it was."""

    number: int
    verdicts: tuple[Verdict, ...] = ()
    problem: CommandError | None = None
    silent: str = ""

    @property
    def satisfied(self) -> bool:
        """Whether its merge would need nothing more."""
        return self.problem is None and all(each.satisfied for each in self.verdicts)


def judge_pulls(
    repository: Repository, number: int | None, now: datetime, connect: Connect, *, post: bool
) -> Iterator[Posted]:
    """The verdict on pull request `number`, or on each open one (None), as it comes; told at the forge too
    with `post`. Raises SetUpProblem."""
    base = commit_named(repository, "main")
    settings = repository.judge(base).settings.document.spec.forge
    if settings is None:
        raise SetUpProblem(
            "NoForge",
            "capsule.yaml in force names no forge whose pull requests could be judged",
            "Propose it: spec.forge: {kind: github, server: https://github.com, repository: owner/name}",
        )
    with reaching(connect, settings) as forge:
        numbers = [number] if number else [each.number for each in forge.open_pulls()]
        judging = _Pulls(repository, base, now, settings, forge)
        for each in numbers:
            yield judging.posted(each) if post else judging.judged(each)[0]


class _Pulls:
    """Pull requests into one tip of main, judged one by one: what is wrong with one stops no other."""

    def __init__(
        self, repository: Repository, base: str, now: datetime, settings: ForgeSettings, forge: Forge
    ) -> None:
        self._repository = repository
        self._base = base
        self._now = now
        self._settings = settings
        self._forge = forge

    def judged(self, number: int) -> tuple[Posted, PullHead | None]:
        """The verdict, and the head that it is about, also where that cannot be judged; None where no head is
        known."""
        pull = None
        try:
            found = PullAnswer.of(self._forge, number)
            if found is None:
                raise SetUpProblem("PullRequestMissing", f"there is no pull request {number} into main")
            pull = PullHead(number, found.pull.head)
            self._fetch(number)
            verdicts = judged_range(self._repository, self._base, pull.head, self._now, found)
        except ForgeError as error:
            return Posted(number, problem=told(error, self._settings)), pull
        except CommandError as error:
            return Posted(number, problem=error), pull
        return Posted(number, verdicts), pull

    def posted(self, number: int) -> Posted:
        """The verdict, told at the forge."""
        found, pull = self.judged(number)
        if pull is None:
            return found
        if found.problem:  # a check that an earlier look set must not stay green
            return self._turned_red(found, found.problem, pull)
        silent = ""
        try:
            self._forge.comment(number, comment_text(found.verdicts, pull, self._base))
        except ForgeError as error:
            silent = f"{error.reason}: {error}"
        try:
            self._forge.set_check(pull, found.satisfied, status_text(found.verdicts))
        except ForgeError as error:
            why = told(error, self._settings)
            unset = SetUpProblem(why.reason, f"the check was not set: {why.message}", why.hint)
            return Posted(number, found.verdicts, unset, silent)
        return Posted(number, found.verdicts, silent=silent)

    def _turned_red(self, found: Posted, problem: CommandError, pull: PullHead) -> Posted:
        """The check of a head that cannot be judged, set to failure; where it is not, the problem says so."""
        try:
            self._forge.set_check(pull, False, f"cannot be judged: {problem.reason}")
        except ForgeError as error:
            message = f"{problem.message}; and its check, which may still be green, was not set: {error}"
            return replace(found, problem=SetUpProblem(problem.reason, message, problem.hint))
        return found

    def _fetch(self, number: int) -> None:
        """The objects of its head: no branch moves, and no file is written."""
        ref = head_ref(self._settings, number)
        try:
            run_git(
                self._repository.directory,
                *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"),
                *("origin", ref),
            )
        except GitFailed as error:
            raise SetUpProblem(
                "PullRequestMissing", f"{ref} cannot be fetched: {error}", f"git fetch origin {ref}"
            ) from None


def comment_text(verdicts: tuple[Verdict, ...], pull: PullHead, base: str) -> str:
    """What the comment says, in Markdown of bounded size."""
    passed = all(each.satisfied for each in verdicts)
    head = f"### {CHECK}: {'nothing is missing' if passed else 'not yet'}"
    foot = f"Judged: {pull.head[:12]} merged into main at {base[:12]}. This comment is kept up to date."
    return bounded("\n".join([head, "", foot, "", as_markdown(verdicts)]))


def status_text(verdicts: tuple[Verdict, ...]) -> str:
    """What stands beside the check; no text of anybody is in it."""
    if not verdicts:
        return "Nothing here needs approval"
    return f"{sum(each.satisfied for each in verdicts)} of {len(verdicts)} approved"
