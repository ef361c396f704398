"""What looks like a secret: where it stands, what replaces it, and in which documents it is an error.

Every kind at every door is in tests/attacks/test_secrets.py.
"""

from __future__ import annotations

import json

import pytest

from capsule.documents.codec import emit, load
from capsule.documents.codec.secrecy import refuse_secrets, without_secrets
from capsule.documents.problems import InvalidDocument
from capsule.documents.secrets import MARK, SecretFinding, findings, fingerprint, redacted, redacted_value
from tests.unit.documents.samples import APPROVAL, REQUEST, REQUEST_TEXT, approval

RANDOM = "Zx9Qw7Lr2Tk5Vb8Nm3Hd6Jf1"
TOKEN = "ghp_" + RANDOM + "a1B2c3"  # found twice after `token=`: by its prefix, and as what is assigned


def test_findings_stand_in_the_order_of_the_text_and_do_not_overlap() -> None:
    text = f"token={TOKEN} and https://u:{RANDOM}@h"
    first, second = findings(text)
    assert first == SecretFinding("VendorToken", 6, 6 + len(TOKEN))
    assert (second.kind, text[second.start : second.end]) == ("UrlPassword", RANDOM)
    assert (
        redacted(text)
        == f"token=[secret {fingerprint(TOKEN)}] and https://u:[secret {fingerprint(RANDOM)}]@h"
    )


def test_a_text_without_secrets_is_the_same_text() -> None:
    for text in ("", "plain", "password: short", "secret: the-name-of-a-secret-2026", "token=" + "aB1" * 10):
        assert redacted(text) == text


def test_a_name_can_say_that_its_value_is_one() -> None:
    assert MARK.fullmatch(redacted_value("apiToken", RANDOM))
    assert MARK.fullmatch(redacted_value("model", TOKEN))
    assert redacted_value("model", RANDOM) == RANDOM


def test_every_text_of_a_value_is_looked_through() -> None:
    value = {"a": [TOKEN, {"apiToken": RANDOM, "n": 1}], TOKEN: None, "b": (True, "x")}
    clean = without_secrets(value)
    assert TOKEN not in str(clean)
    assert RANDOM not in str(clean)
    assert clean["a"][1]["n"] == 1
    assert clean["b"] == [True, "x"]
    refuse_secrets({"a": ["x", {"b": 1}], "c": None})
    for bad in (value, {"apiToken": RANDOM}, [TOKEN], {"x": {TOKEN: 1}}):
        with pytest.raises(InvalidDocument) as caught:
            refuse_secrets(bad)
        assert caught.value.problems[0].reason == "SecretInDocument"
        assert TOKEN not in str(caught.value)
        assert RANDOM not in str(caught.value)


def test_escapes_hide_nothing_in_values_keys_and_lists() -> None:
    escaped = '"\\u0067' + TOKEN[1:] + '"'
    for place, line in (
        (REQUEST_TEXT.replace("spec:\n", f"spec:\n  reason: {escaped}\n", 1), None),
        (REQUEST_TEXT + f"extra: {{ {escaped}: 1 }}\n", None),
        (REQUEST_TEXT + f"extra: [a, {escaped}]\n", REQUEST_TEXT.count("\n") + 1),
    ):
        problems = [each for each in load(place.encode(), REQUEST)[1] if each.reason == "SecretInDocument"]
        assert len(problems) == 1, place
        assert line in (None, problems[0].line)


def test_json_documents_and_texts_that_cannot_be_parsed_are_looked_through() -> None:
    raw = json.dumps({**json.loads(approval().to_json()), "reason": f"x {TOKEN}"}, indent=2).encode()
    (problem,) = load(raw, APPROVAL)[1]
    assert (problem.reason, TOKEN in problem.message) == ("SecretInDocument", False)
    reasons = {each.reason for each in load(f"a: [\n# {TOKEN}\n".encode(), REQUEST)[1]}
    assert "SecretInDocument" in reasons
    assert len(reasons) > 1


def test_what_is_too_large_is_not_looked_through() -> None:
    problems = load(TOKEN.encode() * 10, REQUEST, max_bytes=100)[1]
    assert [each.reason for each in problems] == ["TooLarge"]


def test_an_approval_with_a_secret_is_not_written() -> None:
    with pytest.raises(InvalidDocument, match="SecretInDocument"):
        emit(approval(reason=TOKEN))
