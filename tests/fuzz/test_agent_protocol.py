"""Any bytes sent to an agent, to a receiver of webhooks or in frames: an answer or the documented error."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st

from capsule.daemon.webhook import MOST_BYTES, Webhooks
from capsule_agent import Agent, asgi, wsgi
from capsule_agent.calls import MAX_BODY, Answer, Calls
from capsule_agent.protocol import frames, messages, sshsig, strict_json
from capsule_agent.protocol.messages import (
    Approval,
    Envelope,
    Order,
    Query,
    Receipt,
    Report,
    Signers,
    decode,
    encode,
)
from capsule_agent.protocol.strict_json import InvalidMessage
from tests.agent_fixtures import (
    Ask,
    KeyStore,
    body,
    desired,
    healthy,
    key,
    make_agent,
    read_receipt,
    seal,
    signers_list,
)
from tests.fuzz.fuzzing import fuzz, spoiled, spoiled_json

ASK = Ask()
ENVELOPES = [
    ASK.envelope(),
    ASK.query(),
    ASK.query(tombstone=True),
    desired("disable", 3),
    Ask(approvers=("bob", "carol")).envelope(),
]
BODIES = [body(each) for each in ENVELOPES] + [b'{"nonce": "n1"}']
WORDS = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"null",
        b"NaN",
        b"1e999",
        b"-0",
        b"\\ud800",
        b"\\u0000",
        b'{"a":' * 40,
    ),
    *(b"[" * 40, b'"payload":', b'"evidence":', b"9" * 400, b"\xef\xbb\xbf", b"\\", b'""'),
]
KINDS = (Envelope, Order, Query, Receipt, Report, Signers, Approval)


@fuzz(data=spoiled(BODIES, WORDS) | st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_an_invalid_message(data: bytes, kind: type[messages.Message]) -> None:
    try:
        value = strict_json.parse(data)
    except InvalidMessage as error:
        few_words(error)
    else:
        assert strict_json.parse(json.dumps(value).encode()) == value
    try:
        message = decode(kind, data)
    except InvalidMessage as error:
        few_words(error)
    else:
        assert decode(kind, message.to_json()) == message


def few_words(error: InvalidMessage) -> None:
    assert len(str(error)) < 1000


@fuzz(value=spoiled_json([json.loads(data) for data in BODIES]), kind=st.sampled_from(KINDS))
def test_any_value_is_a_message_or_an_invalid_message(value: Any, kind: type[messages.Message]) -> None:
    try:
        message = messages.from_value(kind, value)
    except InvalidMessage as error:
        few_words(error)
    else:
        assert messages.from_value(kind, encode(message)) == message


@fuzz(
    text=st.text(max_size=40)
    | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,7})?Z?")
)
def test_any_text_is_an_instant_or_an_invalid_message(text: str) -> None:
    try:
        when = messages.instant(text)
    except InvalidMessage as error:
        few_words(error)
    else:
        assert when.utcoffset() is not None
        assert text.endswith("Z")


# ---- frames -------------------------------------------------------------------------------------

FRAMES = [
    b"".join(
        [
            frames.frame({"kind": "hello"}),
            frames.frame({"kind": "call", "id": 7, "call": "order", "timeout": 30.0}, BODIES[0]),
            frames.frame({"kind": "pong", "id": 8}),
        ]
    ),
    b"Welcome!\r\n"
    + frames.frame({"kind": "answer", "id": 7, "status": 200, "type": "application/json"}, b"{}"),
]


@fuzz(
    data=spoiled(FRAMES, [frames.MAGIC, frames.MAGIC[:4], b"\xff" * 8, b"\0" * 8, b"{}"]),
    noise=st.sampled_from([0, 16, frames.MAX_NOISE]),
    cut=st.integers(1, 200),
)
def test_any_stream_is_frames_or_a_frame_error_however_it_is_cut(data: bytes, noise: int, cut: int) -> None:
    whole, parts = (
        read_frames([data], noise),
        read_frames([data[at : at + cut] for at in range(0, len(data), cut)], noise),
    )
    assert whole == parts
    for each in whole[0]:
        again = frames.FrameReader().feed(frames.frame(each.head, each.body))
        assert [found.body for found in again] == [each.body]


def read_frames(pieces: list[bytes], noise: int) -> tuple[list[frames.Frame], bool]:
    """The frames in a stream that comes in pieces, and whether it ended in an error."""
    reader = frames.FrameReader(noise=noise)
    found = []
    try:
        for piece in pieces:
            found += list_until_error(reader.feed(piece), found)
    except frames.FrameError:
        return found, True
    return found, False


def list_until_error(coming: Iterator[frames.Frame], found: list[frames.Frame]) -> list[frames.Frame]:
    """Nothing; what came before an error is kept in `found`."""
    for each in coming:
        found.append(each)
    return []


# ---- an agent -----------------------------------------------------------------------------------


class Hosted:
    """One agent for all examples, with an action that people approve; `ran` counts what it did."""

    def __init__(self, folder: Path) -> None:
        self.store = KeyStore()
        self.agent: Agent = make_agent(folder)
        self.agent.health(healthy)
        self.agent.config("model", lambda: "gpt-5.1", set=lambda _value: None)
        self.agent.rotation(self.store.rotation(), approvals=1)
        self.agent.start()


@pytest.fixture(scope="module", autouse=True)
def hosted() -> Iterator[None]:
    with TemporaryDirectory() as folder:
        made = Hosted(Path(folder))
        _HOSTED.append(made)
        yield
        _HOSTED.pop().agent.close()


_HOSTED: list[Hosted] = []
CALLS = ("report", "order", "query")


def answer(call: str, data: bytes) -> Answer:
    """What the agent answers: a signed message, or a problem with a reason; never that it failed itself."""
    found = _HOSTED[0].agent.answer(f"/capsule/v1/{call}", data)
    assert found.status in (200, 400, 403), found.body
    told = strict_json.parse(found.body, max_bytes=2**20)
    if found.status == 200:
        assert told["signature"]
    else:
        assert told["reason"][:1].isupper()
        assert len(told["detail"]) < 2000
    return found


@fuzz(data=spoiled(BODIES, WORDS) | st.binary(max_size=100), call=st.sampled_from(CALLS))
def test_any_body_is_answered(data: bytes, call: str) -> None:
    answer(call, data)


@fuzz(value=spoiled_json([json.loads(data) for data in BODIES]), call=st.sampled_from(CALLS))
def test_any_value_is_answered(value: Any, call: str) -> None:
    answer(call, json.dumps(value).encode())


ORDERS = [json.loads(each.payload) for each in ENVELOPES]


@fuzz(
    value=spoiled_json(ORDERS), envelope=st.sampled_from(ENVELOPES), call=st.sampled_from(("order", "query"))
)
def test_whatever_a_reconciler_signs_is_answered_and_rotates_nothing_new(
    value: Any, envelope: Envelope, call: str
) -> None:
    """With the reconciler's key in hand: the one approved operation runs, at most once, and no other."""
    payload = json.dumps(value)
    sealed = Envelope(
        payload, key("reconciler-1").sign(payload.encode(), sshsig.ORDER), envelope.evidence, signers_list()
    )
    found = answer(call, body(sealed))
    assert _HOSTED[0].store.created <= 1
    if found.status == 200:
        receipt = read_receipt(found.body)
        assert receipt.action != "rotateKey" or receipt.outcome in (
            "succeeded",
            "refused",
            "running",
            "unknown",
        )


