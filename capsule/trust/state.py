"""What is in force, as values: the verified main branch, and requests with their evidence.

A value of these types exists only because trust made it: trust is a change of type. Called by decide,
plan, view and the reconciler, which read them and never make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from capsule.documents.types import (
    ActionRequest,
    Capsule,
    ChangeAttestation,
    ChangeKind,
    Evidence,
    Ground,
    Policy,
    Rule,
    Service,
)
from capsule.trust.key_validity import Seen

T = TypeVar("T")
Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person must know about a step of main: a reason code, a text, and where."""

    reason: str
    message: str
    path: str = ""
    commit: str = ""
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class InForce(Generic[T]):
    """A document in force: the last good bytes, whatever stands in the tree since. `authors` asked for it,
    and `approved_by` let it in, each by the kind of `evidence` in the same place."""

    document: T
    path: str
    blob: str
    digest: str
    since: str
    authors: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change on main that is not taken over: bytes in the tree differ from those in force.

    `old` and `new` are digests, None where the document does not exist. `since` is the commit that
    brought it; `signed` says whether that commit's own signature may name its author (not that of a
    merge, nor of one merged while main was suspended), `merged` whether it is a merge that may say who
    let the change in. `documents` are the paths of the words on it (`approvals/…`) that arrived with it
    or since; `authors`, `approved_by` and `missing` what they amount to, and `evidence` the kind of that of
    each who approves. `takes_reviews` says whether reviews at the forge may let it in, and `told` what was
    recorded of them last.
    """

    kind: ChangeKind
    path: str
    old: str | None
    new: str | None
    since: str
    reason: str = ""
    message: str = ""
    signed: bool = False
    merged: bool = False
    documents: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    missing: tuple[MissingApproval, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    takes_reviews: bool = False
    told: ChangeAttestation | None = None


@dataclass(frozen=True, slots=True)
class MainState:
    """Main as judged up to `tip`: the documents in force, and what is wrong.

    `tip` is the last step that was taken over; a step that cannot be at all (a symlink, status/ on main)
    leaves it where it is, and audit never merges that step. `services` is keyed by name; `signers` is the
    owner-signed list agents are sent. `suspended` says why nothing may be acted on (probing goes on);
    `held` is that part of it which the steps up to `tip` cause. `spent` names the words on changes that
    brought a change into force (digest of the document, path): none does so twice.
    """

    root: str
    tip: str
    policy: InForce[Policy]
    settings: InForce[Capsule]
    services: Mapping[str, InForce[Service]]
    suspended: Finding | None = None
    pending: tuple[PendingChange, ...] = ()
    findings: tuple[Finding, ...] = ()
    signers: SignersInForce | None = None
    held: Finding | None = None
    spent: frozenset[tuple[str, str]] = frozenset()
    seen: Seen | None = field(default=None, compare=False, repr=False)
    """When steps were first seen, for keys that speak for a while only, and what was recorded of reviews."""
    heard: int = 0
    """The number of the last attestation of changes at `tip` that was judged."""
    told: str | None = field(default=None, compare=False, repr=False)
    """What audit held of the reviews of changes when this was judged, as the id of all of it."""
    fleeting: bool = False
    """Whether it was judged by the time of now: to be judged again, once audit tells the time for ever."""


@dataclass(frozen=True, slots=True)
class SignersInForce:
    """`signers/signers.json` and the owners' signatures that verified."""

    document: bytes
    signatures: tuple[str, ...]
    serial: int


@dataclass(frozen=True, slots=True)
class SeenApproval:
    """One approval: whether it counts, and if not, why (`reason` empty when it counts).

    Document and signature are those of an approval file; for `forge` and `merge` evidence, which rest on the
    attestation or the merge that `message` names, they are empty. `principal` of an account at a forge that
    the policy gives nobody is forge and number, such as `github:583231`.
    """

    principal: str
    decision: Literal["approve", "reject", "break-glass"]
    counts: bool
    evidence: Evidence
    document: bytes
    signature: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class MissingApproval:
    """So many more approvals of a team, and the people who may still give them."""

    team: str
    count: int
    candidates: tuple[str, ...]


Verdict = Literal["approved", "proposed", "rejected", "refused"]


@dataclass(frozen=True, slots=True)
class JudgedRequest:
    """A request and what its evidence amounts to.

    `verdict`: approved (may be executed), proposed (approvals are missing), rejected (a reviewer said
    no), refused (can never be executed as it stands: `reason`, `message`). `document` is None when the
    bytes are not a valid ActionRequest. `target_digests` are those of the services now in force.
    """

    name: str
    path: str
    digest: str
    raw: bytes
    signature: str
    source: Literal["main", "branch"]
    revision: str
    document: ActionRequest | None
    verdict: Verdict
    reason: str = ""
    message: str = ""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    approvals: tuple[SeenApproval, ...] = ()
    missing: tuple[MissingApproval, ...] = ()
    target_digests: Mapping[str, str] = field(default_factory=dict)
    evidence: Ground = "signature"
    """The weakest kind of evidence that was needed for the verdict, or that the glass was broken for it."""
    blob: str = ""
    """Blob id of `raw`."""
    fleeting: bool = False
    """Whether it was judged by the time of now, not by one that audit tells."""
    arrived: tuple[tuple[str, str], ...] = ()
    """The files, by path and blob id, of which the verdict rests on when these bytes came to main."""

    @property
    def approved_by(self) -> tuple[str, ...]:
        """The people whose approvals count, each once."""
        return tuple(dict.fromkeys(name for name, _ in self.evidence_of_people()))

    def evidence_of_people(self) -> list[tuple[str, Evidence]]:
        """Every approval that counts, as the person and the kind of evidence."""
        return [
            (each.principal, each.evidence)
            for each in self.approvals
            if each.counts and each.decision == "approve"
        ]
