"""Who may acknowledge that the glass was broken, and never who broke it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from capsule.documents.types import ClaimSpec, Ground
from capsule.trust.break_glass import broken, unfit_to_acknowledge
from tests.trust_history import History


def claim(by: str, evidence: Ground = "break-glass") -> ClaimSpec:
    return ClaimSpec(
        request="r1",
        request_digest="sha256:" + "0" * 64,
        op_id="0" * 64,
        service="openai-chat",
        service_digest="sha256:" + "0" * 64,
        action="rotateKey",
        requested_by=by,
        approved_by=(),
        evidence=evidence,
        observed_revision="a" * 40,
        reconciler="reconciler-1",
        attempt=1,
        nonce="0" * 32,
        claimed_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
    )


def test_the_glass_is_broken_where_the_claim_says_so_alone() -> None:
    grounds: tuple[Ground, ...] = ("signature", "forge", "merge", "break-glass")
    assert [broken(claim("alice", each)) for each in grounds] == [False, False, False, True]


@pytest.mark.parametrize("by", [("bob",), ("bob", "alice"), ("alice", "bob")])
def test_a_reviewer_who_broke_the_glass_does_not_acknowledge_it(by: tuple[str, ...]) -> None:
    state = History.begun().judged()
    claims = [claim(who) for who in by]
    assert unfit_to_acknowledge(state, "bob", claims).startswith("bob broke the glass")
    assert unfit_to_acknowledge(state, "dave", claims) == ""
