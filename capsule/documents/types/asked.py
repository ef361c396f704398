"""What people ask for: action requests, and their word on changes of documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from capsule.documents.scalars import (
    CommitId,
    Digest,
    Duration,
    Instant,
    Line,
    Name,
    Word,
)
from capsule.documents.types.base import (
    Document,
    Params,
    Part,
)


class Rollout(Part):
    """The order in which targets are acted on."""

    parallel: int = Field(default=1, ge=1, le=1000, description="Targets acted on at once")
    on_failure: Literal["stop", "continue"] = Field(
        default="stop", description="What a failure means for targets not yet begun"
    )
    pause: Duration = Field(
        default=timedelta(0), description="Time between the end of a batch and the next batch"
    )
    health_check: bool = Field(
        default=False, description="Begin the next batch only when all services of the last are healthy again"
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
    break_glass: bool = Field(
        default=False, description="Act without approvals, where the rule's `breakGlass` lets the requester"
    )


class ActionRequest(Document):
    """`requests/…/request.yaml`: one action asked for, signed in `request.yaml.sig`."""

    kind: Literal["ActionRequest"] = Field(description="Kind of the document")
    spec: RequestSpec = Field(description="What is asked for")


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
