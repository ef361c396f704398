"""Reviews at a forge as evidence for changes of documents, and what is tried to get one in without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capsule.documents.codec import emit
from capsule.documents.paths import CHANGES, ChangeFolder
from capsule.documents.types import Writer
from capsule.trust.attestations import MOST_STRANGERS
from capsule.trust.change_reviews import leading_steps
from capsule.trust.changes import VoidApproval
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.mainline import judge
from tests.evidence_history import (
    ACCOUNTS,
    CHAT,
    NOW,
    RECORDED,
    REVIEWED_CHANGES,
    ChangeDesk,
    policy_of,
    review,
)
from tests.trust_history import key, policy_text, service_text

OTHER = service_text(model="gpt-6")
MOVED = "services/prod/openai-chat.yaml"
MALLORY = service_text(endpoint="https://10.66.6.6:7070")


def changed(data: bytes | None = OTHER, path: str = CHAT, **options: Any) -> ChangeDesk:
    """A desk at which the forge squashed a change of the service; nobody has said a word yet."""
    desk = ChangeDesk.of(**options)
    desk.history.step({path: data})
    return desk


# ---- honest ways --------------------------------------------------------------------------------


def test_an_honest_squash_that_bob_approved_comes_into_force_and_audit_proves_it() -> None:
    desk = changed()
    assert desk.why().startswith("ChangeUnsigned")
    desk.review(review("bob"))
    state = desk.state()
    assert state.services["openai-chat"].document.spec.pins["model"] == "gpt-6"
    assert (state.pending, state.findings) == ((), ())
    assert desk.audit.reason() is None


def test_a_true_merge_comes_into_force() -> None:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: OTHER}, merge=True)
    desk.review(review("bob"))
    assert desk.in_force()
    assert desk.audit.reason() is None


def test_a_rebase_of_several_commits_comes_into_force() -> None:
    desk = changed(service_text(model="gpt-5.5"))
    first = desk.history.tip
    last = desk.history.step({CHAT: OTHER})
    desk.history.step({"README.md": b"3"})
    desk.review(review("bob"), steps=(last, first), merged=desk.history.tip)
    assert desk.in_force()
    assert desk.audit.reason() is None


def test_settings_and_removals_and_moves_come_into_force() -> None:
    desk = ChangeDesk.of()
    settings = desk.history.files["capsule.yaml"].replace(b"maxShare: 100", b"maxShare: 50")
    desk.history.step({"capsule.yaml": settings, CHAT: None, MOVED: OTHER})
    desk.review(review("bob"), paths=("capsule.yaml", CHAT, MOVED))
    state = desk.state()
    assert state.settings.document.spec.limits.max_share == 50
    assert state.services["openai-chat"].path == MOVED
    desk.history.step({MOVED: None})
    desk.review(review("bob"), paths=(MOVED,))
    assert "openai-chat" not in desk.state().services
    assert desk.audit.reason() is None


def test_who_opened_the_pull_request_is_enough_where_nobody_need_approve() -> None:
    desk = changed(service_text("mailer", env="test", model="gpt-6"), "services/test/mailer.yaml")
    desk.review(paths=("services/test/mailer.yaml",))
    assert desk.in_force("services/test/mailer.yaml")


def test_a_review_counts_beside_a_signed_word_for_two_people() -> None:
    rules = (REVIEWED_CHANGES[0].replace("count: 1", "count: 2"), *REVIEWED_CHANGES[1:])
    desk = ChangeDesk.of(rules=rules)
    before = desk.history.files[CHAT]
    desk.history.step({CHAT: OTHER})
    desk.review(review("bob"))
    (change,) = desk.state().pending
    assert (change.reason, change.approved_by, change.evidence) == ("ApprovalsMissing", ("bob",), ("forge",))
    desk.history.step(desk.history.change_word("dave", {CHAT: (before, OTHER)}))
    assert desk.in_force()
    desk.audit.step({})
    assert desk.audit.reason() is None


def test_a_review_that_comes_later_is_judged_by_the_policy_in_force_then() -> None:
    desk = changed()
    desk.review()
    assert desk.why().startswith("ApprovalsMissing: missing: 1 of reviewers")
    assert desk.state().pending[0].authors == ("alice",)
    desk.review(review("bob"), number=2)
    assert desk.in_force()
    assert desk.audit.reason() is None


# ---- who reviewed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"commit": "cd" * 20}, "StaleReview"),
        ({"commit": None}, "StaleReview"),
        ({"state": "dismissed"}, "DismissedReview"),
        ({"state": "commented"}, "CommentOnly"),
        ({"bot": True}, "BotReview"),
        ({"who": 999, "login": "bob"}, "UnknownForgeUser"),
        ({"who": "alice"}, "SelfReview"),
    ],
)
def test_review_that_is_none(said: dict[str, Any], reason: str) -> None:
    """Stale, dismissed, a mere comment, of a bot, of a recycled login, of who opened the pull request."""
    desk = changed()
    desk.review(review(said.pop("who", "bob"), **said))
    why = desk.why()
    assert why.startswith("ApprovalsMissing")
    assert f"({reason})" in why
    assert desk.audit.reason() is None


def test_review_of_a_reviewer_who_opened_it_beside_one_who_signed_the_step() -> None:
    desk = ChangeDesk.of()
    desk.history.step({CHAT: OTHER}, by="alice")
    desk.review(review("bob"), author=ACCOUNTS["bob"])
    assert "(SelfReview)" in desk.why()


@pytest.mark.parametrize(
    "writer",
    [
        Writer(user=ACCOUNTS["bob"]),
        Writer(email="bob@example.com"),
        Writer(email="BOB@example.com"),
        Writer(email="102+bob@users.noreply.github.com"),
        Writer(user=ACCOUNTS["alice"], email="bob@example.com"),
        Writer(user=ACCOUNTS["bob"], email="alice@example.com"),
    ],
)
def test_review_of_who_wrote_a_commit_of_it(writer: Writer) -> None:
    desk = changed()
    desk.review(review("bob"), writers=[Writer(user=ACCOUNTS["alice"]), writer])
    assert "(SelfReview)" in desk.why()
    assert "(UnknownWriter)" not in desk.why()


@pytest.mark.parametrize(
    ("stranger", "named"),
    [
        (Writer(email="nobody@evil.example"), "nobody@evil.example"),
        (Writer(user=999, email="nobody@evil.example"), "nobody@evil.example"),
        (Writer(user=999, email="n" * 90 + "@evil.example"), "n" * 90 + "@evil.exam,"),
        (Writer(user=999), "account 999"),
        (Writer(), "nobody it names"),
        (Writer(email="102+bob@users.noreply.evil.example"), "102+bob@users.noreply.evil.example"),
    ],
)
def test_commit_by_nobody_whom_the_policy_knows(stranger: Writer, named: str) -> None:
    """Bob writes under an address of nobody on alice's branch, and approves it alone."""
    desk = changed(MALLORY)
    desk.review(review("bob"), writers=[Writer(user=ACCOUNTS["alice"]), stranger])
    assert "(UnknownWriter)" in desk.why()
    assert named in desk.why()
    assert (desk.state().pending[0].authors, desk.state().pending[0].approved_by) == ((), ())
    assert desk.audit.reason() is None


