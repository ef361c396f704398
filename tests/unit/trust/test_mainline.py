"""Main judged step by step: what is taken over, what is not, and how it is mended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capsule.trust.mainline import BadRoot, advance, begin, judge
from capsule.trust.policy_checks import load_policy
from capsule.trust.published import signers_document
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig
from tests.trust_history import History, first_files, key, policy_text, service_text

CHAT = "services/openai-chat.yaml"
MAILER = "services/test/mailer.yaml"
NEW_MODEL = service_text(model="gpt-6")


def model(state: MainState, name: str = "openai-chat") -> object:
    return state.services[name].document.spec.pins["model"]


def reasons(state: MainState) -> dict[str, str]:
    return {change.path: change.reason for change in state.pending}


def test_a_root_brings_all_its_documents_into_force() -> None:
    history = History.begun()
    state = history.judged()
    assert set(state.services) == {"openai-chat", "mailer"}
    assert state.policy.document.spec.serial == 1
    assert state.tip == history.root == state.root
    assert state.suspended is None
    assert state.findings == ()


def test_a_change_that_needs_no_approval_is_taken_over_from_its_signer() -> None:
    history = History.begun()
    step = history.step({MAILER: service_text("mailer", env="test", model="m2")}, by="alice")
    state = history.judged()
    assert model(state, "mailer") == "m2"
    assert state.services["mailer"].since == step
    assert state.pending == ()


def test_a_change_waits_for_its_approval_which_may_come_later() -> None:
    history = History.begun()
    history.step({CHAT: NEW_MODEL}, by="alice")
    waiting = history.judged()
    assert model(waiting) == "gpt-5.1"
    assert reasons(waiting) == {CHAT: "ApprovalsMissing"}
    assert waiting.pending[0].authors == ("alice",)
    assert waiting.pending[0].missing[0].candidates == ("bob", "dave")
    history.step(history.change_word("bob", {CHAT: (service_text(), NEW_MODEL)}))
    state = advance(history, waiting, history.tip)
    assert model(state) == "gpt-6"
    assert state.pending == ()
    assert state == history.judged()


def test_a_merge_needs_a_proposal_and_may_bring_everything_at_once() -> None:
    history = History.begun()
    change = {CHAT: (service_text(), NEW_MODEL)}
    words = history.change_word("alice", change, "propose") | history.change_word("bob", change)
    history.step({CHAT: NEW_MODEL, **words}, merge=True)
    assert model(history.judged()) == "gpt-6"


def test_a_merge_names_no_author_by_its_own_signature() -> None:
    history = History.begun()
    change = {CHAT: (service_text(), NEW_MODEL)}
    history.step({CHAT: NEW_MODEL, **history.change_word("bob", change)}, merge=True, by="alice")
    assert reasons(history.judged()) == {CHAT: "ChangeUnsigned"}


def test_a_policy_change_is_judged_by_the_policy_before() -> None:
    history = History.begun()
    change = {"policy.yaml": (policy_text(), policy_text(2))}
    history.step({"policy.yaml": policy_text(2), **history.change_word("carol", change)}, by="bob")
    state = history.judged()
    assert state.policy.document.spec.serial == 2
    assert state.suspended is None


def test_an_unauthorised_policy_suspends_until_the_last_good_bytes_are_back() -> None:
    history = History.begun()
    bad = history.step({"policy.yaml": policy_text(2), CHAT: NEW_MODEL}, by="mallory")
    state = history.judged()
    assert state.suspended is not None
    assert (state.suspended.reason, state.suspended.commit) == ("PolicyNotAuthorised", bad)
    assert state.policy.document.spec.serial == 1
    history.step({MAILER: service_text("mailer", env="test", model="m2")}, by="alice")
    history.step({"policy.yaml": policy_text()}, by="mallory")
    mended = advance(history, state, history.tip)
    assert mended.suspended is None
    assert reasons(mended) == {CHAT: "MergedWhileSuspended", MAILER: "MergedWhileSuspended"}
    change = {MAILER: (service_text("mailer", env="test"), history.files[MAILER])}
    history.step(history.change_word("alice", change, "propose"))
    asked_again = advance(history, mended, history.tip)
    assert model(asked_again, "mailer") == "m2"
    assert reasons(asked_again) == {CHAT: "ChangeUnsigned"}


def test_what_waited_before_a_suspension_goes_on_waiting_after_it() -> None:
    history = History.begun()
    history.step({CHAT: NEW_MODEL}, by="alice")
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    void = history.change_word("bob", {CHAT: (service_text(), NEW_MODEL)})
    history.step(void)
    history.step({"policy.yaml": policy_text()}, by="mallory")
    history.step(dict.fromkeys(void))
    history.step(void)
    state = history.judged()
    assert state.suspended is None
    assert reasons(state) == {CHAT: "ApprovalsMissing"}
    assert state.pending[0].authors == ("alice",)
    history.step(history.change_word("bob", {CHAT: (service_text(), NEW_MODEL)}, reason="seen again"))
    assert model(history.judged()) == "gpt-6"


def test_an_unauthorised_policy_is_mended_by_owners_who_approve_it() -> None:
    history = History.begun()
    history.step({"policy.yaml": policy_text(2)}, by="mallory")
    change = {"policy.yaml": (policy_text(), policy_text(2))}
    history.step(history.change_word("bob", change, "propose") | history.change_word("carol", change))
    state = history.judged()
    assert state.suspended is None
    assert state.policy.document.spec.serial == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            policy_text(1, teams={"operators": ["alice"], "reviewers": ["bob"], "owners": ["bob", "carol"]}),
            "PolicySerialNotRising",
        ),
        (b"nonsense", "InvalidPolicy"),
        (
            policy_text(2, principals={"alice": ["alice"], "bob": ["alice"], "carol": ["c"], "dave": ["d"]}),
            "InvalidPolicy",
        ),
        (None, "PolicyMissing"),
    ],
)
def test_a_policy_that_cannot_come_into_force_suspends(text: bytes | None, reason: str) -> None:
    history = History.begun()
    words: dict[str, bytes | None] = {}
    if text is not None:
        words = history.change_word("carol", {"policy.yaml": (policy_text(), text)})
    history.step({"policy.yaml": text, **words}, by="bob")
    state = history.judged()
    assert state.suspended is not None
    assert state.suspended.reason == reason
    assert state.policy.document.spec.serial == 1


def test_root_errors() -> None:
    files = first_files()
    for broken in (
        {**files, "policy.yaml": b"x"},
        {path: data for path, data in files.items() if path != "policy.yaml"},
        {**files, "status/x.yaml": b"x"},
    ):
        history = History.begun(broken)
        with pytest.raises(BadRoot):
            begin(history, history.root)
    history = History.begun()
    with pytest.raises(BadRoot):
        begin(history, history.step())


def settings_text(title: str) -> bytes:
    head = "apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\n"
    return f"{head}spec: {{title: {title}}}\n".encode()


def test_settings_come_into_force_as_their_rule_says() -> None:
    history = History.begun()
    history.step({"capsule.yaml": settings_text("one")}, by="alice")
    assert history.judged().settings.document.spec.title == "one"
    history.step({"capsule.yaml": settings_text("two")}, by="mallory")
    state = history.judged()
    assert state.settings.document.spec.title == "one"
    assert reasons(state) == {"capsule.yaml": "NotEntitled"}
    assert state.suspended is None


@pytest.mark.parametrize(("text", "reason"), [(b"x", "InvalidDocument"), (None, "SettingsMissing")])
def test_settings_that_cannot_come_into_force(text: bytes | None, reason: str) -> None:
    history = History.begun()
    history.step({"capsule.yaml": text}, by="alice")
    state = history.judged()
    assert reasons(state) == {"capsule.yaml": reason}
    assert state.settings.since == history.root
    assert [finding.reason for finding in state.findings] == [reason]


def test_documents_that_cannot_come_into_force_are_findings_and_nothing_else() -> None:
    history = History.begun()
    history.step(
        {
            "services/broken.yaml": b"x",
            "services/other.yaml": service_text("mailer2", env="test"),
            "services/Upper.yaml": service_text("upper", env="test"),
            "services/README.md": b"for people",
            MAILER: service_text("mailer", env="test", model="m2"),
        },
        by="alice",
    )
    state = history.judged()
    assert reasons(state) == {
        "services/broken.yaml": "InvalidDocument",
        "services/other.yaml": "NameMismatch",
        "services/Upper.yaml": "MisplacedDocument",
    }
    assert model(state, "mailer") == "m2"
    history.step({"services/broken.yaml": None, "services/other.yaml": None, "services/Upper.yaml": None})
    assert history.judged().pending == ()


def test_a_root_may_hold_documents_that_are_not_taken() -> None:
    files = {
        **first_files(),
        "services/broken.yaml": b"x",
        "services/z/openai-chat.yaml": service_text(),
        "services/README.md": b"for people",
    }
    state = History.begun(files).judged()
    assert set(state.services) == {"openai-chat", "mailer"}
    assert sorted(reasons(state).values()) == ["DuplicateName", "InvalidDocument"]
    assert {finding.commit for finding in state.findings} == {state.root}


def test_a_service_may_move_with_the_approval_of_both_paths() -> None:
    moved = "services/chat/openai-chat.yaml"
    history = History.begun()
    change = {CHAT: (service_text(), None), moved: (None, service_text())}
    history.step({CHAT: None, moved: service_text(), **history.change_word("bob", change)}, by="alice")
    state = history.judged()
    assert state.services["openai-chat"].path == moved
    assert state.pending == ()


def test_a_move_in_two_steps_by_two_people_has_no_one_author() -> None:
    moved = "services/chat/openai-chat.yaml"
    history = History.begun()
    change = {CHAT: (service_text(), None), moved: (None, service_text())}
    history.step({moved: service_text()}, by="alice")
    history.step({CHAT: None, **history.change_word("dave", change)}, by="bob")
    assert set(reasons(history.judged()).values()) == {"ChangeUnsigned"}
    history.step(history.change_word("alice", change, "propose"))
    assert history.judged().services["openai-chat"].path == moved


def test_a_service_is_deleted_and_another_added_as_approved() -> None:
    history = History.begun()
    change = {CHAT: (service_text(), None), "services/new.yaml": (None, service_text("new"))}
    words = history.change_word("bob", change)
    history.step({CHAT: None, "services/new.yaml": service_text("new"), **words}, by="alice")
    assert set(history.judged().services) == {"new", "mailer"}


def test_an_approval_of_several_changes_may_come_into_force_part_by_part() -> None:
    history = History.begun()
    extra = service_text("extra")
    change = {CHAT: (service_text(), NEW_MODEL), "services/extra.yaml": (None, extra)}
    history.step({CHAT: NEW_MODEL, "services/extra.yaml": extra}, merge=True)
    first = {CHAT: (service_text(), NEW_MODEL)}
    history.step(history.change_word("alice", first, "propose") | history.change_word("bob", change))
    state = history.judged()
    assert model(state) == "gpt-6"
    assert reasons(state) == {"services/extra.yaml": "ChangeUnsigned"}
    history.step(history.change_word("alice", {"services/extra.yaml": (None, extra)}, "propose"))
    assert "extra" in history.judged().services


def test_a_word_that_is_withdrawn_counts_no_more() -> None:
    history = History.begun()
    change = {CHAT: (service_text(), NEW_MODEL)}
    word = history.change_word("bob", change)
    history.step({CHAT: NEW_MODEL, **word}, merge=True)
    history.step(dict.fromkeys(word))
    history.step(history.change_word("alice", change, "propose"))
    assert reasons(history.judged()) == {CHAT: "ApprovalsMissing"}


def test_a_waiting_change_is_judged_again_when_the_policy_changed() -> None:
    history = History.begun()
    history.step({CHAT: NEW_MODEL}, by="alice")
    rules = (
        "{match: {change: service}, mayRequest: [operators], approvals: []}",
        "{match: {change: policy}, mayRequest: [owners], approvals: [{team: owners, count: 1}]}",
    )
    loose = policy_text(2, rules=rules)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), loose)})
    history.step({"policy.yaml": loose, **words}, by="bob")
    assert reasons(history.judged()) == {CHAT: "ApprovalsMissing"}
    history.step({"README.md": b"the next step"})
    assert model(history.judged()) == "gpt-6"


def test_malformed_words_are_told_and_count_for_nothing() -> None:
    history = History.begun()
    path = f"approvals/{'0' * 64}/bob.json"
    history.step(
        {CHAT: NEW_MODEL, path: b"not json", f"{path}.sig": b"x", "approvals/notes.txt": b"x"}, by="alice"
    )
    assert reasons(history.judged()) == {CHAT: "ApprovalsMissing"}
    bad = history.change_word("bob", {CHAT: (service_text(), NEW_MODEL)})
    name = next(iter(bad))
    data = bad[name]
    assert data is not None
    history.step({name: data, f"{name}.sig": b"broken"})
    history.step({name: b"[", f"{name}.sig": b"broken"})
    state = history.judged()
    assert "MalformedApproval" in state.pending[0].message


def test_steps_that_touch_no_document_cost_next_to_nothing() -> None:
    history = History.begun(
        {**first_files(), **{f"services/s/s{at}.yaml": service_text(f"s{at}") for at in range(200)}}
    )
    state = history.judged()
    for at in range(20):
        history.step({f"requests/2026/11/r{at}/request.yaml": b"x"})
    history.reads = 0
    state = advance(history, state, history.tip)
    assert state.tip == history.tip
    assert history.reads <= 20 * 6
    history.step({"services/s/s7.yaml": service_text("s7", model="m")}, by="alice")
    history.reads = 0
    advance(history, state, history.tip)
    assert history.reads <= 20


def test_judging_goes_on_from_what_is_known() -> None:
    history = History.begun()
    known = history.judged()
    history.step({MAILER: service_text("mailer", env="test", model="m2")}, by="alice")
    assert judge(history, history.root, history.tip, known) == history.judged()
    other = History.begun({**first_files(), "README.md": b"other"})
    assert judge(other, other.root, other.tip, known).root == other.root


def test_a_root_with_parents_is_no_root() -> None:
    history = History.begun()
    later = history.step()
    with pytest.raises(BadRoot):
        begin(history, later)
    with pytest.raises(BadRoot):
        begin(history, history.put("tag", b"x"))


def test_a_malformed_commit_in_the_chain_of_main_stops_there() -> None:
    history = History.begun()
    known = history.judged()
    tip = history.put("commit", b"tree x\n")
    state = advance(history, known, tip)
    assert state.suspended is not None
    assert state.suspended.reason == "MalformedCommit"
    assert advance(history, state, tip).findings == state.findings


def test_steps_that_cannot_be_taken_over_are_left_out_until_one_can() -> None:
    history = History.begun()
    history.step({"status/a.yaml": b"x", MAILER: service_text("mailer", env="test", model="m2")}, by="alice")
    once = history.judged()
    history.step({"README.md": b"still there"}, by="alice")
    twice = advance(history, once, history.tip)
    assert (twice.tip, twice.services) == (history.root, once.services)
    assert twice.suspended is not None
    assert [finding.reason for finding in twice.findings] == ["MachinePathOnMain"]
    assert advance(history, twice, history.root).suspended is None
    history.step({"status/a.yaml": None}, by="alice")
    mended = advance(history, twice, history.tip)
    assert mended == history.judged()
    assert reasons(mended) == {MAILER: "MergedWhileSuspended"}


# ---- the list of signers --------------------------------------------------------------------------


def signers(history: History, serial: int = 1, *, by: str = "bob", **changed: Any) -> dict[str, bytes | None]:
    policy = load_policy(history.files["policy.yaml"], "policy.yaml")
    data = replace(signers_document(policy, history.root, serial), **changed).to_json()
    return {"signers/signers.json": data, f"signers/{by}.sig": key(by).sign(data, sshsig.SIGNERS).encode()}


def test_a_list_of_signers_that_an_owner_signed_comes_into_force() -> None:
    history = History.begun()
    files = signers(history)
    history.step({**files, "signers/carol.sig": signers(history, by="carol")["signers/carol.sig"]})
    state = history.judged()
    assert state.signers is not None
    assert state.signers.document == files["signers/signers.json"]
    assert (len(state.signers.signatures), state.signers.serial) == (2, 1)
    assert state.findings == ()


def test_a_list_that_differs_from_the_policy_is_outdated() -> None:
    history = History.begun()
    history.step(signers(history, principals={}))
    state = history.judged()
    assert state.signers is not None
    assert [finding.reason for finding in state.findings] == ["SignersOutdated"]
    history.step({"README.md": b"more"})
    assert [finding.reason for finding in history.judged().findings] == ["SignersOutdated"]


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"signers/signers.json": b"{}"}, "SignersMalformed"),
        ({"signers/signers.json": None}, "SignersMissing"),
        ({"signers/bob.sig": b"x"}, "SignersUntrusted"),
        ({"signers/bob.sig": None}, "SignersUntrusted"),
    ],
)
def test_the_last_good_list_stays(spoiled: dict[str, bytes | None], reason: str) -> None:
    history = History.begun()
    history.step(signers(history))
    good = history.judged().signers
    history.step(spoiled)
    state = history.judged()
    assert state.signers == good
    assert [finding.reason for finding in state.findings] == [reason]


def test_a_list_of_another_repository_and_a_list_that_was_never_good() -> None:
    history = History.begun()
    history.step(signers(history, repository="f" * 40))
    state = history.judged()
    assert state.signers is None
    assert [finding.reason for finding in state.findings] == ["SignersOfOtherRepository"]


def test_a_list_falls_with_the_last_owner_who_signed_it() -> None:
    history = History.begun()
    history.step(signers(history))
    teams = {"operators": ["alice"], "reviewers": ["bob", "dave"], "owners": ["carol"]}
    text = policy_text(2, teams=teams)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), text)})
    history.step({"policy.yaml": text, **words}, by="bob")
    state = history.judged()
    assert state.policy.document.spec.serial == 2
    assert state.signers is None
    assert [finding.reason for finding in state.findings] == ["SignersUntrusted"]
