"""Every command and every reason code is documented."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest

from tests.docs.pages import REPOSITORY, pages


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", REPOSITORY / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = dict(_module("commands").commands())
MENTIONED = re.compile(r"\bcapsule ((?:-C \S+ )?[a-z][a-z-]+(?: [a-z][a-z-]+)?)")


def test_the_reference_of_commands_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, "docs/commands.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section(name: str) -> None:
    text = (REPOSITORY / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert re.search(rf"^###? {re.escape(name)}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    for param in COMMANDS[name].command.params:
        if param.param_type_name == "option" and not getattr(param, "hidden", False):
            described = (
                getattr(param, "help", None) or type(getattr(param, "type", None)).__name__ == "Choice"
            )
            assert described, f"{name} {param.name}"


def test_every_command_that_the_documentation_names_exists() -> None:
    known = {name.removeprefix("capsule ") for name in COMMANDS}
    wrong = []
    for page in pages():
        for code in re.findall(
            r"`(capsule [^`]+)`|^ {4,}(capsule .+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            text = next(filter(None, code))
            words = re.sub(r"^capsule( -C \S+)?", "", text).split()
            if words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
                group = f"{words[0]} {words[1]}" if len(words) > 1 else ""
                is_group = any(name.startswith(f"{words[0]} ") for name in known)
                if words[0] not in known or (is_group and group and group not in known):
                    wrong.append(f"{page.relative_to(REPOSITORY)}: {text}")
    assert wrong == []


def test_every_option_that_the_documentation_uses_exists() -> None:
    wrong = []
    for page in pages():
        for code in re.findall(
            r"`(capsule [^`]+)`|^ {4,}(capsule .+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            text = next(filter(None, code)).partition("#")[0].partition(" | ")[0]
            words = text.split()
            name = max((each for each in COMMANDS if text.startswith(each)), key=len)
            known = {option for param in COMMANDS[name].command.params for option in param.opts}
            known |= {option for param in COMMANDS["capsule"].command.params for option in param.opts}
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
            wrong += [f"{page.relative_to(REPOSITORY)}: {text}: {each}" for each in used - known - {"--help"}]
    assert wrong == []


def _reasons() -> dict[str, set[str]]:
    generator = _module("generate")
    found: dict[str, set[str]] = {}
    for room in ("capsule", "capsule_agent"):
        package = importlib.import_module(room)
        import pkgutil

        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            if module.name.endswith("__main__"):
                continue
            table = getattr(importlib.import_module(module.name), "REASONS", None)
            if isinstance(table, dict):
                found[module.name] = set(table)
    assert generator
    return found


def test_every_reason_code_is_documented() -> None:
    text = (REPOSITORY / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    tables = _reasons()
    assert tables
    missing = sorted(code for codes in tables.values() for code in codes if f"`{code}`" not in text)
    assert missing == []


def test_every_code_that_the_documentation_names_is_documented() -> None:
    reasons = (REPOSITORY / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    page = (REPOSITORY / "docs" / "how-to" / "troubleshoot.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", page))
    assert named
    assert sorted(code for code in named if f"`{code}`" not in reasons) == []
