"""Desired-state orders that nobody's document asks for, and results that no agent signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from capsule.documents.scalars import instant_text
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import HOUR, LONGEST_AHEAD
from tests.trust_history import (
    AGENT_KEY,
    GENERATION,
    NOON,
    Audit,
    Files,
    History,
    first_files,
    key,
    policy_text,
    request_text,
    service_text,
)

CHAT = "services/openai-chat.yaml"
OFF = "  enabled: false\n"
CORRECT = "  onDrift: correct\n  ignoreDrift: [version]\n"
PINS = '{model: "gpt-5.1", version: "1.8.2", retries: 1}'
SWITCHED = (("Capsule-Service", "openai-chat"), ("Capsule-Action", "disable"))
DONE = (*SWITCHED, ("Capsule-Outcome", "succeeded"), ("Capsule-Reason", "Done"))
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
FOLDER = f"records/desired/openai-chat/{GENERATION}"


def begun(extra: str = OFF, **service: Any) -> Audit:
    files: Files = first_files() | {CHAT: service_text(extra=extra, **service)}
    return Audit(History.begun(files))


def told(audit: Audit, action: str = "disable", **said: Any) -> str | None:
    """The verdict on an audit that adds such an order."""
    options = said.pop("options", {})
    files = audit.state_order(action=action, **said)
    audit.step(files, trailers=(SWITCHED[0], ("Capsule-Action", action)), **options)
    return audit.reason()


def ordered() -> Audit:
    audit = begun()
    assert told(audit) is None
    return audit


def executed() -> Audit:
    audit = ordered()
    audit.step(audit.state_result(), trailers=DONE)
    assert audit.reason() is None
    return audit


# ---- orders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"op_id": "0" * 64}, "StateOrderMismatch"),
        ({"document_digest": "sha256:" + "0" * 64}, "StateOrderMismatch"),
        ({"observed_revision": "0" * 40}, "StateOrderMismatch"),
        ({"reconciler": "reconciler-2"}, "StateOrderMismatch"),
        ({"params": {"reason": "because"}}, "StateOrderMismatch"),
        ({"name": "mailer"}, "InvalidRecord"),
        ({"ordered_at": AT + timedelta(days=2)}, "TimeMismatch"),
        ({"ordered_at": AT - timedelta(days=2)}, "TimeMismatch"),
        ({"generation": GENERATION + 25 * HOUR}, "GenerationFarAhead"),
        ({"generation": 2**53 - 1}, "GenerationFarAhead"),
    ],
)
def test_order_that_says_something_else(said: dict[str, Any], reason: str) -> None:
    assert told(begun(), **said) == reason


def test_order_in_the_place_of_another_service_or_generation() -> None:
    for place in (f"records/desired/mailer/{GENERATION}", f"records/desired/openai-chat/{GENERATION + 1}"):
        audit = begun()
        (data,) = audit.state_order().values()
        name = b"mailer" if "mailer" in place else b"openai-chat"
        data = (data or b"").replace(b"\n  name: openai-chat", b"\n  name: " + name)
        audit.step({f"{place}/order.yaml": data}, trailers=SWITCHED)
        assert audit.reason() == "InvalidRecord"


def test_order_that_is_no_document() -> None:
    audit = begun()
    audit.step({f"{FOLDER}/order.yaml": b"kind: StateOrder\n"}, trailers=SWITCHED)
    assert audit.reason() == "InvalidRecord"


@pytest.mark.parametrize(("extra", "action"), [("", "disable"), (OFF, "enable"), ("", "configure")])
def test_order_that_the_document_does_not_ask_for(extra: str, action: str) -> None:
    params = {"model": "gpt-5.1"} if action == "configure" else {}
    audit = begun(extra)
    assert told(audit, action, params=params) == "StateOrderNotJustified"
    bad = audit.verdict().first_bad
    assert bad is not None
    said = {"disable": "the document says enabled", "enable": "the document says disabled"}
    assert said.get(action, "does not ask for corrections") in bad.message


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"model": "gpt-6"},
        {"model": "gpt-5.1", "upstream": "https://evil.example"},
        {"version": "1.8.2"},
        {"retries": True},
        {"retries": "1"},
    ],
)
def test_correction_to_something_else_than_the_pins(params: Mapping[str, Any]) -> None:
    pinned = service_text(extra=CORRECT).replace(b'{model: "gpt-5.1"}', PINS.encode())
    for given, reason in ((params, "StateOrderNotJustified"), ({"model": "gpt-5.1", "retries": 1}, None)):
        audit = Audit(History.begun(first_files() | {CHAT: pinned}))
        assert told(audit, "configure", params=given) == reason


def test_order_to_a_service_that_is_not_there_or_only_observed() -> None:
    audit = begun()
    digest = audit.document_digest()
    files = audit.state_order("ghost", document_digest=digest)
    audit.step(files, trailers=[("Capsule-Service", "ghost"), SWITCHED[1]])
    assert audit.reason() == "StateOrderNotJustified"
    assert told(begun(agent_key=None)) == "StateOrderNotJustified"


def test_order_by_a_document_that_is_not_in_force() -> None:
    """Merged without approval: what is in force still says that the service is enabled."""
    audit = begun("")
    audit.history.step({CHAT: service_text(extra=OFF)}, by="alice")
    assert told(audit) == "StateOrderMismatch"


def test_order_while_main_is_suspended() -> None:
    audit = begun()
    audit.history.step({"policy.yaml": policy_text(2)}, by="mallory")
    assert told(audit) == "StateOrderWhileSuspended"


def test_order_by_a_machine_that_this_commit_removes() -> None:
    audit = begun()
    gone = policy_text(2).replace(b"reconciler-1: {machine: true", b"reconciler-9: {machine: true")
    gone = gone.replace(key("reconciler-1").public.text.encode(), key("reconciler-9").public.text.encode())
    words = audit.history.change_word("carol", {"policy.yaml": (policy_text(), gone)})
    audit.history.step({"policy.yaml": gone, **words}, by="bob")
    assert told(audit) == "StateOrderMismatch"


def test_generation_used_again_or_lower() -> None:
    for generation in (GENERATION - 1, 1):
        audit = executed()
        assert told(audit, generation=generation) == "GenerationNotRising"
    audit = executed()
    audit.step({f"{FOLDER}/order.yaml": audit.machine[f"{FOLDER}/order.yaml"] + b"\n"}, trailers=SWITCHED)
    assert audit.reason() == "RecordChanged"


def test_generation_that_would_make_agents_deaf_to_all_later_orders() -> None:
    """A thief of a reconciler's key tells an agent the highest number there is: none would be above."""
    assert told(begun(), generation=2**53 - 1) == "GenerationFarAhead"
    assert told(begun(), generation=GENERATION + LONGEST_AHEAD + 1) == "GenerationFarAhead"
    assert told(begun(), generation=GENERATION + LONGEST_AHEAD) is None


