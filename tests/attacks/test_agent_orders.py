"""What somebody tries who holds the network, the reconciler's key, the forge, or one approver's key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from capsule_agent import Agent
from capsule_agent.calls import Answer
from capsule_agent.journal import Refused
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import LONGEST_AHEAD, generation_at
from capsule_agent.protocol.ids import operation_id
from capsule_agent.protocol.messages import Envelope, Evidence, Receipt
from tests.agent_fixtures import (
    NOW,
    Ask,
    KeyStore,
    body,
    desired,
    key,
    make_agent,
    read_receipt,
    seal,
    signers_list,
    write_owners,
)


class Target:
    """An agent under attack: its key store counts what really happened."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.now = NOW
        self.store = KeyStore()
        self.agent: Agent = make_agent(folder, clock=self.clock, **options)
        self.agent.rotation(self.store.rotation(), approvals=1)
        self.calls = self.agent._calls()

    def clock(self) -> datetime:
        return self.now

    def send(self, envelope: Envelope, name: str = "order") -> Answer:
        return self.calls.answer(f"/capsule/v1/{name}", body(envelope))

    def receipt(self, envelope: Envelope, name: str = "order") -> Receipt:
        answer = self.send(envelope, name)
        assert answer.status == 200, answer.body
        return read_receipt(answer.body)

    def refused(self, envelope: Envelope) -> str:
        """The reason of the refusal, signed or not; no key was made."""
        answer = self.send(envelope)
        assert self.store.created == 0
        assert self.store.in_use == "key-0"
        if answer.status != 200:
            assert answer.status == 403
            return str(json.loads(answer.body)["reason"])
        receipt = read_receipt(answer.body)
        assert receipt.outcome == "refused"
        return receipt.reason


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


def test_a_replayed_order_gives_the_stored_receipt_and_no_second_effect(target: Target) -> None:
    first = target.send(Ask().envelope())
    assert read_receipt(first.body).outcome == "succeeded"
    for _ in range(3):
        assert target.send(Ask().envelope()) == first
    assert target.store.created == 1


def test_a_replay_after_its_time_is_refused(target: Target) -> None:
    target.now += timedelta(minutes=6)
    assert target.refused(Ask().envelope()) == "OrderTooLate"


def test_a_question_that_comes_late_is_answered(target: Target) -> None:
    done = target.receipt(Ask().envelope())
    target.now += timedelta(minutes=6)
    assert target.receipt(Ask().query(), "query") == done


def test_a_tombstone_that_comes_late_still_prevents(target: Target) -> None:
    target.now += timedelta(minutes=6)
    refused = target.receipt(Ask().query(tombstone=True), "query")
    assert (refused.outcome, refused.reason) == ("refused", "Tombstoned")
    target.now -= timedelta(minutes=6)
    assert target.refused(Ask().envelope()) == "Tombstoned"


ELSEWHERE = "ab" * 20


@pytest.mark.parametrize(
    ("reason", "envelope"),
    [
        ("OrderForOtherService", lambda: Ask(service="other").envelope()),
        ("OrderForOtherRepository", lambda: Ask(repository=ELSEWHERE).envelope()),
        (
            "SignersOfOtherRepository",
            lambda: Ask(repository=ELSEWHERE, signers=signers_list(repository=ELSEWHERE)).envelope(),
        ),
        ("OrderForged", lambda: Ask().envelope(by="mallory")),
        ("ReconcilerUnknown", lambda: Ask(reconciler="bob").envelope()),
        (
            "SignersNotOwnerSigned",
            lambda: Ask(signers=signers_list(9, {"mallory": ["order"]}, ("mallory",))).envelope(),
        ),
        ("SignersOutdated", lambda: Ask(signers=signers_list(1)).envelope()),
        ("OwnApproval", lambda: Ask(requester="bob", approvers=("bob",)).envelope()),
        ("ApprovalExpired", lambda: Ask(expires=NOW - timedelta(seconds=1)).envelope()),
        ("ApproverNotListed", lambda: Ask(approvers=("mallory",)).envelope()),
        ("RequesterNotListed", lambda: Ask(requester="mallory").envelope()),
    ],
)
def test_an_order_that_is_wrong_in_one_way_is_refused(
    target: Target, reason: str, envelope: Callable[[], Envelope]
) -> None:
    newer = signers_list(2)
    target.receipt(replace(Ask(request="before").query(), signers=newer), "query")
    sent = envelope()
    if sent.signers == signers_list(1) and reason != "SignersOutdated":
        sent = replace(sent, signers=newer)
    assert target.refused(sent) == reason


