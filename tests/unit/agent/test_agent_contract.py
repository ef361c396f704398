"""The published contract is the one the code keeps: OpenAPI, vectors, reasons, signatures, strict JSON."""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import re
import subprocess
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from ruamel.yaml import YAML

import capsule_agent
from capsule_agent.protocol import messages, sshsig, strict_json
from capsule_agent.protocol.ids import desired_state_id, operation_id
from capsule_agent.protocol.messages import Envelope, Message, Receipt, decode, encode
from capsule_agent.protocol.sshsig import BadKey, BadSignature, PrivateKey, PublicKey
from capsule_agent.protocol.strict_json import InvalidMessage
from capsule_agent.reasons import REASONS
from tests.agent_fixtures import NOW, Ask, KeyStore, body, key, make_agent, read_receipt, write_key

SPEC = Path(__file__).parents[3] / "docs" / "spec" / "v1"
PACKAGE = Path(capsule_agent.__file__).parent


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(SPEC / "openapi.yaml")
    return found


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", SPEC / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_openapi_document_is_valid(openapi: dict[str, Any]) -> None:
    validate(openapi)


MESSAGES = [kind for kind in vars(messages).values() if isinstance(kind, type) and Message in kind.__bases__]


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_openapi_and_messages_have_the_same_fields(openapi: dict[str, Any], kind: Any) -> None:
    schema = openapi["components"]["schemas"][kind.__name__]
    needed = {
        messages._camel(item.name)
        for item in fields(kind)
        if item.default is MISSING or item.name in ("api_version", "kind")
    }
    assert set(schema["properties"]) == {messages._camel(item.name) for item in fields(kind)}
    assert set(schema["required"]) == needed
    assert schema["additionalProperties"] is False


def check(openapi: dict[str, Any], name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": openapi["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_what_is_sent_and_answered_fits_the_openapi_document(openapi: dict[str, Any], tmp_path: Path) -> None:
    agent = make_agent(tmp_path)
    agent.rotation(KeyStore().rotation())
    calls = agent._calls()
    for name, sent in (("order", Ask().envelope()), ("query", Ask().query())):
        check(openapi, "Envelope", encode(sent))
        check(openapi, "Order" if name == "order" else "Query", json.loads(sent.payload))
        answer = json.loads(calls.answer(f"/capsule/v1/{name}", body(sent)).body)
        check(openapi, "Envelope", answer)
        check(openapi, "Receipt", json.loads(answer["payload"]))
    evidence = Ask().evidence()
    check(openapi, "Approval", json.loads(evidence.approvals[0].document))
    check(openapi, "Signers", json.loads(Ask().signers.document))  # type: ignore[union-attr]  # it has one
    report = json.loads(calls.answer("/capsule/v1/report", b'{"nonce": "n"}').body)
    check(openapi, "Report", json.loads(report["payload"]))
    for action in json.loads(report["payload"])["actions"]:
        jsonschema.Draft202012Validator.check_schema(action["params"])
        jsonschema.Draft202012Validator.check_schema(action["outputs"])
    check(openapi, "Problem", json.loads(calls.answer("/capsule/v1/order", b"").body))


def test_the_vectors_are_what_the_script_writes(maker: ModuleType, tmp_path: Path) -> None:
    maker.main(tmp_path)
    published = {path.name: path.read_text() for path in (SPEC / "vectors").iterdir()}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == published
    shipped = {path.name: path.read_text() for path in (PACKAGE / "conformance" / "vectors").iterdir()}
    assert shipped == published
    assert not any("PRIVATE KEY" in text for text in published.values())


def test_an_agent_answers_the_vectors_as_they_say(maker: ModuleType, tmp_path: Path) -> None:
    vectors = json.loads((SPEC / "vectors" / "orders.json").read_text())
    assert messages.instant(vectors["now"]) == NOW
    for at, case in enumerate(vectors["orders"]):
        folder = tmp_path / str(at)
        (folder / "owners").mkdir(parents=True)
        (folder / "owners" / "owner.pub").write_text(maker.key("owner").public.text)
        agent = make_agent(folder)
        agent.rotation(KeyStore().rotation(), approvals=case["approvals"])
        answer = agent._calls().answer("/capsule/v1/order", json.dumps(case["envelope"]).encode())
        found = json.loads(answer.body)
        answered = read_receipt(answer.body) if answer.status == 200 else None
        outcome, reason = (answered.outcome, answered.reason) if answered else ("problem", found["reason"])
        assert (case["name"], outcome, reason) == (case["name"], case["outcome"], case["reason"])


def test_the_vectors_of_ids_and_json_hold() -> None:
    ids = json.loads((SPEC / "vectors" / "ids.json").read_text())
    assert operation_id(*ids["operation"]["of"]) == ids["operation"]["id"]
    assert desired_state_id(*ids["desiredState"]["of"]) == ids["desiredState"]["id"]
    texts = json.loads((SPEC / "vectors" / "json.json").read_text())
    for name, data in texts["refused"].items():
        with pytest.raises(InvalidMessage):
            pytest.fail(f"{name}: {strict_json.parse(base64.b64decode(data))}")
    for case in texts["canonical"]:
        assert strict_json.canonical(case["value"]) == case["text"].encode()


def test_the_vector_of_a_receipt_verifies(maker: ModuleType) -> None:
    text = json.loads((SPEC / "vectors" / "receipt.json").read_text())
    keys = [maker.key("agent").public]
    sshsig.verify(text["payload"].encode(), text["signature"], sshsig.RECEIPT, keys)
    assert decode(Receipt, text["payload"].encode()) == maker.receipt()


def test_every_reason_code_is_in_the_reference() -> None:
    used: set[str] = set()
    for path in PACKAGE.glob("*.py"):
        if path.name == "reasons.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"Refusal": 0, "Untrusted": 0, "Refused": 0, "Ending": 1, "problem": 1}.get(node.func.id)
                if at is not None and isinstance(code := node.args[at], ast.Constant):
                    used.add(str(code.value))
    used |= {"ApproverNotListed", "RequesterNotListed", "ApprovalForged", "RequestForged"}  # put together
    used |= {"ApprovalsMissing", "GlassBreakerNotListed", "BreakGlassForged"}
    assert used - {"Disabled"} == set(REASONS) - {"Disabled"}
    assert all(re.fullmatch("[A-Z][A-Za-z]+", reason) for reason in REASONS)


# ---- messages, keys, signatures ------------------------------------------------------------------


def test_a_message_reads_back_as_it_was_written() -> None:
    order = Ask().order()
    assert decode(type(order), order.to_json()) == order
    envelope = Ask().envelope()
    assert decode(Envelope, body(envelope), max_bytes=2**20) == envelope


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"attempt": 1', '"attempt": true', "Order.attempt: expected int"),
        ('"attempt": 1', '"attempt": 1, "more": 2', "Order: unknown field 'more'"),
        ('"attempt": 1,', "", "Order: field 'attempt' is missing"),
        ('"Order"', '"Query"', "Order.kind: expected one of Order"),
        ('"capsule/v1"', '"capsule/v2"', "Order.apiVersion: expected one of capsule/v1"),
        ('{\n    "grace": "24h"\n  }', "[]", "Order.params: expected an object"),
    ],
)
def test_a_message_that_is_none_is_told_where(old: str, new: str, told: str) -> None:
    text = Ask().order().to_json().decode()
    assert old in text
    with pytest.raises(InvalidMessage, match=re.escape(told)):
        decode(messages.Order, text.replace(old, new).encode())


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-11-30", "2026-11-30T00:00:00", "2026-11-30T00:00:00+05:00Z", "2026-13-30T00:00:00Z"],
)
def test_a_time_has_one_form(text: str) -> None:
    with pytest.raises(InvalidMessage, match="is not a time"):
        messages.instant(text)


