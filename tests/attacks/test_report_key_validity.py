"""Keys that speak for a while only hide nothing from the report: it judges main as the proof does."""

from __future__ import annotations

from capsule.trust.audit import verify_audit
from capsule.view.ledger import Ledger
from capsule.view.ledger_rows import LedgerRow, Selection, chosen
from tests.attacks.test_trust_key_validity import MONDAY, TUESDAY, dated, files
from tests.trust_history import Audit, Files, History, first_files, request_text, service_text

TIMES = int(MONDAY.timestamp())
RAW = request_text(action="runHealthCheck", targets=("extra",), params="{}")


def _rows(history: History, commits: list[str]) -> tuple[Ledger, list[LedgerRow]]:
    ledger = Ledger(history, history.root, history.tip)
    rows = [row for commit in commits for row in ledger.step(commit)]
    return ledger, [*rows, *ledger.unfinished()]


def _claimed(begun: Files) -> tuple[History, Audit, list[str]]:
    """A service that the dated key of alice brought, and an operation on it."""
    history = History.begun(begun)
    audit = Audit(history)
    history.step({"services/test/extra.yaml": service_text("extra", env="test")}, by="alice")
    history.step(history.request(RAW))
    commits = [audit.step({}, at=TIMES)]
    trailers = [
        ("Capsule-Request", "r1"),
        ("Capsule-Service", "extra"),
        ("Capsule-Action", "runHealthCheck"),
        ("Requested-by", "alice"),
    ]
    claim = audit.claim(RAW, "extra", action="runHealthCheck", approved_by=(), evidence="signature")
    commits.append(audit.step(claim, trailers=trailers))
    return history, audit, commits


def test_an_operation_on_a_service_that_a_dated_key_brought_is_selected_by_its_labels() -> None:
    history, audit, commits = _claimed(files("alice"))
    proof = verify_audit(history, history.root, history.tip, audit.tip)
    assert proof.holds, proof.first_bad
    ledger, rows = _rows(history, commits)
    assert [(row.kind, row.service, row.labels) for row in rows] == [("operation", "extra", {"env": "test"})]
    assert list(chosen(rows, Selection(selector={"env": "test"}))) == rows
    assert list(chosen(rows, Selection(selector={"env": "prod"}))) == []
    assert proof.state is not None
    assert ledger.state.services == proof.state.services


def test_a_service_whose_labels_nobody_knows_is_left_out_by_no_selector() -> None:
    history, _, commits = _claimed(files("alice", 'validBefore: "2026-11-01T00:00:00Z"'))
    _, rows = _rows(history, commits)
    assert [(row.reason, row.labels) for row in rows] == [("ChangeNotAuthorised", None), ("Running", None)]
    assert list(chosen(rows, Selection(selector={"env": "whatever"}))) == rows


def test_a_policy_that_a_dated_key_signed_leaves_the_report_no_more_suspended_than_the_proof() -> None:
    history = History.begun(files("bob"))
    audit = Audit(history)
    old = first_files()["policy.yaml"]
    old = dated("bob", 'validBefore: "2026-11-24T12:00:00Z"', old)
    new = old.replace(b"serial: 1", b"serial: 2")
    history.step({"policy.yaml": new, **history.change_word("carol", {"policy.yaml": (old, new)})}, by="bob")
    commits = [audit.step({}, at=TIMES)]
    history.step({"README.md": b"later"})
    commits.append(audit.step({}, at=int(TUESDAY.timestamp()) + 60))
    proof = verify_audit(history, history.root, history.tip, audit.tip)
    assert proof.holds, proof.first_bad
    ledger, rows = _rows(history, commits)
    assert rows == []
    assert proof.state is not None
    assert (ledger.state.suspended, proof.state.suspended) == (None, None)
    assert ledger.state.policy == proof.state.policy
    assert ledger.state.policy.document.spec.serial == 2