def test_an_order_whose_time_ran_out_while_it_waited_is_not_begun(target: Target) -> None:
    run = target.agent._executor
    assert run is not None
    target.now += timedelta(minutes=6)
    with pytest.raises(Refused, match="not to be begun after"):
        run.perform(Ask().order(), run.actions["rotateKey"], {"grace": "24h"})
    assert target.store.created == 0


def test_a_stolen_reconciler_key_alone_rotates_nothing(target: Target) -> None:
    ask = Ask()
    bare = seal(ask.order(), "reconciler-1", None, signers_list())
    assert target.refused(bare) == "ApprovalsMissing"


def test_a_stolen_reconciler_key_cannot_approve(target: Target) -> None:
    assert target.refused(Ask(approvers=("reconciler-1",)).envelope()) == "ApproverNotListed"


def test_a_stolen_reconciler_key_cannot_leave_out_the_request(target: Target) -> None:
    assert target.refused(desired("rotateKey", 1, grace="0s")) == "RequestMissing"


def test_approvals_of_another_request_are_not_taken_over(target: Target) -> None:
    other, ask = Ask(request="approved-last-week"), Ask()
    mixed = Evidence(ask.evidence().request, other.evidence().approvals)
    assert target.refused(ask.envelope(evidence=mixed)) == "ApprovalForOtherRequest"


def test_the_request_and_approvals_of_another_operation_are_not_taken_over(target: Target) -> None:
    other, ask = Ask(request="approved-last-week"), Ask()
    assert target.refused(ask.envelope(evidence=other.evidence())) == "RequestDigestDiffers"


def test_parameters_edited_by_the_reconciler_are_refused(target: Target) -> None:
    ask = Ask()
    assert (
        target.refused(ask.envelope(replace(ask.order(), params={"grace": "0s"}))) == "ApprovalForOtherParams"
    )


def test_a_request_edited_after_its_run_never_runs_again(target: Target) -> None:
    assert target.receipt(Ask().envelope()).outcome == "succeeded"
    edited = Ask(text="kind: Edited\n")
    assert target.receipt(edited.envelope()).reason == "RequestSpent"
    assert target.store.created == 1


def test_a_made_up_operation_id_does_not_run_a_request_twice(target: Target) -> None:
    target.receipt(Ask().envelope())
    fresh = replace(Ask().order(), op_id=operation_id("x", "y", "z", "w"))
    assert target.receipt(Ask().envelope(fresh)).reason == "OperationIdDiffers"
    assert target.store.created == 1


def test_one_person_approving_twice_is_one_person(tmp_path: Path) -> None:
    target = Target(tmp_path)
    target.agent.rotation(target.store.rotation(), approvals=2)
    ask = Ask()
    twice = (ask.signed_approval("bob"), ask.signed_approval("bob", reason="again"))
    assert target.refused(ask.envelope(evidence=ask.evidence(*twice))) == "ApprovedTwice"


def test_a_refused_order_stays_refused_when_it_is_replayed(target: Target) -> None:
    ask = Ask()
    bare = seal(ask.order(), "reconciler-1", None, signers_list())
    first = target.send(bare)
    assert target.send(ask.envelope()) == first
    assert target.store.created == 0


def test_an_outdated_attempt_is_refused_after_a_takeover(target: Target) -> None:
    assert target.receipt(Ask(attempt=2).query(), "query").reason == "NeverSeen"
    assert target.refused(Ask(attempt=1).envelope()) == "AttemptOutdated"
    assert target.receipt(Ask(attempt=2).envelope()).outcome == "succeeded"


def test_a_late_order_after_a_tombstone_does_nothing(target: Target) -> None:
    first = target.receipt(Ask().query(tombstone=True), "query")
    assert (first.outcome, first.reason) == ("refused", "Tombstoned")
    assert target.refused(Ask().envelope()) == "Tombstoned"
    assert target.refused(Ask(attempt=2).envelope()) == "Tombstoned"


def test_a_tombstone_does_not_undo_what_was_done(target: Target) -> None:
    done = target.send(Ask().envelope())
    assert target.send(Ask().query(tombstone=True), "query") == done


def test_a_leaver_is_refused_once_the_newer_list_was_seen(target: Target) -> None:
    without_bob = signers_list(2, {"alice": ["request"], "carol": ["approve"], "reconciler-1": ["order"]})
    assert target.refused(Ask(signers=without_bob).envelope()) == "ApproverNotListed"
    assert target.refused(Ask(request="r2", signers=None).envelope()) == "ApproverNotListed"
    assert target.refused(Ask(request="r3", signers=signers_list(1)).envelope()) == "SignersOutdated"


