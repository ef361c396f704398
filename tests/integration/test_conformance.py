"""The conformance suite: our own agent keeps the contract, and each check finds an agent that does not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capsule_agent import Agent, approvals, calls, cli, execute, signers_list, verify
from capsule_agent.calls import Answer, Calls
from capsule_agent.conformance import CHECKS, run_checks
from capsule_agent.conformance.caller import BadAddress, Caller, NoAnswer
from capsule_agent.conformance.keys import BadFolder, KeyRing, make_keys, read_keys
from capsule_agent.conformance.session import Plan, Session
from capsule_agent.journal import Journal
from capsule_agent.protocol import messages, sshsig, strict_json
from capsule_agent.protocol.messages import decode, encode
from tests.agent_fixtures import KeyStore, key

SERVICE = "conformance"
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return make_keys(tmp_path_factory.mktemp("conformance") / "keys")


@pytest.fixture
def agent(tmp_path: Path, ring: KeyRing) -> Iterator[Agent]:
    made = Agent(SERVICE, version="1", journal=tmp_path / "agent.db", owners=ring.owners, key=key("agent"))
    made.rotation(KeyStore().rotation(), approvals=2)
    yield made
    made.close()


def failures(address: str, ring: KeyRing, *only: str) -> dict[str, str]:
    session = Session(Caller(address, 20.0), ring, Plan(SERVICE), key("agent").public)
    return {found.check: found.problem for found in run_checks(session, only) if not found.passed}


def test_our_agent_conforms_over_http(agent: Agent, ring: KeyRing) -> None:
    with agent.serve() as served:
        assert failures(served.address, ring) == {}
        assert failures(served.address, ring) == {}, "a second run with the same keys and journal"


def test_our_agent_conforms_over_a_unix_socket(agent: Agent, ring: KeyRing, tmp_path: Path) -> None:
    with agent.serve_unix(tmp_path / "a.sock") as served:
        assert failures(served.address, ring) == {}


# ---- agents that are broken in one way --------------------------------------------------------------

Break = Callable[[Patch, Agent], None]


def skips(*names: str) -> Break:
    """An agent that leaves out the checks of these names."""

    def apply(patch: Patch, agent: Agent) -> None:
        for name in names:
            (room,) = [each for each in (approvals, signers_list, verify) if hasattr(each, name)]
            patch.setattr(room, name, lambda *_args, **_named: None)

    return apply


def answering(change: Callable[[str, bytes, Answer], Answer]) -> Break:
    """An agent whose answer to a call is changed on its way out."""

    def apply(patch: Patch, agent: Agent) -> None:
        genuine = Calls.answer

        def answer(self: Calls, path: str, body: bytes) -> Answer:
            return change(path.rpartition("/")[2], body, genuine(self, path, body))

        patch.setattr(Calls, "answer", answer)

    return apply


def resigned(kind: Any, namespace: str, **changes: Callable[[Any], Any]) -> Break:
    """An agent that says something else of itself, signed as it should be."""

    def change(name: str, body: bytes, given: Answer) -> Answer:
        if given.status != 200 or (kind is messages.Report) != (name == "report"):
            return given
        said = decode(kind, json.loads(given.body)["payload"].encode())
        said = replace(said, **{field: of(said) for field, of in changes.items()})
        payload = said.to_json()
        sealed = messages.Envelope(payload.decode(), key("agent").sign(payload, namespace))
        return calls.ok(json.dumps(encode(sealed)))

    return answering(change)


def reporting(**changes: Callable[[Any], Any]) -> Break:
    return resigned(messages.Report, sshsig.REPORT, **changes)


def receipting(**changes: Callable[[Any], Any]) -> Break:
    return resigned(messages.Receipt, sshsig.RECEIPT, **changes)


def lax_fields(patch: Patch, agent: Agent) -> None:
    """Unknown fields are ignored."""
    genuine = messages._read_message

    def read(kind: Any, value: Any, path: str) -> Any:
        known = messages._expected(kind)
        return genuine(
            kind,
            {name: part for name, part in value.items() if name in known}
            if isinstance(value, dict)
            else value,
            path,
        )

    patch.setattr(messages, "_read_message", read)


def lax_json(patch: Patch, agent: Agent) -> None:
    """Whatever Python's own reader takes."""
    patch.setattr(strict_json, "parse", lambda data, *, max_bytes=0: json.loads(data))


