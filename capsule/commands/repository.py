"""Opening a state repository: where it is, which root it is judged from, and what is in force there.

Rules kept: what stands in the tree is never used before trust judged it; nothing is signed on top of a
root that nobody vouched for. Called by every verb that works on a repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from capsule.commands.audit_memory import proved_tip
from capsule.commands.errors import CommandError, SetUpProblem, WrongUsage
from capsule.commands.git_program import WHERE_TO_FIND_ONE, GitFailed, Location, locate, run_git, setting
from capsule.commands.remote_settings import remote_settings
from capsule.documents.paths import AUDIT, MAIN, POLICY, REQUEST_BRANCHES
from capsule.documents.types import Policy
from capsule.lifecycle import Records, read_records
from capsule.trust.believed import Belief
from capsule.trust.key_validity import SeenOnAudit, policy_at
from capsule.trust.mainline import BadRoot, judge
from capsule.trust.objects import BadObject, MissingObject, NotDescended, find, read_commit
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.mainline import judged_main

if TYPE_CHECKING:
    from capsule.store.git import GitStore, RemoteSettings

RootSource = Literal["option", "setting", "first commit"]
_HEX = frozenset("0123456789abcdef")


@dataclass
class Repository:
    """An open state repository. `root_source` says who vouched for the root."""

    location: Location
    store: GitStore
    root: str
    root_source: RootSource
    remote_settings: RemoteSettings
    now: datetime | None = None
    """The time of what audit has not taken in, for keys that speak for a while only."""
    _refreshed: bool = False
    _records: Records = field(default_factory=Records)

    def refresh(self) -> None:
        """Fetch what is new at the remote, once; whoever signs, signs on top of what is so now."""
        if not self._refreshed:
            self.store.refresh()
            self._refreshed = True
            self.__dict__.pop("belief", None)

    @property
    def directory(self) -> Path:
        """Where git is called: the work tree, or the bare repository."""
        return self.location.work_tree or self.location.git_dir

    @property
    def refs(self) -> Mapping[str, str]:
        """All refs as last seen of the authority."""
        return self.store.refs()

    @property
    def local_refs(self) -> Mapping[str, str]:
        """All refs of this clone itself: a branch that was never pushed is only here."""
        return self.store.local_refs()

    @property
    def main(self) -> str:
        """The tip of main. Raises SetUpProblem when there is none."""
        tip = self.refs.get(MAIN)
        if tip is None:
            raise SetUpProblem(
                "NoMain",
                f"{self.directory} has no branch main",
                "A state repository begins with `capsule init DIR`; a clone gets it with `git fetch`.",
            )
        return tip

    @property
    def audit(self) -> str | None:
        """The tip of audit; None before the first pass."""
        return self.refs.get(AUDIT)

    @cached_property
    def belief(self) -> Belief:
        """Main as judged when it was first asked for, suspended when audit has seen another main; and how
        much of audit is believed."""
        with self._explained():
            return judged_main(self.store, self.root, self.main, self.audit, self.now, proved=self.proved)

    @property
    def state(self) -> MainState:
        """Main as judged when it was first asked for."""
        return self.belief.state

    @property
    def policy(self) -> Policy:
        """The policy in force, with the keys that speak now."""
        return policy_at(self.state.policy.document, self.now)

    def judge(self, tip: str) -> MainState:
        """Main as it would be judged with `tip` as its tip, beside as much of audit as is believed."""
        return self._beside(tip, self.belief.commit)

    def proved_state(self) -> MainState:
        """Main, judged beside no more of audit than was proved here."""
        return self._beside(self.main, self.proved())

    def _beside(self, tip: str, audit: str | None) -> MainState:
        seen = SeenOnAudit(self.store, self.root, tip, audit, self.now)
        with self._explained():
            return judge(self.store, self.root, tip, seen=seen)

    def proved(self) -> str | None:
        """The commit of audit that was proved last in this clone."""
        return proved_tip(self.store.git_folder, self.root)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what to do about whatever keeps main from being judged."""
        try:
            yield
        except (BadRoot, NotDescended) as error:
            raise SetUpProblem(
                "BadRoot",
                f"main cannot be judged from the root {self.root}: {error}",
                "Is it the id an owner told you? See --root, CAPSULE_ROOT and `git config capsule.root`.",
            ) from None
        except MissingObject as error:
            raise self.missing(error) from None
        except BadObject as error:
            raise CommandError(
                error.reason, f"an object of this repository cannot be trusted: {error}"
            ) from None

    def missing(self, error: MissingObject) -> SetUpProblem:
        """What to say of an object that is not here: a part of an incomplete clone, or the root itself."""
        if self.store.history_cut():
            return history_missing(self.directory)
        try:
            self.store.read(self.root)
        except MissingObject:
            return SetUpProblem(
                "BadRoot",
                f"there is no commit {self.root} here, so this is not the repository with that root",
                "See --root, CAPSULE_ROOT and `git config capsule.root`.",
            )
        return incomplete_clone(self.directory, error)

    def require_history(self, why: str) -> None:
        """Raises SetUpProblem in a clone whose history was cut off; `why` says who needs it."""
        if self.store.history_cut():
            problem = history_missing(self.directory)
            raise SetUpProblem(problem.reason, f"{problem}; {why}", problem.hint)

    def requests(self, state: MainState) -> Mapping[str, JudgedRequest]:
        """Every request of `state` and of the request branches, judged."""
        return self._judged(state, self.refs)

    def judge_branch(self, state: MainState, branch: str, commit: str) -> JudgedRequest | None:
        """The request on `branch` (a full ref name), as it would be judged with `commit` as its tip."""
        return self._judged(state, {**self.refs, branch: commit}).get(branch.removeprefix(REQUEST_BRANCHES))

    def _judged(self, state: MainState, refs: Mapping[str, str]) -> Mapping[str, JudgedRequest]:
        branches = {name: oid for name, oid in refs.items() if name.startswith(REQUEST_BRANCHES)}
        believed = self.belief.commit
        records = self.records() if believed == self.audit else read_records(self.store, believed)
        begun, told = records.begun, records.attestations()
        return judge_requests(self.store, state, branches, begun=begun, attestations=told)

    def records(self) -> Records:
        """What reconcilers have recorded, at the tip of audit; what did not change is not read again."""
        self._records = read_records(self.store, self.audit, self._records)
        return self._records

    def require_pinned(self) -> None:
        """Raises SetUpProblem unless a person vouched for the root."""
        if self.root_source == "first commit":
            raise SetUpProblem(
                "RootNotPinned",
                "the root of this repository is not pinned, so nothing that follows from it can be trusted",
                f"Its first commit is {self.root}. If an owner told you the same id:\n"
                f"  git -C {self.directory} config capsule.root {self.root}",
            )

    def close(self) -> None:
        """Let go of files and connections."""
        self.store.close()


