"""What a step of main brings into force, and what it says of the rest: each test stands for one check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capsule.trust.hearing import hear
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.mainline import advance, begin, judge
from capsule.trust.state import MainState, SeenApproval
from tests.evidence_history import ChangeDesk, Desk, files_of, policy_of, review
from tests.trust_history import DEFAULT_RULES, Files, History, first_files, key, policy_text, service_text
from tests.unit.worlds import request

CHAT, MAILER = "services/openai-chat.yaml", "services/test/mailer.yaml"
MOVED, ELSEWHERE = "services/prod/openai-chat.yaml", "services/other/openai-chat.yaml"
NEW = service_text(model="gpt-6")
MERGES = (
    "{match: {change: service}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    "evidence: merge}"
)


def _messages(state: MainState) -> dict[str, str]:
    return {change.path: change.message for change in state.pending}


# ---- words --------------------------------------------------------------------------------------


def test_what_is_said_of_one_document_is_not_said_of_another() -> None:
    history = History.begun()
    forged = history.change_word("bob", {CHAT: (service_text(), NEW)}, signer=key("mallory"))
    others = {f"services/{name}.yaml": service_text(name) for name in ("a", "z")}
    history.step({CHAT: NEW, **others, **forged}, by="alice")
    messages = _messages(history.judged())
    assert "BadSignature" in messages[CHAT]
    assert {messages[path] for path in others} == {"missing: 1 of reviewers"}


def test_a_signature_of_a_step_that_does_not_count_is_told() -> None:
    history = History.begun()
    commit = history.step({CHAT: NEW}, by="stranger")
    assert f"the signature of commit {commit[:12]} does not count" in _messages(history.judged())[CHAT]


def _two_of_three() -> Files:
    rule = (
        "{match: {change: service}, mayRequest: [operators], approvals: [{team: reviewers, count: 2}]}",
        DEFAULT_RULES[-1],
    )
    teams = {"operators": ["alice"], "reviewers": ["bob", "dave"], "owners": ["bob", "carol"]}
    return first_files() | {"policy.yaml": policy_text(rules=rule, teams=teams)}


def test_a_suspension_voids_the_words_that_arrive_and_no_others() -> None:
    history = History.begun(_two_of_three())
    good, change = history.files["policy.yaml"], {CHAT: (service_text(), NEW)}
    bob, dave = history.change_word("bob", change), history.change_word("dave", change)
    history.step({CHAT: NEW, **bob}, by="alice")
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    history.step(dave)
    suspended = history.judged()
    kept = next(each for each in suspended.pending if each.path == CHAT)
    assert kept.documents == tuple(path for path in bob if path.endswith(".json"))
    history.step({"policy.yaml": good})
    history.step(history.change_word("dave", change, reason="again"))
    state = advance(history, suspended, history.tip)
    assert state.pending == ()
    assert state.services["openai-chat"].since == history.tip


def test_a_word_that_lost_its_signature_while_main_was_suspended_counts_once_it_is_back() -> None:
    history = History.begun(_two_of_three())
    good, change = history.files["policy.yaml"], {CHAT: (service_text(), NEW)}
    bob = history.change_word("bob", change)
    seals = {path: data for path, data in bob.items() if path.endswith(".sig")}
    history.step({CHAT: NEW, **bob}, by="alice")
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    history.step(dict.fromkeys(seals))
    history.step({"policy.yaml": good})
    history.step(history.change_word("dave", change))
    assert [each.approved_by for each in history.judged().pending] == [("dave",)]
    history.step(seals)
    assert history.judged().pending == ()


def test_a_suspension_voids_no_word_on_the_policy_itself() -> None:
    history = History.begun()
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    change = {"policy.yaml": (policy_text(), policy_text(2))}
    history.step(history.change_word("bob", change, "propose"))
    assert history.judged().suspended is not None
    history.step(history.change_word("carol", change))
    state = history.judged()
    assert (state.suspended, state.policy.document.spec.serial) == (None, 2)


def test_a_document_of_a_word_is_listed_once() -> None:
    history = History.begun()
    word = history.change_word("bob", {CHAT: (service_text(), NEW)})
    (path, data), (seal, signature) = word.items()
    history.step({CHAT: NEW, path: data}, by="alice")
    history.step({seal: b"no signature\n"})
    (waiting,) = history.judged().pending
    assert waiting.documents == (path,)
    history.step({seal: signature})
    assert history.judged().pending == ()


def test_a_signature_without_its_word_says_nothing() -> None:
    history = History.begun()
    word = history.change_word("bob", {CHAT: (service_text(), NEW)})
    history.step({CHAT: NEW}, by="alice")
    history.step({path: data for path, data in word.items() if path.endswith(".sig")})
    state = history.judged()
    assert state.tip == history.tip
    assert [change.documents for change in state.pending] == [()]


# ---- several documents --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "places"),
    [
        ({MOVED: NEW}, [MOVED, CHAT]),
        ({CHAT: None, MOVED: NEW, ELSEWHERE: NEW}, [ELSEWHERE, MOVED]),
        (
            {"services/a/new.yaml": service_text("new"), "services/b/new.yaml": service_text("new")},
            ["services/a/new.yaml", "services/b/new.yaml"],
        ),
    ],
)
def test_a_name_in_several_places_is_told_with_all_of_them(
    edits: dict[str, bytes | None], places: list[str]
) -> None:
    history = History.begun()
    history.step(edits, by="alice")
    messages = set(_messages(history.judged()).values())
    (message,) = messages
    said, _, names = message.partition(": ")
    assert said == "one name in several places"
    assert sorted(names.split(", ")) == sorted(places)


def _desk() -> Desk:
    return Desk(History.begun(files_of(policy_of("merge", rules=(MERGES,)))))


def _merge(at: Desk, who: str, edits: dict[str, bytes | None], moment: int) -> None:
    history = at.history
    side = history.raw_commit(
        history.tree(history.edited(edits)), [history.tip], email="alice@example.com", at=moment
    )
    at.merge(who, sides=[side], edits=edits, at=moment)


@pytest.mark.parametrize("moment", range(12))
def test_a_merge_lets_in_nothing_that_another_merge_brought(moment: int) -> None:
    """Of two merges that bring one service, that of somebody known does not speak for the other one."""
    at = _desk()
    _merge(at, "bob", {MOVED: NEW}, moment)
    _merge(at, "stranger", {CHAT: None}, moment)
    state = at.history.judged()
    assert state.services["openai-chat"].path == CHAT
    assert {change.path: change.approved_by for change in state.pending} == {MOVED: (), CHAT: ()}


def test_a_merge_lets_in_nothing_that_was_pushed_beside_it() -> None:
    at = _desk()
    _merge(at, "bob", {MOVED: NEW}, 0)
    at.history.step({CHAT: None})
    state = at.history.judged()
    assert state.services["openai-chat"].path == CHAT
    assert {change.path: change.approved_by for change in state.pending} == {MOVED: (), CHAT: ()}


def test_services_that_a_step_does_not_touch_are_the_very_same() -> None:
    history = History.begun()
    before = history.judged()
    settings = history.files["capsule.yaml"].replace(b"100", b"90")
    history.step({"capsule.yaml": settings}, by="alice")
    after = advance(history, before, history.tip)
    assert after.settings.since == history.tip
    assert after.services is before.services


# ---- reviews at a forge -------------------------------------------------------------------------


def test_what_was_reviewed_is_judged_and_nothing_else_that_waits() -> None:
    desk = ChangeDesk.of()
    misplaced = "services/Not A Name.yaml"
    settings = desk.history.files["capsule.yaml"].replace(b"maxShare: 100", b"maxShare: 50")
    desk.history.step({"capsule.yaml": settings, CHAT: NEW, MAILER: None, misplaced: b"x"})
    before = desk.state()
    waiting = {change.path: change for change in before.pending}
    assert waiting.keys() == {"capsule.yaml", CHAT, MAILER, misplaced}
    for reviewed in ("capsule.yaml", CHAT):
        after = hear(desk.history, before, desk.told(review("bob"), paths=(reviewed,)))
        left = {change.path: change for change in after.pending}
        assert left.keys() == waiting.keys() - {reviewed}
        assert all(change is waiting[path] for path, change in left.items())


def test_reviews_let_in_nothing_of_which_a_part_came_while_main_was_suspended() -> None:
    desk = ChangeDesk.of()
    good = desk.history.files["policy.yaml"]
    desk.history.step({"policy.yaml": policy_text(serial=2)})
    void = desk.history.step({MOVED: NEW})
    desk.history.step({"policy.yaml": good})
    fresh = desk.history.step({CHAT: None})
    desk.review(review("bob"), paths=(CHAT, MOVED), steps=(fresh, void))
    state = desk.state()
    assert state.suspended is None
    assert state.services["openai-chat"].path == CHAT
    assert {change.path for change in state.pending} == {CHAT, MOVED}


# ---- judged for ever or for now -----------------------------------------------------------------


def _seen(history: History) -> SeenOnAudit:
    return SeenOnAudit(history, history.root, history.tip, None, None)


def test_a_policy_without_ends_is_judged_for_ever() -> None:
    history = History.begun()
    history.step({CHAT: NEW}, by="alice")
    assert not judge(history, history.root, history.tip, seen=_seen(history)).fleeting


def test_what_was_judged_for_now_stays_so_whatever_comes_after() -> None:
    line = f'"{key("alice").public.text}"'
    dated = policy_text().decode().replace(line, f'{{key: {line}, validBefore: "2026-11-24T12:00:00Z"}}')
    history = History.begun(first_files() | {"policy.yaml": dated.encode()})
    history.step({CHAT: NEW}, by="alice")
    first = advance(history, replace(begin(history, history.root), seen=_seen(history)), history.tip)
    assert first.fleeting
    history.step({"README.md": b"more\n"})
    assert advance(history, first, history.tip).fleeting


# ---- whose approvals count ----------------------------------------------------------------------


def test_only_approvals_that_count_are_approvals() -> None:
    said = [
        SeenApproval("bob", "approve", True, "signature", b"", ""),
        SeenApproval("carol", "reject", True, "signature", b"", ""),
        SeenApproval("alice", "break-glass", True, "signature", b"", ""),
        SeenApproval("dave", "approve", False, "signature", b"", "", "TargetChanged"),
    ]
    judged = request(approvals=tuple(said))
    assert judged.evidence_of_people() == [("bob", "signature")]
    assert judged.approved_by == ("bob",)
