"""Checks of orders and queries: executed once, fenced, forgotten never. Each raises Nonconformance.

Called by suite.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from capsule_agent.conformance.retell import Vector, retold
from capsule_agent.conformance.session import Nonconformance, Session, Verdict, in_minutes
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.generations import HOUR, LONGEST_AHEAD
from capsule_agent.protocol.messages import Evidence, Signers, SignersList
from capsule_agent.protocol.strict_json import MAX_INTEGER


def expect(verdict: Verdict, outcome: str, reason: str = "") -> None:
    """The answer is as the contract says. Raises Nonconformance."""
    if verdict.outcome != outcome or (reason and verdict.reason != reason):
        wanted = f"{outcome} {reason}".strip()
        raise Nonconformance(f"expected {wanted}, got {verdict.outcome} {verdict.reason}")


def answers_vector(session: Session, vector: Vector) -> None:
    """A published order, told again for this agent, is answered as published."""
    expect(
        session.done(retold(session, vector)),
        vector.outcome,
        "" if vector.outcome == "succeeded" else vector.reason,
    )


def health_check_runs(session: Session) -> None:
    """runHealthCheck needs no approval, and answers with a receipt."""
    ask = session.health_check()
    verdict = session.done(ask)
    expect(verdict, "succeeded")
    assert verdict.receipt
    found = (verdict.receipt.action, verdict.receipt.attempt, bool(verdict.receipt.finished_at))
    if found != ("runHealthCheck", 1, True):
        raise Nonconformance("expected a receipt that names the action and the attempt, and finishedAt")


def approved_order_runs(session: Session) -> None:
    """An order with as many approvals as the action needs succeeds."""
    expect(session.done(session.ask()), "succeeded")


def too_few_approvals(session: Session) -> None:
    """One approval less than the action needs is not enough."""
    names = ("bob", "dave", "erin", "frank")[: session.needed - 1]
    expect(session.verdict(replace(session.ask(), approvers=names).bare()), "refused", "ApprovalsMissing")
    expect(session.verdict(replace(session.ask(), approvers=names).envelope()), "refused", "ApprovalsMissing")


def too_many_approvals(session: Session) -> None:
    """More approvals than anybody needs are refused unread, not verified one by one."""
    ask = session.ask()
    evidence = ask.evidence()
    many = Evidence(evidence.request, evidence.approvals[:1] * 65)
    expect(session.verdict(session.seal(ask.order, evidence=many)), "refused", "TooManyApprovals")


def approvals_of_another_request(session: Session) -> None:
    """What people signed for one request serves no other one."""
    ask, other = session.ask(), session.ask()
    taken = Evidence(ask.evidence().request, other.evidence().approvals)
    expect(
        session.verdict(session.seal(ask.order, evidence=taken)),
        "refused",
        "ApprovalForOtherRequest",
    )
    ask = session.ask()
    expect(
        session.verdict(session.seal(ask.order, evidence=other.evidence())), "refused", "RequestDigestDiffers"
    )


def replay_gives_the_stored_receipt(session: Session) -> None:
    """The same order again, and a query, give the same receipt, byte for byte; nothing runs again."""
    ask = session.ask()
    first = session.done(ask)
    expect(first, "succeeded")
    for what, again in (
        ("the order again", session.verdict(ask.envelope())),
        ("the order as attempt 2", session.verdict(replace(ask, attempt=2).envelope())),
        ("a query", session.verdict(replace(ask, attempt=2).query(), "query")),
        ("a query with a tombstone", session.verdict(replace(ask, attempt=3).query(tombstone=True), "query")),
    ):
        if again.body != first.body:
            raise Nonconformance(f"{what}: expected the stored receipt, got {again.outcome} {again.reason}")


def two_at_once_run_once(session: Session) -> None:
    """The same order twice at the same time is one operation with one receipt."""
    ask = session.ask()
    sent = ask.envelope()
    found: list[Verdict] = []
    failed: list[Nonconformance] = []

    def order() -> None:
        try:
            found.append(session.done(sent))
        except Nonconformance as error:
            failed.append(error)

    threads = [threading.Thread(target=order) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    expect(found[0], "succeeded")
    if len({verdict.body for verdict in found}) > 1:
        raise Nonconformance("the same order, sent four times at once, got different receipts")


def refused_stays_refused(session: Session) -> None:
    """An order refused for want of approvals is spent: they cannot be handed in later."""
    ask = session.ask()
    first = session.verdict(ask.bare())
    expect(first, "refused")
    if session.verdict(ask.envelope()).body != first.body:
        raise Nonconformance("an order that was refused ran when it came again with approvals")


def edited_request_never_runs_again(session: Session) -> None:
    """A request's name is spent by its first run: another text under it is refused."""
    ask = session.ask()
    expect(session.done(ask), "succeeded")
    expect(session.verdict(replace(ask, text="edited\n").envelope()), "refused", "RequestSpent")


