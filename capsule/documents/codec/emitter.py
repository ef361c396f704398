"""One stable text for every document that a program writes.

Rules kept: equal documents have equal bytes, and the codec reads them back equal; fields that hold their
default are left out (a default of capsule/v1 therefore never changes its meaning); block style, two
spaces, quotes where a plain scalar could be read otherwise; no comment, no line folded. Written here
and not by a library, because bytes that are hashed must not depend on a library's version.
Called by the reconciler and by commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from capsule.documents.codec.plain import is_plain
from capsule.documents.codec.secrecy import MACHINE_KINDS, refuse_secrets, without_secrets
from capsule.documents.problems import FORBIDDEN, InvalidDocument, Problem, quoted
from capsule.documents.types import AnyDocument, ChangeApproval
from capsule_agent.protocol.messages import Message, encode

_HEAD = ("apiVersion", "kind", "metadata", "spec")


def emit(document: AnyDocument | ChangeApproval | Message) -> bytes:
    """The bytes of `document`: YAML; JSON for approvals, signers and other messages.

    Raises InvalidDocument when a text in it has a character that no document may have (whoever takes text
    from elsewhere makes it printable first, with `problems.shown`), or is a secret; in what machines write a
    secret is replaced by its fingerprint.
    """
    if isinstance(document, BaseModel):
        found = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        value = {name: found[name] for name in (*_HEAD, *found) if name in found}
    else:
        value = encode(document)
    if value["kind"] in MACHINE_KINDS:
        value = without_secrets(value)
    else:
        refuse_secrets(value)
    _check_texts(value, "")
    if isinstance(document, ChangeApproval | Message):
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    return "".join(line + "\n" for line in block(value, 0)).encode()


def block(value: Any, indent: int) -> list[str]:
    """The lines of a mapping or list that is not empty, each indented by `indent` spaces."""
    pad = " " * indent
    lines = []
    if isinstance(value, Mapping):
        for name, part in value.items():
            head = f"{pad}{scalar(name)}:"
            if _is_nested(part):
                lines += [head, *block(part, indent + 2)]
            else:
                lines.append(f"{head} {scalar(part)}")
    else:
        for part in value:
            first, *rest = block(part, indent + 2) if _is_nested(part) else [scalar(part)]
            lines += [f"{pad}- {first.lstrip(' ')}", *rest]
    return lines


def scalar(value: Any) -> str:
    """The one line of a text, number, true, false, null, or of anything empty or in flow style."""
    if isinstance(value, str) and is_plain(value):
        return value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(name)}: {flow(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(part) for part in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def flow(value: Any) -> str:
    text = scalar(value)
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and set(text) & set(",=:@()")
        else text
    )


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _check_texts(value: Any, where: str) -> None:
    if isinstance(value, str):
        if found := FORBIDDEN.search(value):
            message = f"{where.removeprefix('.')} holds the character U+{ord(found[0]):04X}: {quoted(value)}"
            raise InvalidDocument([Problem("", 1, 1, "ForbiddenCharacter", message, hint="remove it")])
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _check_texts(name, where)
            _check_texts(part, f"{where}.{name}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            _check_texts(part, f"{where}[{at}]")
