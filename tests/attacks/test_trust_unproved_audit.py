"""What somebody tries to have people who look believe by what stands on audit and no reconciler wrote.

Carol, an owner, has a key that ended on Tuesday; the thief has it, and may push to main and to audit.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from capsule.documents.paths import AUDIT, MAIN
from capsule.trust.believed import Belief
from capsule.trust.objects import MissingObject
from capsule.view.build import SnapshotCache, snapshot
from capsule.view.mainline import judged_main
from capsule.view.model import Snapshot
from tests.attacks.test_trust_changes_by_forge import changed, review
from tests.attacks.test_trust_told_times import GHOST, MONDAY, TUESDAY, WEDNESDAY, at, begun, policy
from tests.evidence_history import NOW, RECORDED, Desk
from tests.trust_history import Audit, History, key

CAROL, BOB = ({"by": key(who), "name": who} for who in ("carol", "bob"))
NEXT_WEEK = MONDAY + timedelta(days=7)


def judged(history: History, audit: Audit | str, *, proved: str | None = None, **more: Any) -> Belief:
    """What somebody who never looked before believes next week."""
    tip = audit if isinstance(audit, str) else audit.tip
    root = history.root
    return judged_main(history, root, history.tip, tip, NEXT_WEEK, proved=lambda: proved, **more)


def serial(belief: Belief) -> int:
    return belief.state.policy.document.spec.serial


def reason(belief: Belief) -> str:
    return belief.doubt.reason if belief.doubt else ""


def shown(history: History, audit: Audit | str, cache: SnapshotCache | None = None) -> Snapshot:
    refs = {MAIN: history.tip, AUDIT: audit if isinstance(audit, str) else audit.tip}
    return snapshot(history, refs, history.root, NEXT_WEEK, cache)


# ---- times ----


def test_control_what_a_reconciler_took_in_before_the_end_is_believed() -> None:
    history, audit = begun()
    history.step({"policy.yaml": policy(2)}, by="carol", at=0)
    audit.step({}, at=at(TUESDAY - timedelta(seconds=1)))
    found = judged(history, audit)
    assert (serial(found), found.commit, reason(found), found.leans) == (2, audit.tip, "", True)


@pytest.mark.parametrize(
    "how",
    [{"signed": False}, GHOST, {"by": key("carol"), "name": "carol"}, {"by": key("bob"), "name": "bob"}],
)
def test_backdated_commit_that_no_reconciler_signed_tells_no_time(how: dict[str, Any]) -> None:
    """Neither unsigned, nor by a machine that the thief's own policy names, nor by a person."""
    history, audit = begun()
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(MONDAY), **how)
    found = judged(history, audit)
    assert (serial(found), found.commit) == (1, None)
    assert reason(found) == ("AuditSigner" if how.get("name") == "bob" else "AuditSignature")
    (condition,) = [each for each in shown(history, audit).conditions if each.type == "AuditNotProved"]
    assert "capsule audit verify" in condition.message


def test_machine_whose_own_key_has_ended_is_believed_no_more() -> None:
    history, audit = begun("reconciler-1")
    assert (judged(history, audit).commit, reason(judged(history, audit))) == (None, "AuditSignature")
    told = judged_main(history, history.root, history.tip, audit.tip, MONDAY)
    assert (told.commit, told.doubt) == (audit.tip, None)


def test_lie_on_audit_is_not_kept_by_whoever_keeps_looking() -> None:
    history, audit = begun()
    cache = SnapshotCache()
    shown(history, audit, cache)
    true = audit.tip
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(MONDAY), **GHOST)
    for tip, conditions in ((audit.tip, ["AuditNotProved"]), (true, []), (audit.tip, ["AuditNotProved"])):
        found = shown(history, tip, cache)
        assert [each.type for each in found.conditions if each.type == "AuditNotProved"] == conditions
        assert (cache.believed, cache.state and cache.state.policy.document.spec.serial) == (true, 1)


def test_whoever_keeps_looking_believes_what_a_reconciler_adds_to_what_was_believed() -> None:
    """Also of a reconciler that a key let in which has ended since: audit told when, and was believed."""
    history, audit = begun()
    cache = SnapshotCache()
    history.step({"policy.yaml": policy(2, machines=("ghost",))}, by="carol", at=0)
    audit.step({}, at=at(MONDAY))
    shown(history, audit, cache)
    audit.step({"status/openai-chat.yaml": b"y"}, at=at(WEDNESDAY), **GHOST)
    assert not [each for each in shown(history, audit, cache).conditions if each.type == "AuditNotProved"]
    assert cache.believed == audit.tip
    assert reason(judged(history, audit)) == "AuditSignature"  # as who looks for the first time must


