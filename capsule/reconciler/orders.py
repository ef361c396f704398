"""One conversation with one agent: report, order, query; what comes back is verified before it is believed.

Rules kept: an order leaves only after its claim is recorded; an answer that does not verify is a doubt
and never a success; after a doubt the agent is asked, never told again blindly. Called by the reconciler
from the threads of its flights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from capsule.documents.paths import RequestFolder
from capsule.documents.problems import shown
from capsule.documents.types import AgentAddress, Claim, ResultOutcome, Service, StateOrder
from capsule.lifecycle import Observation
from capsule.reconciler.clock import Clock
from capsule.reconciler.recording import Outcome, make_result
from capsule.reconciler.state_records import TOMBSTONED, StateOutcome, make_state_result
from capsule.transport.api import CallName, Transport, TransportError
from capsule.trust.receipts import Untrusted, open_receipt, open_report
from capsule.trust.state import InForce, JudgedRequest, MainState
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import (
    Envelope,
    Evidence,
    Order,
    Query,
    Receipt,
    ReportCall,
    SignedText,
    SignersList,
    instant_text,
)

REASONS: dict[str, str] = {
    "JournalChanged": "The agent's journal is not the one the claim saw: it cannot know what happened.",
    "ServiceGone": "The service was removed from main while an operation on it was under way.",
    "CancelledByRequest": "An approved `cancel` request reached the agent before the order did.",
    "Superseded": "A desired-state order was overruled before its agent began it: by a later order, a later "
    "text of the document, or people who disabled the service. The receipt proves that it never will begin.",
    "RequestGone": "The request is no longer in the repository; what was not begun never will be.",
}
QUERY_SECONDS = 15.0
STATE_SECONDS = 30.0
"""Longest wait for the receipt of a desired-state order: it is told again, so no thread waits longer."""
_LATER = frozenset({"Busy", "OrderTooLate", "AttemptOutdated"})
"""Refusals of a desired-state order that say nothing of it but "not now"."""


@dataclass(frozen=True)
class Errand:
    """One claimed operation and all it takes to see it through."""

    folder: RequestFolder
    request: JudgedRequest | None
    service: InForce[Service]
    claims: tuple[Claim, ...]
    ask_first: bool
    tombstone: bool = False

    @property
    def claim(self) -> Claim:
        """The claim in force."""
        return self.claims[-1]

    @property
    def key(self) -> tuple[str, str]:
        """Request and service: one errand at a time."""
        return self.claim.spec.request, self.claim.spec.service


@dataclass(frozen=True)
class Answer:
    """What an errand brought: an outcome to record, or the reason why there is none yet."""

    outcome: Outcome | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class StateAnswer:
    """What telling a desired-state order brought: an outcome to record, or why there is none yet."""

    outcome: StateOutcome | None
    reason: str = ""
    message: str = ""


class Courier:
    """Carries orders and queries of one reconciler; safe to call from many threads."""

    def __init__(
        self, transport: Transport, signer: sshsig.Signer, name: str, root: str, clock: Clock
    ) -> None:
        self._transport = transport
        self._signer = signer
        self._name = name
        self._root = root
        self._clock = clock

    def probe(self, service: InForce[Service], timeout: float, before: Observation | None) -> Observation:
        """Ask one agent for its report; never raises: a failure is an observation too."""
        name = service.document.metadata.name
        agent = service.document.spec.agent
        nonce = self._clock.nonce()
        began = self._clock.monotonic()
        try:
            body = self._transport.call(agent, "report", ReportCall(nonce).to_json(), timeout=timeout)
            key = sshsig.PublicKey.parse(agent.key) if agent.key else None
            report = open_report(body, key, service=name, nonce=nonce)
        except (TransportError, Untrusted) as error:
            now = self._clock.now()
            since = before.failing_since if before and before.failing_since else now
            old = before.report if before else None
            return Observation(name, now, False, old, error.reason, shown(str(error))[:200], 0, since)
        latency = round((self._clock.monotonic() - began) * 1000)
        return Observation(name, self._clock.now(), True, report, latency_ms=latency)

    def run(self, errand: Errand, state: MainState) -> Answer:
        """See one claimed operation through as far as its agent allows now."""
        timeout = state.settings.document.spec.order_timeout.total_seconds()
        try:
            if errand.ask_first or errand.tombstone:
                receipt, answer = self._ask(errand, state)
                if receipt is None or answer.reason != "NeverSeen":
                    return answer
                if state.suspended:
                    return Answer(None, "Suspended", f"not sent: {state.suspended.message}")
            return self._tell(errand, state, timeout)
        except TransportError as error:
            return Answer(None, error.reason, str(error))
        except Untrusted as error:
            return self._doubt(errand, error.reason, str(error))

    def tell_state(self, order: StateOrder, service: InForce[Service], state: MainState) -> StateAnswer:
        """Tell an agent what its document says; to tell it again is harmless, so a doubt is no outcome."""
        limit = min(state.settings.document.spec.order_timeout.total_seconds(), STATE_SECONDS)
        spec = order.spec
        told = Order(
            repository=self._root,
            op_id=spec.op_id,
            service=spec.service,
            action=spec.action,
            params={**spec.params, "generation": spec.generation},
            request="",
            request_digest=spec.document_digest,
            attempt=1,
            not_after=self._not_after(limit),
            reconciler=self._name,
        )
        return self._converse(order, service, state, "order", told.to_json(), limit)

    def withdraw_state(self, order: StateOrder, service: InForce[Service], state: MainState) -> StateAnswer:
        """Tell an agent never to begin an order that was overruled, and learn what became of it."""
        query = Query(
            repository=self._root,
            op_id=order.spec.op_id,
            service=order.spec.service,
            attempt=1,
            not_after=self._not_after(QUERY_SECONDS),
            reconciler=self._name,
            tombstone=True,
        )
        return self._converse(order, service, state, "query", query.to_json(), QUERY_SECONDS)

    def _converse(
        self,
        order: StateOrder,
        service: InForce[Service],
        state: MainState,
        call: CallName,
        payload: bytes,
        seconds: float,
    ) -> StateAnswer:
        agent, spec = service.document.spec.agent, order.spec
        try:
            key = _key_of(agent)
            answer = self._transport.call(agent, call, self._sealed(payload, state, None), timeout=seconds)
            receipt, said, signature = open_receipt(
                answer,
                key,
                repository=self._root,
                service=spec.service,
                op_id=spec.op_id,
                attempt=1,
            )
        except (TransportError, Untrusted) as error:
            return StateAnswer(None, error.reason, str(error))
        if not _settles(receipt, spec.action, call):
            return StateAnswer(None, receipt.reason, receipt.message)
        result = make_state_result(order, receipt, said, self._clock.now())
        return StateAnswer(StateOutcome(result, said, signature))

    def _tell(self, errand: Errand, state: MainState, timeout: float) -> Answer:
        judged = errand.request
        if judged is None or judged.document is None or not self._still_asked(errand, judged):
            gone = replace(errand, ask_first=True, tombstone=True)
            return self._ask(gone, state)[1]
        spec = judged.document.spec
        order = Order(
            repository=self._root,
            op_id=errand.claim.spec.op_id,
            service=errand.claim.spec.service,
            action=spec.action,
            params=dict(spec.params),
            request=judged.name,
            request_digest=judged.digest,
            attempt=errand.claim.spec.attempt,
            not_after=self._not_after(timeout),
            reconciler=self._name,
        )
        approvals = tuple(
            SignedText(seen.document.decode(), seen.signature)
            for seen in judged.approvals
            if seen.counts and seen.decision != "reject" and seen.evidence == "signature"
        )
        evidence = Evidence(SignedText(judged.raw.decode(), judged.signature), approvals)
        body = self._sealed(order.to_json(), state, evidence)
        return self._receive(errand, "order", body, timeout)[1]

    def _still_asked(self, errand: Errand, judged: JudgedRequest) -> bool:
        """Whether the text that was claimed still stands: one edited since never leaves as an order."""
        document = judged.document
        same = judged.digest == errand.claim.spec.request_digest
        return same and document is not None and document.spec.expires > self._clock.now()

    def _ask(self, errand: Errand, state: MainState) -> tuple[Receipt | None, Answer]:
        spec = errand.claim.spec
        query = Query(
            repository=self._root,
            op_id=spec.op_id,
            service=spec.service,
            attempt=spec.attempt,
            not_after=self._not_after(QUERY_SECONDS),
            reconciler=self._name,
            tombstone=errand.tombstone,
        )
        return self._receive(errand, "query", self._sealed(query.to_json(), state, None), QUERY_SECONDS)

    def _receive(
        self, errand: Errand, name: CallName, body: bytes, timeout: float
    ) -> tuple[Receipt | None, Answer]:
        agent = errand.service.document.spec.agent
        key = _key_of(agent)
        spec = errand.claim.spec
        answer = self._transport.call(agent, name, body, timeout=timeout)
        receipt, payload, signature = open_receipt(
            answer,
            key,
            repository=self._root,
            service=spec.service,
            op_id=spec.op_id,
            attempt=spec.attempt,
        )
        return receipt, self._judge(errand, name, receipt, payload, signature)

    def _judge(
        self, errand: Errand, name: CallName, receipt: Receipt, payload: bytes, signature: str
    ) -> Answer:
        if receipt.outcome == "running":
            return Answer(None, receipt.reason, receipt.message)
        if receipt.outcome == "refused" and self._refused_now_alone(name, receipt):
            return Answer(None, receipt.reason, receipt.message)
        if receipt.reason == "NeverSeen":
            seen = errand.claims[0].spec.journal
            same = seen and receipt.journal.id == seen.id and receipt.journal.sequence >= seen.sequence
            if same:
                return Answer(None, "NeverSeen", "the agent never saw it: safe to send")
            return self._doubt(errand, "JournalChanged", REASONS["JournalChanged"], payload, signature)
        outcome: ResultOutcome = receipt.outcome
        if receipt.reason == TOMBSTONED:
            outcome = "cancelled"
        return Answer(
            self._outcome(errand, outcome, receipt.reason, receipt.message, receipt, payload, signature)
        )

    @staticmethod
    def _refused_now_alone(name: CallName, receipt: Receipt) -> bool:
        """Whether a refusal says nothing of the operation: of a question, or of an order that came late."""
        if name == "query":
            return receipt.reason != TOMBSTONED
        return receipt.reason in ("OrderTooLate", "AttemptOutdated")

    def _doubt(
        self,
        errand: Errand,
        reason: str,
        message: str,
        payload: bytes | None = None,
        signature: str | None = None,
    ) -> Answer:
        return Answer(self._outcome(errand, "unknown", reason, message, None, payload, signature))

    def _outcome(
        self,
        errand: Errand,
        outcome: ResultOutcome,
        reason: str,
        message: str,
        receipt: Receipt | None,
        payload: bytes | None,
        signature: str | None,
    ) -> Outcome:
        now = self._clock.now()
        result = make_result(errand.claim, outcome, reason, shown(message), now, receipt, payload)
        return Outcome(errand.folder, errand.claim, result, payload, signature)

    def _sealed(self, payload: bytes, state: MainState, evidence: Evidence | None) -> bytes:
        signers = None
        if state.signers:
            signers = SignersList(state.signers.document.decode(), state.signers.signatures)
        return Envelope(
            payload.decode(), self._signer.sign(payload, sshsig.ORDER), evidence, signers
        ).to_json()

    def _not_after(self, seconds: float) -> str:
        return instant_text(self._clock.now() + timedelta(seconds=seconds))


def _settles(receipt: Receipt, action: str, call: CallName) -> bool:
    """Whether a receipt says for good what became of a desired-state order."""
    if receipt.reason == TOMBSTONED and receipt.action in ("", action):
        return True
    if receipt.action != action or receipt.outcome == "running":
        return False
    return receipt.outcome != "refused" or (call == "order" and receipt.reason not in _LATER)


def _key_of(agent: AgentAddress) -> sshsig.PublicKey:
    """The key that signs this agent's receipts. Raises Untrusted."""
    if agent.key is None:
        raise Untrusted("ObserveOnly", "the service has no agent key")
    return sshsig.PublicKey.parse(agent.key)
