"""Writes the test vectors of the wire contract: `python docs/spec/v1/make_vectors.py [FOLDER]`.

Rules kept: deterministic, so that a test can compare; keys come from seeds derived here, and no private key
is written. Called by whoever changes the contract; implementers in other languages read the vectors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from capsule_agent.protocol import sshsig, strict_json
from capsule_agent.protocol.messages import (
    Approval,
    ApprovedRequest,
    Envelope,
    Evidence,
    JournalMark,
    Message,
    Order,
    Query,
    Receipt,
    SignedText,
    SignerEntry,
    Signers,
    SignersList,
    desired_state_id,
    encode,
    operation_id,
    request_digest,
)

REPOSITORY = "6f1c" * 10
SERVICE = "openai-chat"
NAME = "20261123-rotate-openai-chat-k3f9"
REQUEST = b"apiVersion: capsule/v1\nkind: ActionRequest\n# any text: agents hash it and read nothing of it\n"
PEOPLE = ("owner", "alice", "bob", "reconciler-1", "agent")


def key(name: str) -> sshsig.PrivateKey:
    """The key of `name`, from a seed that is derived, not stored."""
    return sshsig.PrivateKey.from_seed(hashlib.sha256(f"capsule vector {name}".encode()).digest())


def sign(message: Message | bytes, name: str, namespace: str) -> SignedText:
    """A text signed by `name`."""
    data = message if isinstance(message, bytes) else message.to_json()
    return SignedText(data.decode(), key(name).sign(data, namespace))


def order() -> Order:
    """The order that all vectors are about."""
    digest = request_digest(REQUEST)
    return Order(
        repository=REPOSITORY,
        op_id=operation_id(REPOSITORY, NAME, digest, SERVICE),
        service=SERVICE,
        action="rotateKey",
        params={"grace": "24h"},
        request=NAME,
        request_digest=digest,
        attempt=1,
        not_after="2026-11-23T12:05:00Z",
        reconciler="reconciler-1",
    )


def approval() -> Approval:
    """Bob's approval of it."""
    return Approval(
        repository=REPOSITORY,
        principal="bob",
        decision="approve",
        request=ApprovedRequest(NAME, request_digest(REQUEST), "alice", "rotateKey", {"grace": "24h"}),
        targets={SERVICE: "sha256:" + "41ab" * 16},
        expires="2026-11-30T00:00:00Z",
    )


def signers(serial: int = 1, by: str = "owner") -> SignersList:
    """The list of signers."""
    entries = {
        "alice": SignerEntry((key("alice").public.text,), ("request",)),
        "bob": SignerEntry((key("bob").public.text,), ("approve",)),
        "reconciler-1": SignerEntry((key("reconciler-1").public.text,), ("order",)),
    }
    signed = sign(Signers(REPOSITORY, serial, entries), by, sshsig.SIGNERS)
    return SignersList(signed.document, (signed.signature,))


def envelope(message: Order | Query, approvals: tuple[SignedText, ...], by: str = "reconciler-1") -> Envelope:
    """The message as it is sent."""
    signed = sign(message, by, sshsig.ORDER)
    evidence = Evidence(sign(REQUEST, "alice", sshsig.REQUEST), approvals)
    return Envelope(signed.document, signed.signature, evidence, signers())


def order_vectors() -> list[dict[str, Any]]:
    """Orders sent to a fresh agent whose rotateKey needs one approval, and the reason it answers with."""
    good = (sign(approval(), "bob", sshsig.APPROVAL),)
    own = replace(approval(), principal="alice")
    late = replace(approval(), expires="2026-11-23T12:00:00Z")
    other = replace(approval(), targets={"other": "sha256:" + "41ab" * 16})
    cases = {
        "Rotated": envelope(order(), good),
        "ApprovalsMissing": envelope(order(), ()),
        "OrderForged": envelope(order(), good, by="bob"),
        "ApprovalForged": envelope(order(), (sign(approval(), "alice", sshsig.APPROVAL),)),
        "ApproverNotListed": envelope(order(), (sign(own, "alice", sshsig.APPROVAL),)),
        "ApprovalExpired": envelope(order(), (sign(late, "bob", sshsig.APPROVAL),)),
        "ApprovalForOtherService": envelope(order(), (sign(other, "bob", sshsig.APPROVAL),)),
        "ApprovalForOtherParams": envelope(replace(order(), params={"grace": "0s"}), good),
        "OrderTooLate": envelope(replace(order(), not_after="2026-11-23T11:59:59Z"), good),
        "OperationIdDiffers": envelope(replace(order(), op_id="0" * 64), good),
        "SignersNotOwnerSigned": replace(envelope(order(), good), signers=signers(by="bob")),
    }
    return [{"reason": reason, "envelope": encode(case)} for reason, case in cases.items()]


def receipt() -> Receipt:
    """What the agent answers to the good one."""
    told = order()
    return Receipt(
        repository=REPOSITORY,
        op_id=told.op_id,
        service=SERVICE,
        action=told.action,
        attempt=1,
        outcome="succeeded",
        reason="Rotated",
        message="",
        outputs={"keyId": "key-1", "previousKeyId": "key-0", "previousRevoked": False},
        journal=JournalMark("b21c469d67dac9e12885db8bf80accbd", 10),
        agent_version="1.8.2",
        started_at="2026-11-23T12:00:00Z",
        finished_at="2026-11-23T12:00:01Z",
    )


def json_vectors() -> dict[str, Any]:
    """Bytes (base64) that are no strict JSON, and values with their canonical text."""
    refused = {
        "byte order mark": b"\xef\xbb\xbf{}",
        "not UTF-8": b'"\xff"',
        "name twice": b'{"a": 1, "a": 2}',
        "not a number": b"NaN",
        "too large a number": b"1e999",
        "beyond 53 bits": b"9007199254740993",
        "half of a surrogate pair": b'"\\ud800"',
        "too deep": b"[" * 33 + b"]" * 33,
        "two values": b"{} {}",
        "trailing comma": b"[1,]",
    }
    values = [{"b": [1, True, "é", ""], "a": {"\n": -1}}, ["operation", "x"], {"aa": 1, "a": 2, "B": 3}]
    return {
        "refused": {name: base64.b64encode(data).decode() for name, data in refused.items()},
        "canonical": [{"value": value, "text": strict_json.canonical(value).decode()} for value in values],
    }


def vectors() -> dict[str, Any]:
    """Every file of the vectors by name."""
    told = order()
    signed = sign(receipt(), "agent", sshsig.RECEIPT)
    digest = told.request_digest
    query = Query(REPOSITORY, told.op_id, SERVICE, 2, told.not_after, told.reconciler, tombstone=True)
    return {
        "keys.json": {name: key(name).public.text for name in PEOPLE},
        "ids.json": {
            "operation": {"of": [REPOSITORY, NAME, digest, SERVICE], "id": told.op_id},
            "desiredState": {
                "of": [REPOSITORY, SERVICE, digest, 7],
                "id": desired_state_id(REPOSITORY, SERVICE, digest, 7),
            },
            "requestDigest": {"text": REQUEST.decode(), "digest": digest},
        },
        "json.json": json_vectors(),
        "orders.json": {"now": "2026-11-23T12:00:00Z", "service": SERVICE, "orders": order_vectors()},
        "query.json": encode(envelope(query, ())),
        "receipt.json": {"payload": signed.document, "signature": signed.signature},
    }


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in vectors().items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "vectors")
