"""`capsule propose`, and `approve` and `reject` of a change of services, settings or policy on a branch.

Rules kept: a word on a change names every path with the digest in force and the digest proposed; whoever
proposed or wrote something approves nothing of it; nothing is merged that was not shown; main moves only
when trust takes the whole change over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import unified_diff
from typing import Literal

from capsule.commands.errors import CommandError, RefusedByPolicy, WrongUsage
from capsule.commands.git_program import GitFailed, catch_up, current_branch, is_ancestor, run_git
from capsule.commands.init import ALLOWED_SIGNERS, write_allowed_signers
from capsule.commands.proposing import refuse_broken, refuse_uncommitted
from capsule.commands.repository import Repository
from capsule.commands.signing import Identity
from capsule.commands.unshown import refuse_unshown
from capsule.commands.writing import Merged, branch_changes, commit_as, file_at, merge_into_main, move_branch
from capsule.documents.codec import emit, load_as
from capsule.documents.digests import bytes_digest, change_digest
from capsule.documents.paths import MAIN, POLICY, SERVICES, SETTINGS, change_approval
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import (
    API_VERSION,
    ChangeApproval,
    ChangedPath,
    ChangeKind,
    Policy,
    Rule,
    Service,
)
from capsule.store.api import PushRefused
from capsule.trust.changes import VoidApproval, Word, is_word, read_word
from capsule.trust.objects import BadObject, read_blob, read_commit
from capsule.trust.policy import may_approve, may_request, missing_approvals, rules_for_change, signer_of
from capsule.trust.state import MissingApproval, PendingChange
from capsule_agent.protocol.sshsig import APPROVAL, COMMIT, BadSignature

_DOCUMENT_SUFFIXES = (".yaml", ".yml", ".json")
"""What trust takes for the document of a service, misnamed or not."""

Decision = Literal["propose", "approve", "reject"]


@dataclass(frozen=True, slots=True)
class ChangeReview:
    """A change as it stands on a branch: what it does, who wants it, which rules decide, what is missing."""

    branch: str
    tip: str
    digest: str
    changes: Mapping[str, ChangedPath]
    diff: str
    authors: frozenset[str]
    approvers: frozenset[str]
    void: tuple[str, ...]
    rules: tuple[Rule, ...]
    missing: tuple[MissingApproval, ...]
    principal: str


@dataclass(frozen=True, slots=True)
class ChangeDecided:
    """A word on a change is on record in `commit`; merged when trust takes the change over."""

    commit: str
    merged: Merged | None
    pending: tuple[PendingChange, ...] = ()
    note: str = ""


def find_branch(repository: Repository, name: str | None) -> str:
    """The full name of a branch with a change: `name`, or the one that is checked out. Raises WrongUsage."""
    if name is None:
        branch = current_branch(repository.location)
        if branch is None or branch == MAIN:
            raise WrongUsage(
                "NoBranch",
                "name the branch with your change (nothing but main is checked out here)",
                "git switch -c my-change, edit, git commit, then capsule propose",
            )
        return branch
    branch = name if name.startswith("refs/heads/") else f"refs/heads/{name}"
    if branch not in repository.refs and branch not in repository.local_refs:
        raise WrongUsage("UnknownBranch", f"there is no branch {name!r}", "git branch --list")
    return branch


def review_change(
    repository: Repository, identity: Identity, branch: str, decision: Decision, now: datetime
) -> ChangeReview:
    """What `identity` is asked to decide about the change on `branch`.

    Raises WrongUsage when nothing of weight changes, CommandError for a proposal with errors in it or edits
    beside it, RefusedByPolicy for a word that could never count.
    """
    repository.require_pinned()
    repository.refresh()
    if decision == "propose":
        refuse_uncommitted(repository, branch, kind_of)
    tip = _tip(repository, branch, decision)
    touched = branch_changes(repository, repository.main, tip)
    edits = {path: data for path, data in touched.items() if kind_of(path) is not None}
    if not edits:
        raise WrongUsage(
            "NothingChanged",
            f"{_short(branch)} changes no service, no settings and no policy against main",
        )
    changes = _digests(repository, edits)
    if decision != "reject":
        refuse_unshown(repository, _short(branch), tip, touched, edits.keys(), change_digest(changes))
    if decision == "propose":
        refuse_broken(repository, touched, now)
    policy = repository.policy
    rules = _rules(repository, policy, edits)
    words, void = _words(repository, policy, tip, change_digest(changes))
    authors = frozenset(
        {word.principal for word in words if word.decision == "propose"}
        | _writers(repository, policy, tip, frozenset(edits))
        | ({identity.principal} if decision == "propose" else set())
    )
    approvers = frozenset(word.principal for word in words if word.decision == "approve") - authors
    review = ChangeReview(
        branch=branch,
        tip=tip,
        digest=change_digest(changes),
        changes=changes,
        diff=_diff(repository, edits),
        authors=authors,
        approvers=approvers,
        void=void,
        rules=rules,
        missing=missing_approvals(policy, rules, authors, approvers),
        principal=identity.principal,
    )
    _refuse_what_cannot_count(policy, review, decision)
    return review


def _tip(repository: Repository, branch: str, decision: Decision) -> str:
    """The author's branch may not be pushed yet; a reviewer looks at what everybody sees."""
    shared, local = repository.refs.get(branch), repository.local_refs.get(branch)
    if decision != "propose" or local is None:
        tip = shared or local
        assert tip is not None  # find_branch saw one of them
        return tip
    if shared is not None and not is_ancestor(repository.directory, shared, local):
        raise CommandError(
            "BranchBehind",
            f"{_short(branch)} has commits elsewhere that your branch does not have",
            "git pull --rebase, then propose again",
        )
    return local


