"""A secret that a person is about to write: refused by the command line before anything is kept of it."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.unit.commands.conftest import Office

TOKEN = "ghp_" + "a1B2" * 9


def all_objects(office: Office) -> bytes:
    """All objects of the repository, reachable or not."""
    command = ["git", "-C", str(office.state), "cat-file", "--batch", "--batch-all-objects", "--buffer"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("request", "reload", "openai-chat", "--reason", f"use {TOKEN}"),
        ("request", "reload", "openai-chat", "--reason", "OPS-1", "-p", f"depth={TOKEN}"),
        (
            "request",
            "reload",
            "openai-chat",
            "--reason",
            "OPS-1",
            "-p",
            f"apiToken={'Zx9Qw7Lr2Tk5Vb8Nm3Hd6Jf1'}",
        ),
    ],
)
def test_a_request_with_a_secret_is_refused_and_kept_nowhere(
    office: Office, arguments: tuple[str, ...]
) -> None:
    before = office.refs()
    done = office.run(*arguments)
    assert (done.exit_code, "SecretInDocument" in done.output) == (2, True), done.output
    secret = arguments[-1].rpartition("=")[2].removeprefix("use ")
    assert secret not in done.output
    assert office.refs() == before
    assert secret.encode() not in all_objects(office)


def test_an_approval_with_a_secret_in_its_reason_is_refused(office: Office) -> None:
    name = office.ask()
    done = office.run("approve", name, "--reason", f"see {TOKEN}", "--yes", person="bob")
    assert (done.exit_code, "SecretInDocument" in done.output) == (2, True), done.output
    assert TOKEN not in done.output
    assert TOKEN.encode() not in all_objects(office)


@pytest.mark.parametrize("form", ["text", "json", "github"])
def test_check_tells_where_it_is_and_not_what(office: Office, form: str) -> None:
    file = office.state / "services/openai-chat.yaml"
    lines = file.read_text().count("\n")
    file.write_text(file.read_text() + f"# the key is {TOKEN}\n")
    done = office.run("check", "--format", form)
    assert done.exit_code == 1
    assert "SecretInDocument" in done.output
    assert TOKEN not in done.output
    if form == "text":
        assert f"services/openai-chat.yaml:{lines + 1}:14: error:" in done.output
    elif form == "json":
        assert lines + 1 in {problem["line"] for problem in json.loads(done.output)}


def test_an_error_that_quotes_what_was_typed_hides_a_secret(office: Office) -> None:
    done = office.run("show", TOKEN)
    assert done.exit_code != 0
    assert TOKEN not in done.output
