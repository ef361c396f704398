"""What somebody tries with a key that speaks no more, or not yet: the dates they write gain them nothing."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsule.documents.check.tree import check_tree
from capsule.documents.paths import AUDIT, MAIN
from capsule.trust.audit import Proved, verify_audit
from capsule.trust.key_validity import (
    Same,
    SeenOnAudit,
    is_timed,
    policy_at,
    valid_at,
)
from capsule.trust.mainline import judge as judge_main
from capsule.trust.policy import signer_of
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule.trust.published import allowed_signers, signers_document
from capsule.trust.pushes import Push, judge_push
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest, MainState
from capsule.view.build import SnapshotCache, snapshot
from capsule_agent.protocol import sshsig
from tests.evidence_history import policy_of
from tests.town import POLICY, TestClock, Town, principal
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

CHAT = "services/openai-chat.yaml"
MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
UNTIL_TUESDAY = 'validBefore: "2026-11-24T12:00:00Z"'
FROM_TUESDAY = 'validAfter: "2026-11-24T12:00:00Z"'


def dated(who: str, window: str, text: bytes | None = None) -> bytes:
    """The policy in which the key of `who` speaks for a while only."""
    line = f'"{key(who).public.text}"'
    return (text or policy_text()).decode().replace(line, f"{{key: {line}, {window}}}").encode()


def files(who: str, window: str = UNTIL_TUESDAY) -> Files:
    return {**first_files(), "policy.yaml": dated(who, window)}


def seen_at(history: History, audit: Audit | None, now: datetime | None) -> MainState:
    """Main as it is judged at `now`, beside what audit has taken in."""
    tip = audit.tip if audit else None
    seen = SeenOnAudit(history, history.root, history.tip, tip, now)
    return judge_main(history, history.root, history.tip, seen=seen)


def judged(
    history: History, now: datetime | None, audit: Audit | None = None, **branches: str
) -> JudgedRequest:
    state = seen_at(history, audit, now)
    refs = {f"refs/heads/request/{name}": commit for name, commit in branches.items()}
    return judge_requests(history, state, refs)["r1"]


def asked(window: str = UNTIL_TUESDAY, who: str = "bob", at: int = 0) -> History:
    """A request that bob approved, in a commit that says it was made long before everything."""
    history = History.begun(files(who, window))
    raw = request_text()
    history.step(history.request(raw) | history.approval("bob", raw), merge=True, at=at)
    return history


def at(when: datetime) -> int:
    return int(when.timestamp())


# ---- approvals and requests ----


def test_control_a_key_speaks_until_its_end() -> None:
    assert judged(asked(), MONDAY).verdict == "approved"
    assert judged(asked(), TUESDAY - timedelta(seconds=1)).verdict == "approved"


@pytest.mark.parametrize("now", [TUESDAY, WEDNESDAY, None])
def test_a_backdated_commit_with_an_ended_key_gains_nothing(now: datetime | None) -> None:
    found = judged(asked(), now)
    assert (found.verdict, [seen.reason for seen in found.approvals]) == ("proposed", ["BadSignature"])


def test_a_key_speaks_from_its_beginning() -> None:
    assert judged(asked(FROM_TUESDAY), MONDAY).verdict == "proposed"
    assert judged(asked(FROM_TUESDAY), TUESDAY).verdict == "approved"


def test_an_ended_key_asks_for_nothing() -> None:
    assert judged(asked(who="alice"), MONDAY).verdict == "approved"
    assert judged(asked(who="alice"), TUESDAY).reason == "BadSignature"


def test_what_audit_took_in_before_the_end_counts_for_ever() -> None:
    history = asked()
    audit = Audit(history)
    audit.step({}, at=at(MONDAY))
    found = judged(history, WEDNESDAY, audit)
    assert (found.verdict, found.fleeting) == ("approved", False)


def test_what_audit_took_in_after_the_end_never_counts() -> None:
    history = asked()
    audit = Audit(history)
    audit.step({}, at=at(TUESDAY))
    assert judged(history, MONDAY, audit).verdict == "proposed"


def test_a_signature_made_anew_after_the_end_is_judged_by_its_own_arrival() -> None:
    history = History.begun(files("bob"))
    raw = request_text()
    audit = Audit(history)
    approval = history.approval("bob", raw)
    document = {path: data for path, data in approval.items() if path.endswith(".json")}
    history.step(history.request(raw) | document, merge=True)
    audit.step({}, at=at(MONDAY))
    history.step(approval, merge=True, at=0)
    audit.step({}, at=at(WEDNESDAY))
    assert judged(history, WEDNESDAY, audit).verdict == "proposed"


def test_a_request_on_its_branch_is_seen_now() -> None:
    history = History.begun(files("alice"))
    main, before = history.tip, history.files
    raw = request_text(targets=("mailer",))
    branch = history.step(history.request(raw), at=0)
    history.tip, history.files = main, before
    audit = Audit(history)
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(MONDAY))
    assert judged(history, MONDAY, audit, r1=branch).verdict == "approved"
    found = judged(history, TUESDAY, audit, r1=branch)
    assert (found.reason, found.fleeting) == ("BadSignature", True)


def test_a_verdict_of_then_is_not_remembered() -> None:
    history = asked()
    first = judge_requests(history, seen_at(history, None, MONDAY))
    assert first["r1"].verdict == "approved"
    later = judge_requests(history, seen_at(history, None, TUESDAY), known=first)
    assert later["r1"].verdict == "proposed"


def test_a_merge_by_an_ended_key_approves_nothing() -> None:
    rules = [rule.replace("count: 1}]}", "count: 1}], evidence: merge}") for rule in DEFAULT_RULES]
    text = dated("bob", UNTIL_TUESDAY, policy_text(rules=rules))
    history = History.begun({**first_files(), "policy.yaml": text})
    raw = request_text()
    history.step(history.request(raw), by="bob", merge=True, at=0)
    assert judged(history, MONDAY).verdict == "approved"
    found = judged(history, TUESDAY)
    assert (found.verdict, found.approvals[0].reason) == ("proposed", "UnknownMerger")


# ---- changes ----

NEW = service_text(env="test", model="gpt-6")


def changed(who: str, window: str = UNTIL_TUESDAY) -> History:
    """A change of a service, whose author and approver signed by words; its commit is backdated."""
    history = History.begun(files(who, window))
    old = history.files[CHAT]
    words = history.change_word("alice", {CHAT: (old, NEW)}, "propose")
    words |= history.change_word("bob", {CHAT: (old, NEW)})
    history.step({CHAT: NEW, **words}, merge=True, at=0)
    return history


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_an_ended_key_changes_no_document(who: str) -> None:
    before = seen_at(changed(who), None, MONDAY)
    assert before.services["openai-chat"].document.spec.pins["model"] == "gpt-6"
    assert before.fleeting
    after = seen_at(changed(who), None, TUESDAY)
    assert after.services["openai-chat"].document.spec.pins["model"] == "gpt-5.1"
    assert [change.reason for change in after.pending]


def test_the_author_of_a_commit_is_no_ended_key() -> None:
    history = History.begun(files("alice"))
    history.step(
        {"services/test/mailer.yaml": service_text("mailer", env="test", model="m2")}, by="alice", at=0
    )
    assert not seen_at(history, None, MONDAY).pending
    assert [each.reason for each in seen_at(history, None, TUESDAY).pending] == ["ChangeUnsigned"]
    assert [each.reason for each in history.judged().pending] == ["ChangeUnsigned"]


def test_main_is_judged_again_by_what_audit_says() -> None:
    history = changed("bob")
    then = seen_at(history, None, MONDAY)
    audit = Audit(history)
    audit.step({}, at=at(WEDNESDAY))
    seen = SeenOnAudit(history, history.root, history.tip, audit.tip, MONDAY)
    again = judge_main(history, history.root, history.tip, then, seen)
    assert again.services["openai-chat"].document.spec.pins["model"] == "gpt-5.1"
    assert not again.fleeting


# ---- audit ----


def test_verification_judges_by_the_time_at_which_audit_took_it_in() -> None:
    for when, reason in ((MONDAY, None), (WEDNESDAY, "ClaimNotApproved")):
        history = asked()
        audit = Audit(history)
        audit.step({}, at=at(when))
        audit.step(audit.claim(request_text()), trailers=CLAIMED, at=at(MONDAY))
        assert audit.reason() == reason


def test_a_proof_gone_on_from_judges_new_steps_by_their_own_time() -> None:
    history = History.begun(files("bob"))
    raw = request_text()
    audit = Audit(history)
    history.step(history.request(raw), merge=True)
    audit.step({}, at=at(MONDAY))
    kept: list[Proved] = []
    assert verify_audit(history, history.root, history.tip, audit.tip, keep=kept.append).holds
    history.step(history.approval("bob", raw), merge=True, at=0)
    audit.step({}, at=at(WEDNESDAY))
    audit.step(audit.claim(raw), trailers=CLAIMED, at=at(MONDAY))
    assert audit.reason() == "ClaimNotApproved"
    (before,) = kept
    again = verify_audit(history, history.root, history.tip, audit.tip, resume=lambda _: before)
    assert again == audit.verdict()


def test_a_machine_whose_key_ended_writes_no_more() -> None:
    history = History.begun(files("reconciler-1"))
    audit = Audit(history)
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(MONDAY))
    assert audit.reason() is None
    audit.step({"status/openai-chat.yaml": b"y"}, at=at(TUESDAY))
    assert audit.reason() == "AuditBadSignature"


def test_a_machine_whose_key_ended_writes_nothing_behind_another() -> None:
    other = f'    reconciler-2: {{machine: true, keys: ["{key("reconciler-2").public.text}"]}}\n'
    text = dated("reconciler-1", UNTIL_TUESDAY).replace(b"  teams:\n", other.encode() + b"  teams:\n")
    history = History.begun({**first_files(), "policy.yaml": text})
    audit = Audit(history)
    audit.step({"status/openai-chat.yaml": b"x"}, by=key("reconciler-2"), at=at(WEDNESDAY))
    assert audit.reason() is None
    audit.step({"status/openai-chat.yaml": b"y"}, at=at(MONDAY))
    assert audit.reason() == "AuditBadSignature"


def test_a_server_takes_no_push_of_an_ended_key() -> None:
    history = changed("bob")
    first = history.root
    refs = {MAIN: first}
    assert judge_push(history, first, refs, [Push(MAIN, first, history.tip)], MONDAY) == ()
    (refused,) = judge_push(history, first, refs, [Push(MAIN, first, history.tip)], TUESDAY)
    assert refused.ref == MAIN
    quiet = History.begun(files("reconciler-1"))
    audit = Audit(quiet)
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(MONDAY))
    refs = {MAIN: quiet.tip}
    assert judge_push(quiet, quiet.root, refs, [Push(AUDIT, None, audit.tip)], MONDAY) == ()
    (refused,) = judge_push(quiet, quiet.root, refs, [Push(AUDIT, None, audit.tip)], TUESDAY)
    assert refused.reason == "AuditBadSignature"


# ---- looking it up ----


def test_when_a_step_was_seen_is_read_from_audit() -> None:
    history = History.begun()
    audit = Audit(history)
    one = history.step({"README.md": b"1"})
    two = history.step({"README.md": b"2"})
    audit.step({}, at=at(MONDAY))
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(TUESDAY))
    three = history.step({"README.md": b"3"})
    stray = history.raw_commit(history.tree({"a": b"b"}), [])
    audit.step({}, at=at(WEDNESDAY), branches=[stray])
    four = history.step({"README.md": b"4"})
    seen = SeenOnAudit(history, history.root, four, audit.tip, None)
    assert [seen.of(each) for each in (four, three, two, one)] == [None, WEDNESDAY, MONDAY, MONDAY]
    again = SeenOnAudit(history, history.root, four, audit.tip, None)
    assert [again.of(one), again.of(stray), again.of(history.root)] == [MONDAY, None, None]
    nothing = SeenOnAudit(history, history.root, four, None, MONDAY)
    assert (nothing.of(one), nothing.now) == (None, MONDAY)
    idle = SeenOnAudit(history, history.root, four, history.root, MONDAY)
    assert idle.of(one) is None


def test_a_main_that_was_rewound_or_an_audit_that_is_no_history_tells_no_time() -> None:
    history = History.begun()
    audit = Audit(history)
    history.step({"README.md": b"1"})
    audit.step({}, at=at(MONDAY))
    old = history.tip
    history.tip, history.files = history.root, first_files()
    other = history.step({"README.md": b"2"})
    seen = SeenOnAudit(history, history.root, other, audit.tip, None)
    assert (seen.of(other), seen.of(old)) == (None, MONDAY)
    blob = history.put("blob", b"x")
    assert SeenOnAudit(history, history.root, old, blob, None).of(old) is None
    lone = history.raw_commit(history.tree({}), [])
    assert SeenOnAudit(history, history.root, old, lone, None).of(old) is None
    broken = history.raw_commit(
        history.tree({}), [lone, blob], message=f"take in\n\nCapsule-Revision: {blob}"
    )
    assert SeenOnAudit(history, history.root, old, broken, None).of(old) is None


def test_a_policy_has_the_keys_of_an_instant() -> None:
    policy = load_policy(dated("bob", f'{FROM_TUESDAY}, validBefore: "2026-11-25T12:00:00Z"'), "policy.yaml")
    data = b"x"
    signature = key("bob").sign(data, sshsig.COMMIT)
    told = {}
    for when in (None, MONDAY, TUESDAY, WEDNESDAY - timedelta(seconds=1), WEDNESDAY):
        try:
            told[when] = signer_of(policy_at(policy, when), data, signature, sshsig.COMMIT)
        except sshsig.BadSignature:
            told[when] = ""
    assert list(told.values()) == ["", "", "bob", "bob", ""]
    with pytest.raises(sshsig.BadSignature):
        signer_of(policy, data, signature, sshsig.COMMIT)
    plain = load_policy(policy_text(), "policy.yaml")
    assert policy_at(plain, None) is plain
    assert (is_timed(plain), is_timed(policy)) == (False, True)
    assert Same(plain) != plain


def test_a_key_that_ends_before_it_begins_is_an_error() -> None:
    window = f'{FROM_TUESDAY}, validBefore: "2026-11-24T12:00:00Z"'
    with pytest.raises(InvalidPolicy, match="ends before it begins"):
        load_policy(dated("bob", window), "policy.yaml")
    found = check_tree({**first_files(), "policy.yaml": dated("bob", window)})
    assert [each.reason for each in found] == ["BadKeyWindow"]
    assert check_tree(files("bob")) == ()
    twice = policy_text().replace(key("carol").public.text.encode(), key("bob").public.text.encode())
    with pytest.raises(InvalidPolicy, match="share the key"):
        load_policy(dated("bob", UNTIL_TUESDAY, twice), "policy.yaml")


def test_a_commit_beyond_the_calendar_has_a_time() -> None:
    history = History.begun()
    audit = Audit(history)
    history.step({"README.md": b"1"})
    audit.step({}, at=999_999_999_999)
    assert SeenOnAudit(history, history.root, history.tip, audit.tip, None).of(history.tip) == datetime(
        9999, 1, 1, tzinfo=UTC
    )


def test_agents_are_sent_the_keys_that_speak_now() -> None:
    policy = load_policy(dated("bob", UNTIL_TUESDAY), "policy.yaml")
    assert "bob" in signers_document(policy, "0" * 40, 1, MONDAY).principals
    assert "bob" not in signers_document(policy, "0" * 40, 1, TUESDAY).principals
    assert "bob" not in signers_document(policy, "0" * 40, 1).principals


@pytest.mark.parametrize(
    ("when", "good"),
    [("20261124115959Z", True), ("20261124120000Z", False)],
)
def test_stock_ssh_keygen_agrees_on_the_end(tmp_path: Path, when: str, good: bool) -> None:
    policy = load_policy(dated("bob", UNTIL_TUESDAY), "policy.yaml")
    (tmp_path / "allowed").write_text(allowed_signers(policy))
    (tmp_path / "sig").write_text(key("bob").sign(b"x", "git"))
    command = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "bob", "-n", "git", "-s", "sig"]
    done = subprocess.run(
        [*command, "-O", f"verify-time={when}"], cwd=tmp_path, input=b"x", capture_output=True, timeout=30
    )
    assert (done.returncode == 0) is good


def test_stock_ssh_keygen_agrees_on_the_beginning() -> None:
    policy = load_policy(dated("bob", FROM_TUESDAY), "policy.yaml")
    line = next(line for line in allowed_signers(policy).splitlines() if line.startswith("bob,"))
    assert ',valid-after="20261124120000Z" ssh-ed25519' in line
    entry = policy.spec.principals["bob"].keys[0]
    assert (valid_at(entry, MONDAY), valid_at(entry, TUESDAY)) == (False, True)
    assert valid_at(key("bob").public.text, MONDAY)


# ---- the whole way ----


def town(folder: Path, **window: str) -> Town:
    people = {**POLICY["principals"], "bob": principal("bob")}
    people["bob"]["keys"] = ({"key": key_of_town("bob"), **window},)
    return Town(folder, policy={**POLICY, "principals": people})


class Hasty(TestClock):
    """A clock that goes on by a second each time that it is read."""

    __test__ = False

    def now(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at - timedelta(seconds=1)


def key_of_town(name: str) -> str:
    return str(principal(name)["keys"][0])


@pytest.mark.parametrize(
    ("until", "outcome"), [("2026-11-23T13:00:00Z", "key-1"), ("2026-11-23T11:00:00Z", "key-0")]
)
def test_what_the_reconciler_judges_is_what_is_proved(tmp_path: Path, until: str, outcome: str) -> None:
    place = town(tmp_path, validBefore=until)
    reconciler = place.reconciler()
    place.settle(reconciler)
    place.request()
    place.settle(reconciler)
    assert place.keys["openai-chat"].in_use == outcome
    place.clock.advance(days=2)
    place.settle(reconciler)
    fresh = place.reconciler()
    place.settle(fresh)
    verdict = verify_audit(place.store, place.root, place.tip() or "", place.tip(AUDIT))
    assert verdict.first_bad is None
    assert place.keys["openai-chat"].in_use == outcome


def test_a_look_at_the_same_tips_is_judged_by_its_own_time(tmp_path: Path) -> None:
    place = town(tmp_path, validBefore="2026-11-24T12:00:00Z")
    place.request()
    kept = SnapshotCache()
    refs = place.store.refs()
    phases = [
        snapshot(place.store, refs, place.root, now, kept).requests[0].phase
        for now in (MONDAY, TUESDAY - timedelta(seconds=1), TUESDAY)
    ]
    assert phases == ["Approved", "Approved", "Proposed"]


def test_the_clock_is_not_read_twice_for_one_verdict(tmp_path: Path) -> None:
    """The key ends while the pass is under way: what it judged is recorded as of when it judged."""
    place = town(tmp_path, validBefore="2026-11-24T12:00:00Z")
    place.request()
    place.clock = Hasty(TUESDAY - timedelta(seconds=1))
    reconciler = place.reconciler()
    reconciler.one_pass(patience=5.0)
    verdict = verify_audit(place.store, place.root, place.tip() or "", place.tip(AUDIT))
    assert (verdict.first_bad, verdict.commits > 0) == (None, True)


def test_person_whose_last_key_ended_has_neither_account_nor_email_any_more() -> None:
    """Whoever left has an account at the forge all the same: nobody may review with it."""
    policy = load_policy(
        dated("bob", 'validBefore: "2026-11-20T12:00:00Z"', policy_of("forge")), "policy.yaml"
    )
    before, after, unknown = (
        policy_at(policy, at).spec.principals for at in (MONDAY - timedelta(days=5), MONDAY, None)
    )
    assert (len(before["bob"].keys), dict(before["bob"].forge)) == (1, {"github": 102})
    for gone in (after["bob"], unknown["bob"]):
        assert (gone.keys, dict(gone.forge), gone.email) == ((), {}, None)
    assert after["carol"] == before["carol"]
    assert after["carol"].forge
