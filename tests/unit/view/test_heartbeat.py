"""The heartbeat document: one text, read back strictly."""

from __future__ import annotations

import json

import pytest

from capsule.view.heartbeat import Heartbeat, Probe, decode_heartbeat, encode_heartbeat, encode_probe
from capsule_agent.protocol.strict_json import InvalidMessage

AT = "2026-11-23T14:00:00Z"
BEAT = Heartbeat(
    "reconciler-1",
    AT,
    10,
    "a" * 40,
    {
        "openai-chat": Probe(AT, True, 23, "", "UP", True),
        "sms-gateway": Probe(AT, False, reason="ConnectTimeout"),
    },
    {"rotate-1/openai-chat": "AgentTimeout: no answer in time"},
)


def test_what_was_written_is_read_back() -> None:
    data = encode_heartbeat(BEAT)
    assert decode_heartbeat(data) == BEAT
    value = json.loads(data)
    assert value["apiVersion"] == "capsule/v1"
    assert value["probes"]["openai-chat"]["latencyMs"] == 23
    assert "latencyMs" not in value["probes"]["sms-gateway"]


def test_a_row_of_failures_is_read_back_and_each_probe_stands_on_a_line_of_its_own() -> None:
    failing = Probe(AT, False, reason="AgentTimeout", failing_since=AT, failures=3, due=AT)
    beat = Heartbeat("reconciler-1", AT, 10, None, {"a": failing, "b": Probe(AT, True, 0, "", "UP", False)})
    data = encode_heartbeat(beat)
    assert decode_heartbeat(data) == beat
    assert f'    "a": {encode_probe(failing)},\n' in data.decode()


def test_null_is_absent_and_a_list_is_no_heartbeat() -> None:
    value = json.loads(encode_heartbeat(BEAT))
    value["probes"] = {"a": {"at": AT, "ok": False, "latencyMs": None, "status": None}}
    assert decode_heartbeat(json.dumps(value).encode()).probes == {"a": Probe(AT, False)}
    with pytest.raises(InvalidMessage, match="expected an object"):
        decode_heartbeat(b"[]")


def test_ten_thousand_probes_fit() -> None:
    probes = {f"service-{at}": Probe(AT, True, 23, "", "UP", True) for at in range(10_000)}
    beat = Heartbeat("reconciler-1", AT, 10, None, probes)
    assert len(decode_heartbeat(encode_heartbeat(beat)).probes) == 10_000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"at": "yesterday"}, "is not a time"),
        ({"intervalSeconds": 0}, "intervalSeconds"),
        ({"intervalSeconds": 86_401}, "intervalSeconds"),
        ({"intervalSeconds": True}, "expected int"),
        ({"surprise": 1}, "unknown field"),
        ({"probes": []}, "probes: expected an object"),
        ({"probes": {"a": {"at": AT, "ok": 1}}}, "probes.a.ok: expected bool"),
        ({"probes": {"a": {"at": AT, "ok": True, "more": 1}}}, "unknown field 'more'"),
        ({"probes": {"a": []}}, "probes.a: expected an object"),
        ({"operations": {"r/s": 1}}, "operations.r/s: expected str"),
        ({"operations": []}, "operations: expected an object"),
        ({"kind": "Hearthbeat"}, "Heartbeat.kind"),
        ({"probes": {"a": {"at": "2026-99-99T00:00:00Z", "ok": True}}}, "probes.a.at"),
        ({"probes": {"a": {"ok": True}}}, "'at' is missing"),
        ({"probes": {"a": {"at": AT, "ok": False, "failingSince": "x"}}}, "probes.a.failingSince"),
        ({"probes": {"a": {"at": AT, "ok": False, "due": "tomorrow"}}}, "probes.a.due"),
        ({"probes": {"a": {"at": AT, "ok": False, "failures": True}}}, "probes.a.failures: expected int"),
        ({"probes": {"a": {"at": AT, "ok": True, "status": "FINE"}}}, "UP, DEGRADED, DOWN"),
    ],
)
def test_anything_else_is_refused_with_its_place(change: dict, expected: str) -> None:
    value = json.loads(encode_heartbeat(BEAT)) | change
    with pytest.raises(InvalidMessage, match=expected):
        decode_heartbeat(json.dumps(value).encode())
