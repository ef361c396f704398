"""What somebody tries to have a request executed that nobody entitled approved as it is."""

from __future__ import annotations

from typing import Any

import pytest

from capsule.documents.digests import bytes_digest
from capsule.trust.requests import judge_requests
from capsule.trust.state import JudgedRequest
from capsule_agent.protocol import sshsig
from tests.trust_history import (
    DEFAULT_RULES,
    Files,
    History,
    approved,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
REQUEST = "requests/2026/11/r1/request.yaml"
TWO = "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: reviewers, count: 2}]}"


def judge(history: History, name: str = "r1") -> JudgedRequest:
    return judge_requests(history, history.judged(), {})[name]


def void(judged: JudgedRequest) -> list[str]:
    return [seen.reason for seen in judged.approvals]


def assert_not_approved(judged: JudgedRequest, *reasons: str) -> None:
    assert judged.verdict == "proposed"
    assert judged.approved_by == ()
    assert void(judged) == list(reasons)
    assert judged.missing


def with_policy(text: bytes) -> Files:
    return {**first_files(), "policy.yaml": text}


def team_of(*people: str, rules: Any = None, principals: Any = None) -> Files:
    teams = {"operators": ["alice"], "reviewers": list(people), "owners": ["bob", "carol"]}
    return with_policy(policy_text(teams=teams, rules=rules, principals=principals))


def test_control_an_honest_approval_counts() -> None:
    history, _ = approved()
    judged = judge(history)
    assert (judged.verdict, judged.approved_by) == ("approved", ("bob",))


def test_self_approval() -> None:
    history, _ = approved(team_of("alice", "bob"), who="alice")
    assert_not_approved(judge(history), "SelfApproval")


def test_requester_is_never_counted_even_by_a_rejection_of_the_rest() -> None:
    history = History.begun(team_of("alice", "bob", rules=(TWO,)))
    raw = request_text()
    history.step(
        history.request(raw) | history.approval("alice", raw) | history.approval("bob", raw), merge=True
    )
    judged = judge(history)
    assert judged.verdict == "proposed"
    assert judged.approved_by == ("bob",)
    assert void(judged) == ["SelfApproval", ""]


def test_one_person_with_two_keys_is_counted_once() -> None:
    principals = {"alice": ["alice"], "bob": ["bob", "bob-2"], "carol": ["carol"]}
    history = History.begun(team_of("bob", "carol", rules=(TWO,), principals=principals))
    raw = request_text()
    first = history.approval("bob", raw)
    second = history.approval("carol", raw, signer=key("bob-2"))
    history.step(history.request(raw) | first | second, merge=True)
    judged = judge(history)
    assert judged.approved_by == ("bob",)
    assert void(judged) == ["", "BadSignature"]
    assert judged.verdict == "proposed"


def test_same_key_for_two_people_is_no_policy() -> None:
    history = History.begun()
    shared = policy_text(
        2, principals={"alice": ["alice"], "bob": ["bob"], "carol": ["carol"], "dave": ["bob"]}
    )
    words = history.change_word("carol", {"policy.yaml": (policy_text(), shared)})
    history.step({"policy.yaml": shared, **words}, by="bob")
    state = history.judged()
    assert state.policy.document.spec.serial == 1
    assert state.suspended is not None
    assert state.suspended.reason == "InvalidPolicy"
    assert "share the key" in state.suspended.message


def test_approval_copied_from_another_request() -> None:
    history = History.begun()
    raw, other = request_text(), request_text("r2")
    copied = history.approval("bob", other, "r2")
    moved = {path.replace("/r2/", "/r1/"): data for path, data in copied.items()}
    history.step(history.request(raw) | moved, merge=True)
    assert_not_approved(judge(history), "OtherRequest")


def test_approval_copied_from_another_repository() -> None:
    history, _ = approved(repository="f" * 40)
    assert_not_approved(judge(history), "OtherRepository")


def test_approval_copied_from_a_fork_that_kept_the_root() -> None:
    fork = History.begun()
    raw = request_text()
    fork.step({CHAT: service_text(endpoint="https://10.9.9.9:1")})
    copied = fork.approval("bob", raw)
    history = History.begun()
    assert history.root == fork.root
    history.step(history.request(raw) | copied, merge=True)
    assert_not_approved(judge(history), "TargetChanged")


def test_approval_renamed_to_another_person() -> None:
    history = History.begun()
    raw = request_text()
    moved = {path.replace("/bob.", "/dave."): data for path, data in history.approval("bob", raw).items()}
    history.step(history.request(raw) | moved, merge=True)
    assert_not_approved(judge(history), "ApprovalMisplaced")


@pytest.mark.parametrize("namespace", [sshsig.REQUEST, sshsig.COMMIT, sshsig.RECEIPT, "file", ""])
def test_approval_signed_in_another_namespace(namespace: str) -> None:
    history, _ = approved(namespace=namespace)
    assert_not_approved(judge(history), "BadSignature")


def test_request_signed_in_another_namespace() -> None:
    history = History.begun()
    raw = request_text()
    history.step(history.request(raw, namespace=sshsig.APPROVAL) | history.approval("bob", raw), merge=True)
    assert (judge(history).verdict, judge(history).reason) == ("refused", "BadSignature")


def test_request_signed_by_somebody_else() -> None:
    history = History.begun()
    raw = request_text()
    history.step(history.request(raw, by="bob") | history.approval("bob", raw), merge=True)
    judged = judge(history)
    assert (judged.verdict, judged.reason) == ("refused", "BadSignature")
    assert "made by bob, not by alice" in judged.message


def test_request_in_the_name_of_somebody_else_approved_by_that_person() -> None:
    history = History.begun()
    raw = request_text(by="bob")
    history.step(history.request(raw, by="alice") | history.approval("bob", raw), merge=True)
    assert judge(history).verdict == "refused"


def test_approval_signed_by_a_key_that_the_policy_does_not_list() -> None:
    history, _ = approved(signer=key("stranger"))
    assert_not_approved(judge(history), "BadSignature")


def test_approval_by_somebody_outside_of_the_team() -> None:
    history, _ = approved(who="mallory")
    assert_not_approved(judge(history), "NotAnApprover")


def test_machine_approves() -> None:
    history, _ = approved(team_of("bob", "reconciler-1"), who="reconciler-1")
    assert_not_approved(judge(history), "MachineApproval")


ASKING = {"operators": ["alice", "reconciler-1"], "reviewers": ["bob", "dave"], "owners": ["bob", "carol"]}


def asked_by_machine(
    teams: dict[str, list[str]] | None = None, *, by: str = "reconciler-1", **request: Any
) -> tuple[History, bytes]:
    """A request in the name of reconciler-1, with the signature of `by`."""
    history = History.begun(with_policy(policy_text(teams=ASKING if teams is None else teams)))
    raw = request_text(by="reconciler-1", **request)
    history.step(history.request(raw, by=by), merge=True)
    return history, raw


def test_machine_asks_where_no_approval_is_needed() -> None:
    """Whoever holds a reconciler's key would act by asking: nobody else has to say anything."""
    for service in (("mailer", "rotateKey"), ("openai-chat", "runHealthCheck")):
        history, _ = asked_by_machine(targets=[service[0]], action=service[1])
        assert judge(history).reason == "MachineRequest"


def test_machine_asks_for_two_services_of_which_one_needs_no_approval() -> None:
    history, _ = asked_by_machine(targets=["openai-chat", "mailer"])
    assert judge(history).reason == "MachineRequest"


def test_machine_asks_where_no_team_lists_it() -> None:
    history, _ = asked_by_machine({**ASKING, "operators": ["alice"], "reviewers": ["bob", "reconciler-1"]})
    assert judge(history).reason == "MachineRequest"


def test_machine_asks_without_its_signature() -> None:
    history, _ = asked_by_machine(by="alice")
    assert judge(history).reason == "BadSignature"
    history, _ = asked_by_machine()
    history.step({"requests/2026/11/r1/request.yaml.sig": None})
    assert judge(history).reason == "RequestUnsigned"


def test_machine_asks_and_people_approve() -> None:
    history, raw = asked_by_machine()
    assert_not_approved(judge(history))
    who = {"requestedBy": "reconciler-1"}
    history.step(history.approval("bob", raw, request=who), merge=True)
    judged = judge(history)
    assert (judged.verdict, judged.approved_by) == ("approved", ("bob",))


def test_machine_approves_what_it_asked_for() -> None:
    teams = {**ASKING, "reviewers": ["bob", "reconciler-1"]}
    history, raw = asked_by_machine(teams)
    history.step(history.approval("reconciler-1", raw, request={"requestedBy": "reconciler-1"}), merge=True)
    judged = judge(history)
    assert (judged.verdict, judged.approved_by) == ("proposed", ())


def test_machine_approves_what_another_machine_asked_for() -> None:
    other = f'    reconciler-2: {{machine: true, keys: ["{key("reconciler-2").public.text}"]}}\n  teams:\n'
    teams = {**ASKING, "reviewers": ["bob", "reconciler-2"]}
    text = policy_text(teams=teams).replace(b"  teams:\n", other.encode())
    history = History.begun(with_policy(text))
    raw = request_text(by="reconciler-1")
    history.step(history.request(raw, by="reconciler-1"), merge=True)
    history.step(history.approval("reconciler-2", raw, request={"requestedBy": "reconciler-1"}), merge=True)
    assert_not_approved(judge(history), "MachineApproval")


def test_machine_of_a_team_changes_a_service() -> None:
    """Changes of documents are people's, whatever the team that may make them lists."""
    history = History.begun(with_policy(policy_text(teams=ASKING)))
    path, old, new = "services/openai-chat.yaml", service_text(), service_text(model="gpt-6")
    words = history.change_word("bob", {path: (old, new)})
    history.step({path: new, **words}, by="reconciler-1")
    assert history.judged().services["openai-chat"].digest == bytes_digest(old)


def test_request_edited_after_approval() -> None:
    history, raw = approved()
    edited = raw.replace(b"OPS-1", b"OPS-2")
    history.step(history.request(edited), merge=True)
    assert_not_approved(judge(history), "RequestChanged")


def test_comment_of_the_request_edited_after_approval_is_a_change_of_its_bytes() -> None:
    history, raw = approved()
    history.step(history.request(raw + b"# harmless\n"), merge=True)
    assert_not_approved(judge(history), "RequestChanged")


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ({"request": {"params": {"grace": "0s"}}}, "ParamsChanged"),
        ({"request": {"params": {}}}, "ParamsChanged"),
        ({"request": {"params": {"grace": 1.5}}}, "ParamsChanged"),
        ({"request": {"action": "runHealthCheck"}}, "ActionChanged"),
        ({"request": {"requestedBy": "mallory"}}, "RequesterChanged"),
        ({"request": {"digest": "sha256:" + "0" * 64}}, "RequestChanged"),
        ({"targets": {}}, "TargetsChanged"),
        ({"targets": {"openai-chat": "x", "mailer": "y"}}, "TargetsChanged"),
        ({"targets": {"openai-chat": "sha256:" + "0" * 64}}, "TargetChanged"),
        ({"expires": "2027-11-30T00:00:00Z"}, "ExpiryChanged"),
        ({"expires": "never"}, "ExpiryChanged"),
        ({"extra": 1}, "MalformedApproval"),
    ],
)
def test_approval_that_was_shown_something_else(shown: dict[str, Any], reason: str) -> None:
    history, _ = approved(**shown)
    assert_not_approved(judge(history), reason)


