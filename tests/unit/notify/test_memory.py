"""What was told is kept: whole or not at all, for its owner alone, and never needed."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsule.notify.memory import MOST_FACTS, Memory, mark
from capsule.notify.routing import Told

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = mark("Drift/openai-chat")


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "capsule" / "notify.json"
    memory = Memory(path)
    memory.told = {"oncall/1": {KEY: Told(NOW), mark("b"): Told(NOW, NOW + timedelta(hours=1))}, "mail/8": {}}
    memory.save()
    assert Memory(path).told == memory.told
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["notify.json"]


def test_no_text_of_an_event_is_kept(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "notify.json")
    memory.told = {"oncall/1": {KEY: Told(NOW)}}
    memory.save()
    assert "openai" not in (tmp_path / "notify.json").read_text()


def test_what_did_not_change_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "notify.json"
    memory = Memory(path)
    memory.save()
    assert not path.exists()
    memory.told["oncall/1"] = {KEY: Told(NOW)}
    memory.save()
    path.unlink()
    memory.save()
    assert not path.exists()
    memory.told["oncall/1"][KEY] = Told(NOW, NOW)
    memory.save()
    assert path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "told": {}}',
        '{"version": 1, "told": {}, "more": 1}',
        '{"version": 1, "told": {"../x/1": {}}}',
        '{"version": 1, "told": {"oncall/1": {"short": {"at": "2026-11-23T12:00:00Z"}}}}',
        json.dumps({"version": 1, "told": {"oncall/1": {KEY: {"at": "yesterday"}}}}),
    ],
)
def test_a_damaged_file_is_begun_anew(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "notify.json"
    path.write_text(text)
    memory = Memory(path)
    assert memory.told == {}
    assert "damaged" in caplog.text
    memory.told["oncall/1"] = {KEY: Told(NOW)}
    memory.save()
    assert Memory(path).told == memory.told


def test_what_cannot_be_read_or_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify.json"
    path.mkdir()
    memory = Memory(path)
    memory.told = {"oncall/1": {KEY: Told(NOW)}}
    memory.save()
    assert "cannot be read" in caplog.text
    assert "cannot be kept" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["notify.json"]


def test_the_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "notify.json"
    memory = Memory(path)
    memory.told = {"oncall/1": {mark(str(at)): Told(NOW, NOW) for at in range(2 * MOST_FACTS)}}
    memory.save()
    assert len(Memory(path).told["oncall/1"]) == MOST_FACTS
    assert path.stat().st_size < 110 * MOST_FACTS
