"""What agents answer, believed only as far as the service's key signed it.

Rules kept: the signature is over the exact bytes, in the exact namespace, by the key in the service's
document; an answer is about the operation that was asked about; no text in it may move a terminal's cursor or
hide from a reader; nothing that looks like a credential goes on from here: in a report it is replaced by its
fingerprint, and a receipt, which must stay as it was signed, is thrown away. Called by the reconciler and by
`capsule audit verify`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from capsule.documents.problems import FORBIDDEN
from capsule.documents.scalars import NAME, WORD
from capsule.documents.secrets import findings, redacted, redacted_value
from capsule_agent.protocol import messages, sshsig, strict_json
from capsule_agent.protocol.messages import ActionInfo, Envelope, Receipt, Report
from capsule_agent.protocol.sshsig import PublicKey
from capsule_agent.protocol.strict_json import InvalidMessage

REASONS: dict[str, str] = {
    "MalformedAnswer": "The agent's answer is not a message of the wire contract.",
    "AnswerUnsigned": "The answer carries no signature although the service's document names a key.",
    "BadAgentSignature": "The answer was not signed by the key in the service's document.",
    "UnusableName": "The agent calls its service by what cannot be the name of one: mend the adapter.",
    "AnswerForOther": "The answer is about another service, repository, operation or attempt, or was "
    "replayed.",
    "UnsafeText": "A text of the answer holds control, invisible or bidirectional characters, "
    "or is too long.",
    "BadOutput": "A name or value of the answer is not of a declared kind: text, whole number, "
    "true or false.",
    "SecretInOutput": "A text of the answer looks like a credential. A receipt is kept as it was signed or "
    "not at all, so it is thrown away whole: rotate that credential, and declare the value sensitive in the "
    "adapter.",
}

MAX_ENVELOPE = 1024 * 1024
MAX_LINE = 500
MAX_VALUE = 4000
MAX_VALUES = 64
_SHORT = 200

_SERVICE = re.compile(NAME)
_WORD = re.compile(WORD)


class Untrusted(ValueError):
    """An answer that must not be believed. `reason` is one of REASONS; the text quotes nothing secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class OpenedReceipt(NamedTuple):
    """A receipt that verified, with the signed bytes and the armored signature, as audit keeps them."""

    receipt: Receipt
    payload: bytes
    signature: str


def open_receipt(
    envelope: bytes,
    key: PublicKey,
    *,
    repository: str,
    service: str,
    op_id: str,
    attempt: int | None = None,
) -> OpenedReceipt:
    """Verify the answer to an order or a query.

    `attempt` is that of the claim in force: an agent may answer with the stored receipt of an earlier one,
    never of a later one. Raises Untrusted.
    """
    outer = _envelope(envelope)
    payload = outer.payload.encode()
    receipt = check_receipt(
        payload, outer.signature, key, repository=repository, service=service, op_id=op_id
    )
    if attempt is not None and receipt.attempt > attempt:
        raise Untrusted("AnswerForOther", f"the receipt answers attempt {receipt.attempt}, not {attempt}")
    return OpenedReceipt(receipt, payload, outer.signature)


def check_receipt(
    payload: bytes, signature: str, key: PublicKey, *, repository: str, service: str, op_id: str
) -> Receipt:
    """Verify a receipt as audit keeps it: its signed bytes and the signature beside. Raises Untrusted."""
    _check_signature(payload, signature, sshsig.RECEIPT, key)
    try:
        receipt = messages.decode(Receipt, payload)
        for at in (receipt.started_at, receipt.finished_at):
            if at is not None:
                messages.instant(at)
    except InvalidMessage as error:
        raise Untrusted("MalformedAnswer", f"the receipt: {error}") from None
    for what, found, expected in (
        ("repository", receipt.repository, repository),
        ("service", receipt.service, service),
        ("operation", receipt.op_id, op_id),
    ):
        if found != expected:
            raise Untrusted("AnswerForOther", f"the receipt is about another {what}")
    if receipt.attempt < 0 or receipt.journal.sequence < 0:
        raise Untrusted("MalformedAnswer", "the receipt: expected no negative number")
    _check_words("reason", [receipt.reason])
    _check_line("message", receipt.message)
    _check_line("agentVersion", receipt.agent_version)
    _check_line("journal.id", receipt.journal.id, 64)
    _check_words("action", [receipt.action] if receipt.action or not _may_not_know(receipt) else [])
    _check_values("outputs", receipt.outputs)
    return receipt


