"""What somebody tries on main: documents, policy and history that nobody entitled agreed to."""

from __future__ import annotations

import pytest

from capsule.trust.mainline import advance, judge
from capsule.trust.requests import judge_requests
from capsule.trust.state import MainState
from capsule_agent.protocol import messages, sshsig
from tests.trust_history import (
    T0,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
MAILER = "services/test/mailer.yaml"
OLD = service_text()
NEW = service_text(model="gpt-6")
MAIL = service_text("mailer", env="test")
MAIL2 = service_text("mailer", env="test", model="m2")


def model(state: MainState, name: str = "openai-chat") -> object:
    return state.services[name].document.spec.pins["model"]


def reasons(history: History) -> dict[str, str]:
    return {change.path: change.reason for change in history.judged().pending}


def suspended(state: MainState) -> str:
    assert state.suspended is not None
    return state.suspended.reason


def test_author_approves_the_own_change() -> None:
    history = History.begun()
    history.step({CHAT: NEW, **history.change_word("alice", {CHAT: (OLD, NEW)})}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_co_author_approves() -> None:
    history = History.begun()
    words = history.change_word("alice", {CHAT: (OLD, NEW)}, "propose")
    history.step({CHAT: NEW, **words, **history.change_word("bob", {CHAT: (OLD, NEW)})}, by="bob")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_word_of_somebody_the_policy_does_not_list() -> None:
    history = History.begun()
    history.step({CHAT: NEW, **history.change_word("nobody", {CHAT: (OLD, NEW)})}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_proposer_cannot_also_approve_from_a_second_file() -> None:
    history = History.begun()
    change = {CHAT: (OLD, NEW)}
    words = history.change_word("alice", change, "propose") | history.change_word("bob", change, "propose")
    history.step({CHAT: NEW, **words}, merge=True)
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_agent_key_and_endpoint_swapped_by_a_plain_push() -> None:
    history = History.begun()
    swapped = service_text(agent_key=key("mallory"), endpoint="https://10.6.6.6:1")
    for by in (None, "mallory", "bob", "alice", "reconciler-1"):
        history.step({CHAT: swapped}, by=by)
        history.step({CHAT: OLD})
        history.step({CHAT: swapped}, by=by)
        state = history.judged()
        assert state.services["openai-chat"].document.spec.agent.endpoint == "https://10.0.3.4:7070"
        history.step({CHAT: OLD})


def test_service_relabelled_to_a_weaker_rule_by_its_operator() -> None:
    history = History.begun()
    history.step({CHAT: service_text(env="test")}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_service_relabelled_into_a_stronger_rule_is_judged_by_both() -> None:
    history = History.begun()
    history.step({MAILER: service_text("mailer", env="prod")}, by="alice")
    assert reasons(history) == {MAILER: "ApprovalsMissing"}


def test_service_relabelled_to_labels_without_a_rule() -> None:
    history = History.begun()
    history.step({MAILER: service_text("mailer", env="nowhere")}, by="alice")
    assert reasons(history) == {MAILER: "NoRule"}


def test_service_deleted_without_approval() -> None:
    history = History.begun()
    history.step({CHAT: None}, by="alice")
    assert "openai-chat" in history.judged().services
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_second_document_of_one_name() -> None:
    history = History.begun()
    history.step({"services/test/openai-chat.yaml": service_text(env="test")}, by="alice")
    state = history.judged()
    assert state.services["openai-chat"].path == CHAT
    assert reasons(history) == {"services/test/openai-chat.yaml": "DuplicateName"}


def test_name_taken_over_by_deleting_and_adding_in_two_steps() -> None:
    history = History.begun()
    history.step({CHAT: None}, by="alice")
    history.step({"services/test/openai-chat.yaml": service_text(env="test")}, by="alice")
    state = history.judged()
    assert state.services["openai-chat"].document.metadata.labels["env"] == "prod"
    assert set(reasons(history).values()) == {"ApprovalsMissing"}


def test_policy_edited_in_the_same_change() -> None:
    history = History.begun()
    rules = ("{match: {change: service}, mayRequest: [operators], approvals: []}",)
    loose = policy_text(2, rules=rules)
    history.step({"policy.yaml": loose, CHAT: NEW}, by="alice")
    state = history.judged()
    assert suspended(state) == "PolicyNotAuthorised"
    assert model(state) == "gpt-5.1"


def test_policy_rightly_changed_does_not_bless_the_same_step() -> None:
    history = History.begun()
    rules = (
        "{match: {change: service}, mayRequest: [owners], approvals: []}",
        "{match: {change: policy}, mayRequest: [owners], approvals: [{team: owners, count: 1}]}",
    )
    loose = policy_text(2, rules=rules)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), loose)})
    history.step({"policy.yaml": loose, CHAT: NEW, **words}, by="bob")
    state = history.judged()
    assert state.policy.document.spec.serial == 2
    assert model(state) == "gpt-5.1"
    assert reasons(history) == {CHAT: "NotEntitled"}