def crashing_on_depth(name: str, body: bytes, given: Answer) -> Answer:
    deep = body.count(b"[") > 10_000
    return calls.problem(500, "InternalError", "recursion") if deep else given


def any_params(patch: Patch, agent: Agent) -> None:
    patch.setattr(execute, "check_params", lambda fields, given: {"grace": "0s"})


def evidence_of_the_first(patch: Patch, agent: Agent) -> None:
    """Approvals are looked at, but one is always enough."""
    genuine = approvals.check_approvals
    patch.setattr(
        approvals,
        "check_approvals",
        lambda order, evidence, signers, needed, now: genuine(order, evidence, signers, 1, now),
    )


def approvals_unbounded(patch: Patch, agent: Agent) -> None:
    patch.setattr(approvals, "MAX_APPROVALS", 10_000)


def no_signature_of(namespace: str) -> Break:
    """The namespace of a signature is not looked at."""

    def apply(patch: Patch, agent: Agent) -> None:
        genuine = sshsig.verify

        def check(message: bytes, signature: str, wanted: str, keys: Any) -> Any:
            listed = list(keys)
            for each in (
                "file",
                sshsig.ORDER,
                sshsig.APPROVAL,
                sshsig.REQUEST,
                sshsig.SIGNERS,
                sshsig.HEARTBEAT,
            ):
                with contextlib.suppress(sshsig.BadSignature):
                    return genuine(message, signature, each if wanted == namespace else wanted, listed)
            return genuine(message, signature, wanted, listed)

        patch.setattr(sshsig, "verify", check)

    return apply


def any_signature_of(namespace: str) -> Break:
    """Signatures in this namespace are not verified at all."""

    def apply(patch: Patch, agent: Agent) -> None:
        genuine = sshsig.verify

        def check(message: bytes, signature: str, wanted: str, keys: Any) -> Any:
            listed = list(keys)
            return listed[0] if wanted == namespace else genuine(message, signature, wanted, listed)

        patch.setattr(sshsig, "verify", check)

    return apply


def reading_the_order_anew(name: str, body: bytes, given: Answer) -> Answer:
    """Signs every answer anew, so that a replay shows another receipt."""
    if given.status != 200 or name == "report":
        return given
    said = decode(messages.Receipt, json.loads(given.body)["payload"].encode())
    payload = replace(said, message=f"{said.message} answered {len(SEEN)}").to_json()
    SEEN.append(name)
    sealed = messages.Envelope(payload.decode(), key("agent").sign(payload, sshsig.RECEIPT))
    return calls.ok(json.dumps(encode(sealed)))


SEEN: list[str] = []


def forgetful(patch: Patch, agent: Agent) -> None:
    """Refusals are not stored."""
    patch.setattr(Journal, "refuse", lambda self, order, sign, now: None)


def spends_nothing(patch: Patch, agent: Agent) -> None:
    patch.setattr("capsule_agent.journal._check_unspent", lambda db, order: None)


def fences_nothing(patch: Patch, agent: Agent) -> None:
    patch.setattr("capsule_agent.journal.check_attempt", lambda known, attempt: None)


def tombstones_nothing(patch: Patch, agent: Agent) -> None:
    genuine = Journal.fence
    patch.setattr(
        Journal,
        "fence",
        lambda self, op_id, attempt, tombstone, now: genuine(self, op_id, attempt, False, now),
    )


def queries_expire(patch: Patch, agent: Agent) -> None:
    patch.setattr(verify, "check_attempt_number", lambda call: verify.check_not_after(call, agent._clock()))


def remembers_no_signers(patch: Patch, agent: Agent) -> None:
    patch.setattr(Journal, "accept_signers", lambda self, text, serial, repository: None)


def any_generation(patch: Patch, agent: Agent) -> None:
    patch.setattr("capsule_agent.journal._raise_generation", lambda db, subject, generation: None)


