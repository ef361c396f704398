"""The documents people and reconcilers write: one frozen type each, whose fields are the reference.

Rules kept: unknown fields are errors; no field has two spellings; Python names are snake_case, document
names camelCase. The JSON Schemas under docs/spec/v1/ and the reference of fields are generated from here.
The Approval document is a wire message (agents check it too): see capsule_agent.protocol.messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from capsule.documents.scalars import (
    CommitId,
    Digest,
    Duration,
    Instant,
    KeyText,
    LabelValue,
    Line,
    LocalTime,
    Name,
    Text,
    Word,
)

API_VERSION: Literal["capsule/v1"] = "capsule/v1"
Evidence = Literal["merge", "forge", "signature"]
HealthStatus = Literal["UP", "DEGRADED", "DOWN"]
EffectiveStatus = Literal["STALE", "DISABLING", "DISABLED", "OFFLINE", "UNHEALTHY", "UNKNOWN", "HEALTHY"]
ResultOutcome = Literal["succeeded", "failed", "refused", "unknown", "cancelled"]
ChangeKind = Literal["service", "settings", "policy"]
Labels = Annotated[Mapping[Name, LabelValue], Field(max_length=32)]
Selector = Annotated[
    Mapping[Name, LabelValue], Field(max_length=16, description="Labels that must all be equal")
]
Scalar = str | int | bool
Params = Annotated[Mapping[Word, Scalar], Field(max_length=32, description="Parameters of the action")]


class Part(BaseModel):
    """Base of everything inside of a document."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Metadata(Part):
    """Who the document is about."""

    name: Name = Field(description="Unique among documents of its kind in the repository")
    labels: Labels = Field(default={}, description="Labels for selectors, dashboards and routing")


class Document(Part):
    """Base of all documents."""

    api_version: Literal["capsule/v1"] = Field(description='Always "capsule/v1"')
    metadata: Metadata = Field(description="Name and labels")


# ---- capsule.yaml -------------------------------------------------------------------------------


class Limits(Part):
    """Safety limits on what one request may touch."""

    max_targets: int = Field(default=20, ge=1, le=100_000, description="Most services one request may name")
    max_share: int = Field(
        default=50,
        ge=1,
        le=100,
        description="Most services one request may name, in percent of all (one is always allowed)",
    )


class ProbeSettings(Part):
    """Defaults of probing, for services that say nothing else."""

    interval: Duration = Field(
        default=timedelta(seconds=30), description="Time between two probes of a service"
    )
    timeout: Duration = Field(default=timedelta(seconds=5), description="Longest wait for an agent's report")
    grace: Duration = Field(default=timedelta(minutes=1), description="How long unreachable before OFFLINE")


class CapsuleSpec(Part):
    """Identity and settings of the whole repository."""

    title: Line = Field(default="", description="Shown by the dashboard")
    audit_branch: Literal["audit"] = Field(default="audit", description="Branch that reconcilers write")
    limits: Limits = Field(default=Limits(), description="Safety limits")
    probe: ProbeSettings = Field(default=ProbeSettings(), description="Defaults of probing")
    order_timeout: Duration = Field(
        default=timedelta(minutes=2), description="Longest wait for the receipt of an order"
    )
    lease: Duration = Field(
        default=timedelta(minutes=5), description="After this long without news another reconciler takes over"
    )
    heartbeat_push: Duration = Field(
        default=timedelta(minutes=5), description="Shortest time between two pushes of the heartbeat"
    )


class Capsule(Document):
    """`capsule.yaml`: identity and settings of a state repository."""

    kind: Literal["Capsule"] = Field(description="Kind of the document")
    spec: CapsuleSpec = Field(default=CapsuleSpec(), description="Settings")


# ---- services/**/<name>.yaml --------------------------------------------------------------------