APPROVAL = json.loads(ASK.approval("bob").to_json())


@fuzz(value=spoiled_json([APPROVAL]), document=spoiled([ASK.request_bytes]), keep=st.booleans())
def test_whatever_an_approver_signs_is_answered(value: Any, document: bytes, keep: bool) -> None:
    other = Ask(request="20261123-other", params={"grace": "1h"})
    text = json.dumps(value)
    signed = messages.SignedText(text, key("bob").sign(text.encode(), sshsig.APPROVAL))
    asked = (ASK.request_bytes if keep else document).decode("utf-8", "replace")
    request = messages.SignedText(asked, key("alice").sign(asked.encode(), sshsig.REQUEST))
    sealed = seal(other.order(), "reconciler-1", messages.Evidence(request, (signed,)), signers_list())
    receipt = read_receipt(answer("order", body(sealed)).body)
    assert receipt.outcome == "refused"


@fuzz(value=spoiled_json([json.loads(signers_list().document)]), serial=st.sampled_from([0, 1, 2, 2**53]))
def test_whatever_an_owner_signs_is_answered(value: Any, serial: int) -> None:
    """Judged alone, for an agent keeps the newest list it was sent."""
    if isinstance(value, dict) and isinstance(value.get("serial"), int):
        value = value | {"serial": min(value["serial"], 1)}
    text = json.dumps(value)
    listed = messages.SignersList(text, (key("owner").sign(text.encode(), sshsig.SIGNERS),))
    answer("query", body(seal(Query(**_fields(ASK.query())), "reconciler-1", None, listed)))


def _fields(envelope: Envelope) -> dict[str, Any]:
    query = decode(Query, envelope.payload.encode())
    return {name: getattr(query, name) for name in Query.__dataclass_fields__}


# ---- over HTTP ----------------------------------------------------------------------------------

PATHS = [
    "/capsule/v1/order",
    "/capsule/v1/report",
    "/capsule/v1/../v1/order",
    "/",
    "",
    "/x/capsule/v1/query",
    "/capsule/v1/\u00e9",
]
METHODS = st.sampled_from(["POST", "GET", "", "post", "P\u00d6ST"])
LENGTHS = st.sampled_from(
    [None, "", "0", "5", "-1", "+5", "٣", "1e3", "9" * 30, str(MAX_BODY), str(MAX_BODY + 1), " 5"]
)
TYPES = st.sampled_from(
    ["application/json", "", "text/plain", "application/json; charset=x", "a/b;" * 100, "\u00ff"]
)