def test_params_of_another_type_are_other_params() -> None:
    history = History.begun()
    raw = request_text(params="{count: 1}")
    history.step(
        history.request(raw) | history.approval("bob", raw, request={"params": {"count": True}}), merge=True
    )
    assert_not_approved(judge(history), "ParamsChanged")


@pytest.mark.parametrize(
    "after",
    [
        service_text(endpoint="https://169.254.169.254"),
        service_text(agent_key=key("mallory")),
        service_text(model="gpt-6"),
        service_text().replace(b"{env: prod}", b"{env: prod, team: x}"),
    ],
    ids=["endpoint", "agent key", "pins", "labels"],
)
def test_target_changed_after_approval(after: bytes) -> None:
    history, _ = approved()
    change = {CHAT: (service_text(), after)}
    words = history.change_word("alice", change, "propose") | history.change_word("dave", change)
    history.step({CHAT: after, **words}, merge=True)
    assert_not_approved(judge(history), "TargetChanged")
    assert "openai-chat" in judge(history).approvals[0].message


@pytest.mark.parametrize(
    "after",
    [
        b"# a comment\n" + service_text(),
        service_text(extra="  health: {interval: 5m}\n"),
        service_text(extra="  enabled: false\n"),
        service_text(extra="  onDrift: correct\n"),
    ],
    ids=["comment", "interval", "disabled", "on drift"],
)
def test_harmless_edits_of_a_target_void_nothing(after: bytes) -> None:
    history, _ = approved()
    change = {CHAT: (service_text(), after)}
    words = history.change_word("alice", change, "propose") | history.change_word("dave", change)
    history.step({CHAT: after, **words}, merge=True)
    assert history.judged().services["openai-chat"].digest == bytes_digest(after)
    assert history.judged().pending == ()
    assert judge(history).verdict == "approved"


