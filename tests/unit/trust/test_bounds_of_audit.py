"""What a proof of audit rests on, and what it tells: each test stands for one check of audit, alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.trust.audit import AuditVerdict, BadCommit, Proved, verify_audit
from capsule.trust.audit_chain import Chain
from capsule.trust.audit_walk import SeenOnWay, Walk
from capsule.trust.checkpoints import NAMESPACE, Checkpoint, Statement, read_checkpoint
from capsule.trust.mainline import begin
from capsule.trust.objects import ObjectKind, ObjectReader
from capsule_agent.protocol.sshsig import PublicKey
from tests.trust_history import CLAIMED, ENDED, Audit, Files, History, approved, key, policy_text

AT = datetime(2026, 11, 23, 13, tzinfo=UTC)


def _executed(files: Files | None = None) -> Audit:
    """A rotation from request to result: two commits of audit."""
    history, raw = approved(files)
    audit = Audit(history)
    audit.step(audit.claim(raw), trailers=CLAIMED)
    audit.step(audit.result(raw), trailers=ENDED)
    return audit


def _bad(verdict: AuditVerdict) -> tuple[str, str]:
    bad = verdict.first_bad
    return (bad.reason, bad.message) if bad else ("", "")


def _proved(audit: Audit, **options: Any) -> tuple[AuditVerdict, list[Proved]]:
    kept: list[Proved] = []
    history = audit.history
    verdict = verify_audit(history, history.root, history.tip, audit.tip, keep=kept.append, **options)
    same = {id(history): history}
    return verdict, [copy.deepcopy(each, same) for each in kept]


def _again(kept: Proved) -> Callable[[ObjectReader], Proved | None]:
    return lambda _: kept


def test_a_verdict_holds_where_no_commit_is_bad() -> None:
    verdict = _executed().verdict()
    assert verdict.holds
    assert not replace(verdict, first_bad=BadCommit("0" * 40, "x", "x")).holds


# ---- chains and times ---------------------------------------------------------------------------


def test_a_chain_has_the_commits_behind_the_root_and_no_others() -> None:
    history = History.begun()
    steps = [history.step({"README.md": b"%d\n" % at}) for at in range(3)]
    chain = Chain.of(history, history.tip, history.root)
    assert [chain.at(number) for number in range(-1, 6)] == [None, None, *steps, None, None]
    assert [chain.packed_from(start).hex() for start in (0, 2, 3)] == ["".join(steps), steps[2], ""]


def test_a_step_was_seen_when_the_first_point_at_or_behind_it_was() -> None:
    steps = [f"{at:040x}" for at in range(1, 6)]
    seen = SeenOnWay({bytes.fromhex(step): at for at, step in enumerate(steps, 1)})
    assert seen.of(steps[0]) is None
    for position, hour in ((2, 1), (4, 2)):
        seen.now = datetime(2026, 11, 23, hour, tzinfo=UTC)
        seen.take_in(position)
    found = [seen.of(step) for step in steps]
    assert [each.hour if each else None for each in found] == [1, 1, 2, 2, None]


# ---- where branches come from -------------------------------------------------------------------


def test_the_tip_of_an_audit_that_was_replaced_is_named() -> None:
    audit = _executed()
    stranger = audit.history.raw_commit(audit.history.tree({}), [], message="stranger")
    audit.tip = stranger
    verdict = audit.verdict()
    assert verdict.first_bad is not None
    assert (verdict.first_bad.reason, verdict.first_bad.commit) == ("AuditRewritten", stranger)


class _Ahead:
    """A reader that notes what it was told."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self.lines: list[tuple[str, str]] = []
        self.chain = ""

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        return self._reader.read(oid)

    def line(self, tip: str, until: str) -> None:
        self.lines.append((tip, until))

    def steps(self, chain: bytes) -> None:
        self.chain = chain.hex()


