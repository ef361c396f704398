"""Reviews of a pull request at a forge, as a reconciler recorded them, judged as words on a change.

Rules kept: they speak of the very step that brought a change, of the bytes that main holds, and only where
these were written on top of what is in force, on main and where the branch left it; whoever opened the pull
request asks for it; people are known by the numbers of their accounts, an account has one word, its latest,
and who wrote a part of it approves none of it; where anybody unknown wrote a part, nobody asks
for it or approves it; a change of several documents needs all of it in one pull request. Counts only
where every rule takes `forge`. Called by takeover; `attest_change` and `leading_steps` by the reconciler.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from capsule.documents.codec import MAX_BYTES, emit
from capsule.documents.problems import shown
from capsule.documents.types import (
    API_VERSION,
    ChangeAttestation,
    ChangeAttestationSpec,
    ForgeSettings,
    Metadata,
    Policy,
    Review,
    Writer,
)
from capsule.trust import objects
from capsule.trust.attestations import (
    ForgeFacts,
    account_holder,
    check_forge,
    check_head,
    check_reviewer,
    latest_words,
    worth_recording,
)
from capsule.trust.changes import ReviewedBy, VoidApproval
from capsule.trust.merges import holders_of
from capsule.trust.objects import ObjectReader
from capsule.trust.policy import is_person
from capsule.trust.state import PendingChange

REASONS: dict[str, str] = {
    "ReviewsUnknown": "No reconciler has recorded yet what the forge knows of the pull request.",
    "OtherStep": "The pull request became other commits of main than those that brought the change.",
    "NotOnTopOfForce": "The pull request was not written on top of the document in force, so its reviewers "
    "did not see all that differs from it: bring the document in force back, then change it anew.",
    "UnknownWriter": "A commit of the pull request has an author or committer whom the policy knows neither "
    "by account nor by e-mail: whoever approves it may have written it.",
    "SeveralPullRequests": "Documents that change as one came by several pull requests.",
}

NAME = "reviews"
MAX_STEPS = 100
"""Steps of main that are looked back for the bytes in force: a pull request becomes few, in a row."""
_MENDED_BY_REVIEWS = ("ChangeUnsigned", "NotEntitled", "Rejected", "ApprovalsMissing")


# ---- asking -------------------------------------------------------------------------------------


def waits_for_reviews(change: PendingChange) -> bool:
    """Whether reviews at the forge may let in what waits."""
    return change.takes_reviews and change.reason in _MENDED_BY_REVIEWS


def leading_steps(reader: ObjectReader, since: str, path: str, in_force: str | None) -> Iterator[str]:
    """The steps of main, from `since` backwards, by which the bytes of `path` came to be other than those
    `in_force` (a blob id; None: no document).

    Raises VoidApproval where none began on top of these, BadObject, MissingObject.
    """
    step = since
    yield step
    found = _at(reader, _parent(reader, step), path)
    for _ in range(MAX_STEPS):
        if found == in_force:
            return
        parent = _parent(reader, step)
        if parent is None:
            break
        before = _at(reader, _parent(reader, parent), path)
        if before != found:
            yield parent
        step, found = parent, before
    raise VoidApproval("NotOnTopOfForce", f"{path} was not as it is in force when {since[:12]} changed it")


def _parent(reader: ObjectReader, commit: str | None) -> str | None:
    parents = objects.parents_of(objects.raw_commit(reader, commit)) if commit else ()
    return parents[0] if parents else None


def _at(reader: ObjectReader, commit: str | None, path: str) -> str | None:
    if commit is None:
        return None
    entry = objects.find(reader, objects.tree_of(objects.raw_commit(reader, commit)), path)
    return entry.oid if entry else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wrote the commits of a pull request, as far as the forge tells, and the blob ids of documents where
    its branch left main."""

    writers: Collection[Writer] = ()
    bases: Mapping[str, str] = field(default_factory=dict)


def attest_change(
    facts: ForgeFacts,
    origin: Origin,
    *,
    policy: Policy,
    steps: Sequence[str],
    absent: Collection[str],
    revision: str,
    reconciler: str,
    now: datetime,
) -> ChangeAttestation:
    """The document that records `facts` of the pull request that became `steps`, while main is taken in up to
    `revision`, with `policy` in force; `absent` are paths that its head does not hold.

    Raises ValueError when the facts are malformed (pydantic says where) or more than a document may hold.
    """
    paths = dict(sorted({**facts.paths, **dict.fromkeys(absent)}.items()))
    writers = {(each.user, shown(each.email)[:500]) for each in origin.writers}
    document = ChangeAttestation(
        api_version=API_VERSION,
        kind="ChangeAttestation",
        metadata=Metadata(name=NAME),
        spec=ChangeAttestationSpec(
            forge=facts.forge,
            server=facts.server,
            repository=facts.repository,
            number=facts.number,
            revision=revision,
            steps=tuple(steps),
            merged=facts.merged,
            head=facts.head,
            author=facts.author,
            writers=tuple(
                Writer(user=user, email=email)
                for user, email in sorted(writers, key=lambda each: (each[0] or 0, each[1]))
            ),
            paths=paths,
            bases={path: origin.bases.get(path) for path in paths},
            reviews=worth_recording(policy, facts),
            reconciler=reconciler,
            observed_at=now,
        ),
    )
    size = len(emit(document))
    if size > MAX_BYTES:
        raise ValueError(f"an attestation of {size} bytes, expected at most {MAX_BYTES}")
    return document


