"""Whether a change of documents on main is authorised: who asks, who approves, under which rules.

Rules kept: a word on a change (`approvals/<digest>/<principal>.json`, signed beside) names every path with
the digest in force and the digest proposed, and counts only while all of it is so; whoever changed or
proposed something approves nothing of it; a change is judged on the labels before and after. Called by
mainline, and by `plan` to say what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import ValidationError

from capsule.documents.digests import bytes_digest, change_digest
from capsule.documents.types import ChangeApproval, ChangeKind, Evidence, Policy, Rule
from capsule.trust.evidence import accepts, strongest
from capsule.trust.policy import (
    is_person,
    may_approve,
    may_request,
    missing_approvals,
    rules_for_change,
    signer_of,
)
from capsule.trust.state import MissingApproval
from capsule_agent.protocol import sshsig, strict_json

REASONS: dict[str, str] = {
    "NoRule": "No rule of the policy is about this. No match is a refusal: add a rule, or do without.",
    "ChangeUnsigned": "Nobody known to the policy asks for this change. Sign the commit with a listed key, "
    "or add a signed ChangeApproval that proposes it.",
    "NotEntitled": "Whoever asks is in none of the teams that the rule lets ask.",
    "ApprovalsMissing": "Not enough people of the demanded teams have approved yet.",
    "Rejected": "Somebody entitled to approve has rejected it.",
    "MalformedApproval": "An approval file that is not the document it should be.",
    "ApprovalMisplaced": "An approval file under another principal's name, or under the digest of "
    "another change.",
    "UnknownPrincipal": "A name that the policy does not list among its principals (any more).",
    "MachineApproval": "A machine approved. Machines neither ask nor approve.",
    "ApprovalUnsigned": "The signature beside an approval is missing.",
    "BadSignature": "A signature that no key of the named principal made over these bytes for this purpose.",
    "OtherRepository": "An approval that was given in another repository.",
}

_DOCUMENT = re.compile(r"approvals/([0-9a-f]{64})/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.json")

_DECISIONS: Final = ("propose", "approve", "reject")
Labels = Mapping[str, str]
DigestPair = tuple[str | None, str | None]


class VoidApproval(ValueError):
    """An approval that does not count; `reason` says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Word:
    """A verified word of one person on one change."""

    principal: str
    decision: Literal["propose", "approve", "reject"]
    changes: Mapping[str, DigestPair]
    digest: str


@dataclass(frozen=True, slots=True)
class ChangeUnit:
    """What is judged as one: a document with all paths it moves between, and its labels before and after."""

    kind: ChangeKind
    paths: Mapping[str, DigestPair]
    before: Labels | None
    after: Labels | None