def test_commit_by_nobody_where_nobody_need_approve() -> None:
    """Whoever opened it does not ask for what a stranger pushed to its branch."""
    path = "services/test/mailer.yaml"
    desk = changed(service_text("mailer", env="test", model="gpt-6"), path)
    desk.review(paths=(path,), writers=[Writer(email="nobody@evil.example")])
    assert not desk.in_force(path)


def test_commit_by_nobody_takes_no_rejection_away() -> None:
    desk = changed()
    desk.history.step(desk.history.change_word("alice", {CHAT: (service_text(), OTHER)}, decision="propose"))
    desk.history.step(desk.history.change_word("dave", {CHAT: (service_text(), OTHER)}))
    assert desk.in_force()
    desk = changed()
    step = desk.history.tip
    desk.review(review("bob", "changes_requested"), steps=(step,), writers=[Writer()])
    desk.history.step(desk.history.change_word("alice", {CHAT: (service_text(), OTHER)}, decision="propose"))
    desk.history.step(desk.history.change_word("dave", {CHAT: (service_text(), OTHER)}))
    assert desk.why().startswith("Rejected: rejected by bob")


def test_writer_known_by_account_under_an_address_that_nobody_has() -> None:
    desk = changed()
    desk.review(review("bob"), writers=[Writer(user=ACCOUNTS["alice"], email="at-home@example.com")])
    assert desk.in_force()


# ---- what reviewers saw it differ from ----------------------------------------------------------