def test_generation_of_a_commit_that_a_thief_dated_ahead_binds_nobody() -> None:
    audit = begun()
    years = 70 * 365 * 24 * HOUR
    ahead = {"at": NOON + years // 1000}
    at = AT + timedelta(milliseconds=years)
    assert told(audit, generation=GENERATION + years, ordered_at=at, options=ahead) is None
    assert told(audit, generation=GENERATION) is None
    assert told(audit, generation=GENERATION + 1) is None
    assert told(audit, generation=GENERATION + 1 - HOUR) == "GenerationNotRising"


def test_generation_below_one_that_was_dated_ahead_once_that_time_has_come() -> None:
    for early, verdict in ((1, None), (0, "GenerationNotRising")):
        audit = begun()
        ahead = {"at": NOON + 2 * 24 * 3600}
        at = AT + timedelta(days=2)
        assert (
            told(audit, generation=GENERATION + LONGEST_AHEAD + early, ordered_at=at, options=ahead) is None
        )
        assert told(audit, generation=GENERATION) == verdict


def test_generation_in_seconds_of_an_earlier_version_is_a_lower_one() -> None:
    audit = begun()
    assert told(audit, generation=NOON) is None
    assert told(audit, generation=GENERATION) is None
    assert told(audit, generation=NOON + 1) == "GenerationNotRising"


def test_two_orders_to_a_service_in_one_commit() -> None:
    audit = begun()
    files = audit.state_order() | audit.state_order(generation=GENERATION + 1)
    audit.step(files, subject="disable: 2 ordered", trailers=SWITCHED)
    assert audit.reason() == "GenerationNotRising"


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [("succeeded", "StateOrderAgainstRequest"), ("unknown", "StateOrderAgainstRequest"), ("failed", None)],
)
def test_service_enabled_against_the_request_of_a_person(outcome: str, verdict: str | None) -> None:
    """The emergency switch: a person disabled it at 3 am, and the document still says enabled."""
    files = first_files()
    rule = b"  rules:\n    - {match: {action: disable}, mayRequest: [operators], approvals: []}\n"
    files["policy.yaml"] = files["policy.yaml"].replace(b"  rules:\n", rule)
    audit = Audit(History.begun(files))
    raw = request_text(action="disable", params="{}")
    audit.history.step(audit.history.request(raw), merge=True)
    trailers = (("Capsule-Request", "r1"), *SWITCHED)
    audit.step(audit.claim(raw, action="disable", approved_by=()), trailers=trailers)
    receipt = audit.receipt(raw, action="disable", outcome=outcome)
    audit.step(audit.result(raw, action="disable", outcome=outcome, receipt=receipt), trailers=trailers)
    assert told(audit, "enable") == verdict


