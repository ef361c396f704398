"""What reconcilers write on audit: statuses and records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from capsule.documents.scalars import (
    BlobPath,
    CommitId,
    Digest,
    Instant,
    Line,
    Name,
    Text,
    Word,
)
from capsule.documents.types.base import (
    Document,
    EffectiveStatus,
    ForgeKind,
    Ground,
    HealthStatus,
    Params,
    Part,
    ResultOutcome,
    Scalar,
)

AccountId = Annotated[int, Field(ge=1, le=2**53 - 1)]


class Condition(Part):
    """One thing that is so, since when, and why."""

    type: Word = Field(description="Such as Drift, KeyOverdue, TrustOutdated")
    reason: Word = Field(description="Reason code, listed in the reference")
    message: Line = Field(description="One line for people")
    since: Instant = Field(description="When it became so")


class DriftItem(Part):
    """A pin that differs from the report."""

    pin: Word = Field(description="Name of the pin")
    desired: Scalar = Field(description="Value in the spec")
    observed: Scalar | None = Field(description="Value in the report; null when it is not reported")
    since: Instant = Field(description="When the reconciler first saw it")


class ObservedHealth(Part):
    """Health as the service said it."""

    status: HealthStatus = Field(description="UP, DEGRADED or DOWN")
    detail: Line = Field(default="", description="What the service adds")
    since: Instant = Field(description="When it became so")


class StatusSpec(Part):
    """What was observed."""

    observed_revision: CommitId = Field(description="Commit of main under which it was observed")
    effective_status: EffectiveStatus = Field(description="The one word")
    reason: Word = Field(description="Why that word")
    message: Line = Field(default="", description="One line for people")
    since: Instant = Field(description="When effectiveStatus became so")
    enabled: bool | None = Field(default=None, description="What the agent says")
    version: Line | None = Field(default=None, description="Version that the agent reports")
    values: Annotated[Mapping[Word, Scalar], Field(max_length=64)] = Field(
        default={}, description="Reported configuration"
    )
    fingerprints: Annotated[Mapping[Word, Line], Field(max_length=64)] = Field(
        default={}, description="Keyed fingerprints of sensitive values"
    )
    health: ObservedHealth | None = Field(default=None, description="Health as the service said it")
    drift: tuple[DriftItem, ...] = Field(default=(), max_length=64, description="Pins that differ")
    conditions: tuple[Condition, ...] = Field(
        default=(), max_length=64, description="All that deserves attention"
    )
    last_operation: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="Id of the last operation that may have changed a value, when this was observed",
    )
    key_created_at: Instant | None = Field(
        default=None, description="When the present key was created, as far as the agent knows"
    )
    actions: Annotated[tuple[Word, ...], Field(max_length=64)] = Field(
        default=(), description="Actions that the agent offered when this was observed"
    )
    changes: Annotated[tuple[Instant, ...], Field(max_length=16)] = Field(
        default=(), description="When effectiveStatus last changed, oldest first: what flapping is judged by"
    )


class ServiceStatus(Document):
    """`status/**/<name>.yaml` on audit: the last material observation of one service."""

    kind: Literal["ServiceStatus"] = Field(description="Kind of the document")
    spec: StatusSpec = Field(description="What was observed")


class Journal(Part):
    """Where an agent's journal stood."""

    id: Annotated[str, Field(max_length=64)] = Field(description="Random id of the journal")
    sequence: int = Field(ge=0, description="Number of its last entry")


class ClaimSpec(Part):
    """That this reconciler, and no other, sends the order."""

    request: Name = Field(description="Request this belongs to")
    request_digest: Digest = Field(description="SHA-256 of request.yaml")
    op_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Id of the operation")
    service: Name = Field(description="Service acted on")
    service_digest: Digest = Field(description="SHA-256 of the service's agent, labels and pins")
    action: Word = Field(description="What the agent is told to do")
    requested_by: Name = Field(description="Who asked")
    approved_by: tuple[Name, ...] = Field(description="Whose approvals counted")
    evidence: Ground = Field(
        description="Kind of evidence of the approval, or `break-glass` where it went without"
    )
    observed_revision: CommitId = Field(description="Commit of main that was judged")
    reconciler: Name = Field(description="Principal that claims")
    attempt: int = Field(ge=1, description="Fencing token: 1, then one more at each takeover")
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(
        description="Makes every claim a different commit"
    )
    journal: Journal | None = Field(default=None, description="The agent's journal as last reported")
    claimed_at: Instant = Field(description="The reconciler's clock")


