"""The report of an agent nobody knows yet: read with suspicion, its key told and not trusted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from capsule.trust.receipts import Untrusted, open_first_report
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Envelope, Report, encode
from capsule_agent.protocol.sshsig import BadSignature, PrivateKey, armor, claimed_key, dearmor
from tests.unit.worlds import report

KEY = PrivateKey.from_seed(b"f" * 32)
OTHER = PrivateKey.from_seed(b"g" * 32)


def sealed(made: Report, signature: str | None = None) -> bytes:
    payload = made.to_json()
    signed = KEY.sign(payload, sshsig.REPORT) if signature is None else signature
    return json.dumps(encode(Envelope(payload.decode(), signed))).encode()


def why(envelope: bytes, nonce: str = "n") -> str:
    with pytest.raises(Untrusted) as caught:
        open_first_report(envelope, nonce=nonce)
    return caught.value.reason


def test_a_signed_report_tells_its_key_and_an_unsigned_one_none() -> None:
    assert open_first_report(sealed(report()), nonce="n") == (report(), KEY.public)
    assert open_first_report(sealed(report(), ""), nonce="n") == (report(), None)


def test_a_signature_that_does_not_hold_under_its_own_key_is_refused() -> None:
    stolen = OTHER.sign(b"something else", sshsig.REPORT)
    assert why(sealed(report(), stolen)) == "BadAgentSignature"
    assert why(sealed(report(), KEY.sign(report().to_json(), sshsig.RECEIPT))) == "BadAgentSignature"
    assert why(sealed(report(), "not a signature")) == "BadAgentSignature"


def test_what_is_no_report_or_answers_another_call_is_refused() -> None:
    assert why(b"{}") == "MalformedAnswer"
    assert why(json.dumps({"payload": "{}", "signature": ""}).encode()) == "MalformedAnswer"
    assert why(sealed(report()), "another") == "AnswerForOther"


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a\n", "a" * 64, "-a", "ä"])
def test_a_name_that_no_document_can_have_is_refused(name: str) -> None:
    assert why(sealed(replace(report(), service=name))) == "UnusableName"


def test_the_key_a_signature_claims_is_read_as_strictly_as_when_it_is_verified() -> None:
    good = KEY.sign(b"x", sshsig.REPORT)
    assert claimed_key(good) == KEY.public
    blob = dearmor(good)
    for bad in (
        b"SSHSIX" + blob[6:],
        blob[:6] + b"\0\0\0\2" + blob[10:],
        blob[:20],
        blob.replace(b"ssh-ed25519", b"ssh-ed25518"),
    ):
        with pytest.raises(BadSignature):
            claimed_key(armor(bad))
