"""Everything that is wrong in a tree is reported, each thing with its place and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.documents.check import REASONS, check_change, check_tree
from capsule.documents.codec import emit
from capsule.documents.digests import change_digest
from capsule.documents.problems import REASONS as TEXT_REASONS
from capsule.documents.problems import Problem
from capsule.documents.types import ChangeApproval, ChangedPath
from capsule_agent.protocol.messages import Signers
from tests.unit.documents.samples import (
    APPROVAL,
    POLICY_TEXT,
    REQUEST,
    REQUEST_TEXT,
    ROOT,
    SERVICE_TEXT,
    approval,
    key,
)

Tree = dict[str, bytes]
SERVICE = "services/search/openai-chat.yaml"
DIGEST = "sha256:" + "0" * 64


def only(files: Mapping[str, bytes], **options: Any) -> Problem:
    found = check_tree(files, **options)
    assert len(found) == 1, found
    assert found[0].reason in {**REASONS, **TEXT_REASONS}
    return found[0]


def policy(old: str, new: str, tree: Tree) -> Problem:
    """The one problem of the policy when `old` is replaced."""
    assert POLICY_TEXT.count(old) == 1
    return only({**tree, "policy.yaml": POLICY_TEXT.replace(old, new).encode()})


def request(old: str, new: str, tree: Tree) -> Problem:
    """The one problem of the request, without its approval, when `old` is replaced."""
    assert REQUEST_TEXT.count(old) == 1
    files = {path: data for path, data in tree.items() if "approvals" not in path}
    return only({**files, REQUEST: REQUEST_TEXT.replace(old, new).encode()})


def test_a_good_tree_has_no_problem(tree: Tree) -> None:
    assert check_tree(tree, now=datetime(2026, 11, 24, tzinfo=UTC), root=ROOT) == ()


def test_an_empty_tree_lacks_settings_and_policy() -> None:
    assert [(found.path, found.reason) for found in check_tree({})] == [
        ("capsule.yaml", "MissingDocument"),
        ("policy.yaml", "MissingDocument"),
    ]


def test_problems_of_all_documents_come_at_once(tree: Tree) -> None:
    tree[SERVICE] = SERVICE_TEXT.replace("30s", "30").encode()
    tree["capsule.yaml"] = b"a: no\n"
    tree["policy.yaml"] = POLICY_TEXT.replace("serial", "seriel").encode()
    assert [found.path for found in check_tree(tree)] == [
        "capsule.yaml",
        "capsule.yaml",
        "policy.yaml",
        SERVICE,
    ]


# ---- layout and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["status/openai-chat.yaml", "records/2026/11/r/refusal.yaml"])
def test_machine_paths_on_main(tree: Tree, path: str) -> None:
    found = only({**tree, path: b""})
    assert (found.path, found.reason, found.severity) == (path, "MachinePathOnMain", "error")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("services/other.yml", "rename it to .yaml"),
        ("services/Other.yaml", ""),
        ("services/a/b/notes.txt", ""),
        ("requests/notes.yaml", ""),
        ("requests/2026/11/20261123-rotate/other.yaml", ""),
        ("requests/2026/11/20261123-rotate/approvals/Bob.json", ""),
        ("approvals/bob.json", ""),
        ("signers/bob.json", ""),
    ],
)
def test_files_that_do_not_belong(tree: Tree, path: str, hint: str) -> None:
    found = only({**tree, path: b""})
    assert (found.path, found.reason, found.hint) == (path, "UnexpectedFile", hint)


def test_files_that_are_left_alone(tree: Tree) -> None:
    for path in ("services/.gitkeep", "requests/README.md", ".github/workflows/x.yml", "services"):
        assert check_tree({**tree, path: b"\xff"}) == ()


def test_a_large_folder_is_a_hint(tree: Tree) -> None:
    extra = {
        f"services/many/s{number}.yaml": SERVICE_TEXT.replace("openai-chat", f"s{number}").encode()
        for number in range(1001)
    }
    found = only({**tree, **extra})
    assert (found.path, found.reason, found.severity) == ("services/many", "LargeFolder", "hint")


def test_a_service_is_named_after_its_file(tree: Tree) -> None:
    files = {path: data for path, data in tree.items() if path != SERVICE}
    found = check_tree({**files, "services/other.yaml": tree[SERVICE]})
    assert [(item.reason, item.line, item.column, item.expected) for item in found] == [
        ("NameMismatch", 5, 9, '"other"')
    ]


def test_two_services_with_one_name(tree: Tree) -> None:
    found = only({**tree, "services/openai-chat.yaml": tree[SERVICE]})
    assert (found.path, found.reason, found.line) == (SERVICE, "DuplicateName", 5)
    assert "services/openai-chat.yaml" in found.message


def test_another_kind_of_document_among_services(tree: Tree) -> None:
    found = only({**tree, "services/settings.yaml": tree["capsule.yaml"]})
    assert (found.path, found.reason, found.expected) == (
        "services/settings.yaml",
        "UnexpectedKind",
        "kind: Service",
    )


def test_the_key_of_an_agent_is_a_key(tree: Tree) -> None:
    text = SERVICE_TEXT.replace(key(9), "ssh-ed25519 " + "A" * 68)
    files = {path: data for path, data in tree.items() if not path.startswith("requests")}
    found = only({**files, SERVICE: text.encode()})
    assert (found.reason, found.line, found.column) == ("BadKey", 11, 10)


# ---- policy -------------------------------------------------------------------------------------


def test_a_key_listed_for_two_people(tree: Tree) -> None:
    found = policy(key(2), key(1), tree)
    assert (found.reason, found.line) == ("SharedKey", 8)
    assert '"alice"' in found.message


@pytest.mark.parametrize(("until", "reasons"), [("2027-01-01", []), ("2025-01-01", ["BadKeyWindow"])])
def test_a_key_speaks_from_its_beginning_to_its_end(tree: Tree, until: str, reasons: list[str]) -> None:
    dated = f'{{key: "{key(2)}", validAfter: "2026-01-01T00:00:00Z", validBefore: "{until}T00:00:00Z"}}'
    text = POLICY_TEXT.replace(f'["{key(2)}"]', f"[{dated}]")
    assert [found.reason for found in check_tree({**tree, "policy.yaml": text.encode()})] == reasons


def test_a_key_listed_twice_for_one_person(tree: Tree) -> None:
    text = POLICY_TEXT.replace(f'["{key(2)}"]', f'["{key(2)}", "{key(2)} laptop"]')
    assert check_tree({**tree, "policy.yaml": text.encode()}) == ()


def test_a_key_of_the_policy_that_is_none(tree: Tree) -> None:
    assert policy(key(2), "ssh-ed25519 " + "A" * 68, tree).reason == "BadKey"


def test_a_member_of_a_team_that_is_nobody(tree: Tree) -> None:
    found = policy("reviewers: [bob]", "reviewers: [bob, carl]", tree)
    assert (found.reason, found.line, found.column) == ("UnknownPrincipal", 11, 48)
    assert found.hint == 'did you mean "carol"?'


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("approvals: [{team: reviewers", "approvals: [{team: reviewer", 15),
        ("mayRequest: [operators]", "mayRequest: [operator]", 14),
        ("except: [owners]", "except: [owner]", 30),
    ],
)
def test_a_team_that_is_not_there(tree: Tree, old: str, new: str, line: int) -> None:
    found = check_tree({**tree, "policy.yaml": POLICY_TEXT.replace(old, new, 1).encode()})
    assert ("UnknownTeam", line) in [(item.reason, item.line) for item in found]
    assert all(item.hint for item in found if item.reason == "UnknownTeam")


def test_each_rule_that_nobody_can_satisfy_is_reported(tree: Tree) -> None:
    text = POLICY_TEXT.replace("owners: [bob, carol]", "owners: [bob]").encode()
    found = check_tree({**tree, "policy.yaml": text})
    assert [(item.reason, item.line) for item in found] == [
        ("UnsatisfiableRule", 21),
        ("UnsatisfiableRule", 24),
    ]
    assert "there are 0 beside the requester" in found[0].message
    assert found[0].expected == ""


def test_a_team_stands_once_in_the_approvals_of_a_rule(tree: Tree) -> None:
    text = POLICY_TEXT.replace(
        "[{team: reviewers, count: 1}]", "[{team: reviewers, count: 1}, {team: reviewers, count: 1}]", 1
    )
    found = only({**tree, "policy.yaml": text.encode()})
    assert (found.reason, found.line, found.column) == ("RepeatedTeam", 15, 55)


def test_machines_change_nothing_and_ask_only_where_people_approve(tree: Tree) -> None:
    text = POLICY_TEXT.replace("operators: [alice]", "operators: [reconciler-1]")
    files = {**tree, REQUEST: REQUEST_TEXT.replace("alice", "reconciler-1").encode()}
    files = {path: data for path, data in files.items() if "approvals" not in path}
    (found,) = check_tree({**files, "policy.yaml": text.encode()})
    assert (found.reason, found.line) == ("UnsatisfiableRule", 17)  # change: service
    assert found.hint == "machines may ask for actions only where people must approve"
    free = text.replace("approvals: [{team: reviewers, count: 1}]", "approvals: []")
    reasons = {item.reason for item in check_tree({**files, "policy.yaml": free.encode()})}
    assert reasons >= {"UnsatisfiableRule", "NotAllowedToRequest"}


def test_a_team_without_anybody_has_no_hint_about_machines(tree: Tree) -> None:
    found = check_tree({**tree, "policy.yaml": POLICY_TEXT.replace("[alice]", "[]", 1).encode()})
    assert {item.hint for item in found if item.reason == "UnsatisfiableRule"} == {""}


# ---- evidence -----------------------------------------------------------------------------------

ROTATE = "approvals: [{team: reviewers, count: 1}]\n    - match: {change: service}"
FORGE = b'  forge: {kind: github, server: "https://github.com", repository: acme/state}\n'
BOB = "bob: {email: bob@example.com,"


def evident(
    tree: Tree, evidence: str, *replaced: tuple[str, str], forge: bytes = FORGE
) -> list[tuple[str, str]]:
    """Reasons and texts when rotations take `evidence`, with the forge in the settings."""
    text = POLICY_TEXT.replace(ROTATE, ROTATE.replace("\n", f"\n      evidence: {evidence}\n", 1))
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    settings = tree["capsule.yaml"].replace(
        b"spec: {limits: {maxTargets: 2}}", b"spec:\n  limits: {maxTargets: 2}"
    )
    found = check_tree({**tree, "capsule.yaml": settings + forge, "policy.yaml": text.encode()})
    return [(item.reason, item.message) for item in found]


def test_a_rule_takes_reviews_of_people_with_accounts_at_the_forge(tree: Tree) -> None:
    account = (BOB, f"{BOB} forge: {{github: 2}},")
    assert evident(tree, "forge", account) == []
    nobody = ("EvidenceOfNobody", 'only 0 of "reviewers" can be told by forge, 1 must approve')
    assert evident(tree, "forge") == [nobody]
    assert evident(tree, "forge", (BOB, f"{BOB} forge: {{gitlab: 2}},")) == [nobody]
    no_forge = ("EvidenceOfNobody", "the settings name no forge whose reviews could be read")
    assert evident(tree, "forge", account, forge=b"") == [no_forge]
    assert evident(tree, "forge", account, forge=b"x") != [no_forge]  # settings that cannot be read


def test_who_may_approve_and_has_no_account_is_named(tree: Tree) -> None:
    account = (BOB, f"{BOB} forge: {{github: 2}},")
    ((reason, message),) = evident(tree, "forge", account, ("reviewers: [bob]", "reviewers: [bob, carol]"))
    assert (reason, '"carol" may approve for "reviewers"' in message) == ("AccountMissing", True)


def test_a_rule_takes_merges_of_people_with_an_email_of_their_own(tree: Tree) -> None:
    assert evident(tree, "merge") == []
    assert evident(tree, "merge", (BOB, "bob: {forge: {github: 2},")) == []
    ((reason, _),) = evident(tree, "merge", (BOB, "bob: {"))
    assert reason == "EvidenceOfNobody"
    shared = ("carol@example.com", "BOB@example.com")
    assert [reason for reason, _ in evident(tree, "merge", shared)] == ["SharedEmail"]
    assert evident(tree, "signature", shared) == []


def test_one_account_for_two_principals(tree: Tree) -> None:
    account = "forge: {github: 2}, keys"
    both = [(f"{who}@example.com, keys", f"{who}@example.com, {account}") for who in ("bob", "carol")]
    assert evident(tree, "signature", *both) == [("SharedAccount", 'this account is also listed for "bob"')]


@pytest.mark.parametrize("evidence", ["forge", "merge"])
def test_the_policy_is_judged_neither_by_reviews_nor_by_merges(tree: Tree, evidence: str) -> None:
    text = POLICY_TEXT.replace("{change: policy}\n", f"{{change: policy}}\n      evidence: {evidence}\n")
    found = only({**tree, "policy.yaml": text.encode()})
    assert (found.reason, found.severity) == ("EvidenceNotTaken", "warning")


def test_changes_of_services_that_take_reviews_need_a_forge_and_accounts(tree: Tree) -> None:
    text = POLICY_TEXT.replace("{change: service}\n", "{change: service}\n      evidence: forge\n")
    found = check_tree({**tree, "policy.yaml": text.encode()})
    assert {item.reason for item in found} == {"EvidenceOfNobody"}


@pytest.mark.parametrize("match", ["{}", "{action: x, change: service}", "{selector: {a: b}}"])
def test_a_rule_is_about_an_action_or_a_change(tree: Tree, match: str) -> None:
    text = POLICY_TEXT.replace(
        "  freezes:", f"    - {{match: {match}, mayRequest: [owners], approvals: []}}\n  freezes:"
    )
    reasons = {item.reason for item in check_tree({**tree, "policy.yaml": text.encode()})}
    assert "BadMatch" in reasons


@pytest.mark.parametrize(
    ("match", "shadowed"),
    [
        ("{action: rotateKey, selector: {env: prod, team: x}}", True),
        ("{action: rotateKey, selector: {env: prod}}", True),
        ("{action: rotateKey, selector: {env: test}}", False),
        ("{action: rotateKey}", False),
        ("{action: '*', selector: {env: prod}}", False),
        ("{action: other, selector: {env: prod}}", False),
        ("{change: service, selector: {env: prod}}", True),
    ],
)
def test_a_rule_behind_one_that_takes_everything(tree: Tree, match: str, shadowed: bool) -> None:
    rule = f"    - {{match: {match}, mayRequest: [operators], approvals: []}}\n"
    found = check_tree(
        {**tree, "policy.yaml": POLICY_TEXT.replace("  freezes:", f"{rule}  freezes:").encode()}
    )
    assert [(item.reason, item.severity, item.line) for item in found] == [
        ("ShadowedRule", "warning", 25)
    ] * shadowed


def test_a_rule_for_all_actions_shadows_one_action(tree: Tree) -> None:
    first = "  rules:\n    - {match: {action: '*'}, mayRequest: [operators], approvals: []}\n"
    found = policy("  rules:\n", first, tree)
    assert (found.reason, found.line) == ("ShadowedRule", 14)


def test_no_rule_for_a_kind_of_change_is_a_warning(tree: Tree) -> None:
    found = policy("{change: settings}", "{action: other}", tree)
    assert (found.reason, found.severity, found.line) == ("NoRuleForChange", "warning", 12)


@pytest.mark.parametrize("zone", ["Europe/Berlln", "../../etc/passwd", "Europe", '""', "x/y"])
def test_a_freeze_has_a_known_zone(tree: Tree, zone: str) -> None:
    found = policy("Europe/Berlin", zone, tree)
    assert (found.reason, found.line) == ("UnknownTimezone", 29)
    assert ('"Europe/Berlin"' in found.hint) == (zone == "Europe/Berlln")


def test_a_freeze_ends_after_it_starts(tree: Tree) -> None:
    assert policy('"2027-01-02T00:00"', '"2026-12-20T00:00"', tree).reason == "BadWindow"


@pytest.mark.parametrize(
    ("old", "new"), [('"2026-12-20T00:00"', '"0001-01-01T00:00"'), ("2027-01-02T00:00", "9999-12-31T23:59")]
)
def test_a_freeze_lies_within_the_calendar(tree: Tree, old: str, new: str) -> None:
    assert policy(old, new, tree).reason == "BadWindow"


# ---- what the reconciler does by itself ---------------------------------------------------------


def service(tree: Tree, old: str, new: str) -> tuple[Problem, ...]:
    assert SERVICE_TEXT.count(old) == 1
    files = {path: data for path, data in tree.items() if "approvals" not in path}
    return check_tree({**files, SERVICE: SERVICE_TEXT.replace(old, new).encode()})


@pytest.mark.parametrize(("propose", "reasons"), [("14d", []), ("89d", []), ("90d", ["x"]), ("91d", ["x"])])
def test_a_rotation_is_proposed_within_its_time(tree: Tree, propose: str, reasons: list[str]) -> None:
    found = service(tree, "{every: 90d}", f"{{every: 90d, propose: {propose}}}")
    assert [item.reason for item in found] == ["ProposedTooEarly" for _ in reasons]
    assert all("90d" in item.expected and item.line == 14 for item in found)


def test_drift_is_corrected_where_something_can_be_ordered(tree: Tree) -> None:
    correct = "  onDrift: correct\n  health:"
    assert service(tree, "  health:", correct) == ()
    (found,) = service(tree, "  health:", f"  ignoreDrift: [version, model]\n{correct}")
    assert (found.reason, found.severity, found.line) == ("NothingToCorrect", "warning", 14)
    (found,) = service(tree, f'    key: "{key(9)}"\n', "  onDrift: correct\n")
    assert (found.reason, "observed" in found.message) == ("NothingToCorrect", True)


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("{every: 30m, limit: 3, within: 1h}", True),
        ("{every: 31m, limit: 3, within: 1h}", False),
        ("{every: 2h, limit: 1, within: 1h}", True),
        ("{limit: 14}", False),
    ],
)
def test_the_loop_breaker_can_trip(tree: Tree, text: str, stops: bool) -> None:
    settings = f"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {{name: x}}\nspec: {{correction: {text}}}\n"
    found = check_tree({**tree, "capsule.yaml": settings.encode()})
    assert [(item.reason, item.severity) for item in found] == [("CorrectionNeverStops", "warning")] * (
        not stops
    )


# ---- endpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "reason", "expected"),
    [
        ("https://agent:0", "BadEndpoint", "a port between 1 and 65535"),
        ("https://agent:70000", "BadEndpoint", "a port between 1 and 65535"),
        ("ssh://user@agent:123456789", "BadEndpoint", "a port between 1 and 65535"),
        ("https://agent:", "BadEndpoint", "a port between 1 and 65535"),
        ("https://:7070", "BadEndpoint", "a host name"),
        ("https://agent:port", "BadEndpoint", "a host name"),
        ("https://a:1:2", "BadEndpoint", "a host name"),
        ("https://[::g]:7070", "BadEndpoint", "a host name"),
        ("https://-agent", "BadEndpoint", "a host name"),
        ("http://10.0.3.4:7070", "InsecureEndpoint", "https"),
        ("http://agent", "InsecureEndpoint", "https"),
        ("http://localhost.example:80", "InsecureEndpoint", "https"),
    ],
)
def test_an_endpoint_that_is_never_called(tree: Tree, endpoint: str, reason: str, expected: str) -> None:
    found = only(at_endpoint(tree, f'"{endpoint}"'))
    assert (found.reason, found.severity, found.line, found.column) == (reason, "error", 10, 15)
    assert found.expected.startswith(expected)


@pytest.mark.parametrize(
    "endpoint",
    [
        '"https://agent"',
        '"https://[2001:db8::1]:7070/app"',
        '"http://127.0.0.1:7070"',
        '"http://LOCALHOST"',
        '"http://[::ffff:127.0.0.1]:7070"',
        '"http://[::1]"',
        '"http://10.0.3.4:7070"\n    insecure: true',
        '"ssh://capsule@agent:22"',
        '"unix:/run/agent.sock"',
    ],
)
def test_an_endpoint_that_can_be_called(tree: Tree, endpoint: str) -> None:
    assert check_tree(at_endpoint(tree, endpoint)) == ()


def at_endpoint(tree: Tree, endpoint: str) -> Tree:
    """The tree with another endpoint, and nothing that was approved for the old one."""
    text = SERVICE_TEXT.replace('"https://10.0.3.4:7070"', endpoint)
    files = {path: data for path, data in tree.items() if not path.startswith("requests/")}
    return {**files, SERVICE: text.encode()}


# ---- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "reason", "severity", "place"),
    [
        ("[openai-chat]", "[openai-caht]", "UnknownService", "hint", (7, 13)),
        ("[openai-chat]", "[openai-chat, openai-chat]", "DuplicateTarget", "error", (7, 26)),
        ("requestedBy: alice", "requestedBy: alyce", "UnknownPrincipal", "error", (5, 16)),
        ("requestedBy: alice", "requestedBy: bob", "NotAllowedToRequest", "warning", (5, 16)),
        ("action: rotateKey", "action: other", "NoRuleForRequest", "hint", (7, 13)),
        ("20261123-rotate", "20261123-other", "NameMismatch", "error", (3, 18)),
    ],
)
def test_a_request_that_will_not_do(
    tree: Tree, old: str, new: str, reason: str, severity: str, place: tuple[int, int]
) -> None:
    found = request(old, new, tree)
    assert (found.reason, found.severity, (found.line, found.column)) == (reason, severity, place)


@pytest.mark.parametrize(
    ("old", "new", "reason", "severity"),
    [
        ("[openai-chat]", "[openai-caht]", "UnknownService", "error"),
        ("action: rotateKey", "action: other", "NoRuleForRequest", "warning"),
    ],
)
def test_a_new_request_that_cannot_be_executed_is_more_than_a_hint(
    tree: Tree, old: str, new: str, reason: str, severity: str
) -> None:
    files = {path: data for path, data in tree.items() if "approvals" not in path}
    found = only({**files, REQUEST: REQUEST_TEXT.replace(old, new).encode()}, brought=[REQUEST])
    assert (found.reason, found.severity) == (reason, severity)


def test_a_retired_service_is_only_a_hint_at_what_was_asked_of_it(tree: Tree) -> None:
    del tree[SERVICE]
    assert (only(tree).reason, only(tree).severity) == ("UnknownService", "hint")
    assert only(tree, brought=[SERVICE]).severity == "hint"


def test_a_void_approval_is_a_warning_only_when_it_is_new(tree: Tree) -> None:
    tree[SERVICE] = SERVICE_TEXT.replace("gpt-5.1", "gpt-6").encode()
    assert (only(tree).reason, only(tree).severity) == ("ApprovalVoid", "hint")
    assert only(tree, brought=[APPROVAL]).severity == "warning"
    assert only(tree, brought=[REQUEST]).severity == "warning"


def test_a_request_for_too_many_services(tree: Tree) -> None:
    names = ["openai-chat", "two", "three"]
    for name in names[1:]:
        tree[f"services/{name}.yaml"] = SERVICE_TEXT.replace("openai-chat", name).encode()
    found = request("[openai-chat]", f"[{', '.join(names)}]", tree)
    assert (found.reason, found.expected) == ("TooManyTargets", "at most 2")


def test_an_expired_request_is_only_checked_for_form(tree: Tree) -> None:
    tree[SERVICE] = SERVICE_TEXT.replace("gpt-5.1", "gpt-6").encode()
    later = datetime(2026, 11, 30, tzinfo=UTC)
    assert only(tree).reason == "ApprovalVoid"
    assert check_tree(tree, now=later) == ()
    del tree[SERVICE]
    assert only(tree).reason == "UnknownService"
    assert check_tree(tree, now=later) == ()


def test_a_target_whose_document_is_broken_is_not_called_unknown(tree: Tree) -> None:
    tree[SERVICE] = b"a: no\n"
    assert {found.path for found in check_tree(tree)} == {SERVICE}


def test_without_policy_or_settings_the_rest_is_checked(tree: Tree) -> None:
    del tree["policy.yaml"], tree["capsule.yaml"]
    assert {found.reason for found in check_tree(tree)} == {"MissingDocument"}


def test_a_request_needs_a_signature(tree: Tree) -> None:
    del tree[f"{REQUEST}.sig"]
    found = only(tree)
    assert (found.path, found.reason) == (REQUEST, "MissingSignature")
    assert found.hint == f"ssh-keygen -Y sign -n capsule-request@v1 -f KEY {REQUEST}"


def test_one_name_for_two_requests(tree: Tree) -> None:
    again = REQUEST.replace("2026/11", "2026/12")
    found = only({**tree, again: tree[REQUEST], f"{again}.sig": b""})
    assert (found.path, found.reason) == (again, "DuplicateName")


def test_a_broken_request_is_one_problem(tree: Tree) -> None:
    tree[REQUEST] = REQUEST_TEXT.replace("expires", "expire").encode()
    found = only(tree)
    assert (found.path, found.reason, found.hint) == (REQUEST, "UnknownField", 'did you mean "expires"?')


def test_signatures_and_approvals_without_their_document(tree: Tree) -> None:
    del tree[REQUEST]
    reasons = [(found.path, found.reason) for found in check_tree(tree)]
    assert reasons == [
        (APPROVAL, "OrphanApproval"),
        (f"{APPROVAL}.sig", "OrphanApproval"),
        (f"{REQUEST}.sig", "OrphanSignature"),
    ]
    assert only({**good(tree), f"{APPROVAL}.sig".replace("bob", "carol"): b""}).reason == "OrphanSignature"


def good(tree: Tree) -> Tree:
    return {**tree, REQUEST: REQUEST_TEXT.encode()}


# ---- approvals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason", "loc"),
    [
        ({"principal": "carol"}, "NameMismatch", "principal"),
        ({"expires": "2026-12-01T00:00:00Z"}, "ApprovalMismatch", "expires"),
        ({"expires": "soon"}, "ApprovalMismatch", "expires"),
        ({"targets": {}}, "ApprovalMismatch", "targets"),
        ({"targets": {"openai-chat": DIGEST}}, "ApprovalVoid", "openai-chat"),
        ({"request": {"name": "other"}}, "ApprovalMismatch", "name"),
        ({"request": {"digest": DIGEST}}, "ApprovalMismatch", "digest"),
        ({"request": {"requested_by": "eve"}}, "ApprovalMismatch", "requestedBy"),
        ({"request": {"action": "disable"}}, "ApprovalMismatch", "action"),
        ({"request": {"params": {"grace": "0s"}}}, "ApprovalMismatch", "params"),
        ({"request": {"params": {"grace": 1.5}}}, "ApprovalMismatch", "params"),
    ],
)
def test_an_approval_says_what_the_request_says(
    tree: Tree, changes: dict[str, Any], reason: str, loc: str
) -> None:
    if isinstance(changes.get("request"), dict):
        changes = {"request": replace(approval().request, **changes["request"])}
    data = emit(approval(**changes))
    found = only({**tree, APPROVAL: data})
    assert found.reason == reason
    assert f'"{loc}"' in data.decode().splitlines()[found.line - 1]


def test_nobody_approves_their_own_request(tree: Tree) -> None:
    path = APPROVAL.replace("bob", "alice")
    extra = {path: emit(approval(principal="alice")), f"{path}.sig": b""}
    found = only({**tree, **extra})
    assert (found.path, found.reason) == (path, "OwnApproval")
    withdrawn = {**extra, path: emit(approval(principal="alice", decision="reject"))}
    assert check_tree({**tree, **withdrawn}) == ()


def test_an_approval_by_nobody(tree: Tree) -> None:
    path = APPROVAL.replace("bob", "boob")
    found = only({**tree, path: emit(approval(principal="boob")), f"{path}.sig": b""})
    assert (found.reason, found.hint) == ("UnknownPrincipal", 'did you mean "bob"?')


def test_an_approval_needs_a_signature(tree: Tree) -> None:
    del tree[f"{APPROVAL}.sig"]
    found = only(tree)
    assert (found.reason, found.path) == ("MissingSignature", APPROVAL)
    assert "-n capsule-approval@v1" in found.hint


def test_an_approval_for_another_repository(tree: Tree) -> None:
    found = only(tree, root="0" * 40)
    assert (found.reason, found.path, found.line) == ("OtherRepository", APPROVAL, 4)


def test_a_broken_approval(tree: Tree) -> None:
    assert only({**tree, APPROVAL: b"{"}).reason == "BadJson"


CHANGES = {"services/a.yaml": ChangedPath(old=None, new=DIGEST)}
CHANGE_PATH = f"approvals/{change_digest(CHANGES).removeprefix('sha256:')}/bob.json"


def change(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "repository": ROOT,
        "principal": "bob",
        "decision": "approve",
        "changes": CHANGES,
        **changes,
    }
    fields |= {"api_version": "capsule/v1", "kind": "ChangeApproval"}
    return emit(ChangeApproval(**fields))


def test_approvals_of_changes(tree: Tree) -> None:
    assert check_tree({**tree, CHANGE_PATH: change(), f"{CHANGE_PATH}.sig": b""}, root=ROOT) == ()
    assert only({**tree, CHANGE_PATH: change()}).reason == "MissingSignature"
    assert only({**tree, CHANGE_PATH: b"[]", f"{CHANGE_PATH}.sig": b""}).reason == "UnknownKind"
    assert only({**tree, f"{CHANGE_PATH}.sig": b""}).reason == "OrphanSignature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"principal": "carol"}, "NameMismatch"),
        ({"repository": "0" * 40}, "OtherRepository"),
        ({"changes": {"services/b.yaml": ChangedPath(old=None, new=DIGEST)}}, "ApprovalMismatch"),
    ],
)
def test_approvals_of_changes_that_will_not_do(tree: Tree, changes: dict[str, Any], reason: str) -> None:
    assert (
        only({**tree, CHANGE_PATH: change(**changes), f"{CHANGE_PATH}.sig": b""}, root=ROOT).reason == reason
    )


def test_signers(tree: Tree) -> None:
    signers = {"signers/signers.json": emit(Signers(ROOT, 7, {})), "signers/bob.sig": b""}
    assert check_tree({**tree, **signers}) == ()
    assert only({**tree, **signers, "signers/signers.json": b"7"}).reason == "UnknownKind"


# ---- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (POLICY_TEXT, POLICY_TEXT, False),
        (POLICY_TEXT, POLICY_TEXT + "# more\n", True),
        (POLICY_TEXT, POLICY_TEXT.replace("serial: 7", "serial: 6"), True),
        (POLICY_TEXT, POLICY_TEXT.replace("serial: 7", "serial: 8"), False),
        (POLICY_TEXT, "a: no", False),
        ("a: no", POLICY_TEXT, False),
    ],
)
def test_the_serial_of_a_policy_rises(before: str, after: str, wrong: bool) -> None:
    found = check_change({"policy.yaml": before.encode()}, {"policy.yaml": after.encode()})
    assert [(item.reason, item.line, item.expected) for item in found] == (
        [("PolicySerialNotRaised", 5, "at least 8")] if wrong else []
    )


def test_a_policy_that_comes_or_goes_has_no_step() -> None:
    assert check_change({}, {"policy.yaml": POLICY_TEXT.encode()}) == ()
    assert check_change({"policy.yaml": POLICY_TEXT.encode()}, {}) == ()


def test_every_reason_is_explained() -> None:
    assert all(text.endswith(".") for text in REASONS.values())
    assert not REASONS.keys() & TEXT_REASONS.keys()
