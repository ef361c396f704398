"""Every reason code is a word, explained once, and used."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import capsule.trust

_FOLDER = Path(capsule.trust.__file__).parent
MODULES = sorted(path.stem for path in _FOLDER.glob("*.py") if "REASONS: dict" in path.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_reasons_are_explained_words_that_the_code_uses(module: str) -> None:
    reasons = importlib.import_module(f"capsule.trust.{module}").REASONS
    assert reasons
    text = "".join(path.read_text() for path in _FOLDER.glob("*.py"))
    for reason, explanation in reasons.items():
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", reason)
        assert explanation.endswith((".", "!"))
        assert len(re.findall(rf'"{reason}"', text)) > 1, f"{reason} is never given"
