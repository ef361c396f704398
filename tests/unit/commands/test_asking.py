"""Requests with a purpose of their own: disable, enable, a leak, the rest of a request, abort."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click.testing
import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands.repository import Repository
from capsule.commands.request import find_request
from capsule.documents.codec import emit
from capsule.documents.paths import status_path
from capsule.documents.types import ActionRequest, Condition, Metadata, RequestSpec, ServiceStatus, StatusSpec
from capsule.reconciler.recording import folder_of, make_refusal
from capsule.store.api import Draft, Person, RefUpdate
from tests.unit.commands.conftest import Office, right_now
from tests.unit.commands.test_completion import offered


def only(office: Office) -> str:
    (name,) = office.requests()
    return name


def spec(office: Office, name: str) -> RequestSpec:
    repository = office.open()
    document = find_request(repository, name).document
    repository.close()
    assert isinstance(document, ActionRequest)
    return document.spec


def test_a_disable_says_what_approval_is_missing_and_what_is_faster(office: Office) -> None:
    done = office.run("disable", "openai-chat", "--reason", "Key in a public log")
    assert (done.exit_code, "NoRule" in done.output) == (4, True), done.output
    allow(office, "disable", "[{team: reviewers, count: 1}]")
    done = office.run("disable", "openai-chat", "--reason", "Key in a public log")
    assert done.exit_code == 0, done.output
    assert "Waits for approval: 1 of reviewers (bob, carol)" in done.output
    assert "capsule-agent disable --reason" in done.output
    assert dict(spec(office, only(office)).params) == {"reason": "Key in a public log"}


def test_a_disable_acts_on_all_services_at_once(office: Office) -> None:
    allow(office, "disable", "[]")
    done = office.run("disable", "-l", "team=search", "--at-most", "5", "--reason", "Leak")
    assert done.exit_code == 0, done.output
    assert "It needs no approval" in done.output
    asked = spec(office, only(office))
    assert asked.targets == ("mail-sender", "openai-chat")
    assert (asked.rollout.parallel, asked.rollout.on_failure) == (2, "continue")


def allow(office: Office, action: str, approvals: str) -> None:
    """The root's policy with one more rule: a state repository begun anew with it."""
    file = office.state / "policy.yaml"
    rule = f"    - match: {{action: {action}}}\n      mayRequest: [operators]\n      approvals: {approvals}\n"
    file.write_text(file.read_text().replace("  rules:\n", "  rules:\n" + rule, 1))
    office.git("checkout", "-q", "--orphan", "anew")
    office.git("commit", "-qS", "-am", "Begin")
    office.git("branch", "-M", "anew", "main")
    office.git("config", "capsule.root", office.git("rev-parse", "main").strip())


def test_an_enable_does_not_outdo_the_document(office: Office) -> None:
    allow(office, "enable", "[]")
    assert office.run("enable", "openai-chat", "--reason", "Rotated").exit_code == 0
    file = office.state / "services" / "openai-chat.yaml"
    file.write_text(file.read_text().replace("spec:\n", "spec:\n  enabled: false\n", 1))
    allow(office, "drain", "[]")
    done = office.run("enable", "openai-chat", "--reason", "Rotated")
    assert (done.exit_code, "DisabledBySpec" in done.output) == (4, True), done.output


def test_a_leaked_key_is_revoked_right_after_the_switch(office: Office) -> None:
    allow(office, "rotateKey", "[{team: reviewers, count: 1}]")
    asked = ("request", "rotateKey", "openai-chat", "--leaked", "--reason", "Key in a public log")
    done = office.run(*asked)
    assert done.exit_code == 0, done.output
    made = spec(office, only(office))
    assert dict(made.params) == {"grace": "0s"}
    assert made.reason == "LEAKED: Key in a public log"
    for more, said in ((("-p", "grace=24h"), "--leaked means a grace of 0s"), ((), "")):
        done = office.run(*asked, *more)
        assert (done.exit_code == 2) == bool(more), done.output
        assert said in done.output
    done = office.run("request", "reload", "openai-chat", "--leaked", "--reason", "Leak")
    assert (done.exit_code, "--leaked is about keys" in done.output) == (2, True)


