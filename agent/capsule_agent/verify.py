"""Whether an order or a query may be answered: every check is one function with one reason code.

Rules kept: pure (no I/O, no clock); who sends is listed as a reconciler and signed it; what is said names
this service, this repository and its own hash, in time. Called by execute.
"""

from __future__ import annotations

from datetime import datetime

from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import LONGEST_AHEAD, generation_at, generation_text
from capsule_agent.protocol.ids import desired_state_id, operation_id
from capsule_agent.protocol.messages import Envelope, Order, Query, Signers, instant
from capsule_agent.protocol.sshsig import BadSignature
from capsule_agent.protocol.strict_json import InvalidMessage
from capsule_agent.refusal import Refusal, Untrusted
from capsule_agent.signers_list import keys_of

# ---- who sends --------------------------------------------------------------------------------------


def check_sender(envelope: Envelope, call: Order | Query, signers: Signers) -> None:
    """The envelope is signed by the reconciler it names. Raises Untrusted."""
    entry = signers.principals.get(call.reconciler)
    if entry is None or "order" not in entry.may:
        raise Untrusted("ReconcilerUnknown", f"{call.reconciler[:64]!r} is not listed as a reconciler")
    try:
        sshsig.verify(envelope.payload.encode(), envelope.signature, sshsig.ORDER, keys_of(entry.keys))
    except BadSignature as error:
        raise Untrusted("OrderForged", f"the signature of {call.reconciler}: {error}") from None


# ---- what an authentic order or query says -------------------------------------------------------------


def check_service(call: Order | Query, service: str) -> None:
    """The call is for this service."""
    if call.service != service:
        raise Refusal("OrderForOtherService", f"for {call.service[:64]!r}, this is {service!r}")


def check_repository(call: Order | Query, signers: Signers) -> None:
    """The call comes from the repository that the signers belong to."""
    if call.repository != signers.repository:
        raise Refusal("OrderForOtherRepository", f"this agent belongs to repository {signers.repository}")


def check_not_after(order: Order, now: datetime) -> None:
    """The order is not too late."""
    try:
        limit = instant(order.not_after)
    except InvalidMessage as error:
        raise Refusal("OrderInvalid", f"notAfter: {error}") from None
    if now > limit:
        raise Refusal("OrderTooLate", f"not to be begun after {order.not_after}")


def check_attempt_number(call: Order | Query) -> None:
    """Attempts are counted from 1."""
    if call.attempt < 1:
        raise Refusal("OrderInvalid", "attempts are counted from 1")


def check_operation_id(order: Order) -> None:
    """The operation's id is the hash of what it is about."""
    if order.request:
        expected = operation_id(order.repository, order.request, order.request_digest, order.service)
    else:
        generation = order.params.get("generation")
        if type(generation) is not int or generation < 1:
            raise Refusal("GenerationMissing", "an order without a request needs a generation from 1")
        expected = desired_state_id(order.repository, order.service, order.request_digest, generation)
    if order.op_id != expected:
        raise Refusal("OperationIdDiffers", "the operation's id is not the hash of what the order says")


def check_generation(order: Order, now: datetime) -> None:
    """A desired-state order is not dated far ahead: whoever took one would be deaf to every later one."""
    generation = order.params["generation"]
    here = generation_at(now)
    if generation > here + LONGEST_AHEAD:
        raise Refusal(
            "GenerationFarAhead",
            f"the order is dated {generation_text(generation)}, the clock of this agent says "
            f"{generation_text(here)}; more than 24 hours lie between: mend the clock that is wrong",
        )
