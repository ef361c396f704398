"""What is generated from the code is what is checked in."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from jsonschema import Draft202012Validator

from capsule.documents.schemas import PUBLISHED, schemas

REPOSITORY = Path(__file__).resolve().parents[2]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_those_checked_in() -> None:
    generator = _generator()
    wanted = generator.generated()
    different = [
        name
        for name, data in wanted.items()
        if not (REPOSITORY / name).is_file() or (REPOSITORY / name).read_bytes() != data
    ]
    assert different == [], "run `make docs`"
    assert generator.stale_schemas(wanted) == [], "run `make docs`"


@pytest.mark.parametrize(("name", "data"), schemas().items(), ids=list(schemas()))
def test_every_schema_is_valid_json_schema(name: str, data: bytes) -> None:
    Draft202012Validator.check_schema(json.loads(data))


def test_every_document_and_message_is_published_once() -> None:
    assert sorted(schemas()) == sorted(f"{kind.__name__}.schema.json" for kind in PUBLISHED)
    assert len(schemas()) == len(PUBLISHED)


def test_every_reason_of_the_documents_room_is_in_the_reference() -> None:
    from capsule.documents import check, problems

    text = _generator().generated()["docs/reference/reasons.md"].decode()
    for code in {**check.REASONS, **problems.REASONS}:
        assert f"| `{code}` |" in text
