"""What somebody tries to have a remembered verdict stand that nobody would come to today."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capsule.trust.requests import judge_afresh, judge_requests
from capsule.trust.state import JudgedRequest, MainState
from tests.attacks.test_trust_key_validity import MONDAY, WEDNESDAY, asked, at, seen_at
from tests.evidence_history import Desk, files_of, policy_of, review
from tests.trust_history import DEFAULT_RULES, Audit, History, request_text, service_text

CHAT = "services/openai-chat.yaml"
MOVED = "services/prod/openai-chat.yaml"
ANYBODY = "{match: {change: service}, mayRequest: [operators], approvals: []}"
BY_MERGE = (
    "{match: {action: rotateKey, selector: {env: prod}}, mayRequest: [operators], "
    "approvals: [{team: reviewers, count: 1}], evidence: merge}"
)


def merged() -> Desk:
    """A request that bob merged, where operators may edit services as they like."""
    desk = Desk(History.begun(files_of(policy_of("merge", rules=(BY_MERGE, ANYBODY, *DEFAULT_RULES[:1])))))
    desk.merge("bob")
    return desk


def both(history: History, before: MainState, after: MainState) -> JudgedRequest:
    """The request as judged after what happened since, with the memory of before and without: the same."""
    known = judge_requests(history, before)
    assert known["r1"].verdict == "approved"
    found = judge_requests(history, after, {}, known)["r1"]
    anew = judge_requests(history, after)["r1"]
    assert replace(found, revision=after.tip) == anew == judge_afresh(history, after, found)
    return found


def test_control_a_move_of_a_document_voids_nothing() -> None:
    desk = merged()
    history, before = desk.history, desk.history.judged()
    history.step({CHAT: None, MOVED: history.files[CHAT]}, by="alice")
    state = history.judged()
    assert state.services["openai-chat"].path == MOVED
    assert both(history, before, state).verdict == "approved"


@pytest.mark.parametrize("moved", [CHAT, MOVED])
def test_a_target_changed_since_the_merge_is_no_move(moved: str) -> None:
    desk = merged()
    history, before = desk.history, desk.history.judged()
    changed = service_text("openai-chat", env="prod", model="gpt-6")
    history.step({CHAT: None} | {moved: changed}, by="alice")
    assert history.judged().services["openai-chat"].path == moved
    found = both(history, before, history.judged())
    assert [seen.reason for seen in found.approvals] == ["TargetChanged"]


def test_a_second_document_that_lay_there_at_the_merge_is_not_what_was_shown() -> None:
    rules = (BY_MERGE, ANYBODY, *DEFAULT_RULES[:1])
    desk = Desk(History.begun(files_of(policy_of("merge", rules=rules))))
    history = desk.history
    history.step({MOVED: service_text("openai-chat", env="prod", model="gpt-6")}, by="alice")
    desk.merge("bob")
    assert desk.refused() == "TargetChanged"
    history.step({CHAT: None}, by="alice")
    history.step({"services/prod/README.md": b"Nothing."}, by="alice")
    assert desk.refused() == "TargetChanged"


def test_a_folder_with_the_name_of_a_document_shows_nothing_and_equal_copies_show_the_same() -> None:
    rules = (BY_MERGE, ANYBODY, *DEFAULT_RULES[:1])
    desk = Desk(History.begun(files_of(policy_of("merge", rules=rules))))
    history = desk.history
    text = history.files[CHAT]
    history.step({"services/x/openai-chat.yaml": text, "services/y/openai-chat.yaml": text}, by="alice")
    history.step({"services/z/openai-chat.yaml/README": b"a folder"}, by="alice")
    desk.merge("bob")
    assert desk.judged().verdict == "approved"


def test_signatures_put_back_after_their_key_ended() -> None:
    """Removed and put back between two looks: the bytes are the same, the day on which they came is not."""
    history = asked()
    audit = Audit(history)
    audit.step({}, at=at(MONDAY))
    before = seen_at(history, audit, MONDAY)
    files = {path: data for path, data in history.files.items() if path.startswith("requests/")}
    history.step(dict.fromkeys(files))
    history.step(dict(files))
    audit.step({}, at=at(WEDNESDAY))
    found = both(history, before, seen_at(history, audit, WEDNESDAY))
    assert found.verdict == "proposed"
    assert [seen.reason for seen in found.approvals] == ["BadSignature"]


def test_an_approval_put_back_after_its_key_ended_while_the_month_changes() -> None:
    history = asked()
    audit = Audit(history)
    audit.step({}, at=at(MONDAY))
    before = seen_at(history, audit, MONDAY)
    seal = next(path for path in history.files if path.endswith("/bob.json.sig"))
    data = history.files[seal]
    history.step({seal: None})
    history.step({seal: data, "requests/2026/11/README.md": b"a new tree of the month"})
    audit.step({}, at=at(WEDNESDAY))
    assert both(history, before, seen_at(history, audit, WEDNESDAY)).verdict == "proposed"


def test_control_what_was_left_alone_is_not_judged_again_when_its_key_ended() -> None:
    history = asked()
    audit = Audit(history)
    audit.step({}, at=at(MONDAY))
    known = judge_requests(history, seen_at(history, audit, MONDAY))
    for files in ({"README.md": b"x"}, {"requests/2026/11/README.md": b"x"}):
        history.step(files)
        audit.step({}, at=at(WEDNESDAY))
        found = judge_requests(history, seen_at(history, audit, WEDNESDAY), {}, known)
        assert found["r1"] is known["r1"]
        assert found["r1"].verdict == "approved"


def test_afresh_is_judged_what_lies_on_a_branch_as_on_its_branch() -> None:
    history = History.begun()
    side = history.raw_commit(history.tree(history.edited(history.request(request_text()))), [history.tip])
    state = history.judged()
    found = judge_requests(history, state, {"refs/heads/request/r1": side})["r1"]
    assert judge_afresh(history, state, found) == found
    assert found.source == "branch"


def test_afresh_counts_what_was_begun_and_what_a_forge_said() -> None:
    desk = Desk.of("forge")
    desk.squash()
    before = desk.judged()
    desk.attest(review("bob"))
    state = desk.history.judged()
    found = judge_requests(desk.history, state, begun={"r1": ["openai-chat"]}, attestations={"r1": desk.told})
    assert before.verdict == "proposed"
    again = judge_afresh(desk.history, state, found["r1"], begun=["openai-chat"], attestations=desk.told)
    assert again == found["r1"]


def test_afresh_is_judged_nothing_but_requests() -> None:
    history = asked()
    found = judge_requests(history, history.judged())["r1"]
    with pytest.raises(ValueError, match="is no request"):
        judge_afresh(history, history.judged(), replace(found, path="README.md"))
