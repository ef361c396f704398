"""Documents from bytes: every wrong field is reported with its place, what was expected, and a hint."""

from __future__ import annotations

import time

import pytest

from capsule.documents.codec import emit, load, load_as
from capsule.documents.codec.validation import key_place, place
from capsule.documents.problems import InvalidDocument, Problem, nearest, one_line, quoted, shown
from capsule.documents.types import ActionRequest, ChangeApproval, DriftItem, Policy, Service
from capsule_agent.protocol.messages import Approval, Signers
from tests.unit.documents.samples import REQUEST_TEXT, ROOT, SERVICE_TEXT, SETTINGS_TEXT, approval


def problems_of(text: str, path: str = "services/openai-chat.yaml") -> tuple[Problem, ...]:
    document, problems = load(text.encode(), path)
    assert (document is None) == bool(problems)
    return problems


def spoilt(old: str, new: str, text: str = SERVICE_TEXT) -> Problem:
    assert text.count(old) == 1
    (problem,) = problems_of(text.replace(old, new))
    return problem


def test_a_good_document_is_loaded() -> None:
    service = load_as(Service, SERVICE_TEXT.encode(), "x.yaml")
    assert service.metadata.name == "openai-chat"
    assert service.spec.pins == {"version": "1.8.2", "model": "gpt-5.1"}
    assert service.spec.health.interval is not None
    assert service.spec.health.interval.total_seconds() == 30