def test_review_of_a_branch_that_left_main_before_what_is_in_force() -> None:
    """The agent got a new key since; a merge by hand takes the branch's document whole, the old key with it.
    Its reviewers saw another model and nothing else."""
    desk = ChangeDesk.of()
    history = desk.history
    before = history.put("blob", history.files[CHAT])
    side = history.raw_commit(history.tree(history.edited({CHAT: OTHER})), [history.tip])
    history.step({CHAT: service_text(agent_key=key("new-agent"))})
    desk.review(review("bob"))
    assert desk.in_force()
    history.commit(history.edited({CHAT: OTHER}), [history.tip, side])
    desk.review(review("bob"), bases={CHAT: before})
    assert "(NotOnTopOfForce)" in desk.why()
    assert desk.state().services["openai-chat"].document.spec.agent.key == key("new-agent").public.text
    desk.review(review("bob"), number=2)
    assert desk.in_force()
    assert desk.audit.reason() is None


def test_review_of_a_document_as_new_that_was_there() -> None:
    desk = changed()
    desk.review(review("bob"), bases={})
    assert "(NotOnTopOfForce)" in desk.why()


def test_attestation_that_does_not_say_where_the_branch_left_main() -> None:
    path = "services/test/lone.yaml"
    desk = changed(service_text("lone", env="test", model="gpt-6"), path)
    told = desk.told(paths=(path,))
    desk.record(told.model_copy(update={"spec": told.spec.model_copy(update={"bases": {CHAT: None}})}))
    assert "(NotOnTopOfForce)" in desk.why()


# ---- floods -------------------------------------------------------------------------------------


def test_words_of_strangers_crowd_nobody_out() -> None:
    """Anybody may write any number of reviews and comments: what counts is recorded all the same."""
    desk = changed()
    flood = [review(1000 + n, "commented" if n % 2 else "approved", after=n % 50, id=n) for n in range(2000)]
    flood += [review("carol", "commented", after=n % 50, id=5000 + n) for n in range(600)]
    told = desk.told(*flood, review("bob"), review("bob", "dismissed", after=3), review("bob", after=1))
    assert [each.state for each in told.spec.reviews if each.user == ACCOUNTS["bob"]] == ["dismissed"]
    assert len([each for each in told.spec.reviews if each.user == ACCOUNTS["carol"]]) == 1
    strangers = [each for each in told.spec.reviews if each.user >= 1000]
    assert len(strangers) == MOST_STRANGERS
    assert {each.state for each in strangers} == {"approved"}
    desk.record(told)
    assert "(DismissedReview)" in desk.why()
    assert desk.audit.reason() is None


def test_address_of_alice_in_the_commits_of_a_pull_request_of_mallory() -> None:
    """Anybody may write any address: it makes nobody the author."""
    desk = changed()
    desk.review(review("bob"), author=ACCOUNTS["mallory"], writers=[Writer(email="alice@example.com")])
    assert desk.why().startswith("NotEntitled: mallory may not ask")


def test_pull_request_of_an_account_that_is_nobodys() -> None:
    desk = changed()
    desk.review(review("bob"), author=999)
    assert desk.why().startswith("ChangeUnsigned")


def test_pull_request_of_a_machine() -> None:
    desk = changed(accounts={**ACCOUNTS, "reconciler-1": 900})
    desk.review(review("bob"), author=900)
    assert desk.why().startswith("ChangeUnsigned")


def test_reviewer_in_no_team_that_is_asked() -> None:
    desk = changed()
    desk.review(review("carol"))
    assert desk.why().startswith("ApprovalsMissing")
    assert desk.state().pending[0].approved_by == ("carol",)


def test_request_for_changes_beside_an_approval() -> None:
    desk = changed()
    desk.review(review("bob"), review("dave", "changes_requested", after=1))
    assert desk.why().startswith("Rejected: rejected by dave")
    desk.review(
        review("bob"), review("dave", "changes_requested", after=1), review("dave", after=2), number=2
    )
    assert desk.in_force()
    assert desk.audit.reason() is None


def test_request_for_changes_by_who_is_not_asked_ends_nothing() -> None:
    desk = changed()
    desk.review(review("bob"), review("carol", "changes_requested", after=1))
    assert desk.in_force()


def test_approval_taken_back_before_it_was_recorded() -> None:
    desk = changed()
    desk.review(review("bob"), review("bob", "dismissed", after=1))
    assert "(DismissedReview)" in desk.why()


