"""Documents with their places, so that a check of what they say can point at the line that says it.

Called by the checks of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from capsule.documents.codec.parser import Node
from capsule.documents.codec.validation import key_place, load_with_places, place, unexpected_kind
from capsule.documents.paths import RequestFolder
from capsule.documents.problems import Problem, Severity
from capsule.documents.types import ActionRequest, Capsule, Document, Policy, Service
from capsule_agent.protocol import sshsig

T = TypeVar("T")
D = TypeVar("D", bound=Document)
Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """A valid document, the path and bytes it came from, and the places of its values."""

    path: str
    data: bytes
    document: T
    node: Node | None

    def problem(
        self,
        loc: Loc,
        reason: str,
        message: str,
        expected: str = "",
        hint: str = "",
        severity: Severity = "error",
        on_key: bool = False,
    ) -> Problem:
        """A problem at the value (or the key) that stands at `loc`."""
        line, column = (key_place if on_key else place)(self.node, loc)
        return Problem(self.path, line, column, reason, message, expected, hint, severity)


@dataclass(slots=True)
class Tree:
    """What a tree holds, as far as it could be read, and the problems found so far."""

    files: Mapping[str, bytes]
    settings: Source[Capsule] | None = None
    policy: Source[Policy] | None = None
    services: dict[str, Source[Service]] = field(default_factory=dict)
    requests: dict[str, tuple[RequestFolder, Source[ActionRequest]]] = field(default_factory=dict)
    approvals: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Paths and principals of the approvals in each request folder."""
    unreadable_services: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    brought: Collection[str] = ()
    """Paths that the change brings in which is checked; none when a tree is checked as it stands."""

    def severity(self, wanted: Severity, *paths: str) -> Severity:
        """How grave a problem is that may have come later than the documents at `paths`, which were fine."""
        return wanted if any(path in self.brought for path in paths) else "hint"

    def read(self, kind: type[T], path: str) -> Source[T] | None:
        """The document of type `kind` at `path`; None, with its problems noted, when it is not one."""
        data = self.files[path]
        document, problems, node = load_with_places(data, path)
        self.problems += problems
        if isinstance(document, kind):
            return Source(path, data, document, node)
        if document is not None:
            self.problems.append(unexpected_kind(document, kind.__name__, node, path))
        return None

    def at_start(
        self,
        path: str,
        reason: str,
        message: str,
        expected: str = "",
        hint: str = "",
        severity: Severity = "error",
    ) -> None:
        """Note a problem of a whole file or folder."""
        self.problems.append(Problem(path, 1, 1, reason, message, expected, hint, severity))


def check_name(source: Source[D], expected: str) -> list[Problem]:
    """The problem of a document whose name is not that of its file or folder."""
    name = source.document.metadata.name
    if name == expected:
        return []
    message = f'the name is "{name}", but the path says "{expected}"'
    return [source.problem(("metadata", "name"), "NameMismatch", message, f'"{expected}"')]


def public_key(text: str) -> sshsig.PublicKey | str:
    """The key that `text` holds, or what is wrong with it."""
    try:
        return sshsig.PublicKey.parse(text)
    except sshsig.BadKey as error:
        return str(error)
