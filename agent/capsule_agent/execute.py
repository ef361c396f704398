"""An order's way through an agent: authenticate → verify → admit → execute once → sign the receipt.

Rules kept: nothing runs before the journal says so; who executes holds the journal's lock, so that a step
found unfinished under the lock was interrupted; an interrupted effect is finished by what the key store
says (rotations), run again (idempotent actions), or recorded as unknown, never retried blindly. Called by
calls for every order and query, and by the resumer.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from capsule_agent import approvals, signers_list, verify
from capsule_agent.declare import Action, ActionError, Health
from capsule_agent.journal import RUNNING, Journal, Operation, Refused
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.messages import (
    Envelope,
    JournalMark,
    Order,
    Query,
    Receipt,
    decode,
    encode,
    instant_text,
)
from capsule_agent.protocol.sshsig import PublicKey, Signer
from capsule_agent.refusal import Refusal
from capsule_agent.rotation import Ending, Rotator
from capsule_agent.sensitive import Redactor
from capsule_agent.values import BadValue, check_params

DESIRED_STATE = {"enable": "enabled", "disable": "enabled", "configure": "configure"}
_LOCK_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Executor:
    """Executes the orders of one service. `owners` reads the pinned keys; `repository` pins one, if given."""

    service: str
    version: str
    journal: Journal
    key: Signer
    owners: Callable[[], Iterable[PublicKey]]
    redactor: Redactor
    clock: Callable[[], datetime]
    answer_within: float
    repository: str | None = None
    actions: dict[str, Action] = field(default_factory=dict)
    rotator: Rotator | None = None

    # ---- the two calls --------------------------------------------------------------------------

    def order(self, envelope: Envelope) -> str:
        """Execute an order, once; the signed receipt. Raises Untrusted, InvalidMessage."""
        order = decode(Order, envelope.payload.encode(), max_bytes=2**20)
        trusted = self._authenticate(envelope, order)
        try:
            self._check_call(order, trusted)
            verify.check_not_after(order, self.clock())
            verify.check_operation_id(order)
            known = self.journal.find(order.op_id)
            if known is not None and known.step != "Fenced":
                return self._repeat(order)
        except (Refusal, Refused) as refusal:
            return self._refusal(order, refusal)
        try:
            action, params = self._authorise(order, envelope, trusted)
            return self._begin(order, action, params)
        except (Refusal, Refused) as refusal:
            return self._refuse_for_good(order, refusal)

    def query(self, envelope: Envelope) -> str:
        """What became of an operation; the signed receipt. Raises Untrusted, InvalidMessage.

        `notAfter` does not bind it: to answer late harms nothing, and a late tombstone only prevents.
        """
        query = decode(Query, envelope.payload.encode())
        trusted = self._authenticate(envelope, query)
        try:
            self._check_call(query, trusted)
            return self._known(query, self._fence(query, query.tombstone))
        except (Refusal, Refused) as refusal:
            return self._refusal(query, refusal)

    def settle_interrupted(self) -> None:
        """End what was interrupted, if nobody is executing."""
        with self.journal.running() as held:
            if held:
                self.settle_held()

    # ---- trust ----------------------------------------------------------------------------------

    def _authenticate(self, envelope: Envelope, call: Order | Query) -> signers_list.Trusted:
        stored, serial, repository = self.journal.signers()
        pinned = self.repository or repository
        trusted = signers_list.trusted_signers(envelope.signers, stored, serial, self.owners(), pinned)
        verify.check_sender(envelope, call, trusted.signers)
        if trusted.signers.serial > serial or stored is None:
            self.journal.accept_signers(trusted.text, trusted.signers.serial, trusted.signers.repository)
        return trusted

    def _check_call(self, call: Order | Query, trusted: signers_list.Trusted) -> None:
        verify.check_service(call, self.service)
        verify.check_repository(call, trusted.signers)
        verify.check_attempt_number(call)

    def _authorise(
        self, order: Order, envelope: Envelope, trusted: signers_list.Trusted
    ) -> tuple[Action, dict[str, Any]]:
        action = self.actions.get(order.action)
        if action is None:
            raise Refusal("ActionUnknown", f"this agent has no action {order.action[:64]!r}")
        if not order.request and order.action not in DESIRED_STATE:
            raise Refusal("RequestMissing", f"{order.action} is done for a request only")
        if not order.request:
            verify.check_generation(order, self.clock())
        try:
            params = check_params(action.params, _action_params(order))
        except BadValue as error:
            raise Refusal("ParamsInvalid", str(error)) from None
        needed = action.approvals_for(params)  # with the defaults: what is counted is what is executed
        if needed and not order.request:
            raise Refusal("ApprovalsMissing", "an order without a request cannot carry approvals")
        if needed and action.evidence == "signature":
            carried, signers, now = envelope.evidence, trusted.signers, self.clock()
            if not (action.break_glass and approvals.breaks_glass(order, carried, signers, now)):
                approvals.check_approvals(order, carried, signers, needed, now)
        return action, params

    # ---- execution ------------------------------------------------------------------------------

    def _begin(self, order: Order, action: Action, params: Mapping[str, Any]) -> str:
        ended: concurrent.futures.Future[str | None] = concurrent.futures.Future()

        def work() -> None:
            try:
                ended.set_result(self.perform(order, action, params))
            except BaseException as error:
                ended.set_exception(error)

        deadline = time.monotonic() + self.answer_within
        threading.Thread(target=work, name=f"capsule-{order.action}").start()
        try:
            receipt = ended.result(self.answer_within)
        except concurrent.futures.TimeoutError:
            return self._running(order)
        return receipt or self._await_other(order, deadline)

    def perform(self, order: Order, action: Action, params: Mapping[str, Any]) -> str | None:
        """Execute a verified order here and now; None when another thread or process is executing it.

        Raises Refused.
        """
        with self.journal.running(lambda: 0.0 if self.journal.state().busy else _LOCK_SECONDS) as held:
            if not held:
                self._refuse_other(order)
                return None
            self.settle_held()
            self._check_in_time(order)
            subject = None if order.request else DESIRED_STATE[order.action]
            # What may run again is run again wherever it stopped: its first steps can share one sync to disk.
            steps = ("Prepared", "Effect")
            at_once = steps if action.idempotent else ()
            operation = self.journal.admit(order, subject, self.clock(), then=at_once)
            if operation.receipt is not None:
                return operation.receipt
            for step in steps[len(at_once) :]:
                self.journal.advance(order.op_id, step, self.clock())
            return self._end(operation, self._run(action, order, params))

    def _refuse_other(self, order: Order) -> None:
        busy = self.journal.state().busy
        if busy is not None and busy != order.op_id:
            raise Refused("Busy", "another operation is running on this service")

    def _check_in_time(self, order: Order) -> None:
        try:
            verify.check_not_after(order, self.clock())
        except Refusal as refusal:
            raise Refused(refusal.reason, str(refusal)) from None

    def _run(self, action: Action, order: Order, params: Mapping[str, Any]) -> Ending:
        try:
            found = action.run(order, **params) if action.takes_order else action.run(**params)
            ending = found if isinstance(found, Ending) else Ending("succeeded", "Done", "", _outputs(found))
        except ActionError as error:
            return Ending("failed", "ActionFailed", self.redactor.line(str(error)))
        except Exception as error:
            self.redactor.log_exception(f"action {action.name} failed")
            return Ending("failed", "ActionFailed", type(error).__name__)
        return self._filtered(action, ending)

    def _filtered(self, action: Action, ending: Ending) -> Ending:
        kept, dropped = self.redactor.outputs(action.outputs, ending.outputs)
        message = self.redactor.line("; ".join(part for part in (ending.message, *dropped) if part))
        return Ending(ending.outcome, ending.reason, message, kept)

    def settle_held(self) -> None:
        """End what was interrupted; the caller holds the journal's lock."""
        for operation in self.journal.interrupted():
            self._end(operation, self._settled(operation))

    def _settled(self, operation: Operation) -> Ending:
        order = operation.order
        action = self.actions.get(order.action) if order else None
        if operation.step != "Effect":
            return Ending("failed", "InterruptedBeforeEffect", "stopped before anything was done")
        if order and action and order.action == "rotateKey" and self.rotator:
            return self._filtered(action, self.rotator.settle(order.op_id, "interrupted"))
        if order and action and action.idempotent:
            return self._run(action, order, check_params(action.params, _action_params(order)))
        return Ending("unknown", "InterruptedInEffect", "stopped while it was being done; look what happened")

    def _end(self, operation: Operation, ending: Ending) -> str:
        order = operation.order
        assert order
        now = self.clock()

        def sign(mark: JournalMark) -> str:
            started = operation.started_at or None
            return self._sign(order, ending, mark, started, instant_text(now))

        return self.journal.finish(order.op_id, sign, now)

    # ---- answers --------------------------------------------------------------------------------

    def _fence(self, call: Order | Query, tombstone: bool) -> Operation | None:
        known = self.journal.fence(call.op_id, call.attempt, tombstone, self.clock())
        if known is not None and known.step in RUNNING:
            self.settle_interrupted()
            return self.journal.find(call.op_id)
        return known

    def _repeat(self, order: Order) -> str:
        known = self._fence(order, tombstone=False)
        if known is not None and known.step in RUNNING:
            return self._await_other(order, time.monotonic() + self.answer_within)
        return self._known(order, known)

    def _known(self, call: Order | Query, known: Operation | None) -> str:
        if known is None:
            return self._answer(call, Ending("unknown", "NeverSeen", "this journal never saw the operation"))
        if known.step == "Tombstoned":
            raise Refused("Tombstoned", "the operation never began, and never will")
        return known.receipt or self._running(call, known)

    def _await_other(self, order: Order, deadline: float) -> str:
        """Somebody else executes the same order: wait for the receipt."""
        while time.monotonic() < deadline:
            known = self.journal.find(order.op_id)
            if known is not None and known.receipt is not None:
                return known.receipt
            time.sleep(_POLL_SECONDS)
        return self._running(order)

    def _running(self, call: Order | Query, known: Operation | None = None) -> str:
        known = known or self.journal.find(call.op_id)
        ending = Ending("running", "Running", "not finished yet; ask again")
        order = known.order if known and known.order else call
        return self._answer(order, ending, known.started_at if known else None)

    def _refusal(self, call: Order | Query, refusal: Refusal | Refused) -> str:
        return self._answer(call, self._refused(refusal))

    def _refused(self, refusal: Refusal | Refused) -> Ending:
        return Ending("refused", refusal.reason, self.redactor.line(str(refusal)))

    def _refuse_for_good(self, order: Order, refusal: Refusal | Refused) -> str:
        """A refused request is spent: who records the refusal may rely on it, whatever is replayed later.
        Desired-state orders are told again with a higher generation instead."""

        def sign(mark: JournalMark) -> str:
            return self._sign(order, self._refused(refusal), mark, None, None)

        stored = self.journal.refuse(order, sign, self.clock()) if order.request else None
        return stored or self._refusal(order, refusal)

    def _answer(self, call: Order | Query, ending: Ending, started: str | None = None) -> str:
        return self._sign(call, ending, self.journal.state().mark, started, None)

    def _sign(
        self,
        call: Order | Query,
        ending: Ending,
        mark: JournalMark,
        started: str | None,
        finished: str | None,
    ) -> str:
        receipt = Receipt(
            repository=call.repository,
            op_id=call.op_id,
            service=self.service,
            action=call.action if isinstance(call, Order) else "",
            attempt=call.attempt,
            outcome=ending.outcome,
            reason=ending.reason,
            message=self.redactor.line(ending.message),
            outputs=ending.outputs,
            journal=mark,
            agent_version=self.version,
            started_at=started,
            finished_at=finished,
        )
        payload = receipt.to_json().decode()
        envelope = Envelope(payload=payload, signature=self.key.sign(payload.encode(), sshsig.RECEIPT))
        return json.dumps(encode(envelope), ensure_ascii=False)


def _action_params(order: Order) -> dict[str, Any]:
    """The parameters of the action alone: a desired-state order also carries its generation."""
    params = dict(order.params)
    if not order.request:
        params.pop("generation", None)
    return params


def _outputs(found: Any) -> dict[str, Any]:
    if found is None:
        return {}
    if isinstance(found, Health):
        return {"status": found.status, "detail": found.detail}
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        return {str(name): value for name, value in found.items()}
    raise TypeError("an action returns a dataclass, a mapping or None")
