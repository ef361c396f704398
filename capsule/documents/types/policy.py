"""Who may do what: `policy.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from capsule.documents.scalars import (
    Instant,
    KeyText,
    Line,
    LocalTime,
    Name,
    Word,
)
from capsule.documents.types.base import (
    ChangeKind,
    Document,
    Evidence,
    Part,
    Selector,
)


class DatedKey(Part):
    """A key that speaks for a while only: judged by when a reconciler first saw what it signed."""

    key: KeyText = Field(description="OpenSSH Ed25519 public key")
    valid_after: Instant | None = Field(default=None, description="What is seen before this does not count")
    valid_before: Instant | None = Field(
        default=None, description="What is seen at this instant or later does not count"
    )


def _key_form(value: object) -> str:
    return "text" if isinstance(value, str) else "dated"


Key = Annotated[Annotated[KeyText, Tag("text")] | Annotated[DatedKey, Tag("dated")], Discriminator(_key_form)]


class Principal(Part):
    """A person or a machine, and the keys that speak for it."""

    email: Annotated[str, Field(pattern=r"^[^\s@<>]+@[^\s@<>]+$", max_length=200)] | None = Field(
        default=None, description="Address shown in commits"
    )
    keys: tuple[Key, ...] = Field(
        min_length=1, max_length=16, description="OpenSSH Ed25519 public keys, each with or without an end"
    )
    machine: bool = Field(
        default=False,
        description="A reconciler: signs orders and commits on audit, asks only where people must approve, "
        "never approves",
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


class BreakGlass(Part):
    """Who may act without the approvals of a rule, in an emergency, and answer for it after."""

    team: Name = Field(description="Whose members may")


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
    break_glass: BreakGlass | None = Field(
        default=None, description="Who may act without these approvals, marked until it is acknowledged"
    )


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