def off_is_off(name: str, body: bytes, given: Answer) -> Answer:
    """Once disabled, everything is refused but being enabled."""
    off = b'\\"action\\": \\"disable' in body
    if name == "order" and (off or b'\\"action\\": \\"enable' in body):
        SWITCH[:] = [off]
    return calls.disabled("off") if SWITCH == [True] and not off and name == "order" else given


SWITCH: list[bool] = []


def signers_any_order(patch: Patch, agent: Agent) -> None:
    """Whoever asks may rise the attempts: the list says nothing of orders."""
    patch.setattr(verify, "check_sender", lambda envelope, call, signers: None)


def no_content_type(patch: Patch, agent: Agent) -> None:
    genuine = calls.check_head
    patch.setattr(
        "capsule_agent.server.check_head",
        lambda method, path, kind, length: genuine(method, path, "", length),
    )


def any_method(patch: Patch, agent: Agent) -> None:
    genuine = calls.check_head
    patch.setattr(
        "capsule_agent.server.check_head",
        lambda method, path, kind, length: genuine("POST", path, kind, length),
    )


def any_size(patch: Patch, agent: Agent) -> None:
    genuine = calls.check_head
    patch.setattr(
        "capsule_agent.server.check_head",
        lambda method, path, kind, length: genuine(
            method, path, kind, "0" if len(length or "") > 6 else length
        ),
    )


def plain_order(patch: Patch, agent: Agent) -> None:
    """Approvals are never asked for."""
    patch.setattr(approvals, "check_approvals", lambda *_: ("bob",))


def other_times(patch: Patch, agent: Agent) -> None:
    """Any text that Python can read is a time."""
    from datetime import UTC, datetime

    def read(text: str) -> datetime:
        found = datetime.fromisoformat(text.replace("-13-", "-12-"))
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    patch.setattr(verify, "instant", read)


def desired_do_anything(patch: Patch, agent: Agent) -> None:
    patch.setattr(execute, "DESIRED_STATE", {**execute.DESIRED_STATE, "rotateKey": "enabled"})


def needs_nothing_signed(name: str, body: bytes, given: Answer) -> Answer:
    return calls.problem(403, "ReconcilerUnknown", "never") if b"runHealthCheck" in body else given


def refuses_what_is_approved(name: str, body: bytes, given: Answer) -> Answer:
    return calls.problem(403, "OrderForged", "never") if b"rotateKey" in body and name == "order" else given