def echo() -> Calls:
    """The agent's own calls."""
    return _HOSTED[0].agent._calls()


@fuzz(
    path=st.sampled_from(PATHS) | st.text(max_size=30),
    method=METHODS,
    length=LENGTHS,
    kind=TYPES,
    data=spoiled(BODIES, WORDS),
)
def test_any_wsgi_environment_is_answered(
    path: str, method: str, length: str | None, kind: str, data: bytes
) -> None:
    started: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "CONTENT_TYPE": kind}
    environ |= {"wsgi.input": io.BytesIO(data)} | ({} if length is None else {"CONTENT_LENGTH": length})  # type: ignore[dict-item]  # WSGI
    app = wsgi.wsgi_app(echo(), lambda: None)
    sent = b"".join(
        app(environ, lambda status, headers, exc_info=None: started.append((status, headers)) or bytes)
    )  # type: ignore[func-returns-value]  # it starts, and returns nothing
    ((status, headers),) = started
    assert int(status[:3]) in (200, 400, 403, 404, 405, 411, 413, 415)
    assert dict(headers)["Content-Length"] == str(len(sent))


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-length", b"Content-Length", b"content-type", b"x", b"\xff"]),
        st.sampled_from([b"0", b"5", b"-1", b"application/json", b"\xff", b"9" * 30, b""])
        | st.binary(max_size=10),
    ),
    max_size=5,
)


@fuzz(
    path=st.sampled_from(PATHS),
    root=st.sampled_from(["", "/", "/x", "/capsule"]),
    headers=HEADERS,
    data=spoiled(BODIES, WORDS),
)
def test_any_asgi_scope_is_answered(
    path: str, root: str, headers: list[tuple[bytes, bytes]], data: bytes
) -> None:
    scope = {"type": "http", "method": "POST", "path": path, "root_path": root, "headers": headers}
    coming = [
        {"type": "http.request", "body": data[at : at + 50], "more_body": True}
        for at in range(0, len(data), 50)
    ]
    coming.append({"type": "http.disconnect"})
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return coming.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(asgi.asgi_app(echo(), lambda: None)(scope, receive, send))
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] in (200, 400, 403, 404, 405, 411, 413, 415)


# ---- webhooks -----------------------------------------------------------------------------------

SECRET = "a-secret-of-some-length"
HOOK = b'{"action": "closed", "pull_request": {"merged": true}}'
MAC = hmac.new(SECRET.encode(), HOOK, hashlib.sha256).hexdigest()
GENUINE = {"github": ("X_HUB_SIGNATURE_256", f"sha256={MAC}"), "gitea": ("X_GITEA_SIGNATURE", MAC)}
GENUINE |= {"forgejo": ("X_FORGEJO_SIGNATURE", MAC), "gitlab": ("X_GITLAB_TOKEN", SECRET)}


@fuzz(
    kind=st.sampled_from([*GENUINE, "", "x", "github/"]),
    seal_of=st.sampled_from(sorted(GENUINE)),
    given_seal=st.none()
    | st.text(max_size=80)
    | spoiled([MAC.encode(), SECRET.encode()]).map(lambda d: d.decode("latin-1")),
    data=spoiled([HOOK]) | st.just(HOOK),
    method=METHODS,
)
def test_any_webhook_is_answered_and_only_a_genuine_one_wakes(
    kind: str, seal_of: str, given_seal: str | None, data: bytes, method: str
) -> None:
    woken: list[int] = []
    started: list[str] = []
    name, right = GENUINE[seal_of]
    header = right if given_seal is None else given_seal
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": f"/webhook/{kind}",
        f"HTTP_{name}": header,
        "wsgi.input": io.BytesIO(data),
    }
    Webhooks(lambda: SECRET, lambda: woken.append(1))(
        environ, lambda status, _headers: started.append(status)
    )
    genuine = method == "POST" and kind == seal_of and header == right and (data == HOOK or kind == "gitlab")
    assert woken == [1] * genuine
    assert started[0][:3] == "202" if genuine else started[0][:3] in ("403", "404", "405", "413")


def test_a_webhook_that_is_too_large_is_not_looked_at() -> None:
    started: list[str] = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/webhook/gitlab", "HTTP_X_GITLAB_TOKEN": SECRET}
    hook = environ | {"wsgi.input": io.BytesIO(b" " * (MOST_BYTES + 1))}
    Webhooks(lambda: SECRET, lambda: started.append("woken"))(
        hook, lambda status, _headers: started.append(status)
    )
    assert [each[:3] for each in started] == ["413"]