def test_stock_ssh_keygen_accepts_our_signatures_and_we_accept_its(tmp_path: Path) -> None:
    secret = write_key(tmp_path / "bob", "bob")
    message = tmp_path / "bob.json"
    message.write_text("{}\n")
    signed = ["ssh-keygen", "-Y", "sign", "-n", sshsig.APPROVAL, "-f", str(secret), str(message)]
    subprocess.run(signed, check=True, capture_output=True)
    theirs = (tmp_path / "bob.json.sig").read_text()
    assert sshsig.verify(b"{}\n", theirs, sshsig.APPROVAL, [key("bob").public]) == key("bob").public
    (tmp_path / "bob.json.sig").write_text(key("bob").sign(b"{}\n", sshsig.APPROVAL))
    (tmp_path / "allowed").write_text(f"bob@example.com {key('bob').public.text}\n")
    verify = ["ssh-keygen", "-Y", "verify", "-n", sshsig.APPROVAL, "-I", "bob@example.com"]
    verify += ["-f", str(tmp_path / "allowed"), "-s", str(tmp_path / "bob.json.sig")]
    subprocess.run(verify, check=True, input=b"{}\n", capture_output=True)


def test_every_changed_byte_of_a_signature_is_refused() -> None:
    good = key("bob").sign(b"text", sshsig.APPROVAL)
    blob = bytearray(sshsig.dearmor(good))
    for at in range(len(blob)):
        changed = bytes(blob[:at]) + bytes([blob[at] ^ 1]) + bytes(blob[at + 1 :])
        with pytest.raises(BadSignature):
            sshsig.verify(b"text", sshsig.armor(changed), sshsig.APPROVAL, [key("bob").public])
    for changed in (bytes(blob) + b"\0", bytes(blob[:-1]), b""):
        with pytest.raises(BadSignature):
            sshsig.verify(b"text", sshsig.armor(changed), sshsig.APPROVAL, [key("bob").public])


@pytest.mark.parametrize(
    "text", ["", "text", "-----BEGIN SSH SIGNATURE-----\n*\n-----END SSH SIGNATURE-----", "x" * 5000]
)
def test_a_signature_has_one_form(text: str) -> None:
    with pytest.raises(BadSignature):
        sshsig.dearmor(text)


@pytest.mark.parametrize(
    "text", ["", "ssh-rsa AAAA", "ssh-ed25519 *", "ssh-ed25519 AAAA", "ssh-ed25519 A\nssh-ed25519 B"]
)
def test_a_public_key_has_one_form(text: str) -> None:
    with pytest.raises(BadKey):
        PublicKey.parse(text)


def test_a_private_key_shows_nothing_of_itself(tmp_path: Path) -> None:
    path = write_key(tmp_path / "bob", "bob")
    found = PrivateKey.from_openssh(path.read_bytes())
    assert found.public == key("bob").public
    assert repr(found) == f"PrivateKey({key('bob').public.fingerprint})"
    with pytest.raises(BadKey, match="expected an OpenSSH private key"):
        PrivateKey.from_openssh(b"text")
