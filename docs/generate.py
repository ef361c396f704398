"""Writes the parts of the documentation that are made from the code: schemas, fields, reason codes.

Run by `make docs`; tests/docs/test_generated.py fails when what is checked in is not what this writes.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from capsule.documents.codec.expectation import describe
from capsule.documents.schemas import PUBLISHED, schema_of, schemas

REPOSITORY = Path(__file__).resolve().parent.parent
SPEC = "docs/spec/v1"
_ROOMS = ("capsule", "capsule_agent")
_NOTE = "<!-- Written by docs/generate.py (`make docs`). Change the code, not this file. -->"


def generated() -> dict[str, bytes]:
    """Every generated file: its path in the repository, and its bytes."""
    return {
        **{f"{SPEC}/{name}": data for name, data in schemas().items()},
        "docs/reference/documents.md": _documents().encode(),
        "docs/reference/reasons.md": _reasons().encode(),
    }


def stale_schemas(wanted: Mapping[str, bytes]) -> list[Path]:
    """Schema files of types that are no longer published."""
    found = (REPOSITORY / SPEC).glob("*.schema.json")
    return [path for path in found if f"{SPEC}/{path.name}" not in wanted]


def main(arguments: Sequence[str]) -> int:
    """Write every generated file, and remove schemas of types that are gone.

    With `--check` nothing is written; the exit code is 1 when something would be.
    """
    wanted = generated()
    if "--check" in arguments:
        return _check(wanted)
    for name, data in wanted.items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in stale_schemas(wanted):
        path.unlink()
    sys.stdout.write(f"{len(wanted)} files written\n")
    return 0


def _check(wanted: Mapping[str, bytes]) -> int:
    different = [name for name, data in wanted.items() if _present(name) != data]
    different += [f"{SPEC}/{path.name}" for path in stale_schemas(wanted)]
    for name in different:
        sys.stderr.write(f"{name} is not what the code says; run `make docs`\n")
    return 1 if different else 0


def _present(name: str) -> bytes | None:
    path = REPOSITORY / name
    return path.read_bytes() if path.is_file() else None


# ---- documents.md -------------------------------------------------------------------------------


def _documents() -> str:
    head = [
        "# Documents and messages",
        "",
        _NOTE,
        "",
        "Every field of every document and wire message. `<name>` stands for any key of a mapping, `[]` for",
        "the entries of a list. The JSON Schemas are in [`docs/spec/v1/`](../spec/v1/).",
        "",
    ]
    return "\n".join([*head, *(_document(kind) for kind in PUBLISHED)])


def _document(kind: type) -> str:
    schema = schema_of(kind)
    lines = [
        f"## {kind.__name__}",
        "",
        " ".join(str(schema.get("description", "")).split()),
        "",
        f"Schema: [`{kind.__name__}.schema.json`](../spec/v1/{kind.__name__}.schema.json)",
        "",
        "| field | value | default | what it is |",
        "|---|---|---|---|",
        *_rows(schema, schema, ""),
        "",
    ]
    return "\n".join(lines)


def _rows(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        default = "**required**" if name in required else _default(field)
        inner = _resolve(field, root)
        description = field.get("description") or inner.get("description", "")
        yield f"| `{path}` | {_cell(describe(field, root))} | {default} | {_cell(description)} |"
        yield from _inner_rows(inner, root, path)


def _inner_rows(schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    yield from _rows(schema, root, path)
    entries = [(f"{path}[]", schema.get("items"))]
    entries += [(f"{path}.<name>", value) for value in schema.get("patternProperties", {}).values()]
    entries.append((f"{path}.<name>", schema.get("additionalProperties")))
    for inner_path, entry in entries:
        if isinstance(entry, dict):
            description = _cell(entry.get("description", ""))
            yield f"| `{inner_path}` | {_cell(describe(entry, root))} | | {description} |"
            yield from _inner_rows(_resolve(entry, root), root, inner_path)


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one part of it that describes a mapping or list."""
    options = schema.get("anyOf", [schema])
    resolved = [root["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part for part in options]
    return next((part for part in resolved if part.get("type") in ("object", "array")), resolved[0])


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value in (None, "", {}, []) or isinstance(value, dict):
        return "none" if value is None else "empty" if not value else "as below"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# ---- reasons.md ---------------------------------------------------------------------------------


def _reasons() -> str:
    head = [
        "# Reason codes",
        "",
        _NOTE,
        "",
        "Every error, refusal and condition names one of these. A code never changes its meaning.",
        "",
        "| code | what it means | from |",
        "|---|---|---|",
    ]
    texts: dict[str, list[str]] = {}
    rooms: dict[str, list[str]] = {}
    for room, table in _tables():
        for code, text in table.items():
            texts.setdefault(code, []).append(_cell(text))
            rooms.setdefault(code, []).append(room)
    rows = [
        f"| `{code}` | {'<br>'.join(dict.fromkeys(texts[code]))} | {', '.join(dict.fromkeys(rooms[code]))} |"
        for code in sorted(texts)
    ]
    return "\n".join([*head, *rows, ""])


def _tables() -> Iterator[tuple[str, dict[str, str]]]:
    """The REASONS table of each module that has one, with the name of its room."""
    for top in _ROOMS:
        package = importlib.import_module(top)
        for info in pkgutil.walk_packages(package.__path__, f"{top}."):
            if info.name.rsplit(".", 1)[1] == "__main__":
                continue
            table = getattr(importlib.import_module(info.name), "REASONS", None)
            if table is not None:
                room = "agent" if top == "capsule_agent" else info.name.split(".")[1]
                yield room, table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