def outdated_attempt_is_refused(session: Session) -> None:
    """After attempt 2 has asked, attempt 1 is refused, and attempt 2 may go on."""
    ask = session.ask()
    later = replace(ask, attempt=2)
    expect(session.verdict(later.query(), "query"), "unknown", "NeverSeen")
    expect(session.verdict(ask.envelope()), "refused", "AttemptOutdated")
    expect(session.done(later), "succeeded")


def query_of_the_unknown(session: Session) -> None:
    """A query of an operation that the journal never saw is answered so; late ones as well."""
    expect(session.verdict(session.ask().query(), "query"), "unknown", "NeverSeen")
    late = replace(session.ask(), not_after=in_minutes(-5))
    expect(session.verdict(late.query(), "query"), "unknown", "NeverSeen")


def query_is_authenticated(session: Session) -> None:
    """Only a reconciler may ask what became of an operation, or prevent it."""
    ask = session.ask()
    query = session.seal(ask.query(tombstone=True).payload, "bob")
    expect(session.verdict(query, "query"), "problem", "OrderForged")
    expect(session.done(ask), "succeeded")


def tombstone_prevents(session: Session) -> None:
    """After a tombstone the order is refused for good, with a higher attempt too."""
    ask = session.ask()
    expect(session.verdict(ask.query(tombstone=True), "query"), "refused", "Tombstoned")
    expect(session.verdict(ask.envelope()), "refused", "Tombstoned")
    expect(session.verdict(replace(ask, attempt=2).envelope()), "refused", "Tombstoned")


def stored_signers_serve(session: Session) -> None:
    """An order that carries no list is judged by the newest list the agent has accepted."""
    expect(session.done(session.health_check()), "succeeded")
    ask = session.ask()
    expect(session.done(replace(ask.envelope(), signers=None)), "succeeded")
    report = session.report("serial")
    if report.signers_serial != session.serial:
        raise Nonconformance(f"the report's signersSerial is {report.signers_serial}, not {session.serial}")


def older_signers_are_refused(session: Session) -> None:
    """A list with a lower serial than one seen before is refused."""
    old = session.signers()
    expect(session.done(session.ask().envelope(session.newer_signers())), "succeeded")
    expect(session.verdict(session.ask().envelope(old)), "problem", "SignersOutdated")


def reused_serial_is_refused(session: Session) -> None:
    """Another list with the serial of the present one is refused."""
    expect(session.done(session.health_check()), "succeeded")
    other = session.signers(without="carol")
    expect(session.verdict(session.ask().envelope(other)), "problem", "SignersSerialReused")


def signers_of_another_repository(session: Session) -> None:
    """An agent stays with the repository of the first list it accepted, whatever its owners sign."""
    expect(session.done(session.health_check()), "succeeded")
    foreign = session.newer_signers(repository="ab" * 20)
    session.serial += 1
    verdict = session.verdict(session.ask().envelope(foreign))
    expect(verdict, "problem", "SignersOfOtherRepository")


def leaver_no_longer_counts(session: Session) -> None:
    """Who is not on the newest list approves nothing, although the approval was given before."""
    ask = session.ask()
    before = ask.envelope()
    without = session.newer_signers(without="bob")
    session.serial += 1
    expect(session.verdict(replace(before, signers=without)), "refused", "ApproverNotListed")


def unreadable_signers_are_refused(session: Session) -> None:
    """A list that owners signed and that is no list is refused, and not accepted."""
    listed = session.signers()
    broken = listed.document.replace('"serial"', '"more": 1, "serial"', 1)
    signed = session.ring.sign(broken.encode(), "owner", sshsig.SIGNERS)
    sent = session.ask().envelope(SignersList(signed.document, (signed.signature,)))
    expect(session.verdict(sent), "problem", "SignersInvalid")


