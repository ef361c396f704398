"""The published vectors, told again for the agent under test: its names, its time, the keys of the test.

Rules kept: what is right in a vector stays right and what is wrong stays wrong, in the same way: who signed
what, in which namespace, and which hash fits is read from the vector itself. Called by checks_vectors.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from capsule_agent.conformance.keys import FILLERS
from capsule_agent.conformance.session import Nonconformance, Session
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import desired_state_id, operation_id, request_digest
from capsule_agent.protocol.messages import (
    Approval,
    ApprovedRequest,
    Envelope,
    Evidence,
    SignedText,
    SignersList,
    from_value,
    instant,
    instant_text,
)
from capsule_agent.protocol.sshsig import BadSignature, PublicKey

_NAMESPACES = (sshsig.ORDER, sshsig.APPROVAL, sshsig.REQUEST, sshsig.SIGNERS, "file")
_TIMES = ("notAfter", "expires")
_HOUR = timedelta(hours=1)


class Vector(NamedTuple):
    """One published order, and how an agent answers it."""

    name: str
    reason: str
    outcome: str
    approvals: int
    envelope: Envelope


class _Signer(NamedTuple):
    name: str
    namespace: str


@cache
def read_vector_file(name: str) -> Any:
    """One of the published files."""
    text = resources.files("capsule_agent.conformance").joinpath("vectors", name).read_text("utf-8")
    return json.loads(text)


@cache
def vectors() -> tuple[Vector, ...]:
    """All published orders."""
    return tuple(
        Vector(
            case["name"],
            case["reason"],
            case["outcome"],
            case["approvals"],
            from_value(Envelope, case["envelope"]),
        )
        for case in read_vector_file("orders.json")["orders"]
    )


def retold(session: Session, vector: Vector) -> Envelope:
    """The vector's order for this session's agent. Raises Nonconformance when it cannot be asked."""
    if vector.approvals > session.needed:
        raise Nonconformance(
            f"{session.plan.action} must be declared with {vector.approvals} approvals for this check; "
            f"the agent's needs {session.needed}"
        )
    return _Retelling(session, vector).envelope()


class _Retelling:
    """One vector's way into one session."""

    def __init__(self, session: Session, vector: Vector) -> None:
        files = read_vector_file("ids.json"), read_vector_file("orders.json")
        repository, request, digest, service = files[0]["operation"]["of"]
        assert vector.envelope.evidence
        assert vector.envelope.signers
        self.session = session
        self.vector = vector
        self.evidence = vector.envelope.evidence
        self.list = vector.envelope.signers
        self.token = secrets.token_hex(6)
        self.shift = datetime.now(UTC) - instant(files[1]["now"])
        self.request = f"{request}-{self.token}"
        self.words = {
            repository: session.ring.repository,
            service: session.plan.service,
            request: self.request,
            "rotateKey": session.plan.action,
            digest: request_digest(self._text(files[0]["requestDigest"]["text"])),
        }

    def _text(self, text: str) -> bytes:
        return f"{text}# {self.token}\n".encode()

    def envelope(self) -> Envelope:
        """The order, with what people signed."""
        old = self.evidence.request
        request = self._signed(old, self._text(old.document))
        approvals = tuple(self._signed(each, self._json(each.document)) for each in self.evidence.approvals)
        order = json.loads(self._json(self.vector.envelope.payload))
        order["opId"] = self._operation_id(order)
        payload = json.dumps(order, ensure_ascii=False).encode()
        by = _signer(self.vector.envelope.payload, self.vector.envelope.signature)
        sealed = self.session.ring.sign(payload, *by)
        evidence = Evidence(request, (*approvals, *self._fillers()))
        return Envelope(sealed.document, sealed.signature, evidence, self._signers())

    def _signed(self, old: SignedText, document: bytes) -> SignedText:
        return self.session.ring.sign(document, *_signer(old.document, old.signature))

    def _json(self, text: str) -> bytes:
        return json.dumps(self._value(json.loads(text)), ensure_ascii=False).encode()

    def _value(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            if name == "params":
                return self._params(value)
            return {self.words.get(key, key): self._value(part, key) for key, part in value.items()}
        if isinstance(value, str) and name in _TIMES:
            return instant_text(instant(value) + self.shift)
        return self.words.get(value, value) if isinstance(value, str) else value

    def _params(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The vector's parameters and other ones than these are the plan's, and other ones than these; those
        of a desired-state order are told at another time."""
        if "grace" not in value:
            return {**value, "generation": value["generation"] + self.shift // timedelta(milliseconds=1)}
        plan = self.session.plan
        usual = value["grace"] == "24h"
        rest = {key: part for key, part in value.items() if key != "grace"}
        return {**(plan.params if usual else plan.other_params), **rest}

    def _operation_id(self, order: Mapping[str, Any]) -> str:
        """Right where the vector's was right."""
        old = json.loads(self.vector.envelope.payload)
        return _expected_id(order) if old["opId"] == _expected_id(old) else str(old["opId"])

    def _fillers(self) -> tuple[SignedText, ...]:
        """So many right approvals of others that only what the vector is about makes the difference."""
        plan, ring = self.session.plan, self.session.ring
        asked = json.loads(self.vector.envelope.payload)
        digest = self.words.get(asked["requestDigest"], asked["requestDigest"])
        shown = ApprovedRequest(self.request, digest, self._requester(), plan.action, dict(plan.params))
        expires = instant_text(datetime.now(UTC).replace(microsecond=0) + _HOUR)
        found = []
        for name in FILLERS[: self.session.needed - self.vector.approvals]:
            targets = {plan.service: "sha256:" + "41ab" * 16}
            approval = Approval(ring.repository, name, "approve", shown, targets, expires)
            found.append(ring.sign(approval.to_json(), name, sshsig.APPROVAL))
        return tuple(found)

    def _requester(self) -> str:
        return _signer(self.evidence.request.document, self.evidence.request.signature).name

    def _signers(self) -> SignersList:
        """The vector's list with the keys of the test, and with everybody else whom the test needs."""
        value = json.loads(self.list.document)
        value["repository"] = self.session.ring.repository
        principals = json.loads(self.session.signers().document)["principals"]
        usual = dict(principals)
        for principal, entry in value["principals"].items():
            keys = [self.session.ring.keys[_names()[key]].public.text for key in entry["keys"]]
            principals[principal] = {"keys": keys, "may": entry["may"]}
        value["principals"] = principals
        by = _signer(self.list.document, self.list.signatures[0])
        if principals == usual and by.name == "owner":
            return self.session.signers()
        value["serial"] = self.session.serial + 1
        self.session.serial += 2  # an agent that takes this list shall still know the next
        signed = self.session.ring.sign(json.dumps(value).encode(), *by)
        return SignersList(signed.document, (signed.signature,))


def _expected_id(order: Mapping[str, Any]) -> str:
    repository, service, digest = order["repository"], order["service"], order["requestDigest"]
    if order["request"]:
        return operation_id(repository, order["request"], digest, service)
    return desired_state_id(repository, service, digest, order["params"]["generation"])


@cache
def _names() -> dict[str, str]:
    """Whose key each public key of the vectors is."""
    return {key: name for name, key in read_vector_file("keys.json").items()}


@cache
def _signer(document: str, signature: str) -> _Signer:
    """Who made a signature of the vectors, and in which namespace."""
    key: PublicKey = sshsig.claimed_key(signature)
    for namespace in _NAMESPACES:
        try:
            sshsig.verify(document.encode(), signature, namespace, [key])
        except BadSignature:
            continue
        return _Signer(_names()[key.text], namespace)
    raise AssertionError("a vector's signature holds in no known namespace")