def test_approval_dismissed_before_the_other_one_came() -> None:
    rules = (REVIEWED_CHANGES[0].replace("count: 1", "count: 2"), *REVIEWED_CHANGES[1:])
    desk = changed(rules=rules)
    desk.review(review("bob"))
    desk.review(review("bob", "dismissed", after=1), review("dave", after=2), number=2)
    assert "(DismissedReview)" in desk.why()


def test_dismissal_after_it_came_into_force_changes_nothing_for_anybody() -> None:
    desk = changed()
    desk.review(review("bob"))
    desk.state()
    desk.history.step({"README.md": b"x"})
    desk.state()
    desk.record(desk.told(review("bob", "dismissed")), at=desk.history.tip)
    assert desk.in_force()
    assert desk.audit.reason() == "AttestationMismatch"  # nothing waits for it


# ---- what was reviewed --------------------------------------------------------------------------


def test_other_blob_at_the_head_than_on_main() -> None:
    desk = changed(MALLORY)
    innocent = desk.history.put("blob", OTHER)
    desk.review(review("bob"), paths=(CHAT,), steps=(desk.history.tip,))
    assert desk.in_force()
    desk = changed(MALLORY)
    told = desk.told(review("bob"))
    desk.record(told.model_copy(update={"spec": told.spec.model_copy(update={"paths": {CHAT: innocent}})}))
    assert "(PathsDiffer)" in desk.why()


def test_document_that_the_head_does_not_hold() -> None:
    desk = changed(MALLORY)
    told = desk.told(review("bob"))
    desk.record(told.model_copy(update={"spec": told.spec.model_copy(update={"paths": {CHAT: None}})}))
    assert "(PathsDiffer)" in desk.why()


def test_removal_of_what_the_head_still_holds() -> None:
    desk = changed(None)
    blob = desk.history.put("blob", OTHER)
    told = desk.told(review("bob"))
    desk.record(told.model_copy(update={"spec": told.spec.model_copy(update={"paths": {CHAT: blob}})}))
    assert "(PathsDiffer)" in desk.why()


@pytest.mark.parametrize(
    "said", [{"forge": "gitea"}, {"server": "https://evil.example"}, {"repository": "mallory/state"}]
)
def test_reviews_of_another_forge_server_or_repository(said: dict[str, Any]) -> None:
    desk = changed()
    desk.review(review("bob"), **said)
    assert "(OtherForge)" in desk.why()


def test_small_change_on_top_of_one_that_is_not_in_force() -> None:
    """What reviewers saw of it was the small change alone."""
    desk = changed(MALLORY)
    desk.history.step({"README.md": b"x"})
    desk.history.step({CHAT: MALLORY + b"# a comment\n"})
    desk.review(review("bob"))
    assert "left main where" in desk.why()
    assert "(NotOnTopOfForce)" in desk.why()
    # The branch may have left main before the other change came: the merge is of both then.
    desk.review(review("bob"), number=2, bases={CHAT: desk.history.put("blob", service_text())})
    assert "changed what" in desk.why()
    assert "(NotOnTopOfForce)" in desk.why()


def test_small_change_on_top_of_one_that_waits_for_very_long() -> None:
    desk = changed(MALLORY)
    for number in range(102):
        desk.history.step({"README.md": str(number).encode()})
    early = desk.history.step({CHAT: MALLORY + b"# a comment\n"})
    desk.review(review("bob"), steps=(early,), bases={CHAT: desk.history.put("blob", service_text())})
    assert "(NotOnTopOfForce)" in desk.why()
    before = desk.history.put("blob", service_text())
    with pytest.raises(VoidApproval):
        list(leading_steps(desk.history, desk.history.tip, CHAT, before))


def test_change_on_top_of_one_that_was_brought_back() -> None:
    desk = ChangeDesk.of()
    good = desk.history.files[CHAT]
    desk.history.step({CHAT: MALLORY})
    desk.history.step({CHAT: good})
    desk.history.step({CHAT: OTHER})
    desk.review(review("bob"))
    assert desk.in_force()


def test_attestation_of_another_step() -> None:
    desk = ChangeDesk.of()
    honest = desk.history.step({"README.md": b"x"})
    desk.history.step({CHAT: MALLORY})
    desk.review(review("bob"), steps=(honest,))
    assert desk.why().startswith("ChangeUnsigned")
    assert "(ReviewsUnknown)" in desk.why()
    assert desk.audit.reason() == "AttestationMismatch"