def test_who_reads_ahead_is_read_in_place_of_the_repository() -> None:
    audit = _executed()
    history, ahead = audit.history, _Ahead(audit.history)
    verdict = verify_audit(History(), history.root, history.tip, audit.tip, ahead=ahead)
    assert verdict == audit.verdict()
    assert ahead.lines == [(audit.tip, history.root), (history.tip, history.root)]


def test_who_reads_ahead_is_told_of_no_audit_that_has_not_begun() -> None:
    history = History.begun()
    ahead = _Ahead(history)
    verify_audit(history, history.root, history.tip, None, ahead=ahead)
    assert (ahead.lines, ahead.chain) == ([(history.tip, history.root)], history.root)


def test_who_reads_ahead_is_told_of_what_is_new_alone() -> None:
    audit = _executed()
    _, (kept,) = _proved(audit)
    first = audit.tip
    audit.history.step({"README.md": b"more\n"})
    audit.step({})
    ahead = _Ahead(audit.history)
    verdict, _ = _proved(audit, resume=_again(kept), ahead=ahead)
    assert verdict == audit.verdict()
    assert ahead.chain == first + audit.tip


# ---- earlier proofs -----------------------------------------------------------------------------


def test_an_earlier_proof_spares_reading_what_it_proved() -> None:
    audit = _executed()
    for at in range(20):
        audit.step({"status/openai-chat.yaml": b"a: %d\n" % at})
    _, (kept,) = _proved(audit)
    before = audit.history.reads
    _proved(audit)
    whole = audit.history.reads - before
    _proved(audit, resume=_again(kept))
    assert audit.history.reads - before - whole < whole - 20


def test_nothing_is_kept_of_an_audit_that_has_not_begun() -> None:
    audit = Audit(History.begun())
    verdict, kept = _proved(audit)
    assert (verdict.holds, kept) == (True, [])


def test_an_earlier_proof_is_of_its_root_its_place_and_its_main() -> None:
    audit = _executed()
    history = audit.history
    _, (kept,) = _proved(audit)
    chain = Chain.of(history, audit.tip, history.root)

    def walk(tip: str) -> Walk:
        return Walk(history, begin(history, history.root), Chain.of(history, tip, history.root), None)

    assert kept.is_of(history.root, chain, walk(history.tip))
    assert not kept.is_of("f" * 40, chain, walk(history.tip))
    assert not replace(kept, count=1).is_of(history.root, chain, walk(history.tip))
    assert not kept.is_of(history.root, chain, walk(history.root))


def test_a_main_that_was_rewound_behind_an_earlier_proof_is_found() -> None:
    audit = _executed()
    _, (kept,) = _proved(audit)
    history = audit.history
    verdict = verify_audit(history, history.root, history.root, audit.tip, resume=_again(kept))
    assert verdict == verify_audit(history, history.root, history.root, audit.tip)
    assert not verdict.holds


# ---- checkpoints --------------------------------------------------------------------------------


def _checkpoint(audit: Audit, who: str, count: int = 2, **said: Any) -> Checkpoint:
    chain = Chain.of(audit.history, audit.tip, audit.history.root)
    told: dict[str, Any] = {
        "repository": audit.history.root,
        "commit": chain.at(count) or audit.history.root,
        "main": audit.history.tip,
        "count": count,
        "operations": 1,
        "at": AT,
        **said,
    }
    line = Statement(**told).to_line()
    return read_checkpoint(line + key(who).sign(line, NAMESPACE).encode())


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("who", "reason"), [("bob", ""), ("stranger", "CheckpointBadSignature")])
def test_a_checkpoint_behind_an_earlier_proof_is_checked_all_the_same(
    count: int, who: str, reason: str
) -> None:
    audit = _executed()
    _, (kept,) = _proved(audit)
    audit.step({"status/openai-chat.yaml": b"a: 1\n"})
    found, _ = _proved(audit, checkpoint=_checkpoint(audit, who, count), resume=_again(kept))
    assert _bad(found)[0] == reason