def _may_not_know(receipt: Receipt) -> bool:
    """Whether it may name no action: the agent never saw the operation, or keeps it from running."""
    return receipt.outcome in ("unknown", "refused")


class FirstReport(NamedTuple):
    """A report of an agent nobody knows yet, and the key that signed it; None when it was not signed."""

    report: Report
    key: PublicKey | None


def open_first_report(envelope: bytes, *, nonce: str) -> FirstReport:
    """Read the report of an agent that no document names: its signature holds under the key it came with.

    That proves that the agent has that key, and not whose agent it is: a person compares the key before it
    is trusted. Raises Untrusted.
    """
    outer = _envelope(envelope)
    try:
        service = messages.decode(Report, outer.payload.encode()).service
        key = sshsig.claimed_key(outer.signature) if outer.signature else None
    except InvalidMessage as error:
        raise Untrusted("MalformedAnswer", f"the report: {error}") from None
    except sshsig.BadSignature as error:
        raise Untrusted("BadAgentSignature", f"the answer: {error}") from None
    if not _SERVICE.fullmatch(service):
        raise Untrusted("UnusableName", "the agent names its service with what is no name of a service")
    report = _opened_report(outer, key, service=service, nonce=nonce)
    _check_report_texts(report)
    return FirstReport(report, key)


def open_report(envelope: bytes, key: PublicKey | None, *, service: str, nonce: str) -> Report:
    """Verify an agent's report; without a `key` (observe only) it is read and checked, but proves nothing.

    `nonce` is that of the call, so that an old report cannot be replayed. A credential in one of its texts is
    replaced by its fingerprint (`secrets.MARK` tells where). Raises Untrusted.
    """
    report = _without_secrets(_opened_report(_envelope(envelope), key, service=service, nonce=nonce))
    _check_report_texts(report)
    return report


def _opened_report(outer: Envelope, key: PublicKey | None, *, service: str, nonce: str) -> Report:
    payload = outer.payload.encode()
    if key is not None:
        _check_signature(payload, outer.signature, sshsig.REPORT, key)
    try:
        report = _read_report(payload)
        for at in (report.at, report.health.checked_at, report.key_created_at):
            if at is not None:
                messages.instant(at)
    except InvalidMessage as error:
        raise Untrusted("MalformedAnswer", f"the report: {error}") from None
    if report.service != service:
        raise Untrusted("AnswerForOther", "the report is of another service")
    if report.nonce != nonce:
        raise Untrusted("AnswerForOther", "the report answers another call")
    if report.journal.sequence < 0 or report.signers_serial < 0:
        raise Untrusted("MalformedAnswer", "the report: expected no negative number")
    return report


def _check_report_texts(report: Report) -> None:
    _check_line("version", report.version)
    _check_line("health.detail", report.health.detail)
    _check_line("disabledReason", report.disabled_reason)
    _check_line("journal.id", report.journal.id, 64)
    _check_line("busy", report.busy or "")
    _check_line("repository", report.repository or "", 64)
    _check_values("config", report.config)
    _check_values("fingerprints", report.fingerprints)


def _read_report(payload: bytes) -> Report:
    """The report, its actions read and checked once for all agents and reports that say the same of them."""
    value = strict_json.parse(payload)
    if not isinstance(value, dict) or not value.get("actions"):
        return messages.from_value(Report, value)
    actions = _actions(json.dumps(value["actions"]))
    return replace(messages.from_value(Report, {**value, "actions": []}), actions=actions)


