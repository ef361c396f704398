"""Each check of an order fails for its own reason alone, and the right order passes all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from capsule_agent import approvals, verify
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import generation_at
from capsule_agent.protocol.messages import (
    Envelope,
    Evidence,
    Order,
    SignedText,
    Signers,
    SignersList,
    decode,
    instant_text,
)
from capsule_agent.refusal import Refusal, Untrusted
from capsule_agent.signers_list import trusted_signers
from tests.agent_fixtures import (
    NOW,
    REPOSITORY,
    SERVICE,
    Ask,
    desired,
    key,
    sign_text,
    signers_list,
)

OWNERS = (key("owner").public,)
OTHER = "ab" * 20


def signers() -> Signers:
    return decode(Signers, signers_list().document.encode())


def reason_of(check: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        check()
    return caught.value.reason


# ---- signers ------------------------------------------------------------------------------------


def judged(carried: SignersList | None, stored: SignersList | None = None, serial: int = 0) -> Signers:
    return trusted_signers(carried, stored, serial, OWNERS, REPOSITORY).signers


def test_a_list_signed_by_an_owner_is_trusted() -> None:
    assert judged(signers_list(serial=3)).serial == 3


def test_the_stored_list_serves_when_none_is_carried() -> None:
    assert judged(None, signers_list(serial=4), 4).serial == 4


def test_a_list_with_one_owner_signature_among_strangers_is_trusted() -> None:
    assert judged(signers_list(owners=("stranger", "owner"))).serial == 1


def test_the_same_list_again_is_trusted() -> None:
    assert judged(signers_list(serial=2), signers_list(serial=2), 2).serial == 2


def test_a_newer_list_takes_the_place_of_the_stored_one() -> None:
    assert judged(signers_list(6, {"alice": ["request"]}), signers_list(5), 5).serial == 6


def test_a_list_of_the_serial_that_was_seen_is_taken_where_none_is_stored() -> None:
    assert judged(signers_list(5), None, 5).serial == 5


def altered(text: SignersList, old: str, new: str) -> SignersList:
    document = text.document.replace(old, new)
    return SignersList(document, (key("owner").sign(document.encode(), sshsig.SIGNERS),))


@pytest.mark.parametrize(
    ("reason", "carried", "stored", "serial"),
    [
        ("SignersMissing", None, None, 0),
        ("SignersNotOwnerSigned", signers_list(owners=("stranger",)), None, 0),
        ("SignersNotOwnerSigned", signers_list(owners=()), None, 0),
        ("SignersNotOwnerSigned", None, signers_list(owners=("stranger",)), 1),
        ("SignersOfOtherRepository", signers_list(repository=OTHER), None, 0),
        ("SignersOutdated", signers_list(serial=4), signers_list(serial=5), 5),
        ("SignersSerialReused", signers_list(5, {"mallory": ["order"]}), signers_list(5), 5),
        ("SignersMixRoles", signers_list(1, {"r": ["order", "approve"]}), None, 0),
        ("SignersMixRoles", signers_list(1, {"r": ["request", "approve", "order"]}), None, 0),
        ("SignersInvalid", altered(signers_list(), '"serial": 1', '"serial": true'), None, 0),
        ("SignersInvalid", altered(signers_list(), "ssh-ed25519", "ssh-rsa"), None, 0),
        (
            "SignersShareKey",
            altered(signers_list(), key("carol").public.text, key("bob").public.text),
            None,
            0,
        ),
    ],
)
def test_a_list_is_distrusted(
    reason: str, carried: SignersList | None, stored: SignersList | None, serial: int
) -> None:
    with pytest.raises(Untrusted) as caught:
        judged(carried, stored, serial)
    assert caught.value.reason == reason


def test_a_list_signed_in_another_namespace_is_distrusted() -> None:
    text = signers_list()
    forged = SignersList(text.document, (key("owner").sign(text.document.encode(), sshsig.APPROVAL),))
    assert reason_of(lambda: judged(forged)) == "SignersNotOwnerSigned"


# ---- the sender and the call ---------------------------------------------------------------------


def sender(envelope: Envelope, order: Order) -> Callable[[], object]:
    return lambda: verify.check_sender(envelope, order, signers())


def test_the_reconciler_is_the_sender() -> None:
    ask = Ask()
    verify.check_sender(ask.envelope(), ask.order(), signers())


def test_senders_are_refused() -> None:
    ask = Ask()
    assert reason_of(sender(ask.envelope(by="mallory"), ask.order())) == "OrderForged"
    assert reason_of(sender(ask.envelope(by="bob"), ask.order())) == "OrderForged"
    for stranger in ("mallory", "bob"):
        named = replace(ask, reconciler=stranger)
        assert reason_of(sender(named.envelope(), named.order())) == "ReconcilerUnknown"
    edited = replace(ask.envelope(), payload=ask.envelope().payload.replace("24h", "0s"))
    assert reason_of(sender(edited, ask.order())) == "OrderForged"


def test_an_order_is_for_this_service_and_repository_and_time() -> None:
    order = Ask().order()
    verify.check_service(order, SERVICE)
    verify.check_repository(order, signers())
    verify.check_not_after(order, NOW)
    verify.check_not_after(replace(order, not_after=instant_text(NOW)), NOW)
    verify.check_attempt_number(order)
    verify.check_operation_id(order)


@pytest.mark.parametrize(
    ("reason", "check"),
    [
        ("OrderForOtherService", lambda o: verify.check_service(replace(o, service="other"), SERVICE)),
        (
            "OrderForOtherRepository",
            lambda o: verify.check_repository(replace(o, repository=OTHER), signers()),
        ),
        ("OrderTooLate", lambda o: verify.check_not_after(o, NOW + timedelta(minutes=5, seconds=1))),
        ("OrderInvalid", lambda o: verify.check_not_after(replace(o, not_after="soon"), NOW)),
        ("OrderInvalid", lambda o: verify.check_attempt_number(replace(o, attempt=0))),
        ("OperationIdDiffers", lambda o: verify.check_operation_id(replace(o, op_id="0" * 64))),
        ("OperationIdDiffers", lambda o: verify.check_operation_id(replace(o, request="other"))),
        ("OperationIdDiffers", lambda o: verify.check_operation_id(replace(o, service="other"))),
        ("OperationIdDiffers", lambda o: verify.check_operation_id(replace(o, repository=OTHER))),
        ("OperationIdDiffers", lambda o: verify.check_operation_id(replace(o, request_digest="sha256:0"))),
        ("GenerationMissing", lambda o: verify.check_operation_id(replace(o, request=""))),
    ],
)
def test_a_call_is_refused(reason: str, check: Callable[[Order], None]) -> None:
    assert reason_of(lambda: check(Ask().order())) == reason


def test_a_desired_state_order_has_the_id_of_its_generation() -> None:
    order = decode(Order, desired("enable", 4).payload.encode())
    verify.check_operation_id(order)
    other = replace(order, params={"generation": 5})
    assert reason_of(lambda: verify.check_operation_id(other)) == "OperationIdDiffers"
    for generation in (True, 0, "4"):
        bad = replace(order, params={"generation": generation})
        assert reason_of(lambda: verify.check_operation_id(bad)) == "GenerationMissing"  # noqa: B023 (called at once)


def test_a_desired_state_order_is_not_dated_more_than_24_hours_ahead() -> None:
    def dated(generation: int) -> Order:
        return decode(Order, desired("enable", generation).payload.encode())

    here = 1_795_435_200_000
    assert here == generation_at(NOW)
    for generation in (1, 1_795_435_200, here, here + 24 * 3_600_000):
        verify.check_generation(dated(generation), NOW)
    late = dated(here + 24 * 3_600_000 + 1)
    assert reason_of(lambda: verify.check_generation(late, NOW)) == "GenerationFarAhead"
    with pytest.raises(Refusal, match=r"2026-11-24 12:00:00 UTC.*2026-11-23 12:00:00 UTC"):
        verify.check_generation(late, NOW)
    with pytest.raises(Refusal, match="after the year 9999"):
        verify.check_generation(dated(2**53 - 1), NOW)


# ---- approvals -----------------------------------------------------------------------------------


def weighed(
    ask: Ask, *given: SignedText, needed: int = 1, evidence: Evidence | None = None
) -> Callable[[], tuple[str, ...]]:
    found = evidence or ask.evidence(*given)
    return lambda: approvals.check_approvals(ask.order(), found, signers(), needed, NOW)


def test_approvals_of_distinct_people_count() -> None:
    ask = Ask(approvers=("bob", "carol"))
    assert weighed(ask, needed=2)() == ("bob", "carol")


def test_an_invalid_approval_beside_enough_valid_ones_is_not_counted() -> None:
    ask = Ask()
    mixed = (ask.signed_approval("bob", by="mallory"), ask.signed_approval("carol"))
    assert weighed(ask, *mixed)() == ("carol",)


@pytest.mark.parametrize(
    ("reason", "principal", "changes"),
    [
        ("ApprovalForOtherRepository", "bob", {"repository": OTHER}),
        ("ApprovalForOtherRequest", "bob", {"name": "another"}),
        ("ApprovalForOtherText", "bob", {"digest": "sha256:" + "0" * 64}),
        ("ApprovalForOtherService", "bob", {"targets": {"other": "sha256:" + "0" * 64}}),
        ("ApprovalForOtherAction", "bob", {"action": "runHealthCheck"}),
        ("ApprovalForOtherParams", "bob", {"params": {"grace": "0s"}}),
        ("ApprovalForOtherParams", "bob", {"params": {}}),
        ("ApprovalForOtherParams", "bob", {"params": {"grace": "24h", "more": True}}),
        ("ApprovalForOtherParams", "bob", {"params": {"grace": 1.5}}),
        ("ApprovalExpired", "bob", {"expires": instant_text(NOW)}),
        ("ApprovalInvalid", "bob", {"expires": "tomorrow"}),
        ("Rejected", "bob", {"decision": "reject"}),
        ("OwnApproval", "bob", {"requested_by": "bob"}),
        ("RequesterNotListed", "bob", {"requested_by": "carol"}),
        ("RequesterNotListed", "bob", {"requested_by": "mallory"}),
        ("RequestForged", "carol", {"requested_by": "bob"}),
        ("ApproverNotListed", "alice", {}),
        ("ApproverNotListed", "mallory", {}),
        ("ApproverNotListed", "reconciler-1", {}),
    ],
)
def test_an_approval_does_not_count(reason: str, principal: str, changes: dict[str, Any]) -> None:
    ask = Ask()
    assert reason_of(weighed(ask, ask.signed_approval(principal, **changes))) == reason


def test_parameters_equal_in_python_but_not_in_json_differ() -> None:
    ask = Ask(params={"dry": 1})
    assert reason_of(weighed(ask, ask.signed_approval("bob", params={"dry": True}))) == (
        "ApprovalForOtherParams"
    )


def test_a_valid_rejection_outweighs_approvals() -> None:
    ask = Ask()
    both = (ask.signed_approval("bob"), ask.signed_approval("carol", decision="reject"))
    assert reason_of(weighed(ask, *both)) == "Rejected"


def test_an_approval_signed_by_somebody_else_does_not_count() -> None:
    ask = Ask()
    assert reason_of(weighed(ask, ask.signed_approval("bob", by="carol"))) == "ApprovalForged"
    wrong = sign_text(ask.approval("bob").to_json(), "bob", sshsig.REQUEST)
    assert reason_of(weighed(ask, wrong)) == "ApprovalForged"
    edited = replace(ask.signed_approval("bob"), document=ask.signed_approval("bob").document + " ")
    assert reason_of(weighed(ask, edited)) == "ApprovalForged"
    assert reason_of(weighed(ask, SignedText("[]", ""))) == "ApprovalInvalid"


def test_one_person_counts_once() -> None:
    ask = Ask(approvers=("bob", "bob"))
    assert reason_of(weighed(ask, needed=2)) == "ApprovedTwice"


def test_approvals_are_needed() -> None:
    ask = Ask()
    assert reason_of(weighed(ask, needed=2)) == "ApprovalsMissing"
    none = Evidence(ask.evidence().request)
    assert reason_of(weighed(ask, evidence=none)) == "ApprovalsMissing"
    missing = lambda: approvals.check_approvals(ask.order(), None, signers(), 1, NOW)  # noqa: E731 (called twice)
    assert reason_of(missing) == "ApprovalsMissing"
    without_request = replace(ask.order(), request="")
    assert (
        reason_of(lambda: approvals.check_approvals(without_request, ask.evidence(), signers(), 1, NOW))
        == "ApprovalsMissing"
    )


PROPOSING = {
    "alice": ["request"],
    "bob": ["approve"],
    "carol": ["approve"],
    "reconciler-1": ["order", "request"],
    "reconciler-2": ["order", "request"],
}


def by_machine(*given: SignedText, requester: str = "reconciler-1", needed: int = 1) -> tuple[str, ...]:
    """Who approved what a machine asked for."""
    ask = Ask(requester=requester)
    listed = judged(signers_list(1, PROPOSING))
    return approvals.check_approvals(ask.order(), ask.evidence(*given), listed, needed, NOW)


def test_a_machine_asks_and_people_approve() -> None:
    ask = Ask(requester="reconciler-1")
    assert by_machine(ask.signed_approval("bob"), ask.signed_approval("carol"), needed=2) == ("bob", "carol")


@pytest.mark.parametrize("machine", ["reconciler-1", "reconciler-2"])
def test_no_machine_approves_what_a_machine_asked_for(machine: str) -> None:
    ask = Ask(requester="reconciler-1")
    own, person = ask.signed_approval(machine), ask.signed_approval("bob")
    assert reason_of(lambda: by_machine(own)) == "ApproverNotListed"
    assert reason_of(lambda: by_machine(person, own, needed=2)) == "ApproverNotListed"


def test_a_machine_asks_only_where_the_list_says_so() -> None:
    ask = Ask(requester="reconciler-1")
    assert reason_of(weighed(ask)) == "RequesterNotListed"


def test_too_many_approvals_are_not_read() -> None:
    ask = Ask(approvers=("bob",) * (approvals.MAX_APPROVALS + 1))
    assert reason_of(weighed(ask)) == "TooManyApprovals"


def test_as_many_approvals_as_may_come_are_read() -> None:
    ask = Ask(approvers=("bob",) * approvals.MAX_APPROVALS)
    assert weighed(ask)() == ("bob",)


def test_the_carried_request_is_the_one_ordered() -> None:
    ask = Ask()
    request = sign_text(ask.request_bytes + b"#", "alice", sshsig.REQUEST)
    assert reason_of(weighed(ask, evidence=Evidence(request, ask.evidence().approvals))) == (
        "RequestDigestDiffers"
    )
    unsigned = SignedText(ask.request_bytes.decode(), key("mallory").sign(ask.request_bytes, sshsig.REQUEST))
    assert reason_of(weighed(ask, evidence=Evidence(unsigned, ask.evidence().approvals))) == "RequestForged"
