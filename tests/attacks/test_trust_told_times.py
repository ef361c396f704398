"""What somebody tries with the time that a commit on audit tells, by which it is judged whose keys speak.

One person has a key that ends on Tuesday; whoever attacks has that key when it has ended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capsule.trust.audit import AuditVerdict, Proved, verify_audit
from tests.trust_history import (
    CLAIMED,
    DEFAULT_RULES,
    Audit,
    Files,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
OWNER_RULE = "{match: {change: policy}, mayRequest: [owners], approvals: []}"
RULES = [rule for rule in DEFAULT_RULES if "change: policy" not in rule] + [OWNER_RULE]
GHOST = {"by": key("ghost"), "name": "ghost", "email": "ghost@reconciler.invalid"}
MAILER = "services/test/mailer.yaml"


def policy(serial: int = 1, *, until_tuesday: str = "carol", machines: tuple[str, ...] = ()) -> bytes:
    """A policy in which the key of one person ends on Tuesday, with more reconcilers."""
    line = f'"{key(until_tuesday).public.text}"'
    text = policy_text(serial, rules=RULES).decode()
    text = text.replace(line, f'{{key: {line}, validBefore: "2026-11-24T12:00:00Z"}}')
    more = "".join(f'    {who}: {{machine: true, keys: ["{key(who).public.text}"]}}\n' for who in machines)
    return text.replace("  teams:\n", more + "  teams:\n").encode()


def begun(until_tuesday: str = "carol") -> tuple[History, Audit]:
    """Audit has something to say since Monday."""
    files: Files = {**first_files(), "policy.yaml": policy(until_tuesday=until_tuesday)}
    history = History.begun(files)
    audit = Audit(history)
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(MONDAY))
    return history, audit


def at(when: datetime) -> int:
    return int(when.timestamp())


def serial(verdict: AuditVerdict) -> int:
    assert verdict.state
    return verdict.state.policy.document.spec.serial


# ---- a machine that makes itself one ----


def test_control_a_known_machine_takes_in_what_names_another() -> None:
    history, audit = begun()
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(MONDAY))
    audit.step({"status/openai-chat.yaml": b"y"}, at=at(WEDNESDAY), **GHOST)
    assert (audit.reason(), serial(audit.verdict())) == (None, 2)


@pytest.mark.parametrize("when", [datetime.fromtimestamp(0, UTC), MONDAY, TUESDAY - timedelta(seconds=1)])
def test_machine_named_by_the_step_that_it_takes_in_backdated_for_an_ended_key(when: datetime) -> None:
    history, audit = begun()
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(when), **GHOST)
    assert audit.reason() == "AuditBadSignature"
    assert serial(audit.verdict()) == 1


def test_machine_named_by_an_earlier_step_of_what_it_takes_in() -> None:
    history, audit = begun()
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    history.step({"README.md": b"more"}, at=0)
    audit.step({}, at=at(MONDAY), **GHOST)
    assert audit.reason() == "AuditBadSignature"


def test_machine_named_by_the_step_and_the_proof_is_gone_on_from() -> None:
    history, audit = begun()
    kept: list[Proved] = []
    assert verify_audit(history, history.root, history.tip, audit.tip, keep=kept.append).holds
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(MONDAY), **GHOST)
    (before,) = kept
    again = verify_audit(history, history.root, history.tip, audit.tip, resume=lambda _: before)
    assert again.first_bad
    assert again.first_bad.reason == "AuditBadSignature"


def test_machine_that_a_key_without_dates_names_lets_in_nothing_of_an_ended_key() -> None:
    """Its first commit is good, for the policy names it at any time; of the rest nobody tells the time."""
    for who, model in (({}, "m2"), (GHOST, "gpt-5.1")):
        history, audit = begun("alice")
        text = service_text("mailer", env="test", model="m2")
        history.step({MAILER: text}, by="alice", at=0)
        history.step({"policy.yaml": policy(2, until_tuesday="alice", machines=("ghost",))}, by="carol")
        audit.step({}, at=at(MONDAY), **who)
        verdict = audit.verdict()
        assert (verdict.first_bad, serial(verdict)) == (None, 2)
        assert verdict.state
        assert verdict.state.services["mailer"].document.spec.pins["model"] == model


def test_what_a_new_machine_took_in_was_there_since_then() -> None:
    """Once it is known: requests that came with what named it are judged by when it took them in."""
    for when, reason in ((MONDAY, None), (WEDNESDAY, "ClaimNotApproved")):
        history, audit = begun("bob")
        raw = request_text()
        history.step({"policy.yaml": policy(2, until_tuesday="bob", machines=("ghost",))}, by="carol")
        history.step(history.request(raw) | history.approval("bob", raw), merge=True, at=0)
        audit.step({}, at=at(when), **GHOST)
        assert audit.reason() is None
        audit.step(audit.claim(raw, claimed_at=WEDNESDAY), trailers=CLAIMED, at=at(WEDNESDAY))
        assert audit.reason() == reason


# ---- a machine that says it was earlier ----


def test_machine_that_backdates_what_it_takes_in_behind_what_audit_told() -> None:
    for latest, in_force in ((MONDAY, 2), (WEDNESDAY, 1)):
        history, audit = begun()
        audit.step({"status/openai-chat.yaml": b"y"}, at=at(latest))
        history.step({"policy.yaml": policy(2)}, by="carol", at=0)
        audit.step({}, at=at(MONDAY))
        assert (audit.reason(), serial(audit.verdict())) == (None, in_force)


def test_machine_that_backdates_its_claim_of_a_request_on_a_branch() -> None:
    for latest, reason in ((MONDAY, None), (WEDNESDAY, "ClaimNotApproved")):
        history, audit = begun("alice")
        main, before = history.tip, history.files
        raw = request_text(targets=("mailer",))
        branch = history.step(history.request(raw), at=0)
        history.tip, history.files = main, before
        audit.step({"status/openai-chat.yaml": b"y"}, at=at(latest))
        claim = audit.claim(raw, "mailer", approved_by=())
        trailers = [(name, "mailer" if name == "Capsule-Service" else text) for name, text in CLAIMED]
        trailers = [each for each in trailers if each[0] != "Approved-by"]
        audit.step(claim, trailers=trailers, branches=[branch], at=at(MONDAY))
        assert audit.reason() == reason


def test_clock_set_back_by_seconds_is_no_lie() -> None:
    history, audit = begun()
    history.step({"policy.yaml": policy(2)}, by="carol")
    audit.step({}, at=at(MONDAY - timedelta(seconds=30)))
    audit.step({"status/openai-chat.yaml": b"z"}, at=at(MONDAY - timedelta(seconds=20)))
    assert (audit.reason(), serial(audit.verdict())) == (None, 2)