def test_attestation_that_names_one_of_two_documents_speaks_of_that_one_alone() -> None:
    desk = ChangeDesk.of()
    mailer = "services/test/mailer.yaml"
    desk.history.step({CHAT: MALLORY, mailer: service_text("mailer", env="test", model="m9")})
    desk.review(review("bob"), paths=(mailer,))
    assert "(ReviewsUnknown)" in desk.why()
    assert desk.in_force(mailer)


def test_attestation_in_the_folder_of_another_revision() -> None:
    desk = changed()
    desk.record(desk.told(review("bob")), at=desk.history.root)
    assert not desk.in_force()
    assert desk.audit.reason() == "AttestationMismatch"


def test_pull_request_that_ended_before_the_step() -> None:
    desk = ChangeDesk.of()
    honest = desk.history.step({"README.md": b"x"})
    step = desk.history.step({CHAT: MALLORY})
    desk.review(review("bob"), steps=(step,), merged=honest)
    assert "(OtherStep)" in desk.why()


def test_document_that_moves_by_two_pull_requests() -> None:
    desk = ChangeDesk.of()
    gone = desk.history.step({CHAT: None})
    came = desk.history.step({MOVED: OTHER})
    desk.record(
        desk.told(review("bob"), steps=(gone,)),
        desk.told(review("bob"), steps=(came,), paths=(MOVED,), number=13),
        subject="change by github pull request 12: reviews recorded (+1 more)",
    )
    messages = [change.message for change in desk.state().pending]
    assert ["(SeveralPullRequests)" in each for each in messages] == [True, True]


def test_document_that_moves_by_two_steps_of_one_pull_request_needs_both_told_alike() -> None:
    desk = ChangeDesk.of()
    gone = desk.history.step({CHAT: None})
    came = desk.history.step({MOVED: OTHER})
    desk.record(desk.told(review("bob"), steps=(came,), paths=(MOVED,)))
    assert "(ReviewsUnknown)" in desk.state().pending[0].message
    desk.record(desk.told(steps=(gone,), merged=came), number=2)
    assert {change.reason for change in desk.state().pending} == {"ApprovalsMissing"}
    desk.record(desk.told(review("bob"), steps=(gone,), merged=came), number=3)
    assert desk.in_force(MOVED)
    assert desk.audit.reason() is None


# ---- replays ------------------------------------------------------------------------------------


def test_review_once_used_does_not_bring_the_change_in_again_after_a_revert() -> None:
    desk = changed()
    step, good = desk.history.tip, desk.history.files[CHAT]
    desk.review(review("bob"))
    assert desk.in_force()
    before = service_text()
    desk.history.step({CHAT: before})
    desk.review(review("bob"))
    assert desk.state().services["openai-chat"].document.spec.pins["model"] == "gpt-5.1"
    desk.history.step({CHAT: good})
    assert desk.why().startswith("ChangeUnsigned")
    desk.record(desk.told(review("bob"), steps=(step,)))
    assert desk.why().startswith("ChangeUnsigned")
    assert desk.audit.reason() == "AttestationMismatch"


def test_attestation_copied_to_a_later_revision() -> None:
    desk = changed()
    told = desk.told(review("bob"))
    desk.history.step({"README.md": b"x"})
    desk.record(told, at=desk.history.tip)
    assert desk.why().startswith("ChangeUnsigned")
    assert desk.audit.reason() == "AttestationMismatch"


def test_attestation_inserted_at_a_revision_that_is_past() -> None:
    desk = changed()
    told, step = desk.told(review("bob")), desk.history.tip
    desk.history.step({"README.md": b"x"})
    desk.audit.step({})
    desk.record(told, at=step)
    assert desk.audit.reason() == "AttestationMismatch"


def test_attestation_edited_on_audit() -> None:
    desk = changed()
    desk.review(review("carol"))
    assert desk.audit.reason() is None
    desk.record(desk.told(review("bob")))
    assert desk.audit.reason() == "RecordChanged"


def test_attestation_taken_away_on_audit() -> None:
    desk = changed()
    desk.review(review("bob"))
    assert desk.in_force()
    desk.audit.step({ChangeFolder(desk.history.tip).attestation(1): None}, subject="x")
    assert not desk.in_force()
    assert desk.audit.reason() == "RecordDeleted"


def test_attestation_written_by_a_person() -> None:
    desk = changed()
    desk.record(desk.told(review("bob")), by=key("mallory"))
    assert desk.audit.reason() == "AuditByPerson"


