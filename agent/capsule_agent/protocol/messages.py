"""The messages of the wire contract: approval, signers, order, query, receipt, report.

Rules kept: a message is a frozen value with one JSON text; unknown, missing or ill-typed fields are
errors; what is signed is the exact bytes that were sent (`Envelope.payload`), never a re-encoding.
JSON names are the camelCase of the field names. Called by the agent, and by Capsule's trust and
transports. JSON Schemas generated from these types are published under docs/spec/v1/.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from capsule_agent.protocol import strict_json
from capsule_agent.protocol.strict_json import InvalidMessage

API_VERSION = "capsule/v1"
Version = Literal["capsule/v1"]
Outcome = Literal["succeeded", "failed", "refused", "unknown", "running"]
HealthStatus = Literal["UP", "DEGRADED", "DOWN"]
Danger = Literal["none", "low", "high"]
EvidenceKind = Literal["signature", "forge", "merge"]
Power = Literal["request", "approve", "order", "break-glass"]

T = TypeVar("T")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
_HEAD = {"api_version": 0, "kind": 1}
_SCALARS = frozenset({str, int, float, bool})


@cache
def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class Message:
    """Base of all messages; the dictionary below lets pydantic publish their JSON Schemas."""

    __pydantic_config__ = {"extra": "forbid", "alias_generator": _camel}  # noqa: RUF012 (pydantic's name)

    def to_json(self) -> bytes:
        """The message as JSON, indented for readers, ending in a newline."""
        return (json.dumps(encode(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class ApprovedRequest(Message):
    """What was approved: the request by name and by the sha256 of its bytes, and its content as shown."""

    name: str
    digest: str
    requested_by: str
    action: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Approval(Message):
    """A reviewer's decision on one request (`approvals/<principal>.json`, signed beside in `.sig`).

    `break-glass` is the requester's own word, that they act without approvals: it binds what an approval
    binds, so that an agent that takes it reads nothing else.
    """

    repository: str
    principal: str
    decision: Literal["approve", "reject", "break-glass"]
    request: ApprovedRequest
    targets: Mapping[str, str]
    expires: str
    reason: str = ""
    api_version: Version = "capsule/v1"
    kind: Literal["Approval"] = "Approval"


@dataclass(frozen=True, slots=True)
class SignerEntry(Message):
    """One principal: the keys, and what these may sign: requests, approvals, or (a reconciler) orders.

    A reconciler may ask as well, where people must approve; whoever may order never approves. `break-glass`:
    they may ask, and act without approvals, at agents that take that.
    """

    keys: tuple[str, ...]
    may: tuple[Power, ...]


@dataclass(frozen=True, slots=True)
class Signers(Message):
    """Who may sign, as agents learn it: signed by owners whose keys the agent pins, with a rising serial."""

    repository: str
    serial: int
    principals: Mapping[str, SignerEntry]
    api_version: Version = "capsule/v1"
    kind: Literal["Signers"] = "Signers"


@dataclass(frozen=True, slots=True)
class SignedText(Message):
    """A text and the armored SSHSIG of its UTF-8 bytes."""

    document: str
    signature: str


@dataclass(frozen=True, slots=True)
class SignersList(Message):
    """The signers document with the signatures of owners."""

    document: str
    signatures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence(Message):
    """What lets an agent check an approval by itself."""

    request: SignedText
    approvals: tuple[SignedText, ...] = ()


@dataclass(frozen=True, slots=True)
class Order(Message):
    """What an agent is told to do, once. `not_after` is RFC 3339; `attempt` is the fencing token."""

    repository: str
    op_id: str
    service: str
    action: str
    params: Mapping[str, Any]
    request: str
    request_digest: str
    attempt: int
    not_after: str
    reconciler: str
    api_version: Version = "capsule/v1"
    kind: Literal["Order"] = "Order"


@dataclass(frozen=True, slots=True)
class Query(Message):
    """Asks what became of an operation; with `tombstone`, one not yet begun never will be."""

    repository: str
    op_id: str
    service: str
    attempt: int
    not_after: str
    reconciler: str
    tombstone: bool = False
    api_version: Version = "capsule/v1"
    kind: Literal["Query"] = "Query"


@dataclass(frozen=True, slots=True)
class ReportCall(Message):
    """Asks for a report; the answer repeats the nonce (at most 64 characters)."""

    nonce: str


@dataclass(frozen=True, slots=True)
class JournalMark(Message):
    """Where a journal stands: its random id, and the sequence number of its last entry."""

    id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """What an agent answers to an order or a query, signed with the service's key.

    `outcome` is `unknown` when this journal never saw the operation (`reason` NeverSeen) or cannot tell.
    `error` is a short text for people that holds no secret.
    """

    repository: str
    op_id: str
    service: str
    action: str
    attempt: int
    outcome: Outcome
    reason: str
    message: str
    outputs: Mapping[str, Any]
    journal: JournalMark
    agent_version: str
    started_at: str | None = None
    finished_at: str | None = None
    api_version: Version = "capsule/v1"
    kind: Literal["Receipt"] = "Receipt"


@dataclass(frozen=True, slots=True)
class HealthReport(Message):
    """What the adapter says of itself."""

    status: HealthStatus
    detail: str
    checked_at: str


@dataclass(frozen=True, slots=True)
class ActionInfo(Message):
    """One action an agent offers: JSON Schemas (2020-12) of parameters and outputs, and its guards.

    `breakGlass` is true where the agent does it without approvals for whoever may break the glass; left out
    otherwise.
    """

    name: str
    params: Mapping[str, Any]
    outputs: Mapping[str, Any]
    danger: Danger
    approvals: int
    evidence: EvidenceKind = "signature"
    break_glass: bool | None = None


@dataclass(frozen=True, slots=True)
class Report(Message):
    """The state of a service as its agent sees it. `config` holds plain values; `fingerprints` the keyed
    hashes of sensitive ones. `nonce` repeats the caller's, so that an old report cannot be replayed."""

    service: str
    nonce: str
    version: str
    enabled: bool
    observe: bool
    config: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    health: HealthReport
    actions: tuple[ActionInfo, ...]
    journal: JournalMark
    signers_serial: int
    at: str
    disabled_reason: str = ""
    disabled_by_host: bool = False
    key_created_at: str | None = None
    busy: str | None = None
    repository: str | None = None
    api_version: Version = "capsule/v1"
    kind: Literal["Report"] = "Report"


