"""The installation that tests of the command work on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from capsule.commands.init import init
from tests.e2e.installation import House, make_house


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A state repository with one service whose agent answers; alice asks, bob and carol review."""

    def make(state: Path, files: dict[str, bytes]) -> str:
        created = init(
            state,
            datetime.now(UTC).replace(microsecond=0),
            principal="alice",
            email="alice@example.com",
            key=tmp_path / "keys" / "alice",
            files=files,
        )
        for name in ("user.signingkey", "user.name", "user.email"):  # each person has settings of their own
            subprocess.run(["git", "-C", str(state), "config", "--unset", name], check=True)
        return created.root

    made = make_house(tmp_path, make)
    yield made
    made.adapter.close()