def test_policy_rolled_back_to_an_older_approved_one() -> None:
    history = History.begun()
    strict = policy_text(2, teams={"operators": ["alice"], "reviewers": ["dave"], "owners": ["bob", "carol"]})
    history.step(
        {"policy.yaml": strict, **history.change_word("carol", {"policy.yaml": (policy_text(), strict)})},
        by="bob",
    )
    back = history.change_word("carol", {"policy.yaml": (strict, policy_text())})
    history.step({"policy.yaml": policy_text(), **back}, by="bob")
    state = history.judged()
    assert suspended(state) == "PolicySerialNotRising"
    assert state.policy.document.spec.serial == 2


def test_policy_of_equal_serial_with_other_content() -> None:
    history = History.begun()
    other = policy_text(1, teams={"operators": ["alice"], "reviewers": ["bob"], "owners": ["bob", "carol"]})
    words = history.change_word("carol", {"policy.yaml": (policy_text(), other)})
    history.step({"policy.yaml": other, **words}, by="bob")
    assert suspended(history.judged()) == "PolicySerialNotRising"


def test_owner_alone_changes_the_policy() -> None:
    history = History.begun()
    history.step({"policy.yaml": policy_text(2)}, by="bob")
    assert suspended(history.judged()) == "PolicyNotAuthorised"


def test_bad_policy_cannot_approve_itself() -> None:
    history = History.begun()
    teams = {"operators": ["mallory"], "reviewers": ["dave"], "owners": ["mallory", "dave"]}
    mine = policy_text(2, teams=teams)
    history.step({"policy.yaml": mine}, by="mallory")
    change = {"policy.yaml": (policy_text(), mine)}
    history.step(history.change_word("dave", change) | history.change_word("mallory", change, "propose"))
    assert suspended(history.judged()) == "PolicyNotAuthorised"


def test_what_was_merged_under_a_bad_policy_stays_out_after_it_is_gone() -> None:
    history = History.begun()
    words = history.change_word("bob", {CHAT: (OLD, NEW)})
    history.step({"policy.yaml": policy_text(2), CHAT: NEW, MAILER: MAIL2}, by="alice")
    history.step(words)
    history.step({"policy.yaml": policy_text()}, by="alice")
    history.step({"README.md": b"more"}, by="alice")
    state = history.judged()
    assert state.suspended is None
    assert (model(state), model(state, "mailer")) == ("gpt-5.1", "gpt-5.1")
    # words from the time of suspension do not come to life when they are touched or laid down again
    history.step(dict.fromkeys(words))
    history.step({**words, **history.change_word("alice", {CHAT: (OLD, NEW)}, "propose")})
    assert model(history.judged()) == "gpt-5.1"


