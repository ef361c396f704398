"""The JSON form of the read model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from capsule.view.model import Drift, Snapshot, as_json

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