@lru_cache(maxsize=256)
def _actions(text: str) -> tuple[ActionInfo, ...]:
    """What an agent offers, from JSON that was read strictly. Thousands of agents say the same, each time."""
    actions = messages.from_value(_Actions, {"actions": json.loads(text)}, "Report").actions
    if len(actions) > MAX_VALUES:
        raise Untrusted("BadOutput", f"more than {MAX_VALUES} actions")
    _check_words("actions", [action.name for action in actions])
    for action in actions:
        if action.approvals < 0:
            raise Untrusted("MalformedAnswer", "the report: expected no negative number")
        for said in (*_texts(action.params), *_texts(action.outputs)):
            _check_line("actions", said, MAX_VALUE)
    return actions


@dataclass(frozen=True, slots=True)
class _Actions(messages.Message):
    """The part of a report that says what the agent offers."""

    actions: tuple[ActionInfo, ...]


def _envelope(data: bytes) -> Envelope:
    try:
        outer = messages.decode(Envelope, data, max_bytes=MAX_ENVELOPE)
    except InvalidMessage as error:
        raise Untrusted("MalformedAnswer", f"the envelope: {error}") from None
    if outer.evidence is not None or outer.signers is not None:
        raise Untrusted("MalformedAnswer", "the envelope: an answer carries no evidence and no signers")
    return outer


def _check_signature(payload: bytes, signature: str, namespace: str, key: PublicKey) -> None:
    if not signature:
        raise Untrusted("AnswerUnsigned", "the answer is not signed")
    try:
        sshsig.verify(payload, signature, namespace, [key])
    except sshsig.BadSignature as error:
        raise Untrusted("BadAgentSignature", f"the answer: {error}") from None


def _check_words(what: str, words: list[str]) -> None:
    for word in words:
        if not _WORD.fullmatch(word):
            raise Untrusted("BadOutput", f"{what}: expected a word of letters and digits")


def _check_values(what: str, values: Mapping[str, Any]) -> None:
    if len(values) > MAX_VALUES:
        raise Untrusted("BadOutput", f"{what}: more than {MAX_VALUES} values")
    for name, value in values.items():
        _check_words(what, [name])
        _check_line(what, name)
        if isinstance(value, str):
            _check_line(f"{what}.{name}", value, MAX_VALUE)
        elif not isinstance(value, int):
            raise Untrusted("BadOutput", f"{what}.{name}: expected text, a whole number, true or false")


def _check_line(what: str, text: str, longest: int = MAX_LINE) -> None:
    if len(text) > longest:
        raise Untrusted("UnsafeText", f"{what}: longer than {longest} characters")
    try:
        (_check_short if len(text) <= _SHORT else _check_text)(text)
    except Untrusted as error:
        raise Untrusted(error.reason, f"{what}: {error}") from None


def _check_text(text: str) -> None:
    if FORBIDDEN.search(text) or "\n" in text or "\t" in text:
        raise Untrusted("UnsafeText", "a character that a terminal obeys or a reader cannot see")
    if holds_secret(text):
        raise Untrusted("SecretInOutput", "looks like a credential")


@lru_cache(maxsize=4096)
def _check_short(text: str) -> None:
    """Agents say the same words in every report: what was found plain is not looked through again. (What
    raises is not kept.)"""
    _check_text(text)


def holds_secret(text: str) -> bool:
    """Whether `text` holds what looks like a private key or an API token."""
    return bool(findings(text))


def _without_secrets(report: Report) -> Report:
    """The report with each credential in its texts replaced.

    What it offers is not replaced: a schema with a credential in it is refused.
    """
    config = {
        name: redacted_value(name, value) if isinstance(value, str) else value
        for name, value in report.config.items()
    }
    version, detail, why = map(redacted, (report.version, report.health.detail, report.disabled_reason))
    health = replace(report.health, detail=detail)
    return replace(report, version=version, health=health, disabled_reason=why, config=config)


def _texts(value: Any) -> Iterator[str]:
    """Every text inside of a JSON value; its depth was bounded when it was parsed."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            stack += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            stack += part
