"""Exact bounds of what an agent takes for an order: each test stands for one check alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from capsule_agent import approvals, verify
from capsule_agent.protocol.generations import LONGEST_AHEAD, generation_at
from capsule_agent.protocol.messages import Evidence, Order, SignedText, Signers, decode
from capsule_agent.refusal import Refusal
from tests.agent_fixtures import NOW, PRINCIPALS, Ask, desired, signers_list

GLASS: Mapping[str, Sequence[Any]] = {**PRINCIPALS, "alice": ["request", "break-glass"]}


def _reason(caught: pytest.ExceptionInfo[Refusal]) -> str:
    return caught.value.reason


# ---- generations --------------------------------------------------------------------------------


def _of(generation: int) -> Order:
    return decode(Order, desired("enable", generation).payload.encode())


def test_an_order_is_dated_at_most_a_day_ahead() -> None:
    last = generation_at(NOW) + LONGEST_AHEAD
    verify.check_generation(_of(last), NOW)
    verify.check_generation(_of(1), NOW)
    with pytest.raises(Refusal) as caught:
        verify.check_generation(_of(last + 1), NOW)
    assert _reason(caught) == "GenerationFarAhead"
    verify.check_generation(_of(last + 1), NOW + timedelta(milliseconds=1))


# ---- breaking the glass -------------------------------------------------------------------------


def _known() -> Signers:
    return decode(Signers, signers_list(1, GLASS).document.encode())


def _breaks(ask: Ask, *words: SignedText) -> bool:
    evidence = Evidence(ask.evidence().request, words)
    return approvals.breaks_glass(ask.order(), evidence, _known(), NOW)


def test_without_a_word_nobody_breaks_the_glass() -> None:
    ask = Ask()
    assert not _breaks(ask)
    assert not _breaks(ask, ask.signed_approval("bob"))
    assert not approvals.breaks_glass(ask.order(), None, _known(), NOW)


def test_so_many_words_are_read_for_one_that_breaks_the_glass_and_no_more() -> None:
    ask = Ask()
    own, other = ask.signed_approval("alice", decision="break-glass"), ask.signed_approval("bob")
    assert _breaks(ask, own, *[other] * (approvals.MAX_APPROVALS - 1))
    assert not _breaks(ask, own, *[other] * approvals.MAX_APPROVALS)


def test_a_word_that_breaks_the_glass_is_about_the_request_that_came_with_it() -> None:
    ask = Ask()
    own = ask.signed_approval("alice", decision="break-glass")
    other = replace(ask, text="other: text\n").evidence().request
    with pytest.raises(Refusal) as caught:
        approvals.breaks_glass(ask.order(), Evidence(other, (own,)), _known(), NOW)
    assert _reason(caught) == "RequestDigestDiffers"


def test_a_rejection_outweighs_who_breaks_the_glass() -> None:
    ask = Ask()
    own = ask.signed_approval("alice", decision="break-glass")
    void = ask.signed_approval("carol", by="bob", decision="reject")
    assert _breaks(ask, own, void)
    with pytest.raises(Refusal) as caught:
        _breaks(ask, own, ask.signed_approval("carol", decision="reject"))
    assert _reason(caught) == "Rejected"


def test_an_order_without_a_request_breaks_no_glass() -> None:
    ask = Ask()
    own = ask.signed_approval("alice", decision="break-glass")
    order = replace(ask.order(), request="")
    assert not approvals.breaks_glass(order, Evidence(ask.evidence().request, (own,)), _known(), NOW)
