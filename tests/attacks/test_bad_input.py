"""Everything bad that people, texts and agents can bring, through whole passes: each ends in a reason and a
message for people, the neighbour's request is executed all the same, and what is on record proves."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capsule.cli import app
from capsule.commands.init import init
from capsule.documents.codec import load_as
from capsule.documents.digests import bytes_digest, target_digest
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.documents.types import AgentAddress, Refusal, Result, ResultSpec, Service
from capsule.reconciler import Reconciler
from capsule.store.api import Store
from capsule.store.git import open_store
from capsule.testing.memory_store import MemoryStore
from capsule.testing.memory_transport import Fault
from capsule.transport.api import CallName
from capsule.transport.http import HttpTransport
from capsule.trust.audit import verify_audit
from capsule.trust.objects import file_bytes, parse_commit
from capsule.view.build import snapshot
from capsule.view.model import RequestRow, ServiceRow, Snapshot
from capsule_agent import Health
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Approval, Envelope, Receipt, Report, decode, encode
from tests.agent_fixtures import key, write_key
from tests.town import START, Town
from tests.transport_peers import RawServer, raw_server
from tests.unit.documents.test_hostile_text import AMBIGUOUS, HOSTILE

MINE, NEIGHBOUR = "openai-chat", "stripe-pay"
FOLDER = RequestFolder("2026/11", "rotate-1")
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY----- b3BlbnNzaC1rZXktdjEAAAAABG5vbmU= -----END"
REPAINT = "\x1b[2J\x1b[1;1Hall good"
PAGE = "<script>alert(1)</script>"
SMALL = {name: item for name, item in HOSTILE.items() if len(item[0]) < 1_000_000}


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, services=(MINE, NEIGHBOUR))
    yield made
    made.close()


# ---- what is asserted of every case ---------------------------------------------------------------


def look(town: Town) -> Snapshot:
    return snapshot(town.store, town.store.refs(), town.root, town.clock.now())


def phase(town: Town, name: str = "rotate-1") -> RequestRow:
    return next(row for row in look(town).requests if row.name == name)


def status(town: Town, name: str = MINE) -> ServiceRow:
    return next(row for row in look(town).services if row.name == name)


def recorded(town: Town, path: str) -> bytes | None:
    tip = town.tip(AUDIT)
    assert tip
    return file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path)


def refusal(town: Town, folder: RequestFolder = FOLDER) -> Refusal:
    data = recorded(town, folder.refusal)
    assert data is not None, town.audit_subjects()
    return load_as(Refusal, data, folder.refusal)


def result(town: Town) -> Result:
    data = recorded(town, FOLDER.result(MINE))
    assert data is not None, town.audit_subjects()
    return load_as(Result, data, FOLDER.result(MINE))


def nothing_is_lost(town: Town, reconciler: Reconciler, operations: int = 1) -> None:
    """The neighbour's request runs in the same passes, and the record proves."""
    town.request("neighbour", targets=(NEIGHBOUR,))
    town.settle(reconciler)
    assert phase(town, "neighbour").phase == "Succeeded"
    assert town.keys[NEIGHBOUR].history == ["key-1"]
    main, audit = town.tip(MAIN), town.tip(AUDIT)
    assert main
    verdict = verify_audit(town.store, town.root, main, audit)
    assert verdict.first_bad is None, verdict.first_bad
    assert verdict.operations == operations


# ---- requests that must not be executed -----------------------------------------------------------


def file_request(town: Town, raw: bytes, name: str = "rotate-1", *, approved: bool = False) -> None:
    """Any bytes as a request that alice signed; approved as if somebody had read them."""
    folder = RequestFolder("2026/11", name)
    signature = key("alice").sign(raw, sshsig.REQUEST).encode()
    files: dict[str, bytes | None] = {folder.request: raw, folder.signature: signature}
    if approved:
        files |= town.approval(town.document(raw), raw, "bob")
    town.commit(files, f"Ask for {name}")


