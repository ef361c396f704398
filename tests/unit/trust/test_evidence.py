"""Reviews and merges as evidence: what is asked for, what is recorded, what is judged again and what not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from capsule.documents.codec import emit, load_as
from capsule.documents.types import Attestation, Review
from capsule.trust import arrivals as walk
from capsule.trust.arrivals import Arrivals
from capsule.trust.attestations import ForgeFacts, attest, awaits_reviews, says_anew
from capsule.trust.evidence import at_least, strongest
from capsule.trust.policy import needed_evidence
from capsule.trust.policy_checks import load_policy, policy_problems
from capsule.trust.requests import judge_requests
from tests.evidence_history import ACCOUNTS, FOLDER, HEAD, NOW, Desk, files_of, policy_of, review
from tests.trust_history import DEFAULT_RULES, History, request_text, service_text

# ---- kinds --------------------------------------------------------------------------------------


def test_a_person_counts_by_the_strongest_evidence() -> None:
    seen: list[tuple[str, Any]] = [
        ("bob", "merge"),
        ("bob", "signature"),
        ("bob", "forge"),
        ("dave", "merge"),
    ]
    assert strongest(seen) == {"bob": "signature", "dave": "merge"}
    assert at_least("forge", "merge")
    assert not at_least("forge", "signature")


def test_what_was_needed_is_the_weakest_that_could_not_be_left_away() -> None:
    policy = load_policy(policy_of("merge", 2), "policy.yaml")
    rules = policy.spec.rules[:1]
    assert needed_evidence(policy, rules, {"alice"}, {"bob": "signature", "dave": "forge"}) == "forge"
    assert needed_evidence(policy, rules, {"alice"}, {"bob": "merge", "dave": "forge"}) == "merge"
    assert needed_evidence(policy, rules, {"alice"}, {"bob": "merge"}) == "signature"
    assert needed_evidence(policy, [], {"alice"}, {}) == "signature"


def test_one_account_for_two_principals_contradicts_itself() -> None:
    shared = policy_of("forge", accounts={**ACCOUNTS, "dave": ACCOUNTS["bob"]})
    policy = load_policy(policy_of("forge"), "policy.yaml")
    assert policy_problems(policy) == []
    with pytest.raises(ValueError, match="bob and dave share the account 102 at github"):
        load_policy(shared, "policy.yaml")


# ---- asking -------------------------------------------------------------------------------------


def test_reviews_are_asked_for_where_they_may_help_or_may_be_gone() -> None:
    desk = Desk.of("forge")
    desk.squash()
    assert awaits_reviews(desk.judged())
    desk.attest(review("bob"))
    assert awaits_reviews(desk.judged())  # approved by them: they may be dismissed
    desk.history.step(desk.history.approval("bob", desk.raw))
    assert not awaits_reviews(desk.judged())  # signed now
    rejected = Desk.of("forge")
    rejected.squash()
    rejected.attest(review("bob", "changes_requested"))
    assert rejected.judged().message == "rejected by bob"
    assert not awaits_reviews(rejected.judged())


def test_an_attestation_holds_the_facts_and_is_read_back_as_it_was() -> None:
    desk = Desk.of("forge")
    desk.squash()
    odd = review("dave", login="dave\x1b[31m\n", after=5)
    told = desk.attest(odd, review("bob"))
    assert [each.login for each in told.spec.reviews] == ["bob", "dave\\u001b[31m\\u000a"]
    assert dict(told.spec.targets) == {"openai-chat": desk.history.target_digests()["openai-chat"]}
    assert load_as(Attestation, emit(told), FOLDER.attestation(1)) == told
    assert FOLDER.attestation(2) == "records/2026/11/r1/attestation-2.yaml"


def test_what_is_new_is_recorded_and_who_looked_when_is_not() -> None:
    desk = Desk.of("forge")
    desk.squash()
    first = desk.attest(review("bob"))
    again = first.spec.model_copy(
        update={"revision": HEAD, "reconciler": "reconciler-2", "observed_at": NOW + timedelta(hours=1)}
    )
    assert says_anew(None, first)
    assert not says_anew(first, first.model_copy(update={"spec": again}))
    other = again.model_copy(update={"reviews": (review("bob", "dismissed"),)})
    assert says_anew(first, first.model_copy(update={"spec": other}))


def test_an_attestation_that_no_document_may_hold() -> None:
    desk = Desk.of("forge")
    desk.squash()
    judged = desk.judged()
    facts = ForgeFacts("github", "s", "r" * 500, 1, HEAD, HEAD, 1, {}, [review("bob")])
    targets = {f"{'s' * 50}-{at}": "sha256:" + "0" * 64 for at in range(2000)}
    with pytest.raises(ValueError, match="expected at most 262144"):
        attest(
            replace(judged, target_digests=targets),
            facts,
            policy=desk.history.judged().policy.document,
            revision=HEAD,
            reconciler="reconciler-1",
            now=NOW,
        )


# ---- judging again ------------------------------------------------------------------------------


def test_a_request_is_judged_again_when_another_attestation_is_recorded() -> None:
    desk = Desk.of("forge")
    desk.squash()
    history, state = desk.history, desk.history.judged()
    none = judge_requests(history, state)
    assert none["r1"].verdict == "proposed"
    desk.attest(review("bob"))
    told = judge_requests(history, state, {}, none, attestations={"r1": desk.told})
    assert told["r1"].verdict == "approved"
    assert judge_requests(history, state, {}, told, attestations={"r1": desk.told})["r1"] is told["r1"]
    desk.attest(review("bob", "dismissed"))
    assert (
        judge_requests(history, state, {}, told, attestations={"r1": desk.told})["r1"].verdict == "proposed"
    )


def test_a_request_is_judged_again_when_it_came_to_main_another_way() -> None:
    desk = Desk.of("merge")
    desk.merge("bob")
    known = judge_requests(desk.history, desk.history.judged())
    assert known["r1"].verdict == "approved"
    desk.history.step({"README.md": b"Other.\n"})
    same = judge_requests(desk.history, desk.history.judged(), {}, known)
    assert same["r1"] is known["r1"]
    desk.history.step(dict.fromkeys(desk.history.request(desk.raw)))
    desk.squash()
    assert judge_requests(desk.history, desk.history.judged(), {}, same)["r1"].verdict == "proposed"


def test_a_commit_that_main_has_only_later() -> None:
    """A rebase puts several commits on main: the forge names the last, the request came by the first."""
    desk = Desk.of("forge")
    first = desk.squash()
    history = desk.history
    early = history.judged()
    last = history.step({"README.md": b"The second commit.\n"})
    desk.attest(review("bob"), merged=last)
    known = judge_requests(history, early, attestations={"r1": desk.told})
    assert known["r1"].approvals[0].reason == "OtherHead"
    found = judge_requests(history, history.judged(), {}, known, attestations={"r1": desk.told})
    assert found["r1"].verdict == "approved"
    assert Arrivals(history).of(history.tip, found["r1"].path, found["r1"].blob) == first


# ---- what was shown -----------------------------------------------------------------------------


def two_targets(evidence: Any) -> Desk:
    rule = "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    policy = policy_of(evidence, rules=(f"{rule}evidence: {evidence}}}", *DEFAULT_RULES))
    desk = Desk(History.begun(files_of(policy)))
    desk.raw = request_text(targets=("openai-chat", "mailer"))
    return desk


@pytest.mark.parametrize("evidence", ["merge", "forge"])
def test_what_was_begun_is_not_voided_by_later_changes_of_its_document(evidence: str) -> None:
    desk = two_targets(evidence)
    if evidence == "merge":
        desk.merge("bob")
    else:
        desk.squash()
        desk.attest(review("bob"))
    history = desk.history
    history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="gpt-6")}, by="alice")
    state = history.judged()
    told = {"r1": desk.told}
    assert judge_requests(history, state, attestations=told)["r1"].verdict == "proposed"
    begun = judge_requests(history, state, attestations=told, begun={"r1": ["mailer"]})["r1"]
    assert begun.verdict == "approved"
    history.step({"services/test/mailer.yaml": None}, by="alice")
    gone = judge_requests(history, history.judged(), attestations=told, begun={"r1": ["mailer"]})["r1"]
    assert gone.verdict == "approved"


def test_a_comment_in_a_targets_document_voids_no_merge() -> None:
    desk = Desk.of("merge")
    desk.merge("bob")
    history = desk.history
    path = "services/openai-chat.yaml"
    old = history.files[path]
    new = old + b"# a comment\n"
    history.step({path: new, **history.change_word("bob", {path: (old, new)})}, by="alice")
    assert history.judged().services["openai-chat"].since == history.tip
    assert desk.judged().verdict == "approved"


def test_a_target_that_did_not_exist_or_was_malformed_at_the_merge() -> None:
    for before in (None, b"not: a service\n"):
        files = files_of(policy_of("merge"))
        good = files.pop("services/openai-chat.yaml")
        desk = Desk(History.begun(files | ({} if before is None else {"services/openai-chat.yaml": before})))
        desk.merge("bob")
        history, path = desk.history, "services/openai-chat.yaml"
        history.step({path: good, **history.change_word("bob", {path: (None, good)})}, by="alice")
        assert desk.refused() == "TargetChanged"


# ---- how far back -------------------------------------------------------------------------------


def test_how_a_request_came_is_looked_for_so_far_back_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_STEPS", 3)
    monkeypatch.setattr(walk, "MAX_REMEMBERED", 2)
    desk = Desk.of("merge")
    desk.merge("bob")
    for at in range(2):
        desk.history.step({"README.md": b"%d\n" % at})
    known = judge_requests(desk.history, desk.history.judged())
    assert known["r1"].verdict == "approved"
    desk.history.step({"README.md": b"one too many\n"})
    late = judge_requests(desk.history, desk.history.judged(), {}, known)["r1"]
    assert (late.verdict, late.approvals[0].reason) == ("proposed", "ArrivalUnknown")
    assert desk.refused() == "ArrivalUnknown"  # walked anew: the same
    assert late.approvals[0].principal == "merge"


def test_the_memory_of_the_walk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_REMEMBERED", 1)
    desk = Desk.of("forge")
    first = desk.squash()
    second = desk.history.step({"README.md": b"Other.\n"})
    judged = desk.judged()
    arrivals = Arrivals(desk.history)
    for commit in (first, second, first):
        assert arrivals.since_holds(desk.history.tip, judged.path, judged.blob, commit)
        assert arrivals.since_holds(desk.history.tip, judged.path, judged.blob, commit)
    assert arrivals.of(desk.history.tip, FOLDER.signature, judged.blob) is None
    assert not arrivals.since_holds(desk.history.tip, FOLDER.signature, judged.blob, first)


def test_what_was_walked_in_one_repository_is_not_taken_for_another() -> None:
    one, other = Desk.of("merge"), Desk.of("merge")
    one.merge("bob")
    other.merge("dave")
    known = judge_requests(one.history, one.history.judged())
    found = judge_requests(other.history, other.history.judged(), {}, known)
    assert [each["r1"].approved_by for each in (known, found)] == [("bob",), ("dave",)]


def test_a_malformed_step_before_the_merge_hides_where_the_request_came_from() -> None:
    desk = Desk.of("merge")
    history = desk.history
    files = history.edited({"README.md": b"x\n"})
    bad = history.tree(files, {"README.MD": (b"100644", history.put("blob", b"y"))})
    history.tip = history.raw_commit(bad, [history.tip])
    desk.merge("bob")
    desk.history.step({"README.md": b"z\n"})
    assert desk.refused() == "ArrivalUnknown"


def test_a_merge_with_two_authors_is_no_evidence() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", headers=b"author Mallory <mallory@example.com> 1 +0000\n")
    assert desk.refused() == "ArrivalUnknown"


def test_a_request_of_the_first_commit_came_by_no_merge() -> None:
    policy = policy_of("merge")
    raw = request_text()
    history = History()
    files = files_of(policy) | {path: data for path, data in history.request(raw).items() if data}
    desk = Desk(History.begun(files))
    assert desk.refused() == "NotATrueMerge"


def test_a_review_without_a_number() -> None:
    desk = Desk.of("forge")
    desk.squash()
    desk.attest(Review(id=0, user=102, state="approved", commit=HEAD, submitted_at=NOW))
    assert desk.judged().approved_by == ("bob",)