def test_backdated_commit_gains_nothing() -> None:
    history = History.begun()
    gone = policy_text(
        2,
        principals={who: [who] for who in ("bob", "carol", "dave")},
        teams={"operators": ["dave"], "reviewers": ["bob"], "owners": ["bob", "carol"]},
    )
    words = history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    history.step({"policy.yaml": gone, **words}, by="bob", at=T0 + 1000)
    history.step({MAILER: MAIL2}, by="alice", at=T0 - 10**6)
    state = history.judged()
    assert state.policy.document.spec.serial == 2
    assert reasons(history) == {MAILER: "ChangeUnsigned"}


def test_change_signed_in_another_namespace() -> None:
    history = History.begun()
    history.step({MAILER: MAIL2}, by="alice", namespace=sshsig.REQUEST)
    assert reasons(history) == {MAILER: "ChangeUnsigned"}


def test_signature_copied_from_another_commit() -> None:
    history = History.begun()
    good = history.step({"README.md": b"x"}, by="alice")
    lines = history.objects[good][1].decode().split("\n")
    start = next(at for at, line in enumerate(lines) if line.startswith("gpgsig "))
    end = next(at for at, line in enumerate(lines) if line == " -----END SSH SIGNATURE-----")
    armored = "\n".join([lines[start][7:], *(line[1:] for line in lines[start + 1 : end + 1])]) + "\n"
    history.step({MAILER: MAIL2}, signature=armored)
    assert reasons(history) == {MAILER: "ChangeUnsigned"}


@pytest.mark.parametrize(
    "headers",
    [
        b"author Alice <alice@example.com> 1764547200 +0000\n",
        b"committer Alice <alice@example.com> 1764547200 +0000\n",
        b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n",
        b"parent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n",
        b"gpgsig nothing\n",
        b"gpgsig-sha256 nothing\n",
        b" continued\n",
    ],
)
def test_duplicate_header_names_no_author(headers: bytes) -> None:
    history = History.begun()
    history.step({MAILER: MAIL2}, by="alice", headers=headers)
    assert reasons(history) == {MAILER: "ChangeUnsigned"}
    assert model(history.judged(), "mailer") == "gpt-5.1"


def test_author_line_proves_nothing() -> None:
    history = History.begun()
    history.step({MAILER: MAIL2}, name="alice")
    assert reasons(history) == {MAILER: "ChangeUnsigned"}


def test_unreviewed_second_parent_of_a_merge() -> None:
    history = History.begun()
    side = history.raw_commit(history.tree(history.edited({MAILER: MAIL2})), [history.tip], by=key("alice"))
    history.commit(history.edited({MAILER: MAIL2}), [history.tip, side], by=key("alice"))
    assert reasons(history) == {MAILER: "ChangeUnsigned"}


def test_history_hidden_in_a_second_parent_is_not_judged_as_main() -> None:
    history = History.begun()
    side = history.raw_commit(history.tree(history.edited({CHAT: NEW})), [history.tip])
    history.commit(history.files, [history.tip, side])
    state = history.judged()
    assert state.pending == ()
    assert model(state) == "gpt-5.1"


def test_add_then_revert_leaves_nothing_behind() -> None:
    history = History.begun()
    history.step({CHAT: NEW}, by="mallory")
    history.step({CHAT: OLD}, by="mallory")
    state = history.judged()
    assert state.pending == ()
    assert state.services["openai-chat"].since == history.root


def test_approved_change_replayed_after_it_was_reverted() -> None:
    history = History.begun()
    there, back = {CHAT: (OLD, NEW)}, {CHAT: (NEW, OLD)}
    words = history.change_word("alice", there, "propose") | history.change_word("bob", there)
    history.step({CHAT: NEW, **words}, merge=True)
    away = history.change_word("alice", back, "propose") | history.change_word("dave", back)
    history.step({CHAT: OLD, **away}, merge=True)
    assert model(history.judged()) == "gpt-5.1"
    history.step(dict.fromkeys(words))
    history.step({CHAT: NEW, **words}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}
    assert model(history.judged()) == "gpt-5.1"