def test_times_and_rollout_of_a_request(office: Office) -> None:
    name = office.ask("--not-before", "2h", "--pause", "10m", "--health-check", "--parallel", "2")
    made = spec(office, name)
    assert made.not_before is not None
    assert abs(made.not_before - right_now() - timedelta(hours=2)) < timedelta(minutes=5)
    assert (made.rollout.pause, made.rollout.health_check) == (timedelta(minutes=10), True)
    done = office.run(
        "request", "reload", "openai-chat", "--reason", "x", "--not-before", "2030-01-01T00:00:00Z"
    )
    assert (done.exit_code, "it would never begin" in done.output) == (2, True), done.output
    done = office.run("request", "reload", "openai-chat", "--reason", "x", "--not-before", "tomorrow")
    assert (done.exit_code, "a duration such as" in done.output) == (2, True), done.output


def test_cancel_and_abort_name_the_request_and_all_its_targets(office: Office) -> None:
    name = office.ask()
    allow_too = office.run("abort", name, "--reason", "Enough")
    assert (allow_too.exit_code, "NoRule" in allow_too.output) == (4, True)
    done = office.run("cancel", name, "--reason", "Wrong service")
    assert done.exit_code == 0, done.output
    (cancelling,) = office.requests() - {name}
    made = spec(office, cancelling)
    assert (made.action, dict(made.params), made.targets) == ("cancel", {"request": name}, ("openai-chat",))


def test_what_is_over_is_not_called_off(office: Office) -> None:
    name = office.ask()
    repository = office.open()
    refuse(repository, name)
    repository.close()
    done = office.run("cancel", name, "--reason", "Wrong service")
    assert (done.exit_code, f"{name} is over: Expired [AlreadyOver]" in done.output) == (2, True), done.output


def test_only_what_waits_for_a_person_is_acknowledged(office: Office) -> None:
    done = office.run("acknowledge", "openai-chat", "--condition", "KeyOverdue", "--reason", "Known")
    assert (done.exit_code, "UnknownCondition" in done.output) == (2, True), done.output


def test_an_acknowledgement_names_since_when_the_condition_that_was_seen_stands(office: Office) -> None:
    allow(office, "acknowledge", "[]")
    words = ("acknowledge", "openai-chat", "--condition", "CorrectionStopped", "--reason", "Known")
    nothing = office.run(*words)
    assert (nothing.exit_code, "NothingToAcknowledge" in nothing.output) == (2, True), nothing.output
    since = datetime(2026, 11, 23, 11, 30, 0, 7, tzinfo=UTC)
    repository = office.open()
    stands = {name: since + timedelta(minutes=at) for at, name in enumerate(("openai-chat", "mail-sender"))}
    statuses = {name: stopped(repository, name, at) for name, at in stands.items()}
    put_on_audit(repository, **statuses)
    repository.close()
    other = office.run(
        "acknowledge", "openai-chat", "--condition", "KeyChangedOutsideCapsule", "--reason", "Known"
    )
    assert (other.exit_code, "NothingToAcknowledge" in other.output) == (2, True), other.output
    several = office.run(words[0], "mail-sender", *words[1:])
    assert (several.exit_code, "SeenAtDifferentTimes" in several.output) == (2, True), several.output
    assert not office.requests()
    done = office.run(*words)
    assert done.exit_code == 0, done.output
    assert "since=2026-11-23T11:30:00.000007Z" in "".join(done.output.split())
    made = spec(office, only(office))
    told = {"condition": "CorrectionStopped", "since": "2026-11-23T11:30:00.000007Z"}
    assert (made.action, dict(made.params)) == ("acknowledge", told)


