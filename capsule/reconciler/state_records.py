"""Records of desired-state orders: what is written before an order leaves, and what became of it.

Rules kept: an order says which text of the document it makes true; a result says what its signed receipt
says, and there is none without a receipt. Called by the reconciler and by desired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

from capsule.decide import Converge
from capsule.documents.codec import emit
from capsule.documents.digests import bytes_digest
from capsule.documents.paths import StateFolder
from capsule.documents.problems import shown
from capsule.documents.types import (
    API_VERSION,
    Metadata,
    ResultOutcome,
    StateOrder,
    StateOrderSpec,
    StateResult,
    StateResultSpec,
)
from capsule.reconciler.recording import Facts, Outcome, plain_outputs, result_facts, result_words, told_of
from capsule.trust.state_orders import SUPERSEDED, TOMBSTONED
from capsule_agent.protocol.messages import Receipt, instant

__all__ = ["TOMBSTONED", "StateOutcome", "all_results", "make_order", "make_state_result", "order_facts"]


@dataclass(frozen=True, slots=True)
class StateOutcome:
    """A result of a desired-state order, with the receipt that proves it."""

    result: StateResult
    receipt: bytes
    signature: str

    @property
    def key(self) -> tuple[str, int]:
        """Service and generation."""
        return self.result.spec.service, self.result.spec.generation


def make_order(converge: Converge, revision: str, reconciler: str, nonce: str, now: datetime) -> StateOrder:
    """The StateOrder document for what decide found."""
    name = converge.service.document.metadata.name
    return StateOrder(
        api_version=API_VERSION,
        kind="StateOrder",
        metadata=Metadata(name=name),
        spec=StateOrderSpec(
            service=name,
            generation=converge.generation,
            document_digest=converge.service.digest,
            op_id=converge.op_id,
            action=converge.action,
            params=dict(converge.params),
            observed_revision=revision,
            reconciler=reconciler,
            nonce=nonce,
            ordered_at=now,
        ),
    )


def make_state_result(order: StateOrder, receipt: Receipt, payload: bytes, now: datetime) -> StateResult:
    """The StateResult document; `payload` are the signed bytes of the receipt. An answer to whoever withdraws
    names no action: what never began was superseded."""
    spec, withdrawn = order.spec, receipt.reason == TOMBSTONED
    return StateResult(
        api_version=API_VERSION,
        kind="StateResult",
        metadata=Metadata(name=spec.service),
        spec=StateResultSpec(
            service=spec.service,
            generation=spec.generation,
            op_id=spec.op_id,
            action=spec.action,
            outcome="cancelled" if withdrawn else cast(ResultOutcome, receipt.outcome),
            reason=SUPERSEDED if withdrawn and not receipt.action else receipt.reason,
            message=shown(receipt.message)[:500],
            outputs=plain_outputs(receipt),
            started_at=instant(receipt.started_at) if receipt.started_at else None,
            finished_at=instant(receipt.finished_at) if receipt.finished_at else None,
            recorded_at=now,
            receipt_digest=bytes_digest(payload),
        ),
    )


def order_facts(orders: Iterable[StateOrder]) -> Facts:
    """All desired-state orders of a pass, as one commit."""
    edits: dict[str, bytes | None] = {}
    trailers: list[tuple[str, str]] = []
    words = []
    for order in orders:
        spec = order.spec
        edits[StateFolder(spec.service, spec.generation).order] = emit(order)
        trailers += [("Capsule-Service", spec.service), ("Capsule-Action", spec.action)]
        words.append((spec.action, spec.service, "ordered"))
    return Facts(edits, told_of(words), trailers)


def all_results(outcomes: Sequence[Outcome], states: Sequence[StateOutcome]) -> Facts:
    """The results of a pass, of requests and of desired-state orders, as one commit."""
    facts = result_facts(outcomes)
    edits, trailers = dict(facts.edits), list(facts.trailers)
    words = result_words(outcomes)
    for item in states:
        spec = item.result.spec
        folder = StateFolder(spec.service, spec.generation)
        edits[folder.result] = emit(item.result)
        edits[folder.receipt] = item.receipt
        edits[folder.receipt_signature] = item.signature.encode()
        trailers += [
            ("Capsule-Service", spec.service),
            ("Capsule-Action", spec.action),
            ("Capsule-Outcome", spec.outcome),
            ("Capsule-Reason", spec.reason),
        ]
        words.append((spec.action, spec.service, spec.outcome))
    return replace(facts, edits=edits, trailers=trailers, subject=told_of(words))
