"""The heartbeat: the freshest probes of one reconciler, as `heartbeat.json` in a commit without parents.

Rules kept: strict JSON, unknown fields are errors, every time is read before it is believed; a larger
document than `MAX_BYTES` is not read. The reconciler writes it with `encode_heartbeat` at
`refs/capsule/heartbeat/<reconciler>`; view.build reads it with `decode_heartbeat`, after the signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from capsule.documents.types import HealthStatus
from capsule_agent.protocol.messages import Message, Version, from_value, instant
from capsule_agent.protocol.strict_json import InvalidMessage, parse

HEARTBEAT_FILE = "heartbeat.json"
MAX_BYTES = 16 * 1024 * 1024
MAX_INTERVAL_SECONDS = 86_400
_PROBE_TYPES = {"at": str, "ok": bool, "latencyMs": int, "reason": str, "status": str, "enabled": bool}
_HEALTH = (None, *get_args(HealthStatus))


@dataclass(frozen=True, slots=True)
class Probe(Message):
    """The last probe of one service.

    `ok` says that the agent answered; `status` and `enabled` are what it said, None when it did not.
    `reason` is a reason code, empty when nothing is wrong.
    """

    at: str
    ok: bool
    latency_ms: int | None = None
    reason: str = ""
    status: HealthStatus | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """A sign of life. `interval_seconds` is the time between two beats that a reader may expect;
    `operations` says of those under way (`request/service`) why they have no result yet."""

    reconciler: str
    at: str
    interval_seconds: int
    observed_revision: str | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    operations: Mapping[str, str] = field(default_factory=dict)
    api_version: Version = "capsule/v1"
    kind: Literal["Heartbeat"] = "Heartbeat"


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """The bytes of `heartbeat.json`."""
    return heartbeat.to_json()


def decode_heartbeat(data: bytes) -> Heartbeat:
    """Read `heartbeat.json`. Raises InvalidMessage with the field's path."""
    value = parse(data, max_bytes=MAX_BYTES)
    probes = value.pop("probes", {}) if isinstance(value, dict) else {}
    heartbeat = from_value(Heartbeat, value)
    if not isinstance(probes, dict):
        raise InvalidMessage("Heartbeat.probes: expected an object")
    heartbeat = replace(heartbeat, probes={name: _probe(name, probe) for name, probe in probes.items()})
    instant(heartbeat.at)
    if not 1 <= heartbeat.interval_seconds <= MAX_INTERVAL_SECONDS:
        raise InvalidMessage(f"Heartbeat.intervalSeconds: expected 1 to {MAX_INTERVAL_SECONDS}")
    return heartbeat


def _probe(name: str, value: Any) -> Probe:
    """One probe. There may be 10,000 every few seconds: well-formed ones are read by hand, four times as
    fast; all others by the general reader, which knows what is wrong with them."""
    path = f"Heartbeat.probes.{name[:80]}"
    if type(value) is dict and value.keys() <= _PROBE_TYPES.keys() and {"at", "ok"} <= value.keys():
        well_formed = all(type(part) is _PROBE_TYPES[key] for key, part in value.items())
        if well_formed and value.get("status") in _HEALTH:
            probe = Probe(
                value["at"],
                value["ok"],
                value.get("latencyMs"),
                value.get("reason", ""),
                value.get("status"),
                value.get("enabled"),
            )
            return _timed(probe, path)
    return _timed(from_value(Probe, value, path), path)


def _timed(probe: Probe, path: str) -> Probe:
    try:
        instant(probe.at)
    except InvalidMessage as error:
        raise InvalidMessage(f"{path}.at: {error}") from None
    return probe
