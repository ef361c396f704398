"""`capsule request --push` and `capsule approval`: what the forge is told, and what a branch still needs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands import approval as approval_command
from capsule.commands import pull_request
from capsule.commands.approval_posts import comment_text
from capsule.commands.errors import SetUpProblem, WrongUsage
from capsule.commands.init import init
from capsule.commands.pull_request import escaped
from capsule.forge.api import (
    MOST_COMMENT,
    EvidenceUnavailable,
    Forge,
    PullHead,
    RawPull,
    RawReview,
    RawWriter,
)
from capsule.testing.memory_forge import MemoryForge
from tests.e2e.installation import POLICY, SERVICE
from tests.forge_servers import TOKEN, Answer, Pull, Review, Site, serve
from tests.unit.commands.conftest import AGENT_KEY, Office, right_now

SETTINGS = """\
apiVersion: capsule/v1
kind: Capsule
metadata: {name: office}
spec:
  limits: {maxShare: 100}
  forge: {kind: github, server: "SERVER", repository: acme/state}
"""
ALICE, BOB = 11, 583231
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


MADE: dict[str, Path] = {}
"""State repositories at a forge that were made already, by the evidence that they want."""


def forged(office: Office, evidence: str = "forge", server: str = "") -> Office:
    """The office with a state repository at a forge, where approvals of `reload` need `evidence`."""
    here = replace(office, state=office.folder / "forged")
    if server or evidence not in MADE:
        _make(here, evidence, server or "https://forge.example")
        if not server:
            MADE[evidence] = office.shelf / evidence
            for name in ("forged", "remote.git"):
                shutil.copytree(office.folder / name, MADE[evidence] / name, symlinks=True)
        return here
    for name in ("forged", "remote.git"):
        shutil.copytree(MADE[evidence] / name, office.folder / name, symlinks=True)
    here.git("remote", "set-url", "origin", str(office.folder / "remote.git"))
    return here


def _make(office: Office, evidence: str, server: str) -> None:
    keys = {name: office.key(name).with_suffix(".pub").read_text().strip() for name in ("bob", "carol")}
    service = SERVICE.replace("ENDPOINT", "http://127.0.0.1:9").replace("KEY", AGENT_KEY)
    policy = POLICY.replace("BOB", keys["bob"]).replace("CAROL", keys["carol"])
    policy = policy.replace("    bob: {", f"    bob: {{forge: {{github: {BOB}}}, ")
    line = "      approvals: [{team: reviewers, count: 1}]\n"
    if evidence == "changes":  # reviews of changes of services: alice opens pull requests
        policy = policy.replace("    alice: {", f"    alice: {{forge: {{github: {ALICE}}}, ")
        policy = re.sub(r"(match: \{change: service[^\n]*\n)", r"\1      evidence: forge\n", policy)
    else:
        policy = policy.replace(line, f"{line}      evidence: {evidence}\n", 1)
    remote = office.folder / "remote.git"
    office.sit_down("alice")
    init(
        office.state,
        right_now(),
        files={
            "policy.yaml": policy.encode(),
            "capsule.yaml": SETTINGS.replace("SERVER", server).encode(),
            "services/openai-chat.yaml": service.encode(),
        },
    )
    for name in ("user.signingkey", "user.name", "user.email"):
        office.git("config", "--unset", name)
    office.git("init", "-q", "--bare", "-b", "main", str(remote))
    office.git("remote", "add", "origin", str(remote))
    office.git("push", "-q", "origin", "main")


def token_file(office: Office, address: str) -> Path:
    file = office.folder / "token"
    file.write_text(f"{TOKEN} {address}\n")
    file.chmod(0o600)
    return file


def branch_of(office: Office, name: str) -> str:
    return office.git("rev-parse", f"refs/remotes/origin/request/{name}").strip()


def reviewed(office: Office, name: str, user: int = BOB, state: str = "approved") -> MemoryForge:
    """A forge at which `user` reviewed the open pull request 7 of a request."""
    head = branch_of(office, name)
    forge = MemoryForge()
    word = "approved" if state == "approved" else "changes_requested"
    forge.merge(head, RawPull(7, None, head, 11, (RawReview(1, user, "bob", word, head, AT, False),)), {})
    return forge


def verdicts(office: Office, target: str, forge: Forge | None = None) -> tuple[approval_command.Verdict, ...]:
    repository = office.open()
    try:
        connect = (lambda _settings: forge) if forge else None
        return approval_command.approval(
            repository, target, right_now(), pull=7 if forge else None, connect=connect
        )
    finally:
        repository.close()


# ---- request --push -----------------------------------------------------------------------------


def test_a_pull_request_is_opened_with_the_plan_as_a_table_and_its_reviewers(office: Office) -> None:
    site = Site()
    site.account(1, "robot")
    site.account(BOB, "bob")
    with serve("github", site) as server:
        here = forged(office, server=server)
        done = here.run(
            "request",
            "reload",
            "openai-chat",
            "--reason",
            "Quarterly | @everyone <b>",
            "--push",
            "--forge-token-file",
            str(token_file(office, server)),
        )
    assert done.exit_code == 0, done.output
    (pull,) = site.pulls.values()
    assert f"{server}/acme/state/pull/{pull.number}" in done.output
    assert pull.title == "reload on openai-chat"
    assert pull.reviewers == [BOB]
    assert "| service | what happens | labels | pins |" in pull.body
    assert "| openai-chat | reload |" in pull.body
    assert "Quarterly &#124; &#64;&#8288;everyone &#60;b&#62;" in pull.body
    assert TOKEN not in done.output


def test_without_a_token_the_page_to_open_it_is_printed(office: Office) -> None:
    here = forged(office)
    done = here.run("request", "reload", "openai-chat", "--reason", "OPS-1", "--push")
    assert done.exit_code == 0, done.output
    (name,) = here.requests()
    assert f"https://forge.example/acme/state/compare/main...request/{name}?expand=1" in done.output.replace(
        "\n", ""
    )


def test_without_a_forge_in_the_settings_nothing_is_written(office: Office) -> None:
    done = office.run("request", "reload", "openai-chat", "--reason", "OPS-1", "--push")
    assert done.exit_code == 3
    assert "NoForge" in done.output
    assert office.requests() == set()


def test_a_forge_that_is_away_leaves_the_request_and_says_where_to_go_on(office: Office) -> None:
    here = forged(office)
    name = here.ask()
    forge = MemoryForge()
    forge.fail(EvidenceUnavailable("ForgeUnreachable", "did not answer"))
    repository = here.open()
    judged = repository.requests(repository.state)[name]
    with pytest.raises(SetUpProblem) as caught:
        pull_request.push(repository, judged, lambda _settings: forge)
    repository.close()
    assert caught.value.reason == "ForgeUnreachable"
    assert f"compare/main...request/{name}" in caught.value.hint


def test_people_without_an_account_are_named_as_not_asked(office: Office) -> None:
    here = forged(office)
    name = here.ask()
    forge = MemoryForge()
    forge.cannot_be_asked.add(BOB)
    repository = here.open()
    judged = repository.requests(repository.state)[name]
    done = pull_request.push(repository, judged, lambda _settings: forge)
    repository.close()
    assert "bob" in done.unasked
    assert done.opened


@pytest.mark.parametrize(
    "text", ["a|b", "`x`", "[a](b)", "<img src=x>", "@team", "#12", "https://x", "a\nb\x1b[2J"]
)
def test_no_text_becomes_markup(text: str) -> None:
    cell = escaped(text)
    assert not set("|`[]<>@\n\x1b") & set(cell)
    assert "://" not in cell
    assert not re.search(r"(?<!&)#\d", cell)


# ---- approval -----------------------------------------------------------------------------------


def test_a_request_without_approvals_is_red_and_says_who_may(office: Office) -> None:
    here = forged(office, "signature")
    name = here.ask()
    done = here.run("approval", f"main..request/{name}")
    assert done.exit_code == 1
    assert name in done.output
    assert "1 more of reviewers" in done.output


def test_a_signed_approval_turns_it_green(office: Office) -> None:
    here = forged(office, "signature")
    name = here.ask()
    before = here.git("rev-parse", "main").strip()
    assert here.run("approve", name, "--yes", person="bob").exit_code == 0
    merged = here.git("rev-parse", "origin/main").strip()
    done = here.run("approval", f"{before}..{merged}", "--format", "markdown")
    assert done.exit_code == 0, done.output
    assert "| approved |" in done.output


def test_a_review_at_the_forge_turns_it_green_where_the_rule_takes_one(office: Office) -> None:
    here = forged(office)
    name = here.ask()
    range_ = f"main..request/{name}"
    assert [each.satisfied for each in verdicts(here, range_)] == [False]
    assert [each.satisfied for each in verdicts(here, range_, reviewed(here, name))] == [True]
    assert [each.satisfied for each in verdicts(here, range_, reviewed(here, name, 99))] == [False]
    assert [each.satisfied for each in verdicts(here, range_, reviewed(here, name, state="no"))] == [False]


def test_a_review_is_not_enough_where_the_rule_wants_signatures(office: Office) -> None:
    here = forged(office, "signature")
    name = here.ask()
    (verdict,) = verdicts(here, f"main..request/{name}", reviewed(here, name))
    assert not verdict.satisfied


def test_where_a_merge_is_evidence_it_is_said_who_may_merge(office: Office) -> None:
    here = forged(office, "merge")
    name = here.ask()
    (verdict,) = verdicts(here, f"main..request/{name}")
    assert verdict.satisfied
    assert "bob" in verdict.mergers
    assert "alice" not in verdict.mergers


def test_reviews_of_another_head_are_not_mixed_in(office: Office) -> None:
    here = forged(office)
    name = here.ask()
    forge = reviewed(here, name)
    with pytest.raises(WrongUsage, match="HEAD is"):
        verdicts(here, "main..main", forge)


def test_a_range_that_asks_for_nothing_is_green(office: Office) -> None:
    here = forged(office)
    done = here.run("approval", "main..main")
    assert done.exit_code == 0
    assert "Nothing here needs approval" in done.output


def test_a_change_of_a_service_is_judged_too(office: Office) -> None:
    here = forged(office)
    here.git("switch", "-q", "-c", "change")
    file = here.state / "services" / "openai-chat.yaml"
    file.write_text(file.read_text().replace("1.8.2", "1.9.0"))
    here.git("commit", "-qam", "Pin 1.9.0")
    done = here.run("approval", "main..change")
    assert done.exit_code == 1, done.output
    assert "services/openai-chat.yaml" in done.output
    value = here.run("approval", "main..change", "--json")
    (verdict,) = json.loads(value.stdout)
    assert (value.exit_code, verdict["satisfied"]) == (1, False)
    assert "services/openai-chat.yaml" in verdict["subject"]
    assert verdict["why"]


def test_a_review_of_a_change_turns_it_green_where_its_rule_takes_one(office: Office) -> None:
    here = forged(office, "changes")
    here.git("switch", "-q", "-c", "change")
    file = here.state / "services" / "openai-chat.yaml"
    file.write_text(file.read_text().replace("1.8.2", "1.9.0"))
    here.git("commit", "-qam", "Pin 1.9.0")
    head = here.git("rev-parse", "change").strip()
    for user, green in ((BOB, True), (99, False)):
        forge = MemoryForge()
        review = RawReview(1, user, "bob", "approved", head, AT, False)
        forge.merge(head, RawPull(7, None, head, ALICE, (review,)), {})
        assert [each.satisfied for each in verdicts(here, "main..change", forge)] == [green]
    assert [each.satisfied for each in verdicts(here, "main..change")] == [False]


def test_whoever_wrote_a_commit_of_the_branch_does_not_turn_their_own_change_green(office: Office) -> None:
    here = forged(office, "changes")
    here.git("switch", "-q", "-c", "change")
    file = here.state / "services" / "openai-chat.yaml"
    file.write_text(file.read_text().replace("1.8.2", "1.9.0"))
    here.git("commit", "-qam", "Pin 1.9.0")
    head = here.git("rev-parse", "change").strip()
    for writer, green in ((ALICE, True), (BOB, False)):
        forge = MemoryForge()
        forge.merge(
            head, RawPull(7, None, head, ALICE, (RawReview(1, BOB, "bob", "approved", head, AT, False),)), {}
        )
        forge.written[7] = [RawWriter(writer, "somebody@example.com")]
        assert [each.satisfied for each in verdicts(here, "main..change", forge)] == [green]


@pytest.mark.parametrize("target", ["main", "main..nowhere", "-x..HEAD", "main..--all"])
def test_what_is_no_range_is_refused(office: Office, target: str) -> None:
    done = office.run("approval", "--", target)
    assert done.exit_code == 2, done.output


def test_nothing_is_left_behind(office: Office) -> None:
    here = forged(office)
    name = here.ask()
    refs = here.refs()
    here.run("approval", f"main..request/{name}")
    assert here.refs() == refs


def test_pull_needs_a_token(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPSULE_FORGE_TOKEN_FILE", raising=False)
    done = CliRunner().invoke(app, ["-C", str(office.state), "approval", "main..main", "--pull", "7"])
    assert done.exit_code == 2
    assert "ForgeTokenMissing" in done.output


# ---- approval --pull, --open, --post -------------------------------------------------------------


def asked_at_forge(office: Office, site: Site, server: str) -> tuple[Office, str, Pull]:
    """A state repository at `server`, with a request of alice as the open pull request 7."""
    here = forged(office, server=server)
    name = here.ask()
    head = branch_of(here, name)
    here.git("update-ref", "refs/pull/7/head", head, at=office.folder / "remote.git")
    return here, name, site.add(Pull(7, site.account(11, "alice"), head))


def test_the_verdict_is_posted_and_a_review_turns_it_green_in_place(office: Office) -> None:
    site = Site()
    with serve("github", site) as server:
        here, name, pull = asked_at_forge(office, site, server)
        before = here.refs()
        options = ("--pull", "7", "--post", "--forge-token-file", str(token_file(office, server)))
        done = here.run("approval", *options, "--format", "markdown")
        assert done.exit_code == 0, done.output
        pull.reviews.append(Review(900, site.account(BOB, "bob"), "approved", pull.head, AT))
        again = here.run("approval", "--open", *options[2:])
        assert again.exit_code == 0, again.output
        alone = here.run("approval", "--pull", "7", *options[3:])
        assert (alone.exit_code, "approved" in alone.output) == (0, True)
        values = json.loads(here.run("approval", "--open", *options[3:], "--json").stdout)
    assert [(each["number"], each["satisfied"], each["problem"]) for each in values] == [(7, True, None)]
    assert [each["satisfied"] for each in values[0]["verdicts"]] == [True]
    states = [(commit, body["state"], body["description"]) for commit, body in site.statuses]
    assert states == [
        (pull.head, "failure", "0 of 1 approved"),
        (pull.head, "success", "1 of 1 approved"),
    ]
    (comment,) = pull.comments
    assert "nothing is missing" in comment.body
    assert f"| {name} | approved |" in comment.body
    assert "## Pull request 7" in done.output
    assert "waits for 1 more of reviewers" in done.output
    assert here.refs() == before
    assert TOKEN not in done.output + again.output


def test_a_comment_that_cannot_be_written_changes_no_verdict_and_is_told(office: Office) -> None:
    site = Site()
    with serve("github", site) as server:
        here, _, pull = asked_at_forge(office, site, server)
        site.fault = lambda method, path: Answer(403) if method == "POST" and "comments" in path else None
        options = ("--pull", "7", "--post", "--forge-token-file", str(token_file(office, server)))
        done = here.run("approval", *options)
        assert done.exit_code == 0, done.output
        assert "The comment on 7 was not written: ForgeNotAllowed" in done.output.replace("\n", " ")
        assert [body["state"] for _, body in site.statuses] == ["failure"]
        site.fault = lambda method, path: Answer(403) if "statuses" in path else None
        unset = here.run("approval", *options)
    assert unset.exit_code == 3
    assert "the check was not set" in unset.output
    assert len(pull.comments) == 1


def test_one_pull_request_that_cannot_be_judged_stops_no_other(office: Office) -> None:
    site = Site()
    with serve("github", site) as server:
        here, _, pull = asked_at_forge(office, site, server)
        site.add(Pull(6, site.accounts[11], "e" * 40))
        options = ("--post", "--forge-token-file", str(token_file(office, server)))
        done = here.run("approval", "--open", *options)
        none = here.run("approval", "--pull", "99", *options)
    assert done.exit_code == 3
    assert "refs/pull/6/head cannot be fetched" in done.output.replace("\n", " ")
    told = {commit: body["state"] for commit, body in site.statuses}
    assert told == {"e" * 40: "failure", pull.head: told[pull.head]}
    assert (none.exit_code, "PullRequestMissing" in none.output) == (3, True)


def test_the_settings_of_a_branch_choose_no_forge_and_a_changed_one_gets_no_token(office: Office) -> None:
    """Attack: the settings are changed to another server while the token file stays."""
    hostile = Site()
    with serve("github", hostile) as server:
        here, _, _ = asked_at_forge(office, hostile, server)
        file = token_file(office, "https://forge.example/acme/state")
        for command in (
            ("approval", "--open", "--post"),
            ("approval", "--pull", "7"),
            ("request", "reload", "openai-chat", "--reason", "OPS-2", "--push"),
        ):
            done = here.run(*command, "--forge-token-file", str(file))
            assert done.exit_code == 3, done.output
            assert "ForgeServerChanged" in done.output
            assert f"TOKEN {server}/acme/state" in done.output.replace("\n", "")
            assert f" {TOKEN}" not in done.output
    assert hostile.calls == []


@pytest.mark.parametrize(
    "options",
    [
        ("--post",),
        ("--open", "--pull", "7"),
        ("main..HEAD", "--open"),
        ("main..HEAD", "--pull", "7", "--post"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(office: Office, options: tuple[str, ...]) -> None:
    assert office.run("approval", *options).exit_code == 2


def test_a_comment_is_of_bounded_size_and_holds_no_markup_of_others() -> None:
    nasty = "@team <img src=x onerror=1> [x](http://evil) www.evil.example #12 !3 `"
    verdicts = tuple(
        approval_command.Verdict(f"{nasty}{n}", False, nasty, plan=f"| {n} |\n") for n in range(2000)
    )
    text = comment_text(verdicts, PullHead(7, "a" * 40), "b" * 40)
    assert len(text) <= MOST_COMMENT
    assert "was cut here" in text
    body = text.partition("\n\n| what |")[2]
    assert not set("@<[`!") & set(body.replace("`capsule approval`", ""))
    assert not re.search(r"://|www\.|(?<!&)#\d", body)


# ---- the whole way ------------------------------------------------------------------------------


def test_a_squash_in_the_web_page_and_a_click_on_approve_are_all_a_reviewer_needs(office: Office) -> None:
    site, head = Site(), "b" * 40
    alice, bob = site.account(11, "alice"), site.account(BOB, "bob")
    with serve("github", site) as server:
        here = forged(office, server=server)
        name = here.ask()
        here.git("switch", "-q", "main")
        here.git("merge", "-q", "--squash", f"origin/request/{name}")
        here.git("-c", "commit.gpgsign=false", "commit", "-qm", "Ask for reload (#7)")
        here.git("push", "-q", "origin", "main")
        squashed = here.git("rev-parse", "main").strip()
        path = here.git("ls-files", "requests/*/request.yaml").strip()
        site.files[head, path] = here.git("rev-parse", f"main:{path}").strip()
        pull = Pull(7, alice, head, merged=squashed)
        pull.reviews.append(Review(900, bob, "approved", head, AT))
        site.add(pull, squashed)
        done = here.run("reconcile", "--once", "--forge-token-file", str(token_file(office, server)))
    assert TOKEN not in done.output
    subjects = here.git("log", "--first-parent", "--format=%s", "origin/audit")
    assert f"{name}: reviews of github pull request 7 recorded" in subjects
    shown = here.run("requests", "--json").output
    assert '"bob"' in shown
    assert '"forge"' in shown