@pytest.mark.parametrize(
    ("old", "new", "place_", "reason", "expected", "hint"),
    [
        (
            "enabled: true",
            "enabeld: true",
            (8, 3),
            "UnknownField",
            "enabled, agent",
            'did you mean "enabled"?',
        ),
        ("enabled: true", "enabled: yes", (8, 12), "AmbiguousScalar", "", 'write true, or "yes" for text'),
        ("enabled: true", 'enabled: "true"', (8, 12), "WrongType", "true or false", ""),
        ("enabled: true", "enabled: [true]", (8, 12), "WrongType", "true or false", ""),
        ("enabled: true", "enabled: 1", (8, 12), "WrongType", "true or false", ""),
        ("enabled: true", "enabled: null", (8, 12), "WrongType", "true or false", ""),
        ("team: search", "team: 7", (6, 18), "TextNotQuoted", "letters, digits", 'write "7" in quotes'),
        ("team: search", "team: true", (6, 18), "TextNotQuoted", "letters, digits", 'write "true" in quotes'),
        ("team: search", "team: null", (6, 18), "TextNotQuoted", "letters, digits", 'write "null" in quotes'),
        ("team: search", "team: {a: b}", (6, 18), "WrongType", "letters, digits", ""),
        ("team:", "Team:", (6, 12), "BadFormat", "lower-case letters", ""),
        (
            "team:",
            "t\u00e9am:",
            (6, 12),
            "BadFormat",
            "lower-case",
            "it holds U+00E9 LATIN SMALL LETTER E WITH",
        ),
        ("openai-chat\n", "OpenAI\n", (5, 9), "BadFormat", "lower-case letters", ""),
        ("openai-chat\n", "оpenai\n", (5, 9), "BadFormat", "", "it holds U+043E CYRILLIC SMALL LETTER O"),
        ("  name: openai-chat\n", "", (5, 3), "MissingField", "a name of", ""),
        ("name:", "nam:", (5, 3), "UnknownField", "name, labels", 'did you mean "name"?'),
        ("every: 90d", "evry: 90d", (14, 14), "UnknownField", "one of every", 'did you mean "every"?'),
        ("interval: 30s", "interval: 30", (13, 22), "BadFormat", 'a duration such as "30s"', ""),
        ("interval: 30s", "interval: 99999999d", (13, 22), "BadFormat", "at most 36500d", ""),
        (
            "kind: Service",
            "kind: Servise",
            (3, 7),
            "UnknownKind",
            "Capsule, Policy, Service",
            'mean "Service"?',
        ),
        ("kind: Service", "kind: 5", (3, 7), "UnknownKind", "Capsule, Policy", ""),
        ("kind: Service\n", "", (2, 1), "MissingField", "Capsule, Policy", ""),
        ("kind: Service", "kind: Approval", (3, 7), "UnexpectedKind", "suffix .json", ""),
        ("capsule/v1", "capsule/v2", (2, 13), "UnknownVersion", '"capsule/v1"', "write capsule/v1"),
        ("apiVersion: capsule/v1\n", "", (2, 1), "MissingField", '"capsule/v1"', ""),
        ("https://10", "ftp://10", (10, 15), "BadFormat", "https://host:port", ""),
        ("gpt-5.1", "[a]", (12, 35), "WrongType", "text or an integer or true or false", ""),
        ("gpt-5.1", "null", (12, 35), "TextNotQuoted", "text or an integer", 'write "null" in quotes'),
        ("model:", "mo-del:", (12, 28), "BadFormat", "a word of ASCII", ""),
        (
            "spec:\n",
            "spec:\n  onDrift: reprot\n",
            (8, 12),
            "WrongValue",
            '"report"',
            'did you mean "report"?',
        ),
        (
            "spec:\n",
            "spec:\n  ignoreDrift: model\n",
            (8, 16),
            "WrongType",
            "a list of at most 32 entries",
            "",
        ),
        ("spec:\n", "spec:\n  ignoreDrift: [a, 'b c']\n", (8, 20), "BadFormat", "a word of ASCII", ""),
        ("spec:\n", f"spec:\n  owner: {'x' * 501}\n", (8, 10), "TooLong", "at most 500 characters", ""),
        ("spec:\n", f"spec:\n  ignoreDrift: [{', '.join('x' * 33)}]\n", (8, 16), "TooLong", "at most 32", ""),
        ("spec:\n", "spec\u00a0: {}\nspec:\n", (7, 1), "UnknownField", "spec", "U+00A0 NO-BREAK SPACE"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(
    old: str, new: str, place_: tuple[int, int], reason: str, expected: str, hint: str
) -> None:
    found = spoilt(old, new)
    assert (found.line, found.column) == place_
    assert found.reason == reason
    assert expected in found.expected
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


@pytest.mark.parametrize(
    ("old", "new", "reason", "expected"),
    [
        ("targets: [openai-chat]", "targets: []", "TooShort", "a list of 1 to 100000 entries"),
        ('reason: "Quarterly rotation, OPS-1234"', 'reason: ""', "TooShort", "text of 1 to 500 characters"),
        (
            '"2026-11-30T00:00:00Z"',
            '"2026-11-31T00:00:00Z"',
            "BadFormat",
            "no such day or time in the calendar",
        ),
        ('"2026-11-30T00:00:00Z"', '"tomorrow"', "BadFormat", 'a time in UTC such as "2026'),
        ('"2026-11-30T00:00:00Z"', "2026-11-30T00:00:00Z", "AmbiguousScalar", ""),
        ("params: {grace: 24h}", "rollout: {parallel: 0}", "OutOfRange", "an integer of 1 to 1000"),
        ("params: {grace: 24h}", "rollout: {parallel: 1001}", "OutOfRange", "an integer of 1 to 1000"),
        ("params: {grace: 24h}", 'rollout: {parallel: "1"}', "WrongType", "an integer"),
    ],
)
def test_wrong_values_of_a_request(old: str, new: str, reason: str, expected: str) -> None:
    found = spoilt(old, new, REQUEST_TEXT)
    assert found.reason == reason
    assert expected in found.expected


def test_python_names_of_fields_are_not_document_names() -> None:
    found = spoilt("requestedBy", "requested_by", REQUEST_TEXT)
    assert found.reason == "UnknownField"
    assert found.hint == 'did you mean "requestedBy"?'


@pytest.mark.parametrize(
    ("text", "what"), [("- a\n", "a list"), ("a\n", '"a"'), ("5\n", "5"), ("null\n", "null")]
)
def test_a_document_is_a_mapping(text: str, what: str) -> None:
    (found,) = problems_of(text)
    assert found.reason == "NotAMapping"
    assert found.message.startswith(what)


def test_all_problems_of_a_document_come_at_once_in_order() -> None:
    text = SERVICE_TEXT.replace("prod", "no").replace("30s", "30").replace("enabled: true", "enabeld: 1")
    assert [(found.line, found.reason) for found in problems_of(text)] == [
        (6, "AmbiguousScalar"),
        (8, "UnknownField"),
        (13, "BadFormat"),
    ]


def test_missing_and_unknown_fields_that_are_not_alike_are_two_problems() -> None:
    text = SERVICE_TEXT.replace("  name: openai-chat", "  colour: blue")
    assert [found.reason for found in problems_of(text)] == ["UnknownField", "MissingField"]


def test_two_missing_fields_of_one_mapping_are_two_problems() -> None:
    text = REQUEST_TEXT.replace("  action: rotateKey\n", "").replace("  requestedBy: alice\n", "")
    assert [found.message for found in problems_of(text)] == [
        'field "requestedBy" is missing in spec',
        'field "action" is missing in spec',
    ]


def test_a_place_in_a_list_is_named_in_the_message() -> None:
    text = "apiVersion: capsule/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  serial: 1\n  teams: {}\n"
    text += "  principals: {a: {keys: [x]}}\n  rules:\n    - match: {}\n      approvals: []\n"
    found = [problem.message for problem in problems_of(text)]
    assert found == ['"x" has another form', 'field "mayRequest" is missing in spec.rules[0]']


def test_a_document_of_another_kind_is_not_returned() -> None:
    with pytest.raises(InvalidDocument) as caught:
        load_as(Policy, SERVICE_TEXT.encode(), "policy.yaml")
    (found,) = caught.value.problems
    assert (found.reason, found.line, found.column) == ("UnexpectedKind", 3, 7)
    assert found.expected == "kind: Policy"


def test_load_as_raises_all_problems() -> None:
    with pytest.raises(InvalidDocument) as caught:
        load_as(Service, SERVICE_TEXT.replace("30s", "30").replace("5s", "5").encode(), "x.yaml")
    assert len(caught.value.problems) == 2
    assert str(caught.value).count("\n") == 1


def test_a_document_has_a_size() -> None:
    document, (found,) = load(SERVICE_TEXT.encode(), "x.yaml", max_bytes=100)
    assert document is None
    assert found.reason == "TooLarge"


def test_null_stands_only_where_it_is_allowed() -> None:
    service = load_as(Service, SERVICE_TEXT.replace("{every: 90d}", "null").encode(), "x.yaml")
    assert service.spec.rotation is None
    assert DriftItem.model_fields["observed"].is_required()


# ---- JSON documents -----------------------------------------------------------------------------


def test_an_approval_is_read() -> None:
    text = approval()
    assert load_as(Approval, text.to_json(), "bob.json") == text
    assert emit(text) == text.to_json()


@pytest.mark.parametrize(
    ("old", "new", "reason", "line", "message"),
    [
        (b'"approve"', b'"aprove"', "BadMessage", 6, "Approval.decision: expected one of approve, reject"),
        (b'"digest": "', b'"digest": 5, "x": "', "UnknownField", 9, 'unknown field "x" in request'),
        (b'"principal": "bob"', b'"principal": 5', "BadMessage", 5, "Approval.principal: expected str"),
        (b'"principal": "bob",', b"", "BadMessage", 1, "Approval: field 'principal' is missing"),
        (b'"kind": "Approval"', b'"kind": "Aproval"', "UnknownKind", 3, '"Aproval" is not a kind of JSON'),
        (b'"kind": "Approval"', b'"kind": 7', "UnknownKind", 3, "7 is not a kind of JSON document"),
        (b'"bob",', b'"bob"', "BadJson", 6, "not JSON at line 6 column 3"),
        (b'"bob"', b'"bob", "principal": "eve"', "BadJson", 1, "name 'principal' stands twice"),
        (b'"bob"', '"b\u202eob"'.encode(), "ForbiddenCharacter", 5, "U+202E"),
        (b'"bob"', b"NaN", "BadJson", 1, "NaN is not a JSON number"),
    ],
)
def test_problems_of_json_documents_have_places(
    old: bytes, new: bytes, reason: str, line: int, message: str
) -> None:
    data = approval().to_json()
    assert data.count(old) == 1
    document, (found,) = load(data.replace(old, new), "bob.json")
    assert document is None
    assert (found.reason, found.line) == (reason, line)
    assert message in found.message


def test_a_json_document_is_a_mapping() -> None:
    _, (found,) = load(b"[1]", "bob.json")
    assert found.reason == "UnknownKind"


def test_an_unknown_field_at_the_top_gets_the_nearest_word() -> None:
    data = approval().to_json().replace(b'"bob",', b'"bob", "resaon": "x",')
    _, (found,) = load(data, "bob.json")
    assert found.hint == 'did you mean "reason"?'
    assert (found.line, found.column) == (5, 23)


CHANGE = ChangeApproval.model_validate(
    {
        "apiVersion": "capsule/v1",
        "kind": "ChangeApproval",
        "repository": ROOT,
        "principal": "bob",
        "decision": "approve",
        "changes": {"services/a.yaml": {"old": None, "new": "sha256:" + "0" * 64}},
    }
)


def test_a_change_approval_is_read_back() -> None:
    assert load_as(ChangeApproval, emit(CHANGE), "bob.json") == CHANGE
    assert b'"old": null' in emit(CHANGE)


def test_problems_of_a_change_approval_have_places() -> None:
    data = emit(CHANGE).replace(b'"old": null', b'"old": 5').replace(b'"approve"', b'"aprove"')
    _, problems = load(data, "bob.json")
    assert [(found.line, found.reason) for found in problems] == [(6, "WrongValue"), (9, "TextNotQuoted")]


def test_json_that_yaml_cannot_read_still_gets_its_problems() -> None:
    data = (
        b'{"apiVersion": "capsule/v1", "kind": "ChangeApproval", "reason": "\\ud83d\\ude00", "changes": [1]}'
    )
    _, problems = load(data, "bob.json")
    assert {found.reason for found in problems} == {"MissingField", "WrongType"}
    assert all((found.line, found.column) == (1, 1) for found in problems)
    assert [found for found in problems if found.message == "a list does not belong here"]


def test_signers_are_read() -> None:
    text = Signers(repository=ROOT, serial=1, principals={})
    assert load_as(Signers, emit(text), "signers/signers.json") == text


# ---- words of problems --------------------------------------------------------------------------


def test_a_problem_is_one_line() -> None:
    problem = Problem("a\nb.yaml", 1, 2, "BadSyntax", "found this", "that", "do so", "warning")
    assert one_line(problem) == "a\\u000ab.yaml:1:2: warning: found this; expected that; do so [BadSyntax]"
    assert one_line(Problem("a", 1, 2, "BadSyntax", "found this")) == "a:1:2: error: found this [BadSyntax]"


def test_text_is_shown_without_control_characters() -> None:
    assert shown("a\x1b[2J\u202e\U000e0041é") == "a\\u001b[2J\\u202e\\U000e0041é"
    assert quoted("x" * 100) == '"' + "x" * 59 + '…"'


def test_the_nearest_word_is_near() -> None:
    assert nearest("ENABELD", ["enabled", "agent"]) == 'did you mean "enabled"?'
    assert nearest("zzz", ["enabled", "agent"]) == ""


def test_places_of_what_is_not_there() -> None:
    assert place(None, ("a",)) == (1, 1)
    assert key_place(None, ("a",)) == (1, 1)


def test_loading_is_fast_enough_for_ten_thousand_services() -> None:
    data = SERVICE_TEXT.encode()
    load(data, "x.yaml")
    best = min(_seconds(data) for _ in range(20))
    assert best < 0.005


def _seconds(data: bytes) -> float:
    began = time.perf_counter()
    load(data, "x.yaml")
    return time.perf_counter() - began


def test_settings_may_be_all_defaults() -> None:
    document, problems = load(SETTINGS_TEXT.split("spec:", maxsplit=1)[0].encode(), "capsule.yaml")
    assert problems == ()
    assert document is not None


def test_a_request_is_loaded_with_python_types() -> None:
    request = load_as(ActionRequest, REQUEST_TEXT.encode(), "x.yaml")
    assert request.spec.targets == ("openai-chat",)
    assert request.spec.expires.tzinfo is not None


def test_a_tab_is_called_a_tab() -> None:
    (problem,) = problems_of("apiVersion: capsule/v1\nkind: Service\nmetadata:\n\tname: chat\n")
    assert (problem.line, problem.column, problem.reason) == (4, 1, "BadSyntax")
    assert (problem.message, problem.expected, problem.hint) == ("a tab", "spaces", "indent with spaces")
