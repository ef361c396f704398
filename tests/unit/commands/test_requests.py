"""Asking: names, selectors, parameters, and what is refused before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from capsule.cli.asking import scalar
from capsule.commands.request import request_name
from capsule.documents.scalars import NAME
from tests.unit.commands.conftest import Office

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_request_is_signed_on_a_branch_of_its_own_and_shown_as_a_reviewer_sees_it(office: Office) -> None:
    main = office.git("rev-parse", "main")
    done = office.run("request", "reload", "openai-chat", "-p", "depth=2", "--reason", "OPS-1")
    assert done.exit_code == 0, done.output
    (name,) = office.requests()
    assert "1 of reviewers (bob, carol)" in done.output
    assert "reload where env=prod: 1 of reviewers (signature)" in done.output
    assert f"capsule approve {name}" in done.output
    text = office.git("show", f"request/{name}:requests/{name[:4]}/{name[4:6]}/{name}/request.yaml")
    assert "requestedBy: alice" in text
    assert "depth: 2" in text
    office.run("policy", "allowed-signers", "--install")
    assert office.git("log", "-1", "--format=%G? %GS", f"request/{name}") == "G alice\n"
    assert office.git("rev-parse", "main") == main


def test_a_selector_is_written_out_as_names(office: Office) -> None:
    done = office.run("request", "drain", "-l", "team=search", "--at-most", "2", "--reason", "OPS-1")
    assert done.exit_code == 0, done.output
    (name,) = office.requests()
    text = office.git("show", f"request/{name}:requests/{name[:4]}/{name[4:6]}/{name}/request.yaml")
    assert "  targets:\n    - mail-sender\n    - openai-chat\n" in text
    assert "selector" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-l", "team=search"), "AtMostMissing"),
        (("-l", "team=search", "--at-most", "1"), "TooManyTargets"),
        (("-l", "team=nobody", "--at-most", "1"), "NoTargets"),
        ((), "NoTargets"),
        (("openai-chat", "-l", "team=search", "--at-most", "9"), "NoTargets"),
        (("openai-chatt",), "UnknownService"),
    ],
)
def test_a_wish_that_names_nothing_real_is_wrong_usage(
    office: Office, arguments: tuple[str, ...], reason: str
) -> None:
    before = office.refs()
    done = office.run("request", "reload", *arguments, "--reason", "OPS-1")
    assert (done.exit_code, reason in done.output) == (2, True), done.output
    assert office.refs() == before


def test_a_misspelt_service_is_answered_with_the_nearest_one(office: Office) -> None:
    assert (
        "did you mean 'openai-chat'?"
        in office.run("request", "reload", "openai-chatt", "--reason", "x").output
    )


@pytest.mark.parametrize(
    ("person", "arguments"),
    [
        ("bob", ("reload", "openai-chat")),  # no operator
        ("mallory", ("reload", "openai-chat")),  # nobody
        ("alice", ("reload", "mail-sender")),  # no rule: env=test
        ("alice", ("wipe", "openai-chat")),  # no rule: no such action
    ],
)
def test_what_the_policy_can_never_allow_is_refused_before_a_branch_exists(
    office: Office, person: str, arguments: tuple[str, ...]
) -> None:
    before = office.refs()
    done = office.run("request", *arguments, "--reason", "OPS-1", person=person)
    assert done.exit_code == 4, done.output
    assert office.refs() == before


@pytest.mark.parametrize("reason", ["", "   ", "a\x1b[2Jb", "a\u202eb", "two\nlines", "x" * 501])
def test_a_reason_that_no_document_may_hold_is_wrong_usage(office: Office, reason: str) -> None:
    done = office.run("request", "reload", "openai-chat", "--reason", reason)
    assert done.exit_code == 2
    assert "\x1b" not in done.output


def test_a_request_without_approvals_says_that_it_runs_as_it_is(office: Office) -> None:
    done = office.run("request", "runHealthCheck", "openai-chat", "--reason", "OPS-1")
    assert "needs no approval" in done.output, done.output


def test_cancel_is_a_request_about_the_same_targets(office: Office) -> None:
    victim = office.ask()
    done = office.run("cancel", victim, "--reason", "not needed")
    assert done.exit_code == 0, done.output
    (name,) = office.requests() - {victim}
    text = office.git("show", f"request/{name}:requests/{name[:4]}/{name[4:6]}/{name}/request.yaml")
    assert "action: cancel" in text
    assert f"request: {victim}" in text
    assert office.run("cancel", "no-such", "--reason", "x").exit_code == 2


@pytest.mark.parametrize(
    ("action", "targets", "begins"),
    [
        ("rotateKey", ["openai-chat"], "20261123-rotate-key-openai-chat-"),
        ("runHealthCheck", ["a", "b"], "20261123-run-health-check-2-services-"),
        ("x" * 60, ["y" * 63], "20261123-" + "x" * 49),
    ],
)
def test_names_of_requests_are_dns_labels(action: str, targets: list[str], begins: str) -> None:
    import re

    name = request_name(action, targets, NOON)
    assert name.startswith(begins)
    assert re.match(NAME, name)
    assert name != request_name(action, targets, NOON)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("24h", "24h"), ("5", 5), ("-5", -5), ("0", 0), ("05", "05"), ("true", True), ("false", False),
        ("True", "True"), ('"5"', "5"), ("1.5", "1.5"), ("", ""), ("-", "-"), ("9" * 20, "9" * 20),
    ],
)  # fmt: skip
def test_parameters_are_text_unless_they_are_numbers_or_truth(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_request_that_would_never_be_begun_is_not_written(office: Office) -> None:
    before = office.refs()
    done = office.run("request", "reload", "openai-chat", "--reason", "x", "--expires", "0s")
    assert (done.exit_code, "later than now" in done.output) == (2, True), done.output
    assert office.refs() == before