def tells_anew(last: ChangeAttestation | None, found: ChangeAttestation) -> bool:
    """Whether `found` says something that `last` did not, beside who looked, when, and mere comments."""
    if last is None:
        return True
    same = {"revision": "", "reconciler": "", "observed_at": last.spec.observed_at}
    then, now = (
        each.spec.model_copy(
            update={**same, "reviews": [one for one in each.spec.reviews if one.state != "commented"]}
        )
        for each in (last, found)
    )
    return then != now


# ---- judging ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Brought:
    """A change that waits, with the blob ids in force and in the tree; None: no document."""

    change: PendingChange
    in_force: str | None
    proposed: str | None


def reviewed_by(
    reader: ObjectReader, policy: Policy, forge: ForgeSettings | None, tip: str, changes: Sequence[Brought]
) -> ReviewedBy:
    """What the pull request that brought `changes` to main, which stands at `tip`, says of them.

    Raises VoidApproval where it says nothing of them, BadObject, MissingObject.
    """
    told = [_told(brought.change) for brought in changes]
    if len({_pull(each.spec) for each in told}) != 1:
        raise VoidApproval("SeveralPullRequests", "its documents came by several pull requests")
    for brought, each in zip(changes, told, strict=True):
        check_forge(each.spec, forge)
        _check_brought(reader, tip, each.spec, brought)
    author = account_holder(policy, told[0].spec.forge, told[0].spec.author)
    words = [_words(policy, forge, each.spec) for each in told]
    approved = frozenset.intersection(*(frozenset(each.approved) for each in words))
    found = ReviewedBy(
        author=author if author and is_person(policy, author) else None,
        approved=approved,
        rejected=frozenset(who for each in words for who in each.rejected),
        notes=tuple(dict.fromkeys(note for each in words for note in each.notes)),
    )
    strangers = [stranger for each in told for stranger in _strangers(policy, forge, each.spec)]
    if not strangers:
        return found
    about = f"{about_pull(told[0].spec)} has a commit by {strangers[0]}, whom the policy does not know"
    void = VoidApproval("UnknownWriter", about)
    return replace(found, author=None, approved=frozenset(), notes=(f"{void} ({void.reason})", *found.notes))


def about_pull(spec: ChangeAttestationSpec) -> str:
    """A pull request, for people."""
    return f"pull request {spec.number} of {shown(spec.repository)} at {shown(spec.server)}"


def _told(change: PendingChange) -> ChangeAttestation:
    if change.told is None:
        raise VoidApproval("ReviewsUnknown", f"no reviews of {change.path} are recorded yet")
    return change.told


def _pull(spec: ChangeAttestationSpec) -> tuple[object, ...]:
    return spec.forge, spec.server, spec.repository, spec.number, spec.head, spec.merged, spec.author


def _check_brought(reader: ObjectReader, tip: str, spec: ChangeAttestationSpec, brought: Brought) -> None:
    """The pull request brought these very bytes to main, on top of those in force."""
    path, since, about = brought.change.path, brought.change.since, about_pull(spec)
    if spec.merged != since and spec.merged not in objects.first_parents(reader, tip, since):
        raise VoidApproval("OtherStep", f"{about} ended before {since[:12]}, says the forge")
    if spec.paths.get(path, "") != brought.proposed:
        raise VoidApproval("PathsDiffer", f"{path} at {spec.head[:12]} of {about} is not that of main")
    if spec.bases.get(path, "") != brought.in_force:
        raise VoidApproval("NotOnTopOfForce", f"{about} left main where {path} was not as it is in force")
    for step in leading_steps(reader, since, path, brought.in_force):
        if step not in spec.steps:
            message = f"{about} changed what {step[:12]} had made of {path}, which is not in force"
            raise VoidApproval("NotOnTopOfForce", message)


def _strangers(policy: Policy, forge: ForgeSettings | None, spec: ChangeAttestationSpec) -> Iterator[str]:
    """Who wrote a commit of it and may be anybody."""
    for each in spec.writers:
        account = account_holder(policy, spec.forge, each.user) if each.user else None
        if account is None and not holders_of(policy, forge, each.email):
            yield shown(each.email)[:100] or (f"account {each.user}" if each.user else "nobody it names")


@dataclass(frozen=True, slots=True)
class _Words:
    approved: Collection[str]
    rejected: Collection[str]
    notes: Sequence[str]


def _words(policy: Policy, forge: ForgeSettings | None, spec: ChangeAttestationSpec) -> _Words:
    """Whose reviews count, and why the others do not."""
    approved, rejected, notes = [], [], []
    writing = {who for each in spec.writers for who in holders_of(policy, forge, each.email)}
    for review in latest_words(spec.reviews):
        who = account_holder(policy, spec.forge, review.user)
        name = who or f"{spec.forge}:{review.user}"
        try:
            check_reviewer(policy, review, who, name)
            if review.state == "changes_requested":
                rejected.append(name)
                continue
            _check_own(spec, review, name, writing)
            check_head(spec, review, name)
        except VoidApproval as void:
            notes.append(f"the review of {name} in {about_pull(spec)} does not count: {void} ({void.reason})")
        else:
            approved.append(name)
    return _Words(approved, rejected, notes)


def _check_own(spec: ChangeAttestationSpec, review: Review, who: str, writing: Collection[str]) -> None:
    if review.user == spec.author:
        raise VoidApproval("SelfReview", f"{who} opened it")
    if who in writing or any(review.user == each.user for each in spec.writers):
        raise VoidApproval("SelfReview", f"{who} wrote a commit of it")
