"""`capsule policy show|diff|explain`: words that follow from what trust judges; and breaking the glass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.trust.policy_checks import load_policy
from tests.unit.commands.conftest import Office


def proposed(office: Office, *edits: tuple[str, str], branch: str = "stricter") -> str:
    """A branch with an edited policy."""
    office.git("switch", "-q", "-c", branch, "main")
    file = office.state / "policy.yaml"
    text = file.read_text()
    for old, new in edits:
        assert old in text, (old, text)
        text = text.replace(old, new, 1)
    file.write_text(text)
    office.git("commit", "-q", "-a", "-m", "Change the policy")
    office.git("switch", "-q", "main")
    return branch


def into_force(office: Office, *edits: tuple[str, str]) -> None:
    """The same edits, brought into force by its owners."""
    branch = proposed(office, *edits, branch="in-force")
    done = office.run("propose", branch, "--yes", person="alice")
    assert done.exit_code == 0, done.output
    done = office.run("approve", branch, "--yes", person="bob")
    assert done.exit_code == 0, done.output
    assert "in force" in done.output


def told(office: Office, *arguments: str) -> Any:
    done = office.run(*arguments, "--json")
    return json.loads(done.output)


def test_show_tells_everything_in_words(office: Office) -> None:
    done = office.run("policy", "show")
    assert done.exit_code == 0, done.output
    for shown in ("alice", "machine", "SHA256:", "1. ", "approved by 1 of reviewers (signature)"):
        assert shown in done.output
    found = told(office, "policy", "show")
    assert [rule["number"] for rule in found["rules"]] == list(range(1, len(found["rules"]) + 1))
    assert all(key["speaks"] for each in found["principals"] for key in each["keys"])


def test_diff_of_what_is_in_force_says_so(office: Office) -> None:
    done = office.run("policy", "diff", "main")
    assert (done.exit_code, done.output) == (0, "It is the policy in force.\n")


@pytest.mark.parametrize(("revision", "reason"), [("nowhere", "BadRevision"), ("--help-me", "BadRevision")])
def test_diff_of_nothing_is_explained(office: Office, revision: str, reason: str) -> None:
    done = office.run("policy", "diff", "--", revision)
    assert done.exit_code == 2
    assert reason in done.output


def test_explain_of_nothing_is_explained(office: Office) -> None:
    done = office.run("policy", "explain", "nothing")
    assert done.exit_code == 2
    assert "UnknownRequest" in done.output


def test_explain_names_the_rule_and_who_may_still_approve(office: Office) -> None:
    name = office.ask()
    done = office.run("policy", "explain", name)
    assert done.exit_code == 0, done.output
    for shown in ("Proposed", "openai-chat: rule ", "may still approve: ", "bob", f"capsule approve {name}"):
        assert shown in done.output
    found = told(office, "policy", "explain", name)
    assert found["missing"][0]["count"] == 1
    assert office.run("approve", name, "--yes", person="bob").exit_code == 0
    found = told(office, "policy", "explain", name)
    assert (found["phase"], found["missing"], found["approvals"][0]["counts"]) == ("Approved", [], True)


RISEN = ("serial: 1", "serial: 2")
LAXER = (
    "mayRequest: [operators]\n      approvals: [{team: reviewers, count: 2}]",
    "mayRequest: [operators]\n      approvals: []",
)
GLASS = (
    "    - match: {action: reload, selector: {env: prod}}\n",
    "    - match: {action: acknowledge}\n      mayRequest: [operators, reviewers]\n      approvals: []\n"
    "    - match: {action: reload, selector: {env: prod}}\n      breakGlass: {team: operators}\n",
)


def weaker(found: Any) -> list[str]:
    return [each["text"] for each in found["differences"] if each["weaker"]]


def test_diff_marks_what_becomes_weaker(office: Office) -> None:
    branch = proposed(office, RISEN, LAXER)
    done = office.run("policy", "diff", branch)
    assert done.exit_code == 0, done.output
    assert "WEAKER: drain on openai-chat" in done.output
    assert "Must approve it: 1 of owners (alice, bob)" in done.output
    found = told(office, "policy", "diff", branch)
    assert (found["weakens"], found["mayAsk"], found["serialAfter"]) == (True, ["alice", "bob"], 2)
    assert len(weaker(found)) == 1
    assert "approved by 2 of reviewers" in weaker(found)[0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("reviewers: [bob, carol]", "reviewers: [bob, carol, alice]"), "team reviewers gains alice"),
        (("count: 2", "count: 2}, {team: owners, count: 1"), ""),
        (("alice, bob]", "alice, bob, carol]"), "team owners gains carol"),
        (GLASS, "reload on openai-chat"),
        (
            ("approvals: [{team: reviewers, count: 2}]",
             "approvals: [{team: reviewers, count: 2}]\n      evidence: forge"),
            "drain on openai-chat",
        ),
        (("    - match: {action: cancel}", '    - match: {action: "*"}'), "any other action on openai-chat"),
        (("mayRequest: [operators]\n      approvals: []\n    - match: {action: reload",
          "mayRequest: [operators, reviewers]\n      approvals: []\n    - match: {action: reload"),
         "runHealthCheck on openai-chat"),
    ],
)  # fmt: skip
def test_diff_sees_each_way_of_weakening(office: Office, edit: tuple[str, str], said: str) -> None:
    found = told(office, "policy", "diff", proposed(office, RISEN, edit))
    assert found["weakens"] is bool(said)
    assert any(said in text for text in weaker(found)) is bool(said)


DRAIN = "action: drain, selector: {team: search}}\n      mayRequest: [operators"


@pytest.mark.parametrize(
    "say",
    [
        (DRAIN, f"{DRAIN}, night"),
        (f"{DRAIN}]\n      approvals: [{{team: reviewers, count: 2}}]",
         f"{DRAIN}]\n      approvals: [{{team: reviewers, count: 2}}]\n      breakGlass: {{team: night}}\n"
         "    - match: {action: acknowledge}\n      mayRequest: [reviewers]\n      approvals: []"),
    ],
)  # fmt: skip
def test_the_first_member_of_a_team_with_a_say_is_marked(office: Office, say: tuple[str, str]) -> None:
    """Nobody could do it as one of that team until then; no rule reads otherwise."""
    into_force(office, RISEN, say, ("reviewers: [bob, carol]", "reviewers: [bob, carol]\n    night: []"))
    branch = proposed(office, ("serial: 2", "serial: 3"), ("night: []", "night: [bob]"))
    assert weaker(told(office, "policy", "diff", branch)) == ["team night gains bob"]


def test_the_first_member_of_a_team_without_a_say_takes_nothing_away(office: Office) -> None:
    named = ("reviewers: [bob, carol]", "reviewers: [bob, carol]\n    night: [bob]")
    found = told(office, "policy", "diff", proposed(office, RISEN, named))
    assert ("team night gains bob", False) in [
        (each["text"], each["weaker"]) for each in found["differences"]
    ]


def test_diff_tells_of_people_keys_and_freezes(office: Office) -> None:
    text = (office.state / "policy.yaml").read_text()
    key = text.partition("carol: {email: carol@example.com, keys: [")[2].partition("]")[0]
    freeze = (
        'freezes: [{selector: {env: prod}, from: "2026-12-20T00:00", to: "2027-01-02T00:00", '
        "timezone: Europe/Berlin, reason: Holidays}]\n  rules:"
    )
    edits = (
        RISEN,
        (key, f'{{key: {key}, validBefore: "2020-01-01T00:00:00Z"}}'),
        ("rules:", freeze),
        ("operators: [alice]", "operators: [alice, carol]"),
    )
    branch = proposed(office, *edits)
    found = told(office, "policy", "diff", branch)
    texts = " ".join(each["text"] for each in found["differences"])
    assert "another time for carol" in texts
    assert "until before 2020-01-01" in texts
    assert "freeze begins: nothing begins on env=prod" in texts
    assert found["findings"] == ["carol has no key that counts now"]
    done = office.run("policy", "diff", branch)
    assert done.exit_code == 1


def test_diff_tells_what_is_wrong_with_it(office: Office) -> None:
    found = told(office, "policy", "diff", proposed(office, ("count: 2", "count: 3")))
    assert len(found["findings"]) == 2
    assert "serial is 1" in found["findings"][0]
    assert "can be met by nobody" in found["findings"][1]
    broken = proposed(office, ("reviewers: [bob, carol]", "reviewers: [bob, nobody]"), branch="broken")
    done = office.run("policy", "diff", broken)
    assert (done.exit_code, "InvalidPolicy" in done.output) == (2, True)


def test_breaking_the_glass_from_the_command_line(office: Office) -> None:
    into_force(office, RISEN, GLASS)
    before = office.requests()
    done = office.run("request", "reload", "openai-chat", "--break-glass", "--reason", "Key in a public log")
    assert done.exit_code == 0, done.output
    assert "BREAK-GLASS" in done.output
    (name,) = office.requests() - before
    assert "BREAK-GLASS" in office.run("policy", "explain", name).output
    assert "BREAK-GLASS" in office.run("show", name).output
    seen = told(office, "show", name)
    assert (seen["phase"], seen["evidence"], seen["approvals"][0]["decision"]) == (
        "Approved",
        "break-glass",
        "break-glass",
    )
    assert office.run("check", f"request/{name}").exit_code == 0
    early = office.run("acknowledge", "--request", name, "--reason", "Looked into it", person="bob")
    assert (early.exit_code, "NothingToAcknowledge" in early.output) == (2, True)


@pytest.mark.parametrize(
    ("reason", "person", "said"),
    [("Short", "alice", "BreakGlassUnreasoned"), ("Key in a public log", "bob", "NotEntitled")],
)
def test_who_cannot_break_the_glass_writes_nothing(
    office: Office, reason: str, person: str, said: str
) -> None:
    into_force(office, RISEN, GLASS)
    before = office.refs()
    done = office.run("request", "reload", "openai-chat", "--break-glass", "--reason", reason, person=person)
    assert (done.exit_code, said in done.output) == (4, True)
    assert office.refs() == before


@pytest.mark.parametrize("more", [(), ("openai-chat",), ("openai-chat", "--request", "r1")])
def test_acknowledge_is_of_one_thing(office: Office, more: tuple[str, ...]) -> None:
    done = office.run("acknowledge", *more, "--reason", "Looked into it")
    assert done.exit_code == 2


def test_a_key_that_ended_signs_nothing(office: Office) -> None:
    key = (
        (office.state / "policy.yaml")
        .read_text()
        .partition("carol@example.com, keys: [")[2]
        .partition("]")[0]
    )
    into_force(office, RISEN, (key, f'{{key: {key}, validBefore: "2020-01-01T00:00:00Z"}}'))
    name = office.ask()
    done = office.run("approve", name, "--yes", person="carol")
    assert (done.exit_code, "KeyNotValid" in done.output) == (4, True)
    shown = office.run("policy", "show")
    assert "does not count now" in shown.output


# ---- somebody joins ----


def _template_for(office: Office, tmp_path: Path) -> Path:
    state = tmp_path / "fresh"
    office.sit_down("alice")
    made = CliRunner().invoke(app, ["init", str(state), "--principal", "alice"])
    assert made.exit_code == 0, made.output
    return state


def test_a_first_reviewer_joins_and_their_approval_is_asked_for(office: Office, tmp_path: Path) -> None:
    state = _template_for(office, tmp_path)
    before = (state / "policy.yaml").read_text()
    key = f"{office.key('bob')}.pub"
    done = office.run("policy", "add", "bob", "--key", key, "--email", "bob@example.com", at=state)
    assert done.exit_code == 0, done.output
    assert "every other action needs 1 of reviewers" in done.output
    assert "one person alone may still change documents" in " ".join(done.output.split())
    text = (state / "policy.yaml").read_text()
    policy = load_policy(text.encode(), "policy.yaml").spec
    assert (policy.serial, policy.teams["reviewers"]) == (2, ("bob",))
    (rule,) = [rule for rule in policy.rules if rule.match.action == "*"]
    assert [(each.team, each.count) for each in rule.approvals] == [("reviewers", 1)]
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in comments if line not in text.splitlines()] == [
        "    # bob:",
        "    #   email: bob@example.com",
        "    #   keys:",
        '    #     - "ssh-ed25519 AAAA…"',
        "    # reviewers: [bob]               # their approvals count",
        next(line for line in comments if "Uncomment it together" in line),
        next(line for line in comments if line.startswith("    # above. `evidence")),
        '    # - match: {action: "*"}',
        "    #   mayRequest: [operators]",
        "    #   approvals: [{team: reviewers, count: 1}]",
    ]
    assert "    # Everything that changes a running service needs a reviewer.\n    # `evidence:" in text
    again = office.run("policy", "add", "carol", "--key", key, at=state)
    assert (again.exit_code, "as bob's [BadKey] A key is one person's" in " ".join(again.output.split())) == (
        2,
        True,
    ), again.output
    assert (state / "policy.yaml").read_text() == text
    office.git("commit", "-qam", "Add bob", at=state)
    office.git("switch", "-qc", "add-bob", at=state)
    office.git("branch", "-f", "main", "main~1", at=state)
    assert office.run("propose", "--yes", at=state).exit_code == 0
    noted = office.run("doctor", at=state).output
    assert "[OnePersonChanges]" in noted


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("Bad_Name", "bob.pub", "is not a valid name"),
        ("alice", "bob.pub", "lists alice already"),
        ("dora", "bob", "is a private key"),
        ("dora", "missing", "No such file"),
        ("dora", "rsa.pub", "Only ssh-ed25519 keys work"),
    ],
)
def test_who_cannot_be_added(office: Office, tmp_path: Path, name: str, file: str, said: str) -> None:
    place = office.key("bob").parent
    (place / "rsa.pub").write_text("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ rsa\n")
    before = (office.state / "policy.yaml").read_bytes()
    done = office.run("policy", "add", name, "--key", str(place / file))
    assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
    assert (office.state / "policy.yaml").read_bytes() == before
