"""Deciding: who may, what is shown, what is signed, and when main moves."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result

from capsule.commands.decision import decide, review
from capsule.commands.request import Wish, request
from capsule.commands.writing import commit_as
from capsule.store.api import RefMoved
from tests.unit.commands.conftest import Office, right_now


def _approve(office: Office, name: str, person: str, *more: str) -> Result:
    return office.run("approve", name, "--yes", *more, person=person)


def _ask_long_ago(office: Office) -> str:
    """A request by alice that expired yesterday; its name."""
    repository = office.open()
    try:
        wish = Wish("reload", "OPS-1", ("openai-chat",), expires_in=timedelta(days=1))
        return request(repository, office.identity(repository, "alice"), wish, _two_days_ago()).judged.name
    finally:
        repository.close()


def _two_days_ago() -> datetime:
    return right_now() - timedelta(days=2)


def test_an_approval_shows_everything_and_merges_when_it_is_the_last_one_missing(office: Office) -> None:
    name = office.ask("-p", "depth=2")
    done = _approve(office, name, "bob")
    assert done.exit_code == 0, done.output
    for shown in ("alice", "depth=2", "OPS-1", "model=gpt-5.1", "http://127.0.0.1:9", "sha256:"):
        assert shown in done.output
    assert "Merged into main" in done.output
    parents = office.git("log", "-1", "--format=%P", "main").split()
    assert parents[1] == office.git("rev-parse", f"request/{name}").strip()
    office.run("policy", "allowed-signers", "--install")
    assert office.git("log", "-1", "--format=%G? %GS", "main") == "G bob\n"
    assert office.git("status", "--porcelain") == ""
    shown = json.loads(office.run("show", name, "--json").output)
    assert (shown["phase"], shown["evidence"]) == ("Approved", "signature")


@pytest.mark.parametrize(
    ("person", "reason"), [("alice", "OwnApproval"), ("mallory", "UnknownKey"), ("reconciler", "MachineKey")]
)
def test_whoever_may_not_decide_is_refused_before_anything_is_written(
    office: Office, person: str, reason: str
) -> None:
    name = office.ask()
    before = office.refs()
    key = office.state / ".git" / "capsule" / "reconciler_ed25519"
    if person == "reconciler":
        done = _approve(office, name, "alice", "--as-key", str(key))
    else:
        done = _approve(office, name, person)
    assert (done.exit_code, reason in done.output) == (4, True), done.output
    assert office.refs() == before


def test_two_approvals_by_two_people_are_needed_where_the_rule_says_two(office: Office) -> None:
    name = office.ask(action="drain")
    first = _approve(office, name, "bob")
    assert "Still missing: 1 of reviewers (carol)" in first.output, first.output
    again = _approve(office, name, "bob")
    assert (again.exit_code, "AlreadyDecided" in again.output) == (1, True)
    second = _approve(office, name, "carol")
    assert "Merged into main" in second.output, second.output


def test_without_a_terminal_nothing_is_signed_unless_told_so(office: Office) -> None:
    name = office.ask()
    before = office.refs()
    done = office.run("approve", name, person="bob")
    assert (done.exit_code, "NobodyToAsk" in done.output) == (2, True)
    assert office.refs() == before


def test_a_rejection_is_signed_and_ends_the_request(office: Office) -> None:
    name = office.ask()
    done = office.run("reject", name, "--reason", "Not before the freeze", "--yes", person="bob")
    assert done.exit_code == 0, done.output
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Rejected"
    late = _approve(office, name, "carol")
    assert late.exit_code == 4


def test_whoever_rejects_after_their_own_approval_is_told_of_nothing_missing(office: Office) -> None:
    name = office.ask()
    assert _approve(office, name, "bob").exit_code == 0
    done = office.run("reject", name, "--reason", "Not today after all", "--yes", person="bob")
    assert done.exit_code == 0, done.output
    assert "Still missing" not in done.output
    assert "the next pass of the reconciler acts on it" not in done.output.lower()
    assert "It is not carried out" in done.output
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Rejected"


@pytest.mark.parametrize("approved", [True, False])
def test_a_rejection_of_what_needs_two_tells_of_nothing_missing(office: Office, approved: bool) -> None:
    name = office.ask(action="drain")
    if approved:
        assert _approve(office, name, "bob").exit_code == 0
    done = office.run("reject", name, "--reason", "Not today after all", "--yes", person="bob")
    assert (done.exit_code, "Still missing" in done.output) == (0, False), done.output


def test_an_approval_is_void_after_the_request_was_edited(office: Office) -> None:
    name = office.ask(action="drain")
    assert _approve(office, name, "bob").exit_code == 0
    path = f"requests/{name[:4]}/{name[4:6]}/{name}/request.yaml"
    office.git("switch", "-q", f"request/{name}")
    file = office.state / path
    file.write_text(file.read_text().replace("OPS-1", "OPS-2"))
    office.git("commit", "-qam", "Edit")
    office.git("switch", "-q", "main")
    done = _approve(office, name, "carol")
    assert done.exit_code == 4, done.output  # alice's own signature does not fit any more either


def test_a_request_branch_that_changes_more_is_not_merged(office: Office) -> None:
    name = office.ask()
    office.git("switch", "-q", f"request/{name}")
    file = office.state / "policy.yaml"
    file.write_text(file.read_text() + "# smuggled\n")
    office.git("commit", "-qam", "Nothing to see")
    office.git("switch", "-q", "main")
    before = office.refs()
    done = _approve(office, name, "bob")
    assert (done.exit_code, "BranchTouchesMore" in done.output) == (4, True), done.output
    assert office.refs() == before


def test_an_expired_request_cannot_be_approved(office: Office) -> None:
    name = _ask_long_ago(office)
    done = _approve(office, name, "bob")
    assert (done.exit_code, "Expired" in done.output) == (4, True), done.output


def test_a_request_that_its_author_merged_is_approved_on_main(office: Office) -> None:
    name = office.ask()
    office.git("merge", "-q", "--no-ff", "-m", "Merge it myself", f"request/{name}")
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Proposed"
    done = _approve(office, name, "bob")
    assert done.exit_code == 0, done.output
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Approved"


def test_main_that_moves_while_an_approval_is_given_is_merged_with(office: Office) -> None:
    name = office.ask()
    repository = office.open()
    try:
        bob = office.identity(repository, "bob")
        seen = review(repository, bob, name, "approve", right_now())
        (office.state / "README.md").write_text("moved\n")
        office.git("commit", "-qam", "Somebody else")
        done = decide(repository, bob, seen, "approve", "", right_now())
    finally:
        repository.close()
    assert done.merged
    assert office.git("show", "main:README.md") == "moved\n"
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Approved"


def test_a_branch_that_moves_while_an_approval_is_given_is_not_overwritten(office: Office) -> None:
    name = office.ask()
    repository = office.open()
    try:
        bob, carol = office.identity(repository, "bob"), office.identity(repository, "carol")
        seen = review(repository, bob, name, "approve", right_now())
        tip = repository.refs[f"refs/heads/request/{name}"]
        other = commit_as(repository, carol, (tip,), {"x": b"x"}, "First\n", right_now())
        office.git("update-ref", f"refs/heads/request/{name}", other)
        with pytest.raises(RefMoved):
            decide(repository, bob, seen, "approve", "", right_now())
    finally:
        repository.close()
    assert office.git("rev-parse", f"request/{name}").strip() == other


def test_with_a_remote_everything_is_pushed_and_a_protected_main_gets_a_pull_request(
    office: Office, tmp_path: Path
) -> None:
    forge = tmp_path / "forge.git"
    office.git("clone", "-q", "--bare", str(office.state), str(forge))
    office.git("remote", "add", "origin", str(forge))
    name = office.ask()
    branch = f"refs/heads/request/{name}"
    assert branch in office.git("for-each-ref", at=forge)
    hook = forge / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo "main is protected" >&2; exit 1; }\n')
    hook.chmod(0o755)
    before = office.git("rev-parse", "main", at=forge)
    done = _approve(office, name, "bob")
    assert done.exit_code == 0, done.output
    assert f"open a pull request from request/{name}" in done.output
    assert office.git("rev-parse", "main", at=forge) == before
    assert f"{name}/approvals/bob.json" in office.git("ls-tree", "-r", "--name-only", branch, at=forge)
    hook.unlink()
    office.git("merge", "-q", "--no-ff", "-m", "At the forge", f"origin/request/{name}")
    office.git("push", "-q", "origin", "main")
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Approved"


def test_a_request_on_main_is_rejected_there(office: Office) -> None:
    name = office.ask()
    office.git("merge", "-q", "--no-ff", "-m", "Merge it myself", f"request/{name}")
    done = office.run("reject", name, "--reason", "No", "--yes", person="bob")
    assert done.exit_code == 0, done.output
    assert json.loads(office.run("show", name, "--json").output)["phase"] == "Rejected"
    assert f"{name}/approvals/bob.json" in office.git("ls-tree", "-r", "--name-only", "main")
