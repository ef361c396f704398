"""The ledger, its exports and its report: every operation and exception once, and nobody's text runs."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.documents.types import ActionRequest
from capsule.trust.objects import first_parents
from capsule.view.export import COLUMNS, as_csv, as_json_lines, safe_cell
from capsule.view.ledger import Ledger
from capsule.view.ledger_rows import EXCEPTIONS, LedgerRow, Selection, chosen, exceptions_of
from capsule.view.report import Proof, Report, as_html, as_markdown, as_value
from tests.trust_history import Audit, approved, key
from tests.web.chronicle import Chronicle, service_text

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
CHAT = "services/chat.yaml"
HOSTILE = "<script>alert(1)</script> [x](javascript:alert(2)) | `code` https://evil.example\u202e"


def _chat(env: str = "prod", more: str = "") -> str:
    return service_text("chat", labels={"env": env}, pins={"model": "m"}, more=more)


@pytest.fixture
def story() -> Chronicle:
    return Chronicle(NOW, {CHAT: _chat(more="  rotation: {every: 1d}"), "services/mail.yaml": _mail()})


def _mail() -> str:
    return service_text("mail", labels={"env": "test"}, pins={"model": "m"})


def _read(story: Chronicle) -> tuple[Ledger, list[LedgerRow]]:
    ledger = Ledger(story.store, story.root, story.ref(MAIN))
    commits = list(first_parents(story.store, story.ref(AUDIT), story.root))[::-1]
    return ledger, [row for commit in commits for row in ledger.step(commit)]


def _rotated(story: Chronicle, outcome: str = "succeeded", evidence: str = "signature", **said: Any) -> None:
    request = story.request(f"r{story.now:%H%M}", "rotateKey", ("chat",), reason="Quarterly")
    claims = story.claim(request, "chat", approved_by=("bob",))
    path, claim = next(iter(claims.items()))
    spec = claim.spec.model_copy(update={"evidence": evidence})  # type: ignore[attr-defined]  # a Claim
    story.record({path: claim.model_copy(update={"spec": spec})}, "claimed")
    story.now += timedelta(minutes=1)
    story.record(story.result(request, "chat", outcome, "Said", **said), "ended")


def test_an_operation_is_one_row_with_the_labels_of_its_day(story: Chronicle) -> None:
    _rotated(story)
    story.commit({CHAT: _chat("test")}, "Relabel")
    ledger, rows = _read(story)
    assert [(row.kind, row.service, row.outcome, row.labels) for row in rows] == [
        ("operation", "chat", "succeeded", {"env": "prod"})
    ]
    row = rows[0]
    assert (row.requested_by, row.approved_by, row.why) == ("alice", ("bob",), "Quarterly")
    assert (row.evidence, row.claimed_at, row.at) == ("signature", NOW, NOW + timedelta(minutes=1))
    assert list(ledger.unfinished()) == []
    chat, mail = ledger.keys(NOW + timedelta(days=2))
    assert (chat.created, chat.overdue) == (row.at, True)
    assert not ledger.keys(NOW)[0].overdue
    assert (mail.created, mail.due, mail.overdue) == (None, None, False)


def test_keys_are_as_old_as_they_were_at_the_end_of_a_window(story: Chronicle) -> None:
    """What was rotated later is not told of a time before."""
    _rotated(story)
    first, story.now = story.now, story.now + timedelta(days=3)
    _rotated(story)
    end = first + timedelta(days=2)
    ledger = Ledger(story.store, story.root, story.ref(MAIN), end)
    for commit in list(first_parents(story.store, story.ref(AUDIT), story.root))[::-1]:
        list(ledger.step(commit))
    for found, created in ((ledger, first), (_read(story)[0], story.now)):
        chat, _ = found.keys(end)
        assert (chat.created, chat.overdue) == (created, created == first)


@pytest.mark.parametrize(
    ("outcome", "evidence", "exceptions"),
    [
        ("succeeded", "break-glass", ["BreakGlass"]),
        ("unknown", "forge", ["WeakEvidence", "UnknownOutcome"]),
        ("refused", "merge", ["WeakEvidence", "RefusedByAgent"]),
    ],
)
def test_what_an_auditor_must_see_stands_besides(
    story: Chronicle, outcome: str, evidence: str, exceptions: list[str]
) -> None:
    _rotated(story, outcome, evidence)
    _, rows = _read(story)
    assert [row.reason for row in rows if row.kind == "exception"] == exceptions
    assert set(exceptions) <= EXCEPTIONS.keys()


def test_an_acknowledgement_and_a_state_order_speak_for_themselves() -> None:
    done = LedgerRow(NOW, "operation", "chat", "acknowledge", "succeeded", "Acknowledged")
    assert [row.reason for row in exceptions_of(done)] == ["Acknowledged"]
    told = LedgerRow(NOW, "desired-state", "chat", "disable", "unknown", "Lost")
    assert [row.message for row in exceptions_of(told)] == [EXCEPTIONS["UnknownOutcome"]]


def test_what_is_unfinished_and_what_was_refused(story: Chronicle) -> None:
    request = story.request("open", "rotateKey", ("chat",), reason="Quarterly")
    branch = story.request("away", "rotateKey", ("mail",), reason="Quarterly", branch=True)
    story.record({**story.claim(request, "chat"), **story.claim(branch, "mail")}, "claimed")
    other = story.request("late", "rotateKey", ("chat",), reason="Quarterly")
    story.record(story.refusal(other, "Expired", "Expired", "too late"), "refused")
    ledger, rows = _read(story)
    assert [(row.kind, row.outcome, row.request) for row in rows] == [("refusal", "expired", "late")]
    assert [(row.service, row.outcome, row.why) for row in ledger.unfinished()] == [
        ("chat", "running", "Quarterly"),
        ("mail", "running", ""),
    ]


def _taken_in(story: Chronicle, name: str, action: str, *targets: str) -> ActionRequest:
    """A request on a branch of its own, with the words that its records must not lose."""
    return story.request(name, action, targets, reason=f"Why {name}", params={"grace": "24h"}, branch=True)


def test_the_words_of_a_request_outlive_its_branch(story: Chronicle) -> None:
    done, other = (_taken_in(story, name, "rotateKey", "chat") for name in ("done", "other"))
    late = _taken_in(story, "late", "reload", "mail")
    tips = {name: story.ref(f"refs/heads/request/{name}") for name in ("done", "other", "late")}
    both = {**story.claim(done, "chat"), **story.claim(other, "mail")}
    story.record(both, "claimed", branches=[tips["done"], tips["other"]])
    story.record(story.claim(done, "chat", attempt=2), "taken over")
    story.record(story.result(done, "chat", "succeeded", "Said"), "ended")
    story.record(story.refusal(late, "Expired", "Expired", "too late"), "refused", branches=[tips["late"]])
    ledger, rows = _read(story)
    found = {row.request: row for row in [*rows, *ledger.unfinished()]}
    for name, row in found.items():
        assert (row.why, row.params, row.requested_by) == (f"Why {name}", {"grace": "24h"}, "alice")
    assert found.keys() == {"done", "other", "late"}
    exported = list(csv.DictReader(io.StringIO("".join(as_csv(rows)), newline="")))
    assert {line["params"] for line in exported} == {"grace=24h"}


def test_the_words_of_another_request_of_that_name_are_not_told(story: Chronicle) -> None:
    asked = _taken_in(story, "same", "rotateKey", "chat")
    story.request("same", "rotateKey", ("chat",), reason="Swapped")
    branch = story.ref("refs/heads/request/same")
    for branches, why in (([], ""), ([branch], "Why same")):
        story.record(story.claim(asked, "chat", attempt=1 + len(branches)), "claimed", branches=branches)
        assert [row.why for row in _read(story)[0].unfinished()] == [why]


def test_a_changed_key_is_told_once_until_it_is_over(story: Chronicle) -> None:
    def condition(since: str) -> dict[str, Any]:
        alarm = {"type": "KeyChangedOutsideCapsule", "reason": "Changed", "message": "apiKey", "since": since}
        return {"conditions": [alarm], "keyCreatedAt": "2026-11-01T00:00:00Z"}

    first = condition("2026-11-09T00:00:00Z")
    for more in (first, {**first, "version": "2"}, {}, condition("2026-11-10T00:00:00Z")):
        story.record({**story.status(CHAT, "HEALTHY", "Up", **more)}, "status")
        story.now += timedelta(minutes=5)
    ledger, rows = _read(story)
    assert [(row.reason, row.at.day) for row in rows] == [
        ("KeyChangedOutsideCapsule", 9),
        ("KeyChangedOutsideCapsule", 10),
    ]
    assert ledger.keys(NOW)[0].overdue


def test_changes_of_main_that_were_not_taken_over_are_told_once(story: Chronicle) -> None:
    story.commit({CHAT: _chat("test")}, "Relabel without approval", "mallory")
    story.record(story.status(CHAT, "HEALTHY", "Up"), "status")
    story.commit({"README.md": "x"}, "Else")
    story.record(story.status(CHAT, "OFFLINE", "AgentTimeout"), "status")
    story.commit({"policy.yaml": "broken"}, "Break the policy")
    story.record(story.status(CHAT, "OFFLINE", "AgentTimeout"), "status")
    story.commit({"README.md": "y"}, "Else")
    story.record(story.status(CHAT, "HEALTHY", "Up"), "status")
    _, rows = _read(story)
    assert [row.reason for row in rows] == ["ChangeNotAuthorised", "ChangeNotAuthorised", "MainSuspended"]
    assert rows[0].labels == {"env": "prod"}


def test_damage_is_a_row_and_never_a_gap(story: Chronicle) -> None:
    request = story.request("r", "rotateKey", ("chat",), reason="Quarterly")
    story.record({"records/2026/11/r/chat/claim-1.yaml": b"?"}, "claimed")
    story.record(story.result(request, "chat", "succeeded", "Done"), "ended")
    story.record({"status/chat.yaml": b"?", "status/odd": b"?"}, "status")
    story.record({"records/2026/11/r/chat/receipt.json": b"{}"}, "a receipt")
    story.commit({"requests/2026/11/r/request.yaml": "?"}, "Break it")
    story.record(story.claim(request, "chat"), "claimed")
    ledger, rows = _read(story)
    assert [row.reason for row in rows if row.kind == "exception"] == ["DamagedRecord"] * 4
    assert [row.why for row in ledger.unfinished()] == [""]


def test_desired_state_orders_are_rows() -> None:
    history, _ = approved()
    audit = Audit(history)
    ledger = Ledger(history, history.root, history.tip)
    rows: list[LedgerRow] = []
    for edits in (audit.state_order(), audit.state_result()):
        rows += ledger.step(audit.step(edits, by=key("reconciler-1"), subject="x"))
    assert [(row.kind, row.action, row.outcome) for row in rows] == [
        ("desired-state", "disable", "succeeded")
    ]
    lonely = audit.state_result(generation=1_795_435_800_000)
    assert list(ledger.step(audit.step(lonely, by=key("reconciler-1"), subject="x"))) == []
    audit.step(audit.state_order(generation=1_795_435_900_000), by=key("reconciler-1"), subject="x")
    assert list(ledger.step(audit.tip)) == []
    assert [(row.kind, row.outcome) for row in ledger.unfinished()] == [("desired-state", "running")]


def test_labels_are_followed_past_a_request_from_its_branch(story: Chronicle) -> None:
    request = story.request("away", "runHealthCheck", ("chat",), reason="Look", branch=True)
    story.record(story.claim(request, "chat"), "claimed", branches=[story.ref("refs/heads/request/away")])
    story.commit({"services/mail.yaml": _mail().replace("env: test", "env: prod")}, "Relabel")
    story.record(story.result(request, "chat", "succeeded", "Done"), "ended")
    ledger, _ = _read(story)
    assert ledger.state.tip == story.ref(MAIN)
    assert [change.path for change in ledger.state.pending] == ["services/mail.yaml"]


def test_selections() -> None:
    row = LedgerRow(NOW, "operation", "chat", "rotateKey", "succeeded", "Done", labels={"env": "prod"})
    whole = LedgerRow(NOW, "exception", "", "", "suspended", "MainSuspended")
    hour = timedelta(hours=1)
    for selection, taken in (
        (Selection(), [row, whole]),
        (Selection(since=NOW), [row, whole]),
        (Selection(since=NOW + hour), []),
        (Selection(until=NOW), []),
        (Selection(until=NOW + hour), [row, whole]),
        (Selection(selector={"env": "test"}), [whole]),
        (Selection(selector={"env": "prod"}), [row, whole]),
        (Selection(action="rotateKey"), [row]),
    ):
        assert list(chosen([row, whole], selection)) == taken


def test_a_key_due_beyond_the_calendar_is_not_overdue(story: Chronicle) -> None:
    story.record(story.status(CHAT, "HEALTHY", "Up", keyCreatedAt="9999-12-31T00:00:00Z"), "status")
    ledger, _ = _read(story)
    assert (ledger.keys(NOW)[0].due, ledger.keys(NOW)[0].overdue) == (None, False)


# ---- exports ----


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠x", " =1"]
)
def test_no_text_is_a_formula(text: str) -> None:
    row = LedgerRow(
        NOW, "operation", text, text, "x", text, text, text, text, text, (text,), labels={text: text}
    )
    cells = list(csv.reader(io.StringIO("".join(as_csv([row])), newline="")))[1]
    texts = [cell for cell in cells[1:] if text in cell]
    assert len(texts) == 9
    assert all(cell.startswith("'") for cell in texts)
    assert safe_cell("a=1") == "a=1"


def test_rows_survive_quotes_and_line_breaks() -> None:
    row = LedgerRow(NOW, "operation", "chat", "rotateKey", "succeeded", "Done", 'a "b", c\nd', attempt=1)
    cells = list(csv.DictReader(io.StringIO("".join(as_csv([row])), newline="")))
    assert list(cells[0]) == list(COLUMNS)
    assert (cells[0]["message"], cells[0]["claimedAt"], cells[0]["attempt"]) == ('a "b", c\nd', "", "1")
    value = json.loads("".join(as_json_lines([row])))
    assert (value["message"], value["claimedAt"], value["labels"]) == ('a "b", c\nd', None, {})


# ---- the report ----


def _report(proof: Proof, rows: tuple[LedgerRow, ...] = (), **selection: Any) -> Report:
    return Report(
        "Audit report: Town", "a" * 40, "b" * 40, "c" * 40, Selection(**selection), NOW, proof, rows, ()
    )


def test_the_top_says_whether_it_was_proved() -> None:
    for proof, told in (
        (Proof(True, "proved from root 6f1c: 1 operation"), "Proved from root 6f1c: 1 operation"),
        (Proof(False, "does not hold", "d" * 40), "NOT PROVED: does not hold"),
        (
            Proof(None, "--no-verify."),
            "NOT PROVED: nobody checked this history for this report. --no-verify.",
        ),
    ):
        report = _report(proof, since=NOW, selector={"env": "prod"}, action="rotateKey")
        assert as_markdown(report).split("\n")[2] == f"**{told}**"
        page = as_html(report)
        assert f'<p class="{"good" if proof.proved else "bad"}">{told}</p>' in page
        assert as_value(report)["proved"] is proof.proved


def test_nobodys_text_becomes_markup(story: Chronicle) -> None:
    _rotated(story, "unknown", "forge", message=HOSTILE.replace("\u202e", ""))
    ledger, rows = _read(story)
    rows.append(LedgerRow(NOW, "refusal", "", "", "expired", "Expired", HOSTILE, HOSTILE))
    report = Report(
        HOSTILE, "a", "b", "c", Selection(), NOW, Proof(True, HOSTILE), tuple(rows), ledger.keys(NOW)
    )
    page, text = as_html(report), as_markdown(report)
    assert "<script" not in page
    assert "\u202e" not in page + text
    assert "default-src 'none'" in page
    for line in text.split("\n"):
        plain = line.replace("\\\\", "").replace("\\|", "")
        assert "<script" not in plain.replace("\\<", "")
        assert "https://" not in plain
        assert "`code`" not in plain
        assert "[x](" not in plain
    tables = [line for line in text.split("\n") if line.startswith("|")]
    exceptions = [line for line in tables if "WeakEvidence" in line and HOSTILE[:3] not in line]
    assert {line.replace("\\|", "").count("|") for line in exceptions} <= {3, 11}


def test_a_report_tells_rotations_keys_and_is_the_same_each_time(story: Chronicle) -> None:
    _rotated(story)
    _rotated(story)
    ledger, rows = _read(story)
    report = Report("R", "a", "b", "c", Selection(), NOW, Proof(True, "x"), tuple(rows), ledger.keys(NOW))
    page = as_html(report)
    assert (
        '<time datetime="2026-11-10T12:02:00Z" title="2026-11-10T12:02:00Z">2026-11-10 12:02 UTC</time>'
        in page
    )
    assert '<div class="wide" role="region" tabindex="0" aria-label="Operations">' in page
    assert "td.long{white-space:normal" in page
    assert '<td class="long">' in page
    assert "<td>rotateKey</td>" in page
    assert "<td>not on record</td>" in page
    value = as_value(report)
    assert value["rotations"] == [{"service": "chat", "count": 2, "last": "2026-11-10T12:02:00Z"}]
    assert as_markdown(report) == as_markdown(report)
    assert "| chat | 2 | 2026-11-10T12:02:00Z |" in as_markdown(report)
    assert json.loads(json.dumps(value)) == value
    late = Report(
        "R", "a", "b", "c", Selection(), NOW, Proof(True, "x"), (), ledger.keys(NOW + timedelta(days=3))
    )
    assert "OVERDUE" in as_markdown(late)


def test_labels_that_nobody_knows_fit_every_selector_and_are_marked() -> None:
    known = LedgerRow(NOW, "operation", "chat", "rotateKey", "succeeded", "Done", labels={"env": "prod"})
    lost = LedgerRow(NOW, "operation", "lost", "rotateKey", "succeeded", "Done", labels=None)
    alarm = LedgerRow(NOW, "exception", "gone", "", "damaged", "DamagedRecord", labels=None)
    rows = [known, lost, alarm]
    assert list(chosen(rows, Selection(selector={"env": "test"}))) == [lost, alarm]
    cells = list(csv.DictReader(io.StringIO("".join(as_csv(rows)), newline="")))
    assert [cell["labels"] for cell in cells] == ["env=prod", "unknown", "unknown"]
    values = [json.loads(line)["labels"] for line in as_json_lines(rows)]
    assert values == [{"env": "prod"}, None, None]
    page = as_html(_report(Proof(True, "proved"), tuple(rows)))
    assert "<td>gone (labels unknown)</td>" in page
    assert '<td class="long">unknown</td>' in page
