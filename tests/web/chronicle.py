"""A believable state repository for tests, written commit by commit through a store, as people and a
reconciler would have written it. Keys are made from fixed seeds: they guard nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from capsule.documents import codec
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.paths import AUDIT, HEARTBEATS, MAIN, POLICY, SETTINGS, RequestFolder, status_path
from capsule.documents.scalars import instant_text
from capsule.documents.types import ActionRequest, Claim, Document, Refusal, Result, Service, ServiceStatus
from capsule.store.api import Draft, Person, RefUpdate
from capsule.testing.memory_store import MemoryStore
from capsule.view.heartbeat import HEARTBEAT_FILE, Heartbeat, Probe, encode_heartbeat
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import Approval, ApprovedRequest
from capsule_agent.protocol.sshsig import PrivateKey

PEOPLE = ("alice", "bob", "carol")
RECONCILER = "reconciler-1"
KEYS = {
    name: PrivateKey.from_seed(bytes([at]) * 32)
    for at, name in enumerate((*PEOPLE, RECONCILER, "mallory", "agent"), 1)
}
REVISION = "0" * 40

POLICY_TEXT = f"""\
apiVersion: capsule/v1
kind: Policy
metadata:
  name: policy
spec:
  serial: 1
  principals:
    alice: {{email: alice@example.com, keys: ["{KEYS["alice"].public.text}"]}}
    bob: {{email: bob@example.com, keys: ["{KEYS["bob"].public.text}"]}}
    carol: {{email: carol@example.com, keys: ["{KEYS["carol"].public.text}"]}}
    {RECONCILER}: {{machine: true, keys: ["{KEYS[RECONCILER].public.text}"]}}
  teams:
    operators: [alice]
    reviewers: [bob, carol]
    owners: [bob, carol]
  rules:
    - match: {{action: runHealthCheck}}
      mayRequest: [operators]
      approvals: []
    - match: {{action: rotateKey}}
      mayRequest: [operators]
      approvals: [{{team: reviewers, count: 1}}]
    - match: {{change: service}}
      mayRequest: [operators]
      approvals: [{{team: reviewers, count: 1}}]
  freezes:
    - selector: {{team: billing}}
      from: "2026-11-20T00:00"
      to: "2026-12-01T00:00"
      timezone: UTC
      reason: "Month end"
"""
SETTINGS_TEXT = """\
apiVersion: capsule/v1
kind: Capsule
metadata:
  name: capsule
spec:
  title: "Integration services"
