"""What is emitted is read back equal, and equal documents have equal bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from ruamel.yaml import YAML

from capsule.documents.codec import emit, load, load_as, parse
from capsule.documents.codec.emitter import block
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import (
    ANY_DOCUMENT,
    ActionRequest,
    DriftItem,
    Metadata,
    Result,
    ResultSpec,
    Service,
    ServiceStatus,
    StatusSpec,
)
from tests.unit.documents.samples import POLICY_TEXT, REQUEST_TEXT, SERVICE_TEXT
from tests.unit.documents.strategies import any_document, document

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


def result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "request": "r1",
        "op_id": "0" * 64,
        "service": "openai-chat",
        "action": "rotateKey",
        "attempt": 1,
        "outcome": "succeeded",
        "reason": "Succeeded",
        "recorded_at": NOW,
    }
    return Result(
        api_version="capsule/v1",
        kind="Result",
        metadata=Metadata(name="r1"),
        spec=ResultSpec(**{**fields, **changes}),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_document())
def test_every_document_is_read_back_equal_and_byte_identical(written: Any) -> None:
    data = emit(written)
    found, problems = load(data, "x.yaml")
    assert problems == ()
    assert found == written
    assert emit(found) == data


@pytest.mark.parametrize("kind", ANY_DOCUMENT)
def test_every_kind_is_emitted(kind: Any) -> None:
    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(document(kind))
    def round_trip(written: Any) -> None:
        assert load_as(kind, emit(written), "x.yaml") == written

    round_trip()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_document())
def test_another_reader_of_yaml_reads_the_same(written: Any) -> None:
    data = emit(written)
    assert YAML(typ="safe", pure=True).load(data.decode()) == _as_lists(parse(data, path="x.yaml").value)


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(part) for name, part in value.items()}
    return [_as_lists(part) for part in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("text", [SERVICE_TEXT, REQUEST_TEXT, POLICY_TEXT])
def test_what_a_person_wrote_means_the_same_when_emitted(text: str) -> None:
    found, _ = load(text.encode(), "x.yaml")
    assert found is not None
    assert load(emit(found), "x.yaml")[0] == found


def test_the_form_is_this_one() -> None:
    service = load_as(Service, SERVICE_TEXT.encode(), "x.yaml")
    assert emit(service).decode() == "\n".join(
        [
            "apiVersion: capsule/v1",
            "kind: Service",
            "metadata:",
            "  name: openai-chat",
            "  labels:",
            "    team: search",
            "    env: prod",
            "spec:",
            "  agent:",
            "    endpoint: https://10.0.3.4:7070",
            f"    key: {service.spec.agent.key}",
            "  pins:",
            '    version: "1.8.2"',
            "    model: gpt-5.1",
            "  health:",
            "    interval: 30s",
            "    timeout: 5s",
            "  rotation:",
            "    every: 90d",
            "",
        ]
    )


def test_lists_of_mappings_and_empty_values() -> None:
    value = {"a": [{"b": 1, "c": []}, {"d": {}}, "no", [1, [2]]], "e": None, "f": True}
    text = 'a:\n  - b: 1\n    c: []\n  - d: {}\n  - "no"\n  - - 1\n    - - 2\ne: null\nf: true'
    assert "\n".join(block(value, 0)) == text


def test_a_document_made_in_another_time_zone_is_equal() -> None:
    request = load_as(ActionRequest, REQUEST_TEXT.encode(), "x.yaml")
    assert b'expires: "2026-11-30T00:00:00Z"' in emit(request)


def test_null_that_means_something_is_kept() -> None:
    status = ServiceStatus(
        api_version="capsule/v1",
        kind="ServiceStatus",
        metadata=Metadata(name="a"),
        spec=StatusSpec(
            observed_revision="0" * 40,
            effective_status="HEALTHY",
            reason="Up",
            since=NOW,
            drift=(
                DriftItem(pin="model", desired="x", observed=None, since=NOW + timedelta(microseconds=5)),
            ),
        ),
    )
    data = emit(status)
    assert b"observed: null" in data
    assert b"10:00:00.000005Z" in data
    assert load_as(ServiceStatus, data, "x.yaml") == status


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"message": "done \x1b[2J"}, "spec.message"),
        ({"outputs": {"key": "a\u202eb"}}, "spec.outputs.key"),
    ],
)
def test_text_that_no_document_may_hold_is_not_written(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        emit(result(**changes))
    (found,) = caught.value.problems
    assert found.reason == "ForbiddenCharacter"
    assert found.message.startswith(where)
    assert "\x1b" not in str(caught.value)


def test_hostile_text_that_is_allowed_is_read_back() -> None:
    text = "line\nline: [x]\t\"quoted\" 'so' \\ # no comment\n- é😀"
    assert load_as(Result, emit(result(message=text)), "x.yaml").spec.message == text
