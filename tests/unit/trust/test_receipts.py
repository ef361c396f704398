"""Answers of agents, believed only as far as the service's key signed them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capsule.documents.secrets import MARK
from capsule.trust.receipts import (
    REASONS,
    OpenedReceipt,
    Untrusted,
    open_first_report,
    open_receipt,
    open_report,
)
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import (
    ActionInfo,
    Envelope,
    Evidence,
    HealthReport,
    JournalMark,
    Receipt,
    Report,
    SignedText,
)
from tests.trust_history import AGENT_KEY, key

ROOT = "a" * 40
OP = "b" * 64
AT = "2026-11-23T12:00:00Z"


def receipt(**said: Any) -> Receipt:
    values: dict[str, Any] = {
        "repository": ROOT,
        "op_id": OP,
        "service": "openai-chat",
        "action": "rotateKey",
        "attempt": 1,
        "outcome": "succeeded",
        "reason": "Succeeded",
        "message": "rotated",
        "outputs": {"keyId": "k2", "count": 3, "fresh": True},
        "journal": JournalMark("j1", 4),
        "agent_version": "1.8.2",
        "started_at": AT,
        "finished_at": AT,
        **said,
    }
    return Receipt(**values)


def report(**said: Any) -> Report:
    values: dict[str, Any] = {
        "service": "openai-chat",
        "nonce": "n1",
        "version": "1.8.2",
        "enabled": True,
        "observe": False,
        "config": {"model": "gpt-5.1", "limit": 5, "fast": False},
        "fingerprints": {"apiKey": "hmac:abc"},
        "health": HealthReport("UP", "fine", AT),
        "actions": (
            ActionInfo("rotateKey", {"type": "object", "maxProperties": 1}, {"required": ["a"]}, "high", 1),
        ),
        "journal": JournalMark("j1", 4),
        "signers_serial": 1,
        "at": AT,
        **said,
    }
    return Report(**values)


def sealed(
    message: Receipt | Report, *, namespace: str | None = None, by: sshsig.PrivateKey = AGENT_KEY
) -> bytes:
    payload = message.to_json()
    kind = sshsig.RECEIPT if isinstance(message, Receipt) else sshsig.REPORT
    return Envelope(payload.decode(), by.sign(payload, namespace or kind)).to_json()


def opened(envelope: bytes, **asked: Any) -> OpenedReceipt:
    expected: dict[str, Any] = {"repository": ROOT, "service": "openai-chat", "op_id": OP, **asked}
    return open_receipt(envelope, AGENT_KEY.public, **expected)


def refused(envelope: bytes, **asked: Any) -> str:
    with pytest.raises(Untrusted) as caught:
        opened(envelope, **asked)
    assert caught.value.reason in REASONS
    return caught.value.reason


def report_refused(envelope: bytes, by: sshsig.PublicKey | None = AGENT_KEY.public, nonce: str = "n1") -> str:
    with pytest.raises(Untrusted) as caught:
        open_report(envelope, by, service="openai-chat", nonce=nonce)
    return caught.value.reason


def test_an_honest_receipt_is_opened_with_its_proof() -> None:
    found = opened(sealed(receipt()), attempt=1)
    assert found.receipt.outputs == {"keyId": "k2", "count": 3, "fresh": True}
    assert found.payload == receipt().to_json()
    sshsig.verify(found.payload, found.signature, sshsig.RECEIPT, [AGENT_KEY.public])


def test_a_stored_receipt_of_an_earlier_attempt_is_taken_and_one_of_a_later_is_not() -> None:
    assert opened(sealed(receipt()), attempt=3).receipt.attempt == 1
    assert refused(sealed(receipt(attempt=4)), attempt=3) == "AnswerForOther"


def test_an_agent_that_never_saw_the_operation_names_no_action() -> None:
    never = receipt(outcome="unknown", reason="NeverSeen", action="", outputs={}, started_at=None)
    assert opened(sealed(never)).receipt.reason == "NeverSeen"
    assert refused(sealed(receipt(action=""))) == "BadOutput"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"repository": "c" * 40}, "AnswerForOther"),
        ({"service": "mailer"}, "AnswerForOther"),
        ({"op_id": "c" * 64}, "AnswerForOther"),
        ({"attempt": -1}, "MalformedAnswer"),
        ({"journal": JournalMark("j1", -1)}, "MalformedAnswer"),
        ({"journal": JournalMark("j" * 65, 1)}, "UnsafeText"),
        ({"started_at": "yesterday"}, "MalformedAnswer"),
        ({"outcome": "fine"}, "MalformedAnswer"),
        ({"reason": "two words"}, "BadOutput"),
        ({"reason": "Word\n"}, "BadOutput"),
        ({"action": "rm -rf"}, "BadOutput"),
        ({"outputs": {"a": [1]}}, "BadOutput"),
        ({"outputs": {"a": 1.5}}, "BadOutput"),
        ({"outputs": {"a": None}}, "BadOutput"),
        ({"outputs": {"a b": 1}}, "BadOutput"),
        ({"outputs": {f"a{at}": 1 for at in range(65)}}, "BadOutput"),
        ({"outputs": {"a": "x" * 4001}}, "UnsafeText"),
        ({"message": "x" * 501}, "UnsafeText"),
        ({"message": "\x1b[2J"}, "UnsafeText"),
        ({"message": "a\nb"}, "UnsafeText"),
        ({"message": "a\tb"}, "UnsafeText"),
        ({"message": "a\rb"}, "UnsafeText"),
        ({"message": "a\u202eb"}, "UnsafeText"),
        ({"message": "a\u2028b"}, "UnsafeText"),
        ({"message": "a\u0085b"}, "UnsafeText"),
        ({"outputs": {"a": "\x9b2J"}}, "UnsafeText"),
        ({"agent_version": "1\x00"}, "UnsafeText"),
    ],
)
def test_receipts_that_are_not_believed(said: dict[str, Any], reason: str) -> None:
    assert refused(sealed(receipt(**said))) == reason


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----MIIE",
        "-----BEGIN RSA PRIVATE KEY-----",
        "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU",
        "AGE-SECRET-KEY-1QQPQZRFR7ZZ2WCVAAAAAAAA",
        "the key is sk-proj-abcdefghijklmnop1234",
        "sk_live_abcdefghijklmnop",
        "ghp_" + "a" * 36,
        "github_pat_" + "a" * 40,
        "glpat-" + "a" * 20,
        "xoxb-1234567890-abc",
        "AIza" + "a" * 35,
        "hvs." + "a" * 24,
        "SG." + "a" * 22 + "." + "b" * 22,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "postgres://user:secret@db/x",
    ],
)
def test_credentials_in_an_answer_are_thrown_away_and_not_quoted(secret: str) -> None:
    for said in ({"message": secret}, {"outputs": {"a": f"x {secret}"}}):
        with pytest.raises(Untrusted) as caught:
            opened(sealed(receipt(**said)))
        assert caught.value.reason == "SecretInOutput"
        assert secret not in str(caught.value)
    shown = open_report(
        sealed(report(config={"a": f"x {secret}"}, version=secret)),
        AGENT_KEY.public,
        service="openai-chat",
        nonce="n1",
    )
    assert MARK.search(str(shown.config["a"]))
    assert MARK.search(shown.version)
    assert secret not in str(shown)
    with pytest.raises(Untrusted) as caught:
        open_first_report(sealed(report(config={"a": secret})), nonce="n1")
    assert caught.value.reason == "SecretInOutput"


@pytest.mark.parametrize(
    "text", ["task-scheduler-openai-chat-1234567", "https://api.openai.com/v1", "AKIAIOSFODNN7EXAMPLE"]
)
def test_harmless_texts_are_no_credentials(text: str) -> None:
    assert opened(sealed(receipt(outputs={"a": text}))).receipt.outputs == {"a": text}


def test_signatures_by_other_keys_for_other_purposes_or_none() -> None:
    assert refused(sealed(receipt(), by=key("mallory"))) == "BadAgentSignature"
    assert refused(sealed(receipt(), namespace=sshsig.REPORT)) == "BadAgentSignature"
    assert refused(Envelope(receipt().to_json().decode(), "").to_json()) == "AnswerUnsigned"
    changed = json.loads(sealed(receipt()))
    changed["payload"] = changed["payload"].replace("k2", "k3")
    assert refused(json.dumps(changed).encode()) == "BadAgentSignature"


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"[]",
        b'{"payload": "{}"}',
        b'{"payload": "x", "payload": "y", "signature": ""}',
        b"[" * 100_000,
        b"\xff\xfe",
        b" " * (1024 * 1024 + 1),
        Envelope("{}", "s", evidence=Evidence(SignedText("", ""))).to_json(),
    ],
)
def test_answers_that_are_no_envelopes(envelope: bytes) -> None:
    assert refused(envelope) == "MalformedAnswer"
    assert report_refused(envelope) == "MalformedAnswer"


def test_payload_that_is_no_receipt() -> None:
    payload = "{}"
    signature = AGENT_KEY.sign(payload.encode(), sshsig.RECEIPT)
    assert refused(Envelope(payload, signature).to_json()) == "MalformedAnswer"


def test_an_honest_report_is_opened() -> None:
    found = open_report(sealed(report()), AGENT_KEY.public, service="openai-chat", nonce="n1")
    assert found.config["model"] == "gpt-5.1"


def test_a_report_without_a_key_is_read_but_checked() -> None:
    plain = Envelope(report().to_json().decode(), "").to_json()
    assert open_report(plain, None, service="openai-chat", nonce="n1").enabled
    assert report_refused(plain) == "AnswerUnsigned"
    assert report_refused(plain, None, nonce="n2") == "AnswerForOther"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"service": "mailer"}, "AnswerForOther"),
        ({"nonce": "n0"}, "AnswerForOther"),
        ({"at": "now"}, "MalformedAnswer"),
        ({"signers_serial": -1}, "MalformedAnswer"),
        ({"journal": JournalMark("j1", -1)}, "MalformedAnswer"),
        ({"key_created_at": "x"}, "MalformedAnswer"),
        ({"health": HealthReport("UP", "\x1b]0;x\x07", AT)}, "UnsafeText"),
        ({"version": "1\u200b"}, "UnsafeText"),
        ({"config": {"a": {"b": 1}}}, "BadOutput"),
        ({"fingerprints": {"a-b": "x"}}, "BadOutput"),
        ({"busy": "x" * 501}, "UnsafeText"),
        ({"disabled_reason": "a\nb"}, "UnsafeText"),
        ({"repository": "a" * 65}, "UnsafeText"),
        ({"actions": (ActionInfo("rm -rf", {}, {}, "low", 0),)}, "BadOutput"),
        ({"actions": (ActionInfo("a", {}, {}, "low", -1),)}, "MalformedAnswer"),
        ({"actions": (ActionInfo("a", {"x": ["\x1b"]}, {}, "low", 0),)}, "UnsafeText"),
        ({"actions": tuple(ActionInfo("a", {}, {}, "low", 0) for _ in range(65))}, "BadOutput"),
    ],
)
def test_reports_that_are_not_believed(said: dict[str, Any], reason: str) -> None:
    assert report_refused(sealed(report(**said))) == reason


def test_a_report_of_an_agent_that_offers_nothing() -> None:
    found = open_report(sealed(report(actions=())), AGENT_KEY.public, service="openai-chat", nonce="n1")
    assert found.actions == ()
    for payload in ('"a text"', "[]"):
        envelope = Envelope(payload, AGENT_KEY.sign(payload.encode(), sshsig.REPORT)).to_json()
        with pytest.raises(Untrusted) as caught:
            open_report(envelope, AGENT_KEY.public, service="openai-chat", nonce="n1")
        assert caught.value.reason == "MalformedAnswer"
