"""A secret at every door: it reaches no git object, log, message or screen; and nothing else is one."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsule.daemon.logs import FORMATS, set_up_logs
from capsule.documents.check import check_tree
from capsule.documents.codec import emit, load
from capsule.documents.paths import AUDIT, RequestFolder
from capsule.documents.problems import InvalidDocument, one_line, quoted
from capsule.documents.secrets import KINDS, MARK, findings, fingerprint, redacted, redacted_value
from capsule.notify.message import message_of
from capsule.testing.memory_store import MemoryStore
from capsule.transport.peer_text import quoted as quoted_peer
from capsule.trust.objects import parse_commit
from capsule.view.build import snapshot
from capsule.view.events import Event
from capsule.view.model import ServiceRow
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import Envelope, Receipt, Report, decode, encode
from tests.agent_fixtures import key
from tests.town import Town

HERE = Path(__file__).parents[2]
RANDOM = "Zx9Qw7Lr2Tk5Vb8Nm3Hd6Jf1"
_PEM = base64.b64encode(bytes(range(96))).decode()

# kind → name → (text around it, the secret itself)
SECRETS: dict[str, tuple[str, str, str]] = {
    "pem": ("PrivateKey", "{}", f"-----BEGIN RSA PRIVATE KEY----- {_PEM} -----END RSA PRIVATE KEY-----"),
    "pem-cut-off": ("PrivateKey", "{}", f"-----BEGIN PRIVATE KEY----- {_PEM}"),
    "openssh": ("PrivateKey", "the key is {}", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"),
    "age": ("PrivateKey", "{}", "AGE-SECRET-KEY-1QQPQZRFR7ZZ2WCVQQPQZRFR7ZZ2WCV"),
    "openai": ("VendorToken", "use {} now", "sk-proj-" + RANDOM),
    "stripe": ("VendorToken", "{}", "sk_live_" + RANDOM),
    "github": ("VendorToken", "token={}", "ghp_" + "a1B2" * 9),
    "gitlab": ("VendorToken", "{}.", "glpat-" + RANDOM),
    "slack": ("VendorToken", "({})", "xoxb-1234567890-abcdef"),
    "google": ("VendorToken", "{}", "AIza" + "a1B2c" * 7),
    "vault": ("VendorToken", "{}", "hvs." + RANDOM),
    "telegram": ("VendorToken", "{}", "123456789:AA" + "a1B" * 11),
    "jwt": (
        "JsonWebToken",
        "{}",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    ),
    "url": ("UrlPassword", "postgres://user:{}@db/x", "hunter2"),
    "webhook": ("WebhookAddress", "https://hooks.slack.com/services/{}", f"T00000000/B00000000/{RANDOM}"),
    "header": ("AuthorizationHeader", "Authorization: Bearer {}", "opaque." + RANDOM),
    "assigned": ("AssignedSecret", "aws_secret_access_key = {}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE1KEY"),
}
EACH = pytest.mark.parametrize("name", SECRETS)


def said(name: str) -> str:
    _, around, secret = SECRETS[name]
    return around.format(secret)


def test_there_is_an_example_of_each_kind() -> None:
    assert {kind for kind, _, _ in SECRETS.values()} == set(KINDS)


@EACH
def test_a_secret_is_found_at_its_place_and_replaced_by_its_fingerprint(name: str) -> None:
    kind, _, secret = SECRETS[name]
    text = f"before {said(name)} after"
    (found,) = findings(text)
    assert found.kind == kind
    assert text[found.start : found.end].strip() == secret
    clean = redacted(text)
    assert secret not in clean
    assert clean.startswith("before ")
    assert clean.endswith("after")
    assert fingerprint(text[found.start : found.end]) in clean
    assert redacted(clean) == clean


# ---- nothing else is one ---------------------------------------------------------------------------

OURS = [
    path
    for folder in ("docs", "examples", "state_repo_template")
    for path in sorted((HERE / folder).rglob("*"))
    if path.suffix in (".md", ".json", ".yaml", ".yml", ".py", ".svg", ".txt", ".pub", ".sig")
]
HARMLESS = [
    "AKIAIOSFODNN7EXAMPLE",  # an id of a key, as receipts name it
    "task-scheduler-openai-chat-1234567",
    "sk-team-of-the-production-services",
    "https://api.openai.com/v1?x=1#top",
    "ssh://capsule@host:22",
    "the token is in /run/secrets/token",
    "tokenFile: /etc/capsule/token_for_the_remote",
    "password: use-the-password-manager",
    "apiKey: hmac-sha256:00112233445566778899aabbccddeeff",
    "secret: projects/openai/secrets/key/versions/latest",
    "bearer of bad news about authorization: none",
    "https://user:token@… is refused",
    "risk-assessment-of-Everything-2026-11-23",
]


def test_our_own_documents_examples_and_vectors_hold_none() -> None:
    assert len(OURS) > 60
    found = [(path, each.kind) for path in OURS for each in findings(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_are_left_alone(text: str) -> None:
    assert redacted(text) == text


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_keys_signatures_digests_and_ids_are_no_secrets(seed: bytes, message: bytes) -> None:
    made = sshsig.PrivateKey.from_seed(seed)
    for text in (
        made.public.text,
        made.public.fingerprint,
        made.sign(message, sshsig.RECEIPT),
        f"sha256:{seed.hex()}",
        f"hmac-sha256:{seed.hex()[:32]}",
        f"Capsule-Request: {seed.hex()[:40]}",
        fingerprint(message.hex()),
        json.dumps({"apiKey": f"hmac-sha256:{seed.hex()[:32]}", "opId": seed.hex()}),
    ):
        assert findings(text) == ()


@given(st.text(max_size=60), st.sampled_from(sorted(SECRETS)), st.text(max_size=60))
def test_a_secret_among_any_text_does_not_survive(before: str, name: str, after: str) -> None:
    text = f"{before} {said(name)} {after}"
    clean = redacted(text)
    assert SECRETS[name][2] not in clean
    assert redacted(clean) == clean
    assert all(text[each.start : each.end] for each in findings(text))


@given(st.text(max_size=300))
def test_looking_for_secrets_never_fails(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


# ---- the door of documents -------------------------------------------------------------------------


def request_text(reason: str, extra: str = "") -> str:
    return (
        "apiVersion: capsule/v1\nkind: ActionRequest\nmetadata: {name: rotate-1}\nspec:\n"
        "  requestedBy: alice\n  action: rotateKey\n  targets: [openai-chat]\n"
        f"  params: {{grace: {json.dumps(extra or '24h')}}}\n"
        f'  reason: {json.dumps(reason)}\n  expires: "2026-11-30T00:00:00Z"\n'
    )


def document_texts(text: str) -> Iterator[tuple[str, str]]:
    """Paths and documents that hold `text` in some field or comment."""
    folder = "requests/2026/11/rotate-1"
    yield f"{folder}/request.yaml", request_text(text)
    yield f"{folder}/request.yaml", request_text("why", text)
    yield f"{folder}/request.yaml", request_text("why") + f"# {text}\n"
    yield "policy.yaml", f"apiVersion: capsule/v1\nkind: Policy\nmetadata: {{name: policy}}\n# {text}\n"
    yield (
        "services/a.yaml",
        "apiVersion: capsule/v1\nkind: Service\nmetadata: {name: a}\nspec:\n"
        f"  agent: {{endpoint: https://a}}\n  pins: {{model: {json.dumps(text)}}}\n",
    )
    yield (
        "capsule.yaml",
        f"apiVersion: capsule/v1\nkind: Capsule\nmetadata: {{name: x}}\nspec: {{}}\n# {text}\n",
    )
    approval = {"apiVersion": "capsule/v1", "kind": "Approval", "reason": text}
    yield f"{folder}/approvals/bob.json", json.dumps(approval, indent=1)


@EACH
def test_check_refuses_a_document_with_a_secret_and_does_not_quote_it(name: str) -> None:
    kind, _, secret = SECRETS[name]
    for path, text in document_texts(said(name)):
        document, problems = load(text.encode(), path)
        assert document is None
        told = [problem for problem in problems if problem.reason == "SecretInDocument"]
        assert told, path
        line = text.split("\n")[told[0].line - 1]
        assert line[told[0].column - 1 :].startswith(secret[:20]) or secret[:20] in line
        assert kind in told[0].message
        assert not any(secret in one_line(problem) for problem in problems), path
    found = check_tree({"services/a.yaml": dict(document_texts(said(name)))["services/a.yaml"].encode()})
    assert "SecretInDocument" in {problem.reason for problem in found}
    assert secret not in quoted(said(name))


def test_a_secret_spelt_with_escapes_is_found() -> None:
    for text in ('"\\u0067hp_' + "a1B2" * 9 + '"', '"ghp_\\\n    ' + "a1B2" * 9 + '"'):
        raw = request_text("x").replace('"x"', text)
        problems = load(raw.encode(), "requests/2026/11/rotate-1/request.yaml")[1]
        assert [problem.reason for problem in problems] == ["SecretInDocument"]
        assert problems[0].line == 9


def test_what_machines_wrote_is_read_whatever_it_holds(town: Town) -> None:
    town.settle(town.reconciler())
    path = "status/openai-chat.yaml"
    raw = town_file(town, path)
    assert load(raw + b"# " + said("github").encode() + b"\n", path)[0] is not None


# ---- the doors of agents and of git ------------------------------------------------------------------


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path, services=("openai-chat",))
    yield made
    made.close()


def town_file(town: Town, path: str) -> bytes:
    from capsule.trust.objects import file_bytes

    tip = town.tip(AUDIT)
    assert tip
    data = file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path)
    assert data is not None
    return data


def objects_of(town: Town) -> str:
    assert isinstance(town.store, MemoryStore)
    return "\n".join(data.decode("utf-8", "replace") for _, data in town.store.objects())


def row_of(town: Town, name: str = "openai-chat") -> ServiceRow:
    found = snapshot(town.store, town.store.refs(), town.root, town.clock.now()).services
    return next(row for row in found if row.name == name)


def saying(town: Town, service: str, change: Callable[[Any], Any]) -> None:
    """The agent of `service` says what `change` makes of its reports and receipts."""

    def answer(call: str, body: bytes) -> bytes:
        honest = town.agents[service].answer(f"/capsule/v1/{call}", body)
        given = decode(Envelope, honest.body, max_bytes=2**20)
        kind, namespace = (Report, sshsig.REPORT) if call == "report" else (Receipt, sshsig.RECEIPT)
        payload = change(decode(kind, given.payload.encode())).to_json()
        signature = key(f"agent {service}").sign(payload, namespace)
        return json.dumps(encode(Envelope(payload.decode(), signature))).encode()

    town.transport.connect(f"http://{service}.invalid", answer)


@contextlib.contextmanager
def logged(form: str) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    before, level = logging.root.handlers[:], logging.root.level
    try:
        set_up_logs(stream, form, "debug")
        yield stream
    finally:
        logging.root.handlers[:] = before
        logging.root.setLevel(level)


def test_secrets_in_reports_become_fingerprints_and_a_condition(tmp_path: Path) -> None:
    with contextlib.closing(Town(tmp_path, services=tuple(SECRETS))) as town, logged("json") as log:
        for name in SECRETS:
            text = said(name)

            def change(report: Any, text: str = text) -> Any:
                health = replace(report.health, status="DEGRADED", detail=text)
                return replace(
                    report, config={"model": text}, version=text, health=health, disabled_reason=text
                )

            saying(town, name, change)
        reconciler = town.reconciler()
        town.settle(reconciler)
        town.clock.advance(minutes=6)
        town.settle(reconciler)
        held = objects_of(town)
        for name, (_, _, secret) in SECRETS.items():
            conditions = {item.reason: item.message for item in row_of(town, name).conditions}
            assert "config.model" in conditions["SecretInReport"], name
            assert secret not in held, name
            assert secret not in log.getvalue(), name
        assert MARK.search(held)
        # Mended: the condition goes.
        town.transport.connect(
            "http://url.invalid",
            lambda call, body: town._answer("url", call, body),
        )
        town.clock.advance(minutes=6)
        town.settle(reconciler)
        assert "SecretInReport" not in {item.reason for item in row_of(town, "url").conditions}


def test_secrets_in_receipts_throw_the_receipt_away_and_leave_a_doubt(tmp_path: Path) -> None:
    with contextlib.closing(Town(tmp_path, services=tuple(SECRETS))) as town, logged("human") as log:
        for name in SECRETS:
            town.request(f"rotate-{name}", targets=(name,))
            text = said(name)

            def change(given: Any, text: str = text) -> Any:
                return (
                    given
                    if isinstance(given, Report)
                    else replace(given, message=text, outputs={"keyId": text})
                )

            saying(town, name, change)
        town.settle(town.reconciler())
        held = objects_of(town)
        for name, (_, _, secret) in SECRETS.items():
            result = town_file(town, RequestFolder("2026/11", f"rotate-{name}").result(name)).decode()
            assert "reason: SecretInOutput" in result, name
            assert secret not in held, name
            assert secret not in log.getvalue(), name


@pytest.mark.parametrize("name", ["github", "url", "pem"])
def test_a_request_with_a_secret_on_main_is_refused_without_being_quoted(town: Town, name: str) -> None:
    raw = request_text(said(name)).encode()
    folder = RequestFolder("2026/11", "rotate-1")
    signature = key("alice").sign(raw, sshsig.REQUEST).encode()
    town.commit({folder.request: raw, folder.signature: signature}, "Ask")
    town.settle(town.reconciler())
    told = town_file(town, folder.refusal).decode()
    assert "SecretInDocument" in told
    assert SECRETS[name][2] not in told
    assert town.keys["openai-chat"].created == 0


def test_a_service_with_a_secret_on_main_leaves_the_last_good_one_in_force(town: Town) -> None:
    reconciler = town.reconciler()
    town.settle(reconciler)
    path = "services/openai-chat.yaml"
    town.commit({path: town.file(path) + f"# {said('url')}\n".encode()}, "A note")
    town.settle(reconciler)
    conditions = {item.reason: item.message for item in row_of(town).conditions}
    assert "SecretInDocument" in conditions["InvalidDocument"]
    assert SECRETS["url"][2] not in conditions["InvalidDocument"]


def test_no_document_is_written_with_a_secret_in_a_persons_name(town: Town) -> None:
    with pytest.raises(InvalidDocument, match="looks like a secret") as caught:
        town.request(reason=said("stripe"))
    assert SECRETS["stripe"][2] not in str(caught.value)
    with pytest.raises(InvalidDocument, match="AssignedSecret"):
        town.request(params={"apiToken": RANDOM})


def test_what_machines_write_holds_the_fingerprint_instead(town: Town) -> None:
    town.settle(town.reconciler())
    document, problems = load(town_file(town, "status/openai-chat.yaml"), "status/openai-chat.yaml")
    assert not problems
    assert document is not None
    spec = document.spec.model_copy(update={"message": said("openai"), "config": {"apiToken": RANDOM}})
    written = emit(document.model_copy(update={"spec": spec})).decode()
    assert MARK.findall(written)
    assert SECRETS["openai"][2] not in written
    assert RANDOM not in written
    assert load(written.encode(), "status/openai-chat.yaml")[1] == ()


# ---- logs, messages, what peers say --------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@EACH
def test_no_log_line_holds_one(name: str, form: str) -> None:
    with logged(form) as stream:
        log = logging.getLogger("capsule.test")
        log.warning("a server said %s", said(name))
        try:
            raise ValueError(said(name))
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert "failed" in text
    assert SECRETS[name][2] not in text


@EACH
def test_no_message_and_no_quoted_answer_holds_one(name: str) -> None:
    text, secret = said(name), SECRETS[name][2]
    event = Event("k", "Drift", "a", (), (), None, f"drift: {text}", (text,))
    for events in ([event], [event, replace(event, key="l")]):
        message = message_of("ops", events)
        assert secret not in message.title + message.body
    assert secret not in quoted_peer(text)
    assert secret not in quoted_peer(text.encode())


def test_a_value_is_judged_by_its_name_too() -> None:
    assert MARK.fullmatch(redacted_value("apiToken", RANDOM))
    assert redacted_value("model", RANDOM) == RANDOM
    assert redacted_value("apiToken", "unset") == "unset"
