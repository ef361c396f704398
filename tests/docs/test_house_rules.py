"""The rules of tests/conftest.py hold: in CI nothing is skipped, and no process outlives its session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY

SKIPPING = "import pytest\n@pytest.mark.skip\ndef test_it() -> None: ...\n"
SKIPPING_MODULE = "import pytest\npytest.skip('no', allow_module_level=True)\n"
EXPECTED_TO_FAIL = "import pytest\n@pytest.mark.xfail\ndef test_it() -> None:\n    assert False\n"
LEAVING = """
import subprocess
def test_it() -> None:
    subprocess.run(["sh", "-c", "sleep 300 & echo $!"], stdout=subprocess.DEVNULL, check=True)
"""
TIDY = """
import subprocess
def test_it() -> None:
    subprocess.run(["true"], check=True)
"""


def run(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_one.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"],
        cwd=folder,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("test", [SKIPPING, SKIPPING_MODULE, EXPECTED_TO_FAIL])
def test_what_is_skipped_fails_in_ci(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, test, "true")
    assert done.returncode in (1, 2), done.stdout
    assert "in CI nothing may be" in done.stdout


def test_what_is_skipped_passes_elsewhere(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPING, "")
    assert done.returncode == 0, done.stdout


def test_a_process_left_running_fails_the_session(tmp_path: Path) -> None:
    done = run(tmp_path, LEAVING, "")
    assert done.returncode == 1, done.stdout
    assert "sleep 300" in done.stdout


def test_a_session_that_ends_its_processes_passes(tmp_path: Path) -> None:
    done = run(tmp_path, TIDY, "true")
    assert done.returncode == 0, done.stdout
