"""The JSON form of the read model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from capsule.view.build import snapshot
from capsule.view.model import ConditionRow, Drift, ServiceRow, Snapshot, as_json, needs_attention
from tests.web.integration_services import integration_services

AT = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def test_names_are_camel_case_and_times_are_rfc_3339() -> None:
    assert as_json(Drift("model", "a", None, AT)) == {
        "pin": "model",
        "desired": "a",
        "observed": None,
        "since": "2026-11-23T14:30:00Z",
    }
    assert as_json({"grace": timedelta(hours=24), "list": (1, [True])}) == {
        "grace": "1d",
        "list": [1, [True]],
    }


def test_a_whole_snapshot_is_json() -> None:
    value = as_json(Snapshot("r", "t", None, None, AT, (), (), (), ()))
    assert value["now"] == "2026-11-23T14:30:00Z"
    assert value["services"] == []


def test_a_type_is_not_taken_for_a_value() -> None:
    assert as_json(Drift) is Drift


@pytest.fixture(scope="module")
def healthy() -> ServiceRow:
    story = integration_services()
    seen = snapshot(story.store, story.store.refs(), story.root, story.now)
    return next(row for row in seen.services if row.name == "openai-chat")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, False),
        ({"status": "DISABLED"}, False),
        ({"conditions": (ConditionRow("ChangePending", "NotApproved", ""),)}, False),
        ({"conditions": (ConditionRow("KeyOverdue", "KeyOverdue", ""),)}, True),
        ({"conditions": (ConditionRow("TrustOutdated", "TrustOutdated", ""),)}, True),
        ({"drift": (Drift("model", "a", "b", AT),)}, True),
        *(({"status": status}, True) for status in ("OFFLINE", "UNHEALTHY", "STALE", "UNKNOWN", "DISABLING")),
    ],
)
def test_what_a_person_should_look_at(healthy: ServiceRow, changes: dict[str, Any], wanted: bool) -> None:
    assert needs_attention(replace(healthy, conditions=(), drift=())) is False
    assert needs_attention(replace(healthy, **changes)) is wanted
