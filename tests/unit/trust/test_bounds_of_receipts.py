"""Answers of agents at the edge of what is believed: each bound exactly, each part by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from capsule.documents.secrets import MARK
from capsule.trust.receipts import Untrusted, open_receipt, open_report
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import (
    ActionInfo,
    Envelope,
    HealthReport,
    JournalMark,
    Receipt,
    Report,
    SignersList,
)
from tests.trust_history import AGENT_KEY

ROOT = "a" * 40
OP = "b" * 64
AT = "2026-11-23T12:00:00Z"
TOKEN = "ghp_" + "a" * 36


def sealed(message: Receipt | Report) -> bytes:
    payload = message.to_json()
    kind = sshsig.RECEIPT if isinstance(message, Receipt) else sshsig.REPORT
    return Envelope(payload.decode(), AGENT_KEY.sign(payload, kind)).to_json()


def receipt(**said: Any) -> Receipt:
    values: dict[str, Any] = {
        "repository": ROOT,
        "op_id": OP,
        "service": "openai-chat",
        "action": "rotateKey",
        "attempt": 1,
        "outcome": "succeeded",
        "reason": "Succeeded",
        "message": "",
        "outputs": {},
        "journal": JournalMark("j1", 4),
        "agent_version": "1.8.2",
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
        "config": {},
        "fingerprints": {},
        "health": HealthReport("UP", "", AT),
        "actions": (),
        "journal": JournalMark("j1", 4),
        "signers_serial": 1,
        "at": AT,
        **said,
    }
    return Report(**values)


def of_receipt(envelope: bytes) -> Receipt:
    return open_receipt(envelope, AGENT_KEY.public, repository=ROOT, service="openai-chat", op_id=OP).receipt


def of_report(envelope: bytes) -> Report:
    return open_report(envelope, AGENT_KEY.public, service="openai-chat", nonce="n1")


def why_not(opening: Callable[[bytes], Receipt | Report], envelope: bytes) -> str:
    with pytest.raises(Untrusted) as caught:
        opening(envelope)
    return caught.value.reason


@pytest.mark.parametrize(
    "said",
    [
        {"attempt": 0},
        {"journal": JournalMark("j1", 0)},
        {"journal": JournalMark("j" * 64, 1)},
        {"message": "x" * 500},
        {"outputs": {"a": "x" * 4000}},
        {"outputs": {f"a{at}": at for at in range(64)}},
    ],
)
def test_a_receipt_at_its_bounds_is_believed(said: dict[str, Any]) -> None:
    assert of_receipt(sealed(receipt(**said))) == receipt(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"journal": JournalMark("j" * 64, 0), "signers_serial": 0},
        {"actions": tuple(ActionInfo(f"a{at}", {}, {}, "low", 0) for at in range(64))},
        {"config": {f"a{at}": at for at in range(64)}},
    ],
)
def test_a_report_at_its_bounds_is_believed(said: dict[str, Any]) -> None:
    assert of_report(sealed(report(**said))) == report(**said)


@pytest.mark.parametrize("outcome", ["unknown", "refused"])
def test_an_action_that_need_not_be_named_is_a_word_where_it_is(outcome: str) -> None:
    assert of_receipt(sealed(receipt(outcome=outcome, action=""))).action == ""
    assert why_not(of_receipt, sealed(receipt(outcome=outcome, action="rm -rf /"))) == "BadOutput"


@pytest.mark.parametrize("name", ["j" * 65, "j\x1b", TOKEN])
def test_the_journal_of_a_report_is_named_by_a_short_plain_text(name: str) -> None:
    assert why_not(of_report, sealed(report(journal=JournalMark(name, 1)))) in (
        "UnsafeText",
        "SecretInOutput",
    )


def test_more_actions_than_may_be() -> None:
    actions = tuple(ActionInfo(f"b{at}", {}, {}, "low", 0) for at in range(65))
    assert why_not(of_report, sealed(report(actions=actions))) == "BadOutput"


def test_a_report_that_does_not_say_what_it_offers_is_malformed() -> None:
    value = json.loads(report().to_json())
    del value["actions"]
    payload = json.dumps(value)
    signature = AGENT_KEY.sign(payload.encode(), sshsig.REPORT)
    assert why_not(of_report, Envelope(payload, signature).to_json()) == "MalformedAnswer"


def test_an_answer_that_brings_a_list_of_signers_is_malformed() -> None:
    payload = receipt().to_json()
    signature = AGENT_KEY.sign(payload, sshsig.RECEIPT)
    brought = Envelope(payload.decode(), signature, signers=SignersList("{}", ()))
    assert why_not(of_receipt, brought.to_json()) == "MalformedAnswer"


@pytest.mark.parametrize("name", ["AIza" + "a1" * 17 + "b", "dapi" + "0a" * 16])
def test_a_credential_as_the_name_of_a_value_is_thrown_away(name: str) -> None:
    assert why_not(of_receipt, sealed(receipt(outputs={name: 1}))) == "SecretInOutput"
    assert why_not(of_report, sealed(report(config={name: 1}))) == "SecretInOutput"


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "\r"])
def test_a_carriage_return_alone_or_before_a_newline_is_unsafe(text: str) -> None:
    assert why_not(of_receipt, sealed(receipt(message=text))) == "UnsafeText"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"version": TOKEN}, lambda found: found.version),
        ({"health": HealthReport("UP", f"with {TOKEN}", AT)}, lambda found: found.health.detail),
        ({"disabled_reason": f"of {TOKEN}"}, lambda found: found.disabled_reason),
        ({"config": {"a": TOKEN}}, lambda found: found.config["a"]),
    ],
)
def test_a_credential_in_one_text_of_a_report_is_replaced_and_the_rest_stays(
    said: dict[str, Any], shown: Any
) -> None:
    found = of_report(sealed(report(**{"version": "1.8.2", "config": {"b": "c", "n": 5}, **said})))
    assert MARK.search(str(shown(found)))
    assert TOKEN not in str(found)
    assert found.config.get("b", "c") == "c"
    assert found.config.get("n", 5) == 5


@pytest.mark.parametrize("length", [199, 200, 201])
def test_a_text_is_looked_through_however_short_and_however_often(length: int) -> None:
    for _ in range(2):
        assert why_not(of_receipt, sealed(receipt(message="x" * (length - 1) + "\x1b"))) == "UnsafeText"
        assert of_receipt(sealed(receipt(message="y" * length))).message == "y" * length
