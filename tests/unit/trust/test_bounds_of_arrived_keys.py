"""Under which keys a signature is judged, by what is known of when it arrived."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from capsule.documents.types import Policy
from capsule.trust import objects
from capsule.trust.arrivals import Arrivals
from capsule.trust.arrived_keys import ArrivedKeys
from capsule.trust.key_validity import SeenOnAudit
from capsule.trust.policy import keys_of
from capsule.trust.policy_checks import load_policy
from tests.trust_history import Audit, History, key, policy_text

MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
PATH = "requests/2026/11/r1/request.yaml.sig"
BOB = key("bob").public


def timed() -> Policy:
    """A policy in which bob's key speaks until Tuesday."""
    dated = f'{{key: "{BOB.text}", validBefore: "2026-11-24T12:00:00Z"}}'
    return load_policy(policy_text().decode().replace(f'"{BOB.text}"', dated).encode(), "policy.yaml")


class Case:
    """A file that came to main on Monday, which audit has taken in, and one that it has not."""

    def __init__(self) -> None:
        self.history = History.begun()
        self.old = self.history.step({PATH: b"old"})
        audit = Audit(self.history)
        audit.step({}, at=int(MONDAY.timestamp()))
        self.new = self.history.step({f"{PATH}2": b"new"})
        self.audit = audit.tip

    def blob(self, path: str) -> str:
        tree = objects.tree_of(objects.raw_commit(self.history, self.history.tip))
        found = objects.find(self.history, tree, path)
        assert found is not None
        return found.oid

    def keys(
        self, policy: Policy, *, seen: bool = True, now: datetime = WEDNESDAY, on_main: bool = True
    ) -> ArrivedKeys:
        history = self.history
        return ArrivedKeys(
            policy,
            SeenOnAudit(history, history.root, history.tip, self.audit, now) if seen else None,
            Arrivals(history) if on_main else None,
            history.tip,
        )


def test_a_policy_without_dated_keys_is_never_judged_by_the_time_of_now() -> None:
    case = Case()
    policy = load_policy(policy_text(), "policy.yaml")
    keys = case.keys(policy)
    assert keys.of_file(f"{PATH}2", case.blob(f"{PATH}2")) is policy
    assert keys.of_step(case.new) is policy
    assert keys.of_step(None) is policy
    assert not keys.fleeting


def test_what_audit_took_in_is_judged_by_the_keys_of_then() -> None:
    case = Case()
    keys = case.keys(timed())
    assert BOB in keys_of(keys.of_file(PATH, case.blob(PATH)))
    assert BOB in keys_of(keys.of_step(case.old))
    assert not keys.fleeting


@pytest.mark.parametrize(("now", "speaks"), [(MONDAY, True), (WEDNESDAY, False)])
def test_what_audit_did_not_take_in_is_judged_by_the_keys_of_now(now: datetime, speaks: bool) -> None:
    case = Case()
    asking: list[Callable[[ArrivedKeys], Policy]] = [
        lambda keys: keys.of_file(f"{PATH}2", case.blob(f"{PATH}2")),
        lambda keys: keys.of_file("requests/nowhere", ""),
        lambda keys: keys.of_step(case.new),
        lambda keys: keys.of_step(None),
    ]
    for ask in asking:
        keys = case.keys(timed(), now=now)
        assert (BOB in keys_of(ask(keys)), keys.fleeting) == (speaks, True)


def test_a_file_on_a_branch_is_judged_by_the_keys_of_now() -> None:
    case = Case()
    keys = case.keys(timed(), on_main=False)
    assert BOB not in keys_of(keys.of_file(PATH, case.blob(PATH)))
    assert keys.fleeting


def test_where_nobody_knows_the_time_a_dated_key_speaks_for_nobody() -> None:
    case = Case()
    keys = case.keys(timed(), seen=False)
    assert BOB not in keys_of(keys.of_file(PATH, case.blob(PATH)))
    assert BOB not in keys_of(keys.of_step(case.old))
    assert BOB not in keys_of(keys.of_step(None))
    assert not keys.fleeting
