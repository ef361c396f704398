"""What was genuine once is sent again, or changed under way: nothing happens twice, or unasked."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capsule.daemon.webhook import Webhooks
from capsule.documents.codec import load_as
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import AUDIT, MAIN, RequestFolder
from capsule.documents.types import AgentAddress, Result
from capsule.transport.api import CallName, TransportError
from capsule.trust.audit import verify_audit
from capsule.trust.objects import file_bytes, parse_commit
from capsule_agent.protocol.messages import Envelope, Order, decode
from tests.town import Town

SECRET = "a-secret-of-some-length"
HOOK = b'{"action": "closed", "pull_request": {"merged": true}}'
CLAIMED = "rotateKey openai-chat: claimed"


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    main, audit = made.tip(MAIN), made.tip(AUDIT)
    assert main
    assert verify_audit(made.store, made.root, main, audit).first_bad is None
    made.close()


class Recorder:
    """The town's transport, which keeps every order and answer; `answer` and `before` may interfere."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.orders: list[Order] = []
        self.answers: list[bytes] = []
        self.instead: bytes | None = None
        self.before: Any = lambda: None

    def call(self, address: AgentAddress, name: CallName, body: bytes, *, timeout: float) -> bytes:
        if name == "order":
            self.before()
            self.orders.append(decode(Order, decode(Envelope, body).payload.encode()))
        answer = self.town.transport.call(address, name, body, timeout=timeout)
        if name != "order":
            return answer
        self.answers.append(answer)
        return self.instead or answer

    def close(self) -> None:
        """Nothing to let go of."""


def result(town: Town, request: str) -> Result | None:
    tip = town.tip(AUDIT)
    path = RequestFolder("2026/11", request).result("openai-chat")
    data = file_bytes(town.store, parse_commit(town.store.read(tip)[1]).tree, path) if tip else None
    return None if data is None else load_as(Result, data, path)


def test_webhook_replayed(town: Town) -> None:
    """A hook only wakes: sent again, it makes the reconciler look, and there is nothing to do."""
    town.request()
    reconciler = town.reconciler()
    mac = hmac.new(SECRET.encode(), HOOK, hashlib.sha256).hexdigest()
    started: list[str] = []
    app = Webhooks(lambda: SECRET, lambda: town.settle(reconciler))

    def send() -> None:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/webhook/github", "wsgi.input": io.BytesIO(HOOK)}
        app(
            {**environ, "HTTP_X_HUB_SIGNATURE_256": f"sha256={mac}"},
            lambda status, _headers: started.append(status),
        )

    send()
    tip = town.tip(AUDIT)
    assert town.keys["openai-chat"].created == 1
    for _ in range(10):
        send()
    assert started == ["202 Accepted"] * 11
    assert town.tip(AUDIT) == tip
    assert town.keys["openai-chat"].created == 1


def test_webhook_forged_or_sent_with_another_body(town: Town) -> None:
    woken: list[int] = []
    app = Webhooks(lambda: SECRET, lambda: woken.append(1))
    mac = hmac.new(SECRET.encode(), HOOK, hashlib.sha256).hexdigest()
    for body, seal in ((HOOK + b" ", mac), (HOOK, "0" * 64), (HOOK, ""), (b"", mac)):
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/webhook/github", "wsgi.input": io.BytesIO(body)}
        app({**environ, "HTTP_X_HUB_SIGNATURE_256": f"sha256={seal}"}, lambda _status, _headers: None)
    assert woken == []


def test_receipt_of_an_earlier_operation_replayed(town: Town) -> None:
    """An agent (or who stands between) answers an order with a genuine receipt of another operation."""
    line = Recorder(town)
    reconciler = town.reconciler(transport=line)
    town.request("rotate-1")
    town.settle(reconciler)
    first = result(town, "rotate-1")
    assert first is not None
    assert first.spec.outcome == "succeeded"
    line.instead = line.answers[0]
    town.request("rotate-2")
    town.settle(reconciler)
    second = result(town, "rotate-2")
    assert second is not None
    assert (second.spec.outcome, second.spec.reason) == ("unknown", "AnswerForOther")


def test_order_replayed_by_whoever_saw_it(town: Town) -> None:
    line = Recorder(town)
    town.request("rotate-1")
    town.settle(town.reconciler(transport=line))
    agent, keys = town.agents["openai-chat"], town.keys["openai-chat"]
    order = [each.body for each in town.transport.carried if each.name == "order"][-1]
    answers = {agent.answer("/capsule/v1/order", order).body for _ in range(5)}
    assert [json.loads(each)["payload"] for each in answers] == [json.loads(line.answers[0])["payload"]]
    assert keys.created == 1
    town.clock.advance(days=2)
    late = json.loads(agent.answer("/capsule/v1/order", order).body)
    assert keys.created == 1
    assert "OrderTooLate" in late["payload"]


def test_request_changed_between_claim_and_order(town: Town) -> None:
    """The order says what was claimed; the new text runs neither then nor later."""
    line = Recorder(town)
    raw = town.request("rotate-1")
    edited = raw.replace(b"Quarterly", b"Yearly")
    changed: list[str] = []

    def change() -> None:
        if not changed:
            assert town.audit_subjects()[-1] == CLAIMED
            changed.append(town.commit({RequestFolder("2026/11", "rotate-1").request: edited}, "Edit", "bob"))

    line.before = change
    town.settle(town.reconciler(transport=line))
    assert changed
    assert {order.request_digest for order in line.orders} == {bytes_digest(raw)}
    assert town.keys["openai-chat"].created == 1
    assert town.audit_subjects().count(CLAIMED) == 1


def test_request_changed_and_approved_anew_between_claim_and_order(town: Town) -> None:
    """Even with new approvals, and although the first order never arrived: a name is spent at its claim."""
    line = Recorder(town)
    raw = town.request("rotate-1")

    def away() -> None:
        raise TransportError("AgentUnreachable", "no route", kind="stalled")

    line.before = away
    reconciler = town.reconciler(transport=line)
    for _ in range(3):
        reconciler.one_pass(patience=5.0)
        town.clock.advance(seconds=1)
    assert town.audit_subjects().count(CLAIMED) == 1
    town.request("rotate-1", params={"grace": "0s"})
    line.before = lambda: None
    town.settle(reconciler)
    assert line.orders == []
    assert raw != town.file(RequestFolder("2026/11", "rotate-1").request)
    assert town.keys["openai-chat"].created == 0
    assert town.audit_subjects().count(CLAIMED) == 1
    ended = result(town, "rotate-1")
    assert ended is not None
    assert ended.spec.outcome == "cancelled"
