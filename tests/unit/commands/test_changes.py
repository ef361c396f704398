"""Changes of services and policy: proposed, approved, rejected, merged, in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capsule.commands.change import kind_of
from capsule.trust import mainline
from tests.unit.commands.conftest import Office

SERVICE = "services/openai-chat.yaml"


def _edit(office: Office, branch: str, path: str, old: str, new: str, person: str = "alice") -> None:
    office.git("switch", "-q", "-c", branch, "main", person=person)
    file = office.state / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    office.git("commit", "-qam", f"Edit {path}", person=person)


def _model(office: Office) -> str:
    return str(json.loads(office.run("show", "openai-chat", "--json").output)["pins"]["model"])


def test_a_change_is_proposed_approved_and_in_force(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    proposed = office.run("propose", "--yes", "--reason", "New model")
    assert proposed.exit_code == 0, proposed.output
    assert '+  pins: {version: "1.8.2", model: "gpt-5.2"}' in proposed.output
    assert "capsule approve new-model" in proposed.output
    assert _model(office) == "gpt-5.1"
    own = office.run("approve", "new-model", "--yes")
    assert (own.exit_code, "OwnApproval" in own.output) == (4, True)
    done = office.run("approve", "new-model", "--yes", person="bob")
    assert (done.exit_code, "in force" in done.output) == (0, True), done.output
    assert _model(office) == "gpt-5.2"
    assert office.git("status", "--porcelain") == ""


def test_whoever_wrote_a_commit_of_the_branch_does_not_approve_it(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2", person="bob")
    office.run("propose", "new-model", "--yes")
    done = office.run("approve", "new-model", "--yes", person="bob")
    assert (done.exit_code, "OwnApproval" in done.output) == (4, True), done.output
    assert office.run("approve", "new-model", "--yes", person="carol").exit_code == 0
    assert _model(office) == "gpt-5.2"


def test_an_approval_is_about_the_bytes_that_were_shown(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    office.run("propose", "--yes")
    file = office.state / SERVICE
    file.write_text(file.read_text().replace("gpt-5.2", "gpt-6"))
    office.git("commit", "-qam", "And more")
    done = office.run("approve", "new-model", "--yes", person="bob")
    assert "nobody known to the policy asks for this change" in done.output, done.output
    assert _model(office) == "gpt-5.1"


def test_a_rejected_change_stays_out(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    office.run("propose", "--yes")
    done = office.run("reject", "new-model", "--yes", "--reason", "Too early", person="bob")
    assert (done.exit_code, "Rejected by bob" in done.output) == (0, True), done.output
    late = office.run("approve", "new-model", "--yes", person="carol")
    assert "rejected by bob" in late.output, late.output
    assert _model(office) == "gpt-5.1"


def test_a_new_policy_takes_force_and_agents_get_a_new_list_of_signers(office: Office) -> None:
    mallory = (office.folder / "keys" / "mallory.pub").read_text().split()[1]
    entry = f'    mallory: {{email: mallory@example.com, keys: ["ssh-ed25519 {mallory}"]}}\n'
    office.git("switch", "-q", "-c", "joiner", "main")
    file = office.state / "policy.yaml"
    text = (
        file.read_text()
        .replace("serial: 1", "serial: 2")
        .replace("    reconciler-1:", entry + "    reconciler-1:")
    )
    file.write_text(text.replace("reviewers: [bob, carol]", "reviewers: [bob, carol, mallory]"))
    office.git("commit", "-qam", "Mallory joins")
    assert office.run("propose", "--yes").exit_code == 0
    done = office.run("approve", "joiner", "--yes", person="bob")
    assert done.exit_code == 0, done.output
    assert "mallory" in (office.state / ".git" / "capsule" / "allowed_signers").read_text()
    outdated = office.run("doctor")
    assert (outdated.exit_code, "SignersOutdated" in outdated.output) == (1, True), outdated.output
    assert office.run("policy", "signers", person="carol").exit_code == 4
    asked = office.run("policy", "signers", person="bob")
    assert (asked.exit_code, "NobodyToAsk" in asked.output) == (2, True), asked.output
    for told in ("  mallory\n    + may approve\n    + key SHA256:",):
        assert told in asked.output
    signed = office.run("policy", "signers", "--yes", person="bob")
    assert (signed.exit_code, "serial 2" in signed.output) == (0, True), signed.output
    again = office.run("policy", "signers", person="bob")
    assert "already signed by bob" in again.output
    assert '"mallory"' in office.git("show", "main:signers/signers.json")
    assert "SignersOutdated" not in office.run("doctor").output


def test_a_policy_with_a_serial_that_does_not_rise_is_neither_signed_nor_merged(office: Office) -> None:
    _edit(office, "sly", "policy.yaml", "reviewers: [bob, carol]", "reviewers: [alice, bob, carol]")
    before = office.refs()
    for verb in (("propose", "--yes"), ("check",)):
        done = office.run(*verb)
        assert (done.exit_code, "PolicySerialNotRaised" in done.output) == (1, True), done.output
    assert office.refs() == before
    office.run("approve", "sly", "--yes", person="bob")
    assert office.git("show", "main:policy.yaml") != office.git("show", "sly:policy.yaml")


def test_a_policy_without_somebody_who_once_approved_can_be_proposed(office: Office) -> None:
    name = office.ask()
    assert office.run("approve", name, "--yes", person="carol").exit_code == 0
    office.git("switch", "-q", "-c", "goodbye", "main")
    file = office.state / "policy.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("    carol:")]
    text = "\n".join(lines).replace("serial: 1", "serial: 2")
    file.write_text(text.replace("[bob, carol]", "[bob]").replace("count: 2", "count: 1") + "\n")
    office.git("commit", "-qam", "Carol leaves")
    done = office.run("propose", "--yes")
    assert "BadDocument" not in done.output, done.output


def test_what_is_not_committed_is_not_left_out_of_a_proposal_unnoticed(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    file = office.state / SERVICE
    file.write_text(file.read_text().replace("gpt-5.2", "gpt-5.3"))
    (office.state / "notes.txt").write_text("not a document\n")
    before = office.refs()
    for prepare in ((), ("add", SERVICE)):
        if prepare:
            office.git(*prepare)
        done = office.run("propose", "--yes")
        assert (done.exit_code, "NotCommitted" in done.output) == (1, True), done.output
        assert f"{SERVICE} is changed but not committed" in done.output
        assert f"git add {SERVICE} && git commit" in done.output
    assert office.refs() == before
    office.git("commit", "-qam", "And now")
    assert office.run("propose", "--yes").exit_code == 0


def test_only_those_entitled_may_propose(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2", person="carol")
    done = office.run("propose", "--yes", person="carol")
    assert (done.exit_code, "NotEntitled" in done.output) == (4, True), done.output
    assert office.run("propose", "main", "--yes").exit_code == 2
    assert office.run("propose", "no-such-branch", "--yes").exit_code == 2


def test_a_broken_document_and_a_conflict_are_said_and_not_merged(office: Office) -> None:
    _edit(office, "broken", SERVICE, "kind: Service", "kind: Servise")
    done = office.run("propose", "--yes")
    assert (done.exit_code, "[UnknownKind]" in done.output) == (1, True), done.output
    assert "BadDocument" not in done.output
    office.git("switch", "-q", "main")
    _edit(office, "mine", SERVICE, "gpt-5.1", "gpt-5.2")
    _edit(office, "theirs", SERVICE, "gpt-5.1", "gpt-5.3")
    for branch in ("mine", "theirs"):
        assert office.run("propose", branch, "--yes").exit_code == 0
    assert office.run("approve", "mine", "--yes", person="bob").exit_code == 0
    late = office.run("approve", "theirs", "--yes", person="bob")
    assert (late.exit_code, "Merged" in late.output) == (1, False), late.output
    assert _model(office) == "gpt-5.2"


def test_a_branch_that_was_never_pushed_is_proposed_to_the_remote(office: Office, tmp_path: Path) -> None:
    forge = tmp_path / "forge.git"
    office.git("clone", "-q", "--bare", str(office.state), str(forge))
    office.git("remote", "add", "origin", str(forge))
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    done = office.run("propose", "--yes")
    assert done.exit_code == 0, done.output
    tip = office.git("rev-parse", "new-model", at=forge)
    assert office.git("rev-parse", "new-model") == tip
    assert office.git("status", "--porcelain") == ""
    assert office.run("approve", "new-model", "--yes", person="bob").exit_code == 0
    assert office.git("rev-parse", "main", at=forge) == office.git("rev-parse", "main")


def test_an_edit_after_the_proposal_keeps_the_words_on_the_first_version(office: Office) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    assert office.run("propose", "--yes").exit_code == 0
    file = office.state / SERVICE
    file.write_text(file.read_text().replace("gpt-5.2", "gpt-6"))
    office.git("commit", "-qam", "And more")
    assert office.run("propose", "--yes").exit_code == 0
    done = office.run("approve", "new-model", "--yes", person="bob")
    assert (done.exit_code, "in force" in done.output) == (0, True), done.output
    assert _model(office) == "gpt-6"


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/x.yaml",
        "README.md",
        "signers/zz.sig",
        "requests/2026/11/mine/request.yaml",
        f"approvals/{'0' * 64}/bob.json",
        f"approvals/{'0' * 64}/bob.json.sig",
        "approvals/note.txt",
        "services/notes.txt",
        "status/openai-chat.yaml",
    ],
)
def test_a_branch_that_brings_what_is_not_shown_is_refused(office: Office, path: str) -> None:
    _edit(office, "new-model", SERVICE, "gpt-5.1", "gpt-5.2")
    assert office.run("propose", "--yes").exit_code == 0
    file = office.state / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x")
    office.git("add", "-A")
    office.git("commit", "-qm", "tidy")
    main = office.git("rev-parse", "main")
    for word, person in (("propose", "alice"), ("approve", "bob")):
        done = office.run(word, "new-model", "--yes", person=person)
        assert (done.exit_code, "BranchTouchesMore" in done.output) == (4, True), done.output
        assert path in done.output
    assert office.git("rev-parse", "main") == main
    rejected = office.run("reject", "new-model", "--yes", "--reason", "Not that", person="bob")
    assert rejected.exit_code == 0, rejected.output


@pytest.mark.parametrize("of_a_request", [True, False])
def test_a_branch_that_takes_a_word_away_is_refused(office: Office, of_a_request: bool) -> None:
    if of_a_request:
        name = office.ask("-p", "depth=2")
        assert office.run("approve", name, "--yes", person="bob").exit_code == 0
    else:
        _edit(office, "before", SERVICE, "gpt-5.1", "gpt-5.2")
        office.run("propose", "--yes")
        assert office.run("approve", "before", "--yes", person="bob").exit_code == 0
    office.git("switch", "-q", "main")
    _edit(office, "sly", SERVICE, "version: ", "version:  ")
    words = [path for path in office.git("ls-files").splitlines() if "approvals/" in path and "bob" in path]
    assert words
    office.git("rm", "-q", *words)
    office.git("commit", "-qm", "tidy")
    done = office.run("propose", "--yes")
    assert (done.exit_code, "BranchTouchesMore" in done.output) == (4, True), done.output
    assert words[0] in done.output


@pytest.mark.parametrize(
    "path",
    [
        *("policy.yaml", "capsule.yaml", "services/a.yaml", "services/a/b.yml", "services/a.json"),
        *("services/a.txt", "services", "a.yaml", "policy.yml", "README.md"),
    ],
)
def test_what_is_reviewed_is_what_trust_judges(path: str) -> None:
    assert kind_of(path) == mainline._kind(path)
