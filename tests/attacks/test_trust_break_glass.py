"""What somebody tries who would act without approvals, or have it forgotten that the glass was broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from capsule.documents.check.tree import check_tree
from capsule.documents.types import Claim
from capsule.lifecycle import RequestRecords, read_records
from capsule.trust.audit import verify_audit
from capsule.trust.break_glass import unfit_to_acknowledge
from capsule.trust.policy_checks import InvalidPolicy, load_policy
from capsule.trust.published import signers_document
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest
from capsule.view.broken_glass import broken_glass
from capsule.view.build import snapshot
from capsule.view.events import events_of
from capsule.view.model import OperationRow, RequestRow
from capsule_agent import approvals
from capsule_agent.protocol.messages import SignedText, Signers, decode
from capsule_agent.refusal import Refusal
from tests.agent_fixtures import NOW, PRINCIPALS, Ask, signers_list
from tests.town import POLICY, Town
from tests.trust_history import (
    CLAIMED,
    DEFAULT_RULES,
    ENDED,
    Audit,
    Files,
    History,
    first_files,
    policy_text,
    request_text,
)

GLASS = (
    "{match: {action: rotateKey, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}], breakGlass: {team: oncall}}"
)
ACKNOWLEDGE = "{match: {action: acknowledge}, mayRequest: [operators, reviewers, owners], approvals: []}"
TEAMS = {
    "operators": ["alice"],
    "oncall": ["alice", "bob", "reconciler-1"],
    "reviewers": ["bob", "dave"],
    "owners": ["bob", "carol"],
}
WHY = 'breakGlass: true\n  reason: "Key in a public log, OPS-1300"'


def files(*rules: str, teams: Mapping[str, Sequence[str]] = TEAMS) -> Files:
    return {
        **first_files(),
        "policy.yaml": policy_text(teams=teams, rules=(*rules, ACKNOWLEDGE, *DEFAULT_RULES)),
    }


def glass_text(why: str = WHY, **spec: Any) -> bytes:
    return request_text(**spec).replace(b'reason: "OPS-1"', why.encode())


def asked(
    raw: bytes, *, by: str = "alice", rules: Sequence[str] = (GLASS,), more: Any = None, branch: bool = True
) -> tuple[History, JudgedRequest]:
    """A history with the request `raw` on its branch (or on main), and what it amounts to."""
    history = History.begun(files(*rules))
    main, before = history.tip, history.files
    commit = history.step(history.request(raw, by=by) | (more(history) if more else {}))
    if not branch:
        return history, judge_requests(history, history.judged(), {})["r1"]
    history.tip, history.files = main, before
    return history, judge_requests(history, history.judged(), {"refs/heads/request/r1": commit})["r1"]


def word(who: str, raw: bytes, decision: str = "break-glass", **changes: Any) -> Any:
    return lambda history: history.approval(who, raw, decision=decision, **changes)


# ---- who may ----


def test_control_an_honest_break_glass_is_taken_from_its_branch() -> None:
    raw = glass_text()
    _, judged = asked(raw, more=word("alice", raw))
    assert (judged.verdict, judged.evidence, judged.missing) == ("approved", "break-glass", ())
    assert (judged.approved_by, [seen.counts for seen in judged.approvals]) == ((), [True])
    _, judged = asked(raw, branch=False)
    assert (judged.verdict, judged.evidence) == ("approved", "break-glass")


def test_somebody_of_the_team_who_may_not_ask_otherwise() -> None:
    raw = glass_text(by="bob")
    assert asked(raw, by="bob")[1].verdict == "approved"
    quiet = request_text(by="bob")
    assert asked(quiet, by="bob")[1].reason == "NotEntitled"


@pytest.mark.parametrize(
    ("reason", "raw", "by", "rules"),
    [
        ("NoBreakGlass", glass_text(), "alice", DEFAULT_RULES),
        ("NotEntitled", glass_text(by="carol"), "carol", (GLASS,)),
        ("NotEntitled", glass_text(by="reconciler-1"), "reconciler-1", (GLASS,)),
        ("BreakGlassUnreasoned", glass_text('breakGlass: true\n  reason: "123456789"'), "alice", (GLASS,)),
        ("BreakGlassUnreasoned", glass_text('breakGlass: true\n  reason: "   1234   "'), "alice", (GLASS,)),
        (
            "BreakGlassUnreasoned",
            glass_text('breakGlass: true\n  reason: "LEAKED: 123456789"'),
            "alice",
            (GLASS,),
        ),
        (
            "BreakGlassUnreasoned",
            glass_text('breakGlass: true\n  reason: " leaked:LEAKED:  123456789 "'),
            "alice",
            (GLASS,),
        ),
        ("BadSignature", glass_text(), "bob", (GLASS,)),
        ("NoBreakGlass", glass_text(targets=("openai-chat", "mailer")), "alice", (GLASS,)),
    ],
)
def test_who_may_not_break_the_glass(reason: str, raw: bytes, by: str, rules: Sequence[str]) -> None:
    _, judged = asked(raw, by=by, rules=rules)
    assert (judged.verdict, judged.reason) == ("refused", reason)


def test_ten_characters_are_a_reason() -> None:
    for why in ("1234567890", "LEAKED: 1234567890"):
        assert asked(glass_text(f'breakGlass: true\n  reason: "{why}"'))[1].verdict == "approved"


def test_a_request_that_does_not_say_so_is_not_broken_by_a_word() -> None:
    raw = request_text()
    _, judged = asked(raw, more=word("alice", raw))
    assert (judged.verdict, [seen.reason for seen in judged.approvals]) == ("proposed", ["BreakGlassUnasked"])


def test_a_reviewer_still_rejects() -> None:
    raw = glass_text()
    _, judged = asked(raw, more=word("dave", raw, "reject"))
    assert (judged.verdict, judged.reason) == ("rejected", "Rejected")


@pytest.mark.parametrize(
    ("who", "changes", "reason"),
    [
        ("bob", {}, "BreakGlassNotOwn"),
        ("alice", {"request": {"action": "disable"}}, "ActionChanged"),
        ("alice", {"request": {"params": {"grace": "0s"}}}, "ParamsChanged"),
        ("alice", {"targets": {"openai-chat": "sha256:" + "0" * 64}}, "TargetChanged"),
        ("alice", {"request": {"digest": "sha256:" + "0" * 64}}, "RequestChanged"),
    ],
)
def test_the_word_for_agents_binds_what_an_approval_binds(
    who: str, changes: dict[str, Any], reason: str
) -> None:
    raw = glass_text()
    _, judged = asked(raw, more=word(who, raw, **changes))
    assert [(seen.counts, seen.reason) for seen in judged.approvals] == [(False, reason)]


def test_the_team_is_one_of_the_policy() -> None:
    with pytest.raises(InvalidPolicy, match="rule 1 names night, which is no team"):
        load_policy(policy_text(rules=[GLASS.replace("oncall", "night"), *DEFAULT_RULES]), "policy.yaml")


@pytest.mark.parametrize(
    ("rule", "teams", "reasons"),
    [
        (GLASS, TEAMS, []),
        (GLASS.replace("oncall", "night"), TEAMS, ["UnknownTeam"]),
        (GLASS, {**TEAMS, "oncall": ["reconciler-1"]}, ["IdleBreakGlass"]),
        ("{match: {change: settings}, mayRequest: [owners], approvals: [{team: owners, count: 1}], "
         "breakGlass: {team: oncall}}", TEAMS, ["IdleBreakGlass"]),
        ("{match: {action: drain}, mayRequest: [operators], approvals: [], breakGlass: {team: oncall}}",
         TEAMS, ["IdleBreakGlass"]),
    ],
)  # fmt: skip
def test_check_tells_of_a_glass_that_nobody_can_break(
    rule: str, teams: Mapping[str, Sequence[str]], reasons: list[str]
) -> None:
    found = [each for each in check_tree(files(rule, teams=teams)) if each.path == "policy.yaml"]
    assert [each.reason for each in found if each.reason != "ShadowedRule"] == reasons


@pytest.mark.parametrize(
    ("raw", "by", "decision", "reasons"),
    [
        (glass_text(), "alice", "break-glass", []),
        (glass_text(by="carol"), "carol", "break-glass", ["NotAllowedToRequest"]),
        (request_text(), "alice", "break-glass", ["BreakGlassMismatch"]),
        (glass_text(), "bob", "break-glass", ["BreakGlassMismatch"]),
        (glass_text(targets=("openai-chat", "mailer")), "alice", "break-glass", ["NotAllowedToRequest"]),
    ],
)
def test_check_tells_of_a_request_that_may_not(
    raw: bytes, by: str, decision: str, reasons: list[str]
) -> None:
    history = History.begun(files(GLASS))
    asking = "carol" if b"requestedBy: carol" in raw else "alice"
    history.step(
        history.request(raw, by=asking)
        | history.approval(by, raw, decision=decision, request={"requestedBy": asking})
    )
    found = [each.reason for each in check_tree(history.files) if each.path.startswith("requests/")]
    assert found == reasons


# ---- agents ----

GLASS_MAY: Mapping[str, Sequence[Any]] = {**PRINCIPALS, "alice": ["request", "break-glass"]}


def known(may: Mapping[str, Sequence[Any]] = GLASS_MAY) -> Signers:
    return decode(Signers, signers_list(principals=may).document.encode())


def breaks(ask: Ask, *words: SignedText, signers: Signers | None = None) -> bool:
    return approvals.breaks_glass(ask.order(), ask.evidence(*words), signers or known(), NOW)


def test_control_an_agent_takes_the_word_of_who_may() -> None:
    ask = Ask()
    assert breaks(ask, ask.signed_approval("alice", decision="break-glass"))
    assert not breaks(ask)
    assert not approvals.breaks_glass(ask.order(), None, known(), NOW)
    assert not breaks(ask, SignedText("{", ""))


@pytest.mark.parametrize(
    ("reason", "who", "by", "changes"),
    [
        ("BreakGlassNotOwn", "bob", "bob", {}),
        ("BreakGlassForged", "alice", "bob", {}),
        ("ApprovalForOtherAction", "alice", "alice", {"action": "disable"}),
        ("ApprovalForOtherParams", "alice", "alice", {"params": {"grace": "0s"}}),
        ("ApprovalForOtherText", "alice", "alice", {"digest": "sha256:" + "0" * 64}),
        ("ApprovalForOtherRequest", "alice", "alice", {"name": "another"}),
        ("ApprovalForOtherService", "alice", "alice", {"targets": {"mailer": "sha256:" + "0" * 64}}),
        ("ApprovalForOtherRepository", "alice", "alice", {"repository": "0" * 40}),
        ("ApprovalExpired", "alice", "alice", {"expires": "2026-11-23T12:00:00Z"}),
    ],
)
def test_an_agent_checks_the_word(reason: str, who: str, by: str, changes: dict[str, Any]) -> None:
    ask = Ask()
    with pytest.raises(Refusal) as caught:
        breaks(ask, ask.signed_approval(who, by, decision="break-glass", **changes))
    assert caught.value.reason == reason


def test_an_agent_learns_from_owners_who_may() -> None:
    ask = Ask()
    with pytest.raises(Refusal) as caught:
        breaks(ask, ask.signed_approval("alice", decision="break-glass"), signers=known(PRINCIPALS))
    assert caught.value.reason == "GlassBreakerNotListed"
    alone = known({**PRINCIPALS, "alice": ["break-glass"]})
    with pytest.raises(Refusal) as caught:
        breaks(ask, ask.signed_approval("alice", decision="break-glass"), signers=alone)
    assert caught.value.reason == "RequesterNotListed"


def test_an_agent_wants_the_request_itself_and_a_rejection_refuses() -> None:
    ask = Ask()
    said = ask.signed_approval("alice", decision="break-glass")
    order = replace(ask.order(), request_digest="sha256:" + "0" * 64)
    with pytest.raises(Refusal) as caught:
        approvals.breaks_glass(order, ask.evidence(said), known(), NOW)
    assert caught.value.reason == "RequestDigestDiffers"
    no_request = replace(ask.order(), request="")
    assert not approvals.breaks_glass(no_request, ask.evidence(said), known(), NOW)
    assert breaks(ask, *[said] * approvals.MAX_APPROVALS)
    assert not breaks(ask, *[said] * (approvals.MAX_APPROVALS + 1))
    with pytest.raises(Refusal) as caught:
        breaks(ask, said, ask.signed_approval("bob", decision="reject"))
    assert caught.value.reason == "Rejected"
    assert breaks(ask, ask.signed_approval("bob", "alice", decision="reject"), said)


def test_the_word_is_no_approval() -> None:
    ask = Ask()
    said = ask.signed_approval("alice", decision="break-glass")
    with pytest.raises(Refusal) as caught:
        approvals.check_approvals(ask.order(), ask.evidence(said), known(), 1, NOW)
    assert caught.value.reason == "BreakGlassRefused"


def test_agents_are_told_who_may() -> None:
    policy = load_policy(files(GLASS)["policy.yaml"], "policy.yaml")
    listed = signers_document(policy, "0" * 40, 1).principals
    assert {name: entry.may for name, entry in listed.items()} == {
        "alice": ("request", "break-glass"),
        "bob": ("request", "approve", "break-glass"),
        "carol": ("request",),
        "dave": ("request", "approve"),
        "reconciler-1": ("order",),
    }


# ---- records ----


def executed(**claim: Any) -> Audit:
    """Audit of a request for which alice broke the glass, and of its success."""
    history = History.begun(files(GLASS))
    audit = Audit(history)
    raw = glass_text()
    history.step(history.request(raw), merge=True)
    said = {"approved_by": (), "evidence": "break-glass", **claim}
    without = tuple(pair for pair in CLAIMED if pair[0] != "Approved-by")
    trailers = tuple(
        (name, said["evidence"] if name.endswith("Evidence") else text) for name, text in without
    )
    audit.step(audit.claim(raw, **said), trailers=trailers)
    audit.step(audit.result(raw), trailers=(*trailers, *ENDED[len(CLAIMED) :]))
    return audit


def acknowledged(audit: Audit, by: str, victim: str = "r1", **outputs: Any) -> Audit:
    history = audit.history
    raw = request_text("r2", by=by, action="acknowledge", params=f"{{request: {victim}}}")
    history.step(history.request(raw, "r2", by=by), merge=True)
    about: dict[str, Any] = {"action": "acknowledge", "name": "r2"}
    claim = audit.claim(raw, requested_by=by, approved_by=(), **about)
    said: dict[str, Any] = {"reason": "Acknowledged", "outputs": {"request": victim, **outputs}}
    trailers = [
        ("Capsule-Request", "r2"),
        ("Capsule-Service", "openai-chat"),
        ("Capsule-Action", "acknowledge"),
        ("Requested-by", by),
        ("Capsule-Outcome", "succeeded"),
        ("Capsule-Reason", "Acknowledged"),
    ]
    audit.step(claim | audit.result(raw, bare=True, **about, **said), trailers=trailers)
    return audit


def test_control_audit_proves_a_broken_glass_and_its_acknowledgement() -> None:
    assert executed().reason() is None
    assert acknowledged(executed(), "bob").reason() is None


def test_a_claim_does_not_hide_that_the_glass_was_broken() -> None:
    assert executed(evidence="signature").reason() == "ClaimMismatch"
    assert executed(approved_by=("bob",)).reason() == "ClaimMismatch"


@pytest.mark.parametrize(("by", "victim"), [("alice", "r1"), ("carol", "r1"), ("bob", "r9")])
def test_an_acknowledgement_by_nobody_who_was_left_out(by: str, victim: str) -> None:
    assert acknowledged(executed(), by, victim).reason() == "ResultMismatch"


def test_owners_acknowledge_where_no_rule_asks_any_more() -> None:
    audit = executed()
    records = [
        Claim.model_validate(
            {
                "apiVersion": "capsule/v1",
                "kind": "Claim",
                "metadata": {"name": "r1"},
                "spec": {
                    "request": "r1",
                    "requestDigest": "sha256:" + "0" * 64,
                    "opId": "0" * 64,
                    "service": service,
                    "serviceDigest": "sha256:" + "0" * 64,
                    "action": action,
                    "requestedBy": "alice",
                    "approvedBy": (),
                    "evidence": "break-glass",
                    "observedRevision": audit.history.tip,
                    "reconciler": "reconciler-1",
                    "attempt": 1,
                    "nonce": "0" * 32,
                    "claimedAt": NOW,
                },
            },
            strict=False,
        ).spec
        for service, action in (("gone", "rotateKey"), ("openai-chat", "nothing"))
    ]
    state = audit.history.judged()
    assert unfit_to_acknowledge(state, "carol", records) == ""
    assert "is in none of owners" in unfit_to_acknowledge(state, "dave", records)


def test_the_condition_names_some_services_and_how_many_more() -> None:
    row = recorded_row(6)
    (shown,) = broken_glass([row])
    assert "s0, s1, s2, s3, s4 and 1 more" in shown.message
    (few,) = broken_glass([recorded_row(1, why="")])
    assert few.message.startswith("alice acted without approvals, rotateKey s0 in r1; ")


def recorded_row(count: int, why: str = "Key in a public log") -> RequestRow:
    operations = tuple(
        OperationRow(
            "r1", f"s{at}", "rotateKey", {}, "succeeded", "Rotated", "", "alice", (), "break-glass", why,
            "reconciler-1", 1, NOW, NOW,
        )
        for at in range(count)
    )  # fmt: skip
    return RequestRow(
        "r1", "requests/2026/11/r1/request.yaml", "", "branch", "rotateKey", (), {}, "alice", why, None,
        "Succeeded", "", "", (), (), "break-glass", operations,
    )  # fmt: skip


# ---- end to end ----


def town(folder: Path, *, declared: bool) -> Town:
    rules = [dict(rule) for rule in POLICY["rules"]]
    rules[2]["breakGlass"] = {"team": "operators"}
    reviewers = {
        "match": {"action": "acknowledge"},
        "mayRequest": ("operators", "reviewers"),
        "approvals": (),
    }
    found = Town(folder, policy={**POLICY, "rules": (rules[0], reviewers, *rules[1:])})
    found.agents["openai-chat"].rotation(found.keys["openai-chat"].rotation(), break_glass=declared)
    return found


def break_glass(place: Town) -> None:
    """Alice asks, and says it to agents, too."""
    values: dict[str, Any] = {"breakGlass": True, "reason": "Key in a public log"}
    raw = place.request("glass-1", branch=True, approved_by=(), **values)
    document = place.document(raw)
    said = dict(place.approval(document, raw, "alice", "break-glass"))
    place.commit(said, "Say it to agents", ref="refs/heads/request/glass-1")


def acknowledge(place: Town, who: str, name: str) -> None:
    place.request(
        name,
        branch=True,
        approved_by=(),
        by=who,
        action="acknowledge",
        params={"request": "glass-1"},
        reason="Looked into it",
    )


def recorded(place: Town, name: str) -> RequestRecords:
    found = read_records(place.store, place.tip("refs/heads/audit")).of(name)
    assert found is not None
    return found


def kinds(place: Town) -> list[str]:
    seen = snapshot(place.store, place.store.refs(), place.root, place.clock.now() + timedelta(seconds=1))
    return [event.kind for event in events_of(seen) if event.kind == "BreakGlass"]


def test_break_glass_from_request_to_acknowledgement(tmp_path: Path) -> None:
    place = town(tmp_path, declared=True)
    reconciler = place.reconciler()
    break_glass(place)
    place.settle(reconciler)
    operation = recorded(place, "glass-1").operations["openai-chat"]
    assert operation.result is not None
    assert operation.result.spec.outcome == "succeeded"
    assert place.keys["openai-chat"].in_use == "key-1"
    assert kinds(place) == ["BreakGlass"]
    acknowledge(place, "alice", "seen-1")
    place.settle(reconciler)
    refusal = recorded(place, "seen-1").refusal
    assert refusal is not None
    assert refusal.spec.reason == "NotToAcknowledge"
    assert kinds(place) == ["BreakGlass"]
    acknowledge(place, "bob", "seen-2")
    place.settle(reconciler)
    assert kinds(place) == []
    verdict = verify_audit(place.store, place.root, place.tip() or "", place.tip("refs/heads/audit"))
    assert verdict.first_bad is None


def test_an_agent_that_does_not_declare_it_is_not_even_asked(tmp_path: Path) -> None:
    place = town(tmp_path, declared=False)
    break_glass(place)
    place.settle(place.reconciler())
    seen = snapshot(place.store, place.store.refs(), place.root, place.clock.now())
    (row,) = seen.requests
    assert (row.phase, row.evidence, row.operations) == ("Held", "break-glass", ())
    assert row.reason == "AgentWantsSignatures"
    assert "capsule approve" in row.message
    assert place.keys["openai-chat"].in_use == "key-0"