class Claim(Document):
    """`records/…/<service>/claim-<attempt>.yaml`: written before any order leaves."""

    kind: Literal["Claim"] = Field(description="Kind of the document")
    spec: ClaimSpec = Field(description="What was claimed")


class ResultSpec(Part):
    """What became of an operation. The agent's signed receipt lies beside as receipt.json."""

    request: Name = Field(description="Request this belongs to")
    op_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Id of the operation")
    service: Name = Field(description="Service acted on")
    action: Word = Field(description="What was done")
    attempt: int = Field(ge=1, description="Attempt that the receipt answers")
    outcome: ResultOutcome = Field(description="What became of it")
    reason: Word = Field(description="Reason code")
    message: Line = Field(default="", description="One line for people")
    outputs: Annotated[Mapping[Word, Scalar], Field(max_length=64)] = Field(
        default={}, description="Declared, typed outputs of the agent"
    )
    started_at: Instant | None = Field(default=None, description="The agent's clock")
    finished_at: Instant | None = Field(default=None, description="The agent's clock")
    recorded_at: Instant = Field(description="The reconciler's clock")
    receipt_digest: Digest | None = Field(
        default=None, description="SHA-256 of receipt.json; none when the agent could not be asked"
    )


class Result(Document):
    """`records/…/<service>/result.yaml`: what became of an operation."""

    kind: Literal["Result"] = Field(description="Kind of the document")
    spec: ResultSpec = Field(description="What became of it")


class RefusalSpec(Part):
    """Why a request will never be executed."""

    request: Name = Field(description="Request that was refused")
    request_digest: Digest = Field(description="SHA-256 of request.yaml")
    phase: Literal["Rejected", "Expired", "Cancelled"] = Field(description="Phase the request ends in")
    reason: Word = Field(description="Reason code")
    message: Text = Field(description="For people")
    observed_revision: CommitId = Field(description="Commit of main that was judged")
    recorded_at: Instant = Field(description="The reconciler's clock")


class Refusal(Document):
    """`records/…/<request>/refusal.yaml`: a request that ends without being executed, and why."""

    kind: Literal["Refusal"] = Field(description="Kind of the document")
    spec: RefusalSpec = Field(description="Why")


_REVIEWS = "The latest word of each account, as told; of few accounts that the policy gives to nobody"


class Review(Part):
    """One review of a pull request, as the forge's API said it: the raw fact, nothing judged."""

    id: int = Field(ge=0, le=2**53 - 1, description="The forge's number of the review; 0 when it gives none")
    user: int = Field(ge=1, le=2**53 - 1, description="Numeric account id of the reviewer")
    login: Line = Field(default="", description="Name of the account then; for people, nothing rests on it")
    state: Literal["approved", "changes_requested", "dismissed", "commented"] = Field(
        description="What the review says"
    )
    commit: CommitId | None = Field(
        default=None, description="Commit that was reviewed; none when the forge does not say"
    )
    submitted_at: Instant = Field(description="The forge's clock")
    bot: bool = Field(default=False, description="The forge calls the account a bot")


class AttestationSpec(Part):
    """What a forge said of the pull request that brought a request to main."""

    forge: ForgeKind = Field(description="Kind of forge: github, gitlab or gitea (Forgejo too)")
    server: Line = Field(description="Host of the forge")
    repository: Line = Field(description="Repository there, as owner/name")
    number: int = Field(ge=1, le=2**53 - 1, description="Number of the pull or merge request")
    revision: CommitId = Field(description="Commit of main that was judged")
    merged: CommitId = Field(description="Commit of main that the pull request became, says the forge")
    head: CommitId = Field(description="Last commit of the pull request when it was merged")
    author: int = Field(ge=1, le=2**53 - 1, description="Numeric account id of who opened it")
    request: Name = Field(description="Request this belongs to")
    request_digest: Digest = Field(description="SHA-256 of request.yaml on main")
    paths: Annotated[Mapping[BlobPath, CommitId], Field(max_length=64)] = Field(
        description="Blob ids at the head, by path: what the reviewers saw"
    )
    targets: Annotated[Mapping[Name, Digest], Field(max_length=100_000)] = Field(
        description="SHA-256 of agent, labels and pins of every target in force"
    )
    reviews: tuple[Review, ...] = Field(default=(), max_length=500, description=_REVIEWS)
    reconciler: Name = Field(description="Principal that asked the forge and signs the commit")
    observed_at: Instant = Field(description="The reconciler's clock")


class Attestation(Document):
    """`records/…/<request>/attestation-<n>.yaml`: the reviews of a request's pull request at one moment."""

    kind: Literal["Attestation"] = Field(description="Kind of the document")
    spec: AttestationSpec = Field(description="What the forge said")