@pytest.mark.parametrize(
    ("recorded", "done", "verdict"),
    [
        (timedelta(minutes=-1), timedelta(minutes=-1), "StateOrderAgainstRequest"),
        (timedelta(hours=20), timedelta(minutes=-1), "StateOrderAgainstRequest"),
        (timedelta(minutes=-1), timedelta(hours=20), "StateOrderAgainstRequest"),
        (timedelta(hours=20), timedelta(hours=20), None),
    ],
)
def test_service_enabled_against_a_person_by_records_of_another_hour(
    recorded: timedelta, done: timedelta, verdict: str | None
) -> None:
    """A document's `disable` settles that of a person only if reconciler and agent say that it came later:
    whoever has a reconciler's key dates what it records, and not what the agent signed."""
    files = first_files() | {CHAT: service_text(env="test", extra=OFF)}
    rule = b"  rules:\n    - {match: {action: disable}, mayRequest: [operators], approvals: []}\n"
    files["policy.yaml"] = files["policy.yaml"].replace(b"  rules:\n", rule)
    audit = Audit(History.begun(files))
    at = AT + timedelta(minutes=1)
    assert told(audit) is None
    answer = {"finished_at": instant_text(at + done)}
    ended = audit.state_result(recorded_at=at + recorded, answer=answer, finished_at=at + done)
    audit.step(ended, trailers=DONE)
    raw = request_text(action="disable", params="{}")
    audit.history.step(audit.history.request(raw), merge=True)
    audit.history.step({CHAT: service_text(env="test")}, by="alice")
    trailers = (("Capsule-Request", "r1"), *SWITCHED)
    audit.step(audit.claim(raw, action="disable", approved_by=()), trailers=trailers)
    receipt = audit.receipt(raw, action="disable", finished_at=instant_text(at))
    result = audit.result(raw, action="disable", receipt=receipt, finished_at=at, recorded_at=at)
    audit.step(result, trailers=trailers)
    assert audit.reason() is None
    assert told(audit, "enable", generation=GENERATION + 1) == verdict


# ---- results ------------------------------------------------------------------------------------


def test_result_without_an_order_before_it() -> None:
    audit = begun()
    audit.step(audit.state_result(), trailers=DONE)
    assert audit.reason() == "ResultWithoutOrder"
    audit = begun()
    audit.step(audit.state_order() | audit.state_result(), trailers=DONE)
    assert audit.reason() == "ResultWithoutOrder"
    audit = ordered()
    audit.step(audit.state_result(generation=GENERATION + 1), trailers=DONE)
    assert audit.reason() == "ResultWithoutOrder"