class AgentAddress(Part):
    """Where the agent of a service is, and how it is recognised."""

    endpoint: str = Field(
        max_length=300,
        pattern=r"^(https?://[^\s@/?#]+(/[^\s?#]*)?|ssh://([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[^\s@/?#]+|unix:/[^\s?#]+)$",
        description='"https://host:port", "ssh://user@host:port", or "unix:/path" on the same host',
    )
    key: KeyText | None = Field(
        default=None, description="Signs this agent's receipts; without it: observe only"
    )
    host_key: str | None = Field(
        default=None, max_length=1000, description="SSH host key, pinned (known_hosts form without the host)"
    )
    certificate: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="SHA-256 of the pinned TLS certificate (DER)",
    )
    ca: Name | None = Field(default=None, description="Name of a private CA file given to the reconciler")
    insecure: bool = Field(default=False, description="Allow plain http beyond loopback")


class Health(Part):
    """How often a service is probed."""

    interval: Duration | None = Field(default=None, description="Time between two probes")
    timeout: Duration | None = Field(default=None, description="Longest wait for the report")


class Rotation(Part):
    """When the key of a service is due."""

    every: Duration = Field(description="Oldest age of the key before its rotation is overdue")


class ServiceSpec(Part):
    """What a service should be."""

    enabled: bool = Field(default=True, description="Whether the service may take traffic")
    agent: AgentAddress = Field(description="Where its agent is")
    pins: Annotated[Mapping[Word, Scalar], Field(max_length=32)] = Field(
        default={}, description="Values that the agent's report must show, such as version, model, upstream"
    )
    on_drift: Literal["report", "correct"] = Field(
        default="report", description="Say so, or order the agent to correct it"
    )
    ignore_drift: tuple[Word, ...] = Field(
        default=(), max_length=32, description="Pins whose drift is not reported"
    )
    health: Health = Field(default=Health(), description="How often it is probed")
    rotation: Rotation | None = Field(default=None, description="When its key is due")
    owner: Line = Field(default="", description="Whom to ask")
    runbook: Line = Field(default="", description="Address of the runbook")


class Service(Document):
    """`services/**/<name>.yaml`: one integration service, as it should be."""

    kind: Literal["Service"] = Field(description="Kind of the document")
    spec: ServiceSpec = Field(description="What the service should be")


# ---- requests/<yyyy>/<mm>/<request>/request.yaml ------------------------------------------------


class Rollout(Part):
    """The order in which targets are acted on."""

    parallel: int = Field(default=1, ge=1, le=1000, description="Targets acted on at once")
    on_failure: Literal["stop", "continue"] = Field(
        default="stop", description="What a failure means for targets not yet begun"
    )


class RequestSpec(Part):
    """What is asked for."""

    requested_by: Name = Field(description="Principal who asks, and signs the document")
    action: Word = Field(description="Action of the agent, or a built-in such as cancel")
    targets: tuple[Name, ...] = Field(
        min_length=1, max_length=100_000, description="Names of services, written out"
    )
    params: Params = Field(default={}, description="Parameters of the action")
    reason: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Why, for reviewers and auditors"
    )
    expires: Instant = Field(description="After this instant nothing is begun")
    not_before: Instant | None = Field(default=None, description="Before this instant nothing is begun")
    rollout: Rollout = Field(default=Rollout(), description="How targets are worked through")


class ActionRequest(Document):
    """`requests/…/request.yaml`: one action asked for, signed in `request.yaml.sig`."""

    kind: Literal["ActionRequest"] = Field(description="Kind of the document")
    spec: RequestSpec = Field(description="What is asked for")


# ---- policy.yaml --------------------------------------------------------------------------------


class Principal(Part):
    """A person or a machine, and the keys that speak for it."""

    email: Annotated[str, Field(pattern=r"^[^\s@<>]+@[^\s@<>]+$", max_length=200)] | None = Field(
        default=None, description="Address shown in commits"
    )
    keys: tuple[KeyText, ...] = Field(min_length=1, max_length=16, description="OpenSSH Ed25519 public keys")
    machine: bool = Field(
        default=False, description="A reconciler: may sign commits on audit, never request or approve"
    )
    forge: Annotated[Mapping[Name, int], Field(max_length=8)] = Field(
        default={}, description="Numeric account ids at forges"
    )


