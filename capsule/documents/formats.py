"""Problems as text for people, JSON for programs, and the annotations of GitHub's workflow commands.

Rules kept: whatever a hostile file says, one problem stays one line, and no character of it is a command to
a terminal or to a workflow runner. Workflow commands: GitHub's documentation, "Workflow commands for GitHub
Actions". Called by commands.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from capsule.documents.problems import Problem, one_line, shown

_LEVELS = {"error": "error", "warning": "warning", "hint": "notice"}


def as_text(problems: Sequence[Problem]) -> str:
    """One line for each problem, and a last line that counts them."""
    counts = Counter[str](problem.severity for problem in problems)
    total = ", ".join(f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}" for kind in _LEVELS if counts[kind])
    return "\n".join([*(shown(one_line(problem)) for problem in problems), total or "no problems", ""])


def as_json(problems: Sequence[Problem]) -> str:
    """A JSON list of objects with path, line, column, severity, reason, message, expected and hint."""
    return json.dumps([_fields(problem) for problem in problems], indent=2) + "\n"


def as_github(problems: Sequence[Problem]) -> str:
    """A workflow command for each problem, which the runner shows beside the line it is about."""
    return "".join(f"{_command(problem)}\n" for problem in problems)


def _fields(problem: Problem) -> dict[str, str | int]:
    return {
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "severity": problem.severity,
        "reason": problem.reason,
        "message": problem.message,
        "expected": problem.expected,
        "hint": problem.hint,
    }


def _command(problem: Problem) -> str:
    text = problem.message
    if problem.expected:
        text += f"\nexpected {problem.expected}"
    if problem.hint:
        text += f"\n{problem.hint}"
    place = f"file={_property(problem.path)},line={problem.line},col={problem.column}"
    return f"::{_LEVELS[problem.severity]} {place},title={_property(problem.reason)}::{_data(text)}"


def _data(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return shown(escaped)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