@pytest.mark.parametrize("name", ["order.yaml", "result.yaml", "receipt.json", "receipt.json.sig"])
def test_record_rewritten_or_deleted(name: str) -> None:
    audit = executed()
    audit.step({f"{FOLDER}/{name}": b"~\n"}, trailers=SWITCHED)
    assert audit.reason() == "RecordChanged"
    audit = executed()
    audit.step({f"{FOLDER}/{name}": None}, trailers=SWITCHED)
    assert audit.reason() == "RecordDeleted"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"op_id": "0" * 64}, "ResultMismatch"),
        ({"action": "enable"}, "ResultMismatch"),
        ({"name": "mailer"}, "ResultMismatch"),
        ({"outcome": "failed"}, "ResultMismatch"),
        ({"reason": "Else"}, "ResultMismatch"),
        ({"message": "all is well"}, "ResultMismatch"),
        ({"outputs": {"enabled": 0}}, "ResultMismatch"),
        ({"started_at": AT}, "ResultMismatch"),
        ({"finished_at": AT}, "ResultMismatch"),
        ({"recorded_at": AT + timedelta(days=2)}, "TimeMismatch"),
        ({"receipt_digest": "sha256:" + "0" * 64}, "ReceiptMismatch"),
        ({"answer": {"op_id": "0" * 64}}, "ReceiptMismatch"),
        ({"answer": {"service": "mailer"}}, "ReceiptMismatch"),
        ({"answer": {"repository": "0" * 40}}, "ReceiptMismatch"),
        ({"answer": {"action": "enable"}}, "ResultMismatch"),
        ({"signer": key("stranger")}, "ReceiptMismatch"),
        ({"namespace": sshsig.REPORT}, "ReceiptMismatch"),
    ],
)
def test_result_that_the_agent_did_not_give(said: dict[str, Any], reason: str) -> None:
    audit = ordered()
    audit.step(audit.state_result(**said), trailers=SWITCHED)
    assert audit.reason() == reason


WITHDRAWN = {"outcome": "refused", "reason": "Tombstoned", "action": "", "outputs": {}}
SUPERSEDED = {"outcome": "cancelled", "reason": "Superseded"}


@pytest.mark.parametrize(
    ("answer", "said", "verdict"),
    [
        ({}, {}, None),
        ({"action": "disable"}, {"reason": "Tombstoned"}, None),
        ({"action": "disable"}, {}, "ResultMismatch"),
        ({"action": "enable"}, {}, "ResultMismatch"),
        ({"action": "enable"}, {"reason": "Tombstoned"}, "ResultMismatch"),
        ({}, {"reason": "Tombstoned"}, "ResultMismatch"),
        ({}, {"outcome": "succeeded"}, "ResultMismatch"),
        ({}, {"message": "all is well"}, "ResultMismatch"),
        ({}, {"finished_at": AT}, "ResultMismatch"),
        ({"reason": "Busy"}, {}, "ResultMismatch"),
        ({"reason": "Busy"}, {"outcome": "refused", "reason": "Busy"}, "ResultMismatch"),
        ({"outcome": "unknown", "reason": "NeverSeen"}, {"reason": "NeverSeen"}, "ResultMismatch"),
        ({"action": "disable", "reason": "Busy"}, {"outcome": "refused"}, "ResultMismatch"),
    ],
)
def test_order_called_superseded_that_the_agent_did_not_bury(
    answer: dict[str, Any], said: dict[str, Any], verdict: str | None
) -> None:
    """Only the agent's own word that it never began, and never will, ends an order that was not executed."""
    audit = ordered()
    files = audit.state_result(answer=WITHDRAWN | answer, **(SUPERSEDED | said))
    reason = str((SUPERSEDED | said)["reason"])
    outcome = str((SUPERSEDED | said)["outcome"])
    audit.step(files, trailers=(*SWITCHED, ("Capsule-Outcome", outcome), ("Capsule-Reason", reason)))
    assert audit.reason() == verdict