class Match(Part):
    """What a rule is about: an action, or a change of documents."""

    action: Word | Literal["*"] | None = Field(default=None, description="Action of a request")
    change: ChangeKind | None = Field(default=None, description="Kind of document that changes")
    selector: Selector = Field(default={}, description="Labels of the service, before and after a change")


class ApprovalRule(Part):
    """So many approvals by members of a team."""

    team: Name = Field(description="Whose approvals count")
    count: int = Field(ge=1, le=100, description="How many people")


class Rule(Part):
    """First match decides; no match is a refusal."""

    match: Match = Field(description="What the rule is about")
    may_request: tuple[Name, ...] = Field(
        min_length=1, max_length=64, description="Teams whose members may ask"
    )
    approvals: tuple[ApprovalRule, ...] = Field(
        max_length=16, description="Approvals needed; an empty list needs none"
    )
    evidence: Evidence = Field(default="signature", description="Weakest evidence of approval that counts")


class Freeze(Part):
    """A window in which nothing is begun."""

    selector: Selector = Field(default={}, description="Services that are frozen")
    start: LocalTime = Field(alias="from", description="First minute of the freeze")
    end: LocalTime = Field(alias="to", description="First minute after the freeze")
    timezone: Annotated[str, Field(max_length=64)] = Field(
        description="IANA zone of both times, such as Europe/Berlin"
    )
    except_: tuple[Name, ...] = Field(
        default=(), alias="except", max_length=64, description="Teams whose requests go on"
    )
    reason: Line = Field(default="", description="Shown to whoever waits")


class PolicySpec(Part):
    """Who may do what."""

    serial: int = Field(ge=1, le=2**53 - 1, description="Only ever rises")
    principals: Annotated[Mapping[Name, Principal], Field(min_length=1, max_length=10_000)] = Field(
        description="People and machines"
    )
    teams: Annotated[Mapping[Name, tuple[Name, ...]], Field(max_length=1000)] = Field(
        description="Names of principals"
    )
    rules: tuple[Rule, ...] = Field(max_length=1000, description="First match decides; no match is a refusal")
    freezes: tuple[Freeze, ...] = Field(
        default=(), max_length=1000, description="Windows in which nothing is begun"
    )


class Policy(Document):
    """`policy.yaml`: who may do what."""

    kind: Literal["Policy"] = Field(description="Kind of the document")
    spec: PolicySpec = Field(description="Principals, teams, rules")


# ---- audit: status/**/<name>.yaml and records/ --------------------------------------------------


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
    evidence: Evidence = Field(description="Kind of evidence of the approval")
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


# ---- changes of documents -----------------------------------------------------------------------


class ChangedPath(Part):
    """One document before and after; null where it did not, or will not, exist."""

    old: Digest | None = Field(description="SHA-256 of the bytes in force")
    new: Digest | None = Field(description="SHA-256 of the bytes proposed")


class ChangeApproval(Part):
    """`approvals/<digest>/<principal>.json`: a person proposes, approves or rejects a change of documents."""

    api_version: Literal["capsule/v1"] = Field(description='Always "capsule/v1"')
    kind: Literal["ChangeApproval"] = Field(description="Kind of the document")
    repository: CommitId = Field(description="Id of the repository's first commit")
    principal: Name = Field(description="Who signs")
    decision: Literal["propose", "approve", "reject"] = Field(
        description="The author proposes, reviewers approve"
    )
    changes: Annotated[Mapping[str, ChangedPath], Field(min_length=1, max_length=10_000)] = Field(
        description="Every path with old and new digest"
    )
    reason: Line = Field(default="", description="Why")


ANY_DOCUMENT = (Capsule, Policy, Service, ActionRequest, ServiceStatus, Claim, Result, Refusal)
AnyDocument = Capsule | Policy | Service | ActionRequest | ServiceStatus | Claim | Result | Refusal
