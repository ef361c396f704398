"""The heartbeat: the freshest probes of one reconciler, as `heartbeat.json` in a commit without parents.

Rules kept: strict JSON, unknown fields are errors, every time is read before it is believed; a larger
document than `MAX_BYTES` is not read; each probe stands on a line of its own, so that a writer makes anew
only the lines that changed. The reconciler writes it with `join_heartbeat` at
`refs/capsule/heartbeat/<reconciler>` and reads its own again when it starts; view.build reads it with
`decode_heartbeat`, after the signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from capsule.documents.types import HealthStatus
from capsule_agent.protocol.messages import Message, Version, encode, from_value, instant
from capsule_agent.protocol.strict_json import InvalidMessage, parse

HEARTBEAT_FILE = "heartbeat.json"
MAX_BYTES = 16 * 1024 * 1024
MAX_INTERVAL_SECONDS = 86_400
_PROBE_TYPES = {
    "at": str,
    "ok": bool,
    "latencyMs": int,
    "reason": str,
    "status": str,
    "enabled": bool,
    "failingSince": str,
    "failures": int,
    "due": str,
}
_ALWAYS = frozenset({"at", "ok", "enabled", "latencyMs"})
_HEALTH = (None, *get_args(HealthStatus))


@dataclass(frozen=True, slots=True)
class Probe(Message):
    """The last probe of one service.

    `ok` says that the agent answered; `status` and `enabled` are what it said, None when it did not.
    `reason` is a reason code, empty when nothing is wrong. Of a row of failures it says since when, how many
    there were, and when the agent is asked next: a reconciler that starts again goes on from there.
    """

    at: str
    ok: bool
    latency_ms: int | None = None
    reason: str = ""
    status: HealthStatus | None = None
    enabled: bool | None = None
    failing_since: str | None = None
    failures: int = 0
    due: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """A sign of life. `interval_seconds` is the time between two beats that a reader may expect;
    `operations` says of those under way (`request/service`) why they have no result yet, and of approved
    requests (`request/`) why they are not begun."""

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
    return join_heartbeat(heartbeat, {name: encode_probe(probe) for name, probe in heartbeat.probes.items()})


def encode_probe(probe: Probe) -> str:
    """The JSON of one probe, on one line: what is not said is left out."""
    value = {key: part for key, part in encode(probe).items() if part or key in _ALWAYS}
    return json.dumps(value, ensure_ascii=False)


def join_heartbeat(heartbeat: Heartbeat, probes: Mapping[str, str]) -> bytes:
    """The bytes of `heartbeat.json` with these probes, each as `encode_probe` gives it, by service."""
    head = json.dumps(encode(replace(heartbeat, probes={})), indent=2, ensure_ascii=False, allow_nan=False)
    lines = ",\n".join(f"    {json.dumps(name, ensure_ascii=False)}: {probes[name]}" for name in probes)
    before, empty, after = head.partition('"probes": {}')
    assert empty  # the field is always written, and no text before it may hold a bare quote
    return f'{before}"probes": {{\n{lines}\n  }}{after}\n'.encode()


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
                value.get("failingSince"),
                value.get("failures", 0),
                value.get("due"),
            )
            return _timed(probe, path)
    return _timed(from_value(Probe, value, path), path)


def _timed(probe: Probe, path: str) -> Probe:
    times = (("at", probe.at), ("failingSince", probe.failing_since), ("due", probe.due))
    for field_name, text in times:
        try:
            if text is not None:
                instant(text)
        except InvalidMessage as error:
            raise InvalidMessage(f"{path}.{field_name}: {error}") from None
    return probe