def test_an_owner_removed_from_the_host_no_longer_vouches(target: Target, tmp_path: Path) -> None:
    target.receipt(Ask().query(), "query")
    (tmp_path / "owners" / "owner.pub").unlink()
    write_owners(tmp_path / "owners", "new-owner")
    assert target.refused(Ask(signers=None).envelope()) == "SignersNotOwnerSigned"


def test_an_old_enable_replayed_does_nothing(target: Target) -> None:
    old = desired("enable", 1)
    assert target.receipt(old).outcome == "succeeded"
    assert target.receipt(desired("disable", 2)).outcome == "succeeded"
    target.receipt(old)
    assert not target.agent.enabled
    assert target.receipt(desired("enable", 1, reason="another")).reason == "GenerationOutdated"
    assert not target.agent.enabled


def test_a_generation_far_ahead_does_not_make_the_agent_deaf(target: Target) -> None:
    """Whoever stole a reconciler's key has a day at most, not for ever."""
    here = generation_at(NOW)
    target.agent.config("model", lambda: "m", set=print)
    for far in (2**53 - 1, here + LONGEST_AHEAD + 1):
        for action in ("disable", "enable", "configure"):
            assert target.refused(desired(action, far)) == "GenerationFarAhead"
    assert target.agent.enabled
    assert target.receipt(desired("disable", here)).outcome == "succeeded"
    assert not target.agent.enabled
    assert target.receipt(desired("enable", here + LONGEST_AHEAD)).outcome == "succeeded"
    assert target.receipt(desired("disable", here + 1)).reason == "GenerationOutdated"


def test_a_generation_in_seconds_is_simply_a_lower_one(target: Target) -> None:
    """An agent that was told by an earlier version goes on with this one."""
    here = generation_at(NOW)
    assert target.receipt(desired("disable", here // 1000)).outcome == "succeeded"
    assert target.receipt(desired("enable", here)).outcome == "succeeded"
    assert target.receipt(desired("disable", here // 1000 + 1)).reason == "GenerationOutdated"
    assert target.agent.enabled


def test_what_could_leak_a_credential_is_not_configured_without_approval(target: Target) -> None:
    found: list[str] = []
    target.agent.config("upstream", lambda: "https://api", set=found.append, approvals=1)
    target.agent.config("model", lambda: found[-1] if found else "", set=found.append)
    moved = {"upstream": "https://mallory.example"}
    assert target.refused(desired("configure", 1, **moved)) == "ApprovalsMissing"
    ask = Ask(action="configure", params=moved)
    assert target.refused(seal(ask.order(), "reconciler-1", None, signers_list())) == "ApprovalsMissing"
    assert found == []
    assert target.receipt(desired("configure", 2, model="m")).outcome == "succeeded"
    approved = Ask(action="configure", params=moved, request="approved-move")
    assert target.receipt(approved.envelope()).outcome == "succeeded"
    assert found == ["m", "https://mallory.example"]


def test_an_agent_that_observes_takes_no_orders(tmp_path: Path) -> None:
    agent = Agent("openai-chat", version="1", observe=True)
    answer = agent._calls().answer("/capsule/v1/order", body(Ask().envelope()))
    assert (answer.status, json.loads(answer.body)["reason"]) == (403, "ObserveOnly")


def test_a_pinned_repository_is_kept_from_the_first_call_on(tmp_path: Path) -> None:
    target = Target(tmp_path, repository=ELSEWHERE)
    assert target.refused(Ask().envelope()) == "SignersOfOtherRepository"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"payload": "{}", "signature": "", "signature": ""}',
        b'{"payload": 1, "signature": ""}',
        b'{"payload": "{}", "signature": "", "more": 1}',
        b'{"payload": "\\ud800", "signature": ""}',
        b'{"payload": "{}", "signature": ""}',
        b"[" * 1000,
        b'{"payload": ' + b"9" * 5000 + b"}",
    ],
)
def test_malformed_messages_are_told_apart_from_failures(target: Target, data: bytes) -> None:
    for name in ("order", "query", "report"):
        answer = target.calls.answer(f"/capsule/v1/{name}", data)
        assert (answer.status, json.loads(answer.body)["reason"]) == (400, "MessageInvalid")


@pytest.mark.parametrize("number", ["1.5", "1e999", "NaN", "123456789012345678901"])
def test_numbers_with_two_readings_are_refused(target: Target, number: str) -> None:
    ask = Ask()
    payload = ask.order().to_json().decode().replace('"24h"', number)
    signed = Envelope(
        payload, key("reconciler-1").sign(payload.encode(), sshsig.ORDER), ask.evidence(), signers_list()
    )
    answer = target.send(signed)
    assert target.store.created == 0
    assert answer.status == 400 or read_receipt(answer.body).reason == "ParamsInvalid"
