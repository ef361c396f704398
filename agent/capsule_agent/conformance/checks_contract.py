"""Checks of reports, of what is no message, and of HTTP. Each raises Nonconformance. Called by suite."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from capsule_agent.conformance.caller import Answered
from capsule_agent.conformance.retell import read_vector_file
from capsule_agent.conformance.session import Nonconformance, Session
from capsule_agent.protocol.messages import encode

_MAX_BODY = 1024 * 1024
_CALLS = ("report", "order", "query")


def report_is_signed_and_fresh(session: Session) -> None:
    """A report carries the caller's nonce and the service's name, signed by the agent's key."""
    for nonce in ("conformance-1", "conformance-2", "~" * 64, ""):
        report = session.report(nonce)
        if report.nonce != nonce:
            raise Nonconformance(f"the report's nonce is {report.nonce!r}, expected {nonce!r}")
        if report.service != session.plan.service:
            raise Nonconformance(f"the report is of {report.service!r}, expected {session.plan.service!r}")


def report_names_what_it_offers(session: Session) -> None:
    """The report lists runHealthCheck, and the action under test with the approvals it needs."""
    offered = {action.name: action for action in session.report("offers").actions}
    if "runHealthCheck" not in offered or offered["runHealthCheck"].approvals:
        raise Nonconformance("expected runHealthCheck among the actions, without approvals")
    action = offered.get(session.plan.action)
    if action is None:
        raise Nonconformance(f"expected {session.plan.action} among the actions: {', '.join(offered)}")
    if action.approvals < 1 or action.evidence != "signature":
        raise Nonconformance(f"expected {action.name} to need signed approvals, and to say so")


def report_call_is_strict(session: Session) -> None:
    """A report is asked with a nonce of at most 64 printable ASCII characters, and with nothing else."""
    for call in ({}, {"nonce": 1}, {"nonce": "n", "more": 1}, {"nonce": "n" * 65}, {"nonce": "\n"}):
        _expect_bad_message(
            session, session.caller.call("report", json.dumps(call).encode()), f"report {call}"
        )


def hostile_json_is_refused(session: Session) -> None:
    """What is no strict JSON (the vectors of json.json) is refused as the body of every call."""
    for what, data in _hostile().items():
        for name in _CALLS:
            _expect_bad_message(session, session.caller.call(name, data), f"{name}: {what}")


def deep_and_long_json_is_refused(session: Session) -> None:
    """Deep nesting, long numbers and long names end neither the agent nor its strictness."""
    deep = b'{"payload": ' + b"[" * 20_000 + b"]" * 20_000 + b', "signature": ""}'
    long = b'{"payload": ' + b"9" * 5_000 + b', "signature": ""}'
    name = b'{"' + b"n" * 100_000 + b'": 1}'
    for what, data in (("deep", deep), ("long number", long), ("long name", name), ("nothing", b"")):
        _expect_bad_message(session, session.caller.call("order", data), what)
    session.report("still-there")


def envelope_is_strict(session: Session) -> None:
    """An unknown, missing or ill-typed field of an envelope is an error."""
    good = encode(session.health_check().envelope())
    for what, value in (
        ("unknown field", {**good, "more": 1}),
        ("no signature", {"payload": good["payload"]}),
        ("payload is no text", {**good, "payload": json.loads(good["payload"])}),
        ("unknown field in the evidence", {**good, "evidence": {**good["evidence"], "more": 1}}),
    ):
        _expect_bad_message(session, session.caller.call("order", json.dumps(value).encode()), what)


def signed_payload_is_strict(session: Session) -> None:
    """A reconciler's signature does not make a payload strict JSON, nor an order of other fields one."""
    order = encode(session.health_check().order)
    payloads = {what: data.decode() for what, data in _hostile().items() if _is_text(data)}
    payloads |= {
        "unknown field": json.dumps({**order, "more": 1}),
        "attempt is text": json.dumps({**order, "attempt": "1"}),
        "attempt is a fraction": json.dumps({**order, "attempt": 1.5}),
        "attempt is true": json.dumps({**order, "attempt": True}),
        "no notAfter": json.dumps({name: part for name, part in order.items() if name != "notAfter"}),
        "other kind": json.dumps({**order, "kind": "Query"}),
        "other version": json.dumps({**order, "apiVersion": "capsule/v2"}),
        "name twice": json.dumps(order)[:-1] + ', "attempt": 2}',
    }
    for what, payload in payloads.items():
        answered = session.call(session.seal(payload))
        _expect_bad_message(session, answered, what)