def unknown_service(town: Town) -> None:
    raw = town.request(targets=(MINE,), approved_by=())
    file_request(town, raw.replace(b"openai-chat", b"openai-chatt"))


def without_signature(town: Town) -> None:
    town.request()
    town.commit({FOLDER.signature: None}, "Lose the signature")


def edited_without_signing(town: Town) -> None:
    raw = town.request()
    town.commit({FOLDER.request: raw.replace(b"Quarterly", b"Whenever")}, "Edit")


REFUSED: dict[str, tuple[Callable[[Town], object], str, str, str]] = {
    "unknown service": (unknown_service, "Rejected", "UnknownService", "'openai-chatt'"),
    "unknown action": (
        lambda town: town.request(action="makeCoffee"),
        "Rejected",
        "UnknownAction",
        "offers disable, enable, rotateKey, runHealthCheck, not makeCoffee",
    ),
    "expired": (
        lambda town: town.request(expires="2026-11-23T11:59:00Z"),
        "Expired",
        "Expired",
        "2026-11-23 11:59",
    ),
    "not signed": (without_signature, "Rejected", "RequestUnsigned", "request.yaml.sig is missing"),
    "edited, not signed again": (edited_without_signing, "Rejected", "BadSignature", "request.yaml.sig"),
    "asked by nobody we know": (
        lambda town: town.request(requestedBy="mallory"),
        "Rejected",
        "UnknownPrincipal",
        "'mallory'",
    ),
    "asked in the name of another": (
        lambda town: town.request(requestedBy="bob", approved_by=("carol",)),
        "Rejected",
        "BadSignature",
        "made by alice, not by bob",
    ),
    "asked by a reviewer": (
        lambda town: file_as_bob(town),
        "Rejected",
        "NotEntitled",
        "bob may not ask for rotateKey",
    ),
    "the same target twice": (
        lambda town: town.request(targets=(MINE, MINE)),
        "Rejected",
        "DuplicateTarget",
        "stands twice",
    ),
}


def file_as_bob(town: Town) -> None:
    raw = town.request(requestedBy="bob", approved_by=())
    signature = key("bob").sign(raw, sshsig.REQUEST).encode()
    town.commit({FOLDER.signature: signature}, "Ask as bob")


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_can_never_be_executed_ends_as_a_record(town: Town, case: str) -> None:
    ask, ended, reason, told = REFUSED[case]
    ask(town)
    reconciler = town.reconciler()
    nothing_is_lost(town, reconciler)
    spec = refusal(town).spec
    assert (spec.phase, spec.reason) == (ended, reason), spec.message
    assert told in spec.message
    assert spec.message.isprintable()
    assert (phase(town).phase, phase(town).reason) == (ended, reason)
    assert town.keys[MINE].created == 0
    town.settle(town.reconciler())
    assert sum(subject.startswith("rotate-1: ") for subject in town.audit_subjects()) == 1


def approval_of_another_request(town: Town) -> None:
    raw = town.request("harmless", approved_by=())
    harmless = town.approval(town.document(raw), raw, "bob")
    town.request(approved_by=())
    town.commit({path.replace("/harmless/", "/rotate-1/"): data for path, data in harmless.items()}, "Copy")


def approval_of_another_repository(town: Town) -> None:
    raw = town.request(approved_by=())
    own = town.approval(town.document(raw), raw, "bob")
    data = replace(decode(Approval, own[FOLDER.approval("bob")]), repository="f" * 40).to_json()
    signature = key("bob").sign(data, sshsig.APPROVAL).encode()
    town.commit({FOLDER.approval("bob"): data, FOLDER.approval_signature("bob"): signature}, "Bring it")


def approval_under_another_name(town: Town) -> None:
    raw = town.request(approved_by=())
    own = town.approval(town.document(raw), raw, "bob")
    town.commit({path.replace("/bob.json", "/carol.json"): data for path, data in own.items()}, "Rename")