"""


def service_text(name: str, *, labels: Mapping[str, str], pins: Mapping[str, str], more: str = "") -> str:
    """A service document as a person writes it."""
    lines = [
        "apiVersion: capsule/v1",
        "kind: Service",
        "metadata:",
        f"  name: {name}",
        "  labels: {" + ", ".join(f"{key}: {value}" for key, value in labels.items()) + "}",
        "spec:",
        f'  agent: {{endpoint: "https://{name}.internal:7070", key: "{KEYS["agent"].public.text}"}}',
        "  pins: {" + ", ".join(f'{key}: "{value}"' for key, value in pins.items()) + "}",
        *([more] if more else []),
    ]
    return "\n".join(lines) + "\n"


class Chronicle:
    """Writes a history into a store; the clock moves only when told."""

    def __init__(self, now: datetime, files: Mapping[str, str], store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.now = now
        base = {POLICY: POLICY_TEXT, SETTINGS: SETTINGS_TEXT, **files}
        self.root = self._write(None, base, (), "Begin", "bob")
        self._move(MAIN, self.root)
        self._taken = self.root
        self.services = {
            path: codec.load_as(Service, text.encode(), path)
            for path, text in files.items()
            if path.startswith("services/")
        }

    # ---- what people do -------------------------------------------------------------------------

    def commit(self, edits: Mapping[str, str | None], message: str, who: str = "bob") -> str:
        """A commit on main."""
        tip = self.ref(MAIN)
        made = self._write(tip, edits, (tip,), message, who)
        self._move(MAIN, made)
        return made

    def request(
        self,
        name: str,
        action: str,
        targets: tuple[str, ...],
        *,
        reason: str,
        params: Mapping[str, Any] | None = None,
        approvals: Mapping[str, str] | None = None,
        branch: bool = False,
        days: int = 7,
        by: str = "alice",
        more: Mapping[str, Any] | None = None,
    ) -> ActionRequest:
        """A signed request with signed approvals (principal to decision), on main or on its own branch."""
        spec = {
            "requestedBy": by,
            "action": action,
            "targets": list(targets),
            "params": dict(params or {}),
            "reason": reason,
            "expires": instant_text(self.now + timedelta(days=days)),
            **(more or {}),
        }
        document = _document(ActionRequest, "ActionRequest", name, spec)
        raw = codec.emit(document)
        folder = self.folder(name)
        edits: dict[str, str | None] = {
            folder.request: raw.decode(),
            folder.signature: KEYS[by].sign(raw, sshsig.REQUEST),
        }
        for who, decision in (approvals or {}).items():
            data = self._approval(name, raw, document, who, decision)
            edits[folder.approval(who)] = data.decode()
            edits[folder.approval_signature(who)] = KEYS[who].sign(data, sshsig.APPROVAL)
        if branch:
            tip = self.ref(MAIN)
            self._move(f"refs/heads/request/{name}", self._write(tip, edits, (tip,), f"Request {name}", by))
        else:
            self.commit(edits, f"Merge request {name}")
        return document

    def folder(self, name: str) -> RequestFolder:
        """Where the request of this name lies."""
        return RequestFolder("2026/11", name)

    # ---- what the reconciler does ---------------------------------------------------------------

    def record(
        self,
        edits: Mapping[str, Document | bytes | None],
        subject: str,
        trailers: Mapping[str, str] | None = None,
        who: str = RECONCILER,
        branches: Sequence[str] = (),
    ) -> str:
        """A signed commit on audit that takes in the tip of main, and requests from their branches."""
        audit, main = self.store.refs().get(AUDIT, self.root), self.ref(MAIN)
        data = {
            path: codec.emit(value) if isinstance(value, Document) else value for path, value in edits.items()
        }
        message = subject + "\n"
        if trailers:
            message += "\n" + "".join(f"{key}: {value}\n" for key, value in trailers.items())
        parents = (audit,) if main == self._taken else (audit, main)
        draft = Draft(
            base=audit,
            edits=data,
            parents=(*parents, *branches),
            message=message,
            author=Person(who, f"{who}@example.com"),
            at=self.now,
            sign=lambda payload: KEYS[who].sign(payload, sshsig.COMMIT),
            overlay=main,
        )
        made = self.store.write(draft)
        self._move(AUDIT, made)
        self._taken = main
        return made

    def status(self, path: str, effective: str, reason: str, **more: Any) -> dict[str, Document]:
        """The edit that records a status."""
        name = path.rsplit("/", 1)[-1].removesuffix(".yaml")
        spec = {
            "observedRevision": self.ref(MAIN),
            "effectiveStatus": effective,
            "reason": reason,
            "since": instant_text(self.now),
            **more,
        }
        return {status_path(path): _document(ServiceStatus, "ServiceStatus", name, spec)}

    def claim(
        self, request: ActionRequest, service: str, *, approved_by: tuple[str, ...] = (), attempt: int = 1
    ) -> dict[str, Document]:
        """The edit that claims one operation."""
        name, raw = request.metadata.name, codec.emit(request)
        digest = bytes_digest(raw)
        target = next(item for item in self.services.values() if item.metadata.name == service)
        spec = {
            "request": name,
            "requestDigest": digest,
            "opId": operation_id(self.root, name, digest, service),
            "service": service,
            "serviceDigest": target_digest(target),
            "action": request.spec.action,
            "requestedBy": request.spec.requested_by,
            "approvedBy": list(approved_by),
            "evidence": "signature",
            "observedRevision": self.ref(MAIN),
            "reconciler": RECONCILER,
            "attempt": attempt,
            "nonce": f"{attempt:032x}",
            "claimedAt": instant_text(self.now),
        }
        return {self.folder(name).claim(service, attempt): _document(Claim, "Claim", f"{service}", spec)}

    def result(
        self, request: ActionRequest, service: str, outcome: str, reason: str, **more: Any
    ) -> dict[str, Document]:
        """The edit that records what became of one operation."""
        name, raw = request.metadata.name, codec.emit(request)
        spec = {
            "request": name,
            "opId": operation_id(self.root, name, bytes_digest(raw), service),
            "service": service,
            "action": request.spec.action,
            "attempt": 1,
            "outcome": outcome,
            "reason": reason,
            "recordedAt": instant_text(self.now),
            **more,
        }
        return {self.folder(name).result(service): _document(Result, "Result", f"{service}", spec)}

    def refusal(self, request: ActionRequest, phase: str, reason: str, message: str) -> dict[str, Document]:
        """The edit that ends a request without execution."""
        spec = {
            "request": request.metadata.name,
            "requestDigest": bytes_digest(codec.emit(request)),
            "phase": phase,
            "reason": reason,
            "message": message,
            "observedRevision": self.ref(MAIN),
            "recordedAt": instant_text(self.now),
        }
        name = request.metadata.name
        return {self.folder(name).refusal: _document(Refusal, "Refusal", name, spec)}

    def beat(
        self,
        probes: Mapping[str, Probe],
        *,
        who: str = RECONCILER,
        key: str = "",
        interval: int = 10,
        data: bytes | None = None,
        parents: tuple[str, ...] = (),
        signed: bool = True,
        waits: Mapping[str, str] | None = None,
    ) -> str:
        """A heartbeat at the present time; `waits` says why operations have no result yet."""
        heartbeat = Heartbeat(who, instant_text(self.now), interval, self.ref(MAIN), probes, waits or {})
        signer = KEYS[key or who]
        made = self.store.write(
            Draft(
                base=None,
                edits={HEARTBEAT_FILE: encode_heartbeat(heartbeat)}
                if data is None
                else {HEARTBEAT_FILE: data},
                parents=parents,
                message="heartbeat\n",
                author=Person(who, f"{who}@example.com"),
                at=self.now,
                sign=(lambda payload: signer.sign(payload, sshsig.COMMIT)) if signed else None,
            )
        )
        self._move(HEARTBEATS + who, made)
        return made

    def probe(self, seconds_ago: float = 4, *, ok: bool = True, **more: Any) -> Probe:
        """A probe that was made a little before now."""
        at = instant_text(self.now - timedelta(seconds=seconds_ago))
        return Probe(at, ok, **({"latency_ms": 23, "status": "UP", "enabled": True} if ok else {}) | more)

    def orphan(self) -> str:
        """A signed commit without parents that is no heartbeat."""
        return self._write(None, {"other.json": "{}"}, (), "other", RECONCILER)

    # ---- the store ------------------------------------------------------------------------------

    def ref(self, name: str) -> str:
        """Where a ref stands."""
        return self.store.refs()[name]

    def _approval(self, name: str, raw: bytes, document: ActionRequest, who: str, decision: str) -> bytes:
        spec = document.spec
        by_name = {item.metadata.name: item for item in self.services.values()}
        return Approval(
            repository=self.root,
            principal=who,
            decision=decision,  # type: ignore[arg-type]  # tests pass the two words
            request=ApprovedRequest(
                name, bytes_digest(raw), spec.requested_by, spec.action, dict(spec.params)
            ),
            targets={target: target_digest(by_name[target]) for target in spec.targets if target in by_name},
            expires=instant_text(spec.expires),
            reason="" if decision == "approve" else "Not during the launch",
        ).to_json()

    def _write(
        self,
        base: str | None,
        edits: Mapping[str, str | None],
        parents: tuple[str, ...],
        message: str,
        who: str,
    ) -> str:
        return self.store.write(
            Draft(
                base=base,
                edits={path: None if text is None else text.encode() for path, text in edits.items()},
                parents=parents,
                message=message + "\n",
                author=Person(who, f"{who}@example.com"),
                at=self.now,
                sign=lambda payload: KEYS[who].sign(payload, sshsig.COMMIT),
            )
        )

    def _move(self, name: str, new: str) -> None:
        self.store.publish([RefUpdate(name, self.store.refs().get(name), new)])


def _document(kind: Any, word: str, name: str, spec: Mapping[str, Any]) -> Any:
    """A document from its JSON form, read as strictly as from a file."""
    value = {"apiVersion": "capsule/v1", "kind": word, "metadata": {"name": name}, "spec": spec}
    return kind.model_validate(_tuples(value))


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
