"""A proof that is told what others found, reads ahead, or goes on from an earlier one: the same verdict."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from capsule.trust.audit import AuditVerdict, Proved, verify_audit
from capsule.trust.objects import ObjectKind, ObjectReader
from capsule_agent.protocol.sshsig import PublicKey
from tests.trust_history import CLAIMED, ENDED, Audit, approved, key


def _claimed() -> tuple[Audit, bytes]:
    history, raw = approved()
    audit = Audit(history)
    audit.step(audit.claim(raw), by=key("reconciler-1"), trailers=CLAIMED)
    return audit, raw


class _Told:
    """A reader that notes what it was told."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self.lines: list[tuple[str, str]] = []
        self.chain = b""

    def read(self, oid: str) -> tuple[ObjectKind, bytes]:
        return self._reader.read(oid)

    def line(self, tip: str, until: str) -> None:
        self.lines.append((tip, until))

    def steps(self, chain: bytes) -> None:
        self.chain = chain


def _verify(
    audit: Audit, resume: Proved | None = None, **options: object
) -> tuple[AuditVerdict, Proved | None]:
    kept: list[Proved] = []
    back: Callable[[ObjectReader], Proved | None] = lambda _: resume  # noqa: E731 (a mypy-checked type)
    verdict = verify_audit(
        audit.history,
        audit.history.root,
        audit.history.tip,
        audit.tip,
        resume=back,
        keep=kept.append,
        **options,
    )
    same = {id(audit.history): audit.history}
    return verdict, copy.deepcopy(kept[0], same) if kept else None


def test_what_will_be_read_is_announced() -> None:
    audit, raw = _claimed()
    first = audit.tip
    audit.step(audit.result(raw), by=key("reconciler-1"), trailers=ENDED)
    told = _Told(audit.history)
    verdict, _ = _verify(audit, ahead=told)
    assert verdict == audit.verdict()
    assert told.lines == [(audit.tip, audit.history.root), (audit.history.tip, audit.history.root)]
    assert told.chain.hex() == audit.history.root + first + audit.tip
    unborn = verify_audit(audit.history, audit.history.root, audit.history.tip, None, ahead=told)
    assert (unborn.commits, unborn.holds) == (0, True)


@pytest.mark.parametrize("who", ["reconciler-1", "bob", "stranger"])
def test_a_key_found_elsewhere_is_judged_by_the_policy_as_ever(who: str) -> None:
    audit, _ = _claimed()
    found: dict[str, PublicKey] = {audit.tip: key(who).public}
    verdict, _ = _verify(audit, signed_with=found.get)
    expected = {"reconciler-1": None, "bob": "AuditByPerson", "stranger": None}[who]
    assert (verdict.first_bad.reason if verdict.first_bad else None) == expected


def test_a_proof_goes_on_from_an_earlier_one() -> None:
    audit, raw = _claimed()
    before, kept = _verify(audit)
    assert before.unfinished == 1
    assert kept
    audit.step(audit.result(raw), by=key("reconciler-1"), trailers=ENDED)
    after, again = _verify(audit, kept)
    assert after == audit.verdict()
    assert again
    nothing_new, _ = _verify(audit, again)
    assert nothing_new == after


def test_what_is_bad_behind_an_earlier_proof_is_found_and_nothing_kept() -> None:
    audit, raw = _claimed()
    _, kept = _verify(audit)
    audit.step(audit.result(raw, signer=key("mallory")), by=key("reconciler-1"), trailers=ENDED)
    after, again = _verify(audit, kept)
    assert after == audit.verdict()
    assert after.first_bad
    assert again is None


def test_an_earlier_proof_of_a_rewritten_history_is_not_used() -> None:
    audit, _ = _claimed()
    _, kept = _verify(audit)
    rewritten, raw = _claimed()
    rewritten.tip = rewritten.observed = rewritten.history.root
    rewritten.machine.clear()
    rewritten.step(rewritten.claim(raw), by=key("mallory"), trailers=CLAIMED)
    after, _ = _verify(rewritten, kept)
    assert after == rewritten.verdict()
    assert after.first_bad
