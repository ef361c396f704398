"""Scalars, paths, digests, formats, schemas: small values with one text each."""

from __future__ import annotations

import json
from datetime import UTC, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from capsule.documents import paths
from capsule.documents.codec import load_as, parse
from capsule.documents.codec.expectation import Expectation
from capsule.documents.digests import bytes_digest, change_digest, target_digest
from capsule.documents.formats import as_github, as_json, as_text
from capsule.documents.problems import Problem
from capsule.documents.scalars import (
    duration_text,
    instant_text,
    local_text,
    parse_duration,
    parse_instant,
    parse_local,
)
from capsule.documents.schemas import schema_of, schemas
from capsule.documents.types import ANY_DOCUMENT, ChangedPath, Service
from capsule_agent.protocol import messages
from capsule_agent.protocol.ids import request_digest
from tests.unit.documents.samples import SERVICE_TEXT, approval
from tests.unit.documents.strategies import any_document

DIGEST = "sha256:" + "1" * 64


# ---- scalars ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "shortest"),
    [
        ("0s", 0, "0s"),
        ("90s", 90, "90s"),
        ("60m", 3600, "1h"),
        ("24h", 86400, "1d"),
        ("36500d", 3153600000, "36500d"),
    ],
)
def test_durations(text: str, seconds: int, shortest: str) -> None:
    value = parse_duration(text)
    assert value == timedelta(seconds=seconds)
    assert duration_text(value) == shortest
    assert parse_duration(value) is value


@pytest.mark.parametrize(
    "text", ["", "5", "5 m", "-5m", "5M", "05m", "1.5h", "5m\n", "٥m", "36501d", "9999999999d", 5, None, True]
)
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["2026-11-30T00:00:00Z", "2026-11-30T00:00:00.500000Z", "0001-01-01T00:00:00Z"]
)
def test_instants(text: str) -> None:
    value = parse_instant(text)
    assert value.tzinfo is UTC
    assert instant_text(value) == text
    assert parse_instant(value) is value


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30",
        "2026-11-30T00:00:00",
        "2026-11-30T00:00:00+00:00",
        "2026-11-30T00:00:00Z\n",
        "2026-02-30T00:00:00Z",
        "2026-11-30T24:00:00Z",
        "２026-11-30T00:00:00Z",
        5,
        None,
    ],
)
def test_what_is_no_instant(text: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a time in UTC|no such day or time"):
        parse_instant(text)


@pytest.mark.parametrize("text", ["2026-12-20T00:00", "2026-12-20T00:00:30"])
def test_local_times(text: str) -> None:
    value = parse_local(text)
    assert value.tzinfo is None
    assert local_text(value) == text
    assert parse_local(value) is value


@pytest.mark.parametrize(
    "text", ["2026-12-20", "2026-12-20T00:00Z", "2026-12-20T00:00\n", "2026-13-20T00:00", 5]
)
def test_what_is_no_local_time(text: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a local time|no such day or time"):
        parse_local(text)


# ---- paths --------------------------------------------------------------------------------------


def test_the_paths_of_a_request() -> None:
    folder = paths.RequestFolder.of("requests/2026/11/r-1/request.yaml")
    assert folder == paths.RequestFolder("2026/11", "r-1")
    assert folder is not None
    assert folder.request == "requests/2026/11/r-1/request.yaml"
    assert folder.signature == "requests/2026/11/r-1/request.yaml.sig"
    assert paths.approval_place(folder.approval("bob")) == (folder, "bob")
    assert folder.approval_signature("bob") == "requests/2026/11/r-1/approvals/bob.json.sig"
    assert folder.refusal == "records/2026/11/r-1/refusal.yaml"
    assert folder.claim("svc", 2) == "records/2026/11/r-1/svc/claim-2.yaml"
    assert folder.result("svc") == "records/2026/11/r-1/svc/result.yaml"
    assert folder.receipt_signature("svc") == "records/2026/11/r-1/svc/receipt.json.sig"


@pytest.mark.parametrize(
    "path",
    [
        "requests/2026/11/r-1/request.yaml\n",
        "requests/2026/11/R/request.yaml",
        "requests/2026/1/r/request.yaml",
        "x/requests/2026/11/r/request.yaml",
        "requests/2026/11/../request.yaml",
        "requests/٢026/11/r/request.yaml",
    ],
)
def test_paths_of_no_request(path: str) -> None:
    assert paths.RequestFolder.of(path) is None


def test_the_other_paths() -> None:
    assert paths.service_name("services/a/b/c-1.yaml") == "c-1"
    assert paths.service_name("services/a.yaml\n") is None
    assert paths.service_name("services/a.yml") is None
    assert paths.status_path("services/a/b.yaml") == "status/a/b.yaml"
    place = paths.change_approval(DIGEST, "bob")
    assert paths.change_approval_place(place) == (DIGEST, "bob")
    assert paths.change_approval_place("approvals/x/bob.json") is None
    assert paths.approval_place("approvals/x/bob.json") is None
    assert paths.signers_owner("signers/bob.sig") == "bob"
    assert paths.signers_owner("signers/signers.json") is None


# ---- digests ------------------------------------------------------------------------------------


def service(text: str = SERVICE_TEXT) -> Service:
    return load_as(Service, text.encode(), "x.yaml")


def test_the_digest_of_bytes_is_that_of_the_wire_contract() -> None:
    assert bytes_digest(b"x") == request_digest(b"x")
    assert bytes_digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("enabled: true", "enabled: false"),
        ("interval: 30s", "interval: 60s"),
        ("# The chat", "# The talk"),
        ("{every: 90d}", "{every: 30d}\n  owner: x\n  onDrift: correct"),
        ("{team: search, env: prod}", "{env: prod, team: search}"),
    ],
)
def test_what_does_not_void_an_approval(old: str, new: str) -> None:
    assert target_digest(service(SERVICE_TEXT.replace(old, new))) == target_digest(service())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("env: prod", "env: test"),
        ("10.0.3.4", "10.0.3.5"),
        ("gpt-5.1", "gpt-5.2"),
        ("  name: openai-chat", "  name: other"),
        ('7070"', '7070"\n    insecure: true'),
    ],
)
def test_what_voids_an_approval(old: str, new: str) -> None:
    assert target_digest(service(SERVICE_TEXT.replace(old, new))) != target_digest(service())


