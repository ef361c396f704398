"""Desired-state orders proved against the service's document as it was in force when they were recorded.

Rules kept: an order needs no request, so its document must ask for it: `disable` where it says so, `enable`
where it says so and no person's `disable` holds, `configure` of its own pins where it lets drift be
corrected; none while main is suspended; generations rise with the clock; a result comes in a later commit and
says what the receipt says, which the service's own key signed. Called by records.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from capsule.documents import codec
from capsule.documents.paths import DESIRED, StateFolder
from capsule.documents.problems import InvalidDocument
from capsule.documents.types import ResultSpec, Service, StateOrder, StateResult, StateResultSpec
from capsule.trust import objects
from capsule.trust.last_words import last_word, unsettled
from capsule.trust.objects import ObjectReader
from capsule.trust.policy import is_machine
from capsule.trust.record_checks import (
    BadRecord,
    Batch,
    check_equal,
    check_told,
    key_in_force,
    proved_receipt,
    receipt_files,
    typed,
)
from capsule.trust.story import Said, check_not_later, check_time
from capsule_agent.protocol.generations import LONGEST_AHEAD, generation_text
from capsule_agent.protocol.ids import desired_state_id
from capsule_agent.protocol.messages import Receipt

REASONS: dict[str, str] = {
    "StateOrderMismatch": "A desired-state order says something else than the service's document in force, "
    "its place or its commit.",
    "StateOrderWhileSuspended": "A desired-state order was recorded while main was suspended.",
    "StateOrderNotJustified": "The service's document in force does not ask for what a desired-state order "
    "tells.",
    "StateOrderAgainstRequest": "A service was enabled although a person's `disable` request held.",
    "GenerationNotRising": "The generation of a desired-state order is not above the one before.",
    "GenerationFarAhead": "The generation of a desired-state order is of a time more than 24 hours after its "
    "commit: an agent that took it would be deaf to every later order.",
    "ResultWithoutOrder": "A result of a desired-state order that no earlier commit recorded, or a second "
    "one.",
}

DISABLE, ENABLE = "disable", "enable"
TOMBSTONED, SUPERSEDED = "Tombstoned", "Superseded"
"""What an agent answers to who withdraws an order, and what the result says of the order then."""
D = TypeVar("D", StateOrder, StateResult)


@dataclass(frozen=True, slots=True)
class _Open:
    """An order without a result, and the service's key when it was recorded."""

    order: StateOrder
    key: str


@dataclass(frozen=True, slots=True)
class _Word:
    """One switch of a service: of two at the same time a request counts, and of two requests the one that
    disables."""

    at: datetime
    by_request: bool
    disabled: bool
    done: datetime

    @property
    def holds(self) -> bool:
        return self.by_request and self.disabled

    @property
    def rank(self) -> tuple[datetime, bool, bool, str]:
        return self.at, self.by_request, self.disabled, ""


