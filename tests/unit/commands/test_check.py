"""Checking: the work tree, a path, a revision, a range; in three formats."""

from __future__ import annotations

import json

import pytest

from tests.unit.commands.conftest import Office

SERVICE = "services/openai-chat.yaml"


def _break(office: Office) -> None:
    file = office.state / SERVICE
    file.write_text(file.read_text().replace("kind: Service", "kind: Servise"))


def test_a_sound_work_tree_has_no_problems(office: Office) -> None:
    done = office.run("check")
    assert (done.exit_code, done.output) == (0, "no problems\n")


@pytest.mark.parametrize("target", [None, "services", SERVICE, "."])
def test_a_problem_is_told_with_its_place_before_it_is_committed(office: Office, target: str | None) -> None:
    _break(office)
    office.monkeypatch.chdir(office.state)
    done = office.run("check", *([target] if target else []))
    assert done.exit_code == 1
    assert f"{SERVICE}:2:7: error:" in done.output
    assert 'did you mean "Service"?' in done.output


def test_a_path_elsewhere_in_the_repository_does_not_tell_it(office: Office) -> None:
    _break(office)
    assert office.run("check", str(office.state / "policy.yaml")).exit_code == 0


def test_a_revision_is_checked_as_committed(office: Office) -> None:
    _break(office)
    assert office.run("check", "HEAD").exit_code == 0
    office.git("commit", "-qam", "Break it")
    assert office.run("check", "HEAD").exit_code == 1
    assert office.run("check", "main~1").exit_code == 0


def test_a_range_tells_what_it_brings_in_and_nothing_older(office: Office) -> None:
    _break(office)
    office.git("commit", "-qam", "Break it")
    (office.state / "README.md").write_text("x\n")
    office.git("commit", "-qam", "Something else")
    assert office.run("check", "HEAD~1..HEAD").exit_code == 0
    assert office.run("check", "HEAD~2..HEAD").exit_code == 1
    assert office.run("check", "HEAD~2..HEAD~1").exit_code == 1


def test_a_policy_whose_serial_does_not_rise_is_a_problem_of_the_range(office: Office) -> None:
    file = office.state / "policy.yaml"
    file.write_text(file.read_text() + "# a word\n")
    office.git("commit", "-qam", "Say a word")
    assert office.run("check").exit_code == 0
    done = office.run("check", "HEAD~1..HEAD")
    assert (done.exit_code, "PolicySerialNotRaised" in done.output) == (1, True)


def test_programs_get_json_and_github_gets_annotations(office: Office) -> None:
    _break(office)
    problems = json.loads(office.run("check", "--json").output)
    assert (problems[0]["path"], problems[0]["line"], problems[0]["column"]) == (SERVICE, 2, 7)
    assert office.run("check", "--format", "github").output.startswith(f"::error file={SERVICE},line=2,col=7")


def test_a_link_among_the_documents_is_a_problem(office: Office) -> None:
    (office.state / "services" / "link.yaml").symlink_to("/etc/passwd")
    done = office.run("check")
    assert (done.exit_code, "services/link.yaml:1:1" in done.output) == (1, True)
    assert "root:" not in done.output


@pytest.mark.parametrize("target", ["no-such-thing", "--help-me", "-x", "HEAD~99", "a..b"])
def test_what_is_neither_a_path_nor_a_revision_is_wrong_usage(office: Office, target: str) -> None:
    assert office.run("check", "--", target).exit_code == 2


def test_a_path_outside_of_a_state_repository_is_wrong_usage(office: Office) -> None:
    assert office.run("check", str(office.folder / "keys")).exit_code == 2


def test_what_is_not_committed_is_said_to_be_so(office: Office) -> None:
    """It is right, and still not in the repository."""
    file = office.state / SERVICE
    file.write_text(f"# a word\n{file.read_text()}")
    done = office.run("check")
    assert (done.exit_code, done.stdout) == (0, "no problems\n")
    assert f"Not committed yet: {SERVICE}. On a branch:" in " ".join(done.stderr.split())
    (office.state / "notes.txt").write_text("x")
    assert "more)" not in office.run("check").stderr
    office.git("commit", "-qam", "Say a word")
    assert office.run("check").stderr == ""