V = "vector-"
BROKEN: list[tuple[str, Break, str]] = [
    ("nonce is not repeated", reporting(nonce=lambda _: "conformance-1"), "report-is-signed-and-fresh"),
    ("another service", reporting(service=lambda _: "other"), "report-is-signed-and-fresh"),
    ("signed as a receipt", resigned(messages.Report, sshsig.RECEIPT), "report-is-signed-and-fresh"),
    ("offers nothing", reporting(actions=lambda _: ()), "report-names-what-it-offers"),
    ("unknown fields in a report call", lax_fields, "report-call-is-strict"),
    ("lax JSON", lax_json, "hostile-json-is-refused"),
    ("falls over depth", answering(crashing_on_depth), "deep-and-long-json-is-refused"),
    ("unknown fields in an envelope", lax_fields, "envelope-is-strict"),
    ("lax JSON in a payload", lax_json, "signed-payload-is-strict"),
    ("guesses numbers", any_params, "numbers-are-never-guessed"),
    ("drops unknown parameters", any_params, "unknown-parameters-are-refused"),
    ("reads any time", other_times, "half-times-are-refused"),
    ("any method", any_method, "http-other-methods-and-paths"),
    ("any content type", no_content_type, "http-only-json"),
    ("any size", any_size, "http-oversize-is-refused"),
    ("refuses health checks", answering(needs_nothing_signed), "health-check-runs"),
    ("receipt of another action", receipting(action=lambda _: "rotateKey"), "health-check-runs"),
    ("receipt of another operation", receipting(op_id=lambda _: "0" * 64), "health-check-runs"),
    ("refuses approved orders", answering(refuses_what_is_approved), "approved-order-runs"),
    ("one approval is enough", evidence_of_the_first, "too-few-approvals"),
    ("counts any number", approvals_unbounded, "too-many-approvals"),
    (
        "takes what was signed for another request",
        skips("_check_same_request", "_check_same_bytes"),
        "approvals-of-another-request",
    ),
    (
        "answers anew",
        answering(reading_the_order_anew),
        "replay-gives-the-stored-receipt",
    ),
    ("answers each caller anew", answering(reading_the_order_anew), "two-at-once-run-once"),
    ("forgets refusals", forgetful, "refused-stays-refused"),
    ("a request runs twice", spends_nothing, "edited-request-never-runs-again"),
    ("no fencing", fences_nothing, "outdated-attempt-is-refused"),
    ("late queries are refused", queries_expire, "query-of-the-unknown"),
    ("anybody asks", signers_any_order, "query-is-authenticated"),
    ("no tombstones", tombstones_nothing, "tombstone-prevents"),
    ("remembers no signers", remembers_no_signers, "stored-signers-serve"),
    ("old signers", skips("_check_serial"), "older-signers-are-refused"),
    ("a serial twice", skips("_check_serial"), "reused-serial-is-refused"),
    ("any repository's signers", skips("_check_signers_repository"), "signers-of-another-repository"),
    ("leavers count", remembers_no_signers, "older-signers-are-refused"),
    ("who approves need not be listed", plain_order, "leaver-no-longer-counts"),
    ("nobody may approve, all do", plain_order, "approval-needs-a-list-that-lists"),
    ("reads any list", lax_fields, "unreadable-signers-are-refused"),
    ("namespace of signers", no_signature_of(sshsig.SIGNERS), "signers-in-another-namespace"),
    ("namespace of orders", no_signature_of(sshsig.ORDER), "order-in-another-namespace"),
    ("unlisted reconciler", signers_any_order, "removed-reconciler-is-refused"),
    ("signature of other bytes", any_signature_of(sshsig.ORDER), "signed-bytes-are-what-counts"),
    ("any generation", any_generation, "generations-only-rise"),
    ("takes what is far ahead", skips("check_generation"), "generation-far-ahead-is-refused"),
    ("refuses orders while disabled", answering(off_is_off), "disabled-agent-takes-orders"),
    ("the journal stands", reporting(journal=lambda _: messages.JournalMark("j", 1)), "journal-rises"),
    ("refuses what is approved", answering(refuses_what_is_approved), V + "approved"),
    ("asks for no approval", plain_order, V + "no-approval"),
    ("one of two", evidence_of_the_first, V + "one-approval-of-two"),
    ("counts signatures", skips("_check_counted_once"), V + "one-person-approves-twice"),
    ("unverified approvals", any_signature_of(sshsig.APPROVAL), V + "approval-signed-by-another"),
    ("namespace of approvals", no_signature_of(sshsig.APPROVAL), V + "approval-in-another-namespace"),
    ("namespace of approvals", no_signature_of(sshsig.APPROVAL), V + "approval-signed-as-a-request"),
    ("anybody approves", skips("_check_signed_by"), V + "approver-may-only-request"),
    ("anybody approves", skips("_check_signed_by"), V + "approver-is-unknown"),
    ("anybody approves", skips("_check_signed_by"), V + "reconciler-approves"),
    ("own approvals", skips("_check_not_own"), V + "own-approval"),
    ("rejections", skips("_check_decision"), V + "rejected"),
    ("expired", skips("_check_unexpired"), V + "approval-expired"),
    ("other repository", skips("_check_same_repository"), V + "approval-of-another-repository"),
    ("other request", skips("_check_same_request"), V + "approval-of-another-request"),
    ("other text", skips("_check_same_bytes"), V + "approval-of-another-text"),
    ("other action", skips("_check_same_action"), V + "approval-of-another-action"),
    ("other parameters", skips("_check_same_params"), V + "approval-of-other-parameters"),
    ("other parameters", skips("_check_same_params"), V + "order-changes-the-parameters"),
    ("other service", skips("_check_target"), V + "approval-of-another-service"),
    ("unknown fields", lax_fields, V + "approval-with-an-unknown-field"),
    ("other request bytes", skips("check_request_bytes"), V + "request-changed-after-approval"),
    ("unverified request", any_signature_of(sshsig.REQUEST), V + "request-signed-by-another"),
    ("anybody requests", skips("_check_requester"), V + "requester-may-only-approve"),
    ("late orders", skips("check_not_after"), V + "order-too-late"),
    ("orders of another year", skips("check_generation"), V + "generation-far-ahead"),
    ("made-up ids", skips("check_operation_id"), V + "made-up-operation-id"),
    ("attempt zero", skips("check_attempt_number"), V + "attempt-zero"),
    ("unknown actions", answering(lambda name, body, given: given), ""),
    ("other service's order", skips("check_service"), V + "order-for-another-service"),
    ("other repository's order", skips("check_repository"), V + "order-of-another-repository"),
    ("no request needed", desired_do_anything, V + "order-leaves-out-the-request"),
    ("unverified orders", any_signature_of(sshsig.ORDER), V + "order-signed-by-another"),
    ("anybody orders", signers_any_order, V + "sender-is-not-a-reconciler"),
    ("anybody lists", any_signature_of(sshsig.SIGNERS), V + "signers-not-signed-by-an-owner"),
    ("shared keys", skips("_check_keys_distinct"), V + "one-key-for-two-people"),
    ("mixed roles", skips("_check_roles_apart"), V + "who-orders-may-approve"),
]


