"""What should be: `capsule.yaml` and `services/**/<name>.yaml`, written by people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from capsule.documents.scalars import (
    Duration,
    KeyText,
    Line,
    Name,
    Word,
)
from capsule.documents.types.base import (
    Document,
    EventKind,
    ForgeKind,
    Part,
    Scalar,
    Selector,
)


class Limits(Part):
    """Safety limits on what one request may touch."""

    max_targets: int = Field(default=20, ge=1, le=100_000, description="Most services one request may name")
    max_share: int = Field(
        default=50,
        ge=1,
        le=100,
        description="Most services one request may name, in percent of all (one is always allowed; "
        "a disable may name any share)",
    )


class ProbeSettings(Part):
    """Defaults of probing, for services that say nothing else."""

    interval: Duration = Field(
        default=timedelta(seconds=30), description="Time between two probes of a service"
    )
    timeout: Duration = Field(default=timedelta(seconds=5), description="Longest wait for an agent's report")
    grace: Duration = Field(default=timedelta(minutes=1), description="How long unreachable before OFFLINE")


class Correction(Part):
    """How often drift is corrected, for services with `onDrift: correct`, before a person must look."""

    every: Duration = Field(
        default=timedelta(minutes=5), description="Shortest time between two corrections of a service"
    )
    limit: int = Field(
        default=3, ge=1, le=100, description="After so many corrections within `within`, it stops and says so"
    )
    within: Duration = Field(default=timedelta(hours=1), description="The time that `limit` is about")


class NotifyRoute(Part):
    """Which events are told to whom."""

    selector: Selector = Field(
        default={}, description="Only events about a service with these labels; empty: all events"
    )
    teams: Annotated[tuple[Name, ...], Field(max_length=32)] = Field(
        default=(),
        description="Of events that wait for teams (ApprovalPending), only those that wait for one of these; "
        "empty: all. Other events are told regardless",
    )
    events: Annotated[tuple[EventKind, ...], Field(max_length=32)] = Field(
        default=(), description="Kinds of events; empty: all"
    )
    to: Name = Field(
        description="Name of a receiver: a file in the folder given to the reconciler with --notify-dir"
    )
    every: Duration = Field(
        default=timedelta(minutes=1), description="Shortest time between two messages to the receiver"
    )
    repeat_after: Duration = Field(
        default=timedelta(hours=1),
        description="A fact that went and came back is told again, at the earliest this long "
        "after it was told",
    )
    remind_after: Duration | None = Field(
        default=None, description="A fact that lasts is told again every so often; none: never"
    )


class ForgeSettings(Part):
    """The forge at which the repository lies, for evidence from reviews and for opening pull requests."""

    kind: ForgeKind = Field(description="github (Enterprise Server too), gitlab, or gitea (Forgejo too)")
    server: str = Field(
        max_length=300,
        pattern=r"^https?://[^\s@/?#]+(/[^\s?#]*)?$",
        description="Address of the server, such as https://github.com; http only on this machine",
    )
    repository: str = Field(
        max_length=300,
        pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$",
        description="The repository there, as owner/name (gitlab: with all groups)",
    )


class CapsuleSpec(Part):
    """Identity and settings of the whole repository."""

    title: Line = Field(default="", description="Shown by the dashboard")
    limits: Limits = Field(default=Limits(), description="Safety limits")
    probe: ProbeSettings = Field(default=ProbeSettings(), description="Defaults of probing")
    correction: Correction = Field(default=Correction(), description="How often drift is corrected")
    order_timeout: Duration = Field(
        default=timedelta(minutes=2), description="Longest wait for the receipt of an order"
    )
    lease: Duration = Field(
        default=timedelta(minutes=5), description="After this long without news another reconciler takes over"
    )
    heartbeat_push: Duration = Field(
        default=timedelta(minutes=5), description="Shortest time between two pushes of the heartbeat"
    )
    forge: ForgeSettings | None = Field(
        default=None, description="Where pull requests are; none: no reviews are asked for"
    )
    notify: Annotated[tuple[NotifyRoute, ...], Field(max_length=64)] = Field(
        default=(), description="Who is told of what; an event goes to every route that it fits"
    )


class Capsule(Document):
    """`capsule.yaml`: identity and settings of a state repository."""

    kind: Literal["Capsule"] = Field(description="Kind of the document")
    spec: CapsuleSpec = Field(default=CapsuleSpec(), description="Settings")


class AgentAddress(Part):
    """Where the agent of a service is, and how it is recognised."""

    endpoint: str = Field(
        max_length=300,
        pattern=r"^(https?://[^\s@/?#]+(/[^\s?#]*)?|ssh://([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[^\s@/?#]+|unix:/[^\s?#]+)$",
        description='"https://host:port", "ssh://user@host:port", or on the same host '
        '"http://127.0.0.1:port" or "unix:/path"',
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
    propose: Duration | None = Field(
        default=None,
        description="So long before the due date the reconciler asks for it by itself; people approve",
    )


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
