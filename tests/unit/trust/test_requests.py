"""Requests judged together: what is reused, what is judged again, and what each verdict says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from capsule.trust.requests import RequestSet, expire, judge_requests
from capsule.trust.state import Finding
from tests.trust_history import (
    DEFAULT_RULES,
    EXPIRES,
    History,
    approved,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
BRANCH = "refs/heads/request/r1"
LATE = datetime.fromisoformat(EXPIRES.replace("Z", "+00:00"))


def on_branch(history: History, raw: bytes, name: str = "r1") -> str:
    main, files = history.tip, history.files
    tip = history.step(history.request(raw, name))
    history.tip, history.files = main, files
    return tip


def test_an_approved_request_says_everything_about_itself() -> None:
    history, raw = approved()
    judged = judge_requests(history, history.judged())["r1"]
    assert judged.verdict == "approved"
    assert (judged.raw, judged.source, judged.revision) == (raw, "main", history.tip)
    assert judged.path == "requests/2026/11/r1/request.yaml"
    assert judged.document is not None
    assert judged.target_digests == {"openai-chat": history.target_digests()["openai-chat"]}
    assert set(judged.rules) == {"openai-chat"}
    assert judged.approvals[0].evidence == "signature"
    assert judged.missing == ()
    assert judged.signature.startswith("-----BEGIN SSH SIGNATURE-----")


def test_a_request_without_approvals_waits_and_says_for_whom() -> None:
    history = History.begun()
    history.step(history.request(request_text()))
    judged = judge_requests(history, history.judged())["r1"]
    assert (judged.verdict, judged.reason) == ("proposed", "ApprovalsMissing")
    assert judged.missing[0].candidates == ("bob", "dave")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"nonsense", "InvalidDocument"),
        (request_text(targets=("openai-chat", "openai-chat")), "DuplicateTarget"),
        (request_text(targets=("nobody",)), "UnknownService"),
        (request_text(by="dave"), "UnknownPrincipalOrNotEntitled"),
        (request_text(by="nobody"), "UnknownPrincipal"),
    ],
)
def test_requests_that_are_refused(raw: bytes, reason: str) -> None:
    history = History.begun()
    by = "dave" if b"dave" in raw else "alice"
    history.step(history.request(raw, by=by))
    judged = judge_requests(history, history.judged())["r1"]
    assert judged.verdict == "refused"
    assert judged.reason == {"UnknownPrincipalOrNotEntitled": "NotEntitled"}.get(reason, reason)
    assert judged.message


def test_a_request_without_signature_or_without_itself() -> None:
    history = History.begun()
    history.step({"requests/2026/11/r1/request.yaml": request_text()})
    history.step({"requests/2026/11/r2/notes.txt": b"x"})
    found = judge_requests(history, history.judged())
    assert found["r1"].reason == "RequestUnsigned"
    assert found["r2"].reason == "MalformedTree"
    assert found["r2"].digest.startswith("sha256:")


def test_limits_count_the_share_of_all_services() -> None:
    settings = b"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\n"
    history = History.begun({**first_files(), "capsule.yaml": settings})
    history.step(history.request(request_text(targets=("openai-chat", "mailer"))))
    history.step(history.request(request_text("r2"), "r2"))
    found = judge_requests(history, history.judged())
    assert found["r1"].reason == "TooManyTargets"
    assert "50 percent" in found["r1"].message
    assert found["r2"].verdict == "proposed"


def test_no_share_of_all_services_is_too_large_for_a_disable() -> None:
    settings = b"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\n"
    disable = "{match: {action: disable}, mayRequest: [operators], approvals: []}"
    policy = policy_text(rules=(disable, *DEFAULT_RULES))
    raw = request_text(targets=("openai-chat", "mailer"), action="disable", params="{reason: Leak}")
    history = History.begun({**first_files(), "capsule.yaml": settings, "policy.yaml": policy})
    history.step(history.request(raw))
    assert judge_requests(history, history.judged())["r1"].verdict == "approved"
    few = settings + b"spec: {limits: {maxTargets: 1}}\n"
    history = History.begun({**first_files(), "capsule.yaml": few, "policy.yaml": policy})
    history.step(history.request(raw))
    assert judge_requests(history, history.judged())["r1"].reason == "TooManyTargets"


def test_time_is_told_and_never_remembered() -> None:
    history, _ = approved()
    state = history.judged()
    early = judge_requests(history, state, now=datetime(2026, 11, 1, tzinfo=UTC))
    assert early["r1"].verdict == "approved"
    late = judge_requests(history, state, {}, early, now=LATE)
    assert (late["r1"].verdict, late["r1"].reason) == ("refused", "Expired")
    assert judge_requests(history, state, {}, late)["r1"].verdict == "approved"
    assert expire(late["r1"], LATE) is late["r1"]


def test_a_branch_speaks_until_main_has_the_request() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    tip = on_branch(history, raw)
    found = judge_requests(history, history.judged(), {BRANCH: tip})
    assert (found["r1"].verdict, found["r1"].source, found["r1"].revision) == ("approved", "branch", tip)
    history.step(history.request(raw))
    assert judge_requests(history, history.judged(), {BRANCH: tip})["r1"].source == "main"


def test_a_branch_that_moves_without_changing_its_request_is_known_by_its_new_tip() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    tip = on_branch(history, raw)
    state = history.judged()
    known = judge_requests(history, state, {BRANCH: tip})
    moved = history.raw_commit(
        history.tree({**history.files, **{k: v for k, v in history.request(raw).items() if v}, "x": b"y"}),
        [tip],
    )
    again = judge_requests(history, state, {BRANCH: moved}, known)
    assert again["r1"].revision == moved


def test_a_branch_without_its_request_is_a_finding() -> None:
    history = History.begun()
    found = judge_requests(history, history.judged(), {BRANCH: history.tip, "refs/heads/main": history.tip})
    assert dict(found) == {}
    assert len(found) == 0
    assert [(each.reason, each.path) for each in found.findings] == [("BranchWithoutRequest", BRANCH)]
    assert found.without_request == {"r1"}
    several = (*found.findings, Finding("TooLarge", "too many requests", "requests/2026/11"))
    assert RequestSet({}, several).without_request == {"r1"}


def test_what_did_not_change_is_neither_read_nor_judged_again() -> None:
    history = History.begun()
    for at in range(30):
        history.step(history.request(request_text(f"r{at}"), f"r{at}"))
    state = history.judged()
    known = judge_requests(history, state)
    history.reads = 0
    again = judge_requests(history, state, {}, known)
    assert history.reads <= 6
    assert all(again[name] is known[name] for name in known)
    history.step(history.approval("bob", request_text("r3"), "r3"))
    state = history.judged()
    history.reads = 0
    third = judge_requests(history, state, {}, again)
    assert history.reads < 30
    assert third["r3"].verdict == "approved"
    assert third["r4"] is known["r4"]


def test_a_target_that_changed_is_judged_again_and_others_are_not() -> None:
    history = History.begun()
    for name, target in (("r1", "openai-chat"), ("r2", "mailer")):
        history.step(history.request(request_text(name, targets=(target,)), name))
    state = history.judged()
    known = judge_requests(history, state)
    history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="m2")}, by="alice")
    again = judge_requests(history, history.judged(), {}, known)
    assert again["r1"] is known["r1"]
    assert again["r2"].target_digests != known["r2"].target_digests


def test_policy_settings_number_of_services_and_begun_targets_are_all_looked_at() -> None:
    history, _ = approved()
    known = judge_requests(history, history.judged())
    begun = judge_requests(history, history.judged(), {}, known, begun={"r1": ["openai-chat"]})
    assert begun["r1"] is not known["r1"]
    history.step({"services/test/more.yaml": service_text("more", env="test")}, by="alice")
    more = judge_requests(history, history.judged(), {}, known)
    assert more["r1"] is not known["r1"]
    text = policy_text(2, teams={"operators": ["alice"], "reviewers": ["dave"], "owners": ["bob", "carol"]})
    words = history.change_word("carol", {"policy.yaml": (policy_text(), text)})
    history.step({"policy.yaml": text, **words}, by="bob")
    assert judge_requests(history, history.judged(), {}, more)["r1"].verdict == "proposed"


def test_targets_that_were_begun_void_nothing_and_need_not_exist() -> None:
    history = History.begun()
    raw = request_text(targets=("openai-chat", "mailer"))
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    change = {CHAT: (service_text(), None)}
    words = history.change_word("alice", change, "propose") | history.change_word("bob", change)
    history.step({CHAT: None, **words}, merge=True)
    state = history.judged()
    unknown = judge_requests(history, state)
    assert unknown["r1"].reason == "UnknownService"
    assert judge_requests(history, state, {}, unknown)["r1"] is unknown["r1"]
    assert judge_requests(history, state, begun={"r1": ("openai-chat",)})["r1"].verdict == "approved"


def test_folders_that_are_no_months_hold_no_requests() -> None:
    history = History.begun()
    paths = ("requests/README.md", "requests/old/11/r1/request.yaml", "requests/2026/x/r1/request.yaml")
    more = ("requests/2026/11/UPPER/request.yaml", "requests/2026/11/file", "requests/2026/file")
    history.step(dict.fromkeys((*paths, *more), b"x"))
    assert dict(judge_requests(history, history.judged())) == {}


def test_a_plain_mapping_is_no_memory() -> None:
    history, _ = approved()
    found = judge_requests(history, history.judged(), {}, {})
    assert isinstance(found, RequestSet)
    assert list(found) == ["r1"]


def test_a_rejection_that_does_not_count_is_still_told_as_a_rejection() -> None:
    history, _ = approved(decision="reject", signer=key("mallory"))
    (seen,) = judge_requests(history, history.judged(), {})["r1"].approvals
    assert (seen.decision, seen.counts) == ("reject", False)


def test_a_month_of_which_nothing_changed_is_taken_as_it_was() -> None:
    history = History.begun()
    for month in ("2026/10", "2026/11"):
        raw = request_text(f"r{month[-2:]}")
        history.step(history.request(raw, f"r{month[-2:]}", month=month))
    known = judge_requests(history, history.judged())
    raw = request_text("new")
    history.step(history.request(raw, "new", month="2026/11"))
    again = judge_requests(history, history.judged(), {}, known)
    assert again.months["2026/10"] is known.months["2026/10"]
    assert again.months["2026/11"].keys() == {"r11", "new"}
    assert again["r11"] is known["r11"], "its month is walked, and it is not judged again"
    begun = judge_requests(history, history.judged(), {}, again, begun={"r10": ["openai-chat"]})
    assert begun.months["2026/10"] is not again.months["2026/10"]
    assert begun.months["2026/11"] is again.months["2026/11"]


def test_a_name_that_stands_twice_for_a_while_is_neither_lost_nor_approved_from_memory() -> None:
    history, raw = approved()
    known = judge_requests(history, history.judged())
    copy = history.request(raw, month="2026/10") | history.approval("bob", raw, month="2026/10")
    history.step(copy)
    doubled = judge_requests(history, history.judged(), {}, known)
    assert (doubled["r1"].reason, doubled.months["2026/10"]["r1"].verdict) == ("DuplicateRequest", "refused")
    assert "r1" not in doubled.months["2026/11"], "a name is shown once, in its first month"
    history.step(dict.fromkeys(copy))
    single = judge_requests(history, history.judged(), {}, doubled)
    assert (single["r1"].verdict, single["r1"].path) == ("approved", known["r1"].path)