def numbers_are_never_guessed(session: Session) -> None:
    """A parameter is never converted to fit, and a fraction is no parameter."""
    for number in ("1.5", "24.0", "true", "null", "[]", "12"):
        ask = session.ask(params={next(iter(session.plan.params), "grace"): json.loads(number)})
        verdict = session.verdict(ask.envelope())
        if (verdict.outcome, verdict.reason) not in (
            ("refused", "ParamsInvalid"),
            ("problem", "MessageInvalid"),
        ):
            raise Nonconformance(
                f"a parameter {number}: expected refused ParamsInvalid, got {_said(*verdict[:2])}"
            )


def unknown_parameters_are_refused(session: Session) -> None:
    """A parameter that the action does not take is refused, although it was approved."""
    verdict = session.verdict(session.ask(params={**session.plan.params, "more": "x"}).envelope())
    if (verdict.outcome, verdict.reason) != ("refused", "ParamsInvalid"):
        raise Nonconformance(f"expected refused ParamsInvalid, got {_said(*verdict[:2])}")


def half_times_are_refused(session: Session) -> None:
    """A notAfter that is no RFC 3339 time in UTC is refused."""
    for text in ("2999-01-01", "2999-01-01T00:00:00", "2999-01-01T00:00:00+00:00", "2999-13-01T00:00:00Z"):
        verdict = session.verdict(replace(session.health_check(), not_after=text).envelope())
        if verdict.outcome not in ("refused", "problem"):
            raise Nonconformance(f"notAfter {text!r}: expected a refusal, got {_said(*verdict[:2])}")


def http_other_methods_and_paths(session: Session) -> None:
    """Only POST, and only the three calls; each refusal is a problem document."""
    for method, path, status in (
        ("GET", "/capsule/v1/report", 405),
        ("PUT", "/capsule/v1/order", 405),
        ("POST", "/capsule/v1/nothing", 404),
    ):
        _expect_status(session, session.caller.send(method, path, b"{}", _TYPED), status, f"{method} {path}")


def http_only_json(session: Session) -> None:
    """A body of another type is refused with 415."""
    headers = {"Content-Type": "text/plain"}
    answered = session.caller.send("POST", "/capsule/v1/report", b'{"nonce": "n"}', headers)
    _expect_status(session, answered, 415, "Content-Type: text/plain")


def http_oversize_is_refused(session: Session) -> None:
    """A body above 1 MiB is refused with 413, by its announced length."""
    headers = {**_TYPED, "Content-Length": str(_MAX_BODY + 1)}
    answered = session.caller.send("POST", "/capsule/v1/order", None, headers)
    _expect_status(session, answered, 413, f"{_MAX_BODY + 1} bytes")


_TYPED = {"Content-Type": "application/json"}


def _hostile() -> dict[str, bytes]:
    return {what: base64.b64decode(text) for what, text in read_vector_file("json.json")["refused"].items()}


def _is_text(data: bytes) -> bool:
    """Whether the bytes can stand in a payload, which is text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _expect_bad_message(session: Session, answered: Answered, what: str) -> None:
    _expect_status(session, answered, 400, what)
    if answered.reason != "MessageInvalid":
        raise Nonconformance(f"{what}: expected the reason MessageInvalid, got {answered.reason}")


def _expect_status(session: Session, answered: Answered, status: int, what: str) -> None:
    if answered.status != status:
        raise Nonconformance(f"{what}: expected status {status}, got {answered.status}")
    session.problem(answered)


def _said(outcome: str, reason: str) -> str:
    return f"{outcome} {reason}"