@pytest.mark.parametrize(
    "said",
    [
        {"reconciler": "reconciler-2"},
        {"revision": "0" * 40},
        {"observed_at": NOW.replace(month=10)},
        {"paths": {"services/none.yaml": None}},
    ],
)
def test_attestation_that_says_something_else_than_its_commit(said: dict[str, Any]) -> None:
    desk = changed()
    desk.review(review("bob"), **said)
    expected = "TimeMismatch" if "observed_at" in said else "AttestationMismatch"
    assert desk.audit.reason() == expected


def test_attestation_of_another_name() -> None:
    desk = changed()
    told = desk.told(review("bob"))
    desk.record(told.model_copy(update={"metadata": told.metadata.model_copy(update={"name": "mine"})}))
    assert desk.audit.reason() == "AttestationMismatch"


@pytest.mark.parametrize("numbers", [(2,), (1, 3)])
def test_attestations_whose_numbers_do_not_follow(numbers: tuple[int, ...]) -> None:
    desk = changed()
    told = emit(desk.told(review("bob")))
    folder = ChangeFolder(desk.history.tip)
    subject = "change by github pull request 12: reviews recorded (+1 more)"
    desk.audit.step({folder.attestation(n): told for n in numbers}, subject=subject, trailers=RECORDED)
    assert desk.audit.reason() == "AttestationMismatch"


def test_file_among_attestations_that_is_none() -> None:
    desk = changed()
    desk.audit.step({f"{CHANGES}/ab/notes.yaml": b"x: 1\n"}, subject="x")
    assert desk.audit.reason() == "UnexpectedRecord"


def test_attestation_that_is_no_document_says_nothing() -> None:
    desk = changed()
    path = ChangeFolder(desk.history.tip).attestation(1)
    desk.audit.step({path: b"kind: ChangeAttestation\n"}, subject="x")
    assert desk.why().startswith("ChangeUnsigned")
    assert desk.audit.reason() == "InvalidRecord"


def test_story_that_hides_the_attestation() -> None:
    desk = changed()
    desk.record(desk.told(review("bob")), subject=f"take in main {desk.history.tip[:12]}")
    assert desk.audit.reason() == "SubjectMismatch"


# ---- what reviews never let in ------------------------------------------------------------------


def test_policy_changed_by_the_forge() -> None:
    desk = ChangeDesk.of()
    policy = policy_of("forge", serial=2).replace(b"operators: [alice]", b"operators: [alice, mallory]")
    desk.history.step({"policy.yaml": policy})
    desk.review(review("bob"), review("carol"), paths=("policy.yaml",), author=ACCOUNTS["carol"])
    state = desk.state()
    assert state.suspended is not None
    assert state.suspended.reason == "PolicyNotAuthorised"
    assert not state.pending[0].takes_reviews
    assert desk.audit.reason() == "AttestationMismatch"


def test_change_whose_rule_takes_signatures_alone() -> None:
    desk = changed(service_text("safe", env="sealed"), "services/safe.yaml")
    desk.review(review("bob"), paths=("services/safe.yaml",))
    assert desk.why().startswith("ChangeUnsigned")
    assert desk.audit.reason() == "AttestationMismatch"


def test_change_out_of_a_rule_that_takes_signatures_alone() -> None:
    """Selectors are tested on the labels before and after."""
    desk = ChangeDesk.of()
    first = {**desk.history.files, "services/safe.yaml": service_text("safe", env="sealed")}
    desk = ChangeDesk.of()
    history = type(desk.history).begun(first)
    desk = ChangeDesk(history, type(desk.audit)(history))
    history.step({"services/safe.yaml": service_text("safe", env="prod")})
    desk.review(review("bob"), paths=("services/safe.yaml",))
    assert not desk.in_force("services/safe.yaml")


def suspended(desk: ChangeDesk) -> Callable[[], None]:
    """Main is suspended by a policy that nobody authorised; what is called mends it."""
    good = desk.history.files["policy.yaml"]
    desk.history.step({"policy.yaml": policy_text(serial=2)})
    return lambda: (desk.history.step({"policy.yaml": good}), None)[1]


