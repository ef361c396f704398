"""Exact bounds of what a server without a forge takes: each test stands for one check of pushes alone."""

from __future__ import annotations

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.trust import pushes
from capsule.trust.published import signers_document
from capsule_agent.protocol import sshsig
from tests.served_history import Server, why
from tests.trust_history import Audit, first_files, key, policy_text, request_text, service_text

BRANCH = "refs/heads/request/r1"
PROD = "services/openai-chat.yaml"
TEST = "services/test/mailer.yaml"
STATUS = {"status/openai-chat.yaml": b"a: 1\n"}


@pytest.fixture
def server() -> Server:
    return Server()


# ---- main ---------------------------------------------------------------------------------------


def test_as_many_commits_as_are_judged_at_once_are_taken(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "MAX_STEPS", 3)
    for at in range(3):
        server.history.step({"README.md": b"%d" % at})
    assert server.main() == ()


def test_what_nobody_may_mend_by_approving_asks_for_no_approval(server: Server) -> None:
    server.history.step({TEST: service_text("mailer", env="test", model="m2")})
    (refused,) = server.main()
    assert refused.message == (f"{TEST}: nobody known to the policy asks for this change (ChangeUnsigned)")


def test_services_that_were_gone_before_hold_back_no_other_push(server: Server) -> None:
    server.history.step({PROD: None, TEST: None}, by="alice")
    server.refs[MAIN] = server.history.tip  # from before the server was protected
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()


def test_what_waited_before_may_wait_for_another_reason(server: Server) -> None:
    old, new = server.history.files[PROD], service_text(model="gpt-6")
    server.history.step({PROD: new})
    server.refs[MAIN] = server.history.tip  # from before the server was protected
    server.history.step(server.history.change_word("alice", {PROD: (old, new)}, "propose"))
    before = server.history.judged().pending
    assert [change.reason for change in before] == ["ApprovalsMissing"]
    assert server.main() == ()


def test_a_policy_that_outdates_the_list_of_signers_is_taken(server: Server) -> None:
    document = signers_document(server.history.judged().policy.document, server.root, 1).to_json()
    seal = key("bob").sign(document, sshsig.SIGNERS).encode()
    server.history.step({"signers/signers.json": document, "signers/bob.sig": seal})
    assert server.main() == ()
    old = server.history.files["policy.yaml"]
    teams = {"operators": ["alice"], "reviewers": ["bob"], "owners": ["bob", "carol"]}
    new = policy_text(2, teams=teams)
    server.history.step(
        {"policy.yaml": new, **server.history.change_word("carol", {"policy.yaml": (old, new)})}, by="bob"
    )
    assert [each.reason for each in server.history.judged().findings] == ["SignersOutdated"]
    assert server.main() == ()


# ---- branches of requests -----------------------------------------------------------------------


def test_a_branch_that_is_a_step_of_main_changes_nothing_and_holds_no_request(server: Server) -> None:
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()
    assert why(server.push((BRANCH, server.refs[MAIN]))) == ["BranchWithoutRequest"]


def test_a_request_of_several_commits_is_taken(server: Server) -> None:
    server.history.step({"README.md": b"more\n"})
    assert server.main() == ()
    first = server.request(server.history.request(request_text(targets=("mailer",))))
    second = server.request(server.history.request(request_text()), first)
    assert server.push((BRANCH, second)) == ()


# ---- audit --------------------------------------------------------------------------------------


@pytest.fixture
def audit(server: Server) -> Audit:
    """A branch audit that begins at the root; main has gone on."""
    server.history.step({"README.md": b"more\n"}, by="alice")
    assert server.main() == ()
    return Audit(server.history)


def _without_trailers(server: Server, *parents: str, **options: str) -> str:
    tree = server.history.tree(server.history.files)
    return server.history.raw_commit(tree, parents, by=key("reconciler-1"), **options)


def test_a_revision_that_is_not_on_main_says_nothing_of_where_audit_stood(
    server: Server, audit: Audit
) -> None:
    taken = audit.step({})
    lost = server.history.raw_commit(server.history.tree(first_files()), [server.root], message="lost")
    server.refs[AUDIT] = audit.tip = _without_trailers(
        server, taken, message=f"x\n\nCapsule-Revision: {lost}"
    )
    assert server.push((AUDIT, audit.step(STATUS))) == ()


def test_a_branch_that_was_merged_says_nothing_of_where_audit_stood(server: Server, audit: Audit) -> None:
    taken = audit.step({})
    branch = server.request(server.history.request(request_text()))
    server.refs[AUDIT] = audit.tip = _without_trailers(server, taken, branch)
    assert server.push((AUDIT, audit.step(STATUS))) == ()


def test_where_audit_stood_is_read_from_its_tip_without_a_walk(server: Server, audit: Audit) -> None:
    assert server.push((AUDIT, audit.step({}))) == ()
    for at in range(40):
        server.refs[AUDIT] = audit.step({"status/openai-chat.yaml": b"a: %d\n" % at})
    before = server.history.reads
    assert server.push((AUDIT, audit.step({"status/openai-chat.yaml": b"last\n"}))) == ()
    assert server.history.reads - before < 60


def test_audit_takes_in_one_point_of_main_at_a_time(server: Server, audit: Audit) -> None:
    first = server.refs[MAIN]
    server.history.step({"README.md": b"even more\n"})
    assert server.main() == ()
    both = audit.step({}, parents=[server.root, server.refs[MAIN], first])
    assert why(server.push((AUDIT, both))) == ["MainPointNotRising"]
    assert server.push((AUDIT, audit.step({}, parents=[server.root, server.refs[MAIN]]))) == ()


def test_a_commit_of_audit_names_the_revision_it_took_in(server: Server, audit: Audit) -> None:
    """The next push would be judged from there: from a point of main that audit does not hold."""
    assert server.push((AUDIT, audit.step({}))) == ()
    observed, people = audit.observed, dict(server.history.files)
    server.history.step({"README.md": b"even more\n"})
    assert server.main() == ()
    tree = server.history.tree({**people, **STATUS})
    for revision, reasons in (
        (server.refs[MAIN], ["TrailerMismatch"]),
        (server.root, ["TrailerMismatch"]),
        ("f" * 40, ["TrailerMismatch"]),
        (f"{observed}\nCapsule-Revision: {server.root}", ["TrailerMismatch"]),
        (observed, []),
    ):
        said = server.history.raw_commit(
            tree,
            [audit.tip],
            by=key("reconciler-1"),
            name="reconciler-1",
            email="reconciler-1@reconciler.invalid",
            message=f"status openai-chat: changed\n\nCapsule-Revision: {revision}",
        )
        assert why(server.push((AUDIT, said))) == reasons
