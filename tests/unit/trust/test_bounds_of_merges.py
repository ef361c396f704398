"""Who merged, and what a merge brought: each test stands for one check of merges as evidence, alone."""

from __future__ import annotations

from itertools import product

import pytest

from capsule.documents.types import ForgeKind, ForgeSettings, Policy
from capsule.trust import arrivals as walk
from capsule.trust import merged_changes
from capsule.trust.arrivals import Arrivals
from capsule.trust.merges import author_of, holders_of
from capsule.trust.requests import judge_requests
from tests.evidence_history import Desk, files_of, policy_of
from tests.trust_history import Files, History, service_text

PATH = "services/openai-chat.yaml"
CHANGED = service_text(model="gpt-6")
RULE = (
    "{match: {change: service}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    "evidence: merge}"
)


def _desk() -> Desk:
    return Desk(History.begun(files_of(policy_of("merge", rules=(RULE,)))))


def _side(at: Desk, data: bytes, who: str = "alice", *parents: str) -> str:
    """A commit beside main by `who` that writes the service."""
    files: Files = at.history.edited({PATH: data})
    history = at.history
    return history.raw_commit(history.tree(files), parents or [history.tip], email=f"{who}@example.com")


def _merged(at: Desk, side: str) -> str:
    """Why the change that bob merged from `side` waits; empty when it is in force."""
    at.merge("bob", sides=[side], edits={PATH: CHANGED})
    pending = at.history.judged().pending
    return "; ".join(change.message for change in pending)


# ---- who merged ---------------------------------------------------------------------------------


def _policy(**keys: str) -> Policy:
    text = policy_of("merge").decode()
    for old, new in keys.items():
        text = text.replace(old, new)
    return History.begun(files_of(text.encode())).judged().policy.document


def _forge(kind: ForgeKind, host: str) -> ForgeSettings:
    return ForgeSettings(kind=kind, server=f"https://{host}", repository="acme/state")


def test_a_forge_that_hides_no_number_gives_none_away() -> None:
    text = policy_of("merge").replace(b"forge: {github: 102}", b"forge: {gitea: 102}")
    policy = History.begun(files_of(text)).judged().policy.document
    gitea = _forge("gitea", "gitea.example")
    for email in ("102@users.noreply.gitea.example", "102+bob@users.noreply.gitea.example"):
        assert holders_of(policy, gitea, email) == []
    github = _forge("github", "github.com")
    assert holders_of(_policy(), github, "102+bob@users.noreply.github.com") == ["bob"]
    assert holders_of(_policy(), None, "102+bob@users.noreply.") == []


def test_a_machine_is_no_author_whatever_its_address() -> None:
    policy = _policy(**{"{machine: true,": "{machine: true, email: machine@example.com,"})
    assert author_of(policy, None, "machine@example.com") is None
    assert author_of(policy, None, "bob@example.com") == "bob"


def test_a_merge_into_a_main_without_services_shows_nobody_what_they_are() -> None:
    desk = Desk.of("merge")
    gone = {path: None for path in desk.history.files if path.startswith("services/")}
    desk.merge("bob", edits={**desk.history.request(desk.raw), **gone})
    assert desk.refused() == "TargetChanged"


def test_a_folder_that_stands_in_many_places_is_looked_at_once() -> None:
    places = ["/".join(["services", *ways, "note.md"]) for ways in product("ab", repeat=9)]
    desk = Desk.of("merge")
    desk.history.step(dict.fromkeys(places, b"the same"))
    desk.merge("bob")
    state = desk.history.judged()
    before = desk.history.reads
    assert judge_requests(desk.history, state)["r1"].verdict == "approved"
    assert desk.history.reads - before < 100


def test_a_merge_by_who_is_not_asked_approves_nothing() -> None:
    desk = Desk.of("merge")
    desk.merge("carol")
    assert desk.refused() == "NotAnApprover"


def test_a_memory_is_taken_for_its_own_repository_alone() -> None:
    one, other = Desk.of("merge").history, Desk.of("merge").history
    arrivals = Arrivals(one)
    assert arrivals.read_by(one) is arrivals
    assert arrivals.read_by(other) is not arrivals


def test_what_is_remembered_of_the_walk_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_REMEMBERED", 2)
    desk = Desk.of("forge")
    desk.squash()
    later = [desk.history.step({"README.md": b"%d\n" % at}) for at in range(4)]
    judged = desk.judged()
    arrivals = Arrivals(desk.history)
    for at, commit in enumerate(later):
        assert arrivals.since_holds(desk.history.tip, judged.path, judged.blob, commit)
        assert arrivals.of(desk.history.tip, f"requests/{at}", judged.blob) is None
        sizes = [len(each) for each in vars(arrivals).values() if isinstance(each, dict)]
        assert len(sizes) == 2
        assert max(sizes) <= 6, "what one walk back met, and no more with every tip"


def test_how_a_request_came_is_not_sought_further_back_than_it_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walk, "MAX_STEPS", 3)
    desk = Desk.of("forge")
    desk.squash()
    judged = desk.judged()
    for at in range(30):
        desk.history.step({"README.md": b"%d\n" % at})
    before = desk.history.reads
    assert Arrivals(desk.history).of(desk.history.tip, judged.path, judged.blob) is None
    assert desk.history.reads - before < 30


# ---- what a merge of a change brought -----------------------------------------------------------


def test_a_merge_by_nobody_that_the_policy_knows_says_so() -> None:
    at = _desk()
    at.merge("stranger", sides=[_side(at, CHANGED)], edits={PATH: CHANGED})
    (waiting,) = at.history.judged().pending
    assert "names no person of the policy" in waiting.message
    assert (waiting.authors, waiting.approved_by) == ((), ())


def test_a_side_has_at_most_so_many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_changes, "MAX_COMMITS", 3)
    for count in (3, 4):
        at = _desk()
        tip = at.history.tip
        for number in range(count - 1):
            tip = _side(at, service_text(model=f"gpt-5.{number + 5}"), "alice", tip)
        assert bool(_merged(at, _side(at, CHANGED, "alice", tip))) == (count > 3)


def test_a_version_that_the_side_did_not_keep_has_no_part_in_it() -> None:
    at = _desk()
    kept = _side(at, CHANGED)
    left = _side(at, service_text(model="left"), "bob")
    assert _merged(at, _side(at, CHANGED, "alice", kept, left)) == ""


def test_a_ladder_of_merges_is_walked_once() -> None:
    at = _desk()
    tip = at.history.tip
    for number in range(12):
        left, right = (_side(at, service_text(model=f"{number}{side}"), "alice", tip) for side in "lr")
        tip = _side(at, CHANGED if number == 11 else service_text(model=f"{number}"), "alice", left, right)
    at.merge("bob", sides=[tip], edits={PATH: CHANGED})
    before = at.history.reads
    assert at.history.judged().pending == ()
    assert at.history.reads - before < 2000