def decide_change(
    repository: Repository,
    identity: Identity,
    review: ChangeReview,
    decision: Decision,
    reason: str,
    now: datetime,
) -> ChangeDecided:
    """Sign a word on the change onto its branch, and merge into main when trust takes the change over."""
    document = ChangeApproval(
        api_version=API_VERSION,
        kind="ChangeApproval",
        repository=repository.root,
        principal=identity.principal,
        decision=decision,
        changes=review.changes,
        reason=reason,
    )
    raw = emit(document)
    path = change_approval(review.digest, identity.principal)
    edits = {path: raw, f"{path}.sig": identity.signer.sign(raw, APPROVAL).encode()}
    subject = f"{decision.capitalize()} {', '.join(sorted(review.changes))}"
    message = f"{subject[:72]}\n\n{reason}\n" if reason else f"{subject[:72]}\n"
    commit = commit_as(repository, identity, (review.tip,), edits, message, now)
    note = move_branch(repository, review.branch, repository.refs.get(review.branch), commit)
    if repository.local_refs.get(review.branch) == review.tip:
        note = note or catch_up(repository.location, review.branch, commit)
    if decision == "reject":
        return ChangeDecided(commit, None, note=note)
    return _merge_when_accepted(repository, identity, review, commit, now, note)


class _NotYet(Exception):
    """The change would not be taken over by main as it stands."""

    def __init__(self, pending: tuple[PendingChange, ...]) -> None:
        self.pending = pending


def _merge_when_accepted(
    repository: Repository, identity: Identity, review: ChangeReview, commit: str, now: datetime, note: str
) -> ChangeDecided:
    def require(merge: str) -> None:
        state = repository.judge(merge)
        pending = tuple(each for each in state.pending if each.path in review.changes)
        if pending:
            raise _NotYet(pending)
        if state.suspended:
            raise RefusedByPolicy(
                state.suspended.reason,
                f"main would be suspended: {state.suspended.message}",
                "Your word is on the branch; main was left alone. See `capsule doctor`.",
            )

    try:
        merged = merge_into_main(
            repository, identity, commit, f"Merge {_short(review.branch)}\n", now, require
        )
    except _NotYet as waiting:
        return ChangeDecided(commit, None, waiting.pending, note)
    except PushRefused as error:
        hint = f"main is protected: open a pull request from {_short(review.branch)} ({error})"
        return ChangeDecided(commit, None, note=hint)
    _follow_policy(repository, review, merged.commit)
    return ChangeDecided(commit, merged)


def _follow_policy(repository: Repository, review: ChangeReview, merge: str) -> None:
    """Let git know the new signers at once, where `init` or `policy allowed-signers --install` set it up."""
    if POLICY in review.changes and (repository.location.git_dir / ALLOWED_SIGNERS).exists():
        write_allowed_signers(repository.location.git_dir, repository.judge(merge).policy.document)


def kind_of(path: str) -> ChangeKind | None:
    """What kind of document lies at `path`; None for one that no rule is about."""
    if path == POLICY:
        return "policy"
    if path == SETTINGS:
        return "settings"
    return "service" if path.startswith(f"{SERVICES}/") and path.endswith(_DOCUMENT_SUFFIXES) else None