def test_service_relabelled_to_meet_a_weaker_rule() -> None:
    history = History.begun()
    raw = request_text()
    relabelled = service_text(env="test")
    history.step({CHAT: relabelled}, by="alice")
    history.step(history.request(raw), merge=True)
    judged = judge(history)
    assert history.judged().services["openai-chat"].document.metadata.labels["env"] == "prod"
    assert judged.verdict == "proposed"


def test_service_moved_and_relabelled_to_meet_a_weaker_rule() -> None:
    history = History.begun()
    history.step({CHAT: None, "services/test/openai-chat.yaml": service_text(env="test")}, by="alice")
    state = history.judged()
    assert state.services["openai-chat"].path == CHAT
    assert {change.reason for change in state.pending} == {"ApprovalsMissing"}


def test_key_removed_then_old_approval_used() -> None:
    history, _ = approved()
    assert judge(history).verdict == "approved"
    gone = policy_text(
        2,
        principals={who: [who] for who in ("alice", "carol", "dave")} | {"bob": ["bob-new"]},
    )
    words = history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    history.step({"policy.yaml": gone, **words}, by="bob")
    assert history.judged().suspended is None
    assert_not_approved(judge(history), "BadSignature")


def test_person_removed_then_old_approval_used() -> None:
    history, _ = approved()
    teams = {"operators": ["alice"], "reviewers": ["dave"], "owners": ["dave", "carol"]}
    gone = policy_text(2, principals={who: [who] for who in ("alice", "carol", "dave")}, teams=teams)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    history.step({"policy.yaml": gone, **words}, by="bob")
    assert_not_approved(judge(history), "UnknownPrincipal")