@pytest.mark.parametrize(("count", "saved"), [(1, False), (2, False), (3, True)])
def test_a_proof_is_gone_on_from_unless_a_checkpoint_lies_before_it(count: int, saved: bool) -> None:
    audit = _executed()
    _, (kept,) = _proved(audit)
    first = audit.tip
    audit.step({"status/openai-chat.yaml": b"a: 1\n"})
    ahead = _Ahead(audit.history)
    _proved(audit, checkpoint=_checkpoint(audit, "bob", count), resume=_again(kept), ahead=ahead)
    assert ahead.chain.startswith(first) == saved


def test_a_checkpoint_by_a_named_key_needs_no_proof_anew() -> None:
    audit = _executed()
    _, (kept,) = _proved(audit)
    ahead = _Ahead(audit.history)
    options: dict[str, Any] = {"resume": _again(kept), "checkpoint_key": key("auditor").public}
    found, _ = _proved(audit, checkpoint=_checkpoint(audit, "stranger", 1), **options)
    assert _bad(found)[0] == "CheckpointBadSignature"
    found, _ = _proved(audit, checkpoint=_checkpoint(audit, "auditor", 1), ahead=ahead, **options)
    assert (found.holds, ahead.chain) == (True, audit.tip)


def test_a_checkpoint_is_signed_by_the_policy_in_force_where_it_lies() -> None:
    audit = _executed()
    history = audit.history
    people = {who: [who] for who in ("alice", "bob", "carol", "dave", "mallory", "erin")}
    old, new = history.files["policy.yaml"], policy_text(2, principals=people)
    words = history.change_word("carol", {"policy.yaml": (old, new)})
    history.step({"policy.yaml": new, **words}, by="bob")
    audit.step({})
    for count, reason in ((3, ""), (2, "CheckpointBadSignature")):
        found, _ = _proved(audit, checkpoint=_checkpoint(audit, "erin", count))
        assert _bad(found)[0] == reason


def test_what_lies_in_the_place_of_a_checkpoint_is_told() -> None:
    audit = _executed()
    chain = Chain.of(audit.history, audit.tip, audit.history.root)
    for count, there in ((1, f"commit 1 of audit is {chain.at(1)}"), (9, "audit has 2 commits")):
        named = _checkpoint(audit, "bob", count, commit="f" * 40)
        found, _ = _proved(audit, checkpoint=named)
        assert _bad(found) == (
            "CheckpointNotOnAudit",
            f"expected {'f' * 40} at {count}, as on 2026-11-23; {there}",
        )


# ---- commits ------------------------------------------------------------------------------------


def test_main_is_not_taken_in_twice_at_one_point() -> None:
    audit = _executed()
    tip = audit.history.tip
    audit.step({"status/openai-chat.yaml": b"a: 1\n"}, parents=[audit.tip, tip])
    assert _bad(audit.verdict()) == ("MainPointNotRising", f"takes in {tip} again")


def test_why_a_step_of_main_is_never_taken_over_is_told() -> None:
    audit = _executed()
    tip = audit.history.step({"status/x.yaml": b""})
    audit.step({})
    reason, message = _bad(audit.verdict())
    assert reason == "MainNotTakenOver"
    assert message == f"takes in {tip}: status/ on main: only reconcilers write it, on audit"


def test_why_a_signature_does_not_count_is_told() -> None:
    audit = _executed()
    audit.step({"status/openai-chat.yaml": b"a: 1\n"}, by=key("stranger"))
    assert "a key not listed here" in _bad(audit.verdict())[1]


def test_what_differs_from_main_is_told_and_nothing_else() -> None:
    audit = _executed()
    audit.step({"status/openai-chat.yaml": b"a: 1\n"}, foreign={"policy.yaml": b"x"})
    assert _bad(audit.verdict()) == ("ForeignTree", f"policy.yaml differ from main at {audit.history.tip}")


def test_a_key_found_elsewhere_counts_only_if_it_was_found() -> None:
    audit = _executed()
    none: dict[str, PublicKey] = {}
    assert _proved(audit, signed_with=none.get)[0] == audit.verdict()
