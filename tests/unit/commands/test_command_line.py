"""The command line itself: exit codes, errors, the guide, completion, JSON of every read, start-up cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import capsule
from capsule.cli.app import VERBS
from capsule.cli.read_pages import _service_cells
from capsule.commands.reasons import REASONS
from capsule.view.build import snapshot
from capsule.view.model import ConditionRow
from tests.e2e.installation import environment
from tests.unit.commands.conftest import Office
from tests.unit.commands.test_completion import offered as completed
from tests.web.integration_services import integration_services


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("services",), 0),
        (("no-such-verb",), 2),
        (("services", "--no-such-option"), 2),
        (("show", "no-such-thing"), 2),
        (("request", "reload", "openai-chat"), 2),
        (("requests", "--phase", "Nonsense"), 2),
        (("log", "--since", "yesterday"), 2),
        (("services", "-l", "novalue"), 2),
        (("dashboard", "--bind", "nowhere"), 2),
        (("audit", "verify"), 1),
        (("reconcile", "--once", "--key", "/nowhere"), 3),
        (("--root", "abc", "services"), 2),
        (("--root", "0" * 40, "services"), 3),
    ],
)
def test_exit_codes(office: Office, arguments: tuple[str, ...], code: int) -> None:
    done = office.run(*arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output


def test_errors_go_to_standard_error_with_their_reason(office: Office) -> None:
    done = office.run("show", "openai-chatt")
    assert done.stdout == ""
    assert "Did you mean openai-chat?" in done.stderr
    assert "[UnknownName]" in done.stderr
    assert "Did you mean `services`?" in office.run("servces").stderr


def test_outside_of_a_repository_the_environment_is_at_fault(office: Office, tmp_path: Path) -> None:
    done = office.run("services", at=tmp_path)
    assert (done.exit_code, "capsule init DIR" in done.output) == (3, True)


def test_a_defect_is_said_to_be_one_and_shown_only_when_asked(office: Office) -> None:
    def defective(*_: object) -> None:
        raise ZeroDivisionError("oops")

    office.monkeypatch.setattr("capsule.commands.reads.look", defective)
    done = office.run("services")
    assert (done.exit_code, "[Defect]" in done.output, "Traceback" in done.output) == (70, True, False)


def test_nothing_is_signed_on_a_root_that_nobody_vouched_for(office: Office) -> None:
    office.git("config", "--unset", "capsule.root")
    done = office.run("request", "reload", "openai-chat", "--reason", "x")
    assert (done.exit_code, f"config capsule.root {office.root}" in done.output) == (3, True)
    assert office.run("services").exit_code == 0


@pytest.mark.parametrize("verb", ["services", "requests", "plan", "log"])
def test_every_read_gives_json(office: Office, verb: str) -> None:
    office.ask()
    assert isinstance(json.loads(office.run(verb, "--json").stdout), list | dict)


def test_services_can_be_chosen_by_label_and_status(office: Office) -> None:
    def names(*options: str) -> list[str]:
        return [row["name"] for row in json.loads(office.run("services", "--json", *options).stdout)]

    assert names() == ["mail-sender", "openai-chat"]
    assert names("-l", "env=test") == ["mail-sender"]
    assert names("-l", "env=test", "-l", "team=none") == []
    assert names("--status", "healthy") == []
    assert "No service fits." in office.run("services", "--status", "HEALTHY").output


def test_a_condition_is_told_with_its_message_and_not_only_its_name() -> None:
    story = integration_services()
    seen = snapshot(story.store, story.store.refs(), story.root, story.now)
    outdated = ConditionRow("TrustOutdated", "TrustOutdated", "list 1, in force is 2")
    row = replace(seen.services[0], conditions=(outdated, ConditionRow("KeyOverdue", "KeyOverdue", "")))
    assert (
        _service_cells(row, story.now)[-1] == "TrustOutdated: list 1, in force is 2; KeyOverdue: KeyOverdue"
    )


def test_the_plan_says_why_an_approved_request_waits(office: Office) -> None:
    name = office.ask()
    assert "wait for approval" in office.run("plan").output
    office.run("approve", name, "--yes", person="bob")
    assert "AgentNotSeen" in office.run("plan", "--offline").output
    asked = office.run("plan").output  # nothing listens at the agent's address
    assert name in asked
    assert "hold" in asked
    assert office.run("plan", "--json").exit_code == 0


def test_the_guide_says_what_is_so_and_what_to_do(office: Office, tmp_path: Path) -> None:
    assert "capsule init DIR" in office.run(at=tmp_path).output
    assert (
        "capsule init DIR"
        in office.run(at=Path(str(office.git("rev-parse", "--show-toplevel").strip())).parent).output
    )
    quiet = office.run().output
    assert "Office; you are alice." in quiet
    assert "No request waits for approval." in quiet
    assert "No reconciler gives a sign of life" in quiet
    assert "capsule up" in quiet
    name = office.ask()
    assert f"capsule approve {name}" in office.run(person="bob").output
    assert "1 request waits for your approval." in office.run(person="bob").output
    assert "1 request waits for others." in office.run().output
    assert "your signing key is nobody's" in office.run(person="mallory").output


def test_without_the_reconcilers_key_nobody_is_told_to_start_it(office: Office) -> None:
    (office.state / ".git" / "capsule" / "reconciler_ed25519").unlink()
    told = office.run().output
    assert "Tell whoever runs reconciler-1" in told
    assert "start the reconciler" not in told
    assert "capsule dashboard" in told
    assert "tell whoever runs reconciler-1" in office.run("doctor").output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(office: Office, shell: str) -> None:
    assert "_CAPSULE_COMPLETE" in office.run("completion", shell).output


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("capsule show ope", "openai-chat"),
        ("capsule appr", "approve"),
        ("capsule request reload mail", "mail-sender"),
    ],
)
def test_names_are_completed(office: Office, words: str, offered: str) -> None:
    settings = {
        **environment(office.folder, "alice"),
        "_CAPSULE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from capsule.cli import main; main()"],
        env=settings, cwd=office.state, capture_output=True, text=True,
    )  # fmt: skip
    assert f"plain,{offered}\n" in done.stdout, done.stderr


def test_requests_are_completed(office: Office) -> None:
    from click import Context

    from capsule.cli import app
    from capsule.cli.shared import complete_requests

    name = office.ask()
    context = Context(app)
    context.params["directory"] = office.state
    assert [item.value for item in complete_requests(context, app.params[0], "2")] == [name]
    assert complete_requests(context, app.params[0], "zzz") == []


def test_the_help_needs_nothing_but_click() -> None:
    code = (
        "import sys; from capsule.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {
        "pydantic",
        "dulwich.repo",
        "rich.table",
        "flask",
        "cryptography",
        "ruamel.yaml",
        "paramiko",
    }
    assert all(verb in done.stdout for verb in VERBS)


def test_every_verb_has_a_command_with_help(office: Office) -> None:
    for verb in VERBS:
        assert office.run(verb, "--help").exit_code == 0


def test_every_reason_that_commands_give_is_explained() -> None:
    import importlib
    import pkgutil

    known = set(REASONS)
    for module in pkgutil.walk_packages(capsule.__path__, "capsule."):
        if not module.name.endswith("__main__"):
            known |= set(getattr(importlib.import_module(module.name), "REASONS", {}))
    missing = set()
    for file in (Path(capsule.__file__).parent / "commands").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = {"Diagnosis": 1}.get(node.func.id, 0 if node.func.id in _ERRORS else None)
                if at is not None and len(node.args) > at:
                    missing |= {
                        word.value for word in ast.walk(node.args[at]) if isinstance(word, ast.Constant)
                    }
    assert {word for word in missing if isinstance(word, str)} - known == set()


_ERRORS = {"CommandError", "WrongUsage", "SetUpProblem", "RefusedByPolicy"}


def test_the_environment_is_read_by_the_command_line_alone() -> None:
    readers = []
    for file in Path(capsule.__file__).parent.rglob("*.py"):
        text = file.read_text()
        if "os.environ" in text or "getenv" in text:
            readers.append(file.relative_to(Path(capsule.__file__).parent).as_posix())
    outside = [name for name in readers if not name.startswith(("cli/", "store/", "testing/"))]
    assert outside == ["commands/demo/stage.py"]  # passes it on, without what names other repositories


@pytest.mark.parametrize("root", ["abc", "A" * 40])
def test_a_mistyped_root_is_told_with_where_to_look(office: Office, root: str) -> None:
    done = office.run("--root", root, "services")
    assert (done.exit_code, "[BadRoot]" in done.output) == (2, True), done.output
    assert "git rev-list --first-parent --max-parents=0 main" in done.output


def test_a_root_that_is_no_commit_here_is_told(office: Office) -> None:
    done = office.run("--root", "0" * 40, "services")
    assert (done.exit_code, "[BadRoot]" in done.output) == (3, True), done.output


def test_usual_actions_are_completed_where_none_is_on_record(office: Office) -> None:
    assert completed(office.state, "request", "rot") == {"rotateKey"}