def test_person_moved_out_of_the_team_then_old_approval_used() -> None:
    history, _ = approved()
    teams = {"operators": ["alice"], "reviewers": ["dave"], "owners": ["bob", "carol"]}
    moved = policy_text(2, teams=teams)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), moved)})
    history.step({"policy.yaml": moved, **words}, by="bob")
    assert_not_approved(judge(history), "NotAnApprover")


def test_requester_removed_then_old_request_used() -> None:
    history, _ = approved()
    teams = {"operators": ["dave"], "reviewers": ["bob"], "owners": ["bob", "carol"]}
    gone = policy_text(2, principals={who: [who] for who in ("bob", "carol", "dave")}, teams=teams)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    history.step({"policy.yaml": gone, **words}, by="bob")
    assert (judge(history).verdict, judge(history).reason) == ("refused", "UnknownPrincipal")


@pytest.mark.parametrize("count", ["0", "-1", '"1"', "1.0", "null", "true"])
def test_threshold_zero_negative_or_of_another_type_is_no_policy(count: str) -> None:
    history = History.begun()
    approvals = f"[{{team: reviewers, count: {count}}}]"
    rules = (f"{{match: {{action: '*'}}, mayRequest: [operators], approvals: {approvals}}}",)
    bad = policy_text(2, rules=rules)
    words = history.change_word("carol", {"policy.yaml": (policy_text(), bad)})
    history.step({"policy.yaml": bad, **words}, by="bob")
    assert history.judged().policy.document.spec.serial == 1
    assert history.judged().suspended is not None


@pytest.mark.parametrize(
    "rule",
    [
        "{match: {action: '*'}, mayRequest: [operators]}",
        "{match: {action: '*'}, mayRequest: [operators], approvals: [{team: reviewers}]}",
        "{match: {action: '*'}, mayRequest: [], approvals: []}",
        "{match: {}, mayRequest: [operators], approvals: []}",
        "{match: {action: rotateKey, change: policy}, mayRequest: [operators], approvals: []}",
        "{match: {action: rotateKey}, mayRequest: [operators], approvals: [{team: nobody, count: 1}]}",
        "{match: {action: rotateKey}, mayRequest: [operators], "
        "approvals: [{team: reviewers, count: 1}, {team: reviewers, count: 1}]}",
    ],
    ids=[
        "no approvals",
        "no count",
        "nobody may ask",
        "no match",
        "both matches",
        "no such team",
        "team twice",
    ],
)
def test_threshold_missing_never_means_allowed(rule: str) -> None:
    history = History.begun()
    bad = policy_text(2, rules=(rule,))
    words = history.change_word("carol", {"policy.yaml": (policy_text(), bad)})
    history.step({"policy.yaml": bad, **words}, by="bob")
    state = history.judged()
    assert state.policy.document.spec.serial == 1
    assert state.suspended is not None
    assert state.suspended.reason == "InvalidPolicy"


def test_action_without_a_rule_is_refused() -> None:
    history = History.begun()
    raw = request_text(action="dropAllData")
    history.step(history.request(raw), merge=True)
    assert judge(history).reason == "NoRule"