def stopped(repository: Repository, name: str, since: datetime) -> bytes:
    """The status of a service whose corrections are stopped."""
    condition = Condition(type="CorrectionStopped", reason="CorrectionStopped", message="x", since=since)
    return status_of(repository, name, conditions=(condition,))


def status_of(repository: Repository, name: str, **said: Any) -> bytes:
    spec = StatusSpec(
        observed_revision=repository.main,
        effective_status="HEALTHY",
        reason="HealthUp",
        since=right_now(),
        **said,
    )
    metadata = Metadata(name=name)
    return emit(ServiceStatus(api_version="capsule/v1", kind="ServiceStatus", metadata=metadata, spec=spec))


def test_an_action_that_the_agent_was_not_seen_to_offer_is_not_asked_for_by_mistake(office: Office) -> None:
    repository = office.open()
    offers = status_of(repository, "openai-chat", actions=("reloaded", "rotateKey"))
    put_on_audit(repository, **{"openai-chat": offers})
    repository.close()
    assert offered(office.state, "request", "re") == {"reloaded"}
    words = ("request", "reload", "openai-chat", "--reason", "OPS-1")
    refused = office.run(*words)
    assert (refused.exit_code, office.requests()) == (2, set()), refused.output
    assert "did you mean reloaded? [UnknownAction]" in " ".join(refused.output.split())
    done = office.run(*words, "--anyway")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "Warning: the agent of openai-chat offers reloaded, rotateKey" in said
    assert "Did you mean reloaded?" in said


def test_a_service_that_is_only_observed_is_told_and_nothing_is_said_to_hold(office: Office) -> None:
    file = office.state / "services" / "openai-chat.yaml"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "key:" not in line) + "\n")
    allow(office, "disable", "[]")
    refused = office.run("disable", "openai-chat", "--reason", "OPS-1")
    assert (refused.exit_code, "[ObserveOnly]" in refused.output, office.requests()) == (2, True, set())
    assert "capsule-agent keygen" in refused.output
    together = office.run("disable", "openai-chat", "mail-sender", "--reason", "OPS-1")
    assert together.exit_code == 0, together.output
    done = office.run("disable", "openai-chat", "--reason", "OPS-1", "--anyway")
    said = " ".join(done.output.split())
    assert "Warning: openai-chat has no agent key, so it is only observed" in said, said
    assert "It holds until" not in said


def test_who_may_ask_and_which_field_sets_a_limit_is_said(office: Office) -> None:
    done = office.run("request", "reload", "openai-chat", "--reason", "OPS-1", person="bob")
    said = " ".join(done.output.split())
    assert (done.exit_code, "Who may: operators (alice). All rules: capsule policy show" in said) == (
        4,
        True,
    ), said
    settings = office.state / "capsule.yaml"
    settings.write_text(settings.read_text().replace("maxShare: 100", "maxShare: 50"))
    allow(office, "reload", "[]")
    done = office.run("request", "reload", "openai-chat", "mail-sender", "--reason", "OPS-1")
    said = " ".join(done.output.split())
    assert "[TooManyTargets]" in said
    assert "capsule.yaml sets spec.limits (maxTargets 20, maxShare 50)" in said, said


def test_a_freeze_is_told_to_whoever_asks_and_to_whoever_looks(office: Office) -> None:
    policy = office.state / "policy.yaml"
    until = right_now() + timedelta(days=2)
    begun = right_now() - timedelta(days=1)
    policy.write_text(
        policy.read_text().replace("serial: 1", "serial: 2")
        + f'  freezes: [{{from: "{begun:%Y-%m-%dT%H:%M}", to: "{until:%Y-%m-%dT%H:%M}", timezone: UTC, '
        'reason: "Year-end freeze"}]\n'
    )
    office.git("commit", "-qam", "Freeze")
    allow(office, "reload", "[]")
    done = office.run("request", "reload", "openai-chat", "--reason", "OPS-1")
    frozen = f"frozen until {until:%Y-%m-%d %H:%M} UTC: Year-end freeze"
    assert f"it is held: openai-chat is {frozen}" in " ".join(done.output.split()), done.output
    assert f"everything is {frozen} [Frozen]" in office.run("services").output
    page = " ".join(office.run().output.split())
    assert f"everything is {frozen} [Frozen]" in page
    assert "1 request is held" in page


