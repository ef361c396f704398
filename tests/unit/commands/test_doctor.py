"""The doctor: each fault is found, named, and comes with the command that mends it."""

from __future__ import annotations

import json

from capsule.commands.init import init
from tests.unit.commands.conftest import AGENT_KEY, Office, right_now


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
    from tests.e2e.installation import POLICY, SERVICE

    fresh = office.folder / "weak"
    keys = {
        person: office.key(person).with_name(f"{person}.pub").read_text().split()
        for person in ("bob", "carol")
    }
    policy = POLICY.replace("BOB", " ".join(keys["bob"][:2])).replace("CAROL", " ".join(keys["carol"][:2]))
    policy = policy.replace("count: 2}]", "count: 2}]\n      evidence: merge")
    service = SERVICE.replace("http", "http").replace("ENDPOINT", 'http://10.1.2.3:80"\n    insecure: true #')
    service = service.replace('    key: "KEY"\n', "").replace(' #"', "")
    from capsule.commands.init import init
    from tests.unit.commands.conftest import right_now

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