def test_one_weak_target_does_not_carry_the_others() -> None:
    history = History.begun()
    raw = request_text(targets=("mailer", "openai-chat"))
    history.step(history.request(raw), merge=True)
    judged = judge(history)
    assert judged.verdict == "proposed"
    assert [each.team for each in judged.missing] == ["reviewers"]


def test_more_targets_than_the_limits_allow() -> None:
    settings = (
        b"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {name: team}\n"
        b"spec: {limits: {maxTargets: 1, maxShare: 100}}\n"
    )
    history = History.begun(first_files() | {"capsule.yaml": settings})
    raw = request_text(targets=("mailer", "openai-chat"))
    history.step(history.request(raw) | history.approval("bob", raw), merge=True)
    assert judge(history).reason == "TooManyTargets"


def test_executed_request_copied_to_another_month_to_run_again() -> None:
    history, raw = approved()
    history.step(
        history.request(raw, month="2026/12") | history.approval("bob", raw, month="2026/12"), merge=True
    )
    judged = judge(history)
    assert (judged.verdict, judged.reason) == ("refused", "DuplicateRequest")
    settled = judge_requests(history, history.judged(), left_out=lambda folder: folder.month == "2026/11")
    assert settled["r1"].reason == "DuplicateRequest"


def test_request_under_the_name_of_another_folder() -> None:
    history = History.begun()
    raw = request_text("r2")
    history.step(history.request(raw, "r1") | history.approval("bob", raw, "r1"), merge=True)
    assert judge(history).reason == "NameMismatch"


def test_unmerged_request_with_approvals_on_its_branch_is_not_executed() -> None:
    history = History.begun()
    raw = request_text()
    main = history.tip
    branch = history.step(history.request(raw) | history.approval("bob", raw))
    history.tip = main
    judged = judge_requests(history, history.judged(), {"refs/heads/request/r1": branch})["r1"]
    assert (judged.verdict, judged.reason) == ("proposed", "AwaitsMerge")


def test_branch_brings_its_own_policy() -> None:
    history = History.begun()
    raw = request_text(by="mallory")
    teams = {"operators": ["mallory"], "reviewers": ["mallory"], "owners": ["mallory"]}
    own = policy_text(9, teams=teams, rules=(*DEFAULT_RULES[:1], TWO.replace("count: 2", "count: 1")))
    main = history.tip
    branch = history.step({"policy.yaml": own, **history.request(raw, by="mallory")}, by="mallory")
    history.tip = main
    judged = judge_requests(history, history.judged(), {"refs/heads/request/r1": branch})["r1"]
    assert (judged.verdict, judged.reason) == ("refused", "NotEntitled")


def test_tag_or_other_branch_named_like_a_request_branch_is_not_read() -> None:
    history = History.begun()
    raw = request_text(action="runHealthCheck")
    main = history.tip
    branch = history.step(history.request(raw))
    history.tip = main
    state = history.judged()
    for ref in ("refs/tags/request/r1", "refs/heads/requests/r1", "refs/heads/request/r2", "request/r1"):
        assert "r1" not in judge_requests(history, state, {ref: branch})
    tag = history.put("tag", f"object {branch}\ntype commit\ntag r1\n".encode())
    refused = judge_requests(history, state, {"refs/heads/request/r1": tag})
    assert [finding.reason for finding in refused.findings] == ["WrongKind"]


def test_request_signature_or_approval_as_symlink() -> None:
    history, _ = approved()
    link = history.put("blob", b"../../../../services/openai-chat.yaml")
    history.commit(history.files, [history.tip], special={"requests/2026/11/r1/link": (b"120000", link)})
    judged = judge(history)
    assert (judged.verdict, judged.reason) == ("refused", "MalformedTree")


def test_rejection_outweighs_approvals_until_it_is_withdrawn() -> None:
    history = History.begun()
    raw = request_text()
    against = history.approval("dave", raw, decision="reject")
    history.step(history.request(raw) | history.approval("bob", raw) | against, merge=True)
    assert (judge(history).verdict, judge(history).reason) == ("rejected", "Rejected")
    history.step(dict.fromkeys(against))
    assert judge(history).verdict == "approved"


def test_rejection_by_somebody_not_entitled_stops_nothing() -> None:
    history = History.begun()
    raw = request_text()
    against = history.approval("mallory", raw, decision="reject")
    history.step(history.request(raw) | history.approval("bob", raw) | against, merge=True)
    assert judge(history).verdict == "approved"
