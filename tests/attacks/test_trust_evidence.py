"""Attacks on the weaker kinds of evidence: reviews at a forge, and merges. Each must leave the request
unapproved, and say why."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.types import Evidence
from capsule.trust.attestations import awaits_reviews
from capsule.trust.requests import judge_requests
from tests.evidence_history import ACCOUNTS, FOLDER, Desk, files_of, policy_of, review
from tests.trust_history import CLAIMED, Audit, History, key, request_text, service_text

STRANGER = "cd" * 20


def reviewed(*reviews: Any, count: int = 1, evidence: Evidence = "forge", **said: Any) -> Desk:
    """A request that was squash-merged in the web page, and the reviews of its pull request."""
    desk = Desk.of(evidence, count)
    desk.squash()
    desk.attest(*reviews, **said)
    return desk


# ---- reviews at a forge -------------------------------------------------------------------------


def test_an_honest_review_approves_so_that_the_attacks_below_fail_for_their_own_reason() -> None:
    judged = reviewed(review("bob")).judged()
    assert (judged.verdict, judged.approved_by, judged.evidence) == ("approved", ("bob",), "forge")
    assert judged.approvals[0].message == "pull request 12 of acme/state at https://github.com"


def test_stale_review_after_a_new_push() -> None:
    assert reviewed(review("bob", commit=STRANGER)).refused() == "StaleReview"


def test_review_of_a_commit_that_the_forge_does_not_name() -> None:
    assert reviewed(review("bob", commit=None)).refused() == "StaleReview"


def test_dismissed_review() -> None:
    assert reviewed(review("bob", "dismissed")).refused() == "DismissedReview"


def test_approval_dismissed_after_it_was_recorded() -> None:
    desk = reviewed(review("bob"))
    assert desk.judged().verdict == "approved"
    desk.attest(review("bob", "dismissed"))
    assert desk.refused() == "DismissedReview"


def test_approval_before_a_later_request_for_changes_and_its_dismissal() -> None:
    desk = reviewed(review("bob"), review("bob", "changes_requested", after=1))
    assert desk.judged().verdict == "rejected"
    desk.attest(review("bob"), review("bob", "dismissed", after=1))
    assert desk.refused() == "DismissedReview"


def test_comment_is_no_approval_and_takes_none_back() -> None:
    assert reviewed(review("bob", "commented")).refused() == "CommentOnly"
    assert reviewed(review("bob"), review("bob", "commented", after=1)).judged().verdict == "approved"


def test_recycled_forge_login() -> None:
    assert reviewed(review(90210, login="bob")).refused() == "UnknownForgeUser"
    assert reviewed(review(90210, login="bob")).seen().principal == "github:90210"


def test_bot_approver() -> None:
    assert reviewed(review("bob", bot=True)).refused() == "BotReview"


def test_machine_with_an_account_approves() -> None:
    policy = policy_of("forge").replace(b"{machine: true,", b"{machine: true, forge: {github: 900},")
    desk = Desk(History.begun(files_of(policy)))
    desk.squash()
    desk.attest(review(900))
    assert desk.refused() == "BotReview"


def test_self_approval_through_the_forge() -> None:
    desk = Desk.of(
        "forge", teams={"operators": ["alice"], "reviewers": ["alice", "bob"], "owners": ["bob", "carol"]}
    )
    desk.squash()
    desk.attest(review("alice"), author=ACCOUNTS["mallory"])
    assert desk.refused() == "SelfReview"


def test_whoever_opened_the_pull_request_approves_it() -> None:
    assert reviewed(review("bob"), author=ACCOUNTS["bob"]).refused() == "SelfReview"


def test_reviewer_in_no_team_that_is_asked() -> None:
    assert reviewed(review("mallory")).refused() == "NotAnApprover"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"request": "r2"}, "OtherRequest"),
        ({"request_digest": "sha256:" + "0" * 64}, "RequestChanged"),
        ({"merged": STRANGER}, "OtherHead"),
        ({"head": STRANGER}, "StaleReview"),
        ({"paths": {FOLDER.request: STRANGER}}, "PathsDiffer"),
        ({"paths": {}}, "PathsDiffer"),
        ({"targets": {"mailer": "sha256:" + "0" * 64}}, "TargetsChanged"),
        ({"targets": {}}, "TargetsChanged"),
        ({"targets": {"openai-chat": "sha256:" + "0" * 64}}, "TargetChanged"),
        ({"forge": "gitlab"}, "OtherForge"),
        ({"server": "https://forge.mallory.example"}, "OtherForge"),
        ({"repository": "mallory/fork"}, "OtherForge"),
    ],
)
def test_attestation_of_something_else(said: dict[str, Any], reason: str) -> None:
    assert reviewed(review("bob"), **said).refused() == reason


def test_attestation_of_a_commit_before_the_request_came() -> None:
    desk = Desk.of("forge")
    before = desk.history.tip
    desk.squash()
    desk.attest(review("bob"), merged=before)
    assert desk.refused() == "OtherHead"


def test_attestation_where_the_settings_name_no_forge() -> None:
    desk = reviewed(review("bob"))
    without = b"\n".join(
        line for line in desk.history.files["capsule.yaml"].split(b"\n") if b"forge" not in line
    )
    desk.history.step({"capsule.yaml": without}, by="alice")
    assert desk.refused() == "OtherForge"


def test_target_swapped_after_the_review() -> None:
    desk = reviewed(review("bob"))
    change = {"services/openai-chat.yaml": service_text(model="gpt-6")}
    old = desk.history.files["services/openai-chat.yaml"]
    words = desk.history.change_word("bob", {path: (old, new) for path, new in change.items()})
    desk.history.step({**change, **words}, by="alice")
    assert desk.refused() == "TargetChanged"


def test_request_edited_after_the_review() -> None:
    desk = reviewed(review("bob"))
    desk.raw = request_text(params='{grace: "0s"}')
    desk.squash()
    assert desk.refused() == "RequestChanged"


def test_forge_evidence_where_signature_is_demanded() -> None:
    desk = reviewed(review("bob"), evidence="signature")
    assert desk.refused() == "EvidenceTooWeak"
    assert not awaits_reviews(desk.judged())


def test_rejection_at_the_forge_does_not_end_what_signatures_decide() -> None:
    assert reviewed(review("bob", "changes_requested"), evidence="signature").refused() == "EvidenceTooWeak"


def test_person_with_two_accounts_counts_once() -> None:
    desk = reviewed(review("bob"), review(90210, login="bob-at-home"), count=2)
    assert (desk.judged().verdict, desk.judged().approved_by) == ("proposed", ("bob",))


def test_person_who_signs_and_reviews_counts_once() -> None:
    desk = reviewed(review("bob"), count=2)
    desk.history.step(desk.history.approval("bob", desk.raw))
    judged = desk.judged()
    assert (judged.verdict, judged.approved_by) == ("proposed", ("bob",))
    assert [each.evidence for each in judged.approvals if each.counts] == ["signature", "forge"]


def test_one_account_for_two_people() -> None:
    desk = reviewed(review("bob"))
    shared = policy_of("forge", serial=2, accounts={**ACCOUNTS, "dave": ACCOUNTS["bob"]})
    desk.history.step({"policy.yaml": shared}, by="carol")
    assert desk.judged().verdict == "approved"
    held = desk.history.judged().suspended
    assert held is not None
    assert "share the account 102" in held.message


def test_reviews_of_a_request_that_lies_on_its_branch() -> None:
    desk = reviewed(review("bob"))
    branch = desk.side()
    desk.history.step(dict.fromkeys(desk.history.request(desk.raw)))
    refs = {"refs/heads/request/r1": branch}
    judged = judge_requests(desk.history, desk.history.judged(), refs, attestations={"r1": desk.told})["r1"]
    assert (judged.source, judged.verdict, judged.approvals) == ("branch", "proposed", ())
    assert not awaits_reviews(judged)


# ---- merges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "bob"])
def test_an_honest_merge_approves(by: str | None) -> None:
    desk = Desk.of("merge")
    merge = desk.merge("bob" if by is None else "someone", by=by)
    judged = desk.judged()
    assert (judged.verdict, judged.approved_by, judged.evidence) == ("approved", ("bob",), "merge")
    assert desk.seen().message == f"merged it by {merge[:12]}"


def test_merge_sealed_by_the_forge_counts_by_its_author() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", by="the-forge")
    assert desk.judged().approved_by == ("bob",)


def test_merge_by_the_requester() -> None:
    desk = Desk.of(
        "merge", teams={"operators": ["alice"], "reviewers": ["alice", "bob"], "owners": ["bob", "carol"]}
    )
    desk.merge("alice")
    assert desk.refused() == "SelfMerge"


def test_merge_that_the_requester_signed_in_the_name_of_another() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", by="alice")
    assert desk.refused() == "SelfMerge"


def test_merge_signed_by_a_machine_in_the_name_of_a_person() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", by="reconciler-1")
    assert desk.refused() == "UnknownMerger"


def test_merge_whose_second_parent_brings_other_bytes() -> None:
    desk = Desk.of("merge")
    shown = desk.side(desk.history.request(request_text(params='{grace: "48h"}')))
    desk.merge("bob", sides=[shown])
    assert desk.refused() == "OtherBytesMerged"


def test_evil_merge_that_adds_the_request_itself() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", sides=[desk.side({"README.md": b"Reviewed.\n"})])
    assert desk.refused() == "OtherBytesMerged"


def test_octopus_merge() -> None:
    desk = Desk.of("merge")
    desk.merge("bob", sides=[desk.side(), desk.side({"README.md": b"Other.\n"})])
    assert desk.refused() == "NotATrueMerge"


def test_squash_claimed_as_merge() -> None:
    desk = Desk.of("merge")
    desk.squash("bob")
    assert desk.refused() == "NotATrueMerge"


def test_request_pushed_before_an_unrelated_merge() -> None:
    """The branch that bob merges was made from where the request lay already: he did not let it in."""
    desk = Desk.of("merge")
    desk.squash("mallory")
    desk.merge("bob", sides=[desk.side({"README.md": b"Other.\n"})], edits={"README.md": b"Other.\n"})
    assert desk.refused() == "NotATrueMerge"


def test_request_that_was_merged_removed_and_pushed_again() -> None:
    desk = Desk.of("merge")
    desk.merge("bob")
    assert desk.judged().verdict == "approved"
    known = desk.history.request(desk.raw)
    desk.history.step(dict.fromkeys(known))
    desk.squash("mallory")
    assert desk.refused() == "NotATrueMerge"


@pytest.mark.parametrize("email", ["", "bob@elsewhere.example", "bob", "102+bob@users.noreply.forge.example"])
def test_merge_by_an_address_that_is_nobodys(email: str) -> None:
    desk = Desk.of("merge")
    desk.merge("bob", email=email)
    assert desk.refused() == "UnknownMerger"


def test_merge_without_an_address_is_not_that_of_who_has_none() -> None:
    policy = policy_of("merge").replace(b"email: bob@example.com, ", b"")
    policy = policy.replace(b"{machine: true,", b"{machine: true, email: machine@example.com,")
    desk = Desk(History.begun(files_of(policy)))
    desk.merge("bob", email="")
    assert desk.refused() == "UnknownMerger"


def test_merge_by_an_address_of_two_people() -> None:
    policy = policy_of("merge").replace(b"dave@example.com", b"BOB@example.com")
    desk = Desk(History.begun(files_of(policy)))
    desk.merge("bob")
    assert desk.refused() == "UnknownMerger"


def test_merge_by_the_hidden_address_of_a_recycled_login() -> None:
    desk = Desk.of("merge")
    desk.merge("x", email="90210+bob@users.noreply.github.com")
    assert desk.refused() == "UnknownMerger"


def test_merge_by_the_hidden_address_of_a_login_that_begins_with_a_number() -> None:
    """Accounts of GitHub from before 2017 hide as login@…, and a login may be 102-bob."""
    desk = Desk.of("merge")
    desk.merge("x", email="102-bob@users.noreply.github.com")
    assert desk.refused() == "UnknownMerger"


def test_merge_by_the_hidden_address_with_the_number_of_the_account() -> None:
    desk = Desk.of("merge")
    desk.merge("x", email="102+who-cares@users.noreply.github.com")
    assert desk.judged().approved_by == ("bob",)


def test_merge_where_more_is_demanded() -> None:
    for evidence in ("forge", "signature"):
        desk = Desk.of(evidence)
        desk.merge("bob")
        judged = desk.judged()
        assert (judged.verdict, judged.approvals) == ("proposed", ())


def test_merge_beside_main_is_no_merge_into_main() -> None:
    desk = Desk.of("merge")
    main = desk.history.tip
    branch = desk.merge("bob")
    desk.history.tip = main
    found = judge_requests(desk.history, desk.history.judged(), {"refs/heads/request/r1": branch})["r1"]
    assert (found.source, found.reason, found.approvals) == ("branch", "ApprovalsMissing", ())


def test_target_swapped_after_the_merge() -> None:
    desk = Desk.of("merge")
    desk.merge("bob")
    old, new = desk.history.files["services/openai-chat.yaml"], service_text(model="gpt-6")
    words = desk.history.change_word("bob", {"services/openai-chat.yaml": (old, new)})
    desk.history.step({"services/openai-chat.yaml": new, **words}, by="alice")
    assert desk.refused() == "TargetChanged"


# ---- merges of changes --------------------------------------------------------------------------

PATH = "services/openai-chat.yaml"
CHANGED = service_text(model="gpt-6")
CHANGE_RULES = (
    "{match: {change: service}, mayRequest: [operators], approvals: [{team: reviewers, count: 1}], "
    "evidence: merge}",
    "{match: {change: policy}, mayRequest: [owners], approvals: [{team: owners, count: 1}], evidence: merge}",
)


def changing(*, rules: tuple[str, ...] = CHANGE_RULES) -> Desk:
    return Desk(History.begun(files_of(policy_of("merge", rules=rules))))


def written(
    desk: Desk, who: str, data: bytes = CHANGED, parents: tuple[str, ...] = (), **options: Any
) -> str:
    """A commit beside main by `who` that writes the service."""
    history = desk.history
    said = {"email": f"{who}@example.com", **options}
    return history.raw_commit(history.tree(history.edited({PATH: data})), parents or (history.tip,), **said)


def in_force(desk: Desk) -> bool:
    return desk.history.judged().services["openai-chat"].blob == desk.history.put("blob", CHANGED)


def why(desk: Desk) -> str:
    """Why the change is pending."""
    (change,) = desk.history.judged().pending
    return f"{change.reason}: {change.message}"


def test_an_honest_merge_of_a_change_brings_it_into_force() -> None:
    desk = changing()
    desk.merge("bob", sides=[written(desk, "alice")], edits={PATH: CHANGED})
    assert in_force(desk)


def test_change_merged_by_who_wrote_it() -> None:
    desk = changing()
    desk.merge("bob", sides=[written(desk, "bob")], edits={PATH: CHANGED})
    assert not in_force(desk)
    assert "bob merged what they wrote" in why(desk)


def test_change_with_a_commit_of_who_merges_among_others() -> None:
    desk = changing()
    first = written(desk, "bob", service_text(model="gpt-5.9"))
    desk.merge("bob", sides=[written(desk, "alice", parents=(first,))], edits={PATH: CHANGED})
    assert not in_force(desk)


def test_change_that_who_merges_slipped_into_a_merge_of_the_branch() -> None:
    desk = changing()
    first = written(desk, "alice", service_text(model="gpt-5.9"))
    slipped = written(desk, "bob", parents=(first, desk.history.tip))
    desk.merge("bob", sides=[slipped], edits={PATH: CHANGED})
    assert not in_force(desk)


def test_change_merged_by_nobody_the_policy_knows() -> None:
    desk = changing()
    desk.merge("eve", sides=[written(desk, "alice")], edits={PATH: CHANGED})
    assert not in_force(desk)


def test_change_merged_by_a_person_in_no_team_that_is_asked() -> None:
    desk = changing()
    desk.merge("mallory", sides=[written(desk, "alice")], edits={PATH: CHANGED})
    assert why(desk).startswith("ApprovalsMissing")


def test_change_written_by_who_may_not_ask() -> None:
    desk = changing()
    desk.merge("bob", sides=[written(desk, "mallory")], edits={PATH: CHANGED})
    assert why(desk).startswith("NotEntitled")


def test_change_of_a_stranger_below_a_commit_of_who_may_ask() -> None:
    desk = changing()
    for writer, reason in (("mallory", "NotEntitled"), ("eve", "ChangeUnsigned")):
        desk = changing()
        first = written(desk, writer, service_text(model="gpt-5.9"))
        desk.merge("bob", sides=[written(desk, "alice", parents=(first,))], edits={PATH: CHANGED})
        assert why(desk).startswith(reason)


def test_evil_merge_of_a_change() -> None:
    desk = changing()
    desk.merge("bob", sides=[written(desk, "alice", service_text(model="gpt-5.9"))], edits={PATH: CHANGED})
    assert "other bytes" in why(desk)


def test_octopus_and_squash_of_a_change() -> None:
    desk = changing()
    other = desk.side({"README.md": b"Other.\n"})
    desk.merge("bob", sides=[written(desk, "alice"), other], edits={PATH: CHANGED})
    assert "no merge of two parents" in why(desk)
    desk = changing()
    desk.history.step({PATH: CHANGED}, email="bob@example.com")
    assert why(desk).startswith("ChangeUnsigned")


def test_change_on_top_of_bytes_that_are_not_in_force() -> None:
    """Reviewers see the difference to what was pushed before, which nobody approved."""
    desk = changing()
    desk.history.step({PATH: service_text(endpoint="https://10.6.6.6:7070")})
    changed = service_text(endpoint="https://10.6.6.6:7070", model="gpt-6")
    desk.merge("bob", sides=[written(desk, "alice", changed)], edits={PATH: changed})
    assert "not as it is in force" in why(desk)


def test_change_that_was_not_written_on_top_of_the_bytes_in_force() -> None:
    desk = changing()
    root = desk.history.raw_commit(desk.history.tree({PATH: CHANGED}), [], email="alice@example.com")
    desk.merge("bob", sides=[root], edits={PATH: CHANGED})
    assert "not written on top" in why(desk)


def test_merge_as_evidence_for_a_change_whose_rule_wants_signatures() -> None:
    rules = (CHANGE_RULES[0].replace("merge", "signature"),)
    forge = (CHANGE_RULES[0].replace("merge", "forge"),)
    for each in (rules, forge):
        desk = changing(rules=each)
        desk.merge("bob", sides=[written(desk, "alice")], edits={PATH: CHANGED})
        assert why(desk).startswith("ChangeUnsigned")


def test_relabelled_from_a_strict_rule_to_one_that_takes_merges() -> None:
    strict = (
        CHANGE_RULES[0].replace("service}", "service, selector: {env: prod}}").replace("merge", "signature")
    )
    desk = changing(rules=(strict, CHANGE_RULES[0]))
    changed = service_text(env="test")
    desk.merge("bob", sides=[written(desk, "alice", changed)], edits={PATH: changed})
    assert why(desk).startswith("ChangeUnsigned")


def test_policy_is_never_changed_by_a_mere_merge() -> None:
    desk = changing()
    policy = policy_of("merge", serial=2, rules=CHANGE_RULES)
    side = desk.side({"policy.yaml": policy}, email="carol@example.com")
    desk.merge("bob", sides=[side], edits={"policy.yaml": policy})
    held = desk.history.judged().suspended
    assert held is not None
    assert held.reason == "PolicyNotAuthorised"


def test_change_in_the_very_merge_that_suspends_main() -> None:
    desk = changing()
    good = desk.history.files["policy.yaml"]
    edits = {PATH: CHANGED, "policy.yaml": good + b"# slipped in\n"}
    side = desk.side(edits, email="alice@example.com")
    desk.merge("bob", sides=[side], edits=edits)
    desk.history.step({"policy.yaml": good})
    assert desk.history.judged().suspended is None
    assert not in_force(desk)
    assert why(desk).startswith("MergedWhileSuspended")
    desk.history.step({"README.md": b"Later.\n"})
    desk.history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="x")})
    assert not in_force(desk)


def test_change_proposed_and_merged_by_one_person() -> None:
    desk = changing(rules=(CHANGE_RULES[0].replace("[operators]", "[operators, reviewers]"),))
    old = desk.history.files[PATH]
    words = desk.history.change_word("bob", {PATH: (old, CHANGED)}, "propose")
    edits = {PATH: CHANGED, **words}
    desk.merge("bob", sides=[desk.side(edits, email="alice@example.com")], edits=edits)
    (change,) = desk.history.judged().pending
    assert (change.reason, change.authors, change.approved_by) == ("ApprovalsMissing", ("alice", "bob"), ())


def test_change_merged_while_main_was_suspended() -> None:
    desk = changing()
    good = desk.history.files["policy.yaml"]
    desk.history.step({"policy.yaml": good + b"# pushed\n"})
    desk.merge("bob", sides=[written(desk, "alice")], edits={PATH: CHANGED})
    desk.history.step({"policy.yaml": good})
    assert desk.history.judged().suspended is None
    assert why(desk).startswith("MergedWhileSuspended")


# ---- what audit records of it -------------------------------------------------------------------

TOLD = (("Capsule-Request", "r1"), ("Capsule-Evidence", "forge"))
SUBJECT = "r1: reviews of github pull request 12 recorded"
BY_FORGE = tuple((name, "forge" if name == "Capsule-Evidence" else value) for name, value in CLAIMED)


def attested(*reviews: Any, evidence: Evidence = "forge") -> tuple[Desk, Audit]:
    desk = Desk.of(evidence)
    audit = Audit(desk.history)
    desk.squash()
    desk.attest(*(reviews or (review("bob"),)))
    return desk, audit


def test_honest_attestation_and_claim_hold() -> None:
    desk, audit = attested()
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    audit.step(audit.claim(desk.raw, evidence="forge"), trailers=BY_FORGE)
    assert audit.reason() is None


def test_attestation_and_claim_in_one_commit_hold() -> None:
    desk, audit = attested()
    audit.step(desk.record() | audit.claim(desk.raw, evidence="forge"), trailers=BY_FORGE)
    assert audit.reason() is None


def test_claim_on_a_review_that_was_never_recorded() -> None:
    desk, audit = attested()
    audit.step(audit.claim(desk.raw, evidence="forge"), trailers=BY_FORGE)
    assert audit.reason() == "ClaimNotApproved"


def test_claim_on_a_review_that_does_not_count() -> None:
    desk, audit = attested(review("bob", commit=STRANGER))
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    audit.step(audit.claim(desk.raw, evidence="forge"), trailers=BY_FORGE)
    assert audit.reason() == "ClaimNotApproved"


def test_claim_after_the_review_was_dismissed() -> None:
    desk, audit = attested()
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    desk.attest(review("bob", "dismissed"))
    audit.step(desk.record(2), trailers=TOLD, subject=SUBJECT)
    audit.step(audit.claim(desk.raw, evidence="forge"), trailers=BY_FORGE)
    assert audit.reason() == "ClaimNotApproved"


def test_claim_that_calls_a_review_a_signature() -> None:
    desk, audit = attested()
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    audit.step(audit.claim(desk.raw), trailers=CLAIMED)
    assert audit.reason() == "ClaimMismatch"


def test_claim_on_a_merge_says_so_and_holds() -> None:
    desk = Desk.of("merge")
    audit = Audit(desk.history)
    desk.merge("bob")
    trailers = tuple((name, "merge" if name == "Capsule-Evidence" else value) for name, value in CLAIMED)
    audit.step(audit.claim(desk.raw, evidence="merge"), trailers=trailers)
    assert audit.reason() is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"request": "r2"}, "AttestationMismatch"),
        ({"request_digest": "sha256:" + "0" * 64}, "AttestationMismatch"),
        ({"revision": STRANGER}, "AttestationMismatch"),
        ({"reconciler": "reconciler-2"}, "AttestationMismatch"),
        ({"targets": {"openai-chat": "sha256:" + "0" * 64}}, "AttestationMismatch"),
        ({"observed_at": review("bob", after=3 * 24 * 60).submitted_at}, "TimeMismatch"),
    ],
)
def test_attestation_that_lies_about_what_git_knows(said: dict[str, Any], reason: str) -> None:
    desk, audit = attested()
    audit.step(desk.record(**said), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == reason


@pytest.mark.parametrize("number", [2, 10])
def test_attestation_with_a_gap_before_it(number: int) -> None:
    desk, audit = attested()
    audit.step(desk.record(number), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == "AttestationMismatch"


def test_attestation_rewritten() -> None:
    desk, audit = attested(review("bob", "dismissed"))
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    desk.attest(review("bob"))
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == "RecordChanged"


def test_attestation_by_a_person() -> None:
    desk, audit = attested()
    audit.step(desk.record(reconciler="bob"), by=key("bob"), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == "AuditByPerson"


def test_attestation_by_a_machine_that_the_policy_has_just_dismissed() -> None:
    desk, audit = attested()
    history = desk.history
    old = history.files["policy.yaml"]
    new = (
        policy_of("forge", serial=2)
        .replace(key("reconciler-1").public.text.encode(), key("reconciler-2").public.text.encode())
        .replace(b"reconciler-1", b"reconciler-2")
    )
    history.step({"policy.yaml": new, **history.change_word("carol", {"policy.yaml": (old, new)})}, by="bob")
    assert history.judged().policy.document.spec.serial == 2
    desk.told.clear()
    desk.attest(review("bob"))
    audit.step(desk.record(), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == "AttestationMismatch"


def test_attestation_of_a_request_that_is_not_on_main() -> None:
    desk, audit = attested()
    desk.history.step(dict.fromkeys(desk.history.request(desk.raw)))
    audit.step(desk.record(revision=desk.history.tip), trailers=TOLD, subject=SUBJECT)
    assert audit.reason() == "AttestationMismatch"


@pytest.mark.parametrize(
    ("subject", "trailers", "reason"),
    [
        ("r1: reviews of github pull request 13 recorded", TOLD, "SubjectMismatch"),
        ("r1: reviews of github pull request 12 recorded (+1 more)", TOLD, None),
        ("take in main", TOLD, "SubjectMismatch"),
        (SUBJECT, TOLD[1:], "TrailerMismatch"),
        (SUBJECT, (TOLD[0], ("Capsule-Evidence", "signature")), "TrailerMismatch"),
    ],
)
def test_commit_that_tells_another_story_of_the_reviews(
    subject: str, trailers: Any, reason: str | None
) -> None:
    desk, audit = attested()
    audit.step(desk.record(), trailers=trailers, subject=subject)
    assert audit.reason() == reason