def test_change_merged_while_main_was_suspended() -> None:
    desk = ChangeDesk.of()
    mend = suspended(desk)
    step = desk.history.step({CHAT: OTHER})
    mend()
    desk.review(review("bob"), steps=(step,))
    assert desk.why().startswith("ChangeUnsigned")
    desk.history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="m9")})
    (change,) = (change for change in desk.state().pending if change.path == CHAT)
    assert not change.takes_reviews
    assert not desk.in_force()
    assert desk.audit.reason() == "AttestationMismatch"


def test_review_that_is_recorded_while_main_is_suspended_waits_until_it_is_mended() -> None:
    desk = changed()
    step = desk.history.tip
    mend = suspended(desk)
    desk.review(review("bob"), steps=(step,))
    assert not desk.in_force()
    mend()
    assert not desk.in_force()
    desk.history.step({"README.md": b"x"})
    assert desk.in_force()
    desk.audit.step({})
    assert desk.audit.reason() is None


def test_review_of_a_document_that_is_not_valid() -> None:
    desk = changed(b"kind: Service\n")
    desk.review(review("bob"))
    assert desk.why().startswith("InvalidDocument")


# ---- how main is judged -------------------------------------------------------------------------


def test_review_recorded_late_at_a_step_that_was_judged_past_already() -> None:
    """Another reconciler was behind: whoever had judged on goes back, and comes to the same verdict."""
    desk = changed()
    step, history = desk.history.tip, desk.history
    desk.audit.step({})
    desk.state()
    history.step({"README.md": b"x"})
    ahead, later = history.tip, dict(history.files)
    assert not desk.in_force()
    history.tip = step
    desk.record(desk.told(review("bob")))
    history.tip, history.files = ahead, later
    assert desk.in_force()
    desk.audit.step({})
    assert desk.audit.reason() is None


def test_main_rewound_is_noticed_though_reviews_were_recorded_since() -> None:
    desk = changed()
    desk.state()
    history = desk.history
    desk.review(review("bob"))
    history.files = dict(history.files)
    other = history.raw_commit(history.tree(history.files), [history.root], message="other")
    seen = SeenOnAudit(history, history.root, other, desk.audit.tip, NOW)
    state = judge(history, history.root, other, desk.known, seen)
    assert state.suspended is not None
    assert state.suspended.reason == "HistoryRewritten"


def test_attestation_by_a_machine_that_the_policy_it_takes_in_lists_no_more() -> None:
    desk = changed()
    step, old = desk.history.tip, desk.history.files["policy.yaml"]
    line = f'reconciler-1: {{machine: true, keys: ["{key("reconciler-1").public.text}"]}}'
    other = f'reconciler-2: {{machine: true, keys: ["{key("reconciler-2").public.text}"]}}'
    new = old.decode().replace(line, other).replace("serial: 1", "serial: 2").encode()
    words = desk.history.change_word("bob", {"policy.yaml": (old, new)})
    desk.history.step({"policy.yaml": new, **words}, by="carol")
    assert desk.state().policy.document.spec.serial == 2
    desk.review(review("bob"), steps=(step,))
    bad = desk.audit.verdict().first_bad
    assert bad is not None
    assert (bad.reason, "no machine" in bad.message) == ("AttestationMismatch", True)


def test_reviews_of_one_change_bring_no_other_in_before_its_step_is_judged() -> None:
    """What a policy of this very step would let in waits for the next step, whoever is reviewed meanwhile."""
    desk = changed()
    step, old = desk.history.tip, desk.history.files["policy.yaml"]
    mailer = "services/test/mailer.yaml"
    desk.history.step({mailer: service_text("mailer", env="test", model="m9")}, by="mallory")
    new = (
        old.decode()
        .replace("operators: [alice]", "operators: [alice, mallory]")
        .replace("serial: 1", "serial: 2")
    )
    words = desk.history.change_word("bob", {"policy.yaml": (old, new.encode())})
    desk.history.step({"policy.yaml": new.encode(), **words}, by="carol")
    desk.review(review("bob"), steps=(step,))
    assert desk.in_force()
    assert not desk.in_force(mailer)
    desk.history.step({"README.md": b"x"})
    assert desk.in_force(mailer)
    desk.audit.step({})
    assert desk.audit.reason() is None


def test_change_that_no_rule_is_about() -> None:
    desk = changed(service_text("lone", env="nowhere"), "services/lone.yaml")
    desk.review(review("bob"), paths=("services/lone.yaml",))
    assert desk.why().startswith("NoRule")
    assert not desk.state().pending[0].takes_reviews
    assert desk.audit.reason() == "AttestationMismatch"