def test_what_was_proved_here_says_who_is_a_reconciler() -> None:
    """Reconciler-1 was removed by a key that has ended since; its own key is used to tell another story."""
    history, audit = begun()
    first = audit.tip
    removed = policy(2, machines=("ghost",)).replace(key("reconciler-1").public.text.encode(), b"")
    line = f'    reconciler-1: {{machine: true, keys: ["{key("reconciler-1").public.text}"]}}\n'.encode()
    removed = policy(2, machines=("ghost",)).replace(line, b"")
    assert b"reconciler-1" not in removed
    history.step({"policy.yaml": removed}, by="carol", at=0)
    audit.step({}, at=at(MONDAY))
    proved = audit.tip
    forged = Audit(history)
    forged.tip, forged.observed = proved, audit.observed
    forged.step({"status/openai-chat.yaml": b"z"}, at=at(WEDNESDAY))
    found = judged(history, forged, proved=proved)
    assert (reason(found), found.commit, serial(found)) == ("AuditSignature", proved, 2)
    again = judged(history, audit, proved=proved)
    assert (reason(again), again.commit, serial(again)) == ("", proved, 2)
    turned = Audit(history)
    turned.tip, turned.observed = first, history.root
    turned.step({"status/openai-chat.yaml": b"z"}, at=at(WEDNESDAY), **GHOST)
    found = judged(history, turned, proved=proved)
    assert (reason(found), found.commit, serial(found)) == ("AuditTurned", proved, 2)


def test_what_was_believed_or_proved_and_is_here_no_more_is_no_reason_to_believe() -> None:
    history, audit = begun()
    lost = "f" * 40
    with pytest.raises(MissingObject):
        history.read(lost)
    history.step({"policy.yaml": policy(2)}, by="carol", at=0)
    audit.step({}, at=at(MONDAY), signed=False)
    for found in (judged(history, audit, proved=lost), judged(history, audit, earlier=lost)):
        assert (reason(found), found.commit, serial(found)) == ("AuditSignature", None, 1)


def test_what_was_judged_beside_an_audit_that_is_lost_is_judged_anew() -> None:
    """Main was judged by times of an audit that is here no more: nothing of that judgement is kept."""
    history, audit = begun()
    before = audit.tip
    history.step({"policy.yaml": policy(2)}, by="carol", at=0)
    audit.step({}, at=at(MONDAY))
    known = judged(history, audit).state
    assert known.policy.document.spec.serial == 2
    found = judged(history, before, earlier="f" * 40, known=known)
    assert (serial(found), found.commit) == (1, before)


def test_audit_is_believed_as_far_as_it_was_proved_where_its_tip_is_not() -> None:
    """Also where main would be no other without it."""
    history, audit = begun()
    proved = audit.tip
    audit.step({"status/openai-chat.yaml": b"y"}, at=at(MONDAY), signed=False)
    found = judged(history, audit, proved=proved)
    assert (found.leans, reason(found), found.commit) == (False, "AuditSignature", proved)


def test_proof_is_not_asked_for_where_nothing_hangs_on_it() -> None:
    def never() -> str:
        raise AssertionError("asked")

    history = History.begun()
    audit = Audit(history)
    audit.step({"status/openai-chat.yaml": b"x"}, at=at(MONDAY))
    found = judged_main(history, history.root, history.tip, audit.tip, NEXT_WEEK, proved=never)
    assert (found.commit, found.leans) == (audit.tip, False)


# ---- reviews ----


@pytest.mark.parametrize("how", [{"signed": False}, BOB])
def test_invented_review_of_a_change_lets_nothing_in_for_who_looks(how: dict[str, Any]) -> None:
    desk = changed()
    desk.audit.step({})
    honest = desk.audit.tip
    desk.record(desk.told(review("bob")), **how)
    history = desk.history
    assert desk.in_force()  # as audit tells it

    def seen(tip: str, earlier: str | None = None) -> Belief:
        return judged_main(history, history.root, history.tip, tip, NOW, earlier=earlier)

    for found in (seen(desk.audit.tip), seen(desk.audit.tip, honest)):
        assert [change.path for change in found.state.pending] == ["services/openai-chat.yaml"]
        assert found.leans
    cache = SnapshotCache()
    for tip in (honest, desk.audit.tip):
        refs = {MAIN: history.tip, AUDIT: tip}
        snapshot(history, refs, history.root, NOW, cache)
        assert cache.state
        assert len(cache.state.pending) == 1


@pytest.mark.parametrize(("signed", "phase"), [(True, "Approved"), (False, "Proposed")])
def test_invented_review_of_a_request_approves_nothing_for_who_looks(signed: bool, phase: str) -> None:
    desk = Desk.of("forge")
    desk.squash()
    desk.attest(review("bob"))
    audit = Audit(desk.history)
    audit.step(desk.record(), trailers=RECORDED, signed=signed)
    refs = {MAIN: desk.history.tip, AUDIT: audit.tip}
    (row,) = snapshot(desk.history, refs, desk.history.root, NOW).requests
    assert row.phase == phase


def test_control_review_of_a_change_that_a_reconciler_recorded_counts() -> None:
    desk = changed()
    desk.review(review("bob"))
    found = judged_main(desk.history, desk.history.root, desk.history.tip, desk.audit.tip, NOW)
    assert (found.state.pending, found.leans, found.commit) == ((), True, desk.audit.tip)
