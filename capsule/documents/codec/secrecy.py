"""Secrets in documents: a problem where a person wrote one, replaced where a program passes one on.

Rules kept: a problem says the kind and the fingerprint, never the text; what machines write is never refused
for what an agent or a server said, but says `[secret sha256:…]` in its place. Called by validation and
emitter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from capsule.documents.codec.parser import MAX_PROBLEMS, Node
from capsule.documents.problems import InvalidDocument, Problem
from capsule.documents.secrets import SecretFinding, findings, fingerprint, redacted, redacted_value

MACHINE_KINDS = frozenset(
    {
        "ServiceStatus",
        "Claim",
        "Result",
        "Refusal",
        "Attestation",
        "ChangeAttestation",
        "StateOrder",
        "StateResult",
    }
)
"""What reconcilers write, on audit: what is in it was looked through before."""


def secret_problems(text: str, node: Node | None, path: str) -> list[Problem]:
    """A problem for each secret in a document that people write, comments included."""
    kind = node.children.get("kind") if node is not None else None
    if kind is not None and isinstance(kind.value, str) and kind.value in MACHINE_KINDS:
        return []
    problems = []
    for found in findings(text)[:MAX_PROBLEMS]:
        before = text[: found.start]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        problems.append(_problem(path, line, column, found, text))
    if not problems and node is not None and "\\" in text:
        problems = list(_escaped(node, path))
    return problems


def refuse_secrets(value: Any) -> None:
    """Raises InvalidDocument for what a program is about to write in the name of a person, with a secret."""
    for name, text in _texts(value, ""):
        for said in (text, f"{name}={text}"):
            for found in findings(said):
                raise InvalidDocument([_problem("", 1, 1, found, said)])


def without_secrets(value: Any) -> Any:
    """`value` with each secret in its texts replaced."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {
            redacted(name): redacted_value(name, part) if isinstance(part, str) else without_secrets(part)
            for name, part in value.items()
        }
    return [without_secrets(part) for part in value] if isinstance(value, list | tuple) else value


def _escaped(node: Node, path: str) -> Iterator[Problem]:
    """What only shows once the escapes of the text are read."""
    if isinstance(node.value, str):
        for found in findings(node.value):
            yield _problem(path, node.line, node.column, found, node.value)
    for key, part in node.children.items():
        yield from _escaped(node.keys.get(key, part), path)
        yield from _escaped(part, path)
    for part in node.items:
        yield from _escaped(part, path)


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield "", key
            yield from _texts(part, key)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part, name)


def _problem(path: str, line: int, column: int, found: SecretFinding, text: str) -> Problem:
    told = fingerprint(text[found.start : found.end])
    message = f"this looks like a secret ({found.kind}, {told})"
    hint = "take it out; if it was committed or pushed before, rotate it: it is known"
    return Problem(path, line, column, "SecretInDocument", message, "no secret in the repository", hint)
