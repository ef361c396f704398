"""Somebody holds the reconciler's key and all that was ever signed: what nobody approved never happens.

The attacker signs any order, and puts together orders, requests, approvals and lists of signers as they like;
what is asserted is the effect at the key store, by what people really did, not by the agent's own words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule_agent.approvals import check_approvals
from capsule_agent.calls import Answer
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.ids import desired_state_id, operation_id
from capsule_agent.protocol.messages import (
    Envelope,
    Evidence,
    Order,
    SignedText,
    Signers,
    SignersList,
    decode,
)
from capsule_agent.refusal import Refusal
from tests.agent_fixtures import (
    NOW,
    PRINCIPALS,
    REPOSITORY,
    SERVICE,
    Ask,
    KeyStore,
    body,
    key,
    make_agent,
    read_receipt,
    seal,
    sign_text,
    signers_list,
)

THIEF = "reconciler-1"
EVERYBODY = {**PRINCIPALS, "dave": ["approve"], "mallory": ["approve"]}
LISTS: Mapping[str, SignersList] = {
    "with dave and mallory": signers_list(1, EVERYBODY),
    "with dave": signers_list(2, {**PRINCIPALS, "dave": ["approve"]}),
    "now": signers_list(3),
    "of the thief": signers_list(9, {THIEF: ["order"], "mallory": ["approve"]}, owners=(THIEF,)),
    "of bob": signers_list(9, {**PRINCIPALS, "mallory": ["approve"]}, owners=("bob",)),
    "of another repository": signers_list(9, EVERYBODY, repository="ab" * 20),
}

APPROVED = Ask(request="approved", approvers=("bob", "carol"), attempt=1)
MATERIAL: Mapping[str, Ask] = {
    "approved": APPROVED,
    "approved by one": Ask(request="by-one", params={"grace": "0s"}, approvers=("bob",)),
    "approved by one, twice": Ask(request="by-one-twice", approvers=("bob", "bob")),
    "expired": Ask(request="expired", approvers=("bob", "carol"), expires=NOW - timedelta(days=1)),
    "other service": Ask(request="other-service", service="other", approvers=("bob", "carol")),
    "other repository": Ask(request="other-repo", repository="ab" * 20, approvers=("bob", "carol")),
    "own": Ask(request="own", requester="bob", approvers=("bob", "carol")),
    "by a leaver": Ask(request="by-a-leaver", approvers=("dave", "carol")),
    "by a stranger": Ask(request="by-a-stranger", requester="mallory", approvers=("bob", "carol")),
    "health check": Ask(request="health", action="runHealthCheck", params={}, approvers=("bob", "carol")),
    "unapproved": Ask(request="unapproved", params={"grace": "0s"}, approvers=()),
}
SIGNED: Mapping[tuple[str, str], SignedText] = {
    (name, who): ask.signed_approval(who) for name, ask in MATERIAL.items() for who in ask.approvers
}
"""Every approval that people ever gave, as they signed it."""
LISTED = decode(Signers, LISTS["now"].document.encode())
CORE = ("repository", "service", "action", "params", "request", "request_digest")


@dataclass
class Victim:
    """An agent whose rotateKey needs two approvals, and what was sent to it."""

    store: KeyStore = field(default_factory=KeyStore)
    sent: list[Envelope] = field(default_factory=list)
    calls: Any = None

    def send(self, envelope: Envelope) -> Answer:
        self.sent.append(envelope)
        answer: Answer = self.calls.answer("/capsule/v1/order", body(envelope))
        return answer


@contextmanager
def victim() -> Iterator[Victim]:
    with tempfile.TemporaryDirectory(prefix="capsule-test-") as folder:
        made = Victim()
        agent = make_agent(Path(folder))
        agent.rotation(made.store.rotation(), approvals=2)
        made.calls = agent._calls()
        first = replace(Ask(request="before").query(), signers=LISTS["now"])
        assert made.calls.answer("/capsule/v1/query", body(first)).status == 200
        yield made
        agent.close()


def core(order: Order) -> tuple[Any, ...]:
    return tuple(getattr(order, name) for name in CORE)


def is_genuine(order: Order, evidence: Evidence | None) -> bool:
    """Whether people approved exactly this, and both approvals and the request came along."""
    if evidence is None or core(order) != core(APPROVED.order()):
        return False
    given = {each.document for each in evidence.approvals}
    wanted = {SIGNED["approved", who].document for who in ("bob", "carol")}
    return wanted <= given and evidence.request.document == APPROVED.request_bytes.decode()


# ---- what the attacker can put together --------------------------------------------------------------

ASKS = st.sampled_from(sorted(MATERIAL))


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """Parts of orders that were, put together anew, with ids that fit or do not."""
    order = (APPROVED if draw(st.booleans()) else MATERIAL[draw(ASKS)]).order()
    for name in draw(st.lists(st.sampled_from(CORE), unique=True, max_size=2)):
        order = replace(order, **{name: getattr(MATERIAL[draw(ASKS)].order(), name)})
    if draw(st.integers(0, 5)) == 0:
        generation = draw(st.integers(0, 3))
        made = desired_state_id(order.repository, order.service, order.request_digest, generation)
        order = replace(order, request="", params={**order.params, "generation": generation}, op_id=made)
    elif draw(st.integers(0, 5)):
        about = (order.repository, order.request, order.request_digest, order.service)
        order = replace(order, op_id=operation_id(*about))
    not_after = draw(st.sampled_from([order.not_after, order.not_after, "2026-11-23T11:00:00Z"]))
    return replace(order, attempt=draw(st.integers(0, 3)), not_after=not_after)


def forged(name: str, who: str, by: str, namespace: str) -> SignedText:
    """An approval that nobody gave: the thief's, or one under another signature."""
    return sign_text(MATERIAL[name].approval(who).to_json(), by, namespace)