class StateOrderJudge:
    """Judges the desired-state records of one commit after another. Memory grows with the number of services
    and of orders without a result."""

    def __init__(self, reader: ObjectReader, root: str) -> None:
        self._reader = reader
        self._root = root
        self._open: dict[tuple[str, int], _Open] = {}
        self._generations: dict[str, tuple[int, ...]] = {}  # 0, the last one, and rising those far ahead
        self._words: dict[str, tuple[_Word, ...]] = {}
        self.proved = 0

    def judge(self, batch: Batch, said: Said) -> None:
        """Prove the desired-state records of one commit, and tell `said` of them. Raises BadRecord, BadStory,
        BadObject."""
        orders, results = _sort(batch.added)
        for folder in results:
            self._judge_result(batch, folder, said)
        for folder in orders:
            self._judge_order(batch, folder, said)

    def switched(self, spec: ResultSpec | StateResultSpec, *, by_request: bool) -> None:
        """An operation is over: `enable` and `disable` are the last word until a later one."""
        if spec.action in (DISABLE, ENABLE):
            done = spec.finished_at or spec.recorded_at
            word = _Word(spec.recorded_at, by_request, spec.action == DISABLE, done)
            self._words[spec.service] = unsettled((*self._words.get(spec.service, ()), word))

    # ---- orders ----

    def _judge_order(self, batch: Batch, folder: StateFolder, said: Said) -> None:
        order = self._load(StateOrder, batch, folder.order)
        spec = order.spec
        check_equal(
            "InvalidRecord",
            ("name", order.metadata.name, folder.service),
            ("service", spec.service, folder.service),
            ("generation", spec.generation, folder.generation),
        )
        expected = desired_state_id(self._root, spec.service, spec.document_digest, spec.generation)
        check_equal(
            "StateOrderMismatch",
            ("opId", spec.op_id, expected),
            ("observedRevision", spec.observed_revision, batch.revision),
            ("reconciler", spec.reconciler, batch.signer),
        )
        if not is_machine(batch.state.policy.document, batch.signer):
            raise BadRecord("StateOrderMismatch", f"{batch.signer} is no machine of the policy any more")
        if batch.state.suspended:
            reason = batch.state.suspended.reason
            raise BadRecord("StateOrderWhileSuspended", f"main was suspended: {reason}")
        check_time("orderedAt", spec.ordered_at, batch.info)
        self._check_generation(batch, order)
        key = self._check_document(batch, order)
        self._open[spec.service, spec.generation] = _Open(order, key)
        said.state_order(order)

    def _check_generation(self, batch: Batch, order: StateOrder) -> None:
        """Generations rise with every order, and are never far ahead of the clock: agents refuse a lower one,
        so one far ahead would leave the service deaf to every later order. Nor does one that was dated far
        ahead of this commit, by a wrong clock or a thief, bind the orders that follow."""
        spec = order.spec
        farthest = batch.info.committer.at * 1000 + LONGEST_AHEAD
        if spec.generation > farthest:
            message = f"generation {spec.generation} of {spec.service} ({generation_text(spec.generation)})"
            raise BadRecord("GenerationFarAhead", f"{message}, expected at most {farthest}")
        known = self._generations.get(spec.service, (0,))
        reached = bisect_right(known, farthest)
        lowest = known[reached - 1] + 1
        if spec.generation < lowest:
            message = f"generation {spec.generation} of {spec.service}, expected at least {lowest}"
            raise BadRecord("GenerationNotRising", message)
        self._generations[spec.service] = (0, spec.generation, *known[reached:])

    def _check_document(self, batch: Batch, order: StateOrder) -> str:
        """The document in force asks for the order. Returns the key of the service's agent."""
        spec = order.spec
        in_force = batch.state.services.get(spec.service)
        if in_force is None:
            raise BadRecord("StateOrderNotJustified", f"no service in force is named {spec.service}")
        check_equal("StateOrderMismatch", ("documentDigest", spec.document_digest, in_force.digest))
        service = in_force.document
        if service.spec.agent.key is None:
            raise BadRecord("StateOrderNotJustified", f"{spec.service} is only observed: it has no key")
        if spec.action == "configure":
            _check_correction(order, service)
        else:
            self._check_switch(order, service)
        return service.spec.agent.key

    def _check_switch(self, order: StateOrder, service: Service) -> None:
        spec = order.spec
        check_equal("StateOrderMismatch", ("params", dict(spec.params), {}))
        if service.spec.enabled is not (spec.action == ENABLE):
            state = "enabled" if service.spec.enabled else "disabled"
            raise BadRecord("StateOrderNotJustified", f"{spec.action}: the document says {state}")
        word = last_word(self._words.get(spec.service, ()))
        if spec.action == ENABLE and word and word.holds:
            message = f"{spec.service} was disabled by a request at {word.at.isoformat()}, which holds"
            raise BadRecord("StateOrderAgainstRequest", message)

    # ---- results ----

    def _judge_result(self, batch: Batch, folder: StateFolder, said: Said) -> None:
        result = self._load(StateResult, batch, folder.result)
        spec = result.spec
        opened = self._open.pop((folder.service, folder.generation), None)
        if opened is None:
            raise BadRecord("ResultWithoutOrder", f"{folder.result} has no open order before it")
        ordered = opened.order.spec
        check_equal(
            "ResultMismatch",
            ("name", result.metadata.name, folder.service),
            ("service", spec.service, folder.service),
            ("generation", spec.generation, folder.generation),
            ("opId", spec.op_id, ordered.op_id),
            ("action", spec.action, ordered.action),
        )
        check_not_later("recordedAt", spec.recorded_at, batch.info)
        paths = folder.receipt, folder.receipt_signature
        receipt = proved_receipt(
            *receipt_files(self._reader, batch, paths, spec.receipt_digest),
            {opened.key} | key_in_force(batch.state, spec.service),
            repository=self._root,
            service=spec.service,
            op_id=spec.op_id,
        )
        _check_told(spec, receipt)
        if spec.outcome == "succeeded":
            self.switched(spec, by_request=False)
        self.proved += 1
        said.state_result(result)

    def _load(self, kind: type[D], batch: Batch, path: str) -> D:
        try:
            return codec.load_as(kind, objects.read_blob(self._reader, batch.added[path]), path)
        except InvalidDocument as error:
            raise BadRecord("InvalidRecord", str(error)) from None