def signers_in_another_namespace(session: Session) -> None:
    """An owner's signature in another namespace makes no list of signers."""
    document = session.signers().document
    signed = session.ring.sign(document.encode(), "owner", sshsig.APPROVAL)
    sent = session.ask().envelope(SignersList(signed.document, (signed.signature,)))
    expect(session.verdict(sent), "problem", "SignersNotOwnerSigned")


def removed_reconciler_is_refused(session: Session) -> None:
    """Who is no longer listed as a reconciler can order nothing."""
    without = session.newer_signers(without="reconciler-1")
    session.serial += 1
    expect(session.verdict(session.ask().envelope(without)), "problem", "ReconcilerUnknown")


def order_in_another_namespace(session: Session) -> None:
    """A reconciler's signature in another namespace is no order."""
    ask = session.ask()
    signature = session.ring.keys["reconciler-1"].sign(ask.order.to_json(), sshsig.HEARTBEAT)
    expect(session.verdict(replace(ask.envelope(), signature=signature)), "problem", "OrderForged")


def signed_bytes_are_what_counts(session: Session) -> None:
    """The same values in other bytes are not what was signed."""
    ask = session.ask()
    respelt = replace(ask.envelope(), payload=ask.envelope().payload.replace("  ", " "))
    expect(session.verdict(respelt), "problem", "OrderForged")


def generations_only_rise(session: Session) -> None:
    """An older desired state does nothing once a newer one was seen, and a replay does not bring it back."""
    session.generation += 3
    off, on = session.generation - 1, session.generation
    disable, enable = session.desired("disable", off, reason="test"), session.desired("enable", on, reason="")
    expect(session.verdict(disable), "succeeded")
    if session.report("disabled").enabled:
        raise Nonconformance("the report says enabled after a disable")
    expect(session.verdict(enable), "succeeded")
    session.verdict(disable)
    expect(session.verdict(session.desired("disable", off, reason="x")), "refused", "GenerationOutdated")
    expect(session.verdict(session.desired("disable", 0, reason="x")), "refused", "GenerationMissing")
    if not session.report("enabled").enabled:
        raise Nonconformance("an older desired state was taken up again")


def generation_far_ahead_is_refused(session: Session) -> None:
    """An order dated more than 24 hours ahead is refused, and makes the agent deaf to nothing."""
    session.generation += 2
    for ahead in (LONGEST_AHEAD + HOUR, MAX_INTEGER - session.generation):
        far = session.desired("disable", session.generation + ahead, reason="test")
        expect(session.verdict(far), "refused", "GenerationFarAhead")
    off, on = session.generation - 1, session.generation
    expect(session.verdict(session.desired("disable", off, reason="conformance")), "succeeded")
    expect(session.verdict(session.desired("enable", on, reason="")), "succeeded")


def disabled_agent_takes_orders(session: Session) -> None:
    """A disabled agent refuses traffic, not approved orders, reports or queries."""
    session.generation += 2
    expect(
        session.verdict(session.desired("disable", session.generation - 1, reason="conformance")), "succeeded"
    )
    try:
        ask = session.ask()
        expect(session.done(ask), "succeeded")
        expect(session.verdict(ask.query(), "query"), "succeeded")
        session.report("disabled")
    finally:
        expect(session.verdict(session.desired("enable", session.generation, reason="")), "succeeded")


def journal_rises(session: Session) -> None:
    """The journal's sequence rises with each operation, and reports show it."""
    before = session.report("before").journal
    expect(session.done(session.health_check()), "succeeded")
    after = session.report("after").journal
    if after.id != before.id or after.sequence <= before.sequence:
        raise Nonconformance("expected the journal's sequence to rise with an operation, and its id to stay")


def approval_needs_a_list_that_lists(session: Session) -> None:
    """An owner-signed list in which nobody may approve lets nobody approve."""
    ring = session.ring
    session.serial += 1
    entries = {"alice": ring.entry("alice"), "reconciler-1": ring.entry("reconciler-1")}
    entries["bob"] = ring.entry("bob", "request")
    bare = ring.seal_signers(Signers(ring.repository, session.serial, entries))
    sent = session.ask().envelope(bare)
    session.serial += 1
    expect(session.verdict(sent), "refused", "ApproverNotListed")