@st.composite
def approvals(draw: st.DrawFn) -> SignedText:
    genuine = SIGNED[draw(st.sampled_from(sorted(SIGNED)))]
    way = draw(st.integers(0, 6))
    if way == 0:
        who = draw(st.sampled_from(["bob", "carol", THIEF, "dave"]))
        namespace = draw(st.sampled_from([sshsig.APPROVAL, sshsig.ORDER]))
        return forged(draw(ASKS), who, THIEF, namespace)
    if way == 1:  # the signature of another approval
        return replace(genuine, signature=SIGNED[draw(st.sampled_from(sorted(SIGNED)))].signature)
    if way == 2:  # what mallory, once listed, would say
        return forged(draw(ASKS), "mallory", "mallory", sshsig.APPROVAL)
    return genuine


@st.composite
def evidences(draw: st.DrawFn) -> Evidence | None:
    if draw(st.integers(0, 7)) == 0:
        return None
    ask = APPROVED if draw(st.booleans()) else MATERIAL[draw(ASKS)]
    request = sign_text(ask.request_bytes, draw(st.sampled_from([ask.requester, THIEF])), sshsig.REQUEST)
    return Evidence(request, tuple(draw(st.lists(approvals(), max_size=5))))


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """Anything, or something near to what would be right: one part of a genuine order exchanged."""
    order, evidence = APPROVED.order(), APPROVED.evidence()
    near = draw(st.sampled_from(["order", "evidence", "signers", "all"]))
    if near in ("order", "all"):
        order = draw(orders())
    if near in ("evidence", "all"):
        evidence = draw(evidences())  # type: ignore[assignment]  # none at all is one way
    names = [None, "now", *LISTS] if near in ("signers", "all") else [None, "now"]
    name = draw(st.sampled_from(names))
    return seal(order, THIEF, evidence, LISTS[name] if name else None)


# ---- the attacks --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(envelopes(), min_size=1, max_size=6))
def test_no_mixture_of_what_was_ever_signed_makes_an_effect_that_nobody_approved(
    attack: list[Envelope],
) -> None:

    with victim() as target:
        for envelope in attack:
            before = target.store.created
            target.send(envelope)
            if target.store.created > before:
                order = decode(Order, envelope.payload.encode())
                assert is_genuine(order, envelope.evidence), "an effect that nobody approved"
        assert target.store.created <= 1
        assert target.store.in_use in ("key-0", "key-1")


def test_the_genuine_order_has_its_effect_once() -> None:
    """So that the attacks above fail for want of approvals, and not because nothing works."""
    with victim() as target:
        envelope = replace(APPROVED.envelope(), signers=None)
        first = target.send(envelope)
        assert read_receipt(first.body).outcome == "succeeded"
        assert target.send(envelope) == first
        assert target.store.created == 1


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["request", "bob", "carol", "bob's signature", "request's signature", "signers"]),
    st.integers(0, 10_000),
    st.sampled_from(["", "0", "a", "A", "=", '"', " ", "\n", "\u00e9"]),
)
def test_no_single_edit_of_what_people_signed_is_taken_for_theirs(part: str, at: int, put: str) -> None:
    def edited(text: str) -> str:
        where = at % len(text)
        return text[:where] + put + text[where + 1 :]

    bob, carol = SIGNED["approved", "bob"], SIGNED["approved", "carol"]
    request = APPROVED.evidence().request
    signers = LISTS["now"]
    if part == "request":
        request = replace(request, document=edited(request.document))
    elif part == "bob":
        bob = replace(bob, document=edited(bob.document))
    elif part == "carol":
        carol = replace(carol, document=edited(carol.document))
    elif part == "bob's signature":
        bob = replace(bob, signature=edited(bob.signature))
    elif part == "request's signature":
        request = replace(request, signature=edited(request.signature))
    else:
        signers = replace(signers, document=edited(signers.document))
    changed = (bob, carol, request, signers) != (
        SIGNED["approved", "bob"],
        SIGNED["approved", "carol"],
        APPROVED.evidence().request,
        LISTS["now"],
    )
    with victim() as target:
        answer = target.send(seal(APPROVED.order(), THIEF, Evidence(request, (bob, carol)), signers))
        if target.store.created:
            # White space around the armor of a signature is no part of it.
            texts = (bob.document, carol.document, request.document, signers.document)
            assert not changed or texts == (
                SIGNED["approved", "bob"].document,
                SIGNED["approved", "carol"].document,
                APPROVED.request_bytes.decode(),
                LISTS["now"].document,
            )
        else:
            assert changed
            assert answer.status == 403 or read_receipt(answer.body).outcome == "refused"


