"""When a step of main was seen, and what it costs to know: each test stands for one check alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from capsule.trust.key_validity import Same, SeenOnAudit
from tests.trust_history import NOON, Audit, History, request_text

BEGIN = datetime.fromtimestamp(NOON, UTC)
FEW = 20
"""Objects read where the cost follows what is new, not all of audit or of main."""
MANY = 60


def _hours(count: int) -> int:
    return int((BEGIN + timedelta(hours=count)).timestamp())


def _seen(history: History, audit: Audit | None) -> SeenOnAudit:
    return SeenOnAudit(history, history.root, history.tip, audit.tip if audit else None, BEGIN)


def _reads(history: History, seen: SeenOnAudit, step: str) -> int:
    before = history.reads
    assert seen.of(step) is None
    return history.reads - before


def test_a_policy_is_the_same_as_itself_alone() -> None:
    policy = History.begun().judged().policy.document
    twin = policy.model_copy()
    assert policy == twin
    assert Same(policy) == Same(policy)
    assert Same(policy) != Same(twin)
    assert Same(policy) != policy


def test_a_request_branch_says_nothing_of_when_main_was_seen() -> None:
    history = History.begun()
    audit = Audit(history)
    first = history.step({"README.md": b"1\n"})
    audit.step({}, at=_hours(1))
    branch = history.raw_commit(history.tree(history.edited(history.request(request_text()))), [first])
    audit.step({}, branches=[branch], at=_hours(2))
    assert _seen(history, audit).of(branch) is None
    second = history.step({"README.md": b"2\n"})
    audit.step({}, at=_hours(3))
    seen = _seen(history, audit)
    assert seen.of(second) == datetime.fromtimestamp(_hours(3), UTC)
    assert seen.of(first) == datetime.fromtimestamp(_hours(1), UTC)
    assert seen.of(branch) is None


def test_a_step_that_audit_has_not_taken_in_is_not_sought_on_all_of_audit() -> None:
    history = History.begun()
    audit = Audit(history)
    for at in range(MANY):
        history.step({"README.md": b"%d\n" % at})
        audit.step({})
    fresh = [history.step({"README.md": b"fresh %d\n" % at}) for at in range(3)]
    seen = _seen(history, audit)
    for step in fresh:
        assert _reads(history, seen, step) < FEW


def test_where_audit_has_not_begun_main_is_not_walked() -> None:
    history = History.begun()
    for at in range(MANY):
        history.step({"README.md": b"%d\n" % at})
    assert _reads(history, _seen(history, None), history.tip) == 0
    assert _reads(history, _seen(history, Audit(history)), history.tip) == 0