# ---- the rest of a request ----------------------------------------------------------------------


def refuse(repository: Repository, name: str) -> None:
    """Put on audit that the request expired."""
    judged = find_request(repository, name)
    refusal = make_refusal(judged, "Expired", "Expired", "expired", repository.main, right_now())
    record(repository, {folder_of(judged).refusal: emit(refusal)})


def put_on_audit(repository: Repository, **statuses: bytes) -> None:
    """The statuses of services by name, as audit records them."""
    where = {name: status_path(each.path) for name, each in repository.state.services.items()}
    record(repository, {where[name]: data for name, data in statuses.items()})


def record(repository: Repository, edits: dict[str, bytes | None]) -> None:
    commit = repository.store.write(
        Draft(
            base=repository.main,
            edits=edits,
            parents=[repository.main],
            message="Record\n",
            author=Person("reconciler-1", "reconciler-1@reconciler.invalid"),
            at=right_now(),
        )
    )
    repository.store.publish([RefUpdate("refs/heads/audit", None, commit)])


def test_the_rest_of_a_request_is_asked_for_anew(office: Office) -> None:
    name = office.ask("-p", "depth=2", "--parallel", "3")
    early = office.run("request", "--continue", name)
    assert (early.exit_code, "StillOpen" in early.output) == (2, True), early.output
    repository = office.open()
    refuse(repository, name)
    repository.close()
    done = office.run("request", "--continue", name, "--reason", "Reviewer was away")
    assert done.exit_code == 0, done.output
    (again,) = office.requests() - {name}
    made = spec(office, again)
    assert (made.action, made.targets, dict(made.params)) == ("reload", ("openai-chat",), {"depth": 2})
    assert made.rollout.parallel == 3
    assert made.reason == f"continues {name}: Reviewer was away"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--continue", "x", "reload"), "leave out action"),
        (("--continue", "x", "--parallel", "2", "-p", "a=1"), "leave out parallel, params"),
        (("reload", "openai-chat"), "--reason"),
        (("--reason", "x"), "ACTION"),
        (("--continue", "nothing-there"), "UnknownRequest"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    office: Office, arguments: tuple[str, ...], said: str
) -> None:
    done = office.run("request", *arguments)
    assert (done.exit_code, said in done.output) == (2, True), done.output


@pytest.mark.parametrize(
    ("param", "said"),
    [
        ("grce=24h", "rotateKey takes grace, not grce; did you mean grace?"),
        ("grace=soon", "grace=soon is no duration, such as 24h, 90m or 0s"),
        ("grace=5", "grace=5 is no duration"),
    ],
)
def test_a_parameter_that_no_agent_takes_is_told_before_anything_is_signed(
    office: Office, param: str, said: str
) -> None:
    allow(office, "rotateKey", "[]")
    done = office.run("request", "rotateKey", "openai-chat", "-p", param, "--reason", "Quarterly")
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
    assert not office.requests()
    assert office.ask("-p", param, "--anyway", action="rotateKey")
    assert office.ask("-p", "grace=90m", action="rotateKey")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_at_a_terminal_is_asked_about_what_would_be_refused(
    office: Office, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(office, "rotateKey", "[]")
    office.sit_down("alice")
    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda _: True)
    words = [
        "-C",
        str(office.state),
        "request",
        "rotateKey",
        "openai-chat",
        "-p",
        "grce=1h",
        "--reason",
        "OPS-1",
    ]
    done = CliRunner().invoke(app, words, input=f"{answer}\n")
    assert "did you mean grace?" in " ".join(done.output.split())
    assert (done.exit_code, len(office.requests())) == ((0, 1) if answer == "y" else (1, 0)), done.output