def edited_and_signed_again(town: Town) -> None:
    raw = town.request()
    file_request(town, raw.replace(b"Quarterly", b"Whenever"))


def target_changed_since(town: Town) -> None:
    town.request()
    moved = town.service_text(MINE, pins={"model": "m9"})
    town.commit({f"services/{MINE}.yaml": moved}, "Pin another model")


WAITING: dict[str, tuple[Callable[[Town], object], str, str]] = {
    "no approval": (lambda town: town.request(approved_by=()), "", ""),
    "own approval": (lambda town: town.request(approved_by=("alice",)), "alice", "SelfApproval"),
    "approval of another request": (approval_of_another_request, "bob", "OtherRequest"),
    "approval of another repository": (approval_of_another_repository, "bob", "OtherRepository"),
    "approval under another name": (approval_under_another_name, "carol", "ApprovalMisplaced"),
    "approved, then edited": (edited_and_signed_again, "bob", "RequestChanged"),
    "approved, then the target changed": (target_changed_since, "bob", "TargetChanged"),
}


@pytest.mark.parametrize("case", WAITING)
def test_an_approval_that_is_none_leaves_the_request_waiting_and_says_why(town: Town, case: str) -> None:
    ask, who, reason = WAITING[case]
    ask(town)
    nothing_is_lost(town, town.reconciler())
    row = phase(town)
    assert (row.phase, row.reason) == ("Proposed", "ApprovalsMissing")
    assert "1 of reviewers" in row.message
    said = [(seen.principal, seen.counts, seen.reason) for seen in row.approvals]
    assert said == ([(who, False, reason)] if who else [])
    assert all(seen.message for seen in row.approvals)
    assert town.keys[MINE].created == 0
    assert recorded(town, FOLDER.refusal) is None
    raw = town.file(FOLDER.request)
    town.commit(dict(approval_as_it_is(town, raw)), "Approve what is there", who="carol")
    town.settle(town.reconciler())
    assert phase(town).phase == "Succeeded", phase(town).message


def approval_as_it_is(town: Town, raw: bytes) -> Mapping[str, bytes]:
    """Carol approves what lies on main now, its targets as they are now."""
    given = town.approval(town.document(raw), raw, "carol")
    judged = next(row for row in look(town).requests if row.name == "rotate-1")
    assert judged.digest == bytes_digest(raw)
    approval = replace(decode(Approval, given[FOLDER.approval("carol")]), targets=digests_of(town))
    data = approval.to_json()
    signature = key("carol").sign(data, sshsig.APPROVAL).encode()
    return {FOLDER.approval("carol"): data, FOLDER.approval_signature("carol"): signature}


def digests_of(town: Town) -> dict[str, str]:
    path = f"services/{MINE}.yaml"
    return {MINE: target_digest(load_as(Service, town.file(path), path))}


def test_wrong_parameters_are_refused_by_the_agent_with_their_name(town: Town) -> None:
    town.request(
        params={
            "grace": "soon",
        }
    )
    nothing_is_lost(town, town.reconciler(), operations=2)
    assert (result(town).spec.outcome, result(town).spec.reason) == ("refused", "ParamsInvalid")
    assert "'grace'" in result(town).spec.message
    assert phase(town).phase == "Failed"
    assert town.keys[MINE].created == 0


def test_a_request_edited_after_its_execution_is_never_executed_again(town: Town) -> None:
    raw = town.request()
    reconciler = town.reconciler()
    town.settle(reconciler)
    edited = raw.replace(b"Quarterly", b"Once more")
    file_request(town, edited, approved=True)
    nothing_is_lost(town, reconciler, operations=2)
    assert town.keys[MINE].history == ["key-1"]


# ---- hostile texts --------------------------------------------------------------------------------