@dataclass(frozen=True, slots=True)
class Envelope(Message):
    """A payload as text and the armored SSHSIG of its UTF-8 bytes; orders carry evidence beside.

    `signature` is empty only for the reports of an agent without a key (`observe`). `signers` comes with
    orders and queries whenever the list is newer than the one the agent last reported.
    """

    payload: str
    signature: str
    evidence: Evidence | None = None
    signers: SignersList | None = None


def instant(text: str) -> datetime:
    """Read an RFC 3339 time in UTC ("2026-11-30T00:00:00Z"). Raises InvalidMessage."""
    if not _INSTANT.fullmatch(text):
        raise InvalidMessage(f'{text[:40]!r} is not a time such as "2026-11-30T00:00:00Z"')
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidMessage(f'{text[:40]!r} is not a time such as "2026-11-30T00:00:00Z"') from None


def instant_text(when: datetime) -> str:
    """The RFC 3339 text of `when`, to the second, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encode(value: Any) -> Any:
    """The JSON value of a message; fields that hold None are left out."""
    if type(value) in _SCALARS:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((shown, getattr(value, name)) for name, shown in _written(type(value)))
        return {shown: encode(part) for shown, part in pairs if part is not None}
    if isinstance(value, Mapping):
        return {name: encode(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [encode(part) for part in value]
    return value


def decode(kind: type[T], data: bytes, *, max_bytes: int = strict_json.MAX_BYTES) -> T:
    """Read a message of type `kind` from JSON bytes. Raises InvalidMessage with the field's path."""
    return from_value(kind, strict_json.parse(data, max_bytes=max_bytes))


def from_value(kind: type[T], value: Any, path: str = "") -> T:
    """Read a message of type `kind` from a parsed JSON value. Raises InvalidMessage with the field's path."""
    result: T = _read(kind, value, path or kind.__name__)
    return result


@cache
def _written(kind: type) -> tuple[tuple[str, str], ...]:
    """Names of a message's fields, ours and in JSON, in the order in which they are written."""
    names = sorted((item.name for item in fields(kind)), key=lambda name: _HEAD.get(name, 2))
    return tuple((name, _camel(name)) for name in names)


class _Expected(NamedTuple):
    """What a message's field is read as."""

    name: str
    kind: Any
    required: bool


@cache
def _expected(kind: type) -> dict[str, _Expected]:
    """The fields of a message by their JSON names."""
    hints = typing.get_type_hints(kind)
    return {
        _camel(item.name): _Expected(
            item.name,
            hints[item.name],
            (item.default is MISSING and item.default_factory is MISSING) or item.name in _HEAD,
        )
        for item in fields(kind)
    }


def _read(kind: Any, value: Any, path: str) -> Any:
    if kind is Any or (kind in _SCALARS and type(value) is kind):
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return (
            None
            if value is None
            else _read(next(a for a in get_args(kind) if a is not type(None)), value, path)
        )
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise InvalidMessage(f"{path}: expected one of {', '.join(get_args(kind))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidMessage(f"{path}: expected a list")
        return tuple(_read(get_args(kind)[0], part, f"{path}[{at}]") for at, part in enumerate(value))
    if origin is not None:
        if not isinstance(value, dict):
            raise InvalidMessage(f"{path}: expected an object")
        return {name: _read(get_args(kind)[1], part, f"{path}.{name}") for name, part in value.items()}
    if is_dataclass(kind):
        return _read_message(kind, value, path)
    if type(value) is not kind:
        raise InvalidMessage(f"{path}: expected {kind.__name__}")
    return value


def _read_message(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidMessage(f"{path}: expected an object")
    known = _expected(kind)
    for name in value:
        if name not in known:
            raise InvalidMessage(f"{path}: unknown field {name[:80]!r}")
    found = {}
    for name, item in known.items():
        if name in value:
            found[item.name] = _read(item.kind, value[name], f"{path}.{name}")
        elif item.required:
            raise InvalidMessage(f"{path}: field {name!r} is missing")
    return kind(**found)