def test_the_form_that_is_hashed() -> None:
    text = "apiVersion: capsule/v1\nkind: Service\nmetadata: {name: a}\n"
    text += "spec: {agent: {endpoint: 'unix:/a'}, pins: {m: 1}}\n"
    hashed = b'{"agent":{"endpoint":"unix:/a","insecure":false},"labels":{},"name":"a","pins":{"m":1}}'
    assert target_digest(service(text)) == bytes_digest(hashed)


def test_the_digest_of_a_change() -> None:
    one, two = ChangedPath(old=None, new=DIGEST), ChangedPath(old=DIGEST, new=None)
    assert change_digest({"a": one, "b": two}) == change_digest({"b": two, "a": one})
    assert change_digest({"a": one}) != change_digest({"a": two})
    assert change_digest({"a": one}) == bytes_digest(f'{{"a":{{"new":"{DIGEST}","old":null}}}}'.encode())


# ---- formats ------------------------------------------------------------------------------------

PROBLEMS = (
    Problem("a,b:c.yaml", 3, 4, "WrongType", "100% wrong\n::error::x", "true or false", "do so"),
    Problem("b.yaml", 1, 1, "LargeFolder", "large \x1b[2J", severity="hint"),
    Problem("b.yaml", 1, 1, "ShadowedRule", "shadowed", severity="warning"),
)


def test_problems_as_text() -> None:
    lines = as_text(PROBLEMS).splitlines()
    assert lines == [
        "a,b:c.yaml:3:4: error: 100% wrong\\u000a::error::x; expected true or false; do so [WrongType]",
        "b.yaml:1:1: hint: large \\u001b[2J [LargeFolder]",
        "b.yaml:1:1: warning: shadowed [ShadowedRule]",
        "1 error, 1 warning, 1 hint",
    ]
    assert as_text(()) == "no problems\n"
    assert as_text(PROBLEMS[:1] * 2).endswith("2 errors\n")


def test_problems_as_json() -> None:
    found = json.loads(as_json(PROBLEMS))
    assert found[0] == {
        "path": "a,b:c.yaml",
        "line": 3,
        "column": 4,
        "severity": "error",
        "reason": "WrongType",
        "message": "100% wrong\n::error::x",
        "expected": "true or false",
        "hint": "do so",
    }
    assert json.loads(as_json(())) == []


def test_problems_as_workflow_commands() -> None:
    assert as_github(PROBLEMS).splitlines() == [
        "::error file=a%2Cb%3Ac.yaml,line=3,col=4,title=WrongType"
        "::100%25 wrong%0A::error::x%0Aexpected true or false%0Ado so",
        "::notice file=b.yaml,line=1,col=1,title=LargeFolder::large \\u001b[2J",
        "::warning file=b.yaml,line=1,col=1,title=ShadowedRule::shadowed",
    ]
    assert as_github(()) == ""


# ---- schemas ------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_document())
def test_a_valid_document_satisfies_its_schema(written: Any) -> None:
    value = written.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    Draft202012Validator(schema_of(type(written))).validate(value)


def test_the_schema_refuses_what_the_codec_refuses() -> None:
    validator = Draft202012Validator(schema_of(Service))
    value: Any = _as_lists(parse(SERVICE_TEXT.encode(), path="x.yaml").value)
    assert validator.is_valid(value)
    for spoil in (
        {"kind": "Servce"},
        {"metadata": {"name": "A"}},
        {"metadata": {"name": "a", "labels": {"A b": "c"}}},
        {"other": 1},
        {"spec": {**value["spec"], "enabled": 1}},
        {"spec": {**value["spec"], "rotation": {"every": "90"}}},
    ):
        assert not validator.is_valid({**value, **spoil})


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(part) for name, part in value.items()}
    return [_as_lists(part) for part in value] if isinstance(value, tuple) else value


def test_schemas_of_messages_ask_for_version_and_kind() -> None:
    validator = Draft202012Validator(schema_of(messages.Approval))
    value = messages.encode(approval())
    assert validator.is_valid(value)
    for name in ("apiVersion", "kind", "targets"):
        assert not validator.is_valid({key: part for key, part in value.items() if key != name})


def test_defaults_are_written_as_documents_write_them() -> None:
    probe = schema_of(ANY_DOCUMENT[0])["$defs"]["ProbeSettings"]["properties"]
    assert probe["interval"]["default"] == "30s"
    assert json.loads(schemas()["Service.schema.json"])["$id"] == "urn:capsule:v1:Service"


def test_expectations_where_there_is_nothing() -> None:
    assert Expectation(Service, ("spec", "nothing", 3)).text() == ""
    assert Expectation(Service, ("spec", "health", "interval")).text() == (
        'a duration such as "30s", "5m", "24h" or "90d" or null'
    )
    assert Expectation(messages.Receipt, ("outcome",)).words == (
        "succeeded",
        "failed",
        "refused",
        "unknown",
        "running",
    )