def test_every_hostile_text_as_a_request_is_refused_with_its_place_and_stops_only_itself(town: Town) -> None:
    names = {f"hostile-{at}": name for at, name in enumerate(SMALL)}
    files: dict[str, bytes | None] = {}
    for at, name in names.items():
        folder = RequestFolder("2026/11", at)
        raw = SMALL[name][0]
        files |= {folder.request: raw, folder.signature: key("alice").sign(raw, sshsig.REQUEST).encode()}
    town.commit(files, "Ask for trouble")
    nothing_is_lost(town, town.reconciler())
    for at, name in names.items():
        folder = RequestFolder("2026/11", at)
        spec = refusal(town, folder).spec
        _, reason, line, column = SMALL[name]
        if reason == "TooLarge":  # not even read
            assert (spec.phase, spec.reason) == ("Rejected", "MalformedTree"), name
            assert "bytes" in spec.message
            continue
        assert (spec.phase, spec.reason) == ("Rejected", "InvalidDocument"), name
        assert f"{folder.request}:{line}:{column}: error:" in spec.message, name
        assert f"[{reason}]" in spec.message, (name, spec.message)
        assert spec.message.replace("\n", "").isprintable(), name


def test_every_hostile_text_as_a_service_leaves_the_last_good_one_in_force(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    path = f"services/{MINE}.yaml"
    others = {f"services/hostile-{at}.yaml": item[0] for at, item in enumerate(SMALL.values())}
    town.request()  # the approval shows what is in force, which the next commit does not change
    town.commit({path: SMALL["alias bomb"][0], **others}, "Break things")
    nothing_is_lost(town, reconciler, operations=2)
    assert phase(town).phase == "Succeeded"
    told = {item.reason: item.message for item in status(town).conditions}
    assert "AnchorNotAllowed" in told["InvalidDocument"]
    assert f"{path}:1:4" in told["InvalidDocument"]
    assert len(look(town).services) == 2


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state repository for `capsule check`."""
    folder = tmp_path_factory.mktemp("checked")
    private = write_key(folder / "key", "alice")
    init(folder / "state", START, principal="alice", email="alice@example.com", key=private)
    return folder / "state"


def test_check_tells_every_hostile_text_with_its_place_and_code(checked: Path) -> None:
    services = checked / "services"
    paths = {name: services / f"hostile-{at}.yaml" for at, name in enumerate(HOSTILE)}
    for name, path in paths.items():
        path.write_bytes(HOSTILE[name][0])
    try:
        done = CliRunner().invoke(app, ["-C", str(checked), "check"])
    finally:
        for path in paths.values():
            path.unlink()
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    for name, path in paths.items():
        _, reason, line, column = HOSTILE[name]
        place = f"services/{path.name}:{line}:{column}: error: "
        (told,) = [row for row in done.output.splitlines() if row.startswith(place)][:1]
        assert f"[{reason}]" in told, (name, told)
        assert told.isprintable(), name


@pytest.mark.parametrize("text", [*AMBIGUOUS[:3], "010", "1:20", "6e12", "2026-11-23"])
def test_check_tells_what_two_readers_read_differently(checked: Path, text: str) -> None:
    path = checked / "services" / "doubt.yaml"
    head = "apiVersion: capsule/v1\nkind: Service\nmetadata:\n  name: doubt\n  labels:\n"
    path.write_text(f"{head}    team: {text}\n")
    try:
        done = CliRunner().invoke(app, ["-C", str(checked), "check"])
    finally:
        path.unlink()
    assert done.exit_code == 1
    assert "services/doubt.yaml:6:11: error:" in done.output
    assert "[AmbiguousScalar]" in done.output


# ---- a repository without audit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("services",), 0, ""),
        (("requests",), 0, "No"),
        (("log",), 0, "Nothing is on record yet"),
        (("plan",), 0, "would do nothing"),
        (("audit", "verify"), 1, "[NoAudit]"),
        (("check", "audit"), 2, "audit"),
    ],
)
def test_a_repository_without_audit_is_read_as_one_where_nothing_happened_yet(
    checked: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = CliRunner().invoke(app, ["-C", str(checked), *arguments])
    assert (done.exit_code, told in done.output) == (code, True), done.output
    assert "Traceback" not in done.output


def test_the_first_pass_begins_audit_at_the_root(town: Town) -> None:
    assert town.tip(AUDIT) is None
    assert look(town).audit is None
    nothing_is_lost(town, town.reconciler())
    at, seen = town.tip(AUDIT), []
    while at and at != town.root:
        seen.append(at)
        at = parse_commit(town.store.read(at)[1]).parents[0]
    assert at == town.root
    assert seen


# ---- agents ---------------------------------------------------------------------------------------


def folder_for(service: str) -> RequestFolder:
    return RequestFolder("2026/11", f"rotate-{service}")


@contextlib.contextmanager
def several(folder: Path, names: Iterable[str], store: Store | None = None) -> Iterator[Town]:
    """A town with these services and the neighbour, and an approved request for each of them."""
    services = tuple(names)
    town = Town(folder, store, services=(*services, NEIGHBOUR))
    try:
        yield town
    finally:
        town.close()


def ask_for_each(town: Town, names: Iterable[str]) -> None:
    for name in names:
        town.request(f"rotate-{name}", targets=(name,))


def outcome(town: Town, service: str) -> ResultSpec:
    path = folder_for(service).result(service)
    data = recorded(town, path)
    assert data is not None, (service, town.audit_subjects())
    return load_as(Result, data, path).spec


def flood(server: RawServer, peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
    block = b"[" * 65536
    for _ in range(16384):
        peer.sendall(block)
        server.sent += len(block)


def page(kind: str) -> Callable[[RawServer, socket.socket], None]:
    body = f"<html>{REPAINT}{PAGE}{PRIVATE_KEY}</html>".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return lambda _, peer: peer.sendall(head + body)


def slow(server: RawServer, peer: socket.socket) -> None:
    server.drip(peer, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, 0.05)


UNREADABLE: dict[str, tuple[Callable[[RawServer, socket.socket], None], str]] = {
    "floods": (flood, "AnswerTooLarge"),
    "shows-html": (page("text/html"), "AnswerMalformed"),
    "shows-html-as-json": (page("application/json"), "MalformedAnswer"),
    "is-slow": (slow, "AgentTimeout"),
    "hangs-up": (lambda _, peer: peer.close(), "AgentUnreachable"),
}


class OverSockets:
    """Services in `ports` are called over HTTP at that port, all others in memory."""

    def __init__(self, town: Town, ports: Mapping[str, int]) -> None:
        self._town = town
        self._ports = dict(ports)
        self._http = HttpTransport()

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        service = address.endpoint.removeprefix("http://").removesuffix(".invalid")
        port = self._ports.get(service)
        if port is None:
            return self._town.transport.call(address, name, body, timeout=timeout)
        there = address.model_copy(update={"endpoint": f"http://127.0.0.1:{port}"})
        return self._http.call(there, name, body, timeout=min(timeout, 1.0))

    def close(self) -> None:
        self._http.close()


def test_agents_that_cannot_be_read_delay_nobody_and_are_asked_again_when_they_can(tmp_path: Path) -> None:
    """1 GB, HTML, drops of a byte, nothing: each service says why, and its request waits for its agent."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "state")], check=True)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(open_store(tmp_path / "state")))
        town = stack.enter_context(several(tmp_path, UNREADABLE, store))
        servers = {name: stack.enter_context(raw_server(item[0])) for name, item in UNREADABLE.items()}
        ports = {name: server.port for name, server in servers.items()}
        carrier = stack.enter_context(contextlib.closing(OverSockets(town, ports)))
        reconciler = stack.enter_context(contextlib.closing(town.reconciler(transport=carrier)))
        ask_for_each(town, UNREADABLE)
        nothing_is_lost(town, reconciler)
        town.clock.advance(minutes=6)
        town.settle(reconciler)
        for name, (_, reason) in UNREADABLE.items():
            row = status(town, name)
            assert (row.status, row.reason, row.probe_reason) == ("OFFLINE", reason, reason), name
            assert row.message.isprintable()
            assert phase(town, f"rotate-{name}").phase == "Held"
            assert recorded(town, folder_for(name).claim(name, 1)) is None
        assert servers["floods"].sent < 256 * 2**20
        town.clock.advance(minutes=6)
        town.settle(town.reconciler())
        assert {name: town.keys[name].history for name in UNREADABLE} == {
            name: ["key-1"] for name in UNREADABLE
        }
        for name in UNREADABLE:
            assert phase(town, f"rotate-{name}").phase == "Succeeded"
        command = ["git", "-C", str(tmp_path / "state"), "cat-file", "--batch", "--batch-all-objects"]
        objects = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"rotate-floods" in objects
    kept = [text for text in (PRIVATE_KEY, REPAINT, PAGE, "secret-of-key") if text.encode() in objects]
    assert kept == []


def lying(town: Town, service: str, change: Callable[[str, Envelope], Envelope]) -> None:
    """From now on `change` has the last word on what the service's agent answers."""

    def answer(call: CallName, body: bytes) -> bytes:
        honest = town.agents[service].answer(f"/capsule/v1/{call}", body)
        assert honest.status == 200, honest.body
        return json.dumps(encode(change(call, decode(Envelope, honest.body, max_bytes=2**20)))).encode()

    town.transport.connect(f"http://{service}.invalid", answer)


def signed_by(service: str, answer: Envelope, changed: Receipt | Report) -> Envelope:
    """The liar holds the agent's own key."""
    payload = changed.to_json()
    namespace = sshsig.RECEIPT if isinstance(changed, Receipt) else sshsig.REPORT
    return replace(
        answer, payload=payload.decode(), signature=key(f"agent {service}").sign(payload, namespace)
    )


def in_reports(of: str, /, **changes: Any) -> Callable[[str, Envelope], Envelope]:
    def change(name: str, answer: Envelope) -> Envelope:
        if name != "report":
            return answer
        report = decode(Report, answer.payload.encode())
        values = {field: value(report) if callable(value) else value for field, value in changes.items()}
        return signed_by(of, answer, replace(report, **values))

    return change


def in_receipts(of: str, /, **changes: Any) -> Callable[[str, Envelope], Envelope]:
    def change(name: str, answer: Envelope) -> Envelope:
        if name == "report":
            return answer
        return signed_by(of, answer, replace(decode(Receipt, answer.payload.encode()), **changes))

    return change


def objects_of(town: Town) -> bytes:
    """All objects of the repository in memory, reachable or not."""
    assert isinstance(town.store, MemoryStore)
    return b"\n".join(data for _, data in town.store.objects())


LIES_IN_REPORTS: dict[str, tuple[dict[str, Any], str]] = {
    "another-name": ({"service": NEIGHBOUR}, "AnswerForOther"),
    "old-answer": ({"nonce": "0" * 32}, "AnswerForOther"),
    "ansi-in-health": ({"health": lambda report: replace(report.health, detail=REPAINT)}, "UnsafeText"),
    "ansi-in-value": ({"config": {"model": REPAINT}}, "UnsafeText"),
    "ansi-in-version": ({"version": REPAINT}, "UnsafeText"),
    "key-in-name": ({"config": {"AIza" + "a" * 35: "m1"}}, "SecretInOutput"),
    "list-for-value": ({"config": {"model": ["m1"]}}, "BadOutput"),
    "html-for-name": ({"config": {PAGE: "m1"}}, "BadOutput"),
}
FORGED = ("agent stripe-pay", "alice", "reconciler-1")


def test_reports_that_lie_are_not_believed_and_their_texts_are_kept_nowhere(tmp_path: Path) -> None:
    forgers = {f"forged-{at}": who for at, who in enumerate(FORGED)}
    with several(tmp_path, [*LIES_IN_REPORTS, *forgers]) as town:
        for name, (changes, _) in LIES_IN_REPORTS.items():
            lying(town, name, in_reports(name, **changes))
        for name, who in forgers.items():
            lying(
                town,
                name,
                lambda _, answer, who=who: replace(  # type: ignore[misc]  # the default binds the loop's value
                    answer, signature=key(who).sign(answer.payload.encode(), sshsig.REPORT)
                ),
            )
        expected = {name: reason for name, (_, reason) in LIES_IN_REPORTS.items()}
        expected |= dict.fromkeys(forgers, "BadAgentSignature")
        ask_for_each(town, expected)
        reconciler = town.reconciler()
        nothing_is_lost(town, reconciler)
        town.clock.advance(minutes=6)
        town.settle(reconciler)
        for name, reason in expected.items():
            row = status(town, name)
            assert (row.status, row.reason, row.probe_reason) == ("OFFLINE", reason, reason), name
            assert row.message.isprintable()
            assert phase(town, f"rotate-{name}").phase == "Held"
            assert town.keys[name].created == 0
        objects = objects_of(town)
        assert b"stripe-pay" in objects
        assert [text for text in (PRIVATE_KEY, REPAINT, PAGE) if text.encode() in objects] == []


LIES_IN_RECEIPTS: dict[str, tuple[dict[str, Any], str]] = {
    "another-name": ({"service": NEIGHBOUR}, "AnswerForOther"),
    "another-operation": ({"op_id": "0" * 64}, "AnswerForOther"),
    "another-repository": ({"repository": "f" * 40}, "AnswerForOther"),
    "later-attempt": ({"attempt": 99}, "AnswerForOther"),
    "ansi-in-output": ({"outputs": {"keyId": REPAINT}}, "UnsafeText"),
    "ansi-in-message": ({"message": REPAINT}, "UnsafeText"),
    "key-in-output": ({"outputs": {"keyId": PRIVATE_KEY}}, "SecretInOutput"),
    "key-in-message": ({"message": PRIVATE_KEY}, "SecretInOutput"),
    "mapping-for-output": ({"outputs": {"keyId": {"a": 1}}}, "BadOutput"),
    "reason-in-two-lines": ({"reason": "x\ny"}, "BadOutput"),
}


def test_receipts_that_lie_are_doubts_for_a_person_and_their_texts_are_kept_nowhere(tmp_path: Path) -> None:
    with several(tmp_path, [*LIES_IN_RECEIPTS, "shows-html"]) as town:
        for name, (changes, _) in LIES_IN_RECEIPTS.items():
            lying(town, name, in_receipts(name, **changes))
        lying(town, "shows-html", in_receipts("shows-html", outputs={"keyId": PAGE}))
        ask_for_each(town, [*LIES_IN_RECEIPTS, "shows-html"])
        reconciler = town.reconciler()
        nothing_is_lost(town, reconciler, operations=2 + len(LIES_IN_RECEIPTS))
        town.settle(town.reconciler())
        for name, (_, reason) in LIES_IN_RECEIPTS.items():
            spec = outcome(town, name)
            assert (spec.outcome, spec.reason, dict(spec.outputs)) == ("unknown", reason, {}), name
            assert spec.message.isprintable()
            assert phase(town, f"rotate-{name}").phase == "Unknown"
            assert recorded(town, folder_for(name).receipt(name)) is None
            assert town.keys[name].created == 1, "a doubt was sent again"
        # HTML is text like any other: kept as it is, and escaped where it is shown.
        assert outcome(town, "shows-html").outputs == {"keyId": PAGE}
        assert phase(town, "rotate-shows-html").phase == "Succeeded"
        objects = objects_of(town)
        assert PAGE.encode() in objects
        assert [each for each in (PRIVATE_KEY, REPAINT, "secret-of-key") if each.encode() in objects] == []


def test_an_agent_that_is_down_holds_its_request_until_it_is_back(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.transport.disconnect(f"http://{MINE}.invalid")
    town.clock.advance(minutes=1)
    town.settle(reconciler)
    town.request()
    nothing_is_lost(town, reconciler)
    assert phase(town).phase == "Held"
    assert town.keys[MINE].created == 0
    town.clock.advance(minutes=10)
    town.settle(reconciler)
    assert (status(town).status, status(town).reason) == ("OFFLINE", "AgentUnreachable")
    assert status(town).probe_reason == "AgentUnreachable"
    town.start_agent(MINE)
    town.clock.advance(minutes=5)
    town.settle(reconciler)
    assert phase(town).phase == "Succeeded"
    assert status(town).status == "HEALTHY"


def test_an_agent_that_stays_down_lets_its_request_expire(town: Town) -> None:
    town.transport.disconnect(f"http://{MINE}.invalid")
    town.request(expires="2026-11-23T13:00:00Z")
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.clock.advance(hours=2)
    nothing_is_lost(town, reconciler)
    assert (refusal(town).spec.phase, refusal(town).spec.reason) == ("Expired", "Expired")
    town.start_agent(MINE)
    town.settle(reconciler)
    assert town.keys[MINE].created == 0


def test_an_order_under_way_says_why_it_has_no_result_without_a_commit(town: Town) -> None:
    """An agent that goes silent in the middle: nothing is recorded, and the heartbeat tells it."""
    reconciler = town.reconciler()
    town.settle(reconciler)
    town.request()
    silent: list[Fault] = ["unreachable"] * 40
    town.transport.fail(f"http://{MINE}.invalid", "timeout after effect", *silent)
    for _ in range(4):
        town.clock.advance(seconds=1)
        reconciler.one_pass(patience=5.0)
    row = phase(town)
    assert row.phase == "Running"
    assert f"{MINE}: AgentUnreachable: cannot connect" in row.message
    assert "AgentUnreachable" in row.operations[0].message
    tip = town.tip(AUDIT)
    reconciler.one_pass(patience=5.0)
    assert town.tip(AUDIT) == tip
    town.transport._faults.clear()
    nothing_is_lost(town, reconciler, operations=2)
    assert (phase(town).phase, phase(town).operations[0].message) == ("Succeeded", "")
    assert town.keys[MINE].history == ["key-1"]


def test_what_an_honest_library_says_of_itself_is_always_one_safe_line(town: Town) -> None:
    """An adapter's texts are anything; the agent makes them safe, so that the service stays in sight."""
    agent = town.agents[MINE]
    agent.health(lambda: Health("DEGRADED", f"{REPAINT}\n{PAGE}\u202e\u3164\u2028" + "x" * 9000))
    agent.config("banner", lambda: f"{REPAINT}\r\n\u115f")
    agent.config("long", lambda: "y" * 9000)
    agent.config("number", lambda: 10**40)
    agent.config("surrogate", lambda: "\ud800")
    reconciler = town.reconciler()
    nothing_is_lost(town, reconciler)
    row = status(town)
    assert (row.status, row.reason, row.probe_reason) == ("UNHEALTHY", "HealthDegraded", "")
    assert row.health_detail.isprintable()
    assert "all good" in row.health_detail


def test_nothing_of_this_is_a_traceback_of_the_command(checked: Path) -> None:
    """The same through the installed command, as a process of its own."""
    (checked / "services" / "x.yaml").write_bytes(b"{a: " * 50_000)
    command = [sys.executable, "-m", "capsule", "-C", str(checked), "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    (checked / "services" / "x.yaml").unlink()
    assert (done.returncode, done.stderr) == (1, "")
    assert "services/x.yaml:1:129: error:" in done.stdout
