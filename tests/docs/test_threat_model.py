"""The table of attacks names tests that there are, and every attack has one."""

from __future__ import annotations

import ast
import re

from tests.docs.pages import REPOSITORY

TABLE = REPOSITORY / "docs" / "explanation" / "threat-model.md"
ATTACKS = REPOSITORY / "tests" / "attacks"


def rows() -> dict[str, list[str]]:
    """Each attack of the table, with the tests it names."""
    section = TABLE.read_text().partition("## Attacks that must fail")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| (`test_[^|]+`) \|$", section, re.MULTILINE)
    return {attack: re.findall(r"`(test_\w+::test_\w+)`", tests) for attack, tests in found}


def written() -> set[str]:
    """Every test in tests/attacks, as file::name."""
    return {
        f"{path.stem}::{node.name}"
        for path in ATTACKS.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_attack_names_tests_that_there_are() -> None:
    named = rows()
    assert len(named) >= 50
    assert all(named.values())
    assert {test for tests in named.values() for test in tests} - written() == set()


def test_there_are_more_tests_of_attacks_than_attacks() -> None:
    assert len(written()) >= 60