def history_missing(directory: Path) -> SetUpProblem:
    """The history that would prove what is here was cut off when it was cloned."""
    return SetUpProblem(
        "HistoryMissing",
        "this is a shallow clone: what stands before its first commits cannot be proved from here",
        f"Get the whole history: git -C {directory} fetch --unshallow",
    )


def incomplete_clone(directory: Path, error: MissingObject) -> SetUpProblem:
    """An object is missing, though the history is whole: a partial clone, or a damaged one."""
    if setting(directory, "remote.origin.partialclonefilter"):
        return SetUpProblem(
            "IncompleteClone",
            f"this is a partial clone, and what is judged is not here ({error})",
            "Get everything:\n"
            f"  git -C {directory} config --unset remote.origin.partialclonefilter\n"
            f"  git -C {directory} fetch --refetch\n"
            "For a small clone use `capsule clone --shallow`.",
        )
    return SetUpProblem("IncompleteClone", f"an object is missing: {error}", "git fsck")


_WHICH_ROOT = (
    "It is the id of the first commit of main, as an owner told you; git prints the one here:\n"
    "  git rev-list --first-parent --max-parents=0 main"
)


def open_repository(
    directory: Path, root: str | None = None, *, token_file: Path | None = None
) -> Repository:
    """The state repository that `directory` lies in, judged from `root` (or `git config capsule.root`).

    `token_file` is the one for its remote, before what git's settings say.
    """
    from capsule.store.git import open_store

    location = locate(directory)
    where = location.work_tree or location.git_dir
    settings = remote_settings(where, token_file)
    chosen, source = _root(location, root)
    store = open_store(where, settings=settings)
    if source == "first commit" and chosen in store.history_cut():
        store.close()
        raise history_missing(where)  # it is the first one here, not the first one
    if source == "first commit" and not _has_policy(store, chosen):
        store.close()
        raise SetUpProblem(
            "NoStateRepository",
            f"{where} is a git repository, but no state repository: the first commit of main has no {POLICY}",
            WHERE_TO_FIND_ONE,
        )
    return Repository(location, store, chosen, source, settings)


def _has_policy(store: GitStore, commit: str) -> bool:
    """Whether a state repository may begin with `commit`; what cannot be read is for others to judge."""
    try:
        return find(store, read_commit(store, commit).tree, POLICY) is not None
    except (MissingObject, BadObject):
        return True


def _root(location: Location, option: str | None) -> tuple[str, RootSource]:
    where = location.work_tree or location.git_dir
    if option:
        wrong = WrongUsage("BadRoot", f"--root {option!r} is not an id of 40 hex digits", _WHICH_ROOT)
        return _valid(option, wrong), "option"
    configured = setting(where, "capsule.root")
    if configured:
        problem = SetUpProblem(
            "BadRoot",
            f"git config capsule.root is {configured!r}, not an id of 40 hex digits",
            _WHICH_ROOT,
        )
        return _valid(configured, problem), "setting"
    return first_commit(where), "first commit"


def first_commit(directory: Path) -> str:
    """The id of the first commit of main along first parents, as this repository tells it."""
    for ref in (MAIN, "refs/remotes/origin/main"):
        try:
            ids = run_git(
                directory, "--no-replace-objects", "rev-list", "--first-parent", "--max-parents=0", ref, "--"
            )
        except GitFailed:
            continue
        return ids.splitlines()[-1]
    raise SetUpProblem(
        "NoMain",
        f"{directory} has no branch main with a commit",
        WHERE_TO_FIND_ONE,
    )


def _valid(text: str, problem: CommandError) -> str:
    if len(text) != 40 or not set(text) <= _HEX:
        raise problem
    return text
