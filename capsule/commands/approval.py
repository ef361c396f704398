"""`capsule approval`: whether the policy would be satisfied if a branch were merged, and by whom.

Rules kept: nothing is guessed: the merge is made, named by no ref, and judged by the very code that judges
main; reviews at the forge count as they would after the merge; nothing is signed and nothing is published.
Called by the check `capsule/approval` of CI definitions, and by
commands.approval_posts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from capsule.commands.errors import WrongUsage
from capsule.commands.forge_access import Connect, reaching
from capsule.commands.git_program import GitFailed, run_git
from capsule.commands.pull_request import escaped, plan_table, table
from capsule.commands.repository import Repository
from capsule.commands.writing import branch_changes
from capsule.documents.paths import SIGNERS, SIGNERS_FOLDER, RequestFolder
from capsule.documents.types import Attestation, Writer
from capsule.forge.api import Forge, RawPull
from capsule.plan import missing_text
from capsule.reconciler.evidence import facts_of
from capsule.reconciler.pull_facts import writers_of
from capsule.store.api import Draft, Person
from capsule.trust.attestations import attest
from capsule.trust.change_reviews import Origin, attest_change
from capsule.trust.hearing import hear
from capsule.trust.objects import find, read_commit
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, MainState, MissingApproval

_NOBODY = Person("capsule approval", "approval@capsule.invalid")
_MOST_MERGERS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """One request or change that the range brings in. `mergers`: whoever of them merges it approves it by
    that; `why` says what is missing or refused; `plan` is what a request will do, as a Markdown table."""

    subject: str
    satisfied: bool
    why: str = ""
    mergers: tuple[str, ...] = ()
    plan: str = ""


class PullAnswer:
    """What the forge says of a pull request: its reviews, and, asked for where it matters, who wrote its
    commits: nobody lets in what is their own."""

    def __init__(self, pull: RawPull, forge: Forge) -> None:
        self.pull = pull
        self._forge = forge

    @classmethod
    def of(cls, forge: Forge, number: int) -> PullAnswer | None:
        """What `forge` says of that pull request; None where it has none. Raises ForgeError."""
        pull = forge.pull(number)
        return cls(pull, forge) if pull else None

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Who wrote its commits. Raises ForgeError."""
        return writers_of(self._forge, self.pull.number)


def approval(
    repository: Repository,
    target: str,
    now: datetime,
    *,
    pull: int | None = None,
    connect: Connect | None = None,
) -> tuple[Verdict, ...]:
    """The verdict on everything that BASE..HEAD asks for or changes; empty when that is nothing.

    `pull` is the number of the pull request whose reviews count, asked for by `connect`. Raises WrongUsage,
    SetUpProblem.
    """
    base, head = _ends(repository, target)
    settings = repository.judge(base).settings.document.spec.forge
    if pull is None or connect is None or settings is None:
        return judged_range(repository, base, head, now, None)
    with reaching(connect, settings) as forge:
        return judged_range(repository, base, head, now, PullAnswer.of(forge, pull))


def judged_range(
    repository: Repository, base: str, head: str, now: datetime, told: PullAnswer | None
) -> tuple[Verdict, ...]:
    """The verdict on what the commit `head` brings to `base`, with the reviews that a forge told.

    Raises WrongUsage where these are about another head.
    """
    if told and told.pull.head != head:
        pull = told.pull
        raise WrongUsage(
            "HeadMoved", f"pull request {pull.number} is at {pull.head[:12]}, and HEAD is {head[:12]}"
        )
    if not branch_changes(repository, base, head):
        return ()
    judging = _Judging(repository, base, head, now, told)
    found = judging.verdicts(_NOBODY)
    open_still = {name for name, each in found.items() if not each.satisfied}
    mergers = _mergers(judging, open_still) if open_still else {}
    return tuple(
        replace(each, satisfied=each.satisfied or name in mergers, mergers=mergers.get(name, ()))
        for name, each in sorted(found.items())
    )