def _digests(repository: Repository, edits: Mapping[str, bytes | None]) -> dict[str, ChangedPath]:
    return {
        path: ChangedPath(
            old=None if (old := _in_force(repository, path)) is None else bytes_digest(old),
            new=None if data is None else bytes_digest(data),
        )
        for path, data in sorted(edits.items())
    }


def _in_force(repository: Repository, path: str) -> bytes | None:
    state = repository.state
    documents = {item.path: item.blob for item in state.services.values()}
    documents |= {state.policy.path: state.policy.blob, state.settings.path: state.settings.blob}
    blob = documents.get(path)
    return None if blob is None else read_blob(repository.store, blob)


def _rules(repository: Repository, policy: Policy, edits: Mapping[str, bytes | None]) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for path, data in edits.items():
        kind = kind_of(path)
        assert kind is not None  # the caller chose these paths
        rules = rules_for_change(
            policy, kind, _labels(kind, _in_force(repository, path), path), _labels(kind, data, path)
        )
        if rules is None:
            raise RefusedByPolicy(
                "NoRule",
                f"no rule of the policy is about a change of {path}, and no match is a refusal",
                "An owner can add a rule `match: {change: …}` to policy.yaml.",
            )
        found += [rule for rule in rules if rule not in found]
    return tuple(found)


def _labels(kind: ChangeKind, data: bytes | None, path: str) -> Mapping[str, str] | None:
    if kind != "service":
        return {}
    if data is None:
        return None
    try:
        return load_as(Service, data, path).metadata.labels
    except InvalidDocument as error:
        raise CommandError(
            "BadDocument", str(error), f"capsule check finds every problem of {path}"
        ) from None


def _words(
    repository: Repository, policy: Policy, tip: str, digest: str
) -> tuple[list[Word], tuple[str, ...]]:
    words, void = [], []
    for principal in policy.spec.principals:
        path = change_approval(digest, principal)
        data = file_at(repository, tip, path)
        if data is None or not is_word(path):
            continue
        try:
            words.append(
                read_word(policy, repository.root, path, data, file_at(repository, tip, f"{path}.sig"))
            )
        except VoidApproval as error:
            void.append(f"{principal}: {error} [{error.reason}]")
    return words, tuple(void)


def _writers(repository: Repository, policy: Policy, tip: str, paths: frozenset[str]) -> set[str]:
    """Who signed the commits on the branch that touch `paths`: they wrote it, so they do not approve it."""
    try:
        ids = run_git(
            repository.directory,
            "--no-replace-objects",
            "rev-list",
            "--no-merges",
            tip,
            "--not",
            repository.main,
        ).split()
    except GitFailed as error:
        raise CommandError("UnreadableBranch", f"git cannot list the branch: {error}") from None
    found = set()
    for oid in ids:
        try:
            commit = read_commit(repository.store, oid)
            if (
                commit.signature
                and commit.parents
                and paths & set(branch_changes(repository, commit.parents[0], oid))
            ):
                found.add(signer_of(policy, commit.signed_payload, commit.signature, COMMIT))
        except (BadObject, BadSignature):
            continue
    return found


def _refuse_what_cannot_count(policy: Policy, review: ChangeReview, decision: Decision) -> None:
    who = review.principal
    if decision == "propose":
        if not all(may_request(policy, rule, who) for rule in review.rules):
            teams = sorted({team for rule in review.rules for team in rule.may_request})
            raise RefusedByPolicy(
                "NotEntitled", f"{who} may not propose this: it takes one of {', '.join(teams)}"
            )
        return
    if who in review.authors:
        raise RefusedByPolicy(
            "OwnApproval", f"{who} wrote or proposed this change: nobody decides about their own"
        )
    if not any(may_approve(policy, rule, who) for rule in review.rules):
        teams = sorted({each.team for rule in review.rules for each in rule.approvals})
        needs = f"it takes one of {', '.join(teams)}" if teams else "it needs no approval"
        raise RefusedByPolicy("NotAnApprover", f"the word of {who} does not count here: {needs}")


def _diff(repository: Repository, edits: Mapping[str, bytes | None]) -> str:
    parts: list[str] = []
    for path, data in sorted(edits.items()):
        old, new = _in_force(repository, path) or b"", data or b""
        parts += unified_diff(
            old.decode(errors="replace").splitlines(),
            new.decode(errors="replace").splitlines(),
            f"in force: {path}",
            f"proposed: {path}",
            lineterm="",
        )
    return "\n".join(parts)


def _short(branch: str) -> str:
    return branch.removeprefix("refs/heads/")
