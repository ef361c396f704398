"""`capsule approve` and `capsule reject` of a request: what is shown, what is signed, and the merge.

Rules kept: `review` gathers all that a person must see, and refuses what this person can never decide,
before anything is written; the approval binds exactly what `review` gathered; main moves only when trust
says, of the finished merge, that the request is approved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from capsule.commands.errors import CommandError, RefusedByPolicy
from capsule.commands.repository import Repository
from capsule.commands.request import find_request
from capsule.commands.signing import Identity
from capsule.commands.writing import (
    Merged,
    branch_changes,
    commit_as,
    merge_into_main,
    move_branch,
    require_only_below,
)
from capsule.documents.codec import emit
from capsule.documents.paths import REQUEST_BRANCHES, RequestFolder
from capsule.documents.scalars import instant_text
from capsule.documents.types import ActionRequest, Rule, Service
from capsule.lifecycle import Phase, request_phase
from capsule.store.api import PushRefused
from capsule.trust.evidence import strongest
from capsule.trust.policy import may_approve, missing_approvals
from capsule.trust.state import InForce, JudgedRequest, MissingApproval, SeenApproval
from capsule.view.requests import held_back
from capsule_agent.protocol.messages import Approval, ApprovedRequest
from capsule_agent.protocol.sshsig import APPROVAL

Word = Literal["approve", "reject"]
_ALREADY: Mapping[Phase, str] = {
    "Running": "is already running",
    "Succeeded": "has already succeeded",
    "Failed": "has already failed",
    "Stopped": "has already stopped",
    "Rejected": "has already been rejected",
    "Expired": "has already expired",
    "Cancelled": "has already been cancelled",
    "Unknown": "has already run, its outcome is unknown",
}


@dataclass(frozen=True, slots=True)
class Review:
    """What a person decides about: the request as judged, and its targets as they are in force."""

    judged: JudgedRequest
    document: ActionRequest
    services: Mapping[str, InForce[Service]]
    principal: str
    completes: bool
    """Whether an approval by this person is the last one missing."""

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rule that decides, by target."""
        return self.judged.rules

    @property
    def void(self) -> tuple[SeenApproval, ...]:
        """Approvals that no longer count, and why."""
        return tuple(seen for seen in self.judged.approvals if not seen.counts)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a decision led to: on record in `commit`; merged when the policy is satisfied."""

    commit: str
    merged: Merged | None
    missing: tuple[MissingApproval, ...]
    note: str = ""
    held: str = ""
    """What keeps an approved request from being begun now, in words."""


def review(repository: Repository, identity: Identity, name: str, word: Word, now: datetime) -> Review:
    """What `identity` is asked to decide about the request `name`.

    Raises WrongUsage for an unknown one and RefusedByPolicy for a decision that could never count.
    """
    repository.require_pinned()
    repository.refresh()
    judged = find_request(repository, name)
    _refuse_what_is_on_record(repository, judged, word)
    if judged.document is None:
        raise CommandError(
            "BadRequest", f"{judged.path}: {judged.message}", f"capsule check {judged.revision}"
        )
    _refuse_what_cannot_count(repository, identity, judged, judged.document, word)
    if judged.document.spec.expires <= now:
        raise RefusedByPolicy(
            "Expired", f"{judged.name} expired at {instant_text(judged.document.spec.expires)}", "Ask anew."
        )
    state = repository.state
    rest = missing_approvals(
        state.policy.document,
        judged.rules.values(),
        {judged.document.spec.requested_by},
        strongest([*judged.evidence_of_people(), (identity.principal, "signature")]),
    )
    services = {
        target: state.services[target] for target in judged.document.spec.targets if target in state.services
    }
    return Review(judged, judged.document, services, identity.principal, word == "approve" and not rest)


def decide(
    repository: Repository, identity: Identity, review: Review, word: Word, reason: str, now: datetime
) -> Decided:
    """Sign the decision onto the request's branch, and merge into main when the policy is satisfied.

    Raises RefusedByPolicy when trust would not count it (nothing is written then) and StoreError.
    """
    judged = review.judged
    branch = REQUEST_BRANCHES + judged.name
    commit = _decision_commit(repository, identity, review, word, reason, now)
    seen = _as_judged(repository, branch, commit, review)
    on_branch = judged.source == "branch"
    note = move_branch(repository, branch, judged.revision, commit) if on_branch else ""
    complete = word == "approve" and seen.verdict in ("approved", "proposed") and not seen.missing
    if not complete and on_branch:
        return Decided(commit, None, seen.missing, note)
    return _merge(repository, identity, review, commit, word, now)


def _refuse_what_is_on_record(repository: Repository, judged: JudgedRequest, word: Word) -> None:
    """What a reconciler began, finished or refused is settled: no signature changes it any more."""
    records = repository.records().of(judged.name)
    if records is None or not (records.operations or records.refusal):
        return
    phase = request_phase(judged, records)
    hint = f"capsule show {judged.name}"
    if phase.phase == "Running":
        hint += f"; to call off what has not begun: capsule cancel {judged.name}"
    settled = _ALREADY.get(phase.phase, "is already on record")
    raise CommandError("AlreadyOnRecord", f"{judged.name} {settled}; nothing to {word}", hint)


def _refuse_what_cannot_count(
    repository: Repository, identity: Identity, judged: JudgedRequest, document: ActionRequest, word: Word
) -> None:
    principal, spec = identity.principal, document.spec
    if principal == spec.requested_by:
        next_step = f"Call it off with `capsule cancel {judged.name}`." if word == "reject" else ""
        raise RefusedByPolicy(
            "OwnApproval",
            f"{principal} asked for {judged.name}: nobody decides about what they asked for",
            next_step or _who_may(judged),
        )
    if judged.verdict == "refused":
        raise RefusedByPolicy(judged.reason, f"{judged.name} can never be executed: {judged.message}", "")
    if judged.verdict == "rejected":
        raise RefusedByPolicy(
            judged.reason, f"{judged.name} is already rejected: {judged.message}", "Ask anew."
        )
    for seen in judged.approvals:
        if (seen.principal, seen.evidence, seen.decision, seen.counts) == (
            principal,
            "signature",
            word,
            True,
        ):
            raise CommandError(
                "AlreadyDecided", f"{principal} has already signed this decision on {judged.name}"
            )
    policy = repository.state.policy.document
    rules = tuple(judged.rules.values())
    if not any(may_approve(policy, rule, principal) for rule in rules):
        if not any(rule.approvals for rule in rules):
            raise CommandError("NoApprovalNeeded", f"{judged.name} needs no approval: it runs as it is")
        raise RefusedByPolicy(
            "NotAnApprover", f"the word of {principal} does not count for {judged.name}", _who_may(judged)
        )


def _who_may(judged: JudgedRequest) -> str:
    parts = [
        f"{missing.count} of {missing.team} ({', '.join(missing.candidates)})" for missing in judged.missing
    ]
    return f"Still needed: {'; '.join(parts)}." if parts else ""


def _decision_commit(
    repository: Repository, identity: Identity, review: Review, word: Word, reason: str, now: datetime
) -> str:
    judged, spec = review.judged, review.document.spec
    folder = folder_of(judged)
    approval = Approval(
        repository=repository.root,
        principal=identity.principal,
        decision=word,
        request=ApprovedRequest(
            judged.name, judged.digest, spec.requested_by, spec.action, dict(spec.params)
        ),
        targets=dict(judged.target_digests),
        expires=instant_text(spec.expires),
        reason=reason,
    )
    raw = emit(approval)
    edits = {
        folder.approval(identity.principal): raw,
        folder.approval_signature(identity.principal): identity.signer.sign(raw, APPROVAL).encode(),
    }
    base = judged.revision if judged.source == "branch" else repository.main
    if judged.source == "branch":
        changed = branch_changes(repository, repository.main, base)
        require_only_below(changed, folder.folder, f"request/{judged.name}")
    subject = f"{'Approve' if word == 'approve' else 'Reject'} {judged.name}"
    body = f"\n\n{reason}" if reason else ""
    return commit_as(
        repository, identity, (base,), edits, f"{subject}{body}\n\nCapsule-Request: {judged.name}\n", now
    )


def _as_judged(repository: Repository, branch: str, commit: str, review: Review) -> JudgedRequest:
    """The request with the new commit. Raises RefusedByPolicy when the decision does not count."""
    if review.judged.source == "branch":
        seen = repository.judge_branch(repository.state, branch, commit)
    else:
        seen = repository.requests(repository.judge(commit)).get(review.judged.name)
    mine = [] if seen is None else [each for each in seen.approvals if each.principal == review.principal]
    if seen is None or not mine:
        raise CommandError("DecisionLost", f"the decision on {review.judged.name} cannot be read back")
    if not mine[0].counts:
        raise RefusedByPolicy(mine[0].reason, mine[0].message, "Nothing was written.")
    return seen


def _merge(
    repository: Repository, identity: Identity, review: Review, commit: str, word: Word, now: datetime
) -> Decided:
    name = review.judged.name
    found: list[JudgedRequest] = []

    def require(merge: str) -> None:
        judged = repository.requests(repository.judge(merge)).get(name)
        if judged is None or (word == "approve" and judged.verdict not in ("approved", "proposed")):
            raise RefusedByPolicy(
                judged.reason if judged else "NotARequest",
                f"merged, {name} would not be approved: {judged.message if judged else 'it is gone'}",
                "Your decision is on the branch; main was left alone.",
            )
        found.append(judged)

    message = f"Merge request/{name}\n\nCapsule-Request: {name}\n"
    try:
        merged = merge_into_main(repository, identity, commit, message, now, require)
    except PushRefused as error:
        branch = _branch_for_pull_request(repository, review, commit)
        return Decided(commit, None, (), f"main is protected: open a pull request from {branch} ({error})")
    held = held_back(review.document.spec, repository.state, now)
    return Decided(commit, merged, found[-1].missing, held=held.message if held else "")


def _branch_for_pull_request(repository: Repository, review: Review, commit: str) -> str:
    """Where the decision can be merged from: the request's own branch, or a new one when it is on main."""
    judged = review.judged
    if judged.source == "branch":
        return f"request/{judged.name}"
    branch = f"decision/{judged.name}/{review.principal}"
    move_branch(repository, f"refs/heads/{branch}", None, commit)
    return branch


def folder_of(judged: JudgedRequest) -> RequestFolder:
    """Where a request's files lie on main and on its branch. Raises CommandError for a path of no request."""
    folder = RequestFolder.of(judged.path)
    if folder is None:
        raise CommandError("WrongPlace", f"{judged.path} is not where a request may lie")
    return folder