@pytest.mark.parametrize("name", [name for name in MATERIAL if name not in ("approved", "health check")])
@pytest.mark.parametrize("signers", [None, *LISTS])
def test_nothing_that_was_not_approved_is_done_under_any_list(name: str, signers: str | None) -> None:
    with victim() as target:
        ask = MATERIAL[name]
        told = Evidence(
            sign_text(ask.request_bytes, ask.requester, sshsig.REQUEST),
            tuple(SIGNED[name, who] for who in ask.approvers),
        )
        target.send(seal(ask.order(), THIEF, told, LISTS[signers] if signers else None))
        assert target.store.created == 0


@pytest.mark.parametrize("extra", ["reason", "expires", "targets", "decision", "principal", "repository"])
def test_the_thief_signs_what_approvers_did_not(extra: str) -> None:
    """An approval of bob's changed in one field, signed by the thief in bob's name."""
    values: dict[str, Any] = {
        "reason": "more",
        "expires": "2099-01-01T00:00:00Z",
        "targets": {SERVICE: "sha256:" + "00" * 32},
        "decision": "approve",
        "principal": "bob",
        "repository": REPOSITORY,
    }
    ask = MATERIAL["unapproved"]
    made = [replace(ask.approval(who), **{extra: values[extra]}) for who in ("bob", "carol")]
    signed = tuple(
        SignedText(each.to_json().decode(), key(THIEF).sign(each.to_json(), sshsig.APPROVAL)) for each in made
    )
    with victim() as target:
        told = Evidence(sign_text(ask.request_bytes, "alice", sshsig.REQUEST), signed)
        answer = target.send(seal(ask.order(), THIEF, told))
        assert read_receipt(answer.body).reason == "ApprovalForged"
        assert target.store.created == 0


def test_an_order_sent_too_early_is_refused_for_good_and_does_nothing() -> None:
    """The thief can spend a request's name by sending it early: that is refused work, never done work."""
    with victim() as target:
        early = seal(APPROVED.order(), THIEF, None)
        assert read_receipt(target.send(early).body).reason == "ApprovalsMissing"
        late = target.send(replace(APPROVED.envelope(), signers=None))
        assert read_receipt(late.body).outcome == "refused"
        assert target.store.created == 0


@pytest.mark.parametrize("name", [name for name in MATERIAL if name != "approved"])
@pytest.mark.parametrize("part", CORE)
def test_an_approved_order_with_one_part_of_another_is_not_approved(part: str, name: str) -> None:
    other = MATERIAL[name].order()
    order = replace(APPROVED.order(), **{part: getattr(other, part)})
    if core(order) == core(APPROVED.order()):
        return
    order = replace(
        order,
        op_id=operation_id(order.repository, order.request, order.request_digest, order.service),
    )
    theirs = Evidence(
        sign_text(MATERIAL[name].request_bytes, MATERIAL[name].requester, sshsig.REQUEST),
        APPROVED.evidence().approvals,
    )
    for evidence in (APPROVED.evidence(), theirs):
        with victim() as target:
            target.send(seal(order, THIEF, evidence))
            assert target.store.created == 0


@pytest.mark.parametrize(
    "name", [name for name in MATERIAL if name not in ("other service", "other repository", "health check")]
)
def test_no_two_approvals_but_the_two_that_were_given_for_it_are_enough(name: str) -> None:
    ask = MATERIAL[name]
    request = sign_text(ask.request_bytes, ask.requester, sshsig.REQUEST)
    thieves = [
        forged(name, "bob", THIEF, sshsig.APPROVAL),
        forged(name, "mallory", "mallory", sshsig.APPROVAL),
    ]
    given = [*SIGNED.values(), *thieves]
    wanted = {SIGNED["approved", who].document for who in ("bob", "carol")}
    for at, one in enumerate(given):
        for two in given[at:]:
            if name != "approved" or {one.document, two.document} != wanted:
                with pytest.raises(Refusal):
                    check_approvals(ask.order(), Evidence(request, (one, two)), LISTED, 2, NOW)
