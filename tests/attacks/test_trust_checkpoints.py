"""Attacks on a history that somebody keeps a checkpoint of, and on checkpoints themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from capsule.trust.audit import AuditVerdict, verify_audit
from capsule.trust.checkpoints import NAMESPACE, BadCheckpoint, Checkpoint, Statement, read_checkpoint
from capsule_agent.protocol import sshsig
from capsule_agent.protocol.sshsig import PrivateKey
from tests.trust_history import CLAIMED, ENDED, Audit, approved, key

AT = datetime(2026, 11, 23, 13, tzinfo=UTC)


def _story() -> Audit:
    """A rotation from request to result: two commits of audit."""
    history, raw = approved()
    audit = Audit(history)
    audit.step(audit.claim(raw), by=key("reconciler-1"), trailers=CLAIMED)
    audit.step(audit.result(raw), by=key("reconciler-1"), trailers=ENDED)
    return audit


def _kept(audit: Audit, signer: PrivateKey, namespace: str = NAMESPACE, **said: Any) -> Checkpoint:
    told: dict[str, Any] = {
        "repository": audit.history.root,
        "commit": audit.tip,
        "main": audit.history.tip,
        "count": 2,
        "operations": 1,
        "at": AT,
        **said,
    }
    line = Statement(**told).to_line()
    return read_checkpoint(line + signer.sign(line, namespace).encode())


def _verdict(audit: Audit, kept: Checkpoint, by: PrivateKey | None = None) -> AuditVerdict:
    return verify_audit(
        audit.history,
        audit.history.root,
        audit.history.tip,
        audit.tip,
        pinned=False,
        checkpoint=kept,
        checkpoint_key=by.public if by else None,
    )


def _reason(audit: Audit, kept: Checkpoint, by: PrivateKey | None = None) -> str | None:
    bad = _verdict(audit, kept, by).first_bad
    return bad.reason if bad else None


def test_a_checkpoint_that_is_borne_out_proves_the_origin() -> None:
    audit = _story()
    for signer, given in ((key("bob"), None), (key("reconciler-1"), None), (key("auditor"), key("auditor"))):
        verdict = _verdict(audit, _kept(audit, signer), given)
        assert verdict.holds, verdict.first_bad
        assert verdict.origin_proved
    assert not audit.verdict(pinned=False).origin_proved


def test_a_force_pushed_audit_is_found_though_it_is_consistent_in_itself() -> None:
    kept = _kept(_story(), key("bob"))
    rewritten = _story()
    rewritten.tip = rewritten.observed = rewritten.history.root
    rewritten.machine.clear()
    rewritten.step({})
    assert rewritten.reason() is None
    assert _reason(rewritten, kept) == "CheckpointNotOnAudit"


def test_an_audit_that_was_cut_back_is_found() -> None:
    whole = _story()
    kept = _kept(whole, key("bob"))
    whole.tip = whole.history.read(whole.tip)[1].split(b"parent ")[1][:40].decode()
    assert whole.reason() is None
    verdict = _verdict(whole, kept)
    assert verdict.first_bad
    assert verdict.first_bad.reason == "CheckpointNotOnAudit"
    assert "audit has 1 commits" in verdict.first_bad.message


def test_a_commit_at_another_place_than_it_was_is_found() -> None:
    audit = _story()
    assert _reason(audit, _kept(audit, key("bob"), count=1)) == "CheckpointNotOnAudit"
    assert _reason(audit, _kept(audit, key("bob"), count=0)) == "CheckpointNotOnAudit"


def test_a_rewritten_main_is_found() -> None:
    audit = _story()
    assert _reason(audit, _kept(audit, key("bob"), main="f" * 40)) == "CheckpointMainRewritten"
    assert _reason(audit, _kept(audit, key("bob"), main=audit.history.root)) is None


def test_a_checkpoint_of_another_repository_says_nothing() -> None:
    audit = _story()
    assert _reason(audit, _kept(audit, key("bob"), repository="f" * 40)) == "CheckpointOfAnother"


def test_a_checkpoint_is_signed_by_who_was_named_and_as_a_checkpoint() -> None:
    audit = _story()
    assert _reason(audit, _kept(audit, key("stranger"))) == "CheckpointBadSignature"
    assert _reason(audit, _kept(audit, key("bob")), key("auditor")) == "CheckpointBadSignature"
    approval = _kept(audit, key("bob"), namespace=sshsig.APPROVAL)
    assert _reason(audit, approval) == "CheckpointBadSignature"
    honest = _kept(audit, key("bob"))
    forged = Checkpoint(
        honest.statement, honest.signed.replace(b'"operations":1', b'"operations":9'), honest.signature
    )
    assert _reason(audit, forged) == "CheckpointBadSignature"


def test_a_file_survives_the_round_trip_and_other_line_ends() -> None:
    kept = _kept(_story(), key("bob"))
    assert read_checkpoint(kept.text.encode()) == kept
    assert read_checkpoint(kept.text.replace("\n", "\r\n").encode()) == kept


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"branch":"audit"', '"branch":"main"'),
        ('"kind":"Checkpoint"', '"kind":"Approval"'),
        ('"count":2', '"count":-1'),
        ('"count":2', '"count":true'),
        ('"count":2', '"count":2,"count":3'),
        ('"count":2', '"count":2,"more":1'),
        ('"at":"2026-11-23T13:00:00Z"', '"at":5'),
        ('"at":"2026-11-23T13:00:00Z"', '"at":"yesterday"'),
        ('"main":"', '"main":"Z'),
        ("-----BEGIN", "-----BEGUN"),
        ('{"', "[{"),
    ],
)
def test_what_is_not_exactly_a_checkpoint_is_refused(old: str, new: str) -> None:
    text = _kept(_story(), key("bob")).text
    assert old in text
    with pytest.raises(BadCheckpoint) as caught:
        read_checkpoint(text.replace(old, new, 1).encode())
    assert caught.value.reason == "CheckpointInvalid"
