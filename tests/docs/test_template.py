"""The template of a state repository: right as it is written, and right after every step it suggests."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from capsule.cli.approval import approval
from capsule.documents import codec
from capsule.documents.check import check_tree
from capsule.documents.schemas import schemas
from capsule.documents.types import Capsule, Policy
from capsule_agent.protocol.sshsig import PrivateKey
from tests.docs.pages import REPOSITORY

TEMPLATE = REPOSITORY / "state_repo_template"
KEYS = [PrivateKey.from_seed(bytes([number]) * 32).public.text for number in range(3)]
WORDS = {
    "name": "state",
    "principal": "alice",
    "email": "alice@example.com",
    "key": KEYS[0],
    "reconciler_key": KEYS[1],
}


def rendered() -> dict[str, str]:
    """The template as `capsule init` writes it."""
    found = {}
    for path in TEMPLATE.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for name, value in WORDS.items():
                text = text.replace("{{" + name + "}}", value)
            found[path.relative_to(TEMPLATE).as_posix()] = text
    return found


def problems(files: dict[str, str]) -> list[str]:
    return [
        f"{each.path}:{each.line} {each.reason}"
        for each in check_tree({path: text.encode() for path, text in files.items()})
    ]


def test_no_word_in_braces_is_left_over() -> None:
    for path, text in rendered().items():
        assert not re.search(r"\{\{\w+\}\}", text), path


def test_it_passes_the_check_without_any_finding() -> None:
    assert problems(rendered()) == []


def test_what_it_leaves_out_it_says_so_and_a_second_person_can_be_added_by_uncommenting() -> None:
    files = rendered()
    policy = files["policy.yaml"].replace("ssh-ed25519 AAAA…", KEYS[2])
    policy = re.sub(
        r"^(\s*)# (bob:|  email:|  keys:|    - \"|reviewers:|- match: \{action: \"\*\"|  mayRe|  appr)",
        r"\1\2",
        policy,
        flags=re.MULTILINE,
    )
    policy = policy.replace("serial: 1", "serial: 2")
    loaded = codec.load_as(Policy, policy.encode(), "policy.yaml")
    assert set(loaded.spec.principals) == {"alice", "bob", "reconciler-1"}
    assert loaded.spec.teams["reviewers"] == ("bob",)
    assert [rule.match.action for rule in loaded.spec.rules[:5]] == [
        "runHealthCheck",
        "disable",
        "cancel",
        "abort",
        "*",
    ]
    assert problems({**files, "policy.yaml": policy}) == []


def test_settings_that_stand_in_it_are_the_defaults() -> None:
    written = codec.load_as(Capsule, rendered()["capsule.yaml"].encode(), "capsule.yaml").spec
    assert written.model_copy(update={"title": ""}) == Capsule.model_fields["spec"].default


@pytest.mark.parametrize("path", ["capsule.yaml", "policy.yaml", ".vscode/settings.json"])
def test_editors_find_every_schema(path: str) -> None:
    named = set(re.findall(r"\.capsule/schemas/(\w+\.schema\.json)", rendered()[path]))
    assert named
    assert named <= set(schemas())


def test_the_settings_of_the_editor_are_json() -> None:
    json.loads(rendered()[".vscode/settings.json"])


@pytest.mark.parametrize("path", [".github/workflows/capsule.yml", ".gitlab-ci.yml"])
def test_ci_definitions_are_yaml_and_check_the_change(path: str) -> None:
    from ruamel.yaml import YAML

    text = rendered()[path]
    assert YAML(typ="safe").load(text)
    assert 'capsule check "$BASE..HEAD" --format github' in text or 'capsule check "$base..HEAD"' in text


@pytest.mark.parametrize("path", [".github/workflows/capsule-approval.yml", ".gitlab-ci.yml"])
def test_ci_definitions_ask_for_approval_by_the_check_of_that_name(path: str) -> None:
    from ruamel.yaml import YAML

    text = rendered()[path]
    jobs = YAML(typ="safe").load(text)
    assert path != ".gitlab-ci.yml" or "capsule/approval" in jobs
    found = []
    for command in re.findall(r"capsule approval (?:[^\n\\|]|\\\n)*", text):
        words = shlex.split(command.replace("\\\n", " ").replace('"${which[@]}"', "--open"))[2:]
        parsed = approval.make_context("approval", words, resilient_parsing=True).params
        assert parsed["form"] == "markdown"
        assert parsed["target"] or (parsed["every"] and parsed["post"])
        found.append(parsed)
    assert any(each["post"] for each in found)


def test_the_approval_check_is_judged_at_each_review_and_runs_nothing_of_a_pull_request() -> None:
    from ruamel.yaml import YAML

    workflow = YAML(typ="safe").load(rendered()[".github/workflows/capsule-approval.yml"])
    assert {"pull_request_target", "pull_request_review", "push"} <= set(workflow["on"])
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read", "pull-requests": "write", "statuses": "write"}
    (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["ref"] == "main"
    assert not any("${{" in step.get("run", "") for step in job["steps"])


def test_a_token_that_may_write_is_for_jobs_of_main_alone() -> None:
    from ruamel.yaml import YAML

    jobs = YAML(typ="safe").load(rendered()[".gitlab-ci.yml"])
    may_write = {name for name, job in jobs.items() if "WRITE_TOKEN" in str(job)}
    assert may_write == {"approvals of open merge requests"}
    (rule,) = jobs["approvals of open merge requests"]["rules"]
    assert '$CI_COMMIT_BRANCH == "main"' in rule["if"]
    assert "MERGE_REQUEST" not in str(jobs["approvals of open merge requests"])
