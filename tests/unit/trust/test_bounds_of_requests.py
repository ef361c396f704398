"""Requests judged together, at the edges: what is listed, what is remembered, and how long it is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from capsule.trust import requests
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.mainline import judge as judge_main
from capsule.trust.requests import judge_requests
from capsule.trust.state import MainState
from tests.evidence_history import Desk, files_of, policy_of
from tests.trust_history import (
    Files,
    History,
    approved,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

BRANCH = "refs/heads/request/r1"
NOVEMBER, DECEMBER = "2026/11", "2026/12"
MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)


def timed_files(who: str = "bob") -> Files:
    """First files with a policy in which the key of `who` speaks until Tuesday."""
    line = f'"{key(who).public.text}"'
    dated = f'{{key: {line}, validBefore: "2026-11-24T12:00:00Z"}}'
    return {**first_files(), "policy.yaml": policy_text().decode().replace(line, dated).encode()}


def state_at(history: History, now: datetime) -> MainState:
    seen = SeenOnAudit(history, history.root, history.tip, None, now)
    return judge_main(history, history.root, history.tip, seen=seen)


def beside_main(history: History, files: Files) -> str:
    """A commit beside main that adds these files."""
    return history.raw_commit(history.tree({**history.files, **files}), [history.tip])


def plain(edits: dict[str, bytes | None]) -> Files:
    return {path: data for path, data in edits.items() if data is not None}


# ---- what is remembered ----


def test_a_month_of_which_nothing_changed_is_the_same_one() -> None:
    history, _ = approved()
    known = judge_requests(history, history.judged())
    assert judge_requests(history, history.judged(), {}, known).months[NOVEMBER] is known.months[NOVEMBER]
    history.step({"README.md": b"another"})
    again = judge_requests(history, history.judged(), {}, known)
    assert again.months[NOVEMBER] is known.months[NOVEMBER]
    third = judge_requests(history, history.judged(), {}, again)
    assert third.months[NOVEMBER] is known.months[NOVEMBER]


def test_a_request_that_was_merged_is_not_judged_again_for_its_neighbour() -> None:
    desk = Desk(History.begun(files_of(policy_of("merge"))))
    desk.merge("bob")
    history = desk.history
    history.step({"requests/2026/11/r0/request.yaml": b"nonsense"})
    known = judge_requests(history, history.judged())
    assert (known["r1"].verdict, known["r0"].reason) == ("approved", "InvalidDocument")
    history.step(history.request(request_text("r2"), "r2"))
    again = judge_requests(history, history.judged(), {}, known)
    assert set(again) == {"r0", "r1", "r2"}
    assert again["r1"] is known["r1"]
    assert again["r0"] is known["r0"]


def test_on_another_main_a_request_is_judged_by_how_it_came_there_whatever_its_neighbours() -> None:
    desk = Desk(History.begun(files_of(policy_of("merge"))))
    history = desk.history
    base = history.step({"requests/2026/11/r0/request.yaml": b"nonsense"})
    desk.merge("bob")
    known = judge_requests(history, history.judged())
    assert known["r1"].verdict == "approved"
    history.commit(history.files, [base], by=key("alice"))
    anew = judge_main(history, history.root, history.tip)
    again = judge_requests(history, anew, {}, known)
    assert again["r1"] == judge_requests(history, anew)["r1"]
    assert again["r1"].verdict == "proposed"


def test_one_changed_target_of_two_is_enough_to_judge_again() -> None:
    history = History.begun()
    history.step(history.request(request_text(targets=("openai-chat", "mailer"))))
    known = judge_requests(history, history.judged())
    history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="m2")}, by="alice")
    again = judge_requests(history, history.judged(), {}, known)
    assert again["r1"].target_digests == history.target_digests()
    assert again["r1"].target_digests != known["r1"].target_digests


def test_what_is_left_out_is_left_out_of_what_was_judged_before_and_comes_back() -> None:
    history = History.begun()
    for name in ("r1", "r2"):
        history.step(history.request(request_text(name), name))
    state = history.judged()
    known = judge_requests(history, state)
    without = judge_requests(history, state, {}, known, left_out=lambda folder: folder.name == "r1")
    assert list(without) == ["r2"]
    assert sorted(judge_requests(history, state, {}, without)) == ["r1", "r2"]


# ---- what only time tells ----


def test_a_month_with_one_verdict_of_now_is_judged_again_with_the_time() -> None:
    history = History.begun(timed_files())
    raw = request_text()
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    history.step({"requests/2026/11/r2/request.yaml": b"nonsense"})
    known = judge_requests(history, state_at(history, MONDAY))
    assert (known["r1"].verdict, known["r1"].fleeting, known["r2"].fleeting) == ("approved", True, False)
    assert known.fleeting
    late = judge_requests(history, state_at(history, TUESDAY), {}, known)
    assert (late["r1"].verdict, late.fleeting) == ("proposed", True)


def test_one_month_judged_by_the_time_of_now_makes_the_whole_set_so() -> None:
    history = History.begun(timed_files())
    raw = request_text()
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    history.step(
        dict.fromkeys(("requests/2026/12/r2/request.yaml", "requests/2026/12/r3/request.yaml"), b"x")
    )
    found = judge_requests(history, state_at(history, MONDAY), left_out=lambda folder: folder.name == "r3")
    assert sorted(found) == ["r1", "r2"]
    assert found.fleeting


def test_one_request_judged_by_the_time_of_now_on_main_or_on_a_branch_makes_the_whole_set_so() -> None:
    history = History.begun(timed_files())
    nonsense = beside_main(history, {"requests/2026/11/r9/request.yaml": b"nonsense"})
    asked = beside_main(history, plain(history.request(request_text())))
    state = state_at(history, MONDAY)
    of_nonsense = {"refs/heads/request/r9": nonsense}
    assert not judge_requests(history, state, of_nonsense).fleeting
    assert judge_requests(history, state, {BRANCH: asked}).fleeting
    assert judge_requests(history, state, {BRANCH: asked, **of_nonsense}).fleeting
    history.step(history.request(request_text()))
    assert judge_requests(history, state_at(history, MONDAY), of_nonsense).fleeting


# ---- two folders of one name ----


def test_of_two_folders_of_one_name_the_first_is_shown_whichever_came_first() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    history.step(history.request(raw, month=DECEMBER))
    known = judge_requests(history, history.judged())
    assert known["r1"].verdict == "approved"
    history.step(history.request(raw, month=NOVEMBER))
    for before in (None, known):
        found = judge_requests(history, history.judged(), {}, before)
        assert (found["r1"].verdict, found["r1"].reason) == ("refused", "DuplicateRequest")
        assert found["r1"].path == "requests/2026/11/r1/request.yaml"
        assert found.months[NOVEMBER]["r1"].reason == "DuplicateRequest"
        assert "r1" not in found.months[DECEMBER]


# ---- what is listed ----


def test_files_where_years_and_months_should_be_hold_nothing() -> None:
    history, _ = approved()
    history.step({"requests/2025": b"x", "requests/2026/10": b"x"})
    found = judge_requests(history, history.judged())
    assert (list(found), found.findings) == (["r1"], ())


def test_so_many_months_count_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_MONTHS", 2)
    history = History.begun()
    history.step(history.request(request_text("r2"), "r2", month=NOVEMBER))
    history.step(history.request(request_text("r3"), "r3", month=DECEMBER))
    found = judge_requests(history, history.judged())
    assert (sorted(found), found.findings) == (["r2", "r3"], ())
    history.step(history.request(request_text("r1"), "r1", month="2026/10"))
    branch = {"refs/heads/request/r4": history.tip}
    more = judge_requests(history, history.judged(), branch)
    assert (sorted(more), [each.reason for each in more.findings]) == (["r2", "r3"], ["TooLarge", "TooLarge"])
    assert more.without_request == {"r4"}


def test_a_branch_speaks_of_its_own_request_among_others() -> None:
    history = History.begun()
    both = plain(history.request(request_text()) | history.request(request_text("r2"), "r2"))
    found = judge_requests(history, history.judged(), {BRANCH: beside_main(history, both)})
    assert (list(found), found.findings) == (["r1"], ())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("r1", "requests/2026/11/r2/request.yaml"),
        ("r1", "requests/2026/11/r1"),
        ("R1", "requests/2026/11/R1/request.yaml"),
    ],
)
def test_a_branch_without_a_folder_of_its_own_name(name: str, path: str) -> None:
    history = History.begun()
    ref = f"refs/heads/request/{name}"
    found = judge_requests(history, history.judged(), {ref: beside_main(history, {path: request_text()})})
    assert [(each.reason, each.path) for each in found.findings] == [("BranchWithoutRequest", ref)]
    assert not found
    assert found.without_request == {name}


def test_a_branch_that_differs_from_main_says_nothing_of_a_request_that_main_has() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    other = plain(history.request(request_text(action="runHealthCheck", params="{}")))
    branch = beside_main(history, other)
    history.step(history.request(raw))
    found = judge_requests(history, history.judged(), {BRANCH: branch})
    assert (found["r1"].raw, found["r1"].source, found.findings) == (raw, "main", ())
    assert found.on_branches == frozenset()
