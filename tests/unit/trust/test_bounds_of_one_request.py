"""One request at the edges: what lies in its folder, whose word counts, what its rules ask of each target."""

from __future__ import annotations

import pytest

from capsule.documents.paths import RequestFolder
from capsule.trust import objects
from capsule.trust.approvals import check_asked
from capsule.trust.changes import VoidApproval
from capsule.trust.one_request import judge_request, takes_merge
from capsule.trust.policy_checks import load_policy
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest
from tests.evidence_history import Desk, files_of, policy_of
from tests.trust_history import (
    DEFAULT_RULES,
    Files,
    History,
    approved,
    first_files,
    policy_text,
    request_text,
    service_text,
)

FOLDER = RequestFolder("2026/11", "r1")


def judged(history: History) -> JudgedRequest:
    return judge_requests(history, history.judged())["r1"]


def asked(*more: Files, raw: bytes | None = None) -> History:
    """A history with the request r1, and other files beside."""
    history = History.begun()
    files: Files = {}
    for each in more:
        files |= each
    history.step({**history.request(raw or request_text()), **files})
    return history


def without(files: dict[str, bytes | None], *paths: str) -> dict[str, bytes | None]:
    return {path: data for path, data in files.items() if path not in paths}


# ---- what lies in the folder ----


def test_an_approval_without_its_signature_says_so() -> None:
    history = History.begun()
    raw = request_text()
    words = without(history.approval("bob", raw), FOLDER.approval_signature("bob"))
    history.step(history.request(raw) | words)
    (seen,) = judged(history).approvals
    assert (seen.counts, seen.reason, seen.signature) == (False, "ApprovalUnsigned", "")
    assert judged(history).verdict == "proposed"


def test_folders_among_the_approvals_are_no_approvals() -> None:
    history = History.begun()
    raw = request_text()
    inside = {f"{FOLDER.folder}/approvals/dave.json/x": b"x"}
    sealed = without(history.approval("bob", raw), FOLDER.approval_signature("bob"))
    history.step(history.request(raw) | sealed | inside | {f"{FOLDER.approval_signature('bob')}/x": b"x"})
    assert [(seen.principal, seen.reason) for seen in judged(history).approvals] == [
        ("bob", "ApprovalUnsigned")
    ]


def test_a_file_in_place_of_the_approvals_is_as_good_as_none() -> None:
    found = judged(asked({f"{FOLDER.folder}/approvals": b"x"}))
    assert (found.verdict, found.reason, found.approvals) == ("proposed", "ApprovalsMissing", ())


def test_a_folder_in_place_of_the_request_is_told_as_a_missing_request() -> None:
    history = History.begun()
    history.step({f"{FOLDER.request}/x": b"x"})
    found = judged(history)
    assert (found.reason, found.message) == ("MalformedTree", "request.yaml is missing")


def test_a_request_that_has_no_folder_is_refused_as_missing() -> None:
    history = History.begun()
    found = judge_request(history, history.judged(), None, FOLDER, "main", history.tip)
    assert (found.verdict, found.reason, found.message) == (
        "refused",
        "MalformedTree",
        "request.yaml is missing",
    )


# ---- targets ----


def test_the_target_that_stands_twice_is_named() -> None:
    found = judged(asked(raw=request_text(targets=("openai-chat", "mailer", "mailer"))))
    assert (found.reason, found.message) == ("DuplicateTarget", "mailer stands twice among the targets")


@pytest.mark.parametrize(("most", "verdict"), [(1, "refused"), (2, "proposed")])
def test_so_many_targets_are_allowed_and_not_one_more(most: int, verdict: str) -> None:
    settings = (
        "apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\n"
        f"spec: {{limits: {{maxShare: 100, maxTargets: {most}}}}}\n"
    )
    history = History.begun({**first_files(), "capsule.yaml": settings.encode()})
    history.step(history.request(request_text(targets=("openai-chat", "mailer"))))
    assert judged(history).verdict == verdict


def test_a_target_that_was_begun_voids_no_signature_and_one_that_was_not_does() -> None:
    mailer = "services/test/mailer.yaml"
    raw = request_text(targets=("openai-chat", "mailer"))
    history, _ = approved(raw=raw)
    assert judged(history).verdict == "approved"
    history.step({mailer: service_text("mailer", env="test", model="gpt-6")}, by="alice")
    state = history.judged()
    void = judge_requests(history, state)["r1"]
    assert [seen.reason for seen in void.approvals] == ["TargetChanged"]
    begun = judge_requests(history, state, begun={"r1": ["mailer"]})["r1"]
    assert (begun.verdict, [seen.counts for seen in begun.approvals]) == ("approved", [True])
    other = judge_requests(history, state, begun={"r1": ["openai-chat"]})["r1"]
    assert [seen.reason for seen in other.approvals] == ["TargetChanged"]


def test_one_target_whose_rule_asks_approvals_makes_the_whole_request_wait_for_its_merge() -> None:
    history = History.begun()
    raw = request_text(targets=("openai-chat", "mailer"))
    words = history.request(raw) | history.approval("bob", raw)
    files = {path: data for path, data in words.items() if data is not None}
    commit = history.raw_commit(history.tree({**history.files, **files}), [history.tip])
    found = judge_requests(history, history.judged(), {"refs/heads/request/r1": commit})["r1"]
    assert sorted(found.rules) == ["mailer", "openai-chat"]
    assert (found.verdict, found.reason, found.missing) == ("proposed", "AwaitsMerge", ())


# ---- evidence ----


def test_a_merge_counts_for_who_walks_main_for_the_first_time() -> None:
    desk = Desk(History.begun(files_of(policy_of("merge"))))
    desk.merge("bob")
    history = desk.history
    tree = objects.tree_of(objects.raw_commit(history, history.tip))
    own = objects.folder(history, tree, FOLDER.folder)
    found = judge_request(history, history.judged(), own, FOLDER, "main", history.tip)
    assert (found.verdict, found.evidence) == ("approved", "merge")


def test_where_nobody_is_asked_no_merge_is_looked_for() -> None:
    rule = "{match: {action: rotateKey}, mayRequest: [operators], approvals: [], evidence: merge}"
    desk = Desk(History.begun(files_of(policy_of("merge", rules=(rule, *DEFAULT_RULES)))))
    desk.merge("bob")
    found = desk.judged()
    assert (found.verdict, found.approvals) == ("approved", ())


def test_one_rule_that_asks_a_person_and_takes_the_evidence_is_enough() -> None:
    asks = (
        "{{match: {{action: {0}}}, mayRequest: [operators], "
        "approvals: [{{team: {1}, count: 1}}], evidence: {2}}}"
    )
    rules = (
        asks.format("a", "reviewers", "signature"),
        asks.format("b", "reviewers", "merge"),
        asks.format("c", "owners", "merge"),
    )
    policy = load_policy(policy_text(rules=rules), "policy.yaml")
    strict, mild, of_owners = policy.spec.rules
    check_asked(policy, [strict, mild], "dave", "merge")
    assert takes_merge([strict, mild])
    assert not takes_merge([strict])
    with pytest.raises(VoidApproval) as caught:
        check_asked(policy, [strict, of_owners], "dave", "merge")
    assert caught.value.reason == "EvidenceTooWeak"
