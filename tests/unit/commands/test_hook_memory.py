"""What the hook of a server keeps from push to push: worth nothing when it was touched."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.histories import write_history
from capsule.commands.hook import refusals
from capsule.commands.hook_memory import remember, remembered
from capsule.trust.pushes import Push
from capsule.trust.refused_pushes import RefusedPush
from tests.trust_history import History


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosting") / "state.git"
    write_history(folder, 64)
    return folder


@pytest.fixture
def bare(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "state.git"))


def _git(bare: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["git", "-C", bare, "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments],
        env={**os.environ, "GIT_INDEX_FILE": str(bare / "index-of-test")},
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip()


def _pushed(bare: Path, *, path: str) -> tuple[RefusedPush, ...]:
    """What the hook says to a commit on main that changes the file at `path` and is signed by nobody."""
    main = _git(bare, "rev-parse", "main")
    blob = _git(bare, "hash-object", "-w", "--stdin", stdin="changed\n")
    _git(bare, "read-tree", "main")
    _git(bare, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    new = _git(bare, "commit-tree", _git(bare, "write-tree"), "-p", main, "-m", "change")
    return refusals(bare, [Push("refs/heads/main", main, new)], [], datetime.now(UTC))


def test_what_is_kept_is_main_as_it_stands_and_verdicts_stay_the_same(bare: Path) -> None:
    assert remembered(bare) is None
    first = _pushed(bare, path="policy.yaml")
    kept = remembered(bare)
    assert kept is not None
    assert kept.tip == _git(bare, "rev-parse", "main")
    assert (bare / "capsule" / "judged").stat().st_mode & 0o777 == 0o600
    assert _pushed(bare, path="policy.yaml") == first
    assert [each.reason for each in first]
    assert _pushed(bare, path="notes.txt") == ()


@pytest.mark.parametrize(
    "harm", ["readable", "cut", "one bit", "noise", "other code", "link", "foreign", "history"]
)
def test_a_file_that_was_touched_is_not_believed(bare: Path, tmp_path: Path, harm: str) -> None:
    _pushed(bare, path="notes.txt")
    file = bare / "capsule" / "judged"
    data = file.read_bytes()
    if harm == "readable":
        file.chmod(0o644)
    elif harm == "link":
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(data)
        elsewhere.chmod(0o600)
        file.unlink()
        file.symlink_to(elsewhere)
    elif harm == "history":  # main of another repository, as an older hook left it
        other = History.begun()
        other.step({"notes": b"x"})
        remember(bare, other.judged())
        assert [each.reason for each in _pushed(bare, path="policy.yaml")]
        assert _pushed(bare, path="notes.txt") == ()
        return
    else:
        mark = tmp_path / "ran"
        touched = {
            "cut": data[: len(data) // 2],
            "one bit": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "noise": _whole(data[:32], b"\xff" * 100),
            "other code": bytes(32) + data[32:],
            "foreign": _whole(data[:32], pickle.dumps(_Runs(mark))),
        }
        file.write_bytes(touched[harm])
        assert remembered(bare) is None
        assert not mark.exists()
    assert remembered(bare) is None
    assert _pushed(bare, path="notes.txt") == ()


def _whole(code: bytes, value: bytes) -> bytes:
    """A file as it is written, of that value."""
    return code + hashlib.sha256(value).digest() + value


class _Runs:
    """Makes a file when it is unpickled by anything that calls what it names."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self._mark,))
