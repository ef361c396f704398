"""What the checks ask with: orders and queries that are right, and answers that are believed only if signed.

Rules kept: every order is about a fresh request, so that no check disturbs another; every answer's
signature, service, repository and operation are checked, and that the journal keeps its id and never falls
back, whatever the check is about. Called by the checks and by suite.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from capsule_agent.conformance.caller import Answered, Caller
from capsule_agent.conformance.keys import FILLERS, KeyRing
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import generation_at
from capsule_agent.protocol.ids import desired_state_id, operation_id, request_digest
from capsule_agent.protocol.messages import (
    Approval,
    ApprovedRequest,
    Envelope,
    Evidence,
    JournalMark,
    Order,
    Query,
    Receipt,
    Report,
    SignedText,
    SignersList,
    decode,
    encode,
    instant_text,
)
from capsule_agent.protocol.sshsig import BadSignature, PublicKey
from capsule_agent.protocol.strict_json import InvalidMessage

RECONCILER = "reconciler-1"
_PATIENCE_SECONDS = 60.0
_MAX_ANSWER = 2**20


class Nonconformance(Exception):
    """The agent does not keep the contract; the text says what was expected and what came."""


class Verdict(NamedTuple):
    """How a call was answered: the outcome of a receipt, or `problem`; the reason; the bytes that came."""

    outcome: str
    reason: str
    body: bytes
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of the agent under test: its service, and the action that needs approvals."""

    service: str
    action: str = "rotateKey"
    params: Mapping[str, Any] = field(default_factory=lambda: {"grace": "0s"})
    other_params: Mapping[str, Any] = field(default_factory=lambda: {"grace": "24h"})
    """Other parameters that the action takes as well."""


