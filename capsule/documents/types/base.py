"""What all documents share: names and labels, frozen parts, words with one meaning. Used by the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from capsule.documents.scalars import (
    LabelValue,
    Name,
    Word,
)

API_VERSION: Literal["capsule/v1"] = "capsule/v1"
Evidence = Literal["merge", "forge", "signature"]
Ground = Literal["merge", "forge", "signature", "break-glass"]
"""What an operation rests on: the weakest evidence of its approvals, or that the glass was broken for it."""
ForgeKind = Literal["github", "gitlab", "gitea"]
HealthStatus = Literal["UP", "DEGRADED", "DOWN"]
EffectiveStatus = Literal["STALE", "DISABLING", "DISABLED", "OFFLINE", "UNHEALTHY", "UNKNOWN", "HEALTHY"]
ResultOutcome = Literal["succeeded", "failed", "refused", "unknown", "cancelled"]
ChangeKind = Literal["service", "settings", "policy"]
EventKind = Literal[
    "ApprovalPending",
    "ChangePending",
    "RequestRefused",
    "BreakGlass",
    "OperationFailed",
    "OperationUnknown",
    "RolloutStopped",
    "Drift",
    "CorrectionStopped",
    "KeyDueSoon",
    "KeyOverdue",
    "KeyChangedOutsideCapsule",
    "SecretInReport",
    "TrustOutdated",
    "ServiceOffline",
    "ServiceUnhealthy",
    "Flapping",
    "DisabledByRequest",
    "ReconcilerSilent",
    "ReconcilerSuspended",
    "Finding",
]
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