def as_text(verdicts: Sequence[Verdict]) -> str:
    """One line for each."""
    return (
        "".join(f"{each.subject}: {_words(each)}\n" for each in verdicts) or "Nothing here needs approval.\n"
    )


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table for a job summary or a comment; everything in it is escaped."""
    if not verdicts:
        return "Nothing here needs approval.\n"
    lines = table(("what", "approval"), [(each.subject, _words(each)) for each in verdicts])
    for each in verdicts:
        lines += ["", f"### Plan of {escaped(each.subject)}", "", each.plan] if each.plan else []
    return "\n".join([*lines, ""])


def _words(verdict: Verdict) -> str:
    if verdict.mergers:
        return f"approved by whoever of {', '.join(verdict.mergers)} merges it"
    return "approved" if verdict.satisfied else verdict.why


def _ends(repository: Repository, target: str) -> tuple[str, str]:
    base, dots, head = target.replace("...", "..").partition("..")
    if not dots:
        raise WrongUsage(
            "BadRange", f"{target!r} is not of the form BASE..HEAD", "capsule approval main..HEAD"
        )
    return commit_named(repository, base or "main"), commit_named(repository, head or "HEAD")


def commit_named(repository: Repository, name: str) -> str:
    """The id of the commit that a person calls `name`. Raises WrongUsage."""
    tried = [f"refs/heads/{name}", f"refs/remotes/origin/{name}", name]
    for each in tried if not name.startswith("-") else ():
        try:
            options = ("rev-parse", "--verify", "--quiet", "--end-of-options")
            return run_git(repository.directory, *options, f"{each}^{{commit}}")
        except GitFailed:
            continue
    raise WrongUsage("BadRevision", f"{name!r} is no revision here", "capsule approval main..HEAD")


def _mergers(judging: _Judging, names: set[str]) -> dict[str, tuple[str, ...]]:
    """Who, by merging, would approve each of `names`: only where a rule takes a merge as evidence."""
    found: dict[str, list[str]] = {}
    for person, email in judging.candidates(names):
        for name, each in judging.verdicts(Person(person, email)).items():
            if name in names and each.satisfied:
                found.setdefault(name, []).append(person)
    return {name: tuple(people) for name, people in found.items()}


class _Judging:
    """Merges of one branch into one base, judged."""

    def __init__(
        self, repository: Repository, base: str, head: str, now: datetime, told: PullAnswer | None
    ) -> None:
        self._repository = repository
        self._base = base
        self._head = head
        self._now = now
        self._told = told
        self._edits = branch_changes(repository, base, head)
        self._missing: dict[str, tuple[MissingApproval, ...]] = {}

    def verdicts(self, merger: Person) -> dict[str, Verdict]:
        """The verdicts by subject, if `merger` merged it now."""
        store = self._repository.store
        merge = store.write(
            Draft(
                base=self._base,
                edits=self._edits,
                parents=[self._base, self._head],
                message="What a merge would be\n",
                author=merger,
                at=self._now,
            )
        )
        state = self._reviewed(self._repository.judge(merge), merge)
        return {each.subject: each for each in (*self._changes(state), *self._requests(state, merge))}

    def _reviewed(self, state: MainState, merge: str) -> MainState:
        """Main as it would be once a reconciler has recorded what the forge says of the merge."""
        settings = state.settings.document.spec.forge
        paths = [each.path for each in state.pending if each.since == merge and each.takes_reviews]
        if self._told is None or settings is None or not paths:
            return state
        store = self._repository.store
        tree = read_commit(store, self._head).tree
        blobs = {path: entry.oid for path in paths if (entry := find(store, tree, path))}
        told = attest_change(
            facts_of(settings, self._told.pull, merge, blobs),
            Origin(self._told.writers, self._at_the_fork(paths)),
            policy=state.policy.document,
            steps=(merge,),
            absent=[path for path in paths if path not in blobs],
            revision=state.tip,
            reconciler="approval",
            now=self._now,
        )
        return hear(store, state, told)

    def _at_the_fork(self, paths: Collection[str]) -> dict[str, str]:
        """The blob ids of `paths` where the branch left its base."""
        store = self._repository.store
        fork = run_git(
            self._repository.directory, "--no-replace-objects", "merge-base", self._base, self._head
        )
        tree = read_commit(store, fork).tree
        return {path: entry.oid for path in paths if (entry := find(store, tree, path))}

    def candidates(self, names: set[str]) -> Iterator[tuple[str, str]]:
        """The people who may still approve one of `names`, with the e-mail that merges of theirs carry."""
        policy = self._repository.judge(self._base).policy.document
        missing = [each for name in names for each in self._missing.get(name, ())]
        for name in sorted({name for each in missing for name in each.candidates})[:_MOST_MERGERS]:
            email = policy.spec.principals[name].email
            if email:
                yield name, email

    def _changes(self, state: MainState) -> Iterator[Verdict]:
        if state.suspended:
            yield Verdict("main", False, f"{state.suspended.message} [{state.suspended.reason}]")
        listed = any(path.startswith(f"{SIGNERS_FOLDER}/") for path in self._edits)
        touched = {*self._edits, SIGNERS} if listed else {*self._edits}  # a signature alone bears on the list
        wrong = [each for each in state.findings if each.severity == "error" and each.path in touched]
        for finding in wrong:
            yield Verdict(finding.path, False, f"{finding.message} [{finding.reason}]")
        if listed and all(finding.path != SIGNERS for finding in wrong):
            yield Verdict(SIGNERS, True)
        pending = {each.path: each for each in state.pending if each.path in self._edits}
        for path, change in pending.items():
            self._missing[path] = change.missing
            yield Verdict(path, False, f"{change.message} [{change.reason}]")
        in_force = {each.path for each in state.services.values()} | {state.policy.path, state.settings.path}
        for path in sorted((in_force & self._edits.keys()) - pending.keys()):
            yield Verdict(path, True)

    def _requests(self, state: MainState, merge: str) -> Iterator[Verdict]:
        store = self._repository.store
        judged = judge_requests(store, state, {}, now=self._now)
        mine = {each.name: each for each in judged.values() if self._touched(each)}
        told = self._attestations(state, mine, merge)
        if told:
            judged = judge_requests(store, state, {}, judged, now=self._now, attestations=told)
            mine = {name: judged[name] for name in mine}
        for name, each in mine.items():
            self._missing[name] = each.missing
            why = f"waits for {missing_text(each)}" if each.missing else f"{each.message} [{each.reason}]"
            plan = plan_table(state, each) if each.document else ""
            yield Verdict(name, each.verdict == "approved", why, plan=plan)

    def _touched(self, judged: JudgedRequest) -> bool:
        folder = RequestFolder.of(judged.path)
        return folder is not None and any(path.startswith(f"{folder.folder}/") for path in self._edits)

    def _attestations(
        self, state: MainState, mine: Mapping[str, JudgedRequest], merge: str
    ) -> dict[str, tuple[Attestation, ...]]:
        """What a reconciler would record of the reviews after the merge."""
        settings = state.settings.document.spec.forge
        if self._told is None or settings is None:
            return {}
        store = self._repository.store
        found: dict[str, tuple[Attestation, ...]] = {}
        tree = read_commit(store, self._head).tree
        for name, judged in mine.items():
            entry = find(store, tree, judged.path)
            paths = {judged.path: entry.oid} if entry else {}
            facts = facts_of(settings, self._told.pull, merge, paths)
            found[name] = (
                attest(
                    judged,
                    facts,
                    policy=state.policy.document,
                    revision=merge,
                    reconciler="approval",
                    now=self._now,
                ),
            )
        return found