@dataclass(slots=True)
class Session:
    """One run of the suite against one agent. `agent_key`: the key that must sign; None until learnt."""

    caller: Caller
    ring: KeyRing
    plan: Plan
    agent_key: PublicKey | None = None
    needed: int = 1
    mark: JournalMark | None = None
    serial: int = 0
    generation: int = 0

    def __post_init__(self) -> None:
        """Serials and generations only ever rise, over all runs with the same keys."""
        self.serial = self.generation = generation_at(datetime.now(UTC))

    # ---- asking ---------------------------------------------------------------------------------

    def signers(self, **changes: str) -> SignersList:
        """The present list of signers, or one of the same serial with something wrong."""
        return self.ring.signers(self.serial, **changes)

    def newer_signers(self, **changes: str) -> SignersList:
        """A list with a higher serial, which becomes the present one."""
        self.serial += 1
        return self.signers(**changes)

    def ask(self, **changes: Any) -> Ask:
        """A new approved order."""
        request = f"{datetime.now(UTC):%Y%m%d}-conformance-{secrets.token_hex(6)}"
        params = changes.pop("params", self.plan.params)
        return Ask(self, request, self.plan.action, params, **changes)

    def health_check(self) -> Ask:
        """A new order for the action that every agent offers and that needs no approval."""
        return replace(self.ask(params={}), action="runHealthCheck", approvers=())

    def desired(self, action: str, generation: int, **params: Any) -> Envelope:
        """A desired-state order: no request, a generation."""
        digest = request_digest(f"{action} {params}".encode())
        about = (self.ring.repository, self.plan.service)
        order = Order(
            repository=self.ring.repository,
            op_id=desired_state_id(*about, digest, generation),
            service=self.plan.service,
            action=action,
            params={"generation": generation, **params},
            request="",
            request_digest=digest,
            attempt=1,
            not_after=in_minutes(5),
            reconciler=RECONCILER,
        )
        return self.seal(order)

    def seal(
        self,
        call: Order | Query | str,
        by: str = RECONCILER,
        evidence: Evidence | None = None,
        signers: SignersList | None = None,
    ) -> Envelope:
        """A call (or any text) signed by a reconciler, or by another."""
        payload = call if isinstance(call, str) else call.to_json().decode()
        signature = self.ring.keys[by].sign(payload.encode(), sshsig.ORDER)
        return Envelope(payload, signature, evidence, signers or self.signers())

    # ---- being answered -------------------------------------------------------------------------

    def call(self, envelope: Envelope, name: str = "order") -> Answered:
        """What the agent answers, unread."""
        return self.caller.call(name, json.dumps(encode(envelope), ensure_ascii=False).encode())

    def verdict(self, envelope: Envelope, name: str = "order") -> Verdict:
        """How the agent answers; a receipt is verified. Raises Nonconformance."""
        answered = self.call(envelope, name)
        if answered.status != 200:
            return Verdict("problem", self.problem(answered), answered.body)
        receipt = self._receipt(answered, json.loads(envelope.payload))
        return Verdict(receipt.outcome, receipt.reason, answered.body, receipt)

    def problem(self, answered: Answered) -> str:
        """The reason of a refusal that is no receipt. Raises Nonconformance."""
        if not 400 <= answered.status < 600:
            raise Nonconformance(f"expected a problem, got status {answered.status}")
        if not answered.reason:
            raise Nonconformance(
                f"status {answered.status} without application/problem+json that holds a reason"
            )
        return answered.reason

    def receipt(self, envelope: Envelope, name: str = "order") -> Receipt:
        """The verified receipt of a call. Raises Nonconformance for anything else."""
        verdict = self.verdict(envelope, name)
        if verdict.receipt is None:
            raise Nonconformance(f"expected a receipt, got a problem: {verdict.reason}")
        return verdict.receipt

    def done(self, asked: Ask | Envelope) -> Verdict:
        """How an order ended; while it runs, the same order is sent again. Raises Nonconformance."""
        sent = asked if isinstance(asked, Envelope) else asked.envelope()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (verdict := self.verdict(sent)).outcome == "running":
            if time.monotonic() > deadline:
                raise Nonconformance(f"the order still runs after {_PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)
        return verdict

    def report(self, nonce: str) -> Report:
        """The verified report. Raises Nonconformance."""
        answered = self.caller.call("report", json.dumps({"nonce": nonce}).encode())
        if answered.status != 200:
            raise Nonconformance(f"a report was asked, and status {answered.status} came")
        envelope = self._envelope(answered)
        self._verify(envelope, sshsig.REPORT)
        try:
            report = decode(Report, envelope.payload.encode())
        except InvalidMessage as error:
            raise Nonconformance(f"the report: {error}") from None
        self._follow(report.journal)
        return report

    def _envelope(self, answered: Answered) -> Envelope:
        if answered.content_type != "application/json":
            raise Nonconformance(f"the answer is {answered.content_type!r}, expected application/json")
        try:
            return decode(Envelope, answered.body, max_bytes=_MAX_ANSWER)
        except InvalidMessage as error:
            raise Nonconformance(f"the answer is no envelope: {error}") from None

    def _verify(self, envelope: Envelope, namespace: str) -> None:
        try:
            if self.agent_key is None:
                self.agent_key = sshsig.claimed_key(envelope.signature)
            sshsig.verify(envelope.payload.encode(), envelope.signature, namespace, [self.agent_key])
        except BadSignature as error:
            raise Nonconformance(f"the answer's signature in {namespace}: {error}") from None

    def _receipt(self, answered: Answered, call: Mapping[str, Any]) -> Receipt:
        envelope = self._envelope(answered)
        self._verify(envelope, sshsig.RECEIPT)
        try:
            receipt = decode(Receipt, envelope.payload.encode())
        except InvalidMessage as error:
            raise Nonconformance(f"the receipt: {error}") from None
        for what, found, expected in (
            ("repository", receipt.repository, call["repository"]),
            ("opId", receipt.op_id, call["opId"]),
            ("service", receipt.service, self.plan.service),
        ):
            if found != expected:
                raise Nonconformance(f"the receipt's {what} is {found!r}, expected {expected!r}")
        if self.mark is not None and receipt.journal.id != self.mark.id:
            raise Nonconformance("the journal's id changed during the test")
        return receipt

    def _follow(self, mark: JournalMark) -> None:
        """Reports show the journal as it is now; a stored receipt shows it as it was."""
        if self.mark is not None and (mark.id != self.mark.id or mark.sequence < self.mark.sequence):
            raise Nonconformance("the journal's id changed, or its sequence fell, during the test")
        self.mark = mark


@dataclass(frozen=True, slots=True)
class Ask:
    """One request with its order and its approvals, all right; `dataclasses.replace` makes one wrong."""

    session: Session
    request: str
    action: str
    params: Mapping[str, Any]
    text: str = "apiVersion: capsule/v1\nkind: ActionRequest\n"
    attempt: int = 1
    not_after: str = ""
    approvers: tuple[str, ...] | None = None

    @property
    def request_bytes(self) -> bytes:
        """The request's text; agents hash it and read nothing of it."""
        return f"{self.text}# {self.request} {self.action}\n".encode()

    @property
    def order(self) -> Order:
        """The order."""
        ring, service = self.session.ring, self.session.plan.service
        digest = request_digest(self.request_bytes)
        return Order(
            repository=ring.repository,
            op_id=operation_id(ring.repository, self.request, digest, service),
            service=service,
            action=self.action,
            params=self.params,
            request=self.request,
            request_digest=digest,
            attempt=self.attempt,
            not_after=self.not_after or in_minutes(5),
            reconciler=RECONCILER,
        )

    def approval(self, name: str) -> SignedText:
        """The approval of `name`, signed."""
        order = self.order
        shown = ApprovedRequest(
            order.request, order.request_digest, "alice", order.action, dict(order.params)
        )
        approval = Approval(
            repository=order.repository,
            principal=name,
            decision="approve",
            request=shown,
            targets={order.service: "sha256:" + "41ab" * 16},
            expires=in_minutes(60),
        )
        return self.session.ring.sign(approval.to_json(), name, sshsig.APPROVAL)

    def evidence(self) -> Evidence:
        """The signed request, and as many approvals as are needed."""
        names = self.approvers
        if names is None:
            names = ("bob", *FILLERS)[: self.session.needed]
        request = self.session.ring.sign(self.request_bytes, "alice", sshsig.REQUEST)
        return Evidence(request, tuple(self.approval(name) for name in names))

    def envelope(self, signers: SignersList | None = None) -> Envelope:
        """The order as it is sent."""
        return self.session.seal(self.order, evidence=self.evidence(), signers=signers)

    def bare(self) -> Envelope:
        """The order without anything that people signed."""
        return self.session.seal(self.order)

    def query(self, *, tombstone: bool = False) -> Envelope:
        """The question what became of it."""
        order = self.order
        query = Query(
            repository=order.repository,
            op_id=order.op_id,
            service=order.service,
            attempt=self.attempt,
            not_after=order.not_after,
            reconciler=order.reconciler,
            tombstone=tombstone,
        )
        return self.session.seal(query)


def in_minutes(minutes: float) -> str:
    """The time so many minutes from now."""
    return instant_text(datetime.now(UTC) + timedelta(minutes=minutes))
