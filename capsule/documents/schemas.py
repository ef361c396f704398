"""JSON Schemas (2020-12) of every document and every wire message, made from their types.

Rules kept: the types are the one source; a schema is never looser than the codec where JSON Schema can say
it. Called by codec.validation (to say what was expected) and by docs/generate.py, which writes the files
under docs/spec/v1/.
"""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from capsule.documents.scalars import duration_text
from capsule.documents.types import ANY_DOCUMENT, ChangeApproval
from capsule_agent.protocol import messages

MESSAGES: tuple[type[messages.Message], ...] = (
    messages.Approval,
    messages.Signers,
    messages.Order,
    messages.Query,
    messages.ReportCall,
    messages.Report,
    messages.Receipt,
    messages.Envelope,
)
PUBLISHED: tuple[type, ...] = (*ANY_DOCUMENT, ChangeApproval, *MESSAGES)
_HEAD = ("apiVersion", "kind")


class _Generator(GenerateJsonSchema):
    """Writes defaults as documents write them."""

    def encode_default(self, dft: Any) -> Any:
        return duration_text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


@cache
def schema_of(kind: type) -> dict[str, Any]:
    """The JSON Schema of the document or message type `kind`, as a value that must not be changed."""
    schema = TypeAdapter(kind).json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    for part in (schema, *schema.get("$defs", {}).values()):
        _require_head(part)
    _tighten(schema)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:capsule:v1:{kind.__name__}",
        "title": kind.__name__,
        **{name: value for name, value in schema.items() if name != "title"},
    }


def schemas() -> dict[str, bytes]:
    """Every published schema by file name, such as `Service.schema.json`."""
    return {
        f"{kind.__name__}.schema.json": (
            json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"
        ).encode()
        for kind in PUBLISHED
    }


def _require_head(schema: dict[str, Any]) -> None:
    """`apiVersion` and `kind` have a default for writers only: a reader asks for them."""
    properties = schema.get("properties", {})
    required = [name for name in _HEAD if name in properties]
    if required:
        schema["required"] = [*required, *(name for name in schema["required"] if name not in required)]
        schema["properties"] = {**{name: properties[name] for name in required}, **properties}
        for name in required:
            properties[name].pop("default", None)


def _tighten(schema: Any) -> None:
    """Drop generated titles, and let the patterns of names be the only names allowed."""
    if isinstance(schema, list):
        for part in schema:
            _tighten(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
            schema.pop("propertyNames", None)
        for part in schema.values():
            _tighten(part)