def does_the_unknown(patch: Patch, agent: Agent) -> None:
    """An unknown action is taken for a health check."""
    agent._actions["noSuchAction"] = replace(
        agent._actions["runHealthCheck"], params=agent._actions["rotateKey"].params, run=lambda grace: None
    )


BROKEN = [
    (what, does_the_unknown, V + "unknown-action") if not name else (what, how, name)
    for what, how, name in BROKEN
]


@pytest.mark.parametrize(
    ("how", "check"), [pytest.param(how, name, id=f"{name}: {what}") for what, how, name in BROKEN]
)
def test_a_broken_agent_fails_its_check(
    agent: Agent, ring: KeyRing, monkeypatch: Patch, how: Break, check: str
) -> None:
    SEEN.clear()
    SWITCH.clear()
    with agent.serve() as served, monkeypatch.context() as patch:
        signers_list._owner_signed.cache_clear()
        how(patch, agent)
        found = failures(served.address, ring, check)
    signers_list._owner_signed.cache_clear()
    assert list(found) == [check]


def test_every_check_is_proved_able_to_fail() -> None:
    assert {name for _, _, name in BROKEN} == {check.name for check in CHECKS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.meaning for check in CHECKS)


# ---- the command ------------------------------------------------------------------------------------


def test_the_command_makes_keys_tells_how_to_start_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    folder = tmp_path / "keys"
    assert cli.main(["conformance", "--keys", str(folder)]) == 0
    told = capsys.readouterr().out
    made = read_keys(folder)
    assert str(folder / "owners") in told
    assert made.repository in told
    assert (folder / "keys" / "owner").stat().st_mode & 0o077 == 0
    agent = Agent(SERVICE, version="1", journal=tmp_path / "agent.db", owners=made.owners, key=key("agent"))
    agent.rotation(KeyStore().rotation(), approvals=2)
    with agent.serve() as served:
        one = ["conformance", served.address, "--keys", str(folder), "--only", "vector-approval-expired"]
        assert cli.main(one) == 0
        assert "1 of 1 checks passed" in capsys.readouterr().out
        monkeypatch.setattr(approvals, "_check_unexpired", lambda approval, now: None)
        assert cli.main([*one, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert found["checks"][0]["problem"] == "expected refused ApprovalExpired, got succeeded Rotated"
    assert cli.main(one) == 3
    assert "no answer" in capsys.readouterr().err
    agent.close()


def test_what_the_command_cannot_use_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note").write_text("x")
    assert cli.main(["conformance", "--keys", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    for address in ("ftp://x", "http://", "http://x:y", "nonsense"):
        with pytest.raises(BadAddress):
            Caller(address)
    with pytest.raises(NoAnswer):
        Caller(f"unix:{tmp_path}/none.sock").call("report", b"{}")
    with pytest.raises(BadFolder):
        read_keys(tmp_path)


def test_the_installed_command_lists_its_checks() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "capsule_agent.cli", "conformance", "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
