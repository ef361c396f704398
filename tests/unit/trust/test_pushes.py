"""What a server without a forge takes, and what it refuses, judged from bytes alone."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.paths import AUDIT, HEARTBEATS, MAIN
from capsule.trust import pushes
from capsule.trust.mainline import judge
from capsule.trust.objects import ObjectKind
from capsule.trust.published import signers_document
from capsule.trust.pushes import Push, judge_push
from capsule.trust.state import MainState
from capsule_agent.protocol import sshsig
from tests.served_history import Server, why
from tests.trust_history import (
    Audit,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

BRANCH = "refs/heads/request/r1"
PROD = "services/openai-chat.yaml"


@pytest.fixture
def server() -> Server:
    return Server()


# ---- main ---------------------------------------------------------------------------------------


def test_what_the_policy_lets_anybody_write_is_taken(server: Server) -> None:
    server.history.step({"README.md": b"more\n"}, by="mallory")
    assert server.main() == ()


def test_the_first_push_of_main_is_judged_from_the_pinned_root(server: Server) -> None:
    del server.refs[MAIN]
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()
    assert why(server.push((MAIN, History.begun(server.history.files | {"x": b""}).root))) == [
        "ObjectMissing"
    ]


def test_a_main_that_does_not_begin_with_the_root_is_refused(server: Server) -> None:
    server.refs.clear()
    other = server.history.commit(first_files() | {"x": b""}, [])
    (refused,) = server.push((MAIN, other))
    assert refused.reason == "BranchRewound"
    assert "does not begin with the root" in refused.message


def test_a_main_of_another_root_that_is_here_already_cannot_be_judged(server: Server) -> None:
    other = server.history.raw_commit(server.history.tree({"x": b""}), [])
    server.history.step({"README.md": b"more\n"})
    assert why(server.push((MAIN, server.history.tip), root=other)) == ["BadRoot"]
    assert why(judge_push(server.history, other, {}, [Push(MAIN, None, other)])) == ["BadRoot"]
    elsewhere = server.history.commit(first_files() | {"x": b""}, [])
    server.refs[MAIN] = elsewhere
    server.history.step({"README.md": b"more\n"})
    (refused,) = server.main()
    assert (refused.reason, refused.advice) == ("HistoryRewritten", "Ask whoever runs the server.")


def test_a_change_with_its_approval_is_taken(server: Server) -> None:
    old, new = server.history.files[PROD], service_text(model="gpt-6")
    words = server.history.change_word("bob", {PROD: (old, new)})
    server.history.step({PROD: new, **words}, by="alice")
    assert server.main() == ()


def test_approvals_may_come_later_in_the_same_push(server: Server) -> None:
    old, new = server.history.files[PROD], service_text(model="gpt-6")
    server.history.step({PROD: new}, by="alice")
    assert why(server.main()) == ["ChangeNotAuthorised"]
    server.history.step(server.history.change_word("bob", {PROD: (old, new)}), by="bob")
    assert server.main() == ()


def test_a_change_without_approval_is_refused_and_told_who_may_approve(server: Server) -> None:
    server.history.step({PROD: service_text(model="gpt-6")}, by="alice")
    (refused,) = server.main()
    assert refused.reason == "ChangeNotAuthorised"
    assert "still needed: 1 of team reviewers (bob, dave)" in refused.message
    assert "capsule approve" in refused.advice


def test_a_change_that_nobody_can_approve_says_so(server: Server) -> None:
    policy = policy_text(2, teams={"operators": ["alice"], "reviewers": [], "owners": ["bob", "carol"]})
    words = server.history.change_word(
        "carol", {"policy.yaml": (server.history.files["policy.yaml"], policy)}
    )
    server.history.step({"policy.yaml": policy, **words}, by="bob")
    assert server.main() == ()
    server.history.step({PROD: service_text(model="gpt-6")}, by="alice")
    (refused,) = server.main()
    assert "(nobody can)" in refused.message


def test_an_unsigned_change_is_refused(server: Server) -> None:
    server.history.step({"services/test/mailer.yaml": service_text("mailer", env="test", model="m2")})
    (refused,) = server.main()
    assert "ChangeUnsigned" in refused.message


def test_a_policy_that_the_one_before_does_not_authorise_is_refused(server: Server) -> None:
    server.history.step({"policy.yaml": policy_text(2)}, by="bob")
    (refused,) = server.main()
    assert refused.reason == "ChangeNotAuthorised"
    assert "PolicyNotAuthorised" in refused.message
    assert "of team owners (carol)" in refused.message


def test_main_that_was_suspended_before_can_be_mended_but_takes_nothing_else(server: Server) -> None:
    good = server.history.files["policy.yaml"]
    server.history.step({"policy.yaml": policy_text(2)}, by="mallory")
    server.refs[MAIN] = server.history.tip  # from before the server was protected
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()
    server.history.step(
        {"services/test/mailer.yaml": service_text("mailer", env="test", model="m2")}, by="alice"
    )
    assert why(server.main()) == ["ChangeNotAuthorised"]
    server.history.tip = server.refs[MAIN]
    server.history.files = server.history.files | {
        "services/test/mailer.yaml": first_files()["services/test/mailer.yaml"]
    }
    server.history.step({"policy.yaml": good})
    assert server.main() == ()


def test_the_last_service_does_not_go(server: Server) -> None:
    server.history.step({PROD: None, "services/test/mailer.yaml": None}, by="alice")
    assert why(server.main()) == ["ServicesEmptied"]


def test_what_machines_write_does_not_come_onto_main(server: Server) -> None:
    server.history.step({"status/openai-chat.yaml": b"x"}, by="alice")
    server.history.step({"status/openai-chat.yaml": None}, by="alice")
    (refused,) = server.main()
    assert refused.reason == "MachinePathOnMain"
    assert "git rebase" in refused.advice


def test_a_list_of_signers_that_no_owner_signed_is_refused_and_a_good_one_taken(server: Server) -> None:
    policy = server.history.judged().policy.document
    document = signers_document(policy, server.root, 1).to_json()
    good = key("bob").sign(document, sshsig.SIGNERS).encode()
    bad = key("mallory").sign(document, sshsig.SIGNERS).encode()
    server.history.step({"signers/signers.json": document, "signers/bob.sig": bad})
    assert why(server.main()) == ["SignersUntrusted"]
    server.refs[MAIN] = server.history.tip
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()
    server.history.step({"signers/bob.sig": good})
    assert server.main() == ()


def test_main_and_audit_are_neither_deleted_nor_rewound(server: Server) -> None:
    server.history.step({"README.md": b"more\n"})
    server.main()
    server.refs[AUDIT] = server.refs[MAIN]
    assert why(server.push((AUDIT, None), (MAIN, None))) == ["BranchDeleted", "BranchDeleted"]
    assert why(server.push((MAIN, server.root), (AUDIT, server.root))) == ["BranchRewound", "BranchRewound"]


def test_a_merge_that_puts_main_second_is_a_rewind(server: Server) -> None:
    server.history.step({"README.md": b"more\n"})
    server.main()
    side = server.request({"README.md": b"other\n"}, server.root)
    server.history.commit(server.history.files, [side, server.refs[MAIN]])
    (refused,) = server.main()
    assert refused.reason == "BranchRewound"
    assert "git rebase origin/main" in refused.advice


def test_a_push_of_too_many_commits_is_to_be_made_in_parts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "MAX_STEPS", 3)
    for at in range(4):
        server.history.step({"README.md": b"%d" % at})
    assert why(server.main()) == ["PushTooLong"]


# ---- audit --------------------------------------------------------------------------------------

STATUS = {"status/openai-chat.yaml": b"a: 1\n"}


@pytest.fixture
def audit(server: Server) -> Audit:
    """A branch audit that begins at the root; main has gone on."""
    server.history.step({"README.md": b"more\n"}, by="alice")
    server.main()
    return Audit(server.history)


def test_what_a_reconciler_writes_is_taken(server: Server, audit: Audit) -> None:
    assert server.push((AUDIT, audit.step({}))) == ()
    assert server.push((AUDIT, audit.step(STATUS))) == ()
    server.history.step({"README.md": b"even more\n"})
    new = {"records/desired/openai-chat/1/order.yaml": b"x\n"}
    assert server.push((MAIN, server.history.tip), (AUDIT, audit.step(new))) == ()
    branch = server.request({"requests/x": b""})
    assert server.push((AUDIT, audit.step({}, branches=[branch]))) == ()


def test_audit_goes_on_from_a_commit_that_does_not_name_its_revision(server: Server, audit: Audit) -> None:
    taken = audit.step({})
    server.refs[AUDIT] = server.history.raw_commit(
        server.history.tree(server.history.files), [taken], by=key("reconciler-1")
    )
    audit.tip = server.refs[AUDIT]
    assert server.push((AUDIT, audit.step(STATUS))) == ()
    root = server.history.raw_commit(server.history.tree(first_files()), [server.root])
    server.refs[AUDIT] = audit.tip = root
    audit.machine, audit.observed, audit.people = {}, server.root, first_files()
    assert server.push((AUDIT, audit.step({}))) == ()


def test_an_audit_that_stands_on_nothing_is_not_gone_on_from(server: Server, audit: Audit) -> None:
    orphan = server.history.raw_commit(server.history.tree(first_files()), [], message="another root")
    server.refs[AUDIT] = audit.tip = orphan
    assert server.push((AUDIT, audit.step({}))) == ()  # its root is what `capsule audit verify` names


def test_audit_needs_a_main(server: Server, audit: Audit) -> None:
    del server.refs[MAIN]
    assert why(server.push((AUDIT, audit.step({})))) == ["MainMissing"]


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("AuditUnsigned", {"signed": False}),
        ("AuditByPerson", {"by": key("alice")}),
        ("AuditBadSignature", {"by": key("nobody")}),
        ("AuditBadSignature", {"namespace": sshsig.APPROVAL}),
        ("AuthorMismatch", {"name": "alice"}),
        ("ForeignTree", {"foreign": {"policy.yaml": b"other"}}),
        ("ForeignTree", {"foreign": {"status": b"a file"}}),
    ],
)
def test_what_no_reconciler_writes_is_refused(
    server: Server, audit: Audit, reason: str, options: dict[str, Any]
) -> None:
    edits = {} if "status" in options.get("foreign", {}) else STATUS
    assert why(server.push((AUDIT, audit.step(edits, **options)))) == [reason]


def test_a_machine_that_was_removed_since_writes_no_more(server: Server, audit: Audit) -> None:
    server.push((AUDIT, audit.step({})))
    late = audit.step(STATUS)
    stolen = key("reconciler-1").public.text
    for reason, text in (
        ("AuditBadSignature", policy_text(2).replace(stolen.encode(), key("new").public.text.encode())),
        ("AuditByPerson", policy_text(2).replace(b"{machine: true, keys", b"{email: r@x.org, keys")),
        ("AuditBadSignature", policy_text(2).replace(b"    reconciler-1:", b"    reconciler-9:")),
    ):
        fresh = Server()
        fresh.history.objects.update(server.history.objects)
        fresh.refs = dict(server.refs)
        fresh.history.tip, fresh.history.files = server.history.tip, dict(server.history.files)
        old = fresh.history.files["policy.yaml"]
        fresh.history.step(
            {"policy.yaml": text, **fresh.history.change_word("carol", {"policy.yaml": (old, text)})},
            by="bob",
        )
        assert fresh.main() == ()
        assert why(fresh.push((AUDIT, late))) == [reason]


def test_audit_rewrites_and_removes_no_record(server: Server, audit: Audit) -> None:
    path = "records/desired/openai-chat/1/order.yaml"
    server.push((AUDIT, audit.step({path: b"x\n"})))
    tip = audit.tip
    assert why(server.push((AUDIT, audit.step({path: b"y\n"})))) == ["RecordChanged"]
    audit.tip = tip
    assert why(server.push((AUDIT, audit.step({path: None})))) == ["RecordDeleted"]


def test_audit_says_something_new_in_its_place(server: Server, audit: Audit) -> None:
    server.push((AUDIT, audit.step({})))
    tip = audit.tip
    assert why(server.push((AUDIT, audit.step({})))) == ["EmptyCommit"]
    audit.tip = tip
    assert why(server.push((AUDIT, audit.step({"status/x.txt": b""})))) == ["StatusMisplaced"]


def test_audit_takes_main_in_forward_alone(server: Server, audit: Audit) -> None:
    server.push((AUDIT, audit.step({})))
    again = audit.step(STATUS, parents=[audit.tip, server.refs[MAIN]])
    assert why(server.push((AUDIT, again))) == ["MainPointNotRising"]


def test_audit_takes_in_no_step_of_main_that_can_never_be_taken_over(server: Server, audit: Audit) -> None:
    server.history.step({"status/x.yaml": b""})
    bad = server.history.tip
    server.refs[MAIN] = bad  # from before the server was protected
    assert why(server.push((AUDIT, audit.step({})))) == ["MainNotTakenOver"]


# ---- branches of requests -----------------------------------------------------------------------


def test_a_request_on_its_branch_is_taken_and_may_be_removed(server: Server) -> None:
    files = server.history.request(request_text())
    assert server.push((BRANCH, server.request(files))) == ()
    assert server.push((BRANCH, None)) == ()


def test_a_request_that_was_merged_is_still_taken_on_its_branch(server: Server) -> None:
    raw = request_text()
    branch = server.request(server.history.request(raw))
    server.history.commit(
        server.history.edited(server.history.request(raw)), [server.history.tip, branch], by=key("bob")
    )
    assert server.main() == ()
    assert server.push((BRANCH, branch)) == ()


def test_a_branch_that_took_main_in_holds_its_request_alone(server: Server) -> None:
    raw = request_text()
    first = server.request(server.history.request(raw))
    server.history.step({"README.md": b"more\n"})
    server.main()
    assert server.push((BRANCH, server.request(server.history.request(raw), first, server.refs[MAIN]))) == ()


@pytest.mark.parametrize(
    ("ref", "edits", "reason"),
    [
        (BRANCH, {"README.md": b"x"}, "BranchHoldsMore"),
        (BRANCH, {"requests/2026/11/r2/request.yaml": b"x"}, "BranchHoldsMore"),
        (BRANCH, {"requests/2026/11/r1/notes.txt": b"x"}, "MalformedTree"),
        (BRANCH, {}, "BranchWithoutRequest"),
        (f"{BRANCH}/x", {}, "BadRequestBranch"),
    ],
)
def test_a_branch_that_holds_anything_else_is_refused(
    server: Server, ref: str, edits: dict[str, bytes | None], reason: str
) -> None:
    assert why(server.push((ref, server.request(edits)))) == [reason]


def test_a_request_that_its_requester_did_not_sign_is_refused(server: Server) -> None:
    files = server.history.request(request_text(), signer=key("mallory"))
    assert why(server.push((BRANCH, server.request(files)))) == ["BadSignature"]


def test_a_branch_that_does_not_begin_at_main_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = server.history.raw_commit(server.history.tree({"x": b""}), [])
    assert why(server.push((BRANCH, orphan))) == ["BranchHoldsMore"]
    long = server.request({}, server.request({}, server.request({})))
    monkeypatch.setattr(pushes, "MAX_STEPS", 1)
    assert why(server.push((BRANCH, long))) == ["BranchHoldsMore"]


# ---- heartbeats, tags, other refs ---------------------------------------------------------------


def test_a_heartbeat_is_one_commit_that_its_machine_signed(server: Server) -> None:
    ref = f"{HEARTBEATS}reconciler-1"
    tree = server.history.tree({"heartbeat.json": b"{}"})
    good = server.history.raw_commit(tree, [], by=key("reconciler-1"))
    assert server.push((ref, good)) == ()
    for bad in (
        server.history.raw_commit(tree, []),
        server.history.raw_commit(tree, [], by=key("alice")),
        server.history.raw_commit(tree, [good], by=key("reconciler-1")),
        None,
    ):
        assert why(server.push((ref, bad))) == ["HeartbeatRefused"]
    assert why(server.push((f"{HEARTBEATS}reconciler-2", good))) == ["HeartbeatRefused"]
    as_person = server.history.raw_commit(tree, [], by=key("alice"))
    assert why(server.push((f"{HEARTBEATS}alice", as_person))) == ["HeartbeatRefused"]


@pytest.mark.parametrize(
    "ref",
    [
        "refs/replace/" + "a" * 40,
        "refs/capsule/local/seen/main",
        "refs/notes/commits",
        "refs/capsule/other",
        "refs/pull/1/head",
    ],
)
def test_refs_that_nobody_is_served_are_refused(server: Server, ref: str) -> None:
    assert why(server.push((ref, server.root))) == ["RefNotServed"]


@pytest.mark.parametrize(
    "ref",
    [
        "refs/tags/main",
        "refs/tags/audit",
        "refs/tags/Main",
        "refs/tags/origin/main",
        "refs/tags/request/r1",
        "refs/tags/HEAD",
        "refs/tags/refs/heads/main",
        "refs/tags/topic",
        "refs/tags/" + "a" * 40,
        "refs/heads/MAIN",
        "refs/heads/audit/x",
        "refs/heads/request",
        "refs/heads/HEAD",
        "refs/heads/v1",
    ],
)
def test_names_that_shadow_another_are_refused(server: Server, ref: str) -> None:
    server.refs |= {"refs/heads/topic": server.root, "refs/tags/v1": server.root}
    assert why(server.push((ref, server.root))) == ["RefShadows"]


def test_other_branches_and_tags_are_free(server: Server) -> None:
    stranger = server.history.raw_commit(server.history.tree({"x": b""}), [])
    for ref in ("refs/heads/change/limits", "refs/tags/v1"):
        assert server.push((ref, stranger)) == ()
        assert server.push((ref, None)) == ()


def test_what_is_no_commit_becomes_no_branch_that_counts(server: Server) -> None:
    blob = server.history.put("blob", b"x")
    assert why(server.push((MAIN, blob), (AUDIT, blob), (BRANCH, blob))) == ["WrongKind"] * 3


# ---- what was judged before ------------------------------------------------------------------------


def test_a_push_goes_on_from_what_was_judged_before_and_keeps_what_stands_here() -> None:
    server = Server()
    kept: list[MainState] = []
    reads = CountingReader(server.history)

    def push(new: str, known: MainState | None) -> list[str]:
        moves = [Push(MAIN, server.refs[MAIN], new)]
        found = judge_push(reads, server.root, server.refs, moves, known=lambda: known, keep=kept.append)
        return why(found)

    for number in range(30):
        server.history.step({f"notes/{number}": b"x"})
    server.refs[MAIN] = server.history.tip
    new = server.history.step({"notes/new": b"x"})
    assert push(new, None) == []
    (known,) = kept
    assert (known.tip, known.seen) == (server.refs[MAIN], None), "what stands here, not what is pushed"
    whole, reads.count = reads.count, 0
    assert push(new, known) == []
    assert reads.count < whole / 4
    assert len(kept) == 1, "nothing new to keep"
    server.refs[MAIN] = new
    bad = server.history.step({PROD: service_text().replace(b"gpt", b"xyz")})
    assert push(bad, known) == push(bad, None) != []
    assert [each.tip for each in kept] == [known.tip, new, new]


def test_what_was_judged_of_another_line_of_main_is_not_gone_on_from() -> None:
    server = Server()
    aside = judge(server.history, server.root, server.history.step({"notes/aside": b"x"}))
    server.history.tip = server.root
    new = server.history.step({"notes/here": b"x"})
    moves = [Push(MAIN, server.root, new)]
    kept: list[MainState] = []
    assert not judge_push(
        server.history, server.root, server.refs, moves, known=lambda: aside, keep=kept.append
    )
    assert [each.tip for each in kept] == [server.root]


class CountingReader:
    """Counts what is read of a history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.count = 0

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        self.count += 1
        return self._history.read(oid)
