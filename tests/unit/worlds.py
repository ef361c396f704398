"""Builders of verified state for tests of the pure rooms: small values with sensible defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from capsule.decide import World
from capsule.documents.paths import RequestFolder
from capsule.documents.types import (
    ActionRequest,
    Capsule,
    Claim,
    Policy,
    Refusal,
    Result,
    Service,
    ServiceStatus,
)
from capsule.lifecycle import Observation, OperationRecord, Records, RequestRecords
from capsule.lifecycle.records import Month
from capsule.trust.state import InForce, JudgedRequest, MainState, SignersInForce
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import ActionInfo, HealthReport, JournalMark, Report
from capsule_agent.protocol.sshsig import PrivateKey

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROOT = "1" * 40
TIP = "2" * 40
DIGEST = "sha256:" + "a" * 64
KEY = PrivateKey.from_seed(b"k" * 32).public.text


def document(
    kind: type[Any], name: str, spec: Mapping[str, Any], labels: Mapping[str, str] | None = None
) -> Any:
    value = {
        "apiVersion": "capsule/v1",
        "kind": kind.__name__,
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": dict(spec),
    }
    return kind.model_validate(value, by_alias=True, by_name=False)


def service(
    name: str = "openai-chat", labels: Mapping[str, str] | None = None, **spec: Any
) -> InForce[Service]:
    agent = {"endpoint": "http://127.0.0.1:7070", "key": KEY, **spec.pop("agent", {})}
    made = document(Service, name, {"agent": agent, **spec}, labels or {"env": "prod"})
    return InForce(made, f"services/{name}.yaml", "b" * 40, DIGEST, TIP)


def policy(**spec: Any) -> InForce[Policy]:
    value = {
        "serial": 1,
        "principals": {"alice": {"keys": (KEY,)}},
        "teams": {"operators": ("alice",), "owners": ("alice",)},
        "rules": ({"match": {"action": "*"}, "mayRequest": ("operators",), "approvals": ()},),
        **spec,
    }
    return InForce(document(Policy, "policy", value), "policy.yaml", "c" * 40, DIGEST, TIP)


def state(*services: InForce[Service], **changes: Any) -> MainState:
    values: dict[str, Any] = {
        "root": ROOT,
        "tip": TIP,
        "policy": policy(),
        "settings": InForce(document(Capsule, "capsule", {}), "capsule.yaml", "d" * 40, DIGEST, TIP),
        "services": {item.document.metadata.name: item for item in services or (service(),)},
        **changes,
    }
    return MainState(**values)


def signers(serial: int) -> SignersInForce:
    return SignersInForce(b"{}", ("signature",), serial)


def request(name: str = "rotate-1", verdict: str = "approved", **changes: Any) -> JudgedRequest:
    spec = {
        "requestedBy": "alice",
        "action": "rotateKey",
        "targets": ("openai-chat",),
        "reason": "Quarterly",
        "expires": "2026-11-30T00:00:00Z",
        **changes.pop("spec", {}),
    }
    values: dict[str, Any] = {
        "name": name,
        "path": f"requests/2026/11/{name}/request.yaml",
        "digest": DIGEST,
        "raw": b"request",
        "signature": "signature",
        "source": "main",
        "revision": TIP,
        "document": document(ActionRequest, name, spec),
        "verdict": verdict,
        "target_digests": dict.fromkeys(spec["targets"], DIGEST),
        **changes,
    }
    return JudgedRequest(**values)


def claim(judged: JudgedRequest, target: str = "openai-chat", **changes: Any) -> Claim:
    spec = {
        "request": judged.name,
        "requestDigest": judged.digest,
        "opId": operation_id(ROOT, judged.name, judged.digest, target),
        "service": target,
        "serviceDigest": DIGEST,
        "action": judged.document.spec.action if judged.document else "rotateKey",
        "requestedBy": "alice",
        "approvedBy": ("bob",),
        "evidence": "signature",
        "observedRevision": TIP,
        "reconciler": "reconciler-1",
        "attempt": 1,
        "nonce": "0" * 32,
        "claimedAt": "2026-11-23T12:00:00Z",
        **changes,
    }
    made: Claim = document(Claim, judged.name, spec)
    return made


def result(
    judged: JudgedRequest, target: str = "openai-chat", outcome: str = "succeeded", **changes: Any
) -> Result:
    spec = {
        "request": judged.name,
        "opId": operation_id(ROOT, judged.name, judged.digest, target),
        "service": target,
        "action": "rotateKey",
        "attempt": 1,
        "outcome": outcome,
        "reason": "Done",
        "message": "rotated",
        "recordedAt": "2026-11-23T12:00:05Z",
        **changes,
    }
    made: Result = document(Result, judged.name, spec)
    return made


def refusal(judged: JudgedRequest, phase: str = "Rejected") -> Refusal:
    spec = {
        "request": judged.name,
        "requestDigest": judged.digest,
        "phase": phase,
        "reason": "NoRule",
        "message": "no rule matches",
        "observedRevision": TIP,
        "recordedAt": "2026-11-23T12:00:05Z",
    }
    made: Refusal = document(Refusal, judged.name, spec)
    return made


def operation(
    judged: JudgedRequest, target: str = "openai-chat", outcome: str | None = "succeeded", **changes: Any
) -> OperationRecord:
    made = result(judged, target, outcome) if outcome else None
    return OperationRecord(target, (claim(judged, target, **changes),), made)


def records_of(
    judged: JudgedRequest, *operations: OperationRecord, refused: Refusal | None = None
) -> RequestRecords:
    by_name = {item.service: item for item in operations}
    return RequestRecords(RequestFolder("2026/11", judged.name), "e" * 40, by_name, refused)


def records(*requests: RequestRecords) -> Records:
    if not requests:
        return Records()
    return Records("f" * 40, {"2026/11": Month("f" * 40, {item.name: item for item in requests})})


def report(name: str = "openai-chat", actions: tuple[str, ...] = ("rotateKey",), **changes: Any) -> Report:
    values: dict[str, Any] = {
        "service": name,
        "nonce": "n",
        "version": "1.8.2",
        "enabled": True,
        "observe": False,
        "config": {"model": "gpt-5.1"},
        "fingerprints": {"apiKey": "hmac:1"},
        "health": HealthReport("UP", "fine", "2026-11-23T12:00:00Z"),
        "actions": tuple(ActionInfo(action, {}, {}, "high", 1) for action in actions),
        "journal": JournalMark("j", 4),
        "signers_serial": 1,
        "at": "2026-11-23T12:00:00Z",
        **changes,
    }
    return Report(**values)


def seen(name: str = "openai-chat", **changes: Any) -> Observation:
    values: dict[str, Any] = {"service": name, "at": NOW, "ok": True, "report": report(name), **changes}
    return Observation(**values)


def status(name: str = "openai-chat", **changes: Any) -> ServiceStatus:
    spec = {
        "observedRevision": TIP,
        "effectiveStatus": "HEALTHY",
        "reason": "HealthUp",
        "since": "2026-11-23T11:00:00Z",
        **changes,
    }
    made: ServiceStatus = document(ServiceStatus, name, spec)
    return made


def world(*requests: JudgedRequest, **changes: Any) -> World:
    values: dict[str, Any] = {
        "state": state(),
        "requests": {item.name: item for item in requests},
        "records": Records(),
        "now": NOW,
        "reconciler": "reconciler-1",
        "observations": {"openai-chat": seen()},
        **changes,
    }
    return World(**values)


def later(**amount: float) -> datetime:
    return NOW + timedelta(**amount)