@dataclass(frozen=True, slots=True)
class MergedBy:
    """Who let a change in by a merge, and who wrote it."""

    merger: str
    authors: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReviewedBy:
    """What reviews at the forge say of a change: who asks for it (whoever opened the pull request), whose
    approval counts, who rejects it, and why the other reviews do not count."""

    author: str | None
    approved: frozenset[str]
    rejected: frozenset[str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChangeVerdict:
    """Whether a change may be taken over; if not, `reason`, `message` and what is missing.

    `evidence` is the kind of the approval of each of `approved_by`; `takes_reviews` says whether reviews at
    the forge may say who lets such a change in.
    """

    reason: str = ""
    message: str = ""
    authors: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    missing: tuple[MissingApproval, ...] = ()
    used: tuple[Word, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    takes_reviews: bool = False

    @property
    def accepted(self) -> bool:
        return not self.reason


def is_word(path: str) -> bool:
    """Whether `path` is where a person's word on a change lies."""
    return _DOCUMENT.fullmatch(path) is not None


def named_paths(data: bytes) -> tuple[str, ...]:
    """The paths that an unverified ChangeApproval speaks of; none when it is malformed."""
    try:
        return tuple(_parse(data).changes)
    except VoidApproval:
        return ()


def read_word(policy: Policy, root: str, path: str, data: bytes, signature: bytes | None) -> Word:
    """Verify the word at `path`. Raises VoidApproval with the reason why it does not count."""
    match = _DOCUMENT.fullmatch(path)
    document = _parse(data)
    if not match or document.principal != match[2] or change_digest(document.changes) != f"sha256:{match[1]}":
        raise VoidApproval("ApprovalMisplaced", f"{path} is not the place of this approval")
    if document.repository != root:
        raise VoidApproval("OtherRepository", f"{path} was given in repository {document.repository}")
    check_person_signed(policy, document.principal, data, signature, path)
    pairs = {name: (change.old, change.new) for name, change in document.changes.items()}
    return Word(document.principal, document.decision, pairs, bytes_digest(data))


def check_person_signed(
    policy: Policy, principal: str, data: bytes, signature: bytes | None, path: str
) -> None:
    """Raise VoidApproval unless the person `principal` signed `data` as an approval."""
    if principal not in policy.spec.principals:
        raise VoidApproval("UnknownPrincipal", f"{path}: the policy lists no principal {principal!r}")
    if not is_person(policy, principal):
        raise VoidApproval("MachineApproval", f"{path}: {principal} is a machine")
    if signature is None:
        raise VoidApproval("ApprovalUnsigned", f"{path}.sig is missing")
    try:
        signer = signer_of(policy, data, signature.decode("ascii", errors="replace"), sshsig.APPROVAL)
    except sshsig.BadSignature as error:
        raise VoidApproval("BadSignature", f"{path}.sig: {error}") from None
    if signer != principal:
        raise VoidApproval("BadSignature", f"{path}.sig was made by {signer}, not by {principal}")


def _parse(data: bytes) -> ChangeApproval:
    try:
        return ChangeApproval.model_validate(strict_json.parse(data))
    except strict_json.InvalidMessage as error:
        raise VoidApproval("MalformedApproval", str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VoidApproval("MalformedApproval", f"{where}: {first['msg']}") from None


def judge_change(
    policy: Policy,
    unit: ChangeUnit,
    direct_authors: Collection[str],
    words: Iterable[Word],
    now_so: Callable[[str], DigestPair],
    spent: Collection[tuple[str, str]] = (),
    merged: Callable[[], MergedBy | None] = lambda: None,
    reviewed: Callable[[], ReviewedBy | None] = lambda: None,
) -> ChangeVerdict:
    """Judge `unit` under `policy`.

    `direct_authors` are people who signed the very commit of the change; `now_so` gives the digests in
    force and in the tree of any path, for a word counts only while everything it names is so. `spent`
    holds (digest of a word's document, path) that brought a change into force before: a word does so once.
    `merged` tells who let it in by a merge and who wrote it, `reviewed` what was said of it at the forge;
    each is asked only where every rule takes that.
    """
    authors = {name for name in direct_authors if is_person(policy, name)}
    fitting: list[Word] = []
    stale: list[Word] = []
    for word in words:
        used_up = any((word.digest, path) in spent for path in unit.paths)
        (stale if used_up or not _fits(word, unit, now_so) else fitting).append(word)
    said = {decision: {w.principal for w in fitting if w.decision == decision} for decision in _DECISIONS}
    authors |= said["propose"]
    rules = rules_for_change(policy, unit.kind, unit.before, unit.after)
    merge = merged() if takes(unit.kind, rules or (), "merge") else None
    takes_reviews = takes(unit.kind, rules or (), "forge")
    reviews = reviewed() if takes_reviews else None
    writers = merge.authors if merge else frozenset()
    authors |= writers | ({reviews.author} if reviews and reviews.author else set())
    given = strongest(
        [(who, "signature") for who in said["approve"]]
        + [(who, "forge") for who in sorted(reviews.approved if reviews else ())]
        + ([(merge.merger, "merge")] if merge else [])
    )
    approvers = {who: given[who] for who in sorted(given) if who not in authors}
    known = ChangeVerdict(
        authors=tuple(sorted(authors)),
        approved_by=tuple(approvers),
        evidence=tuple(approvers.values()),
        takes_reviews=takes_reviews,
    )
    if rules is None:
        return replace(
            known, reason="NoRule", message=f"no rule of the policy is about this change of {unit.kind}"
        )
    if not authors:
        return replace(
            known, reason="ChangeUnsigned", message="nobody known to the policy asks for this change"
        )
    asking = {who for who in authors if all(may_request(policy, rule, who) for rule in rules)}
    if not writers <= asking:
        asking -= writers  # whose hands the bytes went through, nobody tells apart
    if not asking:
        message = f"{', '.join(known.authors)} may not ask for this change"
        return replace(known, reason="NotEntitled", message=message)
    rejecting = said["reject"] | (reviews.rejected if reviews else frozenset())
    against = sorted(who for who in rejecting if any(may_approve(policy, rule, who) for rule in rules))
    if against:
        return replace(known, reason="Rejected", message=f"rejected by {', '.join(against)}")
    missing = missing_approvals(policy, rules, authors, approvers)
    if missing:
        text = "missing: " + ", ".join(f"{each.count} of {each.team}" for each in missing)
        if approvers:
            text += "; so far: " + ", ".join(f"{who} ({kind})" for who, kind in approvers.items())
        if stale:
            names = ", ".join(sorted({word.principal for word in stale}))
            text += f"; the word of {names} is about other bytes, or was used before"
        return replace(known, reason="ApprovalsMissing", message=text, missing=missing)
    return replace(known, used=tuple(fitting))


def takes(kind: ChangeKind, rules: Collection[Rule], evidence: Evidence) -> bool:
    """Whether evidence below a signature may say who lets such a change in: if all rules agree, and never for
    one of the policy."""
    return kind != "policy" and bool(rules) and all(accepts(rule, evidence) for rule in rules)


def _fits(word: Word, unit: ChangeUnit, now_so: Callable[[str], DigestPair]) -> bool:
    if any(word.changes.get(path) != pair for path, pair in unit.paths.items()):
        return False
    for path, (old, new) in word.changes.items():
        in_force, in_tree = now_so(path)
        if in_tree != new or in_force not in (old, new):
            return False
    return True
