"""What is read line by line is what the parser reads, and what is not simple is left to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.documents import codec
from capsule.documents.codec import validation
from capsule.documents.codec.secrecy import MACHINE_KINDS
from capsule.documents.codec.simple import simple_value
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ANY_DOCUMENT, ActionRequest, AnyDocument, Claim
from tests.trust_history import Audit, approved
from tests.unit.documents.strategies import document

SCALARS = st.sampled_from(
    [
        *("a", "no", "true", "null", "12", "-1", "010", "1.5", "1:20", "a: b", "a:b", "a #b", "a#b", "a "),
        *("a:", '"a"', '""', '" #: "', '"\\n"', "'a'", "[]", "{}", "[a]", "-", "- a", "off", "falsey", "@a"),
        *("2026-11-23", "2026-11-23T00:00:00Z", "/a b", "_", "a\tb", "é", "9" * 20, "=", "<<", "y", "x, y"),
        *("|", ">-"),
    ]
)
KEYS = st.sampled_from(["a", "b", "c-1", "on", "true", "No", "A1", '"a"', "a b", "? a", "1", ""])
LINES = st.builds(
    lambda indent, key, scalar, end: " " * indent + key + scalar + end,
    st.sampled_from([0, 0, 2, 2, 4, 6, 1, 3]),
    st.one_of(KEYS.map("{}:".format), st.just("-"), st.just("a:"), st.just("")),
    st.one_of(st.just(""), SCALARS.map(" {}".format), SCALARS.map(" {}".format), st.just(" ")),
    st.sampled_from(["\n"] * 12 + ["", "\r\n", "\n\n", " \n", "\n# a\n", "\n---\n"]),
)


def _both(data: bytes) -> None:
    found = simple_value(data)
    if found is not None:
        assert repr(codec.parse(data, path="a.yaml").value) == repr(found)  # true is not 1


@given(st.lists(LINES, max_size=7).map("".join))
def test_no_text_is_read_as_another_value_than_the_parser_reads(text: str) -> None:
    _both(text.encode())


@given(st.one_of([document(kind) for kind in ANY_DOCUMENT if kind.__name__ in MACHINE_KINDS]), st.data())
def test_what_machines_write_is_read_the_same_also_damaged(written: AnyDocument, data: st.DataObject) -> None:
    text = codec.emit(written)
    _both(text)
    assert codec.load_as(type(written), text, "a.yaml") == written
    at = data.draw(st.integers(0, len(text)))
    damage = data.draw(st.sampled_from([b"", b" ", b"\n", b":", b"-", b"#", b'"', b"\t", b"\\", b"x", b"\r"]))
    _both(text[:at] + damage + text[at + data.draw(st.integers(0, 3)) :])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: b\n", {"a": "b"}),
        (
            "a:\n  b:\n    c: 1\n  d: null\ne: []\nf: {}\n",
            {"a": {"b": {"c": 1}, "d": None}, "e": (), "f": {}},
        ),
        ('a:\n  - x\n  - "y z"\nb: true\n', {"a": ("x", "y z"), "b": True}),
        ("", None),
        ("é: b\n", None),
        ("a: b", None),
        ("a:\n", None),
        ("a:\nb: c\n", None),
        ("a:\n    b: c\n", None),
        ("a: b\n  c: d\n", None),
        ("a: b\n  - c\n", None),
        ("a:\n- c\n", None),
        ("a:\n  -\n", None),
        ("a:\n  - b\n    - c\n", None),
        ("a:\n  - b\n  c: d\n", None),
        ("- a\n", None),
        ("a: b\na: c\n", None),
        ("on: b\n", None),
        ("a: no\n", None),
        ("a: 'b'\n", None),
    ],
)
def test_simple_texts_and_others(text: str, value: object) -> None:
    assert simple_value(text.encode()) == value


def test_a_claim_as_reconcilers_write_it_is_simple_and_a_wrong_one_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = _claim()
    expected = codec.load_as(Claim, text, "claim-1.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(validation, "load_with_places", None)
        assert codec.load_as(Claim, text, "claim-1.yaml") == expected
    for old, new, reason in (
        (b"attempt: 1", b"attempt: 0", "OutOfRange"),
        (b"kind: Claim", b"kind: Results", "UnknownKind"),
        (b"capsule/v1", b"capsule/v2", "UnknownVersion"),
    ):
        with pytest.raises(InvalidDocument) as caught:
            codec.load_as(Claim, text.replace(old, new), "claim-1.yaml")
        assert reason in {problem.reason for problem in caught.value.problems}, new
    with pytest.raises(InvalidDocument):
        codec.load_as(Claim, text, "claim-1.json")
    with pytest.raises(InvalidDocument) as caught:
        codec.load_as(Claim, text, "claim-1.yaml", max_bytes=100)
    assert caught.value.problems[0].reason == "TooLarge"


def test_a_secret_in_what_a_person_wrote_is_found_though_the_text_is_simple() -> None:
    text = b"""apiVersion: capsule/v1
kind: ActionRequest
metadata:
  name: r1
spec:
  requestedBy: alice
  action: rotateKey
  targets:
    - openai-chat
  reason: Quarterly rotation
  expires: "2026-11-30T00:00:00Z"
"""
    assert simple_value(text)
    assert codec.load_as(ActionRequest, text, "request.yaml").spec.targets == ("openai-chat",)
    with pytest.raises(InvalidDocument) as caught:
        codec.load_as(ActionRequest, text.replace(b"Quarterly", b"ghp_" + b"a1B2" * 9), "request.yaml")
    assert [problem.reason for problem in caught.value.problems] == ["SecretInDocument"]


def _claim() -> bytes:
    history, raw = approved()
    (text,) = Audit(history).claim(raw).values()
    assert text is not None
    return text