def test_approval_of_several_paths_does_not_carry_one_alone() -> None:
    history = History.begun()
    both = {CHAT: (OLD, NEW), "services/extra.yaml": (None, service_text("extra"))}
    words = history.change_word("alice", both, "propose") | history.change_word("bob", both)
    history.step({CHAT: NEW, **words}, merge=True)
    assert reasons(history) == {CHAT: "ChangeUnsigned"}


@pytest.mark.parametrize(
    ("overrides", "namespace", "signer"),
    [
        ({"repository": "f" * 40}, sshsig.APPROVAL, "bob"),
        ({"principal": "dave"}, sshsig.APPROVAL, "bob"),
        ({}, sshsig.REQUEST, "bob"),
        ({}, sshsig.COMMIT, "bob"),
        ({}, sshsig.APPROVAL, "mallory"),
        ({"reason": 7}, sshsig.APPROVAL, "bob"),
        ({"decision": "maybe"}, sshsig.APPROVAL, "bob"),
    ],
    ids=["repository", "principal", "request", "commit", "forged", "type", "decision"],
)
def test_forged_approval_of_a_change(overrides: dict[str, object], namespace: str, signer: str) -> None:
    history = History.begun()
    word = history.change_word(
        "bob", {CHAT: (OLD, NEW)}, namespace=namespace, signer=key(signer), **overrides
    )
    history.step({CHAT: NEW, **word}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_approval_of_a_change_moved_to_another_digest() -> None:
    history = History.begun()
    word = history.change_word("bob", {CHAT: (OLD, NEW)})
    moved = {f"approvals/{'0' * 64}/{path.rpartition('/')[2]}": data for path, data in word.items()}
    history.step({CHAT: NEW, **moved}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_unsigned_approval_of_a_change() -> None:
    history = History.begun()
    word = history.change_word("bob", {CHAT: (OLD, NEW)})
    history.step(
        {CHAT: NEW, **{path: data for path, data in word.items() if path.endswith(".json")}}, by="alice"
    )
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_approval_of_other_bytes() -> None:
    history = History.begun()
    word = history.change_word("bob", {CHAT: (OLD, service_text(model="gpt-5.2"))})
    history.step({CHAT: NEW, **word}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_approval_of_one_path_does_not_carry_another() -> None:
    history = History.begun()
    extra = service_text("extra")
    word = history.change_word("bob", {"services/extra.yaml": (None, extra)})
    history.step({CHAT: NEW, "services/extra.yaml": extra, **word}, by="alice")
    assert reasons(history) == {CHAT: "ApprovalsMissing"}


def test_rejected_change_is_not_taken_over() -> None:
    history = History.begun()
    words = history.change_word("bob", {CHAT: (OLD, NEW)})
    against = history.change_word("dave", {CHAT: (OLD, NEW)}, "reject")
    history.step({CHAT: NEW, **words, **against}, by="alice")
    assert reasons(history) == {CHAT: "Rejected"}


def test_main_rewound() -> None:
    history = History.begun()
    history.step({MAILER: MAIL2}, by="alice")
    known = history.judged()
    rewound = advance(history, known, history.root)
    assert suspended(rewound) == "HistoryRewritten"
    assert rewound.tip == known.tip
    assert model(rewound, "mailer") == "m2"
    assert advance(history, rewound, history.tip).suspended is None


def test_main_replaced_by_another_history() -> None:
    history = History.begun()
    known = history.judged()
    other = History(objects=history.objects)
    other.root = other.commit(first_files() | {"README.md": b"other"}, parents=[])
    state = judge(history, history.root, other.tip, known)
    assert suspended(state) == "HistoryRewritten"
    assert suspended(judge(history, history.root, other.tip)) == "HistoryRewritten"


def test_tip_is_a_tag() -> None:
    history = History.begun()
    tag = history.put("tag", f"object {history.tip}\ntype commit\ntag main\n".encode())
    assert suspended(judge(history, history.root, tag)) == "WrongKind"


def test_status_or_records_on_main() -> None:
    for path in ("status/openai-chat.yaml", "records/2026/11/r1/refusal.yaml", "status"):
        history = History.begun()
        history.step({path: b"forged", MAILER: MAIL2}, by="alice")
        state = history.judged()
        assert suspended(state) == "MachinePathOnMain"
        assert state.tip == history.root
        history.step({path: None}, by="alice")
        mended = advance(history, state, history.tip)
        assert mended.suspended is None
        assert mended.tip == history.tip
        assert model(mended, "mailer") == "gpt-5.1"
        assert mended.pending[0].reason == "MergedWhileSuspended"


@pytest.mark.parametrize(
    ("path", "mode", "reason"),
    [
        ("services/link.yaml", b"120000", "ForbiddenMode"),
        ("services/sub", b"160000", "ForbiddenMode"),
        ("link", b"120000", "ForbiddenMode"),
        ("services/odd.yaml", b"100664", "ForbiddenMode"),
        ("services/.git", b"100644", "ForbiddenName"),
        ("services/.GIT", b"100644", "ForbiddenName"),
        ("services/GIT~1", b"100644", "ForbiddenName"),
        ("services/.git .", b"100644", "ForbiddenName"),
        ("services/.g\u200cit", b"100644", "ForbiddenName"),
        ("services/OPENAI-chat.yaml", b"100644", "CollidingNames"),
        ("POLICY.yaml", b"100644", "CollidingNames"),
        ("services/ｏpenai-chat.yaml", b"100644", "CollidingNames"),
    ],
)
def test_entry_that_git_or_a_file_system_treats_specially(path: str, mode: bytes, reason: str) -> None:
    history = History.begun()
    blob = history.put("blob", NEW)
    history.commit(history.files, [history.tip], by=key("alice"), special={path: (mode, blob)})
    state = history.judged()
    assert suspended(state) == reason
    assert state.tip == history.root
    history.step({"README.md": b"gone again"})
    assert advance(history, state, history.tip).suspended is None


def test_services_emptied_at_once() -> None:
    history = History.begun()
    history.step({CHAT: None, MAILER: None}, by="alice")
    state = history.judged()
    assert suspended(state) == "ServicesEmptied"
    assert set(state.services) == {"openai-chat", "mailer"}
    history.step({CHAT: OLD, MAILER: MAIL})
    assert history.judged().suspended is None
    assert history.judged().pending == ()


def test_line_separator_in_a_comment_hides_no_key() -> None:
    history = History.begun()
    hidden = MAIL + "# harmless\u2028  onDrift: correct\n".encode()
    history.step({MAILER: hidden}, by="alice")
    assert reasons(history) == {MAILER: "InvalidDocument"}


def test_list_of_signers_not_signed_by_an_owner() -> None:
    history = History.begun()
    forged = messages.Signers(
        history.root, 1, {"mallory": messages.SignerEntry((key("mallory").public.text,), ("approve",))}
    )
    data = forged.to_json()
    for who in ("alice", "mallory", "reconciler-1"):
        seal = key(who).sign(data, sshsig.SIGNERS).encode()
        history.step({"signers/signers.json": data, f"signers/{who}.sig": seal, "signers/bob.sig": seal})
        state = history.judged()
        assert state.signers is None
        assert [finding.reason for finding in state.findings] == ["SignersUntrusted"]


def test_older_list_of_signers_replayed() -> None:
    history = History.begun()
    lists = [messages.Signers(history.root, serial, {}).to_json() for serial in (1, 2)]
    seals = [key("bob").sign(data, sshsig.SIGNERS).encode() for data in lists]
    history.step({"signers/signers.json": lists[1], "signers/bob.sig": seals[1]})
    history.step({"signers/signers.json": lists[0], "signers/bob.sig": seals[0]})
    state = history.judged()
    assert state.signers is not None
    assert state.signers.serial == 2
    assert [finding.reason for finding in state.findings] == ["SignersSerialNotRising"]


def test_requests_are_not_read_from_a_step_that_is_not_taken_over() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    history.step({"status/x.yaml": b"x", **history.request(raw)}, by="alice")
    assert dict(judge_requests(history, history.judged(), {})) == {}
