"""The documents people and reconcilers write: one frozen type each, whose fields are the reference.

Rules kept: unknown fields are errors; no field has two spellings; Python names are snake_case, document
names camelCase. The JSON Schemas under docs/spec/v1/ and the reference of fields are generated from here.
The Approval document is a wire message (agents check it too): see capsule_agent.protocol.messages.
"""

from __future__ import annotations

from capsule.documents.types.asked import ActionRequest, ChangeApproval, ChangedPath, RequestSpec, Rollout
from capsule.documents.types.base import (
    API_VERSION,
    ChangeKind,
    Document,
    EffectiveStatus,
    EventKind,
    Evidence,
    ForgeKind,
    Ground,
    HealthStatus,
    Labels,
    Metadata,
    Params,
    Part,
    ResultOutcome,
    Scalar,
    Selector,
)
from capsule.documents.types.desired import (
    AgentAddress,
    Capsule,
    CapsuleSpec,
    Correction,
    ForgeSettings,
    Health,
    Limits,
    NotifyRoute,
    ProbeSettings,
    Rotation,
    Service,
    ServiceSpec,
)
from capsule.documents.types.observed import (
    Attestation,
    AttestationSpec,
    ChangeAttestation,
    ChangeAttestationSpec,
    Claim,
    ClaimSpec,
    Condition,
    DriftItem,
    Journal,
    ObservedHealth,
    Refusal,
    RefusalSpec,
    Result,
    ResultSpec,
    Review,
    ServiceStatus,
    StateOrder,
    StateOrderSpec,
    StateResult,
    StateResultSpec,
    StatusSpec,
    Writer,
)
from capsule.documents.types.policy import (
    ApprovalRule,
    DatedKey,
    Freeze,
    Match,
    Policy,
    PolicySpec,
    Principal,
    Rule,
)

ANY_DOCUMENT = (
    Capsule,
    Policy,
    Service,
    ActionRequest,
    ServiceStatus,
    Claim,
    Result,
    Refusal,
    Attestation,
    ChangeAttestation,
    StateOrder,
    StateResult,
)
AnyDocument = (
    Capsule
    | Policy
    | Service
    | ActionRequest
    | ServiceStatus
    | Claim
    | Result
    | Refusal
    | Attestation
    | ChangeAttestation
    | StateOrder
    | StateResult
)

__all__ = [
    "ANY_DOCUMENT",
    "API_VERSION",
    "ActionRequest",
    "AgentAddress",
    "AnyDocument",
    "ApprovalRule",
    "Attestation",
    "AttestationSpec",
    "Capsule",
    "CapsuleSpec",
    "ChangeApproval",
    "ChangeAttestation",
    "ChangeAttestationSpec",
    "ChangeKind",
    "ChangedPath",
    "Claim",
    "ClaimSpec",
    "Condition",
    "Correction",
    "Document",
    "DatedKey",
    "DriftItem",
    "EffectiveStatus",
    "EventKind",
    "Evidence",
    "Ground",
    "ForgeKind",
    "ForgeSettings",
    "Freeze",
    "Health",
    "HealthStatus",
    "Journal",
    "Labels",
    "Limits",
    "Match",
    "Metadata",
    "NotifyRoute",
    "ObservedHealth",
    "Params",
    "Part",
    "Policy",
    "PolicySpec",
    "Principal",
    "ProbeSettings",
    "Refusal",
    "RefusalSpec",
    "RequestSpec",
    "Result",
    "ResultOutcome",
    "ResultSpec",
    "Review",
    "Rollout",
    "Rotation",
    "Rule",
    "Scalar",
    "Selector",
    "Service",
    "ServiceSpec",
    "ServiceStatus",
    "StateOrder",
    "StateOrderSpec",
    "StateResult",
    "StateResultSpec",
    "StatusSpec",
    "Writer",
]