def _sort(added: Iterable[str]) -> tuple[list[StateFolder], list[StateFolder]]:
    """The orders and the results among the added records, by rising generation. Raises BadRecord."""
    orders, results, receipts = set(), set(), set()
    for path in (path for path in added if is_desired(path)):
        folder = StateFolder.of(path)
        if folder is None:
            raise BadRecord("UnexpectedRecord", f"{path} is no record")
        if path == folder.order:
            orders.add(folder)
        elif path == folder.result:
            results.add(folder)
        else:
            receipts.add(folder)
    if not receipts <= results:
        raise BadRecord("UnexpectedRecord", "a receipt without a result beside it")
    services = [folder.service for folder in orders]
    twice = next((name for name in services if services.count(name) > 1), None)
    if twice:
        raise BadRecord("GenerationNotRising", f"{twice} is given two orders at once")
    return sorted(orders, key=_place), sorted(results, key=_place)


def is_desired(path: str) -> bool:
    """Whether the record at `path` is about a desired-state order."""
    return path.startswith(f"{DESIRED}/")


def _place(folder: StateFolder) -> tuple[str, int]:
    return folder.service, folder.generation


def _check_told(spec: StateResultSpec, receipt: Receipt) -> None:
    """A result says what its receipt says. One that names no action answers whoever withdrew the order: it
    proves that the order never was begun, and never will be, and nothing else."""
    if receipt.action:
        check_equal("ResultMismatch", ("the receipt's action", receipt.action, spec.action))
        return check_told(spec, receipt)
    check_equal("ResultMismatch", ("reason", spec.reason, SUPERSEDED))
    return check_told(spec.model_copy(update={"reason": TOMBSTONED}), receipt)


def _check_correction(order: StateOrder, service: Service) -> None:
    """A `configure` sets pins whose drift may be corrected, each to its value in the document."""
    spec, wanted = order.spec, service.spec
    if wanted.on_drift != "correct":
        raise BadRecord("StateOrderNotJustified", f"configure: {spec.service} does not ask for corrections")
    if not spec.params:
        raise BadRecord("StateOrderNotJustified", "configure: no pin is named")
    pins: Mapping[str, object] = {
        name: value for name, value in wanted.pins.items() if name not in wanted.ignore_drift
    }
    told, allowed = typed(spec.params), typed(pins)
    wrong = next((name for name, value in told.items() if allowed.get(name) != value), None)
    if wrong is not None:
        raise BadRecord(
            "StateOrderNotJustified", f"configure: {wrong} is no pin to correct, or of another value"
        )
