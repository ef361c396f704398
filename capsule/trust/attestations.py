"""Reviews of a pull request at a forge, as a reconciler recorded them, judged as approvals of a request.

Rules kept: people are known by the numbers of their accounts, never by login; an account has one word, its
latest; an approval counts for the head that was merged, and for the request and the targets as they are
today; bots, the requester and whoever opened the pull request approve nothing; every word that does not
count says why. Called by one_request; `attest` and `awaits_reviews` by decide and the reconciler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from capsule.documents.codec import MAX_BYTES, emit
from capsule.documents.problems import shown
from capsule.documents.types import (
    API_VERSION,
    Attestation,
    AttestationSpec,
    ChangeAttestationSpec,
    ForgeKind,
    ForgeSettings,
    Metadata,
    Policy,
    Review,
)
from capsule.trust.approvals import ApprovalSubject, check_asked
from capsule.trust.changes import VoidApproval
from capsule.trust.evidence import accepts
from capsule.trust.policy import is_person
from capsule.trust.state import JudgedRequest, SeenApproval

REASONS: dict[str, str] = {
    "OtherForge": "The reviews are of another forge, server or repository than the settings name.",
    "BotReview": "A bot or a machine reviewed. Only people approve.",
    "UnknownForgeUser": "The policy gives the account's number at this forge to no principal.",
    "CommentOnly": "The account commented and neither approved nor asked for changes.",
    "DismissedReview": "The review was dismissed at the forge.",
    "SelfReview": "Whoever asked for it, or opened the pull request, reviewed it: nobody approves their own.",
    "StaleReview": "The review is of another commit than the one merged: something was pushed since.",
    "PathsDiffer": "What was reviewed at the head is not the request that main holds.",
    "OtherHead": "The commit that the pull request became is no step of main that holds the request so.",
}

_DECISIVE = ("approved", "changes_requested", "dismissed")
MOST_STRANGERS = 20
"""Words recorded of accounts that the policy gives to nobody, for people to see why they do not count."""


# ---- asking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForgeFacts:
    """What a forge's API said of a pull request, nothing judged. `paths` are blob ids at `head`."""

    forge: ForgeKind
    server: str
    repository: str
    number: int
    merged: str
    head: str
    author: int
    paths: Mapping[str, str]
    reviews: Sequence[Review]


def awaits_reviews(judged: JudgedRequest) -> bool:
    """Whether the forge is to be asked for reviews: approvals of a request on main are missing that they
    may give, or it rests on reviews, which may have been dismissed since."""
    if judged.source != "main" or judged.verdict not in ("proposed", "approved"):
        return False
    if judged.verdict == "approved":
        return judged.evidence == "forge"
    return any(rule.approvals and accepts(rule, "forge") for rule in judged.rules.values())


def attest(
    judged: JudgedRequest, facts: ForgeFacts, *, policy: Policy, revision: str, reconciler: str, now: datetime
) -> Attestation:
    """The document that records `facts` for `judged`, at the main tip `revision`, where `policy` is in force.

    Raises ValueError when the facts are malformed (pydantic says where) or more than a document may hold.
    """
    document = Attestation(
        api_version=API_VERSION,
        kind="Attestation",
        metadata=Metadata(name=judged.name),
        spec=AttestationSpec(
            forge=facts.forge,
            server=facts.server,
            repository=facts.repository,
            number=facts.number,
            revision=revision,
            merged=facts.merged,
            head=facts.head,
            author=facts.author,
            request=judged.name,
            request_digest=judged.digest,
            paths=dict(sorted(facts.paths.items())),
            targets=dict(sorted(judged.target_digests.items())),
            reviews=worth_recording(policy, facts),
            reconciler=reconciler,
            observed_at=now,
        ),
    )
    size = len(emit(document))
    if size > MAX_BYTES:
        raise ValueError(f"an attestation of {size} bytes, expected at most {MAX_BYTES}")
    return document


def worth_recording(policy: Policy, facts: ForgeFacts) -> tuple[Review, ...]:
    """The one word of each account that `policy` gives to somebody, in order; of others that decide, the
    first few: strangers may write any number, and must not crowd out whose word counts."""
    users = {each.forge.get(facts.forge) for each in policy.spec.principals.values()}
    found, strangers = [], 0
    for review in sorted(latest_words(facts.reviews), key=review_order):
        if review.user not in users:
            strangers += review.state in _DECISIVE
            if review.state not in _DECISIVE or strangers > MOST_STRANGERS:
                continue
        found.append(review.model_copy(update={"login": shown(review.login)[:100]}))
    return tuple(found)


def says_anew(last: Attestation | None, found: Attestation) -> bool:
    """Whether `found` says something that `last` did not, beside who looked and when."""
    if last is None:
        return True
    seen = {"revision": last.spec.revision, "reconciler": last.spec.reconciler}
    same = found.spec.model_copy(update={**seen, "observed_at": last.spec.observed_at})
    return same != last.spec


