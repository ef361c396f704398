"""Writes the test vectors of the wire contract: `python docs/spec/v1/make_vectors.py [FOLDER]`.

Without FOLDER they go to vectors/ beside this file, and to the conformance suite, which ships them.

Rules kept: deterministic, so that a test can compare; keys come from seeds derived here, and no private key
is written. Called by whoever changes the contract; implementers in other languages read the vectors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from capsule_agent.protocol import sshsig, strict_json
from capsule_agent.protocol.generations import HOUR, LONGEST_AHEAD, generation_at
from capsule_agent.protocol.ids import desired_state_id, operation_id, request_digest
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
    encode,
)

REPOSITORY = "6f1c" * 10
SERVICE = "openai-chat"
NAME = "20261123-rotate-openai-chat-k3f9"
REQUEST = b"apiVersion: capsule/v1\nkind: ActionRequest\n# any text: agents hash it and read nothing of it\n"
GENERATION = generation_at(datetime(2026, 11, 23, 12, tzinfo=UTC))
FAR_AHEAD = GENERATION + LONGEST_AHEAD + HOUR
PEOPLE = ("owner", "alice", "bob", "carol", "mallory", "reconciler-1", "agent")


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


def signers(
    serial: int = 1, by: str = "owner", repository: str = REPOSITORY, **others: SignerEntry
) -> SignersList:
    """The list of signers; `others` are entries that it should not have."""
    entries = {
        "alice": SignerEntry((key("alice").public.text,), ("request",)),
        "bob": SignerEntry((key("bob").public.text,), ("approve", "request")),
        "carol": SignerEntry((key("carol").public.text,), ("approve",)),
        "reconciler-1": SignerEntry((key("reconciler-1").public.text,), ("order",)),
    }
    signed = sign(Signers(repository, serial, entries | others), by, sshsig.SIGNERS)
    return SignersList(signed.document, (signed.signature,))


def envelope(
    message: Order | Query,
    approvals: tuple[SignedText, ...],
    by: str = "reconciler-1",
    request: SignedText | None = None,
) -> Envelope:
    """The message as it is sent."""
    signed = sign(message, by, sshsig.ORDER)
    evidence = Evidence(request or sign(REQUEST, "alice", sshsig.REQUEST), approvals)
    return Envelope(signed.document, signed.signature, evidence, signers())


class Case(NamedTuple):
    """An order sent to a fresh agent at `now`, and how it answers. `outcome` is that of the receipt, or
    `problem` where the sender is not proved to be a reconciler; `approvals`: how many the action needs."""

    name: str
    reason: str
    envelope: Envelope
    outcome: str = "refused"
    approvals: int = 1


def approval_cases() -> list[Case]:
    """Orders that are right in all but what people signed."""

    def ordered(*signed: SignedText, request: SignedText | None = None) -> Envelope:
        return envelope(order(), signed, request=request)

    def bobs(**changes: Any) -> Envelope:
        return ordered(sign(replace(approval(), **changes), "bob", sshsig.APPROVAL))

    def shown(**changes: Any) -> Envelope:
        return bobs(request=replace(approval().request, **changes))

    def signed_by(name: str) -> Envelope:
        return ordered(sign(replace(approval(), principal=name), name, sshsig.APPROVAL))

    good = sign(approval(), "bob", sshsig.APPROVAL)
    again = sign(replace(approval(), reason="again"), "bob", sshsig.APPROVAL)
    own = replace(approval(), request=replace(approval().request, requested_by="bob"))
    elsewhere, other_text = "ab" * 20, b"apiVersion: capsule/v1\nkind: ActionRequest\n# edited\n"
    unknown_field = json.dumps({**encode(approval()), "more": 1}).encode()
    return [
        Case("approved", "Rotated", ordered(good), "succeeded"),
        Case("no approval", "ApprovalsMissing", ordered()),
        Case("one approval of two", "ApprovalsMissing", ordered(good), approvals=2),
        Case("one person approves twice", "ApprovedTwice", ordered(good, again), approvals=2),
        Case(
            "approval signed by another",
            "ApprovalForged",
            ordered(sign(approval(), "carol", sshsig.APPROVAL)),
        ),
        Case("approval in another namespace", "ApprovalForged", ordered(sign(approval(), "bob", "file"))),
        Case(
            "approval signed as a request",
            "ApprovalForged",
            ordered(sign(approval(), "bob", sshsig.REQUEST)),
        ),
        Case("approver may only request", "ApproverNotListed", signed_by("alice")),
        Case("approver is unknown", "ApproverNotListed", signed_by("mallory")),
        Case("reconciler approves", "ApproverNotListed", signed_by("reconciler-1")),
        Case(
            "own approval",
            "OwnApproval",
            ordered(sign(own, "bob", sshsig.APPROVAL), request=sign(REQUEST, "bob", sshsig.REQUEST)),
        ),
        Case("rejected", "Rejected", bobs(decision="reject")),
        Case("approval expired", "ApprovalExpired", bobs(expires="2026-11-23T12:00:00Z")),
        Case("approval of another repository", "ApprovalForOtherRepository", bobs(repository=elsewhere)),
        Case("approval of another request", "ApprovalForOtherRequest", shown(name="20261122-other-aaaa")),
        Case("approval of another text", "ApprovalForOtherText", shown(digest=request_digest(other_text))),
        Case("approval of another action", "ApprovalForOtherAction", shown(action="runHealthCheck")),
        Case("approval of other parameters", "ApprovalForOtherParams", shown(params={"grace": "0s"})),
        Case(
            "approval of another service",
            "ApprovalForOtherService",
            bobs(targets={"other": "sha256:" + "41ab" * 16}),
        ),
        Case(
            "approval with an unknown field",
            "ApprovalInvalid",
            ordered(sign(unknown_field, "bob", sshsig.APPROVAL)),
        ),
        Case(
            "request changed after approval",
            "RequestDigestDiffers",
            ordered(good, request=sign(other_text, "alice", sshsig.REQUEST)),
        ),
        Case(
            "request signed by another",
            "RequestForged",
            ordered(good, request=sign(REQUEST, "bob", sshsig.REQUEST)),
        ),
        Case("requester may only approve", "RequesterNotListed", shown(requested_by="carol")),
    ]


def order_cases() -> list[Case]:
    """Orders that are approved and wrong in themselves, or whose sender is."""
    good = (sign(approval(), "bob", sshsig.APPROVAL),)

    def changed(**changes: Any) -> Envelope:
        told = replace(order(), **changes)
        if "op_id" not in changes and told.request:
            about = (told.repository, told.request, told.request_digest, told.service)
            told = replace(told, op_id=operation_id(*about))
        return envelope(told, good)

    def listed(**changes: Any) -> Envelope:
        return replace(envelope(order(), good), signers=signers(**changes))

    told = order()
    unasked = {
        "request": "",
        "params": {"grace": "24h", "generation": 1},
        "op_id": desired_state_id(told.repository, told.service, told.request_digest, 1),
    }
    far = {
        "request": "",
        "action": "disable",
        "params": {"generation": FAR_AHEAD},
        "op_id": desired_state_id(told.repository, told.service, told.request_digest, FAR_AHEAD),
    }
    shared = SignerEntry((key("bob").public.text,), ("approve",))
    mixed = SignerEntry((key("mallory").public.text,), ("approve", "order"))
    return [
        Case("order changes the parameters", "ApprovalForOtherParams", changed(params={"grace": "0s"})),
        Case("order too late", "OrderTooLate", changed(not_after="2026-11-23T11:59:59Z")),
        Case("made-up operation id", "OperationIdDiffers", changed(op_id="0" * 64)),
        Case("attempt zero", "OrderInvalid", changed(attempt=0)),
        Case("unknown action", "ActionUnknown", changed(action="noSuchAction")),
        Case("order for another service", "OrderForOtherService", changed(service="other")),
        Case("order of another repository", "OrderForOtherRepository", changed(repository="ab" * 20)),
        Case("order leaves out the request", "RequestMissing", changed(**unasked)),
        Case("generation far ahead", "GenerationFarAhead", changed(**far)),
        Case("order signed by another", "OrderForged", envelope(told, good, by="bob"), "problem"),
        Case(
            "sender is not a reconciler",
            "ReconcilerUnknown",
            envelope(replace(told, reconciler="bob"), good, by="bob"),
            "problem",
        ),
        Case("signers not signed by an owner", "SignersNotOwnerSigned", listed(by="bob"), "problem"),
        Case("one key for two people", "SignersShareKey", listed(dave=shared), "problem"),
        Case("who orders may approve", "SignersMixRoles", listed(dave=mixed), "problem"),
    ]


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
                "of": [REPOSITORY, SERVICE, digest, GENERATION],
                "id": desired_state_id(REPOSITORY, SERVICE, digest, GENERATION),
            },
            "requestDigest": {"text": REQUEST.decode(), "digest": digest},
        },
        "json.json": json_vectors(),
        "orders.json": {
            "now": "2026-11-23T12:00:00Z",
            "service": SERVICE,
            "orders": [
                {**case._asdict(), "envelope": encode(case.envelope)}
                for case in (*approval_cases(), *order_cases())
            ],
        },
        "query.json": encode(envelope(query, ())),
        "receipt.json": {"payload": signed.document, "signature": signed.signature},
    }


def main(folder: Path) -> None:
    """Write them to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in vectors().items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    package = here.parents[2] / "agent" / "capsule_agent" / "conformance" / "vectors"
    for each in [Path(sys.argv[1])] if len(sys.argv) > 1 else [here / "vectors", package]:
        main(each)
