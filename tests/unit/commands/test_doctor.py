"""The doctor: each fault is found, named, and comes with the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path

from capsule.commands.init import init
from tests.e2e.installation import POLICY, SERVICE
from tests.forge_servers import TOKEN, Answer, Pull, Site, serve
from tests.unit.commands.conftest import AGENT_KEY, SETTINGS, Office, right_now


def _reasons(office: Office, verdict: str = "mend", person: str = "alice") -> set[str]:
    done = office.run("doctor", "--json", person=person)
    found = json.loads(done.stdout)
    assert done.exit_code == (1 if any(item["verdict"] == "mend" for item in found) else 0)
    assert all(item["remedy"] for item in found if item["verdict"] == "mend"), found
    return {item["reason"] for item in found if item["verdict"] == verdict}


def test_a_fresh_office_lacks_a_reconciler_and_nothing_else(office: Office) -> None:
    assert _reasons(office) == {"NoAudit", "HeartbeatDead"}
    assert {"Git", "Root", "Main", "SigningKey", "ReconcilerKey", "AllowedSigners", "Clock"} <= _reasons(
        office, "ok"
    )
    assert _reasons(office, "note") == {"NoRemote"}
    text = office.run("doctor").output
    assert "MEND  no reconciler gives a sign of life [HeartbeatDead]\n      capsule up" in text


def test_a_person_without_a_key_and_one_whom_the_policy_does_not_know(office: Office) -> None:
    assert "UnknownKey" in _reasons(office, person="mallory")
    office.git("config", "--global", "--unset", "user.signingkey")
    assert "NoSigningKey" in _reasons(office)


def test_a_root_that_is_not_pinned_or_another_one(office: Office) -> None:
    office.git("config", "--unset", "capsule.root")
    assert "RootNotPinned" in _reasons(office)
    office.git("config", "capsule.root", "0" * 40)
    assert {"RootDiffers", "BadRoot"} <= _reasons(office)


def test_a_reconcilers_key_that_others_can_read(office: Office) -> None:
    key = office.state / ".git" / "capsule" / "reconciler_ed25519"
    key.chmod(0o644)
    assert "ReconcilerKeyOpen" in _reasons(office)
    done = office.run("reconcile", "--once")
    assert (done.exit_code, "chmod 600" in done.output) == (3, True)
    key.unlink()
    assert "NoReconcilerKey" in _reasons(office, "note")


def test_a_change_that_nobody_approved_and_what_mends_it(office: Office) -> None:
    file = office.state / "services" / "openai-chat.yaml"
    file.write_text(file.read_text().replace("gpt-5.1", "gpt-6"))
    office.git("commit", "-qam", "Straight to main")
    assert "ApprovalsMissing" in _reasons(office)
    policy = office.state / "policy.yaml"
    policy.write_text(policy.read_text().replace("count: 2", "count: 1"))
    office.git("commit", "-qam", "Straight to main, too")
    done = office.run("doctor")
    assert "suspended, nothing is acted on" in done.output
    assert "git checkout" in done.output


def test_plain_http_and_observed_services_and_weak_evidence(office: Office) -> None:
    fresh = office.folder / "weak"
    keys = {
        person: office.key(person).with_name(f"{person}.pub").read_text().split()
        for person in ("bob", "carol")
    }
    policy = POLICY.replace("BOB", " ".join(keys["bob"][:2])).replace("CAROL", " ".join(keys["carol"][:2]))
    policy = policy.replace("count: 2}]", "count: 2}]\n      evidence: merge")
    service = SERVICE.replace("http", "http").replace("ENDPOINT", 'http://10.1.2.3:80"\n    insecure: true #')
    service = service.replace('    key: "KEY"\n', "").replace(' #"', "")
    init(
        fresh,
        right_now(),
        files={"policy.yaml": policy.encode(), "services/openai-chat.yaml": service.encode()},
    )
    done = json.loads(office.run("doctor", "--json", at=fresh).stdout)
    assert {"PlainHttp", "ObserveOnly", "WeakEvidence"} <= {item["reason"] for item in done}


def test_outside_of_a_repository_it_says_so(office: Office) -> None:
    done = office.run("doctor", at=office.folder / "keys")
    assert (done.exit_code, "NoRepository" in done.output) == (1, True)


def test_hosts_whose_ssh_key_is_not_known_with_the_line_to_add(office: Office) -> None:
    service = (office.state / "services" / "openai-chat.yaml").read_text()
    service = service.replace("http://127.0.0.1:9", "ssh://capsule@db.internal:2222")
    office.sit_down("alice")
    state = office.folder / "over-ssh"
    init(state, right_now(), files={"services/openai-chat.yaml": service.encode()})
    known = office.folder / "known_hosts"
    known.write_text("")
    config = office.folder / "ssh_config"
    config.write_text("Host db.internal\n ProxyJump bastion\n")
    options = ("--known-hosts", str(known), "--ssh-config", str(config))

    done = office.run("doctor", *options, at=state)
    assert done.exit_code == 1
    assert f"add what it says to {known}" in done.output
    assert "[db.internal]:2222 ssh-ed25519 AAAA…" in done.output
    assert "bastion ssh-ed25519 AAAA…" in done.output
    known.write_text(f"[db.internal]:2222,bastion {AGENT_KEY}\n")
    assert "HostKeyUnknown" not in office.run("doctor", *options, at=state).output
    config.write_text("Host *\n ProxyCommand nc %h %p\n")
    assert "SshConfigInvalid" in office.run("doctor", *options, at=state).output


# ---- the forge, receivers, hooks ------------------------------------------------------------------

PLAIN_SETTINGS = SETTINGS.replace("{title: Office, limits: {maxShare: 100}}", "")


def _examined(office: Office, *options: str) -> dict[str, str]:
    """Verdicts by reason, of the state repository `forged`."""
    done = office.run("doctor", "--json", *options, at=office.folder / "forged")
    assert done.stdout, done.output
    found = json.loads(done.stdout)
    assert all(item["remedy"] for item in found if item["verdict"] == "mend"), found
    assert not any("tok-" in str(item) for item in found)
    return {item["reason"]: item["verdict"] for item in found}


def _forged(office: Office, *settings: str) -> None:
    """A state repository whose rule for `reload` takes reviews by reviewers; bob alone has an account."""
    keys = {name: office.key(name).with_suffix(".pub").read_text().strip() for name in ("bob", "carol")}
    policy = POLICY.replace("BOB", keys["bob"]).replace("CAROL", keys["carol"])
    policy = policy.replace("    bob: {", "    bob: {forge: {github: 583231}, ")
    line = "      approvals: [{team: reviewers, count: 1}]\n"
    policy = policy.replace(line, f"{line}      evidence: forge\n", 1)
    service = SERVICE.replace("ENDPOINT", "http://127.0.0.1:9").replace("KEY", AGENT_KEY)
    office.sit_down("alice")
    init(
        office.folder / "forged",
        right_now(),
        files={
            "policy.yaml": policy.encode(),
            "services/openai-chat.yaml": service.encode(),
            "capsule.yaml": (PLAIN_SETTINGS.rstrip() + "\n  " + "\n  ".join(settings) + "\n").encode(),
        },
    )


def _secret(office: Office, name: str, text: str) -> str:
    file = office.folder / name
    file.write_text(text)
    file.chmod(0o600)
    return str(file)


def test_rules_that_take_reviews_without_a_forge(office: Office) -> None:
    _forged(office, "limits: {maxShare: 100}")
    assert _examined(office)["NoForge"] == "mend"


def test_what_the_forge_and_receivers_lack_is_named_and_then_found_right(office: Office) -> None:
    site = Site()
    site.add(Pull(7, site.account(11, "alice"), "a" * 40))
    with serve("github", site) as server:
        _forged(
            office,
            "limits: {maxShare: 100}",
            f'forge: {{kind: github, server: "{server}", repository: acme/state}}',
            "notify: [{to: oncall}]",
        )
        found = _examined(office)
        assert (found["AccountMissing"], found["ForgeTokenMissing"]) == ("note", "mend")
        assert (found["NoWebhook"], found["NoNotifyDir"]) == ("note", "note")
        other = _secret(office, "other", f"{TOKEN} https://forge.example/acme/state\n")
        folder = str(office.folder)
        wrong = _examined(
            office,
            *("--forge-token-file", other, "--online"),
            *("--webhook-secret-file", _secret(office, "short", "abc"), "--notify-dir", folder),
        )
        assert site.calls == []
        assert {"ForgeServerChanged", "WebhookSecretShort", "ReceiverMissing"} <= {
            reason for reason, verdict in wrong.items() if verdict == "mend"
        }
        assert _examined(office, "--webhook-secret-file", f"{folder}/none")["ForgeTokenUnreadable"] == "mend"
        right = (
            *("--forge-token-file", _secret(office, "token", f"{TOKEN} {server}\n")),
            *("--webhook-secret-file", _secret(office, "long", "abcdefghij" * 3), "--notify-dir", folder),
        )
        _secret(office, "oncall", "json://receiver.example/x\n")
        assert {"ForgeToken", "WebhookSecret", "Receiver"} <= {
            reason for reason, verdict in _examined(office, *right).items() if verdict == "ok"
        }
        assert site.calls == [], "nothing is asked without --online"
        assert _examined(office, *right, "--online")["Forge"] == "ok"
        site.fault = lambda _method, _path: Answer(401)
        assert _examined(office, *right, "--online")["ForgeTokenRefused"] == "mend"


def test_the_hook_of_a_bare_repository_on_this_machine(office: Office) -> None:
    bare = office.folder / "state.git"
    office.git("clone", "-q", "--bare", str(office.state), str(bare))
    office.git("remote", "remove", "origin", at=bare)
    assert office.run("protect", "--root", office.root, at=bare).exit_code == 0

    def hook(at: Path) -> dict[str, str]:
        found = json.loads(office.run("doctor", "--json", at=at).stdout)
        return {each["reason"]: each["verdict"] for each in found if each["reason"].startswith("Hook")}

    assert hook(bare) == {"Hook": "ok"}
    assert hook(office.state) == {}
    office.git("remote", "add", "origin", str(bare))
    assert hook(office.state) == {"Hook": "ok"}
    file = bare / "hooks" / "pre-receive"
    text = file.read_text()
    file.write_text(text.replace("exec ", "exec /gone"))
    assert hook(office.state) == {"HookBroken": "mend"}
    file.write_text(text)
    office.git("config", "core.hooksPath", "/elsewhere", at=bare)
    assert hook(bare) == {"HooksElsewhere": "mend"}
    file.chmod(0o644)
    assert hook(bare) == {"HookMissing": "note"}
    office.git("remote", "set-url", "origin", "ssh://git@git.example.com/state.git")
    assert hook(office.state) == {}


def test_an_audit_that_the_server_lost_is_told_with_the_command_that_puts_it_back(office: Office) -> None:
    seen = office.git("rev-parse", "main").strip()
    office.git("update-ref", "refs/capsule/local/reconciler/audit", seen)
    assert "NoAudit" not in _reasons(office)
    assert "AuditRewritten" in _reasons(office)
    text = office.run("doctor").output
    assert f"audit is gone, and so is {seen[:12]}" in text
    assert f"git branch -f audit {seen}" in text
    assert "AuditRewritten" in office.run().output
    office.git("branch", "audit", "main~1")
    assert "does not hold" in office.run("doctor").output
    office.git("branch", "-f", "audit", "main")
    assert "AuditRewritten" not in _reasons(office) | _reasons(office, "note")


def test_nothing_is_amiss_with_a_new_server(office: Office) -> None:
    """People push there, and no reconciler needs to run beside it."""
    bare = office.folder / "new.git"
    made = office.run("init", "--bare", "--protect", str(bare), "--principal", "alice", at=office.folder)
    assert made.exit_code == 0, made.output
    assert "capsule clone" in made.output
    done = office.run("doctor", at=bare)
    assert (done.exit_code, "MEND" in done.output) == (0, False), done.output
    assert "[NoAudit]" in done.output
    shown = " ".join(office.run(at=bare).output.split())
    assert ("capsule clone" in shown, "$EDITOR" in shown) == (True, False), shown