# ---- judging ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """The request as reviewers must have seen it: its path and blob id on main, whether the commit that
    the pull request became is a step of main since which it is so, and the forge that the settings name."""

    path: str
    blob: str
    on_main: bool
    forge: ForgeSettings | None


def judge_reviews(subject: ApprovalSubject, told: Attestation, now: Shown) -> tuple[SeenApproval, ...]:
    """The word of each account that reviewed, and whether it counts; if not, why."""
    spec = told.spec
    about = f"pull request {spec.number} of {shown(spec.repository)} at {shown(spec.server)}"
    found = []
    for review in latest_words(spec.reviews):
        who = account_holder(subject.policy, spec.forge, review.user)
        name = who or f"{spec.forge}:{review.user}"
        decision: Literal["approve", "reject"] = (
            "reject" if review.state == "changes_requested" else "approve"
        )
        reason, message = "", about
        try:
            check_forge(spec, now.forge)
            check_reviewer(subject.policy, review, who, name)
            _check_request(subject, spec)
            if decision == "approve":
                _check_approved(subject, spec, review, name)
                _check_shown(subject, spec, now)
            check_asked(subject.policy, subject.rules, name, "forge")
        except VoidApproval as void:
            reason, message = void.reason, f"{about}: {void}"
        found.append(SeenApproval(name, decision, not reason, "forge", b"", "", reason, message))
    return tuple(found)


def account_holder(policy: Policy, forge: ForgeKind, user: int) -> str | None:
    """The principal whose account at the forge has this number (a policy gives it to one alone)."""
    return next(
        (name for name, each in policy.spec.principals.items() if each.forge.get(forge) == user), None
    )


def latest_words(reviews: Iterable[Review]) -> list[Review]:
    """The one word of each account: its latest decisive review, or a comment where there is none."""
    found: dict[int, Review] = {}
    for review in sorted(reviews, key=review_order):
        if review.state in _DECISIVE or found.get(review.user, review).state not in _DECISIVE:
            found[review.user] = review
    return list(found.values())


def review_order(review: Review) -> tuple[datetime, int]:
    """What tells which of two reviews came first."""
    return review.submitted_at, review.id


def check_forge(spec: AttestationSpec | ChangeAttestationSpec, forge: ForgeSettings | None) -> None:
    """The numbers of accounts mean people at one server alone. Raises VoidApproval."""
    expected = (forge.kind, forge.server, forge.repository) if forge else None
    if (spec.forge, spec.server, spec.repository) != expected:
        raise VoidApproval("OtherForge", f"the settings name {forge.server if forge else 'no forge'}")


def check_reviewer(policy: Policy, review: Review, who: str | None, name: str) -> None:
    """Whether an account speaks for a person, and decides anything. Raises VoidApproval."""
    if review.bot:
        raise VoidApproval("BotReview", f"account {review.user} is a bot")
    if who is None:
        raise VoidApproval("UnknownForgeUser", f"the policy gives {name} to nobody")
    if not is_person(policy, who):
        raise VoidApproval("BotReview", f"{who} is a machine")
    if review.state == "dismissed":
        raise VoidApproval("DismissedReview", f"the review of {who} was dismissed")
    if review.state == "commented":
        raise VoidApproval("CommentOnly", f"{who} commented")


def _check_request(subject: ApprovalSubject, spec: AttestationSpec) -> None:
    """The parts that a rejection must be about as well."""
    if spec.request != subject.request.metadata.name:
        raise VoidApproval("OtherRequest", f"reviewed as request {spec.request}")
    if spec.request_digest != subject.digest:
        raise VoidApproval("RequestChanged", f"request.yaml was {spec.request_digest} when reviewed")


def _check_approved(subject: ApprovalSubject, spec: AttestationSpec, review: Review, who: str) -> None:
    if who == subject.request.spec.requested_by:
        raise VoidApproval("SelfReview", f"{who} asked for it")
    if review.user == spec.author:
        raise VoidApproval("SelfReview", f"{who} opened the pull request")
    check_head(spec, review, who)


def check_head(spec: AttestationSpec | ChangeAttestationSpec, review: Review, who: str) -> None:
    """What was reviewed is what was merged. Raises VoidApproval."""
    if review.commit != spec.head:
        seen = review.commit[:12] if review.commit else "a commit that the forge does not name"
        raise VoidApproval("StaleReview", f"{who} reviewed {seen}, merged was {spec.head[:12]}")


def _check_shown(subject: ApprovalSubject, spec: AttestationSpec, now: Shown) -> None:
    """What was merged is what main holds, for the targets as they are today."""
    if spec.paths.get(now.path) != now.blob:
        raise VoidApproval("PathsDiffer", f"{now.path} at {spec.head[:12]} is not that of main")
    if not now.on_main:
        raise VoidApproval("OtherHead", f"{spec.merged[:12]} is no step of main that holds {now.path} so")
    differing = set(spec.targets) ^ set(subject.request.spec.targets)
    if differing - set(subject.frozen):
        raise VoidApproval(
            "TargetsChanged", f"reviewed with other targets: {', '.join(sorted(differing)[:5])}"
        )
    for name, digest in spec.targets.items():
        if name not in subject.frozen and subject.target_digests.get(name) != digest:
            raise VoidApproval("TargetChanged", f"agent, labels or pins of {name} changed since")