def test_superseded_order_switches_nothing() -> None:
    audit = begun()
    assert told(audit) is None
    audit.step(audit.state_result(answer=WITHDRAWN, **SUPERSEDED), trailers=SWITCHED)
    verdict = audit.verdict()
    assert (verdict.first_bad, verdict.state_orders) == (None, 1)
    audit.step(audit.state_result(answer=WITHDRAWN, **SUPERSEDED) | {f"{FOLDER}/x": b""}, trailers=SWITCHED)
    assert audit.reason() == "UnexpectedRecord"


@pytest.mark.parametrize("missing", ["receipt.json", "receipt.json.sig"])
def test_result_without_its_receipt(missing: str) -> None:
    audit = ordered()
    files = audit.state_result()
    del files[f"{FOLDER}/{missing}"]
    audit.step(files, trailers=DONE)
    assert audit.reason() == "ReceiptMismatch"


@pytest.mark.parametrize(
    "path",
    [
        f"{FOLDER}/notes.txt",
        f"{FOLDER}/receipt.json",
        f"{FOLDER}/claim-1.yaml",
        "records/desired/openai-chat/0/order.yaml",
        "records/desired/openai-chat/01/order.yaml",
        "records/desired/openai-chat/order.yaml",
        "records/desired/Openai/1/order.yaml",
        "records/desired/readme",
        "records/desired",
    ],
)
def test_file_that_is_no_record(path: str) -> None:
    audit = begun()
    audit.step({path: b"{}"}, trailers=SWITCHED, subject="disable openai-chat: ordered")
    assert audit.reason() == "UnexpectedRecord"


def test_receipt_alone_in_a_later_commit() -> None:
    audit = executed()
    other = audit.state_result(generation=GENERATION + 1)
    path = f"records/desired/openai-chat/{GENERATION + 1}/receipt.json"
    audit.step({path: other[path]}, trailers=DONE)
    assert audit.reason() == "UnexpectedRecord"


# ---- the story ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "trailers", "reason"),
    [
        ("disable openai-chat: ordered", SWITCHED, None),
        ("enable openai-chat: ordered", SWITCHED, "SubjectMismatch"),
        ("disable openai-chat: succeeded", SWITCHED, "SubjectMismatch"),
        ("disable: 2 ordered", SWITCHED, "SubjectMismatch"),
        ("status openai-chat: HEALTHY", SWITCHED, "SubjectMismatch"),
        ("disable openai-chat: ordered", SWITCHED[1:], "TrailerMismatch"),
        ("disable openai-chat: ordered", (*SWITCHED, ("Capsule-Service", "mailer")), "TrailerMismatch"),
        ("disable openai-chat: ordered", (*SWITCHED, ("Capsule-Request", "r1")), "TrailerMismatch"),
        ("disable openai-chat: ordered", (*SWITCHED, ("Capsule-Outcome", "succeeded")), "TrailerMismatch"),
        ("disable openai-chat: ordered", (*SWITCHED, ("Requested-by", "alice")), "TrailerMismatch"),
        ("disable openai-chat: ordered", (*SWITCHED, ("Approved-by", "bob")), "TrailerMismatch"),
        ("disable openai-chat: ordered", (SWITCHED[0], ("Capsule-Action", "enable")), "TrailerMismatch"),
    ],
)
def test_story_that_the_order_does_not_tell(
    subject: str, trailers: tuple[tuple[str, str], ...], reason: str | None
) -> None:
    audit = begun()
    audit.step(audit.state_order(), subject=subject, trailers=trailers)
    assert audit.reason() == reason


def test_story_of_an_order_by_somebody_else() -> None:
    audit = begun()
    audit.step(audit.state_order(), trailers=SWITCHED, name="alice", email="alice@example.com")
    assert audit.reason() == "AuthorMismatch"
    assert AGENT_KEY.public.text in audit.history.files[CHAT].decode()