class Writer(Part):
    """An author or a committer of a commit, as far as the forge tells: neither proves anything of anybody."""

    user: AccountId | None = Field(
        default=None, description="Account that the forge found behind the e-mail; none where it found none"
    )
    email: Line = Field(default="", description="What the commit says: anybody may write any")


class ChangeAttestationSpec(Part):
    """What a forge said of the pull request that brought changes of documents to main."""

    forge: ForgeKind = Field(description="Kind of forge: github, gitlab or gitea (Forgejo too)")
    server: Line = Field(description="Host of the forge")
    repository: Line = Field(description="Repository there, as owner/name")
    number: int = Field(ge=1, le=2**53 - 1, description="Number of the pull or merge request")
    revision: CommitId = Field(description="Commit of main that audit had taken in: it counts from there on")
    steps: Annotated[tuple[CommitId, ...], Field(min_length=1, max_length=64)] = Field(
        description="Commits of main that the pull request became, says the forge of each"
    )
    merged: CommitId = Field(description="The last of them, says the forge of the pull request")
    head: CommitId = Field(description="Last commit of the pull request when it was merged")
    author: int = Field(ge=1, le=2**53 - 1, description="Numeric account id of who opened it")
    writers: Annotated[tuple[Writer, ...], Field(max_length=500)] = Field(
        default=(), description="Authors and committers of its commits, each once"
    )
    paths: Annotated[Mapping[BlobPath, CommitId | None], Field(min_length=1, max_length=256)] = Field(
        description="Blob ids at the head, by path; null for a document that is not there"
    )
    bases: Annotated[Mapping[BlobPath, CommitId | None], Field(min_length=1, max_length=256)] = Field(
        description="Blob ids where its branch left main (the merge base), by path; null for no document"
    )
    reviews: tuple[Review, ...] = Field(default=(), max_length=500, description=_REVIEWS)
    reconciler: Name = Field(description="Principal that asked the forge and signs the commit")
    observed_at: Instant = Field(description="The reconciler's clock")


class ChangeAttestation(Document):
    """`records/changes/…/attestation-<n>.yaml`: the reviews of a pull request that changed documents."""

    kind: Literal["ChangeAttestation"] = Field(description="Kind of the document")
    spec: ChangeAttestationSpec = Field(description="What the forge said")


class StateOrderSpec(Part):
    """That this reconciler tells the agent to be as the service's document says."""

    service: Name = Field(description="Service that is told")
    generation: int = Field(
        ge=1,
        le=2**53 - 1,
        description="Unix time in milliseconds, rising with every such order; agents refuse a lower one, "
        "and one more than 24 hours ahead of their clock",
    )
    document_digest: Digest = Field(description="SHA-256 of the service's document in force")
    op_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Id of the operation")
    action: Literal["enable", "disable", "configure"] = Field(description="What the agent is told to do")
    params: Params = Field(default={}, description="The pins to set, for configure")
    observed_revision: CommitId = Field(description="Commit of main that was judged")
    reconciler: Name = Field(description="Principal that orders")
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(
        description="Makes every order a different commit"
    )
    ordered_at: Instant = Field(description="The reconciler's clock")


class StateOrder(Document):
    """`records/desired/<service>/<generation>/order.yaml`: written before the order leaves."""

    kind: Literal["StateOrder"] = Field(description="Kind of the document")
    spec: StateOrderSpec = Field(description="What was ordered")


class StateResultSpec(Part):
    """What became of a desired-state order. The agent's signed receipt lies beside as receipt.json."""

    service: Name = Field(description="Service that was told")
    generation: int = Field(ge=1, le=2**53 - 1, description="Which order")
    op_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Id of the operation")
    action: Literal["enable", "disable", "configure"] = Field(description="What was done")
    outcome: ResultOutcome = Field(description="What became of it")
    reason: Word = Field(description="Reason code")
    message: Line = Field(default="", description="One line for people")
    outputs: Annotated[Mapping[Word, Scalar], Field(max_length=64)] = Field(
        default={}, description="Declared, typed outputs of the agent"
    )
    started_at: Instant | None = Field(default=None, description="The agent's clock")
    finished_at: Instant | None = Field(default=None, description="The agent's clock")
    recorded_at: Instant = Field(description="The reconciler's clock")
    receipt_digest: Digest = Field(description="SHA-256 of receipt.json")


class StateResult(Document):
    """`records/desired/<service>/<generation>/result.yaml`: what became of a desired-state order."""

    kind: Literal["StateResult"] = Field(description="Kind of the document")
    spec: StateResultSpec = Field(description="What became of it")
